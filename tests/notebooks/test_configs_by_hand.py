"""The settings that notebook 05 spells out are those of the profiles."""

import pytest
from trl import GRPOConfig

from helpers import profiles
from helpers.profiles import PROFILES, grpo_config, lora_config
from tests.notebooks.cells import source


def as_toml(row: tuple) -> list:
    """A row of the notebook's tables as profiles.toml has it: there is no None."""
    return ["" if value is None else value for value in row]


@pytest.mark.parametrize("name", profiles.NAMES)
def test_the_notebook_builds_the_configs_of_the_profile(name, tmp_path):
    profile = PROFILES[name]
    kind = "cuda" if profiles.uses_gpu(profile.dtype) else "cpu"
    device = type("Device", (), {"type": kind})
    weight = type("Weight", (), {"device": device})
    model = type("Model", (), {"parameters": lambda self: iter([weight])})()
    there = {"profile": profile, "run": tmp_path, "seed": 3, "model": model}
    there["GRPOConfig"] = GRPOConfig
    for start in ("lora =", "learning =", "sampling =", "hardware =", "table ="):
        exec(source("05", f"^{start}"), there)
    assert there["names"] == list(profiles.NAMES)
    mine, course = there["config"], grpo_config(profile, tmp_path, seed=3)
    assert mine.to_dict() == course.to_dict()
    assert there["lora_config"].to_dict() == lora_config(profile).to_dict()


def test_every_value_of_every_profile_stands_in_the_notebook():
    there = {"profile": PROFILES["cpu"]}
    tables = [source("05", f"^{name} =") for name in ("learning", "sampling")]
    for text in (*tables, source("05", "^lora =")):
        exec(text, there)
    hardware = source("05", "^hardware =").partition("always =")[0]
    exec(hardware, there)
    grpo = there["learning"] | there["sampling"] | there["hardware"]
    assert {name: as_toml(row) for name, row in grpo.items()} == profiles.GRPO
    assert {name: as_toml(row) for name, row in there["lora"].items()} == profiles.LORA
    assert there["targets"] == list(profiles.ATTENTION)
