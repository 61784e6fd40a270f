"""The checks of notebook 09, scale out."""

import torch

from . import compare, exercise, match, near


@exercise
def check_shares(answer):
    """9.1: a step of 2 × 32 completions, in groups of 8, on four processes."""
    right = {"at once": 8, "completions": 16, "groups": 2, "problems of the step": 8}
    hints = {
        ("at once", 32): "then a step would have four times as many completions",
        ("at once", 16): "that is what a process has in a step, in two passes",
        ("at once", 4): "the two passes stay; only what is done at once is divided",
        "at once": "the 32 that one process does at once are shared by four",
        ("completions", 64): "that is the whole step",
        ("completions", 8): "that is one pass; a step has two",
        ("completions", 32): "that is half of the step; there are four processes",
        "completions": "at once × passes",
        ("groups", 8): "those are the groups of the whole step",
        ("groups", 1): "that is one pass; a step has two",
        "groups": "a process's completions / completions of a group",
        ("problems of the step", 2): "those are one process's; the step has all four",
        ("problems of the step", 32): "that many at eight each would be four steps",
        "problems of the step": "the step is the same as with one process",
    }
    return match(answer, right, hints)


@exercise
def check_divisor(answer):
    """9.2: by what each process divides, so that the mean over processes is right."""

    def right(tokens: torch.Tensor) -> torch.Tensor:
        return tokens.sum() / len(tokens)

    mistakes = [
        (lambda t: t, "that is the bug: each process divides by its own tokens"),
        (lambda t: t.sum(), "DDP divides by the number of processes once more"),
        (lambda t: t.sum() * len(t), "DDP divides already: undo it, not do it twice"),
        (lambda t: t.max(), "the longest share says nothing about the others"),
        (lambda t: torch.tensor(float(len(t))), "the tokens are missing"),
    ]
    cases = [[3.0, 9.0], [5.0, 5.0, 8.0], [40.0, 2.0, 7.0, 11.0]]
    return compare(answer, right, [torch.tensor(case) for case in cases], mistakes)


@exercise
def check_four_gpus(answer):
    """9.3: 13 s whatever the number, and 0.375 s a completion; 32, on four GPUs."""

    def seconds(processes: int) -> float:
        return 13 + 0.375 * 32 / processes

    mistakes = {
        4: "the 13 s do not get fewer: every GPU writes its longest completion",
        seconds(4): "those are the seconds of the step; how many times faster is it?",
        seconds(4) / seconds(1): "that is the share of the time left; turn it over",
        25 / 13: "that is the bound, with any number of GPUs",
    }
    hint = "expected seconds on one GPU / seconds on four"
    return near(answer, seconds(1) / seconds(4), mistakes, hint)


@exercise
def check_sharded(answer):
    """9.4: GiB a GPU, all 7.6e9 weights trained, everything in 8 shares."""

    def gib(bytes_a_weight: float, gpus: int = 8) -> float:
        return 7.6e9 * bytes_a_weight / gpus / 2**30

    mistakes = {
        gib(2): "those are the weights alone",
        gib(4): "AdamW's two averages and the fp32 copy are missing",
        gib(12): "the weights and gradients in 16 bits are missing",
        gib(14): "the gradients are missing: 2 bytes a weight",
        gib(8): "AdamW keeps two averages of 4 bytes, and a copy of 4",
        gib(16, 1): "that is without sharing it out",
        7.6 * 16 / 8: "that is in GB; a GiB is 2**30 bytes",
        7.6e9 * 16 / 8: "that is in bytes",
    }
    hint = "expected bytes of all four kinds × weights / GPUs / 2**30"
    return near(answer, gib(16), mistakes, hint)
