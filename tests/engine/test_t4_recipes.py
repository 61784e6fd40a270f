"""What the recipes for a T4 rest on: one step of fp16 by hand; on a GPU, theirs.

On a CPU accelerate applies neither autocast nor a gradient scaler, whatever `fp16`
says. The runs of tests/endtoend/test_t4_recipes.py are therefore the plumbing alone;
the step here does the arithmetic, with the CPU's own autocast and scaler.
"""

import pytest
import torch
from peft import get_peft_model

from helpers import training
from helpers.data import get_gsm8k_questions
from helpers.models import load_model_and_tokenizer
from helpers.profiles import PROFILES, lora_config, override


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["article", "t4", "t4_quick"])
def test_on_a_gpu_autocast_and_the_scaler_are_on(
    name, tiny_model, gsm8k_folder, tmp_path
):
    settings = [f"model={tiny_model}", "max_completion_length=4", "max_steps=2"]
    profile = override(PROFILES[name], settings)
    pair = load_model_and_tokenizer(profile.model, profile.dtype)
    questions = get_gsm8k_questions("train", folder=gsm8k_folder)
    trainer = training.build_trainer(profile, tmp_path, *pair, questions)
    assert trainer.model.device.type == "cuda"
    assert trainer.accelerator.scaler.is_enabled()
    assert trainer.accelerator.mixed_precision == "fp16"
    trainer.train()
    assert all(torch.isfinite(p).all() for p in trainer.model.parameters())


def test_one_step_under_autocast_with_a_scaler_changes_only_the_adapter(tiny_model):
    model, tokenizer = load_model_and_tokenizer(str(tiny_model), "fp16")
    torch.manual_seed(0)
    model = get_peft_model(model, lora_config(PROFILES["t4"]))
    ids = tokenizer(["one two three", "four five six"], return_tensors="pt").input_ids
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-3, weight_decay=0.0)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    with torch.autocast("cpu", torch.float16):
        logits = model(ids).logits[:, :-1]
        assert logits.dtype == torch.float16
        logprobs = logits.float().log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0]
        advantages = torch.tensor([[1.0], [-1.0]])
        loss = -((logprobs - logprobs.detach()).exp() * advantages).mean()
    scaler.scale(loss).backward()
    scaler.unscale_(optimizer)
    norm = torch.nn.utils.clip_grad_norm_(trained, 0.1)
    assert torch.isfinite(norm) and norm > 0
    scaler.step(optimizer)
    scaler.update()
    changed = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    # At B = 0 the gradient of A is zero: the first step moves B alone.
    assert changed and all("lora_B" in name for name in changed)


def test_an_fp16_adapter_cannot_be_unscaled(tiny_model):
    model, tokenizer = load_model_and_tokenizer(str(tiny_model), "fp16")
    config = lora_config(PROFILES["t4"])
    model = get_peft_model(model, config, autocast_adapter_dtype=False)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer, scaler = torch.optim.SGD(trained), torch.amp.GradScaler("cpu")
    ids = tokenizer("one two", return_tensors="pt").input_ids
    scaler.scale(model(ids, labels=ids).loss).backward()
    with pytest.raises(ValueError, match="Attempting to unscale FP16 gradients"):
        scaler.unscale_(optimizer)
