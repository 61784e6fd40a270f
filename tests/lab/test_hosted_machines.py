"""Kaggle's T4 x2 and Colab without a GPU: the set-up cell, then the profile."""

import os
from types import SimpleNamespace

import pytest
import torch

from helpers import GIB, CourseError, pace, runs
from helpers.lab import colab
from helpers.profiles import PROFILES, check_device, choose_profile

# Kaggle's image is made from Colab's, and keeps its variables (Kaggle/kagglehub 230).
KAGGLE = {
    "KAGGLE_KERNEL_RUN_TYPE": "Interactive",
    "COLAB_RELEASE_TAG": "release-colab_20260801",
}
COLAB = {"COLAB_RELEASE_TAG": "release-colab_20260801", "COLAB_GPU": ""}
# Two cores without bf16 instructions, as Colab's machines without a GPU have.
SLOW = {"fp32": 65.0, "bf16": 1.2}


@pytest.fixture(autouse=True)
def machine(monkeypatch):
    """A machine of no kind, where nothing is installed, with slow cores."""
    for name in (*KAGGLE, *COLAB, "CUDA_VISIBLE_DEVICES"):
        monkeypatch.setenv(name, "")  # so that all is put back
        monkeypatch.delenv(name)
    monkeypatch.setattr(colab, "replaced", set())
    monkeypatch.setattr(colab, "install", lambda: "all packages are there")
    for module in (pace, runs):
        monkeypatch.setattr(module, "speeds", lambda: SLOW)


def with_gpus(monkeypatch, count: int) -> list[str | None]:
    """So many T4, of which CUDA shows the visible ones; what was visible when asked."""
    asked = []

    def visible() -> int:
        shown = os.environ.get("CUDA_VISIBLE_DEVICES")
        asked.append(shown)
        there = count if shown is None else len([n for n in shown.split(",") if n])
        return min(count, there)

    properties = SimpleNamespace(total_memory=int(14.6 * GIB))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: visible() > 0)
    monkeypatch.setattr(torch.cuda, "device_count", visible)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: properties)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Tesla T4")
    return asked


def set_up(monkeypatch, capsys, place: dict) -> str:
    """What the set-up cell prints in a place."""
    for name, value in place.items():
        monkeypatch.setenv(name, value)
    colab.set_up()
    return capsys.readouterr().out


def test_kaggles_two_gpus_are_one_and_the_profile_is_that_of_a_t4(monkeypatch, capsys):
    asked = with_gpus(monkeypatch, 2)
    said = set_up(monkeypatch, capsys, KAGGLE)
    assert said.startswith("Kaggle: all packages are there\n")
    assert ", Tesla T4\nprofile t4_quick (Tesla T4, 14.6 GiB; GRPO_PROFILE=t4" in said
    assert "No GPU is on" not in said
    # CUDA counts its GPUs once: nobody may ask before one of them is hidden.
    assert set(asked) == {"0"}
    profile, _ = choose_profile()
    check_device(profile)
    check_device(PROFILES["t4"])


def test_without_the_set_up_cell_two_gpus_are_said(monkeypatch):
    with_gpus(monkeypatch, 2)
    with pytest.raises(CourseError, match="2 GPUs are visible, and a process uses one"):
        check_device(PROFILES["t4_quick"])


def test_a_gpu_that_was_chosen_on_kaggle_stays_chosen(monkeypatch, capsys):
    with_gpus(monkeypatch, 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    set_up(monkeypatch, capsys, KAGGLE)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "1"


def test_on_colab_no_gpu_is_hidden(monkeypatch, capsys):
    with_gpus(monkeypatch, 1)
    said = set_up(monkeypatch, capsys, COLAB)
    assert said.startswith("Colab: ") and "profile t4_quick" in said
    assert "CUDA_VISIBLE_DEVICES" not in os.environ


def test_colab_without_a_gpu_takes_the_quick_profile_and_names_the_menu(
    monkeypatch, capsys
):
    with_gpus(monkeypatch, 0)
    said = set_up(monkeypatch, capsys, COLAB)
    assert "no GPU\nprofile cpu_quick (no CUDA GPU is visible; predicted" in said
    assert said.endswith(
        "\nNo GPU is on. To get one: Runtime > Change runtime type > T4 GPU > Save, "
        "then run this cell again.\n"
    )
    check_device(choose_profile()[0])


def test_kaggle_without_a_gpu_names_its_own_menu(monkeypatch, capsys):
    with_gpus(monkeypatch, 0)
    said = set_up(monkeypatch, capsys, KAGGLE)
    assert "profile cpu_quick" in said and "Settings > Accelerator > GPU T4 x2" in said
    assert "Runtime" not in said


def test_a_profile_for_a_gpu_without_one_is_refused_in_words(monkeypatch, capsys):
    with_gpus(monkeypatch, 0)
    monkeypatch.setenv("GRPO_PROFILE", "t4")
    assert "profile t4 (GRPO_PROFILE is set)" in set_up(monkeypatch, capsys, COLAB)
    with pytest.raises(CourseError, match="no CUDA GPU is visible"):
        check_device(choose_profile()[0])


def test_kaggle_has_no_drive(monkeypatch):
    for name, value in KAGGLE.items():
        monkeypatch.setenv(name, value)
    assert colab.runs_folder(keep_on_drive=True) == colab.ROOT / "runs"
