"""Runs on Google Drive: 05 keeps them there, 06 finds them, in a replica of Colab."""

import os
import shutil
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from helpers import CourseError
from helpers.lab import colab
from helpers.runs import last_beat, load_run
from tests import RECORDED, RUN
from tests.notebooks.cells import source

ADAPTER = Path("adapter") / "adapter_config.json"


@pytest.fixture(autouse=True)
def course(monkeypatch, tmp_path) -> Path:
    """A course without runs but the recorded one; Drive, were it mounted, is here."""
    for name in ("COLAB_RELEASE_TAG", "KAGGLE_KERNEL_RUN_TYPE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(colab, "ROOT", tmp_path / "course")
    monkeypatch.setattr(colab, "DRIVE", tmp_path / "drive")
    recorded = tmp_path / "course" / "notebooks" / "recorded"
    shutil.copytree(RUN, recorded / RUN.name)
    return tmp_path / "course"


@pytest.fixture
def drive(monkeypatch, tmp_path) -> Path:
    """As on Colab: `drive.mount` makes MyDrive appear; here is the course's folder."""

    def mount(place):
        assert place == str(tmp_path / "drive")
        (tmp_path / "drive" / "MyDrive").mkdir(parents=True, exist_ok=True)
        print("Mounted at", place)

    google = ModuleType("google.colab")
    google.drive = SimpleNamespace(mount=mount)
    monkeypatch.setitem(sys.modules, "google", ModuleType("google"))
    monkeypatch.setitem(sys.modules, "google.colab", google)
    return tmp_path / "drive" / "MyDrive" / "grpo-step-by-step"


def examine(capsys, keep_on_drive=True) -> tuple[Path, list[str]]:
    """What 06 takes, and the lines that its choosing cell prints."""
    there = {}
    mounting = source("06", "^KEEP_ON_DRIVE = True  # @param")
    wanted = f"KEEP_ON_DRIVE = {keep_on_drive} "
    exec(mounting.replace("KEEP_ON_DRIVE = True ", wanted), there)
    capsys.readouterr()
    exec(source("06", r"finished_run\(here"), there)
    assert load_run(there["run"]) == (there["trained_as"], there["seed"])
    return there["run"], capsys.readouterr().out.splitlines()


def copy(run: str, place: Path, mtime: float) -> Path:
    """Put a copy of a recorded run into a place, its adapter written at a time."""
    shutil.copytree(RECORDED / run, place / run)
    os.utime(place / run / ADAPTER, (mtime, mtime))
    return place / run


def test_06_takes_the_newest_finished_run_of_this_profile(
    capsys, course, drive, monkeypatch
):
    monkeypatch.setenv("GRPO_PROFILE", "cpu")
    mine = copy("cpu-seed1", drive, 2000)
    copy("cpu-seed2", drive, 1000)
    shutil.copytree(mine, drive / "unfinished")
    shutil.rmtree(drive / "unfinished" / "adapter")
    (drive / "merged" / "adapter").mkdir(parents=True)
    for name in ("config.json", ADAPTER):  # another program's
        (drive / "merged" / name).write_text("{}")
    run, lines = examine(capsys)
    assert run == mine
    assert lines == [
        "your run cpu-seed1, the newest finished one on Google Drive",
        "profile cpu, seed 1: SmolLM2-135M-Instruct, bf16",
    ]
    later = copy("cpu-seed0", course / "runs", 3000)
    run, lines = examine(capsys)
    assert run == later
    assert lines[0] == "your run cpu-seed0, the newest finished one on this machine"


@pytest.mark.parametrize(
    ("profile", "other"),
    [("cpu", ""), ("t4_quick", "; its model is another, SmolLM2-135M-Instruct")],
)
def test_06_says_that_it_takes_the_recorded_run_and_why(
    profile, other, capsys, course, drive, monkeypatch
):
    monkeypatch.setenv("GRPO_PROFILE", profile)
    recorded = course / "notebooks" / "recorded" / "cpu-seed0"
    start = f"the recorded run cpu-seed0: no finished run of {profile} is on "
    run, lines = examine(capsys)
    assert run == recorded
    assert lines == [
        f"{start}Google Drive or this machine{other}",
        "profile cpu, seed 0: SmolLM2-135M-Instruct, bf16",
    ]
    run, lines = examine(capsys, keep_on_drive=False)
    assert (run, lines[0]) == (
        recorded,
        f"{start}this machine (KEEP_ON_DRIVE is off){other}",
    )


def test_06_takes_the_profiles_own_recorded_run_where_there_is_one(
    capsys, course, monkeypatch
):
    monkeypatch.setenv("GRPO_PROFILE", "cpu_quick")
    copy("cpu_quick-seed0", course / "notebooks" / "recorded", 1000)
    run, lines = examine(capsys)
    assert run.name == "cpu_quick-seed0"
    assert lines == [
        "the recorded run cpu_quick-seed0: no finished run of cpu_quick is on this "
        "machine",
        "profile cpu_quick, seed 0: SmolLM2-135M-Instruct, fp32",
    ]


def test_06_names_a_profile_that_has_a_run(capsys, drive, monkeypatch):
    monkeypatch.setenv("GRPO_PROFILE", "t4_quick")
    copy("cpu-seed1", drive, 1000)
    run, lines = examine(capsys)
    assert run.name == "cpu-seed0"
    assert lines[0].endswith(". To see one of cpu, set GRPO_PROFILE=cpu")


def test_off_colab_the_box_changes_nothing(capsys, course, monkeypatch):
    monkeypatch.setenv("GRPO_PROFILE", "smoke")
    there = {}
    exec(source("05", "^KEEP_ON_DRIVE = True  # @param"), there)
    assert there["run"].parent == course / "runs"
    _, lines = examine(capsys)
    start = "the recorded run cpu-seed0: no finished run of smoke is on this machine"
    assert lines[0] == start


def test_05_opens_its_run_on_the_drive_and_goes_on_with_it(drive, monkeypatch):
    monkeypatch.setenv("GRPO_PROFILE", "smoke")
    runs = []
    for _ in range(2):  # two sessions
        there = {}
        exec(source("05", "^KEEP_ON_DRIVE = True  # @param"), there)
        runs.append(there["run"])
        assert there["profile"].name == "smoke" and there["seed"] == 0
    assert runs[0] == runs[1] and runs[0].parent == drive
    assert not (runs[0] / "heartbeat.json").exists() and last_beat(runs[0])[1] > 120


def test_05_refuses_a_gpu_profile_before_it_makes_anything(drive, monkeypatch):
    monkeypatch.setenv("GRPO_PROFILE", "t4_quick")
    with pytest.raises(CourseError, match=r"^profile t4_quick: .*no CUDA GPU"):
        exec(source("05", "^KEEP_ON_DRIVE = True  # @param"), {})
    assert not drive.exists()


def test_06_leaves_a_run_of_a_task_of_ones_own_alone(
    capsys, course, drive, monkeypatch
):
    monkeypatch.setenv("GRPO_PROFILE", "cpu_quick")
    config = copy("cpu-seed1", drive, 1000) / "config.json"
    text = config.read_text().replace('"arithmetic"', '"my_task.py"')
    config.write_text(text.replace('"name": "cpu"', '"name": "cpu_quick-my_task"'))
    run, lines = examine(capsys)
    assert run == course / "notebooks" / "recorded" / "cpu-seed0"
    assert lines[0].endswith(
        "no finished run of cpu_quick is on Google Drive or this machine"
    )
