"""The run doctor: what it says of sick runs, and that it leaves healthy ones alone."""

import json
import math
import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers import CourseError
from helpers.__main__ import main
from helpers.doctor import ILLNESSES, check_run
from helpers.runs import load_run, read_log
from tests import RECORDED

SICK = RECORDED / "sick"
HEALTHY = [*(RECORDED / f"cpu-seed{seed}" for seed in range(3)), SICK / "healthy"]
# The illness that a run was made with, and what else it really had.
FOUND = {
    "constant_reward": ["reward constant"],
    "cut_off": ["everything cut off"],
    "entropy_collapsed": ["entropy collapsed", "reward never fires", "reward constant"],
    "entropy_exploded": ["entropy exploded", "no variance"],
    "gradient_exploding": ["gradient exploding"],
    "gradient_zero": ["gradient zero"],
    "learning_rate_zero": ["learning rate zero"],
    "length_creeping": ["length creeping"],
    "never_fires": ["reward never fires"],
    "no_variance": ["no variance"],
    "reward_hacked": ["reward hacked"],
    "steps_skipped": ["NaN or skipped steps"],
}


def illnesses(run: Path) -> list[str]:
    """Return the names alone."""
    return [line.partition(":")[0] for line in check_run(run)]


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A run's folder whose log a test writes itself."""
    folder = tmp_path_factory.mktemp("run")
    shutil.copy(RECORDED / "cpu-seed0" / "config.json", folder)
    return folder


def write(run: Path, rows: list[dict]) -> Path:
    """Replace the log of a run."""
    (run / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return run


@pytest.mark.parametrize("name", FOUND)
def test_a_sick_run_gets_its_illness_named(name):
    assert illnesses(SICK / name) == FOUND[name]


def test_every_illness_has_a_run_and_every_run_a_test():
    assert {path.name for path in SICK.iterdir() if path.is_dir()} == {
        *FOUND,
        "healthy",
    }
    assert {name for names in FOUND.values() for name in names} == set(ILLNESSES)


@pytest.mark.parametrize("healthy", HEALTHY, ids=lambda run: run.name)
def test_a_healthy_run_is_alive_at_every_step(healthy, run):
    rows = read_log(healthy)
    shutil.copy(healthy / "config.json", run)
    for steps in range(1, len(rows) + 1):
        assert illnesses(write(run, rows[:steps])) == ["alive"], steps
    shutil.copy(RECORDED / "cpu-seed0" / "config.json", run)


def test_the_texts_carry_the_figures_and_the_setting():
    rewards = [row["reward"] for row in read_log(RECORDED / "cpu-seed0")]
    first, last = sum(rewards[:13]) / 13, sum(rewards[-13:]) / 13
    assert check_run(RECORDED / "cpu-seed0") == [
        f"alive: 40 steps, reward {first:.2f} → {last:.2f} (means of the first and the "
        "last 13 steps)"
    ]
    [line] = check_run(SICK / "never_fires")
    assert "boxed_reward_func paid 0 in all 16 steps" in line
    [line] = check_run(SICK / "cut_off")
    assert "no end within max_completion_length (4)" in line
    [line] = check_run(SICK / "steps_skipped")
    bad = [r for r in read_log(SICK / "steps_skipped") if math.isnan(r["grad_norm"])]
    assert f"{len(bad)} of 16 steps have no finite loss" in line
    assert len(bad) >= 4


def test_recorded_sick_runs_are_small_whole_and_name_no_machine():
    for folder in (path for path in SICK.iterdir() if path.is_dir()):
        profile, seed = load_run(folder)
        steps = [row["step"] for row in read_log(folder)]
        assert steps == list(range(1, profile.grpo["max_steps"] + 1))
        assert seed == 0 and profile.name == folder.name
        for path in folder.iterdir():
            assert path.name in ("config.json", "log.jsonl")
            text = path.read_text(encoding="utf-8")
            assert len(text) < 15_000
            assert not any(word in text for word in ("/root", "/home", "/tmp", "/work"))


def test_what_is_normal_is_no_illness(run):
    rows = read_log(RECORDED / "cpu-seed0")
    for row in rows[:3]:  # the scaler of fp16 finds its scale
        row["grad_norm"] = math.nan
    rows[20]["grad_norm"] = 5000.0  # one peak
    rows[0]["learning_rate"] = 0.0  # warm-up
    assert illnesses(write(run, rows)) == ["alive"]
    rows[21]["loss"] = math.inf
    assert illnesses(write(run, rows)) == ["NaN or skipped steps"]


def test_a_run_without_a_step(run):
    assert check_run(write(run, [])) == [
        "no step is logged: not begun, or stopped by an error in the first one"
    ]


KEYS = sorted({key for row in read_log(SICK / "never_fires") for key in row})
NUMBERS = st.floats() | st.integers() | st.just(10**400) | st.none() | st.booleans()
VALUES = NUMBERS | st.text() | st.lists(NUMBERS) | st.dictionaries(st.text(), NUMBERS)
ROWS = st.lists(st.dictionaries(st.sampled_from(KEYS) | st.text(), VALUES), max_size=30)
NUMERIC = st.lists(st.dictionaries(st.sampled_from(KEYS), NUMBERS), min_size=9)


@settings(max_examples=200, deadline=None)
@given(ROWS | NUMERIC)
def test_no_log_makes_the_doctor_raise(run, rows):
    for line in check_run(write(run, rows)):
        assert line.partition(":")[0] in {*ILLNESSES, "alive", "no step is logged"}


def test_the_command_line(capsys, tmp_path, run):
    assert main(["doctor", str(RECORDED / "cpu-seed1")]) == 0
    assert capsys.readouterr().out.startswith("alive: 40 steps, reward ")
    assert main(["doctor", str(SICK / "no_variance")]) == 1
    assert capsys.readouterr().out.startswith("no variance: in 100% of the last groups")
    assert main(["doctor", str(write(run, []))]) == 1
    assert "no step is logged" in capsys.readouterr().out
    assert main(["doctor", str(tmp_path)]) == 2
    assert "is not a run's folder" in capsys.readouterr().err
    with pytest.raises(CourseError, match="is not a run's folder"):
        check_run(tmp_path / "nowhere")
