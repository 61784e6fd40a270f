"""The memory budget: each part follows from the settings, and its widget says so.

tests/endtoend/test_measured_memory.py compares it with measured bytes.
"""

import ipywidgets
import pytest
import torch
from peft import get_peft_model
from transformers import AutoModelForCausalLM
from trl.trainer import utils as trl_utils
from trl.trainer.utils import add_fused_lm_head

from helpers import GIB, CourseError
from helpers.lab import budget as course
from helpers.lab.budget import (
    OUTSIDE_GIB,
    T4_GIB,
    TILE_WORDS,
    architecture,
    count_parameters,
    memory_budget,
    peak,
)
from helpers.profiles import (
    ATTENTION,
    PROFILES,
    QWEN,
    QWEN_05B,
    SMOL,
    lora_config,
    override,
)
from tests.notebooks.cells import source


def changed(profile, **settings):
    """A profile with some settings changed."""
    return override(profile, [f"{name}={x!r}" for name, x in settings.items()])


def build(profile, config, device="cpu"):
    """The model as GRPOTrainer makes it: TRL's head, PEFT's adapters."""
    dtype = {"fp16": torch.float16, "bf16": torch.bfloat16}.get(profile.dtype)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype or torch.float32)
    if profile.grpo["gradient_checkpointing"]:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    model.enable_input_require_grads()
    add_fused_lm_head(model, outputs=("log_probs", "entropy"))
    meta = device == "meta"
    return get_peft_model(model, lora_config(profile), low_cpu_mem_usage=meta).train()


@pytest.mark.parametrize(
    "name, weights, adapters",
    [
        (QWEN, 1_543_714_304, 2_179_072),
        (QWEN_05B, 494_032_768, 1_081_344),
        (SMOL, 134_515_008, 921_600),
    ],
)
def test_parameters_are_those_of_the_real_model(name, weights, adapters):
    config = architecture(name)
    assert count_parameters(config) == weights
    assert count_parameters(config, 8, ATTENTION) == adapters
    model = build(PROFILES["t4"], config, "meta")
    parameters = list(model.parameters())
    assert sum(p.numel() for p in parameters if not p.requires_grad) == weights
    assert sum(p.numel() for p in parameters if p.requires_grad) == adapters


def test_the_parts_follow_from_the_settings():
    profile = PROFILES["t4"]
    budget = memory_budget(profile)
    assert set(budget) == {"prefill", "decoding", "loss", "backward"}
    backward = budget["backward"]
    assert backward["weights"] == 2 * 1_543_714_304
    assert backward["adapters"] == backward["gradients"] == 4 * 2_179_072
    assert backward["optimizer"] == 8 * 2_179_072
    # 28 layers, keys and values of 256 numbers, 32 sequences of 512 tokens; and while
    # it grows, a second copy of one of 56 tensors.
    cache = 28 * 2 * 256 * 2 * 32 * 512
    assert budget["decoding"]["kv_cache"] == cache * 57 / 56
    # A tile of logits: 4,096 of 32 × 256 tokens by 32,768 words in fp16; never all.
    tile = 4096 * TILE_WORDS * 2
    assert budget["loss"]["logits"] == tile + 6 * 1536 * 32 * 256
    more = memory_budget(profile, gradient_accumulation_steps=2)
    assert more["decoding"]["kv_cache"] == 2 * budget["decoding"]["kv_cache"]
    assert more["backward"] == backward
    assert memory_budget(profile, r=16)["backward"]["optimizer"] == 16 * 2_179_072
    assert peak(budget) == ("backward", sum(backward.values()))


@pytest.mark.parametrize(
    "name, step, evaluation", [("t4", 6.5, 5.2), ("t4_quick", 2.6, 2.1)]
)
def test_a_t4_holds_all_completions_of_a_step_at_once(name, step, evaluation):
    """And the evaluation's batches: the figures that README and notebook 05 give."""
    profile = PROFILES[name]
    most = peak(memory_budget(profile))[1] / GIB
    rows = {"per_device_train_batch_size": profile.eval_batch_size}
    rows["max_completion_length"] = profile.eval_new_tokens
    answering = memory_budget(profile, **rows)
    answering = peak({part: answering[part] for part in ("prefill", "decoding")})[1]
    assert (round(most, 1), round(answering / GIB, 1)) == (step, evaluation)
    assert profile.grpo["gradient_accumulation_steps"] == 1
    assert peak(memory_budget(profile, gradient_checkpointing=False))[1] > T4_GIB * GIB


