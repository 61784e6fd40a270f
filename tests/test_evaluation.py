"""Scores, intervals and the files of an evaluation."""

import json

import pandas as pd
import pytest

from helpers import evaluation
from helpers.evaluation import (
    extract_last_number,
    paired_difference,
    score,
    summarize,
    wilson_interval,
)
from helpers.profiles import PROFILES
from helpers.prompts import XML_COT_FORMAT
from helpers.training import create_run

RIGHT = XML_COT_FORMAT.format(reasoning="3 * 6 = 18", answer="18")


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("so 3 + 4 = 18.", "18"),
        ("it costs $1,018.50!", "1,018.50"),
        ("19-7", "7"),
        ("x = -5", "-5"),
        ("(3)-5", "5"),
        ("none", ""),
        ("１８", ""),
    ],
)
def test_the_last_number_of_a_text(text, number):
    assert extract_last_number(text) == number


def test_the_three_scores_differ_as_they_should():
    texts = [RIGHT, "Sure. " + RIGHT, "It is 18", RIGHT.replace("18", "17"), ""]
    frame = score(texts, ["18"] * 5)
    assert frame["format"].tolist() == [True, False, False, True, False]
    assert frame["strict"].tolist() == [True, True, False, False, False]
    assert frame["lenient"].tolist() == [True, True, True, False, False]


def test_wilson_interval_against_published_numbers():
    # Newcombe, Statistics in Medicine 17 (1998), table I, method 3.
    for successes, n, low, high in [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ]:
        interval = wilson_interval(successes, n)
        assert interval["rate"] == successes / n
        assert interval["low"] == pytest.approx(low, abs=5e-5)
        assert interval["high"] == pytest.approx(high, abs=5e-5)


def test_paired_difference_uses_the_pairs():
    before, after = [1, 0] * 50, [1, 1] * 50
    change = paired_difference(before, after)
    assert change["mean"] == 0.5
    # 1.96 standard errors of a rate of one half over 100 pairs are 0.098.
    assert change["low"] == pytest.approx(0.40, abs=0.02)
    assert change["high"] == pytest.approx(0.60, abs=0.02)
    same = paired_difference(before, before)
    assert same == {"mean": 0.0, "low": 0.0, "high": 0.0}


def rows(values):
    frame = pd.DataFrame({name: values for name in evaluation.SCORES})
    return frame.assign(cut_off=[not value for value in values], completion="x")


def test_evaluation_json_has_the_documented_form(tmp_path):
    run = tmp_path / "run"
    create_run(run, PROFILES["smoke"], 0)
    evaluation.record(run, "test", "before", rows([False] * 4))
    evaluation.record(run, "test", "after", rows([False] * 4))
    evaluation.record(run, "test", "after", rows([True, True, True, False]))
    evaluation.record(run, "test", "few_shot", rows([True] * 4).assign(examples=2))
    summary = json.loads((run / "evaluation.json").read_text())
    assert summary["dataset"] == "arithmetic"
    assert summary["max_new_tokens"] == 128
    part = summary["splits"]["test"]
    assert part["n"] == 4
    assert part["before"]["strict"]["rate"] == 0
    assert part["after"]["strict"]["rate"] == 0.75
    assert part["after"]["cut_off"] == 0.25
    assert part["few_shot"]["examples"] == 2
    assert part["difference"]["lenient"]["mean"] == 0.75
    kept = pd.read_parquet(run / summary["completions"])
    assert len(kept) == 12
    text = evaluation.report(run)
    assert "| strict | 0.0 (0.0 to 49.0) | 100.0" in text
    assert "2 worked examples" in text


def test_differences_are_taken_problem_by_problem():
    before, after = rows([True, False]), rows([False, True])
    frame = pd.concat(
        [
            before.assign(which="before", index=[0, 1]),
            after.assign(which="after", index=[0, 1]).iloc[::-1],
        ]
    )
    change = summarize(frame)["difference"]["strict"]
    assert (change["mean"], change["low"], change["high"]) == (0.0, -1.0, 1.0)


def test_greedy_answers_do_not_depend_on_the_batch(tiny_model, tokenizer):
    from helpers.models import load_model_and_tokenizer

    model, tokenizer = load_model_and_tokenizer(str(tiny_model))
    model.requires_grad_(False)
    questions = evaluation.load_questions(PROFILES["smoke"], "test", 0)
    one = evaluation.generate_greedy(model, tokenizer, questions["prompt"][:], 8, 1)
    four = evaluation.generate_greedy(model, tokenizer, questions["prompt"][:], 8, 4)
    assert one == four
    assert all(cut_off for _, cut_off in one)
    assert not any(p.requires_grad for p in model.parameters())


def test_few_shot_is_computed_once_and_kept(tiny_model, tmp_path, monkeypatch):
    from dataclasses import replace

    from helpers.models import load_model_and_tokenizer

    monkeypatch.setenv("GRPO_CACHE_DIR", str(tmp_path))
    profile = replace(PROFILES["smoke"], model=str(tiny_model), eval_new_tokens=4)
    pair = load_model_and_tokenizer(profile.model)
    assert evaluation.few_shot_baseline(profile, "test", *pair, compute=False) is None
    first = evaluation.few_shot_baseline(profile, "test", *pair, compute=True)
    assert first["examples"].isin([0, 1, 2, 4]).all() and len(first) == 4
    kept = evaluation.few_shot_baseline(profile, "test", None, None, compute=False)
    pd.testing.assert_frame_equal(first.reset_index(drop=True), kept)
