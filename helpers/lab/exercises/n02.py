"""The checks of notebook 02, reward functions, and the truth table that it opens."""

import json
import re
import time
from collections.abc import Callable
from pathlib import Path

from ...prompts import XML_TAGS, extract_xml_answer
from ...rewards import (
    INTEGER,
    NUMBER,
    REWARD_FUNCS,
    count_xml,
    soft_format_reward_func,
)
from . import NotDone, compare_texts, exercise, holds_stub, match, near


def truth_table() -> list[dict]:
    """Return the rows of truth_table.json: kind, name, text, gold, and five points.

    The points are in the order of `REWARD_FUNCS`. In the file a long text is a list of
    pieces, `[piece, how often]` where one is repeated.
    """
    path = Path(__file__).parents[1] / "truth_table.json"
    rows = json.loads(path.read_text(encoding="utf-8"))
    for row in rows:
        pieces = [row["text"]] if isinstance(row["text"], str) else row["text"]
        row["text"] = "".join(p if isinstance(p, str) else p[0] * p[1] for p in pieces)
    return rows


@exercise
def check_points(answer):
    """2.1: the points of five completions in all, by eye."""
    right = {"A": 4.0, "B": 1.5, "C": 3.5, "D": 0.0, "E": 0.375}
    hints = {
        ("B", 4.0): "12 pens is not a number: neither correctness nor int pays",
        ("B", 3.5): "12 pens is not a number: correctness does not pay either",
        ("C", 4.0): "strict_format wants each tag on a line of its own",
        ("D", 2.0): "correctness reads only the answer tag, and there is none",
        ("E", 3.375): "without a closing tag there is no answer to read",
        ("E", 0.875): "soft_format needs the closing answer tag too",
        "A": "nothing is missing here",
    }
    return match(answer, right, hints)


@exercise
def check_integer(answer):
    """2.2: a function that tells whether a text is an integer."""

    def by_int(text: str) -> bool:
        try:
            return isinstance(int(text), int)
        except ValueError:
            return False

    def fits(pattern: str, method=re.fullmatch) -> Callable:
        return lambda text: bool(method(pattern, text))

    rows = [row for row in truth_table() if row["kind"] in ("number", "script")]
    cases = [*dict.fromkeys(extract_xml_answer(row["text"]) for row in rows), "12,345"]
    integer, anywhere = INTEGER.pattern, r"[+-]?\$?[{}]+"
    mistakes = [
        (str.isdigit, "isdigit pays for ² and refuses signs, $ and commas"),
        (by_int, "int() reads digits of other scripts, and refuses $ and commas"),
        (fits(integer, re.match), "the start fits, but what follows it? use fullmatch"),
        (fits(integer.replace("0-9", r"\d")), r"\d means digits of other scripts too"),
        (fits(anywhere.format("0-9,")), "a comma belongs before three digits only"),
        (fits(anywhere.format("0-9")), "1,018 is an integer too"),
        (fits(NUMBER.pattern), "18.0 is a number, but not written as an integer"),
    ]
    return compare_texts(answer, fits(integer), dict.fromkeys(cases, ""), mistakes)


def as_chats(*texts: str) -> list[list[dict]]:
    """Return completions as TRL hands them to a reward function."""
    return [[{"role": "assistant", "content": text}] for text in texts]


def half_begun(layouts: int) -> str:
    """Return a text full of layouts that are begun and never end."""
    return "<reasoning>\n" + "\n</reasoning>\n<answer>\n" * layouts


def opening_tags(count: int) -> str:
    """Return a text of reasonings that are begun and never end."""
    return "<reasoning>" * count


def too_slow(function: Callable, grown: Callable[[int], str], what: str) -> str | None:
    """Say so where a function's seconds grow much faster than a text's length.

    `grown(n)` is a text n times as long as `grown(1)`, and `what` the name of such.
    """
    for doublings in range(9):  # 60 tags or layouts are 1 KB, the last 170 or 340 KB
        text = grown(60 * 2**doublings)
        began = time.process_time()
        function(text)
        if (seconds := time.process_time() - began) > 0.2:
            long = f"{len(text) / 1000:.1f} KB of {what}"
            return f"every reward is right, but {long} take {seconds:.1f} s"
    return None


