"""A run's folder: cut files, full disks, refusals, and what is never lost by them."""

import json
import os
import re
import shutil
import tempfile
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from transformers import TrainerCallback

from helpers import CourseError, runs, training
from helpers.evaluation import load_questions
from helpers.models import damage, load_model_and_tokenizer, load_trained, seal
from helpers.profiles import PROFILES, override
from tests.tiny import ADAPTER, FILES, go_on, length_reward, new_run, steps


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def seal_anew(checkpoint: Path) -> None:
    """Seal what a checkpoint holds now, as if it had been saved so."""
    (checkpoint / "sha256.json").unlink()
    seal(checkpoint)


def aside(run: Path) -> list[str]:
    """The damaged checkpoints that were set aside, by the names that they had."""
    found = (path.name.split("-") for path in run.glob("damaged-*"))
    return sorted(f"checkpoint-{step}" for _, _, step, _ in found)


@pytest.mark.parametrize("name", FILES[:-1])
@pytest.mark.parametrize("fault", ["cut", "emptied", "missing"])
def test_a_damaged_checkpoint_is_named_and_set_aside(stopped, capsys, name, fault):
    path, words = stopped / "checkpoint-3" / name, name
    if fault == "missing":
        path.unlink()
        words = f"{name} is missing"
    else:
        os.truncate(path, path.stat().st_size // 2 if fault == "cut" else 0)
    before = (2, str(stopped / "checkpoint-2"))
    assert runs.last_checkpoint(stopped) == before
    assert capsys.readouterr().out == "" and path.parent.exists()
    assert runs.rewind(stopped) == before
    said = rf"checkpoint-3 is damaged \({re.escape(words)}\), now damaged-checkpoint-3-"
    said += r"\d+\.\nTraining goes on from step 2\.\n"
    assert re.fullmatch(said, capsys.readouterr().out)
    assert aside(stopped) == ["checkpoint-3"] and not path.parent.exists()
    assert steps(stopped) == [1, 2]


@pytest.mark.parametrize("fault", ["cut", "emptied", "missing"])
def test_a_checkpoint_whose_seal_is_not_whole_is_damaged(stopped, fault):
    seal = stopped / "checkpoint-3" / "sha256.json"
    if fault == "missing":  # the kill came before it was written
        seal.unlink()
        assert damage(seal.parent) == "sha256.json is missing"
    else:
        os.truncate(seal, seal.stat().st_size // 2 if fault == "cut" else 0)
        assert damage(seal.parent)
    assert runs.rewind(stopped) == (2, str(stopped / "checkpoint-2"))
    assert aside(stopped) == ["checkpoint-3"]


def test_a_changed_bit_or_a_lost_scaler_is_damage(stopped):
    path, last = stopped / "checkpoint-2" / "optimizer.pt", stopped / "checkpoint-3"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert damage(path.parent) == "optimizer.pt"
    torch.save({"scale": 1.0}, last / "scaler.pt")  # as a run in fp16 has it
    seal_anew(last)
    assert damage(last) is None
    (last / "scaler.pt").write_bytes(b"")
    assert damage(last) == "scaler.pt"
    (last / "scaler.pt").unlink()
    assert damage(last) == "scaler.pt is missing"


def test_the_states_of_several_processes_are_all_needed(stopped):
    last = stopped / "checkpoint-3"
    for number in range(2):
        shutil.copy(last / "rng_state.pth", last / f"rng_state_{number}.pth")
    (last / "rng_state.pth").unlink()
    seal_anew(last)
    assert damage(last) is None
    (last / "rng_state_1.pth").unlink()
    assert damage(last) == "rng_state_1.pth is missing"


def test_going_on_from_the_checkpoint_before_ends_the_same(stopped, finished, capsys):
    os.truncate(stopped / "checkpoint-3" / "optimizer.pt", 99)
    before = (stopped / "log.jsonl").read_bytes().splitlines()
    assert go_on(stopped) is None
    assert "Training goes on from step 2.\n" in capsys.readouterr().out
    assert (stopped / "log.jsonl").read_bytes().splitlines()[:2] == before[:2]
    assert steps(stopped) == [1, 2, 3]
    assert (stopped / ADAPTER).read_bytes() == (finished / ADAPTER).read_bytes()


def test_a_checkpoint_half_removed_does_not_cost_a_whole_one(stopped):
    shutil.rmtree(stopped / "checkpoint-3")
    os.utime(stopped / "checkpoint-2", (0, 0))
    # The trainer removes the oldest of three by mtime; a kill on the way leaves this.
    (stopped / "checkpoint-1").mkdir()
    (stopped / "checkpoint-1" / "scheduler.pt").write_bytes(b"")
    assert go_on(stopped) is None
    left = sorted(path.name for path in stopped.glob("checkpoint-*"))
    assert left == ["checkpoint-2", "checkpoint-3"]


def test_where_no_checkpoint_is_whole_it_says_so_and_begins_anew(
    stopped, finished, capsys
):
    (stopped / "checkpoint-2" / "trainer_state.json").unlink()
    os.truncate(stopped / "checkpoint-3" / "rng_state.pth", 0)
    assert go_on(stopped) is None
    said, number = capsys.readouterr().out, r"-\d+\.\nTraining goes on from step 0\.\n"
    wrong = {3: "rng_state.pth", 2: "trainer_state.json is missing"}
    for step, words in wrong.items():
        line = (
            rf"checkpoint-{step} is damaged \({words}\), now damaged-checkpoint-{step}"
        )
        assert re.search(line + number, said)
    assert aside(stopped) == ["checkpoint-2", "checkpoint-3"]
    assert steps(stopped) == [1, 2, 3]
    assert (stopped / ADAPTER).read_bytes() == (finished / ADAPTER).read_bytes()


def test_a_lost_or_corrupted_adapter_is_said_and_made_again(stopped, finished):
    profile, _ = runs.load_run(stopped)
    with pytest.raises(CourseError, match=r"there is no adapter in .*is the run fini"):
        load_trained(profile, stopped / "adapter")
    for size in (None, 0, 1000):
        if size is not None:
            os.truncate(stopped / ADAPTER, size)
            with pytest.raises(CourseError, match=r"the adapter in .* is of no use"):
                load_trained(profile, stopped / "adapter")
        assert go_on(stopped) is None
        assert (stopped / ADAPTER).read_bytes() == (finished / ADAPTER).read_bytes()
    assert steps(stopped) == [1, 2, 3]


def fail_at_step_2(run, break_, mend, finished):
    """Let something break in the second step; return the message of the failure.

    Asserts that what was saved is kept, and that the run ends well once it is mended.
    """
    kept, seen = {}, []

    def reward(completions, **kwargs):
        seen.append(1)
        if len(seen) == 2:
            kept.update(contents(run))
            break_()
        return length_reward(completions)

    try:
        with pytest.raises(CourseError) as failure:
            go_on(run, reward)
    finally:
        mend()
    message = str(failure.value)
    assert message.startswith(f"{run} cannot be written or read (")
    assert "\n" not in message and "Make room, or move to another folder" in message
    assert any(name.startswith("checkpoint-1/optimizer") for name in kept)
    log, now = kept.pop("log.jsonl"), contents(run)
    del kept["heartbeat.json"]  # of the process while it trained
    assert now.pop("log.jsonl").startswith(log)
    assert {name: now.get(name) for name in kept} == kept
    assert go_on(run) is None
    assert steps(run) == [1, 2, 3]
    assert (run / ADAPTER).read_bytes() == (finished / ADAPTER).read_bytes()
    return message


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="wants Linux's /dev/full")
@pytest.mark.parametrize(
    "name",
    [
        "checkpoint-2/optimizer.pt",
        "checkpoint-2/scheduler.pt",
        "checkpoint-2/trainer_state.json",
        "completions/completions_00002.parquet",
        "log.jsonl",
    ],
)
def test_a_full_disk_is_one_clear_line_and_loses_nothing(
    tiny_model, tmp_path, finished, name
):
    run = new_run(tmp_path / "run", tiny_model, 3)
    path = run / name

    def fill():  # each write to /dev/full fails as on a full disk
        path.parent.mkdir(exist_ok=True)
        if path.exists():
            path.rename(tmp_path / "kept")
        path.symlink_to("/dev/full")

    def mend():
        path.unlink(missing_ok=True)  # pyarrow 18 removes what it could not finish
        if (tmp_path / "kept").exists():
            (tmp_path / "kept").rename(path)

    message = fail_at_step_2(run, fill, mend, finished)
    assert "No space left" in message or path.suffix == ".pt"


@pytest.mark.parametrize("limit", [2_000, 20_000, 1_000_000])
def test_files_that_may_not_grow_are_one_clear_line(
    tiny_model, tmp_path, finished, limit
):
    resource = pytest.importorskip("resource")  # Windows has none
    run = new_run(tmp_path / "run", tiny_model, 3)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    fail_at_step_2(
        run,
        lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard)),
        lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard)),
        finished,
    )


