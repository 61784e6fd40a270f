"""The checks of notebook 05, train with TRL."""

import torch

from ... import GIB
from ...profiles import PROFILES
from ..budget import OUTSIDE_GIB, T4_GIB, memory_budget, peak
from . import compare, exercise, match

# Of recorded/sick/: the runs that exercise 5.4 shows, by letter.
PATIENTS = {"A": "length_creeping", "B": "gradient_exploding", "C": "no_variance"}


@exercise
def check_article_run(answer):
    """5.1: completions and problems in a step of the article's run, and its steps."""
    right = {"completions": 8, "problems": 2, "steps": 10}
    hints = {
        ("completions", 4): "4 go through at once. How many times in a step?",
        ("problems", 8): "the completions of a group share one problem",
        ("problems", 4): "4 is the size of a group. How many groups are there?",
        ("steps", 20): "a step uses more than one problem",
        ("steps", 2.5): "divide by the problems of a step, not its completions",
    }
    return match(answer, right, hints)


@exercise
def check_largest_batch(answer):
    """5.3: completions at once on a T4 without gradient checkpointing."""

    def needs(batch: int) -> float:
        changes = {"per_device_train_batch_size": batch}
        changes["gradient_accumulation_steps"] = 32 // batch
        changes["gradient_checkpointing"] = False
        return peak(memory_budget(PROFILES["t4"], **changes))[1] / GIB

    batch, limit = int(answer), T4_GIB - OUTSIDE_GIB
    if batch not in (1, 2, 4, 8, 16, 32):
        return "expected one of 1, 2, 4, 8, 16 and 32"
    if needs(batch) <= limit:
        more = batch < 32 and needs(2 * batch) <= limit
        return f"{batch} fit, but so do more" if more else None
    return f"without checkpointing {batch} need {needs(batch):.1f} GiB"


@exercise
def check_advantages(answer):
    """5.2: the advantages of one group."""

    def centred(rewards: torch.Tensor) -> torch.Tensor:
        return rewards - rewards.mean()

    rewards = [[0.0, 0.0, 0.0, 4.0], [0.5, 2.5, 3.5, 1.0, 1.0], [1.0, 1.0, 1.0, 1.0]]
    mistakes = [
        (
            lambda r: centred(r) / (r.std(correction=0) + 1e-4),
            "this std divides by n, not by n - 1",
        ),
        (
            lambda r: centred(r) / r.std(),
            "where a group has no spread, this divides by zero",
        ),
        (centred, "the mean is gone; now divide by the spread"),
        (lambda r: r / (r.std() + 1e-4), "subtract the mean of the group first"),
        (lambda r: -centred(r) / (r.std() + 1e-4), "the sign is the wrong way round"),
    ]

    def right(rewards: torch.Tensor) -> torch.Tensor:
        return centred(rewards) / (rewards.std() + 1e-4)

    return compare(answer, right, [torch.tensor(group) for group in rewards], mistakes)


@exercise
def check_diagnoses(answer):
    """5.4: what is wrong with three runs."""
    known = ["no variance", "everything cut off", "entropy collapsed"]
    known += ["gradient exploding", "length creeping", "reward hacked"]
    hints = {
        (
            "A",
            "everything cut off",
        ): "fewer than half are cut off, even at the end: why?",
        ("A", "reward hacked"): "which column grows together with the reward?",
        ("B", "reward hacked"): "the reward was that large from the first step on",
        (
            "C",
            "entropy collapsed",
        ): "its entropy is the same at the end as at the start",
        ("C", "reward hacked"): "the reward does not rise",
    }
    hints |= dict.fromkeys("ABC", "which column stands out, and which one moves?")
    if isinstance(answer, dict) and not set(answer.values()) <= set(known):
        return f"expected one of {', '.join(known)} for each"
    right = {name: run.replace("_", " ") for name, run in PATIENTS.items()}
    return match(answer, right, hints)
