"""What notebook 04 does by hand is what PEFT and PyTorch do; its widget is right."""

import re
from pathlib import Path

import ipywidgets
import nbformat
import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import nn

from helpers import plots, widgets
from helpers.memory import GIB, memory_budget, peak
from helpers.profiles import PROFILES

PATH = Path(__file__).resolve().parents[1] / "notebooks" / "04_lora_and_fp16.ipynb"
CELLS = nbformat.read(PATH, as_version=4).cells


def run(start: str, **there) -> dict:
    """The names of the one code cell that holds `start`, or of a folded solution."""
    codes = [cell.source for cell in CELLS if cell.cell_type == "code"]
    for cell in CELLS:
        if cell.cell_type == "markdown":
            codes += re.findall(
                r"```python\n(.*?)\nexercises\.", cell.source, re.DOTALL
            )
    (code,) = (code for code in codes if re.search(f"^{start}", code, re.MULTILINE))
    exec(code, there)
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


def test_the_widget_says_what_the_budget_says(monkeypatch):
    shown, drawn = [], []

    class Handle:
        def update(self, image):
            shown.append(image.metadata["alt"])

    def show(what, display_id=None):
        shown.append(what if display_id is None else what.metadata["alt"])
        return Handle()

    real = plots.plot_budgets
    monkeypatch.setattr(widgets, "display", show)
    monkeypatch.setattr(
        widgets, "plot_budgets", lambda budgets: drawn.append(budgets) or real(budgets)
    )
    there = {"memory_budget": memory_budget, "PROFILES": PROFILES}
    widgets.explore_budgets(
        run("def what_helps", **there)["what_helps"], PROFILES["t4"]
    )
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
