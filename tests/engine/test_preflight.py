"""The preflight on a tiny fp16 model: what it prints, and each remedy on a broken one.

On a CPU there is neither autocast nor a scaler, whatever `fp16` says; the lines for
CUDA are read by the test that wants a GPU.
"""

import re

import pytest
import torch

from helpers import CourseError, training
from helpers.data import get_gsm8k_questions
from helpers.models import load_model_and_tokenizer
from helpers.preflight import MemoryFull, preflight
from helpers.profiles import PROFILES, override
from tests.tiny import length_reward


@pytest.fixture
def make(tiny_model, gsm8k_folder, tmp_path, monkeypatch):
    """A function that builds (trainer, profile) of the T4 recipe on the tiny model.

    On a CPU a run with fp16 is refused; what the preflight sees is the same there.
    """
    on_cpu = [] if torch.cuda.is_available() else ["device=cpu"]
    if on_cpu:
        monkeypatch.setattr(training, "check_device", lambda profile: None)

    def build(dtype="fp16", **settings):
        short = [f"model={tiny_model}", "max_completion_length=4", f"dtype={dtype}"]
        short += ["eval_batch_size=4", "eval_new_tokens=4", *on_cpu]
        profile = override(PROFILES["t4"], short)
        pair = load_model_and_tokenizer(profile.model, dtype)
        questions = get_gsm8k_questions("train", folder=gsm8k_folder)
        trainer = training.build_trainer(
            profile, tmp_path, *pair, questions, **settings
        )
        return trainer, profile

    return build


def test_a_healthy_run_is_described_and_left_as_it_was(make, capsys):
    trainer, profile = make()
    before = {n: p.detach().clone() for n, p in trainer.model.named_parameters()}
    state, mode = torch.get_rng_state(), trainer.model.training
    preflight(trainer, profile)
    assert torch.equal(torch.get_rng_state(), state)
    assert trainer.model.training is mode and trainer.optimizer is None
    for name, p in trainer.model.named_parameters():
        assert torch.equal(p, before[name]) and p.grad is None, name
    lines = capsys.readouterr().out.splitlines()
    assert lines[:4] == [
        "base weights: float16",
        "norms: float16",
        "adapters: float32",
        "attention: sdpa",
    ]
    assert lines[4] == "logits: float16"
    # Two layers of q, k, v, o; where B = 0, A has no gradient yet.
    assert lines[5].startswith("one step: gradient norm ")
    assert lines[5].endswith("8 of 16 adapter tensors changed, and put back")
    number = r"(\d+\.\d\d)"
    parts = rf"evaluation {number}, generation {number}, one step {number}"
    most = re.fullmatch(f"memory: GiB at most for {parts}; {number} left", lines[6])
    assert min(map(float, most.groups())) > (0.0 if torch.cuda.is_available() else 0.1)
    assert len(lines) == 7


def test_training_after_a_preflight_is_training_without_one(make):
    settings = {"max_steps": 1, "learning_rate": 1e-2, "warmup_steps": 0}
    settings |= {"fp16": False, "reward_funcs": [length_reward]}
    adapters = []
    for check in (False, True):
        trainer, profile = make("fp32", **settings)
        trained = [p for p in trainer.model.parameters() if p.requires_grad]
        before = [p.detach().clone() for p in trained]
        if check:
            preflight(trainer, profile)
        trainer.train()
        # B moves at the first step, A where the gradient passes a B that is not zero.
        pairs = zip(before, trained, strict=True)
        assert sum(not torch.equal(p, q) for p, q in pairs) >= 8
        adapters.append([p.detach().clone() for p in trained])
        assert trainer.state.log_history[0]["reward_std"] > 0
    for p, q in zip(*adapters, strict=True):
        assert torch.equal(p, q)


def halve_an_adapter(trainer):
    for name, p in trainer.model.named_parameters():
        if "lora_A" in name:
            p.data = p.data.half()


