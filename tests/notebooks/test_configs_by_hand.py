"""The settings that notebook 05 spells out are those of the profiles."""

from types import SimpleNamespace

import pytest
from trl import GRPOConfig

from helpers import fast, preflight, profiles, runs
from helpers.profiles import PROFILES, grpo_config, lora_config
from tests.notebooks.cells import source


def as_toml(row: tuple) -> list:
    """A row of the notebook's tables as profiles.toml has it: there is no None."""
    return ["" if value is None else value for value in row]


@pytest.mark.parametrize("name", profiles.NAMES)
def test_the_notebook_builds_the_configs_of_the_profile(name, tmp_path):
    profile = PROFILES[name]
    there = {"profile": profile, "run": tmp_path, "seed": 3, "GRPOConfig": GRPOConfig}
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


def test_where_memory_is_full_the_trainer_is_built_again_and_the_run_told(
    monkeypatch, capsys
):
    profile, smaller, told = PROFILES["t4"], PROFILES["t4_quick"], []
    trainer = SimpleNamespace(model=SimpleNamespace(unload=lambda: "base"))
    monkeypatch.setattr(fast, "trainer_class", lambda _: lambda **_: trainer)
    monkeypatch.setattr(runs, "update_profile", lambda *what: told.append(what))

    def refuse(*_):
        raise preflight.MemoryFull("one step")

    def fit(*settings, seed):
        told.append((*settings, seed))
        return "smaller trainer", smaller

    monkeypatch.setattr(preflight, "preflight", refuse)
    monkeypatch.setattr(preflight, "fit", fit)
    names = ("model", "tokenizer", "questions", "run", "config", "lora_config")
    there = {name: name for name in names} | {"profile": profile, "seed": 3}
    exec(source("05", "^trainer = "), there)
    assert (there["trainer"], there["profile"]) == ("smaller trainer", smaller)
    fitted = (profile, "run", "base", "tokenizer", "questions", 3)
    assert told == [fitted, ("run", smaller)]
    assert "Lower per_device_train_batch_size." in capsys.readouterr().out


def test_a_run_goes_on_with_the_micro_batch_that_fitted(tmp_path):
    settings = ["per_device_train_batch_size=8", "gradient_accumulation_steps=4"]
    profile = profiles.override(PROFILES["t4"], settings)
    there = {"profile": profile, "run": tmp_path, "seed": 3, "GRPOConfig": GRPOConfig}
    for start in ("lora =", "learning =", "sampling =", "hardware =", "table ="):
        exec(source("05", f"^{start}"), there)
    assert there["config"].per_device_train_batch_size == 8
    assert there["config"].gradient_accumulation_steps == 4
