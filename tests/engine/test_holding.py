"""One process a run: who holds it, who is told so, and what is left behind.

Processes of one machine are told apart by a lock, those that share a network drive by
heartbeat.json. tests/endtoend/test_two_processes.py has real ones that train.
"""

import errno
import json
import os
import platform
import subprocess
import sys
import time

import pytest

from helpers import CourseError, runs
from helpers.__main__ import main
from helpers.profiles import PROFILES
from tests import ROOT
from tests.tiny import ADAPTER, go_on, length_reward, new_run, steps

ELSEWHERE = "process 7 on colab-b"


def holding(run):
    """What keeps a run for this process."""
    return runs.holding(run)


def beat(run, seconds: float, who=ELSEWHERE) -> None:
    """Leave the heartbeat of another process, so many seconds ago."""
    said = json.dumps({"who": who, "time": time.time() - seconds})
    (run / "heartbeat.json").write_text(said)


@pytest.fixture
def run(tmp_path):
    """A run without a step."""
    runs.create_run(tmp_path / "run", PROFILES["smoke"], 0)
    return tmp_path / "run"


@pytest.fixture
def neighbour(run):
    """Another process of this machine that holds the run; its number."""
    code = "import sys; from pathlib import Path; from helpers.runs import holding\n"
    code += "with holding(Path(sys.argv[1])):\n    print('held', flush=True); input()"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    command = [sys.executable, "-c", code, str(run)]
    with subprocess.Popen(command, cwd=ROOT, **pipes) as process:
        assert process.stdout.readline() == "held\n"
        yield process.pid
        process.communicate("\n")


def test_a_run_that_another_machine_works_in_is_refused_with_its_name(run):
    beat(run, 30)
    said = rf"run is in use by {ELSEWHERE}, 3\d s ago\. Wait until it has stopped, or "
    with pytest.raises(CourseError, match=f"{said}name another run.$"), holding(run):
        raise AssertionError("held")
    assert json.loads((run / "heartbeat.json").read_text())["who"] == ELSEWHERE
    with pytest.raises(CourseError, match=said):  # the lock was given back
        runs.open_run(run.parent, PROFILES["smoke"], 0)


@pytest.mark.parametrize("content", [None, "", "{", "[]", '{"who": 1}', "130", "here"])
def test_a_run_whose_heart_stopped_two_minutes_ago_is_free(run, content):
    if content == "130":
        beat(run, 130)
    elif content == "here":  # killed a moment ago: the lock alone counts on a machine
        beat(run, 1, f"process 7 on {platform.node()}")
    elif content is not None:  # cut short by a network drive
        (run / "heartbeat.json").write_text(content)
    with holding(run):
        mine = json.loads((run / "heartbeat.json").read_text())
        assert mine["who"] == f"process {os.getpid()} on {platform.node()}"
        assert time.time() - mine["time"] < 5
    assert not (run / "heartbeat.json").exists()


def test_a_run_that_a_neighbour_works_in_is_refused_with_its_number(
    run, neighbour, capsys
):
    before = {path: path.read_bytes() for path in run.iterdir()}
    who = f"{run} is in use by process {neighbour} on {platform.node()}. Wait until"
    with pytest.raises(CourseError) as error, holding(run):
        raise AssertionError("held")
    assert str(error.value).startswith(who)
    with pytest.raises(CourseError) as error:  # as notebook 05 would take it
        runs.open_run(run.parent, PROFILES["smoke"], 0)
    assert str(error.value).startswith(who)
    assert main(["train", "--resume", "--out", str(run)]) == 2
    assert capsys.readouterr().err.startswith(f"error: {who}")
    assert {path: path.read_bytes() for path in run.iterdir()} == before


def test_a_process_may_hold_a_run_twice(run):
    with holding(run):
        with holding(run), holding(run.parent / "." / "run"):
            assert (run / "heartbeat.json").exists()
        assert (run / "heartbeat.json").exists()  # the first still has it
        runs.check_hold(run)
        assert runs.open_run(run.parent, PROFILES["smoke"], 0) == run
        assert (run / "heartbeat.json").exists()
    assert not (run / "heartbeat.json").exists()
    assert run.resolve() not in runs.HELD


def test_a_heart_beats_while_a_run_is_held(run, monkeypatch):
    monkeypatch.setattr(runs, "BEAT", 0.01)
    with holding(run):
        first = json.loads((run / "heartbeat.json").read_text())
        until = time.monotonic() + 10
        while json.loads((run / "heartbeat.json").read_text()) == first:
            assert time.monotonic() < until
            time.sleep(0.01)
        # Another process that has taken the run over is not beaten out of it.
        beat(run, 0)
        time.sleep(0.2)
        assert runs.last_beat(run)[0] == ELSEWHERE
    assert runs.last_beat(run)[0] == ELSEWHERE


def test_a_run_is_given_back_however_its_work_ends(run):
    for wrong in (ValueError, KeyboardInterrupt):
        with pytest.raises(wrong), holding(run):
            raise wrong
        assert not (run / "heartbeat.json").exists() and runs.HELD == {}
    with holding(run):
        pass


@pytest.mark.parametrize("moment", ["begin", "end"])
def test_a_disk_that_fails_leaves_no_lock_and_hides_no_error(run, monkeypatch, moment):
    write, unlink = runs.write_atomically, type(run).unlink

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    if moment == "begin":
        monkeypatch.setattr(runs, "write_atomically", full)
        with pytest.raises(CourseError, match="The disk is full"), holding(run):
            raise AssertionError("held")
    else:
        with pytest.raises(CourseError, match="memory is full"), holding(run):
            monkeypatch.setattr(type(run), "unlink", full)
            raise CourseError("the memory is full")
    assert runs.HELD == {}
    monkeypatch.setattr(runs, "write_atomically", write)
    monkeypatch.setattr(type(run), "unlink", unlink)
    with holding(run):
        assert runs.last_beat(run)[0].startswith(f"process {os.getpid()} on ")
    assert not (run / "heartbeat.json").exists()


def test_another_heartbeat_while_it_trains_stops_this_process(
    tiny_model, tmp_path, finished
):
    """As where a Colab session wakes up after another has taken its run over."""
    run, seen = new_run(tmp_path / "run", tiny_model, 3), []

    def reward(completions, **kwargs):
        seen.append(1)
        if len(seen) == 2:
            beat(run, 0)
        return length_reward(completions)

    with pytest.raises(CourseError) as error:
        go_on(run, reward)
    said = f"{ELSEWHERE} has gone on with {run}; this process leaves it alone."
    assert str(error.value) == said
    # Nothing of the second step is saved or logged: that is the other's to do.
    assert runs.last_checkpoint(run)[0] == 1 and steps(run) == [1]
    assert not (run / "checkpoint-2").exists()
    assert runs.last_beat(run)[0] == ELSEWHERE
    with pytest.raises(CourseError, match=f"in use by {ELSEWHERE}, 0 s ago"):
        go_on(run)
    (run / "heartbeat.json").unlink()
    assert go_on(run) is None and steps(run) == [1, 2, 3]
    assert (run / ADAPTER).read_bytes() == (finished / ADAPTER).read_bytes()
