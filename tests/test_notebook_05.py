"""The settings that notebook 05 spells out are those of the profiles."""

import re
from pathlib import Path

import nbformat
import pytest
from trl import GRPOConfig

from helpers import profiles
from helpers.profiles import PROFILES, grpo_config, lora_config

PATH = Path(__file__).resolve().parents[1] / "notebooks" / "05_train_with_trl.ipynb"


@pytest.fixture(scope="module")
def cells() -> list[str]:
    nb = nbformat.read(PATH, as_version=4)
    return [cell.source for cell in nb.cells if cell.cell_type == "code"]


def source(cells, start: str) -> str:
    """The one cell with a line that starts so."""
    (found,) = (c for c in cells if re.search(f"^{re.escape(start)}", c, re.MULTILINE))
    return found


@pytest.mark.parametrize("name", profiles.NAMES)
def test_the_notebook_builds_the_configs_of_the_profile(name, cells, tmp_path):
    profile = PROFILES[name]
    kind = "cuda" if profiles.uses_gpu(profile.dtype) else "cpu"
    device = type("Device", (), {"type": kind})
    weight = type("Weight", (), {"device": device})
    model = type("Model", (), {"parameters": lambda self: iter([weight])})()
    there = {"profile": profile, "run": tmp_path, "seed": 3, "model": model}
    there["GRPOConfig"] = GRPOConfig
    for start in ("lora =", "learning =", "sampling =", "hardware =", "table ="):
        exec(source(cells, start), there)
    assert there["names"] == list(profiles.NAMES)
    mine, course = there["config"], grpo_config(profile, tmp_path, seed=3)
    assert mine.to_dict() == course.to_dict()
    assert there["lora_config"].to_dict() == lora_config(profile).to_dict()


def test_every_value_of_every_profile_stands_in_the_notebook(cells):
    there = {"profile": PROFILES["cpu"]}
    tables = [source(cells, f"{name} =") for name in ("learning", "sampling")]
    for text in (*tables, source(cells, "lora =")):
        exec(text, there)
    hardware = source(cells, "hardware =").partition("always =")[0]
    exec(hardware, there)
    assert there["learning"] | there["sampling"] | there["hardware"] == profiles.GRPO
    assert there["lora"] == profiles.LORA
    assert there["targets"] == list(profiles.ATTENTION)
