"""The checks of the exercises: `check_NAME(answer)` prints one line and never raises.

A stub in a notebook holds `...` where the learner writes; untouched, it is "not done
yet", and Run all goes on. Where a usual mistake is known, the line names it.
"""

import functools
from collections.abc import Callable

from .evaluation import wilson_interval


def exercise(check: Callable[[object], str | None]) -> Callable[[object], None]:
    """Make a check of a function that returns what is wrong, None where nothing is."""

    @functools.wraps(check)
    def checked(answer: object) -> None:
        try:
            if holds_stub(answer):
                print("○ not done yet")
                return
            wrong = check(answer)
        except Exception as error:  # whatever a learner's answer may raise
            wrong = f"this answer cannot be read ({type(error).__name__}: {error})"
        print(f"✗ {wrong}" if wrong else "✓ right")

    return checked


def holds_stub(answer: object) -> bool:
    """Tell whether an answer is `...`, or a list, tuple or dict that still holds it."""
    if isinstance(answer, dict):
        answer = list(answer.values())
    if isinstance(answer, list | tuple):
        return any(holds_stub(part) for part in answer)
    return answer is ...


@exercise
def check_four_scores(answer):
    """0.1: (format, strict, lenient) of four completions, scored by eye."""
    right = {"A": (1, 1, 1), "B": (0, 1, 1), "C": (1, 0, 0), "D": (0, 0, 1)}
    hints = {
        ("B", 0): "every tag is there, but must it not stand on a line of its own?",
        ("C", 0): "format asks how the answer is laid out, not whether it is right",
        ("C", 2): "12 stands in the text, but it is not the last number",
        ("D", 1): "strict reads the answer tag alone, and there is none",
        ("D", 2): "lenient asks for no tag: what is the last number in the text?",
    }
    if not isinstance(answer, dict) or answer.keys() != right.keys():
        return "expected a dict with the keys A, B, C and D"
    for name, scores in right.items():
        if len(answer[name]) != 3:
            return (
                f"{name}: expected three of True and False: (format, strict, lenient)"
            )
        for place, (given, wanted) in enumerate(zip(answer[name], scores, strict=True)):
            if bool(given) != bool(wanted):
                what = ("format", "strict", "lenient")[place]
                hint = hints.get((name, place), "read the rule once more")
                return f"{name}, {what}: {hint}"
    return None


@exercise
def check_how_many(answer):
    """0.2: how many problems bring the interval of a rate of 50% to ± 5 points."""

    def reach(n: int) -> float:
        interval = wilson_interval(n // 2, n)
        return (interval["high"] - interval["low"]) / 2

    n = int(answer)
    if n < 2:
        return f"{n} is no number of problems"
    if reach(n) > 0.05:
        points = 100 * reach(n)
        return f"with {n} problems the interval still reaches {points:.1f} points"
    if reach(n) <= 0.025:
        return "that many bring it to 5 points in all; 5 to each side need fewer"
    return None if reach(n - 4) > 0.05 else f"{n} are enough, but so are fewer"
