"""The checks of the exercises: `check_NAME(answer)` prints one line and never raises.

A stub in a notebook holds `...` where the learner writes; untouched, it is "not done
yet", and Run all goes on. Where a usual mistake is known, the line names it.
"""

import functools
import math
from collections.abc import Callable

import torch

from .evaluation import wilson_interval
from .memory import (
    GIB,
    T4_GIB,
    architecture,
    count_parameters,
    linear_shapes,
    memory_budget,
    peak,
)
from .profiles import ATTENTION, PROFILES, SMOL


def exercise(check: Callable[[object], str | None]) -> Callable[[object], None]:
    """Make a check of a function that returns what is wrong, None where nothing is."""

    @functools.wraps(check)
    def checked(answer: object) -> None:
        try:
            if holds_stub(answer):
                print("○ not done yet")
                return
            wrong = check(answer)
        except NotDone:
            print("○ not done yet")
            return
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


class NotDone(Exception):
    """The stub of a function still returns `...`."""


def match(answer: dict, right: dict, hints: dict) -> str | None:
    """Return what is wrong with a dict of answers: the first wrong one and its hint.

    `hints` maps (name, wrong value), or a name, to what is said of it.
    """
    if not isinstance(answer, dict) or answer.keys() != right.keys():
        return f"expected a dict with the keys {', '.join(map(str, right))}"
    for name, wanted in right.items():
        if answer[name] != wanted:
            default = hints.get(name, "read the hint below once more")
            return f"{name}: {hints.get((name, answer[name]), default)}"
    return None


def near(answer: float, right: float, mistakes: dict, hint: str, within=0.01):
    """Return what is wrong with a number: what `mistakes` says of it, else `hint`.

    `mistakes` maps wrong numbers to messages; `within` is a share of each number.
    """
    value = float(answer)
    for number, message in ({right: None} | mistakes).items():
        if abs(value - number) <= within * abs(number):
            return message
    return hint


def compare(
    answer: Callable, right: Callable, cases: list, mistakes: list
) -> str | None:
    """Return what is wrong with a function of one tensor, None where nothing is.

    `mistakes` holds (function, message): the message is given where the answer agrees
    with that function in all cases, but not with `right`.
    """
    given = [answer(case.clone()) for case in cases]
    if holds_stub(given):
        raise NotDone
    given = [torch.as_tensor(value, dtype=torch.float32) for value in given]

    def first_difference(function: Callable) -> int | None:
        for place, (case, value) in enumerate(zip(cases, given, strict=True)):
            wanted = function(case)
            close = {"rtol": 1e-4, "atol": 1e-6, "equal_nan": True}
            if value.shape != wanted.shape or not torch.allclose(
                value, wanted, **close
            ):
                return place
        return None

    place = first_difference(right)
    if place is None:
        return None
    for function, message in mistakes:
        if first_difference(function) is None:
            return message
    wanted, got = right(cases[place]).tolist(), given[place].tolist()
    return f"for {cases[place].tolist()}: expected {wanted}, got {got}"


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
    return None if reach(n - 4) > 0.05 else f"{n} are enough, but so are fewer"


@exercise
def check_lora_count(answer):
    """4.1: weights that rank 16 on all seven linear maps of SmolLM2 trains."""
    config = architecture(SMOL)
    shapes = linear_shapes(config)
    right = count_parameters(config, 16, list(shapes))
    layers = config.num_hidden_layers
    mistakes = {
        right / layers: "that is one layer; how many are there?",
        right / 2: "that is rank 8",
        layers * sum(a * b for a, b in shapes.values()): "those are the base weights",
        count_parameters(config, 16, ATTENTION): "that is attention alone",
    }
    hint = "expected r × (inputs + outputs), over seven maps and all layers"
    return near(answer, right, mistakes, hint, 1e-6)


@exercise
def check_lora_update(answer):
    """4.2: the update of a weight from A, B and alpha."""

    def other(a: torch.Tensor) -> torch.Tensor:  # a B for each A: (6, r) to A's (r, 4)
        return torch.arange(6.0 * len(a)).reshape(6, -1).cos()

    def factor(a: torch.Tensor, n: float) -> torch.Tensor:
        return 32 / n * other(a) @ a

    mistakes = [
        (lambda a: factor(a, 32), "the factor alpha / r is missing"),
        (lambda a: factor(a, 1), "that is alpha, not alpha / r"),
        (lambda a: factor(a, a.shape[1]), "r is the thin side of A: its rows"),
        (lambda a: factor(a, len(a) ** 0.5), "alpha / √r is rsLoRA; here alpha / r"),
        (lambda a: factor(a, len(a)).T, "that is the transpose: W is (out, in)"),
    ]
    cases = [torch.arange(4.0 * r).reshape(r, 4).sin() for r in (2, 3)]
    return compare(
        lambda a: answer(a, other(a), 32), lambda a: factor(a, len(a)), cases, mistakes
    )


