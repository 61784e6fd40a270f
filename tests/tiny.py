"""Tiny random models, and a tiny run: whatever trains in the tests is made here."""

from pathlib import Path

import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from helpers import runs, training
from helpers.evaluation import load_questions
from helpers.models import load_model_and_tokenizer
from helpers.profiles import PROFILES, override

WORDS = 600  # of the vocabulary where 49,152 would take TRL its time
# The quickest step that still trains: one group of two, four tokens each.
SMALL = ["num_generations=2", "per_device_train_batch_size=2", "num_examples=0"]
SMALL += ["max_completion_length=4", "save_steps=1"]
ADAPTER = "adapter/adapter_model.safetensors"
# What a checkpoint holds, its seal last.
FILES = ["trainer_state.json", "adapter_model.safetensors", "optimizer.pt"]
FILES += ["scheduler.pt", "rng_state.pth", "sha256.json"]


def qwen2_config(**changes) -> Qwen2Config:
    """The config of a Qwen2 of two layers and width 32, with changes."""
    shapes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    shapes |= {"num_attention_heads": 4, "num_key_value_heads": 2}
    return Qwen2Config(**(shapes | changes))


def qwen2(**changes) -> Qwen2ForCausalLM:
    """That Qwen2 with random weights, always the same ones."""
    torch.manual_seed(0)
    return Qwen2ForCausalLM(qwen2_config(**changes))


def adapters(model) -> dict[str, torch.Tensor]:
    """What is trained of a model, by name."""
    return {n: p for n, p in model.named_parameters() if p.requires_grad}


def draw_adapters(model) -> None:
    """Draw the adapters of a model at random: B is not 0, so they change its texts."""
    generator = torch.Generator().manual_seed(1)
    for name, p in adapters(model).items():
        scale = 0.02 if "lora_B" in name else 0.1
        p.data = scale * torch.randn(p.shape, generator=generator)


def prompts_of(count=5, shared=3) -> list[list[int]]:
    """Prompts of 5 to 25 tokens that begin alike, the second much shorter."""
    rng = torch.Generator().manual_seed(9)
    sizes = [20 + n % 5 if n != 1 else 5 for n in range(count)]
    every = [torch.randint(20, WORDS, (n,), generator=rng).tolist() for n in sizes]
    return [every[0][:shared] + prompt[shared:] for prompt in every]


def length_reward(completions, **kwargs) -> list[float]:
    """A reward that a random model earns in different measure."""
    return [float(len(completion[0]["content"])) for completion in completions]


def new_run(run: Path, model: Path, steps: int) -> Path:
    """The folder of a new run of so many steps with the model of another folder."""
    settings = [f"model={model}", f"max_steps={steps}", *SMALL]
    runs.create_run(run, override(PROFILES["smoke"], settings), 0)
    return run


def go_on(
    run: Path, reward=length_reward, max_minutes=None, callbacks=()
) -> str | None:
    """Train as a notebook does: with the settings that the run's folder keeps."""
    profile, seed = runs.load_run(run)
    pair = load_model_and_tokenizer(profile.model, profile.dtype)
    questions = load_questions(profile, "train", seed)
    settings = {"reward_funcs": [reward], "seed": seed}
    trainer = training.build_trainer(profile, run, *pair, questions, **settings)
    return training.train_or_resume(trainer, run, max_minutes, callbacks)


def steps(run: Path) -> list[int]:
    """The steps that stand in the log of a run."""
    return [row["step"] for row in runs.read_log(run)]
