"""Prompts, and reading answers out of texts."""

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers import CourseError
from helpers.prompts import (
    SYSTEM_PROMPT,
    SYSTEM_PROMPT_ZH,
    WORKED_EXAMPLES,
    XML_COT_FORMAT,
    XML_TAGS,
    build_prompt,
    extract_hash_answer,
    extract_xml_answer,
)
from helpers.rewards import parse_number, strict_format_reward_func
from tests import GSM8K

PIECES = st.lists(
    st.sampled_from([*XML_TAGS, "\n", "\r\n", "18", " ", "x"]) | st.text()
)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("<answer>\n18\n</answer>", "18"),
        ("<answer>1</answer> then <answer> 2 </answer>", "2"),
        ("<answer>1</answer> then <answer>2", "1"),
        ("<answer>5</answer></answer>", "5"),
        ("<answer>4<answer>5</answer></answer>", "5"),
        ("</answer>18<answer>", ""),
        ("<answer>18", ""),
        ("<answer></answer>", ""),
        ("18", ""),
        ("", ""),
    ],
)
def test_xml_answer_is_that_of_the_last_complete_pair(text, answer):
    assert extract_xml_answer(text) == answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("Natalia sold 48/2 = <<48/2=24>>24.\n#### 72", "72"),
        ("#### 1\n#### $1,018.", "1018"),
        ("#### -3.50", "-3.50"),
        ("#### 1,234,567", "1234567"),
        ("#### 1,2", "1,2"),
        ("no marker 72", ""),
        ("####", ""),
        ("", ""),
    ],
)
def test_hash_answer_is_what_follows_the_last_marker(text, answer):
    assert extract_hash_answer(text) == answer


@given(PIECES.map("".join))
def test_no_text_breaks_the_parsers(text):
    assert isinstance(extract_xml_answer(text), str)
    assert isinstance(extract_hash_answer("####" + text), str)


@given(st.text(alphabet=st.characters(exclude_characters="<>"), min_size=1))
def test_an_answer_put_into_the_layout_comes_out_again(answer):
    text = XML_COT_FORMAT.format(reasoning="because", answer=answer)
    assert extract_xml_answer(text) == answer.strip()


@pytest.mark.parametrize(
    "piece", [*XML_TAGS, "7", "\n", "####", "1,", "<answer></answer>"]
)
def test_parsers_are_linear(piece):
    text = piece * (1_000_000 // len(piece))
    start = time.process_time()
    extract_xml_answer(text)
    extract_hash_answer("####" + text)
    assert time.process_time() - start < 1


def test_worked_examples_have_the_layout_that_is_asked_for():
    prompt = build_prompt("How many?", num_examples=4)
    assert [m["role"] for m in prompt] == ["system", *["user", "assistant"] * 4, "user"]
    assert prompt[0]["content"] == SYSTEM_PROMPT
    assert prompt[-1]["content"] == "How many?"
    replies = [m["content"] for m in prompt if m["role"] == "assistant"]
    assert strict_format_reward_func(replies) == [0.5] * 4
    assert [extract_xml_answer(r) for r in replies] == [e[2] for e in WORKED_EXAMPLES]


def test_a_prompt_without_examples_has_the_system_prompt_and_the_question():
    assert build_prompt("q", system_prompt=SYSTEM_PROMPT_ZH) == [
        {"role": "system", "content": SYSTEM_PROMPT_ZH},
        {"role": "user", "content": "q"},
    ]
    with pytest.raises(CourseError, match="num_examples is 5; use 0 to 4"):
        build_prompt("q", 5)


@pytest.mark.skipif(not GSM8K.exists(), reason="no copy of GSM8K beside the course")
@pytest.mark.parametrize("split", ["train", "test"])
def test_every_gold_answer_of_gsm8k_is_a_number(split):
    lines = (GSM8K / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()
    answers = [extract_hash_answer(json.loads(line)["answer"]) for line in lines]
    assert len(answers) >= 600
    assert all(parse_number(answer) is not None for answer in answers)
