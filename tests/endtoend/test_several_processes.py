"""One run on two processes: the same step as on one, and stopped, killed, resumed.

A parent that has imported everything forks both, as test_two_processes.py does; one
test starts them by torchrun.
"""

import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import time

import pandas as pd
import pytest
import torch

from helpers import runs
from helpers.models import damage
from helpers.processes import ending_together
from tests import ROOT
from tests.tiny import SMALL, steps

# Reads a line of JSON for each start, as Server.start writes it. Forks the processes,
# each with files of its own for what it prints; says their numbers at once, and at the
# end how they ended.
SERVER = """
    import json, os, socket, sys, traceback
    from pathlib import Path
    import torch
    from helpers import runs, training, preflight, doctor, fast
    from helpers.__main__ import main
    from helpers.evaluation import load_questions
    from helpers.lab import plots
    from helpers.models import load_model_and_tokenizer
    from helpers.profiles import PROFILES, override
    from tests import tiny

    def free_port():
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            return s.getsockname()[1]

    def step(out, settings):
        # One step on injected completions; its loss and gradients, as each process has.
        from transformers import TrainerCallback
        rank, count = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        profile = override(PROFILES["smoke"], settings)
        pair = load_model_and_tokenizer(profile.model)
        questions = load_questions(profile, "train", 0)
        trainer = training.build_trainer(
            profile, Path(out), *pair, questions, reward_funcs=[tiny.length_reward]
        )
        assert getattr(trainer, "obstacle", None) is None
        tiny.draw_adapters(trainer.model)

        def injected(prompts, *args, **kwargs):
            first = rank * len(prompts)
            made = []
            for row in range(first, first + len(prompts)):
                rng = torch.Generator().manual_seed(row)
                length = 3 + 5 * row % 11
                ids = torch.randint(20, 500, (length,), generator=rng).tolist()
                made.append([*ids, trainer.eos_token_ids[0]])
            return made, None

        trainer._generate_single_turn = injected
        found = {}

        class Look(TrainerCallback):
            def on_pre_optimizer_step(self, *args, model=None, **kwargs):
                model = trainer.accelerator.unwrap_model(model)
                pairs = tiny.adapters(model).items()
                found["gradients"] = {n: p.grad.clone() for n, p in pairs}

            def on_log(self, args, state, control, logs=None, **kwargs):
                found.setdefault("loss", logs.get("loss"))
                found.setdefault("reward", logs.get("reward"))

        trainer.add_callback(Look())
        trainer.train()
        torch.save(found, Path(out) / f"step-{rank}.pt")

    for line in sys.stdin:
        asked = json.loads(line)
        folder, count, numbers = Path(asked["folder"]), asked["processes"], []
        folder.mkdir(parents=True, exist_ok=True)
        port = free_port()
        for rank in range(count):
            number = os.fork()
            if number:
                numbers.append(number)
                continue
            code = 1
            try:
                for stream, fd in (("out", 1), ("err", 2)):
                    path = folder / f"{stream}-{rank}.txt"
                    os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), fd)
                known = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count}
                known |= {"LOCAL_WORLD_SIZE": count, "MASTER_PORT": port}
                known |= {"MASTER_ADDR": "127.0.0.1"}
                os.environ.update({name: str(x) for name, x in known.items()})
                if count == 1:  # a plain start
                    del os.environ["LOCAL_RANK"]
                code = (main if asked["code"] == "main" else step)(*asked["arguments"])
                code = code or 0
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush(), sys.stderr.flush()
                os._exit(code)
        print(json.dumps(numbers), flush=True)
        ends = [os.waitstatus_to_exitcode(os.waitpid(n, 0)[1]) for n in numbers]
        print(json.dumps(ends), flush=True)
"""


class Server:
    """The parent that forks; `start` returns what has begun."""

    def __init__(self):
        command = [sys.executable, "-c", textwrap.dedent(SERVER)]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"}
        environment["TOKENIZERS_PARALLELISM"] = "0"
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self.process = subprocess.Popen(command, cwd=ROOT, env=environment, **pipes)

    def start(self, folder, processes, *arguments, code="main"):
        asked = {"folder": str(folder), "processes": processes, "code": code}
        asked["arguments"] = arguments
        self.process.stdin.write(json.dumps(asked) + "\n")
        self.process.stdin.flush()
        return Started(self, folder, json.loads(self.process.stdout.readline()))


class Started:
    """Processes at work, and what they said."""

    def __init__(self, server, folder, numbers):
        self.server, self.folder, self.numbers = server, folder, numbers

    def end(self) -> list[int]:
        """Wait for all; return their exit codes."""
        return json.loads(self.server.process.stdout.readline())

    def said(self, stream="out") -> list[str]:
        """The text of each process."""
        ranks = range(len(self.numbers))
        return [(self.folder / f"{stream}-{rank}.txt").read_text() for rank in ranks]


@pytest.fixture(scope="module")
def server():
    """One parent for all tests of this file."""
    server = Server()
    yield server
    server.process.stdin.close()
    assert server.process.wait() == 0