def test_a_folder_that_refuses_writing_is_one_clear_line(tiny_model, finished):
    # Permissions do not stop root: for the time of the fault the user is nobody.
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    run, user = new_run(folder / "run", tiny_model, 3), os.geteuid()

    def refuse():
        for path in (run, run / "completions", run / "log.jsonl"):
            path.chmod(path.stat().st_mode & ~0o222)
        if user == 0:
            os.seteuid(65534)

    def mend():
        os.seteuid(user)
        for path in (run, run / "completions", run / "log.jsonl"):
            path.chmod(path.stat().st_mode | 0o200)

    try:
        message = fail_at_step_2(run, refuse, mend, finished)
    finally:
        shutil.rmtree(folder)
    assert "Permission denied" in message


def test_a_new_run_where_no_folder_can_be_is_one_clear_line(tiny_model, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(
        CourseError, match=r"run cannot be written or read \(.*Not a dir"
    ):
        new_run(tmp_path / "notes.txt" / "run", tiny_model, 1)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_mistake_elsewhere_is_not_called_a_full_disk(tiny_model, tmp_path):
    run = new_run(tmp_path / "run", tiny_model, 1)
    with pytest.raises(RuntimeError, match="mat1"), runs.storing(run):
        torch.ones(2, 3) @ torch.ones(2, 3)


def test_an_unfinished_run_of_the_profile_goes_on_and_a_finished_one_does_not(
    tmp_path, capsys
):
    smoke, cpu = PROFILES["smoke"], PROFILES["cpu"]
    run = runs.open_run(tmp_path, smoke, 3).rename(tmp_path / "20200101-000000-smoke")
    assert runs.load_run(run) == (smoke, 3)
    assert runs.open_run(tmp_path, smoke, 3) == run
    other = runs.open_run(tmp_path, cpu, 0)
    assert other != run and runs.load_run(other) == (cpu, 0)
    assert capsys.readouterr().out == ""
    new = runs.open_run(tmp_path, smoke, 7)
    said = f"{run} was made with other settings (seed): left alone.\n"
    assert capsys.readouterr().out == said
    assert new not in (run, other) and runs.load_run(new) == (smoke, 7)
    new = new.rename(tmp_path / "20210101-000000-smoke")
    (new / "adapter").mkdir()
    (new / "adapter" / "adapter_config.json").write_text("{}")
    newest = runs.open_run(tmp_path, smoke, 7)
    assert newest not in (run, other, new) and runs.load_run(newest) == (smoke, 7)


def test_a_checkpoint_cut_short_is_passed_over(tiny_model, tmp_path):
    run = new_run(tmp_path / "run", tiny_model, 4)
    go_on(run, max_minutes=0)
    for name, text in {"checkpoint-2": None, "checkpoint-3": '{"global_st'}.items():
        (run / name).mkdir()
        if text:
            (run / name / "trainer_state.json").write_text(text)
    assert runs.last_checkpoint(run) == (1, str(run / "checkpoint-1"))
    assert runs.last_checkpoint(run / "nowhere") == (0, None)


def test_a_run_that_is_there_stays_as_it_is(tiny_model, tmp_path):
    run = new_run(tmp_path / "run", tiny_model, 4)
    before, (profile, _) = (run / "config.json").read_bytes(), runs.load_run(run)
    with pytest.raises(CourseError, match="exists already and stays as it is"):
        runs.create_run(run, replace(profile, num_eval=1), 1)
    assert (run / "config.json").read_bytes() == before
    with pytest.raises(CourseError, match="is not a run's folder"):
        runs.load_run(run / "nowhere")


def test_a_hand_made_checkpoint_is_kept_and_only_numbered_ones_are_set_aside(
    stopped, finished
):
    """Neither the trainer, which keeps two, nor what looks for damage takes it."""
    old = time.time() - 3600  # older than all: the trainer would remove it first
    for name in ("checkpoint-best", "checkpoint-2-copy"):
        shutil.copytree(stopped / "checkpoint-2", stopped / name)
        (stopped / name / "optimizer.pt").unlink()  # of no use to go on with
        os.utime(stopped / name, (old, old))
    kept = contents(stopped / "checkpoint-best")
    (stopped / "checkpoint-3" / "optimizer.pt").unlink()
    profile, seed = runs.load_run(stopped)
    profile.grpo["max_steps"] = 6
    config = {"profile": asdict(profile), "seed": seed}
    (stopped / "config.json").write_text(json.dumps(config))
    assert go_on(stopped) is None and steps(stopped) == [1, 2, 3, 4, 5, 6]
    names = sorted(path.name for path in stopped.glob("checkpoint-*"))
    assert names == [f"checkpoint-{x}" for x in ("2-copy", "5", "6", "best")]
    assert contents(stopped / "checkpoint-best") == kept
    assert aside(stopped) == ["checkpoint-3"]


def test_a_checkpoint_is_whole_before_an_older_one_goes(tiny_model, tmp_path):
    """So that a kill at any moment leaves two that the settings keep."""
    run, seen = new_run(tmp_path / "run", tiny_model, 4), []

    class Look(TrainerCallback):
        def on_save(self, args, state, control, **kwargs):
            assert not damage(run / f"checkpoint-{state.global_step}")
            seen.append(runs.checkpoint_steps(run))

    profile, seed = runs.load_run(run)
    pair = load_model_and_tokenizer(profile.model, profile.dtype)
    questions = load_questions(profile, "train", seed)
    trainer = training.build_trainer(profile, run, *pair, questions)
    assert training.train_or_resume(trainer, run, callbacks=[Look()]) is None
    assert seen == [[1], [2, 1], [3, 2], [4, 3]]


FOREIGN = {"merged model": {"model_type": "qwen2", "hidden_size": 896}, "list": [1, 2]}
FOREIGN |= {"run of another version": {"profile": {"name": "smoke"}, "seed": 0}}


@pytest.mark.parametrize("kind", FOREIGN)
def test_a_foreign_config_beside_the_runs_is_passed_over(tmp_path, kind):
    run = runs.open_run(tmp_path, PROFILES["smoke"], 0)
    other = tmp_path / "zzz-merged"  # looked at before the run
    other.mkdir()
    (other / "config.json").write_text(json.dumps(FOREIGN[kind]))
    (tmp_path / "zzz-cut").mkdir()
    (tmp_path / "zzz-cut" / "config.json").write_bytes(b'{"model_type": \xff')
    assert runs.open_run(tmp_path, PROFILES["smoke"], 0) == run
    assert [path.name for path in other.iterdir()] == ["config.json"]


@pytest.mark.parametrize(
    "settings, words",
    [
        (["learning_rate=1e-4"], "learning_rate"),
        (["num_eval=9", "r=4"], "num_eval, r"),
        (["per_device_train_batch_size=16"], "completions of a step"),
        (["model=/other", "beta=0.04"], "model, beta"),
    ],
)
def test_a_run_with_other_settings_is_left_alone_with_a_line_that_names_them(
    tmp_path, capsys, settings, words
):
    """Notebook 05 shows its own tables: it must not go on with other ones."""
    smoke = PROFILES["smoke"]
    other = tmp_path / "99990101-000000-smoke"
    runs.create_run(other, override(smoke, settings), 0)
    before = contents(other)
    run = runs.open_run(tmp_path, smoke, 0)
    assert run != other and runs.load_run(run) == (smoke, 0)
    said = f"{other} was made with other settings ({words}): left alone.\n"
    assert capsys.readouterr().out == said and contents(other) == before


def test_a_run_whose_batches_were_halved_or_whose_cpu_is_another_goes_on(
    tmp_path, capsys
):
    smoke = PROFILES["smoke"]
    halved = ["per_device_train_batch_size=4", "gradient_accumulation_steps=2"]
    halved += ["eval_batch_size=2", "dtype=bf16"]
    run = tmp_path / "99990101-000000-smoke"
    runs.create_run(run, override(smoke, halved), 0)
    assert runs.open_run(tmp_path, smoke, 0) == run
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    "event, save_steps, done",
    [
        ("on_step_begin", 1, 2),
        ("on_step_begin", 10, 2),
        ("on_step_end", 1, 1),
        ("on_step_end", 10, 1),
        ("on_log", 1, 1),
        ("on_log", 10, 1),
        ("on_save", 1, 1),
    ],
)
def test_a_callback_that_stops_training_leaves_a_run_that_goes_on(
    tiny_model, tmp_path, finished, event, save_steps, done
):
    """And none that is finished but has no adapter."""
    run = new_run(tmp_path / "run", tiny_model, 3)
    profile, _ = runs.load_run(run)
    profile.grpo["save_steps"] = save_steps
    shutil.rmtree(run)
    runs.create_run(run, profile, 0)

    def stop(self, args, state, control, **kwargs):
        control.should_training_stop |= state.global_step >= 1

    stops = type("Stops", (TrainerCallback,), {event: stop})()
    assert go_on(run, callbacks=[stops]) == "a callback stopped it"
    assert not (run / "adapter").exists()
    assert runs.last_checkpoint(run)[0] == done and steps(run)[-1] == done
    assert runs.open_run(tmp_path, profile, 0) == run  # as one that is to go on
    assert go_on(run) is None and steps(run) == [1, 2, 3]
    assert (run / ADAPTER).read_bytes() == (finished / ADAPTER).read_bytes()
