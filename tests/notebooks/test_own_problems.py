"""The problems that the course brings in GSM8K's form: right, and none a copy."""

import re

import pytest

from helpers.data import get_arithmetic_questions, get_gsm8k_questions
from helpers.prompts import WORKED_EXAMPLES
from helpers.rewards import same_answer
from tests import RECORDED

OWN = RECORDED / "own_problems"


@pytest.mark.parametrize("split", ["train", "test"])
def test_notes_and_answers_of_our_own_problems_are_right(split):
    rows = get_gsm8k_questions(split, folder=OWN)
    assert len(rows) == {"train": 24, "test": 12}[split]
    for row in rows:
        notes = re.findall(r"<<([-+*/.0-9]+)=(-?[.0-9]+)>>", row["solution"])
        assert len(notes) == row["solution"].count("<<") >= 2
        for expression, value in notes:
            assert eval(expression) == pytest.approx(float(value)), row["question"]
        assert same_answer(row["answer"], notes[-1][1]), row["question"]


def test_our_own_problems_have_every_shape_of_answer_and_no_question_twice():
    rows = [get_gsm8k_questions(split, folder=OWN) for split in ("train", "test")]
    for part in rows:
        last = [solution.rpartition("####")[2] for solution in part["solution"]]
        for shape in (r"\$", r"\d,\d{3}", r"-\d", r"\d\.\d"):
            assert any(re.search(shape, text) for text in last), shape
    questions = [q for part in rows for q in part["question"]]
    others = {q for q, *_ in WORKED_EXAMPLES}
    others |= {
        q for s in ("train", "test") for q in get_arithmetic_questions(s)["question"]
    }
    assert len(set(questions)) == 36 and not others & set(questions)