@pytest.fixture
def train(server, tiny_model, tmp_path):
    """A function that trains in tmp_path/run: a new run, or with no steps a resumed."""

    def begin(processes, steps=None, *more):
        arguments = ["train", "--out", str(tmp_path / "run")]
        if steps is None:
            arguments.append("--resume")
        else:
            arguments += ["--profile", "smoke"]
            settings = [f"model={tiny_model}", f"max_steps={steps}", *SMALL]
            settings += ["eval_new_tokens=4", "num_eval=3"]
            settings += ["per_device_train_batch_size=4"]
            arguments += [word for x in settings for word in ("--set", x)]
        arguments += more
        folder = tmp_path / f"said-{time.monotonic_ns()}"
        return server.start(folder, processes, arguments)

    return begin


# What differs between one process and two is the order in which numbers are added.
STEPS = {
    "fast": [],
    "fast, a group on both": ["num_generations=8"],
    "fast, several times": ["gradient_accumulation_steps=2"],
    # Here the loss is 0 but for rounding: the advantages of a group add up to 0.
    "fast, grpo": ["loss_type='grpo'", "num_generations=8"],
    "stock": ["trainer=stock"],
    "stock, several times": ["trainer=stock", "gradient_accumulation_steps=2"],
}


@pytest.mark.parametrize("case", STEPS)
def test_two_processes_have_the_loss_and_the_gradients_of_one(
    case, server, tiny_model, tmp_path
):
    settings = [f"model={tiny_model}", "max_steps=1", "max_grad_norm=0.0"]
    settings += ["max_completion_length=16", *STEPS[case]]
    found = []
    for processes in (1, 2):
        out = tmp_path / str(processes)
        begun = server.start(out, processes, str(out), settings, code="step")
        assert begun.end() == [0] * processes, begun.said("err")
        found += [torch.load(out / f"step-{rank}.pt") for rank in range(processes)]
    one, *two = found
    assert one["loss"] != 0
    for each in two:
        assert each["loss"] == pytest.approx(one["loss"], rel=1e-4, abs=1e-7)
        assert each["reward"] == one["reward"]
        assert each["gradients"].keys() == one["gradients"].keys()
        for name, gradient in one["gradients"].items():
            assert gradient.abs().max() > 0
            apart = (each["gradients"][name] - gradient).abs().max()
            assert apart <= 1e-4 * gradient.abs().max(), name
    for name, gradient in two[0]["gradients"].items():
        assert torch.equal(gradient, two[1]["gradients"][name]), name


def lines_of(text: str, word: str) -> list[str]:
    """The lines in which a word stands."""
    return [line for line in text.splitlines() if word in line]


def test_two_processes_make_one_run_and_one_of_them_speaks(train, tmp_path):
    run = tmp_path / "run"
    begun = train(2, 3)
    assert begun.end() == [0, 0], begun.said("err")
    main, other = begun.said()
    assert other == "" and begun.said("err") == ["", ""]
    assert "2 processes share the completions of a step" in main
    for word in ("profile smoke", "step 1 took", "test: before", "minutes in all"):
        assert len(lines_of(main, word)) == 1, main
    assert steps(run) == [1, 2, 3]
    assert {row["processes"] for row in runs.read_log(run)} == {2}
    names = ["checkpoint-2", "checkpoint-3"]  # as many as the settings keep
    assert sorted(path.name for path in run.glob("checkpoint-*")) == names
    for name in names:
        sealed = json.loads((run / name / "sha256.json").read_text())
        assert damage(run / name) is None
        assert {"rng_state_0.pth", "rng_state_1.pth"} <= sealed.keys()
    assert not (run / "heartbeat.json").exists()
    scored = pd.read_parquet(run / "evaluation.parquet")
    assert scored.groupby(["split", "which"]).size().tolist() == [3, 3]
    # The prompts come in the order in which one process would have had them.
    run.rename(tmp_path / "two")
    assert train(1, 3).end() == [0]
    for step in (1, 2, 3):
        name = f"completions/completions_{step:05}.parquet"
        one, two = (
            pd.read_parquet(tmp_path / folder / name) for folder in ("run", "two")
        )
        prompts = [str(chat) for chat in one["prompt"]]
        assert prompts == [str(chat) for chat in two["prompt"]]
        assert len(prompts) == 4
    one = pd.read_parquet(run / "evaluation.parquet")
    before = [frame[frame["which"] == "before"] for frame in (one, scored)]
    assert before[0]["completion"].tolist() == before[1]["completion"].tolist()


def wait_for(started, run, count: int) -> None:
    """Wait until so many steps stand in a run's log."""
    end = time.monotonic() + 120
    while len(runs.read_log(run)) < count:
        assert time.monotonic() < end, started.said("err")
        time.sleep(0.001)