@exercise
def check_fp16_numbers(answer):
    """4.3: what becomes of five numbers in fp16."""

    def fate(number: float) -> str:
        half = float(torch.tensor(number, dtype=torch.float16))
        known = {0.0: "zero", math.inf: "infinite", number: "exact"}
        return known.get(half, "rounded")

    hints = {
        "0.25": "a power of two, and neither too small nor too large",
        "0.1": "no sum of powers of two, in any of the three formats",
        "2049": "from 2048 on the distance between neighbours is 2",
        "70000": "compare it with the largest number",
        "1e-8": "compare it with half of the smallest number",
    }
    fates = {"exact", "rounded", "zero", "infinite"}
    if isinstance(answer, dict) and not set(answer.values()) <= fates:
        return "expected exact, rounded, zero or infinite for each"
    return match(answer, {name: fate(float(name)) for name in hints}, hints)


@exercise
def check_scaler_order(answer):
    """4.4: the order of the five calls of a step with a gradient scaler."""
    before = {
        ("backward", "unscale"): "there is no gradient yet to divide",
        ("unscale", "clip"): "the limit would be held against the scaled gradient",
        ("clip", "step"): "after the step a shorter gradient changes nothing",
        ("step", "update"): "update reads what was found on the way to the step",
    }
    if sorted(answer) != ["backward", "clip", "step", "unscale", "update"]:
        return "expected backward, clip, step, unscale and update, each once"
    for (first, second), why in before.items():
        if answer.index(first) > answer.index(second):
            return f"{second} before {first}: {why}"
    return None


@exercise
def check_scaler_rule(answer):
    """4.5: the scales of a run, from which of its steps overflowed."""

    def rule(skip=0.5, grow=2.0, forget=True, at=3):
        def scales(overflows: torch.Tensor) -> torch.Tensor:
            scale, good, used = 2.0**16, 0, []
            for overflow in overflows.tolist():
                used.append(scale)
                good = (0 if forget else good) if overflow else good + 1
                scale *= skip if overflow else grow if good == at else 1
                good %= at
            return torch.tensor(used)

        return scales

    mistakes = [
        (rule(forget=False), "after an overflow the count of good steps starts anew"),
        (rule(at=1), "it doubles after three good steps in a row, not after each"),
        (rule(skip=1.0), "an overflow must halve the scale"),
        (rule(grow=1.0), "three good steps in a row must double the scale"),
        (lambda x: rule()(torch.cat([x, x[:1]]))[1:], "return the scale that each "
         "step used, not the one after it"),
    ]  # fmt: skip
    flags = ([1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1, 0], [0, 0, 0, 0, 0, 0, 1, 1, 0, 0, 0, 0])
    return compare(answer, rule(), [torch.tensor(case) for case in flags], mistakes)


@exercise
def check_make_it_fit(answer):
    """4.6: settings with which 32 completions of 1,536 tokens fit on a T4."""

    def needs(changes: dict) -> tuple[str, float]:
        changes = {"max_completion_length": 1536} | changes
        moment, most = peak(memory_budget(PROFILES["t4"], gpu=True, **changes))
        return moment, most / GIB

    at_once, times = "per_device_train_batch_size", "gradient_accumulation_steps"
    if not isinstance(answer, dict) or not {at_once, times} <= answer.keys():
        return f"expected a dict that sets {at_once}, {times} and what else it takes"
    if other := sorted(answer.keys() - {at_once, times, "gradient_checkpointing"}):
        return f"{other[0]} is not to be changed"
    if answer[at_once] * answer[times] != 32:
        return f"{answer[at_once]} × {answer[times]} are not 32 completions a step"
    moment, most = needs(answer)
    if most > T4_GIB - 0.5:
        return f"that needs {most:.1f} GiB for {moment}"
    more = {at_once: 2 * answer[at_once], times: answer[times] // 2}
    more |= {"gradient_checkpointing": True}
    if answer[times] > 1 and needs(more)[1] <= T4_GIB - 0.5:
        return f"that fits, but {more[at_once]} at once can fit too"
    return None


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

    batch, limit = int(answer), T4_GIB - 0.5
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


# Of recorded/sick/: the runs that exercise 5.4 shows, by letter.
PATIENTS = {"A": "length_creeping", "B": "gradient_exploding", "C": "no_variance"}


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
