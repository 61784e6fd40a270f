"""What notebook 06 shares: pass@k, a merged model, a card with the run's numbers."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from itertools import combinations
from math import comb

import numpy as np
import pytest
import torch

from helpers import CourseError, training
from helpers.evaluation import report
from helpers.generation import generate_completions
from helpers.models import load_trained
from helpers.profiles import PROFILES
from helpers.runs import load_run, save_adapter
from helpers.scoring import SCORES
from tests import ROOT, RUN
from tests.notebooks.cells import source


def test_pass_at_k_is_the_share_of_picks_that_hold_a_right_try():
    there = {}
    exec(source("06", "def pass_at_k"), there)
    for n, c, k in [(6, 2, 3), (6, 0, 2), (5, 5, 1), (6, 4, 5)]:
        picks = list(combinations([True] * c + [False] * (n - c), k))
        assert len(picks) == comb(n, k)
        assert there["pass_at_k"](n, c, k) == pytest.approx(
            np.mean(list(map(any, picks)))
        )


def test_merged_logits_are_those_of_the_adapter_in_fp32(adapted, prompts, tmp_path):
    """The notebook's own cell, with an adapter that moves the logits by far more."""
    model, tokenizer = adapted
    base = model.base_model.model.config.name_or_path
    save_adapter(model, tmp_path / "adapter", base)
    profile = replace(PROFILES["smoke"], model=base)
    there = {"replace": replace, "load_trained": load_trained, "torch": torch}
    there |= {"recipe": profile, "run": tmp_path, "tokenizer": tokenizer}
    there |= {"model": model, "questions": [{"prompt": prompts[0]}]}
    exec(source("06", "merge_and_unload"), there)
    assert there["error"] < 1e-4 and there["trained_by"] > 100 * there["error"]
    assert there["trained_by"] > 0.05


def test_the_card_has_the_numbers_of_the_runs_files(tmp_path):
    recipe, seed = load_run(RUN)
    there = {"run": RUN, "shared": tmp_path, "recipe": recipe, "trained_as": recipe}
    there |= {"seed": seed, "temperature": recipe.grpo["temperature"]}
    there |= {"report": report, "Markdown": str}
    exec(source("06", "front = f"), there)
    exec(source("06", "about = f"), there)
    exec(source("06", "## Limits"), there)
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    _, front, text = card.split("---\n", 2)
    assert "base_model: HuggingFaceTB/SmolLM2-135M-Instruct\n" in front
    assert "license: apache-2.0" in front
    splits = json.loads((RUN / "evaluation.json").read_text())["splits"]
    for part in splits.values():
        for which in ("before", "few_shot", "after"):
            for name in SCORES:
                shown = "{rate:.1f} ({low:.1f} to {high:.1f})".format(
                    **{k: 100 * v for k, v in part[which][name].items()}
                )
                assert f" {shown} |" in text
    assert "On test (200 problems) lenient shows a gain: +36.0 points" in text
    assert "On transfer (100 problems) lenient does not show a gain: +3.0" in text
    assert "40 steps\nof 64 completions, 8 a problem" in text
    assert "4-bit GGUF file (Q4_1)" in text
    assert str(ROOT) not in card and "/work" not in card


def test_nothing_is_uploaded_unless_asked_for_and_no_token_is_kept(
    tmp_path, monkeypatch, capsys
):
    import getpass

    import huggingface_hub

    code = source("06", "UPLOAD = False")

    def refuse(*args, **kwargs):
        raise AssertionError("asked for a token, or used one")

    monkeypatch.setattr(getpass, "getpass", refuse)
    monkeypatch.setattr(huggingface_hub, "HfApi", refuse)
    exec(code, {"shared": tmp_path})
    assert capsys.readouterr().out == "Nothing is uploaded.\n"

    calls, there = [], {"shared": tmp_path}

    class Api:
        def __init__(self, token):
            calls.append(token)

        def create_repo(self, name, private, exist_ok):
            calls.append((name, private, exist_ok))

        def upload_folder(self, repo_id, folder_path):
            calls.append((repo_id, folder_path))
            return "done"

    monkeypatch.setattr(getpass, "getpass", lambda text: "hf_secret")
    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    code = code.replace("UPLOAD = False", "UPLOAD = True")
    exec(code, there)
    name = "YOUR-NAME/my-grpo-model"
    assert calls == ["hf_secret", (name, True, True), (name, tmp_path)]
    assert capsys.readouterr().out == "done\n"
    assert "hf_secret" not in [v for v in there.values() if isinstance(v, str)]
    assert "hf_secret" not in os.environ.values()


def test_a_saved_merged_model_says_the_same_in_a_fresh_process(
    adapted, prompts, tmp_path
):
    model, tokenizer = adapted
    merged = model.merge_and_unload()
    [[(here, _)]] = generate_completions(merged, tokenizer, prompts[:1], 12)
    merged.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    there = {}
    exec(source("06", "^program ="), there)
    arguments = [there["program"], str(tmp_path), json.dumps(prompts[0]), "12"]
    command = [sys.executable, "-c", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == here != ""


def test_a_fresh_process_that_fails_is_one_message_with_what_it_said(
    tmp_path, monkeypatch
):
    freed, there = [], {"shared": tmp_path, "limit": 4, "merged": None}
    there |= {"tokenizer": None, "questions": [{"prompt": []}], "json": json}
    there["generate_completions"] = lambda *args: [[("here", False)]]
    monkeypatch.setattr(training, "free_memory", lambda: freed.append(True))
    with pytest.raises(CourseError, match="the fresh process failed") as error:
        exec(source("06", "^program ="), there)
        exec(source("06", "^fresh ="), there)  # of an empty folder
    assert "config.json" in str(error.value) and freed == [True]
