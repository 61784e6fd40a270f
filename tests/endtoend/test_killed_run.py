"""A run that is killed at any moment goes on, and ends as if nothing had been."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time

import pandas as pd

from helpers import runs
from tests import ROOT
from tests.tiny import ADAPTER, new_run, steps

HELPERS = [sys.executable, "-m", "helpers"]
# The kills. A parent that has imported everything forks a child for each start, which
# then takes a second, not ten. The parent computes nothing: threads would not survive.
KILLER = """
    import json, os, random, signal, sys, time
    from pathlib import Path
    from helpers import runs
    from helpers.models import damage
    from tests.tiny import FILES, go_on

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
    times = [row["time"] for row in runs.read_log(whole)]
    pace = (times[-1] - times[0]) / (len(times) - 1)
    chance, log, found = random.Random(0), run / "log.jsonl", []
    for number in range(kills):
        folders = list(run.glob("checkpoint-*"))
        saved = [int(p.name[11:]) for p in folders if not damage(p)]
        saved, before = max(saved, default=0), inode(log)
        child = start(run)
        # A start cuts the log to the saved steps, in a new file; then come new lines.
        rows = lambda: len(runs.read_log(run)) if inode(log) != before else 0
        wait(child, lambda: rows() > saved)
        seen, delay = time.monotonic(), chance.uniform(0, pace)
        path = run / f"checkpoint-{saved + 1}" / chance.choice(FILES)
        if number % 2:  # as a file of the save appears: empty yet, or a part
            wait(child, path.exists)
        else:  # somewhere in the save or in the next step
            wait(child, lambda: time.monotonic() - seen > delay)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        logged = runs.read_log(run)[-1]["step"]
        damaged = [p.name for p in run.glob("checkpoint-*") if damage(p)]
        found.append({"saved": saved, "logged": logged, "damaged": damaged})
    assert os.waitpid(start(run), 0)[1] == 0
    print(json.dumps(found))
"""


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
    assert cut >= 1
    aside = [path.name for path in run.glob("damaged-checkpoint-*")]
    assert len(aside) == result.stdout.count(" is damaged (") >= cut
    assert steps(run) == list(range(1, 31))
    for row, there in zip(runs.read_log(run), runs.read_log(whole), strict=True):
        timed = {k for k in there if k.startswith("seconds/")}
        for key in there.keys() - timed - {"time", "step_time", "memory_gib"}:
            assert row[key] == there[key], (row["step"], key)
    assert (run / ADAPTER).read_bytes() == (whole / ADAPTER).read_bytes()
    for path in (whole / "completions").iterdir():
        there = pd.read_parquet(path)
        pd.testing.assert_frame_equal(
            pd.read_parquet(run / "completions" / path.name), there
        )


def test_a_run_that_is_killed_goes_on_and_ends(tmp_path, embedded_model):
    run = tmp_path / "run"
    out = ["--out", str(run)]
    command = [*HELPERS, "train", "--profile", "smoke", "--set", "max_steps=3", *out]
    first = subprocess.Popen(command, cwd=ROOT, start_new_session=True)
    while len(runs.read_log(run)) < 1:
        assert first.poll() is None
        time.sleep(0.2)
    time.sleep(2)  # well within the second step
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    assert runs.last_checkpoint(run)[0] == 1
    logged = runs.read_log(run)[0]
    result = subprocess.run(
        [*HELPERS, "train", "--resume", *out], cwd=ROOT, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    log = runs.read_log(run)
    assert [row["step"] for row in log] == [1, 2, 3]
    assert log[0] == logged
    assert "Warning" not in result.stderr
    assert "TRL's own step" not in result.stdout  # the faster one applied
    result = subprocess.run(
        [*HELPERS, "evaluate", str(run)], cwd=ROOT, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    summary = json.loads((run / "evaluation.json").read_text())
    assert {split: part["n"] for split, part in summary["splits"].items()} == {
        "test": 4,
        "transfer": 2,
    }
    completions = pd.read_parquet(run / "evaluation.parquet")
    assert len(completions) == 12 and completions["completion"].str.len().min() > 0
    report = (run / "report.md").read_text()
    assert "**transfer**, 2 problems" in report and "rewards.png" in report
    assert (run / "rewards.png").stat().st_size > 10_000
