"""What notebook 01 writes inline is what the helpers have; the article had another."""

import re

import pytest

from helpers import prompts
from helpers.data import get_gsm8k_questions
from helpers.rewards import correctness_reward_func
from tests import GSM8K, RECORDED
from tests.notebooks.cells import cells

OWN = RECORDED / "own_problems"


@pytest.fixture(scope="module")
def defined() -> dict:
    """The functions of the notebook's cells, each defined there once."""
    there = vars(prompts).copy()
    for cell in cells("01"):
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
