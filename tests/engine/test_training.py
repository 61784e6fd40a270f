"""The trainer, its guards and its log, on a tiny random model."""

import json
import re
import shutil
import signal
from types import SimpleNamespace

import pytest
import torch
from peft import get_peft_model
from safetensors.torch import load_file

from helpers import CourseError, runs, training
from helpers.evaluation import load_questions
from helpers.models import load_model_and_tokenizer, load_trained
from helpers.profiles import PROFILES, lora_config, override
from tests.tiny import go_on, length_reward, steps


@pytest.fixture
def setup(tiny_model, tmp_path):
    """A smoke profile of the tiny model with 8 tokens, and a new run's folder."""
    settings = [f"model={tiny_model}", "max_completion_length=8", "max_steps=4"]
    profile = override(PROFILES["smoke"], settings)
    run = tmp_path / "run"
    runs.create_run(run, profile, 0)
    return profile, run


def train(profile, run, **settings):
    pair = load_model_and_tokenizer(profile.model, profile.dtype)
    questions = load_questions(profile, "train", 0)
    settings.setdefault("reward_funcs", [length_reward])
    minutes = settings.pop("max_minutes", None)
    trainer = training.build_trainer(profile, run, *pair, questions, **settings)
    return training.train_or_resume(trainer, run, minutes)


