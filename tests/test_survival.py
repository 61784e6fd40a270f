"""A run that survives: kills, cut files, full disks, refusals, time that ends."""

import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pandas as pd
import pytest
import torch

from helpers import CourseError, training
from helpers.evaluation import load_questions
from helpers.models import load_model_and_tokenizer, load_trained
from helpers.profiles import PROFILES, override

ROOT = Path(__file__).resolve().parents[1]
# The quickest step that still trains: one group of two, four tokens each.
SMALL = ["num_generations=2", "per_device_train_batch_size=2", "num_examples=0"]
SMALL += ["max_completion_length=4", "save_steps=1"]
FILES = ["trainer_state.json", "adapter_model.safetensors", "optimizer.pt"]
FILES += ["scheduler.pt", "rng_state.pth"]
ADAPTER = "adapter/adapter_model.safetensors"


def length_reward(completions, **kwargs):
    return [float(len(c[0]["content"])) for c in completions]


def new_run(run: Path, model: Path, steps: int) -> Path:
    settings = [f"model={model}", f"max_steps={steps}", *SMALL]
    training.create_run(run, override(PROFILES["smoke"], settings), 0)
    return run


def go_on(run: Path, reward=length_reward, max_minutes=None) -> str | None:
    """Train as a notebook does: with the settings that the run's folder keeps."""
    profile, seed = training.load_run(run)
    pair = load_model_and_tokenizer(profile.model, profile.dtype)
    questions = load_questions(profile, "train", seed)
    settings = {"reward_funcs": [reward], "seed": seed}
    trainer = training.build_trainer(profile, run, *pair, questions, **settings)
    return training.train_or_resume(trainer, run, max_minutes)


def steps(run: Path) -> list[int]:
    return [row["step"] for row in training.read_log(run)]


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def finished(tiny_model, tmp_path_factory) -> Path:
    """A run of 3 steps that nothing disturbed; not to be changed."""
    run = new_run(tmp_path_factory.mktemp("survival") / "run", tiny_model, 3)
    assert go_on(run) is None
    return run


@pytest.fixture
def stopped(finished, tmp_path) -> Path:
    """That run as it was after its third save, before its adapter was written."""
    shutil.copytree(finished, tmp_path / "run", ignore=lambda *_: ["adapter"])
    return tmp_path / "run"


# The kills. A parent that has imported everything forks a child for each start, which
# then takes a second, not ten. The parent computes nothing: threads would not survive.
KILLER = """
    import json, os, random, signal, sys, time
    from pathlib import Path
    from tests.test_survival import FILES, go_on
    from helpers import training

    def start(run):
        child = os.fork()
        if child:
            return child
        code = 1
        try:
            code = 0 if go_on(run) is None else 3
        finally:
            os._exit(code)

    def wait(child, until):
        while not until():
            if os.waitpid(child, os.WNOHANG)[0]:
                sys.exit("the run ended before it was killed")
            time.sleep(0.0005)

    def inode(log):
        return log.stat().st_ino if log.exists() else None

    whole, run, kills = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    assert os.waitpid(start(whole), 0)[1] == 0
    times = [row["time"] for row in training.read_log(whole)]
    pace = (times[-1] - times[0]) / (len(times) - 1)
    chance, log, found = random.Random(0), run / "log.jsonl", []
    for number in range(kills):
        folders = list(run.glob("checkpoint-*"))
        saved = [int(p.name[11:]) for p in folders if not training.damage(p)]
        saved, before = max(saved, default=0), inode(log)
        child = start(run)
        # A start cuts the log to the saved steps, in a new file; then come new lines.
        rows = lambda: len(training.read_log(run)) if inode(log) != before else 0
        wait(child, lambda: rows() > saved)
        seen, delay = time.monotonic(), chance.uniform(0, pace)
        path = run / f"checkpoint-{saved + 1}" / chance.choice(FILES)
        if number % 2:  # as a file of the save appears: empty yet, or a part
            wait(child, path.exists)
        else:  # somewhere in the save or in the next step
            wait(child, lambda: time.monotonic() - seen > delay)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        logged = training.read_log(run)[-1]["step"]
        damaged = [p.name for p in run.glob("checkpoint-*") if training.damage(p)]
        found.append({"saved": saved, "logged": logged, "damaged": damaged})
    assert os.waitpid(start(run), 0)[1] == 0
    print(json.dumps(found))
"""