@exercise
def check_soft(answer):
    """2.3: the reward function soft_format, of chats, against the truth table."""
    given = answer(completions=as_chats("a", "b"), answer=["1", "2"])
    if holds_stub(given):
        raise NotDone
    if not isinstance(given, list) or len(given) != 2:
        return f"expected a list of 2 rewards for 2 completions, got {given!r}"

    def one(text: str) -> float:
        return answer(completions=as_chats(text), answer=["18"])[0]

    def soft(text: str) -> float:
        return soft_format_reward_func([text])[0]

    def fits(between: str, method=re.search, flags=re.DOTALL) -> Callable:
        pattern = f"<reasoning>.*?</reasoning>{between}<answer>.*?</answer>"
        return lambda text: 0.5 if method(pattern, text, flags) else 0.0

    def first_places(text: str) -> float:
        places = [text.find(tag) for tag in XML_TAGS]
        return 0.5 if -1 not in places and places == sorted(places) else 0.0

    no_dotall = "a dot does not stand for a line break: add re.DOTALL"
    mistakes = [
        (lambda text: 2 * soft(text), "the reward is 0.5, not 1"),
        (fits(".*?", flags=0), no_dotall),
        (fits(r"\s*", flags=0), no_dotall),
        (fits(r"\s*", re.match, 0), no_dotall),
        (fits(".*?", re.match, 0), no_dotall),
        (fits(".*?", re.match), "text may come before the tags: search, not match"),
        (fits(r"\s*", re.match), "text may come before the tags: search, not match"),
        (fits(".*?", re.fullmatch), "text may come before and after the tags"),
        (fits(r"\s*", re.fullmatch), "text may come before and after the tags"),
        (fits(r"\s*"), "any text may stand between the two pairs"),
        (
            lambda text: 0.5 * all(tag in text for tag in XML_TAGS),
            "all tags are there, but are they in order?",
        ),
        (first_places, "a tag may occur too early: look for it behind the one before"),
    ]
    cases = [row["text"] for row in truth_table() if row["kind"] != "1 MB"]
    cases += ["</answer><reasoning>a</reasoning> so <answer>18</answer>"]
    wrong = compare_texts(one, soft, dict.fromkeys(cases, ""), mistakes)
    return wrong or too_slow(one, half_begun, "half-begun layouts")


@exercise
def check_count(answer):
    """2.4: 0.125 for each tag that occurs exactly once."""

    def points(pays: Callable, text: str) -> float:
        return 0.125 * sum(pays(text, tag) for tag in XML_TAGS)

    def with_breaks(text: str, tag: str) -> bool:
        before = "" if tag == "<reasoning>" else "\n"
        return text.count(before + tag + ("" if tag == "</answer>" else "\n")) == 1

    wrong_counts = [
        (lambda text, tag: tag in text, "a tag that occurs twice earns nothing"),
        (lambda text, tag: text.count(tag), "0.125 a tag, not each time it occurs"),
        (with_breaks, "count the tag alone, without the line breaks around it"),
    ]
    mistakes = [(lambda t, p=p: points(p, t), said) for p, said in wrong_counts]
    mistakes += [
        (lambda text: 8 * count_xml(text), "four tags earn 0.5 in all, not 4"),
        (
            lambda text: 0.5 if count_xml(text) == 0.5 else 0.0,
            "each tag earns its points alone, whatever the others do",
        ),
    ]
    cases = [row["text"] for row in truth_table() if row["kind"] != "1 MB"]
    return compare_texts(answer, count_xml, dict.fromkeys(cases, ""), mistakes)


@exercise
def check_group(answer):
    """2.5: the chance that a group teaches, and the size for one half, at p = 0.05."""
    chance, size = answer
    equal = 0.95**8 + 0.05**8
    mistakes = {
        equal: "that is the chance that all eight are equal",
        0.95**8 * 0.05 * 8 / 0.95: "that is the chance of exactly one right answer",
        0.4: "chances do not add up: 20 tries would give 1",
    }
    hint = "chance: expected 1 minus the chances of all right and all wrong"
    # 0.34 is 1% off: two decimals will do.
    if wrong := near(chance, 1 - equal, mistakes, hint, within=0.02):
        return wrong
    if size < 14:
        return f"size: of {size}, {1 - 0.95**size - 0.05**size:.0%} have both outcomes"
    return None if size == 14 else f"size: {size} is enough, but a smaller one is too"


