"""The checks of notebook 06, evaluate and share."""

from . import exercise, match, near


@exercise
def check_gain(answer):
    """6.1: gain in points, and % of the problems that changed, from four counts."""
    gain, changed = (round(float(part), 6) for part in answer)
    hints = {
        35: "those newly wrong count too",
        36: "that is a number of problems; points are % of all 120",
        0.3: "that is a fraction of 1; points are hundredths",
        55: "that is the rate after training; what was it before?",
    }
    if gain != 30:
        return f"gain: {hints.get(gain, 'newly right minus newly wrong, of 120')}"
    if changed == 30:
        return "changed: that is the gain; newly wrong problems changed too"
    return None if changed == 40 else "changed: newly right and newly wrong, of 120"


@exercise
def check_claims(answer):
    """6.2: which of four claims a report supports."""
    hints = {
        "A": "the whole interval of lenient on test is above 0",
        "B": "the interval on transfer holds 0",
        "C": "from -1 to 19 points: not shown to be there is not shown to be absent",
        "D": "lenient needs no tag: what part of the gain did it not see?",
    }
    return match(answer, {"A": True, "B": False, "C": False, "D": True}, hints)


@exercise
def check_problems_needed(answer):
    """6.3: problems to see a gain of 5 points where 30% of them change."""
    right = 2.8**2 * (0.30 - 0.05**2) / 0.05**2
    mistakes = {
        1.96**2 / 2.8**2: "with 1.96 the gain is seen half of the time, not 4 in 5",
        1e-4: "5 points are 0.05 where shares are fractions of 1",
        0.42 / 0.2975: "that is for two different sets of problems",
    }
    mistakes = {right * ratio: message for ratio, message in mistakes.items()}
    return near(answer, right, mistakes, "expected spread², times (2.8 / d)²", 0.02)


@exercise
def check_curves(answer):
    """6.4: what three pairs of pass@k curves say."""
    wanted = {"A": "more often", "B": "new", "C": "narrower"}
    hints = {
        "A": "pass@1 rose, but which problems did 16 tries solve that they did not?",
        "B": "pass@16 rose by 20 points: were those problems in reach before?",
        "C": "pass@16 fell: does it still reach all that it reached?",
    }
    return match(answer, wanted, hints)


@exercise
def check_times_likelier(answer):
    """6.5: how many times likelier a token became, from -3.0 to -0.5 nats."""
    mistakes = {
        2.5: "that is the difference of the logarithms; undo the logarithm",
        6: "logarithms are subtracted, not divided",
        10**2.5: "these are natural logarithms, not powers of 10",
    }
    return near(answer, 12.18, mistakes, "expected exp(after - before)")
