"""How long a run takes on this CPU: matrix products timed on the spot, and arithmetic.

The embedded model alone is known here; a GPU's minutes are in helpers/lab/budget.py.
"""

import functools
import time

import torch

from .processes import number

MOST = 15  # minutes of a run on a CPU; where `cpu` would take longer, it is `cpu_quick`
BODY, HEAD = 106e6, 28e6  # weights of SmolLM2-135M: its layers, its output layer
SHARED, OWN = 95, 25  # tokens of a prompt: what all begin with, the question's own
# Tokens of an answer. A batch goes on until its last: the trained model's longest has
# 35; the untrained one's have 37 on average and up to 128, and 90 fits the seconds.
UNTRAINED, TRAINED = 90, 35
# A run's seconds over those of its products alone, in the dtype that it uses and in
# fp32 (attention, softmax, all else goes with that). Fitted to runs with AMX in bf16,
# and with AVX2 in fp32.
PRODUCTS, REST = 0.7, 1.9
STOCK = 4  # a step of TRL's own against the faster one (tests/benchmark_step.py)


@functools.cache
def speeds() -> dict[str, float]:
    """Return the GFLOP/s of this CPU in a product of the model's size, by dtype."""
    found = {}
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        a, b = torch.ones(1024, 576, dtype=dtype), torch.ones(576, 576, dtype=dtype)
        a @ b  # the first one is slower
        best, end = float("inf"), time.perf_counter() + 0.2
        while (start := time.perf_counter()) < end or best == float("inf"):
            a @ b
            best = min(best, time.perf_counter() - start)
        found[name] = 2e-9 * 1024 * 576 * 576 / best
    return found


def predicted_minutes(profile) -> dict[str, float] | None:
    """Return the minutes of `before`, `training` and `after` here, preflight included.

    None for a GPU, for another model, or where `max_steps` is not set.
    """
    grpo, steps = profile.grpo, profile.grpo.get("max_steps", 0)
    if profile.device != "cpu" or "SmolLM2-135M" not in profile.model or steps < 1:
        return None
    rate = speeds()
    dtype = max(rate, key=rate.get) if profile.dtype == "auto" else profile.dtype

    def minutes(floating: float) -> float:
        spent = PRODUCTS / rate.get(dtype, rate["fp32"]) + REST / rate["fp32"]
        return floating * 1e-9 * spent / 60 / number()  # processes share all of it

    def answers(count: int, tokens: int) -> float:
        return minutes(2 * count * (OWN * BODY + tokens * (BODY + HEAD)))

    rows = grpo["per_device_train_batch_size"] * grpo["gradient_accumulation_steps"]
    groups = rows / grpo["num_generations"]
    read = SHARED + groups * OWN  # and each written token: drawn, scored, and back
    written = rows * min(TRAINED, grpo["max_completion_length"])
    step = minutes(6 * read * BODY + 6 * written * (BODY + HEAD))
    step *= STOCK if profile.trainer == "stock" else 1
    longest = min(UNTRAINED, profile.eval_new_tokens)
    return {
        "before": answers(profile.num_eval, longest) + step,
        "training": steps * step,
        "after": answers(profile.num_eval, min(TRAINED, longest)),
    }


def plan(profile) -> str:
    """Return a line on what `train` will do and how long that takes here, if known."""
    if (parts := predicted_minutes(profile)) is None:
        return "How long it takes is not known; a line after the first steps tells."
    rate = ", ".join(f"{name} {gflops:.0f}" for name, gflops in speeds().items())
    shown = ", ".join(f"{part} {minutes:.1f}" for part, minutes in parts.items())
    text = f"{profile.num_eval} problems before, {profile.grpo['max_steps']} steps, "
    text += f"the problems again after. Predicted minutes here: {shown}, in all "
    return text + f"{sum(parts.values()):.1f} (GFLOP/s: {rate})."
