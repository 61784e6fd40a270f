"""The checks of notebook 04, LoRA and fp16."""

import math

import torch

from ... import GIB
from ...profiles import ATTENTION, PROFILES, SMOL
from ..budget import (
    OUTSIDE_GIB,
    T4_GIB,
    architecture,
    count_parameters,
    linear_shapes,
    memory_budget,
    peak,
)
from . import compare, exercise, match, near


@exercise
def check_lora_count(answer):
    """4.1: weights that rank 16 on all seven linear maps of SmolLM2 trains."""
    config = architecture(SMOL)
    shapes = linear_shapes(config)
    right = count_parameters(config, 16, list(shapes))
    layers = config.num_hidden_layers
    mistakes = {
        right / layers: "that is one layer; how many are there?",
        right / 2: "that is rank 8",
        layers * sum(a * b for a, b in shapes.values()): "those are the base weights",
        count_parameters(config, 16, ATTENTION): "that is attention alone",
    }
    hint = "expected r × (inputs + outputs), over seven maps and all layers"
    return near(answer, right, mistakes, hint, 1e-6)


@exercise
def check_lora_update(answer):
    """4.2: the update of a weight from A, B and alpha."""

    def other(a: torch.Tensor) -> torch.Tensor:  # a B for each A: (6, r) to A's (r, 4)
        return torch.arange(6.0 * len(a)).reshape(6, -1).cos()

    def factor(a: torch.Tensor, n: float) -> torch.Tensor:
        return 32 / n * other(a) @ a

    mistakes = [
        (lambda a: factor(a, 32), "the factor alpha / r is missing"),
        (lambda a: factor(a, 1), "that is alpha, not alpha / r"),
        (lambda a: factor(a, a.shape[1]), "r is the thin side of A: its rows"),
        (lambda a: factor(a, len(a) ** 0.5), "alpha / √r is rsLoRA; here alpha / r"),
        (lambda a: factor(a, len(a)).T, "that is the transpose: W is (out, in)"),
    ]
    cases = [torch.arange(4.0 * r).reshape(r, 4).sin() for r in (2, 3)]
    return compare(
        lambda a: answer(a, other(a), 32), lambda a: factor(a, len(a)), cases, mistakes
    )


@exercise
def check_fp16_numbers(answer):
    """4.3: what becomes of five numbers in fp16."""

    def fate(number: float) -> str:
        half = float(torch.tensor(number, dtype=torch.float16))
        known = {0.0: "zero", math.inf: "infinite", number: "exact"}
        return known.get(half, "rounded")

    hints = {
        "0.25": "a power of two, and neither too small nor too large",
        "0.1": "no sum of powers of two, in any of the three formats",
        "2049": "from 2048 on the distance between neighbours is 2",
        "70000": "compare it with the largest number",
        "1e-8": "compare it with half of the smallest number",
    }
    fates = {"exact", "rounded", "zero", "infinite"}
    if isinstance(answer, dict) and not set(answer.values()) <= fates:
        return "expected exact, rounded, zero or infinite for each"
    return match(answer, {name: fate(float(name)) for name in hints}, hints)


@exercise
def check_scaler_order(answer):
    """4.4: the order of the five calls of a step with a gradient scaler."""
    before = {
        ("backward", "unscale"): "there is no gradient yet to divide",
        ("unscale", "clip"): "the limit would be held against the scaled gradient",
        ("clip", "step"): "after the step a shorter gradient changes nothing",
        ("step", "update"): "update reads what was found on the way to the step",
    }
    if sorted(answer) != ["backward", "clip", "step", "unscale", "update"]:
        return "expected backward, clip, step, unscale and update, each once"
    for (first, second), why in before.items():
        if answer.index(first) > answer.index(second):
            return f"{second} before {first}: {why}"
    return None


@exercise
def check_scaler_rule(answer):
    """4.5: the scales of a run, from which of its steps overflowed."""

    def rule(skip=0.5, grow=2.0, forget=True, at=3):
        def scales(overflows: torch.Tensor) -> torch.Tensor:
            scale, good, used = 2.0**16, 0, []
            for overflow in overflows.tolist():
                used.append(scale)
                good = (0 if forget else good) if overflow else good + 1
                scale *= skip if overflow else grow if good == at else 1
                good %= at
            return torch.tensor(used)

        return scales

    mistakes = [
        (rule(forget=False), "after an overflow the count of good steps starts anew"),
        (rule(at=1), "it doubles after three good steps in a row, not after each"),
        (rule(skip=1.0), "an overflow must halve the scale"),
        (rule(grow=1.0), "three good steps in a row must double the scale"),
        (lambda x: rule()(torch.cat([x, x[:1]]))[1:], "return the scale that each "
         "step used, not the one after it"),
    ]  # fmt: skip
    flags = ([1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1, 0], [0, 0, 0, 0, 0, 0, 1, 1, 0, 0, 0, 0])
    return compare(answer, rule(), [torch.tensor(case) for case in flags], mistakes)


@exercise
def check_make_it_fit(answer):
    """4.6: settings with which 32 completions of 1,536 tokens fit on a T4."""

    def needs(changes: dict) -> tuple[str, float]:
        changes = {"max_completion_length": 1536} | changes
        moment, most = peak(memory_budget(PROFILES["t4"], gpu=True, **changes))
        return moment, most / GIB

    at_once, times = "per_device_train_batch_size", "gradient_accumulation_steps"
    if not isinstance(answer, dict) or not {at_once, times} <= answer.keys():
        return f"expected a dict that sets {at_once}, {times} and what else it takes"
    if other := sorted(answer.keys() - {at_once, times, "gradient_checkpointing"}):
        return f"{other[0]} is not to be changed"
    if answer[at_once] * answer[times] != 32:
        return f"{answer[at_once]} × {answer[times]} are not 32 completions a step"
    moment, most = needs(answer)
    if most > T4_GIB - OUTSIDE_GIB:
        return f"that needs {most:.1f} GiB for {moment}"
    more = {at_once: 2 * answer[at_once], times: answer[times] // 2}
    more |= {"gradient_checkpointing": True}
    if answer[times] > 1 and needs(more)[1] <= T4_GIB - OUTSIDE_GIB:
        return f"that fits, but {more[at_once]} at once can fit too"
    return None