def freeze(trainer):
    trainer.model.requires_grad_(False)


def blow_up_a_weight(trainer):
    trainer.model.get_base_model().model.layers[1].mlp.up_proj.weight.data[0] = (
        torch.inf
    )


def overflow(trainer):
    # Each weight is finite, but their products are larger than fp16's 65,504.
    for layer in trainer.model.get_base_model().model.layers:
        layer.mlp.up_proj.weight.data.fill_(6e4)
        layer.mlp.gate_proj.weight.data.fill_(6e4)


def zero_the_adapters(trainer):
    for p in trainer.model.parameters():
        if p.requires_grad:
            p.data.zero_()


@pytest.mark.parametrize(
    "break_it, settings, remedy",
    [
        (halve_an_adapter, {}, "Attempting to unscale FP16 gradients"),
        (halve_an_adapter, {}, "autocast_adapter_dtype=True"),
        (freeze, {}, "nothing is trained: no weight has requires_grad. Load the model"),
        (blow_up_a_weight, {}, "layers.1.mlp.up_proj.weight. Load the model afresh"),
        (overflow, {}, "logits are not finite: the model overflows. Load the model in"),
        (zero_the_adapters, {}, "no gradient reaches the adapters. Load the model"),
        (None, {"learning_rate": 0.0}, "learning_rate=0 changes nothing: raise"),
        (None, {"fp16": False, "bf16": True}, "fp16: set fp16=True, bf16=False"),
    ],
)
def test_what_is_broken_stops_it_with_the_remedy(make, break_it, settings, remedy):
    trainer, profile = make(**settings)
    if break_it:
        break_it(trainer)
    adapters = [p.clone() for p in trainer.model.parameters() if p.requires_grad]
    with pytest.raises(CourseError) as error:
        preflight(trainer, profile)
    assert remedy in str(error.value) and "\n" not in str(error.value)
    after = [p for p in trainer.model.parameters() if p.requires_grad]
    for p, q in zip(after, adapters, strict=True):
        assert torch.equal(p, q)


def test_eager_attention_is_refused(make):
    trainer, profile = make()
    trainer.model.get_base_model().set_attn_implementation("eager")
    with pytest.raises(CourseError, match="load the model with attn_implementation="):
        preflight(trainer, profile)


@pytest.mark.parametrize(
    "function,remedy",
    [
        ("try_evaluation", "evaluation: the memory is full. Lower eval_batch_size."),
        (
            "try_generation",
            "generation: the memory is full. Lower num_generations",
        ),
        (
            "try_step",
            "one step: the memory is full. Lower per_device_train_batch",
        ),
    ],
)
@pytest.mark.parametrize(
    "full",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: not enough memory"),
    ],
    ids=["gpu", "python", "cpu"],
)
def test_memory_that_ends_gets_the_remedy_of_its_part(
    make, monkeypatch, function, remedy, full
):
    def fill(*args):
        raise full

    trainer, profile = make()
    monkeypatch.setattr(f"helpers.preflight.{function}", fill)
    adapters = [p.clone() for p in trainer.model.parameters() if p.requires_grad]
    with pytest.raises(MemoryFull, match=re.escape(remedy)):
        preflight(trainer, profile)
    after = [p for p in trainer.model.parameters() if p.requires_grad]
    for p, q in zip(after, adapters, strict=True):
        assert torch.equal(p, q)


@pytest.mark.gpu
def test_on_a_gpu_the_step_is_scaled_and_measured(make, capsys):
    trainer, profile = make()
    preflight(trainer, profile)
    assert "GiB at most" in capsys.readouterr().out
    assert trainer.accelerator.scaler.get_scale() == 2.0**16
    if not torch.cuda.is_bf16_supported(False):
        trainer, profile = make("bf16", fp16=False, bf16=True)
        with pytest.raises(CourseError, match="only emulates bf16: set fp16=True"):
            preflight(trainer, profile)
