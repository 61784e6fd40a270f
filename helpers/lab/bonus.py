"""Two bonuses for length that notebook 07 trains with: one with a hole, one patched."""

from ..rewards import completion_text, soft_format_reward_func

POINTS = 0.02  # a character


def length_bonus_reward_func(completions, **kwargs) -> list[float]:
    """0.02 points for each character: whoever writes more has thought more."""
    return [POINTS * len(completion_text(c)) for c in completions]


def reasoning_bonus_reward_func(completions, **kwargs) -> list[float]:
    """0.02 points for each character of the reasoning, 0.5 at most, with an answer."""
    points = []
    for c, both in zip(completions, soft_format_reward_func(completions), strict=True):
        reasoning = completion_text(c).partition("<reasoning>")[2]
        reasoning = reasoning.partition("</reasoning>")[0].strip()
        points.append(min(POINTS * len(reasoning), 0.5) if both else 0.0)
    return points
