"""The checks of notebook 00, start here."""

from ...scoring import wilson_interval
from . import exercise, match


@exercise
def check_four_scores(answer):
    """0.1: (format, strict, lenient) of four completions, scored by eye."""
    names = ("format", "strict", "lenient")

    def flat(scores: dict) -> dict:
        if any(len(three) != 3 for three in scores.values()):
            raise ValueError("each needs three scores: format, strict, lenient")
        cells = {key: zip(names, three, strict=True) for key, three in scores.items()}
        return {f"{k}, {name}": bool(x) for k, row in cells.items() for name, x in row}

    right = flat({"A": (1, 1, 1), "B": (0, 1, 1), "C": (1, 0, 0), "D": (0, 0, 1)})
    hints = {
        "B, format": "every tag is there, but must it not stand on a line of its own?",
        "C, format": "format asks how the answer is laid out, not whether it is right",
        "C, lenient": "12 stands in the text, but it is not the last number",
        "D, strict": "strict reads the answer tag alone, and there is none",
        "D, lenient": "lenient asks for no tag: what is the last number in the text?",
    }
    if not isinstance(answer, dict) or answer.keys() != set("ABCD"):
        return "expected a dict with the keys A, B, C, D"
    return match(flat(answer), right, hints)


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
    return None if reach(n - 2) > 0.05 else f"{n} are enough, but so are fewer"