def test_a_run_leaves_its_log_its_completions_and_its_adapter(setup):
    profile, run = setup
    assert train(profile, run) is None
    assert steps(run) == [1, 2, 3, 4]
    row = runs.read_log(run)[0]
    assert {"time", "loss", "reward", "rewards/length_reward/mean", "entropy"} <= set(
        row
    )
    assert len(list((run / "completions").glob("*.parquet"))) == 4
    config = json.loads((run / "adapter" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == profile.model
    weights = load_file(run / "adapter" / "adapter_model.safetensors")
    assert any(w.abs().max() > 0 for name, w in weights.items() if "lora_B" in name)
    assert {w.dtype for w in weights.values()} == {torch.float32}
    config = json.loads((run / "config.json").read_text())
    assert config["machine"]["trl"].startswith("1.16")
    assert runs.load_run(run) == (profile, 0)
    model, _ = load_trained(profile, run / "adapter")
    assert model.peft_config["default"].r == 8


def test_time_over_saves_and_resume_ends_as_if_never_stopped(setup, tmp_path):
    profile, run = setup
    assert (
        train(profile, run, max_minutes=0) == "0 minutes leave no time for another step"
    )
    assert steps(run) == [1] and not (run / "adapter").exists()
    with open(run / "log.jsonl", "a") as file:  # logged, but killed before it was saved
        file.write('{"step": 2, "loss": 0}\n{"step": 3, "lo')
    assert train(profile, run) is None
    assert steps(run) == [1, 2, 3, 4]
    other = tmp_path / "other"
    runs.create_run(other, profile, 0)
    train(profile, other)
    name = "adapter/adapter_model.safetensors"
    there = load_file(other / name)
    for key, weight in load_file(run / name).items():
        assert torch.equal(weight, there[key]), key


def test_the_first_step_of_each_call_tells_how_long_the_rest_takes(setup, capsys):
    profile, run = setup
    for first, left in ((1, 3), (2, 2)):
        train(profile, run, max_minutes=0 if first == 1 else None)
        said = [x for x in capsys.readouterr().out.splitlines() if " took " in x]
        log = runs.read_log(run)
        assert [row["step"] for row in log[first - 1 : first]] == [first]
        match = re.fullmatch(
            rf"step {first} took (\d+) s: at that pace (\d+\.\d) minutes to the last.",
            *said,
        )
        seconds, minutes = map(float, match.groups())
        assert abs(minutes - seconds * left / 60) <= 0.05 + 0.5 * left / 60


@pytest.mark.parametrize("device,told", [("cpu", 1), ("cuda", 2)])
def test_a_gpu_that_warms_up_is_not_taken_for_its_pace(
    device, told, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda: None)
    clock = iter([0.0, 0.0, 27.0, 39.0, 51.0])  # made, begun, and three steps
    monkeypatch.setattr(
        training, "time", SimpleNamespace(monotonic=lambda: next(clock), time=float)
    )
    callback = training.RunCallback(tmp_path)
    args = SimpleNamespace(device=torch.device(device))
    state = SimpleNamespace(max_steps=11, global_step=0, is_world_process_zero=True)
    callback.on_train_begin(args, state, None)
    for state.global_step in (1, 2, 3):
        callback.on_step_end(args, state, SimpleNamespace(), torch.nn.Linear(1, 1))
        callback.on_log(args, state, None, {"loss": 0.0, "reward": 0.0})
    callback.bar.close()
    callback.memory.close()
    said = [x for x in capsys.readouterr().out.splitlines() if " took " in x]
    line = {
        1: "step 1 took 27 s: at that pace 4.5 minutes to the last.",
        2: "step 2 took 12 s: at that pace 1.8 minutes to the last.",
    }
    assert said == [line[told]]


def test_ctrl_c_ends_the_step_and_saves(setup):
    profile, run = setup

    def interrupt(completions, **kwargs):
        signal.raise_signal(signal.SIGINT)
        return [1.0] * len(completions)

    before = signal.getsignal(signal.SIGINT)
    assert train(profile, run, reward_funcs=[interrupt]) == "Ctrl-C"
    assert steps(run) == [1]
    assert runs.last_checkpoint(run)[0] == 1
    assert signal.getsignal(signal.SIGINT) is before


def test_broken_weights_stop_the_run_and_are_not_saved(setup):
    profile, run = setup
    profile = override(profile, ["learning_rate=1e38"])
    with pytest.raises(
        CourseError, match=r"step 1: the weight .* is not finite.*lower"
    ):
        train(profile, run)
    assert runs.last_checkpoint(run) == (0, None)


@pytest.mark.parametrize("key", ["loss", "reward"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), None])
def test_a_loss_or_reward_that_is_not_finite_stops_the_run(setup, key, value):
    callback = training.RunCallback(setup[1])
    logs = {"loss": 0.1, "reward": 1.0} | {key: value}
    with pytest.raises(CourseError, match=f"step 7: the {key} is {value}; training"):
        callback.on_log(None, SimpleNamespace(global_step=7), None, logs=logs)
    assert steps(setup[1]) == []


def test_a_model_that_is_not_finite_is_said(setup):
    profile, run = setup
    model, tokenizer = load_model_and_tokenizer(profile.model)
    with torch.no_grad():
        model.model.norm.weight.fill_(float("nan"))
    questions = load_questions(profile, "train", 0)
    with pytest.raises(CourseError, match="the model's output is not finite"):
        trainer = training.build_trainer(profile, run, model, tokenizer, questions)
        training.train_or_resume(trainer, run)


def broken(completions, **kwargs):
    return kwargs["gold"]


@pytest.mark.parametrize(
    ("func", "message"),
    [
        (
            broken,
            r"reward function broken raised KeyError\('gold'\) \(test_training.py, ",
        ),
        (lambda completions, **_: [1.0], r"returned 1 rewards, but 8 were expected"),
        (lambda completions, **_: 1.0, r"raised TypeError"),
        (lambda completions, **_: ["1"] * 8, r"returned '1', not a finite number"),
        (lambda completions, **_: [float("nan")] * 8, r"returned nan, not a finite"),
    ],
)
def test_a_mistake_in_a_reward_function_is_one_line(setup, func, message):
    with pytest.raises(CourseError, match=message) as error:
        train(*setup, reward_funcs=[func])
    assert "\n" not in str(error.value)


def test_none_is_a_reward_that_does_not_apply():
    assert training.guard_reward(lambda completions: [None, 1])([0, 0]) == [None, 1]


def test_the_adapter_trains_alone_and_in_fp32(tiny_model):
    model, _ = load_model_and_tokenizer(str(tiny_model), "fp16")
    model = get_peft_model(model, lora_config(PROFILES["t4"]))
    dtypes = {p.requires_grad: p.dtype for p in model.parameters()}
    assert dtypes == {True: torch.float32, False: torch.float16}
    assert all("lora_" in n for n, p in model.named_parameters() if p.requires_grad)


@pytest.mark.parametrize(
    ("step", "save", "budget", "last"),
    [
        (60, 0, 3, 3),  # ends with the last second of the budget
        (60, 0, 3.9, 3),  # a fourth step would end too late
        (60, 20, 4, 3),  # three steps and saves; 3 × 80 s, and no room for a fourth
        (60, 20, 5.2, 3),  # a fourth step would end at 300 s, its save at 320
        (60, 20, 5.34, 4),
        (60, 0, 0, 1),  # at least one step is done and saved
    ],
)
def test_time_is_left_for_the_last_save(
    monkeypatch, tmp_path, step, save, budget, last
):
    clock = SimpleNamespace(now=100.0, monotonic=lambda: clock.now)
    monkeypatch.setattr(training, "time", clock)
    model = SimpleNamespace(named_parameters=lambda: [])
    callback = training.RunCallback(tmp_path, max_minutes=budget)
    control = SimpleNamespace(should_training_stop=False)
    state = SimpleNamespace(max_steps=9, global_step=0)
    args = SimpleNamespace(device=torch.device("cpu"))
    callback.on_train_begin(args, state, control)
    while callback.stopped is None and state.global_step < 9:
        clock.now += step
        state.global_step += 1
        callback.on_step_end(None, state, control, model=model)
        clock.now += save
        (tmp_path / f"checkpoint-{state.global_step}").mkdir()
        callback.on_save(None, state, control)
    callback.close()
    assert state.global_step == last
    assert control.should_save and control.should_training_stop
    assert clock.now - 100 <= 60 * budget or last == 1
    assert callback.stopped == f"{budget:g} minutes leave no time for another step"


def test_a_time_budget_saves_the_last_step_that_fits(stopped, monkeypatch):
    shutil.rmtree(stopped / "checkpoint-2")
    shutil.rmtree(stopped / "checkpoint-3")
    clock = SimpleNamespace(
        now=0.0, monotonic=lambda: clock.now, time=lambda: clock.now
    )
    monkeypatch.setattr(training, "time", clock)

    def reward(completions, **kwargs):
        clock.now += 60
        return length_reward(completions)

    assert go_on(stopped, reward, 2.5) == "2.5 minutes leave no time for another step"
    assert steps(stopped) == [1, 2]
    assert runs.last_checkpoint(stopped)[0] == 2


@pytest.mark.parametrize(("processes", "again"), [("1", True), ("2", False)])
def test_a_second_ctrl_c_is_offered_where_it_does_something(
    processes, again, monkeypatch, capsys, tmp_path
):
    monkeypatch.setenv("WORLD_SIZE", processes)
    training.RunCallback(tmp_path).on_interrupt()
    assert ("Ctrl-C again loses the step" in capsys.readouterr().out) == again
