"""The files of an evaluation, its report, and the baseline with worked examples."""

import json
from dataclasses import replace

import pandas as pd

from helpers import evaluation
from helpers.models import load_model_and_tokenizer
from helpers.profiles import PROFILES
from helpers.runs import create_run
from tests.engine.test_scoring import rows


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


def test_few_shot_is_computed_once_and_kept(tiny_model, tmp_path, monkeypatch):
    monkeypatch.setenv("GRPO_CACHE_DIR", str(tmp_path))
    profile = replace(PROFILES["smoke"], model=str(tiny_model), eval_new_tokens=4)
    pair = load_model_and_tokenizer(profile.model)
    assert evaluation.few_shot_baseline(profile, "test", *pair, compute=False) is None
    first = evaluation.few_shot_baseline(profile, "test", *pair, compute=True)
    assert first["examples"].isin([0, 1, 2, 4]).all() and len(first) == 4
    kept = evaluation.few_shot_baseline(profile, "test", None, None, compute=False)
    pd.testing.assert_frame_equal(first.reset_index(drop=True), kept)


def test_few_shot_is_kept_where_no_cache_folder_was(tiny_model, tmp_path, monkeypatch):
    """As with a model from the Hub: four evaluations are computed once, not lost."""
    cache = tmp_path / "not" / "there"
    monkeypatch.setenv("GRPO_CACHE_DIR", str(cache))
    profile = replace(PROFILES["smoke"], model=str(tiny_model), eval_new_tokens=4)
    pair = load_model_and_tokenizer(profile.model)
    frame = evaluation.few_shot_baseline(profile, "test", *pair, compute=True)
    assert len(frame) == 4 and len(list(cache.glob("few-shot-*.parquet"))) == 1
