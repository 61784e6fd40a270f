"""Profiles: the article's values, the choice for a machine, and --set."""

from types import SimpleNamespace

import pytest
import torch

from helpers import GIB, CourseError, doctor, pace
from helpers.profiles import PROFILES, choose_profile, grpo_config, override
from helpers.rewards import ARTICLE_REWARD_FUNCS, REWARD_FUNCS
from helpers.runs import PACKAGES


def test_the_article_profile_has_each_of_the_articles_values():
    profile = PROFILES["article"]
    config = grpo_config(profile, "out")
    expected = {
        "learning_rate": 5e-6,
        "adam_beta1": 0.9,
        "adam_beta2": 0.99,
        "weight_decay": 0.1,
        "warmup_steps": 0.1,
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 2,
        "num_generations": 4,
        "max_completion_length": 512,
        "max_grad_norm": 0.1,
        "num_train_epochs": 1,
        "fp16": True,
        "bf16": False,
    }
    assert {name: getattr(config, name) for name in expected} == expected
    assert config.lr_scheduler_type == "cosine"
    assert config.generation_batch_size // config.num_generations == 2
    assert profile.model == "Qwen/Qwen2.5-1.5B-Instruct"
    assert (profile.num_train, profile.max_prompt_length) == (20, 256)
    assert profile.lora == {
        "r": 8,
        "lora_alpha": 32,
        "lora_dropout": 0.05,
        "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj"],
    }
    assert profile.reward_funcs is ARTICLE_REWARD_FUNCS
    # A tenth of the article's 10 steps, rounded up, is what warmup_ratio=0.1 meant.
    assert config.get_warmup_steps(10) == 1


@pytest.mark.parametrize("name", list(PROFILES))
def test_every_profile_is_valid_and_never_bf16_by_accident(name):
    profile = PROFILES[name]
    config = grpo_config(profile, "out")
    assert config.bf16 is False
    assert config.fp16 is (profile.dtype == "fp16")
    assert config.generation_batch_size % config.num_generations == 0
    assert profile.eval_new_tokens >= 128
    assert name == "article" or profile.lora["lora_dropout"] == 0
    assert name == "article" or profile.reward_funcs is REWARD_FUNCS


def test_smoke_is_as_small_as_it_says():
    profile = PROFILES["smoke"]
    config = grpo_config(profile, "out")
    assert (config.max_steps, config.generation_batch_size) == (2, 8)
    assert (config.num_generations, config.max_completion_length) == (4, 24)
    assert (profile.num_eval, profile.dtype) == (4, "fp32")


def gpu(monkeypatch, gib):
    properties = SimpleNamespace(total_memory=gib * GIB)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: properties)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Tesla T4")


def test_the_machine_chooses_and_says_why(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    fast = {"fp32": 330, "bf16": 2200}  # test_pace.py asks for other speeds
    monkeypatch.setattr(pace, "speeds", lambda: fast)
    profile, reason = choose_profile()
    assert profile == PROFILES["cpu"] and reason.startswith("no CUDA GPU is visible; ")
    gpu(monkeypatch, 14.5)
    why = "Tesla T4, 14.5 GiB; GRPO_PROFILE=t4 takes the larger model, for longer"
    assert choose_profile() == (PROFILES["t4_quick"], why)
    gpu(monkeypatch, 9)
    profile, reason = choose_profile()
    assert profile == PROFILES["cpu"]
    assert reason.startswith("Tesla T4, 9.0 GiB; a GPU profile needs 14; predicted ")


def test_a_name_or_the_environment_outranks_the_machine(monkeypatch):
    monkeypatch.setenv("GRPO_PROFILE", "t4_quick")
    assert choose_profile() == (PROFILES["t4_quick"], "GRPO_PROFILE is set")
    assert choose_profile("smoke") == (PROFILES["smoke"], "asked for")
    monkeypatch.setenv("GRPO_PROFILE", "t5")
    with pytest.raises(
        CourseError, match=r"no profile 't5' \(GRPO_PROFILE is set\); use"
    ):
        choose_profile()


def test_cpu_profiles_stay_on_the_cpu_even_beside_a_gpu(monkeypatch):
    stays = {name: grpo_config(p, "out").use_cpu for name, p in PROFILES.items()}
    gpu_ones = dict.fromkeys(("article", "t4", "t4_quick"), False)
    assert stays == gpu_ones | dict.fromkeys(("cpu", "cpu_quick", "smoke"), True)
    gpu(monkeypatch, 14.5)
    stays = [name for name in stays if stays[name]]
    assert all(grpo_config(PROFILES[name], "out").use_cpu for name in stays)


def test_set_reaches_the_profile_lora_and_trl():
    settings = ["num_eval=7", "r=4", "learning_rate=1", "beta=0.04", "model=/a/b"]
    profile = override(PROFILES["cpu"], settings)
    assert (profile.num_eval, profile.model) == (7, "/a/b")
    assert profile.lora["r"] == 4
    assert profile.grpo["learning_rate"] == 1 and profile.grpo["beta"] == 0.04
    assert PROFILES["cpu"].num_eval == 200


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("learning_rat=1", "no setting 'learning_rat'; did you mean learning_rate?"),
        ("output_dir=x", "no setting 'output_dir'"),
        ("num_eval", "no setting 'num_eval'"),
        ("num_eval=many", "expected int, as in 200"),
        ("num_eval=1.5", "expected int"),
        ("learning_rate=fast", "expected float, as in 0.001"),
        ("fp16=1", "expected bool"),
    ],
)
def test_a_bad_set_is_named(setting, message):
    with pytest.raises(CourseError) as error:
        override(PROFILES["cpu"], [setting])
    assert message in str(error.value)


def test_a_group_that_does_not_divide_is_named():
    profile = override(PROFILES["cpu"], ["num_generations=7"])
    with pytest.raises(
        CourseError, match=r"\(64\) must be divisible by num_generations"
    ):
        grpo_config(profile, "out")
    with pytest.raises(CourseError, match="rewards is 'some'; use 'all' or 'article'"):
        _ = override(PROFILES["cpu"], ["rewards=some"]).reward_funcs


def test_the_doctor_knows_requirements_and_remedies(monkeypatch, tmp_path):
    found, remedies = doctor.check_machine()
    assert remedies == []
    assert sum(line.split()[0] in PACKAGES for line in found) == len(PACKAGES)
    assert any(line.startswith("profile cpu") for line in found)
    (tmp_path / "requirements.txt").write_text("torch>=99\ntrl-no-such-package>=1\n")
    monkeypatch.setattr("helpers.ROOT", tmp_path)
    memory = SimpleNamespace(available=10**9)
    monkeypatch.setattr(doctor.psutil, "virtual_memory", lambda: memory)
    found, remedies = doctor.check_machine()
    assert "trl-no-such-package is not installed" in found
    assert [line.split()[0] for line in remedies] == ["pip", "pip", "Close"]
