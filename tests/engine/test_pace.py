"""How long a run takes here: the timed products, the arithmetic, and what is said."""

import json

import pytest

from helpers import pace, profiles, runs
from helpers.profiles import PROFILES, choose_profile, override
from tests import RECORDED

RATES = {"amx": {"fp32": 330, "bf16": 2200}, "avx2": {"fp32": 65, "bf16": 1.2}}


@pytest.fixture
def rate(monkeypatch):
    """Return a function that gives this CPU the speeds of another."""

    def set_rate(name):
        monkeypatch.setattr(pace, "speeds", lambda: RATES[name])

    return set_rate


def test_both_products_are_timed_once():
    rates = pace.speeds()
    assert set(rates) == {"fp32", "bf16"} and min(rates.values()) > 0.1
    assert rates["fp32"] < 1e5  # an empty loop would look faster
    assert pace.speeds() is rates


@pytest.mark.parametrize("kind,chosen", [("amx", "cpu"), ("avx2", "cpu_quick")])
def test_the_larger_profile_is_taken_where_it_is_done_in_time(
    kind, chosen, rate, monkeypatch
):
    monkeypatch.delenv("GRPO_PROFILE", raising=False)
    monkeypatch.setattr(profiles.torch.cuda, "is_available", lambda: False)
    rate(kind)
    profile, reason = choose_profile()
    assert profile.name == chosen
    both = [sum(pace.predicted_minutes(PROFILES[n]).values()) for n in ("cpu", chosen)]
    assert (both[0] <= pace.MOST) == (chosen == "cpu")
    assert reason.startswith("no CUDA GPU is visible; predicted minutes here: cpu ")
    assert f"cpu {both[0]:.0f}, cpu_quick " in reason


def test_half_the_speed_takes_twice_as_long(rate, monkeypatch):
    rate("avx2")
    slow = pace.predicted_minutes(PROFILES["cpu_quick"])
    monkeypatch.setattr(pace, "speeds", lambda: {"fp32": 130, "bf16": 2.4})
    fast = pace.predicted_minutes(PROFILES["cpu_quick"])
    assert all(slow[part] == pytest.approx(2 * fast[part]) for part in slow)


def test_minutes_follow_the_settings(rate):
    rate("amx")
    cpu = PROFILES["cpu"]
    usual = pace.predicted_minutes(cpu)
    twice = override(cpu, [f"max_steps={2 * cpu.grpo['max_steps']}"])
    parts = pace.predicted_minutes(twice)
    assert parts["training"] == pytest.approx(2 * usual["training"])
    assert parts["after"] == usual["after"]
    few = pace.predicted_minutes(override(cpu, ["num_eval=1"]))
    assert few["after"] < usual["after"] / 100
    stock = pace.predicted_minutes(override(cpu, ["trainer=stock"]))
    assert stock["training"] == pytest.approx(pace.STOCK * usual["training"])
    fp32 = pace.predicted_minutes(override(cpu, ["dtype=fp32"]))
    assert fp32["training"] > usual["training"]
    fp16 = pace.predicted_minutes(override(cpu, ["dtype=fp16"]))  # not timed
    assert fp16 == fp32


def test_nothing_is_said_of_what_is_not_known(rate):
    rate("amx")
    changes = ["model=/a/b"], ["max_steps=-1", "num_train_epochs=1"]
    others = [override(PROFILES["cpu"], change) for change in changes]
    for profile in (PROFILES["t4"], *others):
        assert pace.predicted_minutes(profile) is None
        assert "not known" in pace.plan(profile)


def test_the_plan_names_parts_minutes_and_speed(rate):
    rate("avx2")
    profile = PROFILES["cpu_quick"]
    parts, line = pace.predicted_minutes(profile), pace.plan(profile)
    start = f"{profile.num_eval} problems before, {profile.grpo['max_steps']} steps, "
    assert line.startswith(start)
    for part, minutes in parts.items():
        assert f"{part} {minutes:.1f}" in line
    assert f"in all {sum(parts.values()):.1f} (GFLOP/s: fp32 65, bf16 1)" in line


# The first runs of cpu do not say how fast their CPU was.
TIMED = [f"cpu_quick-seed{seed}" for seed in range(3)]


@pytest.mark.parametrize("name", TIMED)
def test_recorded_runs_took_what_would_have_been_predicted(name, monkeypatch):
    """Training alone: from its first step to its last, at the speeds of its machine."""
    run = RECORDED / name
    config = json.loads((run / "config.json").read_text())
    monkeypatch.setattr(pace, "speeds", lambda: config["machine"]["gflops"])
    profile, _ = runs.load_run(run)
    rows = runs.read_log(run)
    measured = (rows[-1]["time"] - rows[0]["time"]) / 60
    predicted = pace.predicted_minutes(profile)["training"]
    predicted *= (len(rows) - 1) / len(rows)
    assert predicted == pytest.approx(measured, rel=0.3)
