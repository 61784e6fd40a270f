"""The exercises: a room a notebook, `n00` to `n10`; here is what their checks share.

`check_NAME(answer)` prints one line and never raises. A stub in a notebook holds `...`
where the learner writes; untouched, it is "not done yet", and Run all goes on. Where a
usual mistake is known, the line names it.
"""

import functools
from collections.abc import Callable

import torch


def exercise(check: Callable[[object], str | None]) -> Callable[[object], None]:
    """Make a check of a function that returns what is wrong, None where nothing is."""

    @functools.wraps(check)
    def checked(answer: object) -> None:
        try:
            if holds_stub(answer):
                raise NotDone
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
    if not callable(answer):
        return "pass the function itself, not what it returns"
    given = [answer(case.clone()) for case in cases]
    if holds_stub(given):
        raise NotDone
    if given[0] is None:
        return "the function returns None: is its `return` missing?"
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
    wanted, got, where = right(cases[place]), given[place], cases[place].tolist()
    if got.shape != wanted.shape:
        return f"for {where}: shape {tuple(got.shape)}, expected {tuple(wanted.shape)}"
    return f"for {where}: expected {wanted.tolist()}, got {got.tolist()}"


def compare_texts(
    answer: Callable, right: Callable, cases: dict[str, str], mistakes: list
) -> str | None:
    """Return what is wrong with a function of a text, None where nothing is.

    `cases` maps each text to what is said (may be nothing) if the answer is wrong
    there; the first one counts. `mistakes`, as in `compare`, come before.
    """

    def result(text: str) -> object:
        try:
            return answer(text)
        except Exception as error:  # shown like any other wrong result
            return error

    given = {text: result(text) for text in cases}
    if holds_stub(given):
        raise NotDone
    wrong = [text for text in cases if given[text] != right(text)]
    for function, message in mistakes:
        if wrong and all(given[text] == function(text) for text in cases):
            return message
    for text in wrong:
        got, said = given[text], cases[text]
        if isinstance(got, str) and got.strip() == right(text):
            said = "take off the spaces and line breaks around it"
        where = f"{said}: for {text!r}" if said else f"for {text!r}:"
        return f"{where} expected {right(text)!r}, got {got!r}"
    return None


def pair(function: Callable) -> Callable:
    """Make a function of two tensors one of a tensor that holds both."""
    return lambda both: function(both[0], both[1])