def points_of(text: str, gold: str) -> dict[str, float]:
    """Return what each reward pays for a text, by the reward's short name."""
    names = [func.__name__.removesuffix("_reward_func") for func in REWARD_FUNCS]
    rewards = [func([text], answer=[gold])[0] for func in REWARD_FUNCS]
    return dict(zip(names, rewards, strict=True))


@exercise
def check_wrong_but_paid(answer):
    """2.6: a wrong answer (gold 18) that earns as much as possible."""
    text = str(answer)
    points = points_of(text, "18")
    if points.pop("correctness"):
        return "this answer is right; write a wrong one"
    if re.search(r"<reasoning>\s*</reasoning>", text):
        return "its reasoning is empty, as that of the playground's hacked is"
    lacking = [f"{name} pays {p:g} of 0.5" for name, p in points.items() if p < 0.5]
    return f"it can earn more: {', '.join(lacking)}" if lacking else None


@exercise
def check_right_but_poor(answer):
    """2.7: a right answer (gold 18) that earns as little as possible beside it."""
    points = points_of(str(answer), "18")
    if not points.pop("correctness"):
        return "correctness does not pay here; the answer has to be right"
    paying = [f"{name} still pays {p:g}" for name, p in points.items() if p]
    return ", ".join(paying) or None


@exercise
def check_patch(answer):
    """2.8: 0.5 for a reasoning with a letter or a digit in it, told quickly."""

    def pays(flags: int, readable: Callable, whole: bool = False) -> Callable:
        def function(text: str) -> float:
            found = re.search("<reasoning>(.*?)</reasoning>", text, flags)
            read = text if whole else found and found[1]
            return 0.5 if found and readable(read) else 0.0

        return function

    def readable(text: str) -> bool:
        return any(character.isalnum() for character in text)

    kinds = ("layout", "hack", "empty")
    cases = [row["text"] for row in truth_table() if row["kind"] in kinds]
    mistakes = [
        (pays(re.DOTALL, bool), "a line break alone is not reasoning"),
        (
            pays(re.DOTALL, str.strip),
            "dots alone are not reasoning: ask for a letter or a digit",
        ),
        (pays(0, readable), "this pays 0 where the reasoning has line breaks"),
        (
            pays(re.DOTALL, readable, True),
            "a letter or digit outside the reasoning does not count",
        ),
        (lambda text: 0.5 * readable(text), "without reasoning tags the reward is 0"),
    ]
    cases = dict.fromkeys(cases, "")
    wrong = compare_texts(answer, pays(re.DOTALL, readable), cases, mistakes)
    return wrong or too_slow(answer, opening_tags, "opening tags")


@exercise
def check_short(answer):
    """2.9: a reward function of one's own, with a column, None and both formats."""
    texts, limits, right = ["12345", "1234", "123"], [4, 4, None], [0.0, 1.0, None]
    chats = as_chats(*texts)
    columns = {"prompts": ["p"] * 3, "limit": limits, "answer": ["1"] * 3}
    given = answer(completions=chats, **columns)
    if holds_stub(given):
        raise NotDone
    if not isinstance(given, list) or len(given) != 3:
        return f"expected a list of 3 rewards for 3 completions, got {given!r}"
    mistakes = [
        ([1.0, 1.0, None], "len() of a chat counts messages: use completion_text"),
        ([0.0, 0.0, None], "a text of exactly that length is paid too"),
        ([0.0, 1.0, 0.0], "where limit is None, return None, not 0"),
        ([1.0, 0.0, None], "this pays for the long ones"),
    ]
    for wrong, message in mistakes:
        if given == wrong:
            return message
    plain = answer(completions=texts, **columns)
    for kind, rewards in (("chats", given), ("plain texts", plain)):
        if rewards != right:
            return f"for {kind} with limits {limits}: expected {right}, got {rewards}"
    return None
