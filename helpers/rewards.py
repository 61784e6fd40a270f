"""The five reward functions, each a plain function of the text of a completion.

Names and points are those of Will Brown's GRPO demo and of the article. Each function
takes what TRL hands to it: `completions`, a list of chat completions
(`[{"role": "assistant", "content": text}]`) or of plain strings, and every column of
the data set as a keyword. It returns one float per completion, never raises on any
text, and takes time linear in its length.
"""

import re
from decimal import Decimal

from .prompts import XML_TAGS, extract_xml_answer

INTEGER = re.compile(r"[+-]?\$?(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)")
NUMBER = re.compile(INTEGER.pattern + r"(?:\.[0-9]+)?")
LAYOUT = re.compile(
    r"<reasoning>\r?\n.*?\r?\n</reasoning>\r?\n<answer>\r?\n.*?\r?\n</answer>(\r?\n)?",
    re.DOTALL,
)


def completion_text(completion: str | list[dict[str, str]]) -> str:
    """Return the text of a plain or conversational completion."""
    return completion if isinstance(completion, str) else completion[0]["content"]


def parse_number(text: str) -> Decimal | None:
    """Return the value of an ASCII number such as `-$1,018.50`, else None."""
    if not NUMBER.fullmatch(text):
        return None
    return Decimal(text.replace("$", "").replace(",", ""))


def same_answer(given: str, gold: str) -> bool:
    """Tell whether two answers are the same number (or, if gold is none, same text)."""
    value = parse_number(gold)
    return given == gold != "" if value is None else parse_number(given) == value


def correctness_reward_func(completions, answer, **kwargs) -> list[float]:
    """2.0 if the last complete answer tag holds the gold answer (`answer` column)."""
    answers = [extract_xml_answer(completion_text(c)) for c in completions]
    pairs = zip(answers, answer, strict=True)
    return [2.0 if same_answer(given, gold) else 0.0 for given, gold in pairs]


def int_reward_func(completions, **kwargs) -> list[float]:
    """0.5 if the last complete answer tag holds an integer, right or wrong."""
    answers = [extract_xml_answer(completion_text(c)) for c in completions]
    return [0.5 if INTEGER.fullmatch(given) else 0.0 for given in answers]


def strict_format_reward_func(completions, **kwargs) -> list[float]:
    """0.5 for exactly the layout asked for, line by line, and nothing around it."""
    texts = [completion_text(c) for c in completions]
    # The counts come first: with each tag there once, the pattern cannot backtrack.
    good = [count_xml(text) == 0.5 and LAYOUT.fullmatch(text) for text in texts]
    return [0.5 if fits else 0.0 for fits in good]


def soft_format_reward_func(completions, **kwargs) -> list[float]:
    """0.5 if a reasoning pair and then an answer pair occur, whatever is around."""

    def in_order(text: str) -> bool:
        for tag in XML_TAGS:
            _, found, text = text.partition(tag)  # where it is not, both become ""
        return bool(found)

    return [0.5 if in_order(completion_text(c)) else 0.0 for c in completions]


def count_xml(text: str) -> float:
    """Return 0.125 for each of the four tags that occurs exactly once."""
    return 0.125 * sum(text.count(tag) == 1 for tag in XML_TAGS)


def xmlcount_reward_func(completions, **kwargs) -> list[float]:
    """0.125 for each tag that occurs exactly once: a first step towards the format."""
    return [count_xml(completion_text(c)) for c in completions]


# The article's four, in its order: 3.5 points at most.
ARTICLE_REWARD_FUNCS = [
    xmlcount_reward_func,
    soft_format_reward_func,
    int_reward_func,
    correctness_reward_func,
]
# All five, which the course trains with: 4.0 points at most.
REWARD_FUNCS = [
    correctness_reward_func,
    int_reward_func,
    strict_format_reward_func,
    soft_format_reward_func,
    xmlcount_reward_func,
]
