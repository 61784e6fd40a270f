"""The checks of notebook 10, your own task."""

import json
import re

import torch

from . import compare, compare_texts, exercise, match

GOLD = {"name": "Bo", "age": 59, "city": "Lima"}


@exercise
def check_object_points(answer):
    """10.2: what the four rewards pay in all for five completions."""
    right = {"A": 4.0, "B": 5 / 3, "C": 0.0, "D": 7 / 6, "E": 1.5}
    hints = {
        "A": "an object has no order: {age, name} is {name, age}",
        ("B", 4.0): "B holds the text 59, not the number: that value is not right",
        "B": "json 0.5, key 0.5, and two of three values",
        ("C", 4.0): "C begins with ```: the whole text is no JSON",
        "C": "json.loads cannot read C; what does pay return for no object?",
        ("D", 5 / 3): "a key is missing, so key_reward pays nothing",
        "D": "json 0.5, and two of three values",
        ("E", 4.0): "one key more than asked for: not the right object",
        ("E", 2.0): "one key more than asked for: key_reward pays nothing",
        "E": "json 0.5, and all three values",
    }
    if isinstance(answer, dict):
        answer = {k: round(float(points), 2) for k, points in answer.items()}
    right = {key: round(points, 2) for key, points in right.items()}
    hints = {
        (k[0], round(k[1], 2)) if isinstance(k, tuple) else k: said
        for k, said in hints.items()
    }
    return match(answer, right, hints)


@exercise
def check_hack(answer):
    """10.1: a text that a naive reward pays in full, and that is not the object."""
    if not isinstance(answer, str):
        return "the answer is a text, in quotes"
    missing = [str(v) for v in GOLD.values() if str(v) not in answer]
    if missing:
        paid = len(GOLD) - len(missing)
        return f"it earns {paid} of 3 points: {missing[0]} does not stand in it"
    try:
        found = json.loads(answer)
    except (ValueError, RecursionError):
        return None
    if found == GOLD:
        return "that is the right object: it earns its 3 points honestly"
    return None


def teaching_share(p: torch.Tensor, size: int = 8) -> torch.Tensor:
    """Return the expected share of groups of `size` with spread, p for each problem."""
    return (1 - p**size - (1 - p) ** size).mean()


@exercise
def check_teaching_share(answer):
    """10.3: the expected share of groups of 8 with spread, from each problem's p."""
    cases = [[0.0, 0.5], [0.1, 0.1, 0.9], [0.0, 0.0, 0.0, 1.0], [0.05, 0.3, 0.6]]
    mistakes = [
        (
            lambda p: teaching_share(p.mean()),
            "p of all problems together: take each one's own",
        ),
        (
            lambda p: (1 - (1 - p) ** 8).mean(),
            "groups that are all right teach nothing",
        ),
        (lambda p: (1 - p**8).mean(), "groups that are all wrong teach nothing"),
        (lambda p: teaching_share(p, 4), "a group has 8 completions, not 4"),
        (lambda p: (p**8 + (1 - p) ** 8).mean(), "those are the groups without spread"),
        (lambda p: 1 - p**8 - (1 - p) ** 8, "that is a number a problem: average them"),
    ]
    return compare(
        answer, teaching_share, [torch.tensor(case) for case in cases], mistakes
    )


@exercise
def check_five_words(answer):
    """10.4: a reward for exactly five different words."""
    if not callable(answer):
        return "pass the function itself, not what it returns"

    def words(text: str) -> list[str]:
        return re.findall(r"[\w']+", text.lower())

    def right(text: str) -> float:
        return float(len(words(text)) == len(set(words(text))) == 5)

    cases = {
        "red green blue black white": "five words",
        "red green blue black": "four words",
        "red  green blue black white": "five words, two spaces",
        "red green blue black white grey": "six words",
        "go go go go go": "one word, five times",
        "Go now, go and see": "Go and go are one word",
        "red green blue black white white": "six words, five of them different",
        "red  green\nblue - black white.": "five words, and a dash that is none",
        "don't stop, it's my turn": "don't is one word",
        "": "no word",
    }
    mistakes = [
        (lambda t: float(len(t.split()) == 5), "split counts a dash, and repetitions"),
        (lambda t: float(len(t.split(" ")) == 5), "a space is not the end of a word"),
        (lambda t: float(len(words(t)) == 5), "go go go go go earns the point"),
        (lambda t: float(len(set(words(t))) == 5), "a sixth word that stands there "
         "already is a sixth word"),
        (lambda t: float(len(re.findall(r"[\w']+", t)) == 5), "go go go go go earns "
         "the point"),
        (lambda t: float(len(re.findall(r"[\w']+", t)) ==
                         len(set(re.findall(r"[\w']+", t))) == 5),
         "Go and go are one word: lower the text first"),
        (lambda t: float(len(words(t)) >= 5), "exactly five: more earn nothing"),
    ]  # fmt: skip
    return compare_texts(answer, right, cases, mistakes)
