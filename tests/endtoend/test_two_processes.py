"""Two processes at one run: what one saved is never lost, and no line is written twice.

tests/engine/test_holding.py has the refusals one by one, heartbeats among them.
"""

import json
import os
import subprocess
import sys
import textwrap

import pytest

from tests import ROOT
from tests.tiny import new_run

TRIES, STEPS = 10, 5
# A parent that has imported everything forks a process for each start, which then takes
# a second, not ten. Two are made ready to train, and let go when the moment has come.
# The parent computes nothing: threads would not survive.
PAIR = """
    import json, os, random, shutil, signal, sys, time, traceback
    from pathlib import Path
    import torch
    from helpers import CourseError, runs, training
    from helpers.evaluation import load_questions
    from helpers.models import damage, load_model_and_tokenizer
    from tests.tiny import ADAPTER, length_reward

    new, folder, tries = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    profile, seed = runs.load_run(new)
    questions = load_questions(profile, "train", seed)
    pair = load_model_and_tokenizer(profile.model)
    really_save = torch.save

    def slow_save(*args, **kwargs):
        time.sleep(0.1)
        really_save(*args, **kwargs)

    class Process:
        def __init__(self, run, save=really_save):
            self.run, self.note = run, run.with_name(f"{time.time_ns()}.txt")
            (ready, said), (wait, self.go) = os.pipe(), os.pipe()
            self.number = os.fork()
            if self.number:
                os.close(said), os.close(wait)
                assert os.read(ready, 1) == b"."  # it has built its trainer
                os.close(ready)
                return
            code, torch.save = 1, save
            try:
                trainer = training.build_trainer(
                    profile, run, *pair, questions, seed=seed,
                    reward_funcs=[length_reward],
                )
                os.write(said, b".")
                os.read(wait, 1)
                code = 0 if training.train_or_resume(trainer, run) is None else 3
            except CourseError as error:
                code = 2
                self.note.write_text(str(error))
            except BaseException:
                self.note.write_text(traceback.format_exc())
            finally:
                os._exit(code)

        def begin(self):
            os.write(self.go, b".")
            os.close(self.go)
            return self

        def end(self):
            code = os.waitstatus_to_exitcode(os.waitpid(self.number, 0)[1])
            said = self.note.read_text() if self.note.exists() else ""
            return {"number": self.number, "code": code, "said": said}

    def lines(run):
        log = run / "log.jsonl"
        return log.read_text().splitlines() if log.exists() else []

    def until(true, child):
        while not true():
            if os.waitpid(child.number, os.WNOHANG)[0]:
                said = child.note.read_text() if child.note.exists() else ""
                sys.exit(f"a process ended too soon: {said}")
            time.sleep(0.0005)

    def is_saving(run, step):
        path = run / f"checkpoint-{step}"
        return path.exists() and not (path / "sha256.json").exists()

    def both_start(run, chance):
        two = [process.begin() for process in [Process(run), Process(run)]]
        return [process.end() for process in two], 0

    def one_saves(run, chance):
        first, second = Process(run, slow_save), Process(run)
        first.begin()
        step = chance.randint(1, profile.grpo["max_steps"] - 1)
        until(lambda: is_saving(run, step), first)
        time.sleep(chance.uniform(0, 0.2))
        second.begin()
        second = second.end()
        return [first.end(), second], 0

    def one_is_killed(run, chance):
        slow = chance.random() < 0.5  # it dies in a save, or else after it
        first, second = Process(run, slow_save if slow else really_save), Process(run)
        first.begin()
        step = chance.randint(1, profile.grpo["max_steps"] - 2)
        until(lambda: is_saving(run, step), first)
        time.sleep(chance.uniform(0, 0.2 if slow else 0.1))
        os.kill(first.number, signal.SIGKILL)
        first = first.end()
        sealed, before = runs.last_checkpoint(run)[0], lines(run)
        second = second.begin().end()
        kept = lines(run)[:sealed] == before[:sealed]  # with the times of the first
        assert kept and len(before) >= sealed >= step - 1
        return [first, second], sealed

    whole = folder / "whole"
    shutil.copytree(new, whole)
    assert Process(whole).begin().end()["code"] == 0
    chance, found = random.Random(0), {}
    for how in (both_start, one_saves, one_is_killed):
        found[how.__name__] = tried = []
        for number in range(tries):
            run = folder / f"{how.__name__}-{number}"
            shutil.copytree(new, run)
            ends, sealed = how(run, chance)
            found_here = {"run": str(run), "ends": ends, "sealed": sealed}
            found_here["steps"] = [json.loads(line)["step"] for line in lines(run)]
            checkpoints = {p.name: damage(p) for p in run.glob("checkpoint-*")}
            found_here["checkpoints"] = dict(sorted(checkpoints.items()))
            found_here["aside"] = sorted(p.name for p in run.glob("damaged-*"))
            found_here["beats"] = (run / "heartbeat.json").exists()
            adapter, there = run / ADAPTER, (whole / ADAPTER).read_bytes()
            same = adapter.exists() and adapter.read_bytes() == there
            found_here["same"] = same
            tried.append(found_here)
    print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def found(tiny_model, tmp_path_factory) -> dict[str, list[dict]]:
    """What came of each try of each kind."""
    folder = tmp_path_factory.mktemp("two")
    new = new_run(folder / "new", tiny_model, STEPS)
    script = [sys.executable, "-c", textwrap.dedent(PAIR), new, folder, str(TRIES)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "0"}
    done = subprocess.run(
        script, cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


KINDS = ("both_start", "one_saves", "one_is_killed")


@pytest.mark.parametrize("kind", KINDS)
def test_ten_pairs_lose_no_checkpoint_and_no_line_and_write_none_twice(found, kind):
    assert len(found[kind]) == TRIES
    for tried in found[kind]:
        assert tried["steps"] == list(range(1, STEPS + 1)), tried
        # The two that the settings keep, whole.
        last = {f"checkpoint-{step}": None for step in (STEPS - 1, STEPS)}
        assert tried["checkpoints"] == last, tried
        assert tried["same"], "the adapter is not that of a run alone"
        assert tried["beats"] is False


@pytest.mark.parametrize("kind", ["both_start", "one_saves"])
def test_of_two_one_trains_and_the_other_is_told_who(found, kind):
    for tried in found[kind]:
        one, other = sorted(tried["ends"], key=lambda end: end["code"])
        assert (one["code"], one["said"]) == (0, "") and other["code"] == 2, tried
        who = f"{tried['run']} is in use by process {one['number']} on "
        nobody = f"{tried['run']} is in use by another process. Wait"  # no beat yet
        first = (who, nobody) if kind == "both_start" else who
        assert other["said"].startswith(first), other
        assert tried["aside"] == []  # of what was being written, nothing was moved


def test_whoever_takes_over_goes_on_from_the_last_seal(found):
    tries, cut = found["one_is_killed"], 0
    for tried in tries:
        assert [end["code"] for end in tried["ends"]] == [-9, 0], tried
        # At most what the killed one was writing is set aside, or was deleting, as the
        # settings keep two; never more.
        touched = (tried["sealed"] + 1, tried["sealed"] - 2)
        names = [[f"damaged-checkpoint-{step}"] for step in touched]
        aside = [name.rpartition("-")[0] for name in tried["aside"]]
        assert aside in (*names, []), tried
        cut += aside == names[0]
    assert cut >= 1  # some kills came in the middle of a save
    assert len({tried["sealed"] for tried in tries}) > 1  # and not all at one step
