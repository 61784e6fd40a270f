"""LoRA and the loss scaler, as notebook 04 writes them, are PEFT's and PyTorch's."""

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import nn

from tests.notebooks.cells import source


def run(start: str, **there) -> dict:
    """The names of the code cell, or folded solution, with a line that begins so."""
    exec(source("04", f"^{start}", solutions=True), there)
    return there


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("r, alpha", [(1, 1), (8, 32), (16, 8)])
def test_ten_lines_are_pefts_lora(r, alpha, bias):
    torch.manual_seed(0)
    base, x = nn.Linear(40, 24, bias=bias), torch.randn(3, 7, 40)
    mine = run("class LoRALinear")["LoRALinear"](base, r, alpha)
    nn.init.normal_(mine.B, std=0.1)
    config = LoraConfig(r=r, lora_alpha=alpha, target_modules=["0"])
    theirs = inject_adapter_in_model(config, nn.Sequential(base))[0]
    theirs.lora_A["default"].weight.data.copy_(mine.A)
    theirs.lora_B["default"].weight.data.copy_(mine.B)
    assert (mine(x) - base(x)).abs().max() > 0.01
    torch.testing.assert_close(mine(x), theirs(x), rtol=0, atol=1e-6)
    for module in (mine, theirs):
        module(x).square().sum().backward()
    pairs = (mine.A, theirs.lora_A), (mine.B, theirs.lora_B)
    for a, b in pairs:
        wanted = b["default"].weight.grad
        assert (a.grad - wanted).norm() <= 1e-6 * wanted.norm()
    assert [p.requires_grad for p in mine.base.parameters()] == [False] * (1 + bias)


@pytest.mark.parametrize("seed", range(5))
def test_the_rule_of_exercise_4_5_is_that_of_gradscaler(seed):
    flags = torch.rand(200, generator=torch.manual_seed(seed)) < 0.05 * (seed + 1)
    weight = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16, growth_interval=3)
    scaler.scale(torch.zeros(1))  # only now it has a scale
    used = []
    for overflow in flags.tolist():
        used.append(scaler.get_scale())
        weight.grad = torch.tensor([torch.inf if overflow else 1.0])
        scaler.step(optimizer)
        scaler.update()
    mine = run("def my_scales.*\n    scale, good", torch=torch)["my_scales"]
    assert mine(flags.long()).tolist() == used
    assert len(set(used)) > 3
