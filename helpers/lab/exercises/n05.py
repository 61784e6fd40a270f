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
        ("completions", 4): "4 go through at once; how many times in a step?",
        ("problems", 8): "not every completion has a problem of its own",
        ("problems", 4): "4 is the size of a group; how many groups are there?",
        ("steps", 20): "a step uses more than one problem",
        ("steps", 2.5): "20 problems are not 20 completions",
    }
    return match(answer, right, hints)


@exercise
def check_largest_batch(answer):
    """5.2: completions at once on a T4 without gradient checkpointing."""

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
        return f"{batch} fit, but so do {2 * batch}" if more else None
    return f"without checkpointing {batch} need {needs(batch):.1f} GiB"


@exercise
def check_advantages(answer):
    """5.3: the advantages of one group."""

    def centred(rewards: torch.Tensor) -> torch.Tensor:
        return rewards - rewards.mean()

    rewards = [[0.0, 0.0, 0.0, 4.0], [0.5, 2.5, 3.5, 1.0, 1.0], [1.0, 1.0, 1.0, 1.0]]
    mistakes = [
        (lambda r: centred(r) / (r.std(correction=0) + 1e-4), "that std divides by n"),
        (lambda r: centred(r) / r.std(), "a group without spread divides by zero"),
        (centred, "this is the distance from the mean; the spread is missing"),
        (lambda r: r / (r.std() + 1e-4), "the mean of the group is not taken off"),
        (lambda r: -centred(r) / (r.std() + 1e-4), "the sign is turned round"),
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
        ("A", "everything cut off"): "almost half are cut off at the end: why?",
        ("A", "reward hacked"): "what grows together with the reward?",
        ("B", "reward hacked"): "the reward was that large from the first step on",
        ("C", "entropy collapsed"): "it hesitates as much at the end as at the start",
        ("C", "reward hacked"): "the reward does not rise",
    }
    hints |= dict.fromkeys("ABC", "which column stands out, and which one moves?")
    if isinstance(answer, dict) and not set(answer.values()) <= set(known):
        return f"expected one of {', '.join(known)} for each"
    right = {name: run.replace("_", " ") for name, run in PATIENTS.items()}
    return match(answer, right, hints)
