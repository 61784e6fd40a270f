"""The checks of notebook 07, experiments."""

import math

import torch

from ...rewards import correctness_reward_func
from ..bonus import POINTS, length_bonus_reward_func
from . import NotDone, compare, exercise, holds_stub, match, near

# The problem of exercises 7.6 and 7.7: what the honest text earns, others must not.
HONEST = "<reasoning>\n5 + 7 = 12\n</reasoning>\n<answer>\n12\n</answer>"
GOLD = "12"


def share(rates: torch.Tensor, size: int) -> torch.Tensor:
    """Return the share of groups in which some are right and some are wrong."""
    return 1 - rates**size - (1 - rates) ** size


@exercise
def check_clear(answer):
    """7.1: which of three comparisons is a clear difference."""
    right = {"A": True, "B": False, "C": False}
    hints = {
        "A": "the interval leaves out 0, and 40 is above 33: both conditions hold",
        "B": "the interval leaves out 0, but one seed (37) is below another's (38)",
        "C": "the seeds lie apart, but the interval holds 0",
    }
    return match(answer, right, hints)


@exercise
def check_mixed_groups(answer):
    """7.2: the share of groups of 8 that teach, from the rate of right answers."""
    cases = [torch.tensor(case) for case in ([0.1, 0.5], [0.0, 1.0], [0.02, 0.9])]
    mistakes = [
        (
            lambda p: 1 - (1 - p) ** 8,
            "a group that is right throughout teaches nothing",
        ),
        (lambda p: 1 - p**8, "a group with all wrong teaches nothing"),
        (lambda p: p**8 + (1 - p) ** 8, "that is the share that teaches nothing"),
        (lambda p: share(p, 4), "that is for groups of 4; here they have 8"),
        (lambda p: 2 * p * (1 - p), "that is for groups of 2; here they have 8"),
    ]
    return compare(answer, lambda p: share(p, 8), cases, mistakes)


@exercise
def check_two_averages(answer):
    """7.3: a mean rate put into the formula, and the mean of the formula."""
    if not isinstance(answer, dict) or set(answer) != {"from the mean", "mean of all"}:
        return "expected a dict with the keys from the mean, mean of all"
    rates = torch.tensor([0.0, 0.0, 0.3, 0.9], dtype=torch.float64)
    pooled, each = float(share(rates.mean(), 4)), float(share(rates, 4).mean())
    first = {
        1 - 0.7**4: "the groups that are right throughout are missing: p⁴",
        each: "that is the mean of the formula: which value goes under which key?",
    }
    second = {
        pooled: "that is the formula of the mean; apply it to each problem first",
        float(share(rates, 4).sum()): "that is the sum over four problems",
        2 * each: "the two problems that teach nothing count as well: 4 in all",
    }
    hint = "put p = {} into 1 − p⁴ − (1 − p)⁴"
    wrong = near(
        answer["from the mean"], pooled, first, hint.format("0.3, the mean,"), 0.005
    )
    if wrong:
        return f"from the mean: {wrong}"
    hint = hint.format("0, 0, 0.3 and 0.9") + ", then take the mean"
    wrong = near(answer["mean of all"], each, second, hint)
    return f"mean of all: {wrong}" if wrong else None


@exercise
def check_group_sizes(answer):
    """7.4: of 32 completions, how many stand in groups that teach, by group size."""
    if not isinstance(answer, dict) or set(answer) != {4, 8, 16}:
        return "expected a dict with the keys 4, 8, 16"
    for size, given in answer.items():
        right = float(32 * share(torch.tensor(0.1, dtype=torch.float64), size))
        mistakes = {
            right / 32: "that is a share; how many of 32 completions is it?",
            right / size: "that counts groups; a group has that many completions",
        }
        hint = "32 × the share of groups that teach"
        if wrong := near(given, right, mistakes, hint):
            return f"{size}: {wrong}"
    return None


@exercise
def check_format_share(answer):
    """7.5: which part of a gain the layout explains."""
    mistakes = {
        14: "those are points; which share of 35 are they?",
        0.6: "that is what the layout does not explain",
        24 / 45: "subtract what the untrained model had, in both",
        35 / 14: "turn it over: the control's gain by the whole gain",
        40: "give a share between 0 and 1",
    }
    hint = "the control's gain divided by the gain with all rewards"
    return near(answer, 14 / 35, mistakes, hint)


@exercise
def check_length_hole(answer):
    """7.6: a text without the right answer that earns more than an honest one."""
    if not isinstance(answer, str):
        return "expected a text, in quotes"

    def paid(text: str) -> float:
        right = correctness_reward_func([text], [GOLD])[0]
        return right + length_bonus_reward_func([text])[0]

    if correctness_reward_func([answer], [GOLD])[0]:
        return "its answer tag holds 12: that is no hole, that is a right answer"
    earned, honest = paid(answer), paid(HONEST)
    if earned <= honest:
        needed = math.floor(honest / POINTS) + 1
        return (
            f"it earns {earned:.2f} points, the honest text {honest:.2f}: "
            f"it needs {needed} characters"
        )
    return None


@exercise
def check_bonus_patch(answer):
    """7.7: a bonus for reasoning that no longer pays for mere length."""
    if not callable(answer):
        return "pass the function itself, not what it returns"

    def paid(text: str) -> float:
        value = answer(text)
        if holds_stub(value):
            raise NotDone
        if value is None:
            raise ValueError("the function returns None: is its `return` missing?")
        return float(value)

    def layout(reasoning: str, after: str = "<answer>\n12\n</answer>") -> str:
        return f"<reasoning>\n{reasoning}\n</reasoning>\n{after}"

    honest, endless = paid(HONEST), paid(layout("so 5 and 7 are " * 40))
    if honest <= 0:
        return "the honest text earns nothing: the bonus should still pay for reasoning"
    untagged = paid("so 5 and 7 are " * 40)
    if untagged >= 2:
        return f"a text without any tag still earns {untagged:.2f}: the old hole"
    if untagged >= honest:
        return "a text without any tag earns as much as the honest: a cap is not all"
    if paid("<reasoning>\n" + "so 5 and 7 are " * 40) >= honest:
        return "reasoning that never ends in an answer still earns as much"
    if endless >= 2:
        return f"endless reasoning earns {endless:.2f}, as much as being right: cap it"
    if paid(layout("")) >= honest:
        return "empty reasoning earns as much as the honest text"
    if paid(layout("5 + 7 = 12", "<answer>\n" + "12 " * 200 + "\n</answer>")) > 2:
        return "a long answer earns: count the characters of the reasoning alone"
    if min(map(paid, ("", "12", "</reasoning><reasoning>"))) < 0:
        return "an empty text or a bare number costs points; nothing asks for that"
    return None
