"""The five reward functions, row by row and against any text."""

import time

import pytest
from hypothesis import given, settings

from helpers.lab.exercises.n02 import truth_table
from helpers.prompts import XML_COT_FORMAT, XML_TAGS
from helpers.rewards import (
    ARTICLE_REWARD_FUNCS,
    REWARD_FUNCS,
    correctness_reward_func,
    count_xml,
    parse_number,
    same_answer,
)
from tests.engine.test_prompts import PIECES

TABLE = truth_table()
# What the table must hold, as parts of names.
WANTED = {
    "layout": [
        "several lines",
        "no newline at the end",
        "CRLF",
        "text before",
        "after",
    ],
    "number": [
        "dollars",
        "negative",
        "thousands",
        "1,000",
        "decimals",
        "unit",
        "words",
    ],
    "script": ["superscript", "full-width", "Devanagari", "Arabic", "Chinese"],
    "tags": ["nested", "second", "doubled", "twice", "code block", "no closing"],
    "hack": ["bare number", "wrong, empty reasoning"],
    "empty": ["empty"],
    "1 MB": ["1 MB"],
}


def layout(answer: str, reasoning: str = "3 * 6 = 18\nso it is 18") -> str:
    return XML_COT_FORMAT.format(reasoning=reasoning, answer=answer)


@pytest.mark.parametrize("row", TABLE, ids=[row["name"] for row in TABLE])
def test_points_are_those_of_the_truth_table(row):
    text, gold = row["text"], row["gold"]
    chat = [{"role": "assistant", "content": text}]
    for func, expected in zip(REWARD_FUNCS, row["points"], strict=True):
        rewards = func(
            prompts=["p", "p"], completions=[chat, text], answer=[gold, gold], other=1
        )
        assert rewards == [expected, expected], func.__name__
        assert all(type(reward) is float for reward in rewards)


def test_the_truth_table_has_every_kind_of_row():
    assert len({(row["text"], row["gold"]) for row in TABLE}) == len(TABLE) >= 40
    assert len({row["name"] for row in TABLE}) == len(TABLE)
    assert {row["kind"] for row in TABLE} == set(WANTED)
    for kind, parts in WANTED.items():
        names = [row["name"] for row in TABLE if row["kind"] == kind]
        for part in parts:
            assert any(part in name for name in names), (kind, part)
    for row in TABLE:
        assert (len(row["text"]) > 990_000) == (row["kind"] == "1 MB"), row["name"]
    # Each reward is paid in some rows and not in others.
    for points in zip(*(row["points"] for row in TABLE), strict=True):
        assert min(points) == 0.0 < max(points)


@settings(max_examples=300)
@given(PIECES.map("".join))
def test_no_text_breaks_a_reward_or_earns_other_points(text):
    allowed = [{0.0, 2.0}, {0.0, 0.5}, {0.0, 0.5}, {0.0, 0.5}]
    allowed.append({0.0, 0.125, 0.25, 0.375, 0.5})
    for func, points in zip(REWARD_FUNCS, allowed, strict=True):
        assert func(completions=[text], answer=["18"])[0] in points


@given(PIECES.map("".join))
def test_strict_format_implies_soft_format_and_four_tags(text):
    *_, strict, soft, count = (
        f(completions=[text], answer=["1"])[0] for f in REWARD_FUNCS
    )
    assert not strict or (soft, count) == (0.5, 0.5)


@pytest.mark.parametrize(
    "piece",
    [*XML_TAGS, "7", "\n", "\r\n", "<answer>7</answer>", "7,777", "<reasoning>\n"],
)
def test_rewards_are_linear(piece):
    text = piece * (1_000_000 // len(piece))
    texts = [text, layout(text), layout("7", reasoning=text), text + layout("7")]
    for func in REWARD_FUNCS:
        start = time.process_time()
        func(completions=texts, answer=["7"] * len(texts))
        assert time.process_time() - start < 1, func.__name__


def test_sums_are_those_of_the_course_and_of_the_article():
    text = layout("18")
    assert sum(f(completions=[text], answer=["18"])[0] for f in REWARD_FUNCS) == 4.0
    assert [f.__name__ for f in ARTICLE_REWARD_FUNCS] == [
        "xmlcount_reward_func",
        "soft_format_reward_func",
        "int_reward_func",
        "correctness_reward_func",
    ]
    points = [f(completions=[text], answer=["18"])[0] for f in ARTICLE_REWARD_FUNCS]
    assert sum(points) == 3.5


def test_numbers_are_compared_by_value_and_other_answers_as_text():
    assert parse_number("-$1,018.50") == parse_number("-1018.5")
    assert parse_number("1e3") is None
    assert same_answer("blue", "blue")
    assert not same_answer("blue", "red")
    assert count_xml("<answer></answer>") == 0.25


def test_a_missing_gold_answer_is_not_overlooked():
    with pytest.raises(ValueError, match="shorter"):
        correctness_reward_func(completions=["a", "b"], answer=["1"])