@pytest.mark.slow
def test_twenty_kills_leave_the_run_as_if_there_had_been_none(tiny_model, tmp_path):
    whole = new_run(tmp_path / "whole", tiny_model, 30)
    run = new_run(tmp_path / "run", tiny_model, 30)
    script = [sys.executable, "-c", textwrap.dedent(KILLER), whole, run, "20"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "0"}
    result = subprocess.run(
        script, cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout.splitlines()[-1])
    assert len(found) == 20 and all(kill["logged"] > kill["saved"] for kill in found)
    # Some kills leave a save half done, some hit a step after its save.
    cut = sum(f"checkpoint-{kill['logged']}" in kill["damaged"] for kill in found)
    assert cut >= 1 and result.stdout.count("Damaged: checkpoint-") >= 1
    assert steps(run) == list(range(1, 31))
    for row, there in zip(
        training.read_log(run), training.read_log(whole), strict=True
    ):
        timed = {k for k in there if k.startswith("seconds/")}
        for key in there.keys() - timed - {"time", "step_time", "memory_gb"}:
            assert row[key] == there[key], (row["step"], key)
    assert (run / ADAPTER).read_bytes() == (whole / ADAPTER).read_bytes()
    for path in (whole / "completions").iterdir():
        there = pd.read_parquet(path)
        pd.testing.assert_frame_equal(
            pd.read_parquet(run / "completions" / path.name), there
        )


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("fault", ["cut", "emptied", "missing"])
def test_a_damaged_checkpoint_is_named_and_passed_over(stopped, capsys, name, fault):
    path = stopped / "checkpoint-3" / name
    if fault == "missing":
        path.unlink()
        words = f"{name.replace('state.p', 'state*.p')} is missing"
    else:
        os.truncate(path, path.stat().st_size // 2 if fault == "cut" else 0)
        words = f"{name} is cut short"
    assert training.last_checkpoint(stopped) == (2, str(stopped / "checkpoint-2"))
    said = f"Damaged: checkpoint-3 ({words}). Training goes on from checkpoint-2.\n"
    assert capsys.readouterr().out == said


def test_a_changed_bit_or_a_lost_scaler_is_damage(stopped):
    path = stopped / "checkpoint-2" / "optimizer.pt"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert training.damage(path.parent) == "optimizer.pt is damaged"
    last = stopped / "checkpoint-3"
    assert training.damage(last) is None
    torch.save({"scale": 1.0}, path.with_name("scaler.pt"))
    assert training.damage(last) == "scaler.pt is missing"
    (last / "scaler.pt").write_bytes(b"")
    assert training.damage(last) == "scaler.pt is cut short"


def test_the_states_of_several_processes_are_one_state(stopped):
    last = stopped / "checkpoint-3"
    for number in range(2):
        shutil.copy(last / "rng_state.pth", last / f"rng_state_{number}.pth")
    (last / "rng_state.pth").unlink()
    assert training.damage(last) is None


def test_going_on_from_the_checkpoint_before_ends_the_same(stopped, finished, capsys):
    os.truncate(stopped / "checkpoint-3" / "optimizer.pt", 99)
    before = (stopped / "log.jsonl").read_bytes().splitlines()
    assert go_on(stopped) is None
    assert "Training goes on from checkpoint-2." in capsys.readouterr().out
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
    assert (
        "Damaged: checkpoint-3 (rng_state.pth is cut short), checkpoint-2 "
        "(trainer_state.json is missing). Training goes on from the beginning: none is "
        "whole.\n"
    ) in capsys.readouterr().out
    assert steps(stopped) == [1, 2, 3]
    assert (stopped / ADAPTER).read_bytes() == (finished / ADAPTER).read_bytes()


def test_a_lost_or_corrupted_adapter_is_said_and_made_again(stopped, finished):
    profile, _ = training.load_run(stopped)
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
    log = kept.pop("log.jsonl")
    now = contents(run)
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
    with pytest.raises(RuntimeError, match="mat1"), training.storing(run):
        torch.ones(2, 3) @ torch.ones(2, 3)


@pytest.mark.parametrize(
    ("step", "save", "budget", "last"),
    [
        (60, 0, 3, 3),  # ends with the last second of the budget
        (60, 0, 3.9, 3),  # a fourth step would end too late
        (60, 20, 4, 3),  # three steps and saves; 3 × 80 s, and no room for a fourth
        (60, 20, 5.2, 3),  # a fourth step would end at 300 s, its save at 320
        (60, 20, 5.34, 4),
        (60, 0, 0, 1),  # at least one step is done and saved
    ],
)
def test_time_is_left_for_the_last_save(
    monkeypatch, tmp_path, step, save, budget, last
):
    clock = SimpleNamespace(now=100.0, monotonic=lambda: clock.now)
    monkeypatch.setattr(training, "time", clock)
    model = SimpleNamespace(named_parameters=lambda: [])
    callback = training.RunCallback(tmp_path, max_minutes=budget)
    control, state = SimpleNamespace(), SimpleNamespace(max_steps=9, global_step=0)
    callback.on_train_begin(None, state, control)
    while callback.stopped is None and state.global_step < 9:
        clock.now += step
        state.global_step += 1
        callback.on_step_end(None, state, control, model=model)
        clock.now += save
        callback.on_save(None, state, control)
    callback.close()
    assert state.global_step == last
    assert control.should_save and control.should_training_stop
    assert clock.now - 100 <= 60 * budget or last == 1
    assert callback.stopped == f"{budget:g} minutes leave no time for another step"


def test_a_time_budget_saves_the_last_step_that_fits(stopped, monkeypatch):
    shutil.rmtree(stopped / "checkpoint-2")
    shutil.rmtree(stopped / "checkpoint-3")
    clock = SimpleNamespace(
        now=0.0, monotonic=lambda: clock.now, time=lambda: clock.now
    )
    monkeypatch.setattr(training, "time", clock)

    def reward(completions, **kwargs):
        clock.now += 60
        return length_reward(completions)

    assert go_on(stopped, reward, 2.5) == "2.5 minutes leave no time for another step"
    assert steps(stopped) == [1, 2]
    assert training.last_checkpoint(stopped)[0] == 2


def test_the_folder_is_here_or_on_drive(monkeypatch):
    assert training.choose_folder() == Path("runs")
    assert training.choose_folder("/mnt/big") == Path("/mnt/big")
    with pytest.raises(CourseError, match=r"Drive is not mounted .*on_drive=False"):
        training.choose_folder(on_drive=True)
    mounted = []
    colab = ModuleType("google.colab")
    colab.drive = SimpleNamespace(mount=mounted.append)
    monkeypatch.setitem(sys.modules, "google", ModuleType("google"))
    monkeypatch.setitem(sys.modules, "google.colab", colab)
    folder = training.choose_folder(on_drive=True)
    assert folder == Path("/content/drive/MyDrive/grpo-step-by-step")
    assert mounted == ["/content/drive"]

    def refuse(place):
        raise ValueError("mount failed")

    colab.drive.mount = refuse
    with pytest.raises(CourseError, match=r"not mounted \(mount failed\).*allow it"):
        training.choose_folder(on_drive=True)


def test_an_unfinished_run_of_the_profile_goes_on_and_a_finished_one_does_not(tmp_path):
    smoke, cpu = PROFILES["smoke"], PROFILES["cpu"]
    run = training.open_run(tmp_path, smoke, 3)
    assert training.load_run(run) == (smoke, 3)
    assert training.open_run(tmp_path, smoke, 7) == run  # with the seed that it has
    other = training.open_run(tmp_path, cpu, 0)
    assert other != run and training.load_run(other) == (cpu, 0)
    run = run.rename(tmp_path / "20200101-000000-smoke")
    (run / "adapter").mkdir()
    (run / "adapter" / "adapter_config.json").write_text("{}")
    new = training.open_run(tmp_path, smoke, 7)
    assert new not in (run, other) and training.load_run(new) == (smoke, 7)
