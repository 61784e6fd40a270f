"""What a Chinese system prompt costs: the record is whole, and agrees with the runs."""

import json

import pytest

from helpers.prompts import SYSTEM_PROMPT, SYSTEM_PROMPT_ZH
from tests import RECORDED

RECORD = json.loads((RECORDED / "chinese_prompt.json").read_text(encoding="utf-8"))
MODELS = ("untrained", "cpu-seed0", "cpu-seed1", "cpu-seed2")


def test_each_model_was_asked_four_times_in_the_order_that_notebook_01_reads():
    found = [(c["model"], c["examples"], c["language"]) for c in RECORD["cases"]]
    assert found == [
        (m, e, lang) for m in MODELS for e in (0, 1) for lang in ("en", "zh")
    ]
    assert RECORD["n"] == 200 and RECORD["date"] and RECORD["machine"]["torch"]
    for case in RECORD["cases"]:
        for name in ("any tag", "format", "strict", "lenient"):
            assert len(case[name]) == 200 and set(case[name]) <= set("01")


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_in_english_and_one_shot_the_trained_models_score_what_their_runs_did(seed):
    """But for near ties of two tokens, which another process may settle otherwise."""
    path = RECORDED / f"cpu-seed{seed}" / "evaluation.json"
    run = json.loads(path.read_text(encoding="utf-8"))["splits"]["test"]["after"]
    wanted = {"model": f"cpu-seed{seed}", "examples": 1, "language": "en"}
    (case,) = (c for c in RECORD["cases"] if wanted.items() <= c.items())
    for name in ("format", "strict", "lenient"):
        assert abs(case[name].count("1") / 200 - run[name]["rate"]) <= 0.01


def test_only_the_first_line_of_the_prompt_is_chinese():
    english, chinese = SYSTEM_PROMPT.split("\n"), SYSTEM_PROMPT_ZH.split("\n")
    assert [k for k in range(len(english)) if english[k] != chinese[k]] == [1]
