"""The checks of notebook 06, evaluate and share."""

from . import exercise, match, near


@exercise
def check_gain(answer):
    """6.1: gain in points, and % of the problems that changed, from four counts."""
    gain, changed = (round(float(part), 6) for part in answer)
    hints = {
        35: "you left out those that are newly wrong",
        36: "36 is a number of problems; points are % of all 120",
        0.3: "that is a fraction of 1; points are hundredths",
        55: "55% is the rate after training. What was it before?",
    }
    if gain != 30:
        return f"gain: {hints.get(gain, 'newly right minus newly wrong, as % of 120')}"
    if changed == 30:
        return "changed: that is the gain; newly wrong problems changed too"
    return (
        None if changed == 40 else "changed: newly right plus newly wrong, as % of 120"
    )


@exercise
def check_claims(answer):
    """6.2: which of four claims a report supports."""
    hints = {
        "A": "the whole interval of lenient on test is above 0",
        "B": "the interval on transfer holds 0",
        "C": "-1 to 19 allows a large gain: no proof of one is no proof of none",
        "D": "lenient needs no tag: which part of strict's gain does it lack?",
    }
    return match(answer, {"A": True, "B": False, "C": False, "D": True}, hints)


@exercise
def check_problems_needed(answer):
    """6.3: problems to see a gain of 5 points where 30% of them change."""
    right = 2.8**2 * (0.30 - 0.05**2) / 0.05**2
    mistakes = {
        1.96**2 / 2.8**2: "with 1.96 half of the tests see the gain, not 4 of 5",
        1e-4: "write 5 points as 0.05, as 30% is 0.30",
        0.42 / 0.2975: "that is for two different sets; here both answer the same",
    }
    mistakes = {right * ratio: message for ratio, message in mistakes.items()}
    return near(
        answer, right, mistakes, "take d = 0.05, and the spread for pairs", 0.02
    )


@exercise
def check_curves(answer):
    """6.4: what three pairs of pass@k curves say."""
    wanted = {"A": "more often", "B": "new", "C": "narrower"}
    hints = {
        "A": "pass@1 rose, but do 16 tries solve more problems than before?",
        "B": "pass@16 rose by 20 points: were those problems in reach before?",
        "C": "pass@16 fell: does it still solve all that it solved before?",
    }
    return match(answer, wanted, hints)


@exercise
def check_times_likelier(answer):
    """6.5: how many times likelier a token became, from -3.0 to -0.5 nats."""
    mistakes = {
        2.5: "2.5 is the difference of the logarithms; undo the logarithm",
        6: "subtract logarithms, do not divide them",
        10**2.5: "these are natural logarithms, not powers of 10",
    }
    return near(answer, 12.18, mistakes, "take the difference, then undo the logarithm")
