"""Notebook 01: what it writes inline is what helpers has; the problems it brings."""

import re
from pathlib import Path

import nbformat
import pytest
from conftest import GSM8K

from helpers import prompts
from helpers.data import get_arithmetic_questions, get_gsm8k_questions
from helpers.rewards import correctness_reward_func, same_answer

NOTEBOOKS = Path(__file__).resolve().parents[1] / "notebooks"
OWN = NOTEBOOKS / "recorded" / "own_problems"


@pytest.fixture(scope="module")
def defined() -> dict:
    """The functions of the notebook's cells, each defined there once."""
    there = vars(prompts).copy()
    nb = nbformat.read(NOTEBOOKS / "01_prompts_and_data.ipynb", as_version=4)
    for cell in nb.cells:
        if cell.cell_type == "code" and "exercise" not in cell.metadata.get("tags", []):
            for text in re.findall(
                r"^(?:import \w+|from html .+|def .+(?:\n+ +.+)+)", cell.source, re.M
            ):
                exec(text, there)
    return there


@pytest.mark.parametrize("count", [0, 1, 4])
def test_the_prompt_written_inline_is_that_of_the_helpers(defined, count):
    for system in (prompts.SYSTEM_PROMPT, prompts.SYSTEM_PROMPT_ZH):
        mine = defined["build_prompt"]("How many?", count, system)
        assert defined["build_prompt"] is not prompts.build_prompt
        assert mine == prompts.build_prompt("How many?", count, system)


def test_tokens_are_escaped(defined, tokenizer):
    defined["tokenizer"] = tokenizer
    html = "".join(
        defined["token_html"](i, "#000000") for i in tokenizer("<b>&")["input_ids"]
    )
    assert "<b" not in html and "&lt;" in html and "&amp;" in html
    special = defined["token_html"](tokenizer.eos_token_id, "#000000")
    assert "&lt;|im_end|&gt;" in special and "background:black" in special


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
    others = {q for q, *_ in prompts.WORKED_EXAMPLES}
    others |= {
        q for s in ("train", "test") for q in get_arithmetic_questions(s)["question"]
    }
    assert len(set(questions)) == 36 and not others & set(questions)


@pytest.mark.parametrize("folder", [OWN, GSM8K])
def test_the_articles_logic_pays_no_perfect_completion_and_the_course_all(
    defined, folder
):
    if not folder.exists():
        pytest.skip("no copy of GSM8K beside the course")
    rows = get_gsm8k_questions("train", folder=folder)
    students = [defined["perfect_completion"](s) for s in rows["solution"]]
    pairs = zip(students, rows["solution"], strict=True)
    assert {defined["articles_correctness"](*pair) for pair in pairs} == {0.0}
    assert set(correctness_reward_func(students, rows["answer"][:])) == {2.0}
    gold = rows["solution"][0]
    assert defined["articles_correctness"]("</answer># 72", gold) == 2.0
