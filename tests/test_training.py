"""The trainer, its guards and its log, on a tiny random model."""

import json
import signal
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from peft import get_peft_model
from safetensors.torch import load_file

from helpers import CourseError, training
from helpers.evaluation import load_questions
from helpers.models import load_model_and_tokenizer, load_trained
from helpers.profiles import PROFILES, lora_config, override


def length_reward(completions, **kwargs):
    return [float(len(c[0]["content"])) for c in completions]


@pytest.fixture
def setup(tiny_model, tmp_path):
    """A smoke profile of the tiny model with 8 tokens, and a new run's folder."""
    settings = [f"model={tiny_model}", "max_completion_length=8", "max_steps=4"]
    profile = override(PROFILES["smoke"], settings)
    run = tmp_path / "run"
    training.create_run(run, profile, 0)
    return profile, run


def train(profile, run, **settings):
    pair = load_model_and_tokenizer(profile.model, profile.dtype)
    questions = load_questions(profile, "train", 0)
    settings.setdefault("reward_funcs", [length_reward])
    minutes = settings.pop("max_minutes", None)
    trainer = training.build_trainer(profile, run, *pair, questions, **settings)
    return training.train_or_resume(trainer, run, minutes)


def steps(run):
    return [row["step"] for row in training.read_log(run)]


def test_a_run_leaves_its_log_its_completions_and_its_adapter(setup):
    profile, run = setup
    assert train(profile, run) is None
    assert steps(run) == [1, 2, 3, 4]
    row = training.read_log(run)[0]
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
    assert training.load_run(run) == (profile, 0)
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
    training.create_run(other, profile, 0)
    train(profile, other)
    name = "adapter/adapter_model.safetensors"
    there = load_file(other / name)
    for key, weight in load_file(run / name).items():
        assert torch.equal(weight, there[key]), key


def test_ctrl_c_ends_the_step_and_saves(setup):
    profile, run = setup

    def interrupt(completions, **kwargs):
        signal.raise_signal(signal.SIGINT)
        return [1.0] * len(completions)

    before = signal.getsignal(signal.SIGINT)
    assert train(profile, run, reward_funcs=[interrupt]) == "Ctrl-C"
    assert steps(run) == [1]
    assert training.last_checkpoint(run)[0] == 1
    assert signal.getsignal(signal.SIGINT) is before


def test_a_checkpoint_cut_short_is_passed_over(setup):
    profile, run = setup
    train(profile, run, max_minutes=0)
    for name, text in {"checkpoint-2": None, "checkpoint-3": '{"global_st'}.items():
        (run / name).mkdir()
        if text:
            (run / name / "trainer_state.json").write_text(text)
    assert training.last_checkpoint(run) == (1, str(run / "checkpoint-1"))
    assert training.last_checkpoint(run / "nowhere") == (0, None)


def test_a_run_that_is_there_stays_as_it_is(setup):
    profile, run = setup
    before = (run / "config.json").read_bytes()
    with pytest.raises(CourseError, match="exists already and stays as it is"):
        training.create_run(run, replace(profile, num_eval=1), 1)
    assert (run / "config.json").read_bytes() == before
    with pytest.raises(CourseError, match="is not a run's folder"):
        training.load_run(run / "nowhere")


def test_broken_weights_stop_the_run_and_are_not_saved(setup):
    profile, run = setup
    profile = override(profile, ["learning_rate=1e38"])
    with pytest.raises(
        CourseError, match=r"step 1: the weight .* is not finite.*lower"
    ):
        train(profile, run)
    assert training.last_checkpoint(run) == (0, None)


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
        (lambda completions, **_: [1.0], r"returned 1 rewards for 8 completions"),
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