@pytest.mark.parametrize("name", ["t4", "t4_quick"])
def test_the_micro_batch_is_the_largest_that_fits_beside_what_pytorch_keeps(name):
    profile, completions = PROFILES[name], 32
    powers = [2**n for n in range(6)]  # up to all completions of a step

    def most(rows):
        now = {"per_device_train_batch_size": rows}
        now["gradient_accumulation_steps"] = max(1, completions // rows)
        return peak(memory_budget(profile, **now))[1] / GIB

    fits = [rows for rows in powers if most(rows) <= 14 - OUTSIDE_GIB]
    assert profile.grpo["per_device_train_batch_size"] == max(fits) == completions
    assert profile.grpo["gradient_accumulation_steps"] == 1
    assert most(4 * completions) > most(completions)  # a budget that knows its rows


def test_trl_still_makes_logits_in_tiles_of_that_width():
    assert trl_utils._CHUNKED_LOGPROB_CHUNK_SIZE == TILE_WORDS


def test_an_unknown_model_or_setting_is_named():
    with pytest.raises(CourseError, match="no shapes of 'other'"):
        memory_budget(changed(PROFILES["t4"], model="other"))
    with pytest.raises(CourseError, match="did you mean max_completion_length"):
        memory_budget(PROFILES["t4"], max_completion_lenght=1)
    with pytest.raises(CourseError, match=r"'lm_head'\] is none of k_proj"):
        memory_budget(PROFILES["t4"], target_modules=["q_proj", "lm_head"])


def test_the_widget_says_what_the_budget_says(monkeypatch):
    shown, drawn = [], []

    class Handle:
        def update(self, image):
            shown.append(image.metadata["alt"])

    def show(what, display_id=None):
        shown.append(what if display_id is None else what.metadata["alt"])
        return Handle()

    real = course.plot_budgets
    monkeypatch.setattr(course, "display", show)
    monkeypatch.setattr(
        course, "plot_budgets", lambda budgets: drawn.append(budgets) or real(budgets)
    )
    there = {"memory_budget": memory_budget, "PROFILES": PROFILES}
    exec(source("04", "^def what_helps"), there)
    course.explore_budgets(there["what_helps"], PROFILES["t4"])
    box = shown.pop()
    controls = {child.description: child for child in box.children[:-1]}
    label = box.children[-1]
    assert isinstance(label, ipywidgets.Label)

    def expected(**changes):
        moment, most = peak(memory_budget(PROFILES["t4"], gpu=True, **changes))
        return f"{most / GIB:.1f} GiB for {moment}"

    assert label.value.endswith(f"{expected()}, fits on a T4")
    assert set(drawn[-1]) == {
        "rank 1", "half the completion tokens", "half at once, twice as often", "as set"
    }  # fmt: skip
    controls["checkpointing"].value = False
    controls["completions at once"].value = 16
    now = {"per_device_train_batch_size": 16, "gradient_accumulation_steps": 2}
    said = expected(gradient_checkpointing=False, **now)
    start = "32 completions a step, 16 at once: "
    assert label.value == f"{start}{said}, does not fit on a T4"
    assert shown[-1] == label.value  # the picture's text too
    assert "checkpointing" in drawn[-1]
    controls["generations"].value = 2  # 8 completions a step: never more at once
    assert label.value.startswith("8 completions a step, 8 at once: ")
    controls["rank"].value, controls["dtype"].value = 1, "fp32"
    controls["prompt tokens"].value, controls["completion tokens"].value = 64, 128
    last = {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 1}
    last |= {"r": 1, "dtype": "fp32", "gradient_checkpointing": False}
    last |= {"max_prompt_length": 64, "max_completion_length": 128}
    assert expected(**last) in label.value