def test_ctrl_c_stops_both_after_the_same_step_and_one_goes_on(train, tmp_path):
    run = tmp_path / "run"
    begun = train(2, 200)
    wait_for(begun, run, 2)
    os.kill(begun.numbers[1], signal.SIGINT)  # the launcher or the terminal: to one
    assert begun.end() == [130, 130], begun.said("err")
    done = steps(run)
    assert done == list(range(1, len(done) + 1)) and 2 <= len(done) < 200
    assert runs.last_checkpoint(run)[0] == len(done)
    (line,) = lines_of(begun.said()[0], "Stopped (Ctrl-C) and saved. Go on: ")
    assert line.endswith(f"--resume --out {run}")
    begun = train(1, None, "--max-minutes", "0")
    assert begun.end() == [0], begun.said("err")
    assert steps(run) == list(range(1, len(done) + 2))
    assert runs.read_log(run)[-1]["processes"] == 1


def test_max_minutes_stop_both_and_a_run_of_one_goes_on_with_two(train, tmp_path):
    run = tmp_path / "run"
    assert train(1, 4, "--max-minutes", "0").end() == [0]
    assert steps(run) == [1]
    begun = train(2, None, "--max-minutes", "0")
    assert begun.end() == [0, 0], begun.said("err")
    assert steps(run) == [1, 2] and runs.last_checkpoint(run)[0] == 2
    assert len(lines_of(begun.said()[0], "leave no time for another step")) == 1
    assert not (run / "adapter").exists()
    begun = train(2)
    assert begun.end() == [0, 0], begun.said("err")
    assert steps(run) == [1, 2, 3, 4]
    assert [row["processes"] for row in runs.read_log(run)] == [1, 2, 2, 2]
    completions = [pd.read_parquet(path) for path in (run / "completions").iterdir()]
    assert {len(frame) for frame in completions} == {4}


@pytest.mark.parametrize("killed", [0, 1])
def test_where_one_is_killed_the_other_ends_in_one_line_and_the_run_goes_on(
    killed, train, tmp_path
):
    run = tmp_path / "run"
    begun = train(2, 200)
    wait_for(begun, run, 2)
    at = time.monotonic()
    os.kill(begun.numbers[killed], signal.SIGKILL)
    ends = begun.end()
    assert time.monotonic() - at < 60
    assert (ends[killed], ends[1 - killed]) == (-9, 2), begun.said("err")
    said = begun.said("err")[1 - killed].splitlines()
    line = "error: another process of this run has ended, and this one ends with it. "
    assert len(said) == 1 and said[0].startswith(line)
    assert said[0].endswith(f"python -m helpers train --resume --out {run}")
    kept = runs.last_checkpoint(run)[0]
    assert kept >= 1
    begun = train(2, None, "--max-minutes", "0")
    assert begun.end() == [0, 0], begun.said("err")
    assert steps(run) == list(range(1, kept + 2))


def test_a_step_that_two_cannot_share_is_one_line_and_makes_nothing(train, tmp_path):
    begun = train(2, 4, "--set", "per_device_train_batch_size=3")
    assert begun.end() == [2, 2]
    line = "error: 2 processes divide neither of per_device_train_batch_size=3 and "
    assert begun.said("err")[0] == f"{line}gradient_accumulation_steps=1\n"
    assert not (tmp_path / "run").exists()


def test_torchrun_ends_what_is_left_of_a_run_and_the_run_goes_on(tiny_model, tmp_path):
    run = tmp_path / "run"
    settings = [f"model={tiny_model}", "max_steps=400", *SMALL, "eval_new_tokens=4"]
    words = [word for x in settings for word in ("--set", x)]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2"]
    launcher += ["--standalone", "-m", "helpers", "train", "--out", str(run)]
    pipe = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    command = [*launcher, "--profile", "smoke", *words]
    begun = subprocess.Popen(command, cwd=ROOT, **pipe)
    while len(runs.read_log(run)) < 2:
        assert begun.poll() is None, begun.stderr.read()
        time.sleep(0.05)
    who = json.loads((run / "heartbeat.json").read_text())["who"]
    os.kill(int(re.match(r"process (\d+) ", who)[1]), signal.SIGKILL)
    at = time.monotonic()
    err = begun.communicate()[1]
    assert time.monotonic() - at < 60 and begun.returncode != 0
    assert len(lines_of(err, "error: another process of this run has ended")) == 1, err
    kept = runs.last_checkpoint(run)[0]
    command = [*launcher, "--resume", "--max-minutes", "0"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(lines_of(done.stdout, "Stopped (")) == 1
    assert steps(run) == list(range(1, kept + 2))


def test_a_good_end_takes_the_group_and_its_threads_down(monkeypatch, tmp_path):
    """Left alone, they aborted 7 of 25 pairs of processes that only said hello."""
    group = {"init_method": f"file://{tmp_path / 'store'}", "rank": 0, "world_size": 1}
    torch.distributed.init_process_group("gloo", **group)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with ending_together("python -m helpers train"):
        assert torch.distributed.is_initialized()
    assert not torch.distributed.is_initialized()
