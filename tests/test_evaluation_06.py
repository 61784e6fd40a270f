"""What notebook 06 relies on: samples, tables, colours, a merge, a card, an upload."""

import json
import os
import subprocess
import sys
from contextlib import nullcontext
from dataclasses import replace
from math import comb
from pathlib import Path
from types import SimpleNamespace

import nbformat
import numpy as np
import pandas as pd
import pytest
import torch
from peft import LoraConfig, get_peft_model

from helpers import evaluation, widgets
from helpers.models import load_model_and_tokenizer, load_trained
from helpers.profiles import PROFILES
from helpers.training import load_run, save_adapter

ROOT = Path(__file__).resolve().parents[1]
RUN = ROOT / "notebooks" / "recorded" / "cpu-seed0"
CELLS = nbformat.read(ROOT / "notebooks" / "06_evaluate_and_share.ipynb", 4).cells


def source(text):
    """The code cell of the notebook that holds a text."""
    (found,) = (c for c in CELLS if c.cell_type == "code" and text in c.source)
    return found.source


@pytest.fixture
def adapted(tiny_model):
    """The tiny model with an adapter that changes what it says, and its tokenizer."""
    model, tokenizer = load_model_and_tokenizer(str(tiny_model))
    modules = ["q_proj", "k_proj", "v_proj", "o_proj"]
    config = LoraConfig(task_type="CAUSAL_LM", r=8, target_modules=modules)
    torch.manual_seed(0)
    model = get_peft_model(model, config)
    for name, weights in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weights, std=0.3)
    return model.eval(), tokenizer


@pytest.fixture
def prompts():
    return evaluation.load_questions(PROFILES["smoke"], "test", 0)["prompt"][:]


def test_samples_at_temperature_0_are_the_greedy_ones(adapted, prompts):
    model, tokenizer = adapted
    greedy = evaluation.generate_greedy(model, tokenizer, prompts, 12)
    samples = evaluation.sample_completions(model, tokenizer, prompts, 3, 0, 12)
    assert samples == [[text] * 3 for text, _ in greedy]


def test_completions_that_end_early_leave_the_others_as_they_are(adapted, prompts):
    model, tokenizer = adapted
    whole = [text for text, _ in evaluation.generate_greedy(*adapted, prompts, 12)]
    # The third token of the first completion now ends a completion.
    ids = tokenizer(whole[0], add_special_tokens=False)["input_ids"]
    config = model.generation_config
    config.eos_token_id = [tokenizer.eos_token_id, ids[2]]
    greedy = [text for text, _ in evaluation.generate_greedy(*adapted, prompts, 12)]
    assert len(greedy[0]) < len(whole[0])
    assert any(len(text) == len(full) for text, full in zip(greedy, whole, strict=True))
    samples = evaluation.sample_completions(*adapted, prompts, 2, 0, 12)
    assert samples == [[text] * 2 for text in greedy]


def test_samples_have_the_probabilities_of_the_model(adapted, prompts):
    model, tokenizer = adapted
    torch.manual_seed(0)
    n = 3000
    (texts,) = evaluation.sample_completions(model, tokenizer, prompts[:1], n, 0.005, 1)
    options = {"add_generation_prompt": True, "return_tensors": "pt"}
    batch = tokenizer.apply_chat_template(prompts[:1], return_dict=True, **options)
    with torch.inference_mode():
        likely = (model(**batch).logits[0, -1] / 0.005).softmax(-1)
    token = int(likely.argmax())
    share = np.mean([text == tokenizer.decode(token) for text in texts])
    assert 0.05 < likely[token] < 0.95
    assert share == pytest.approx(float(likely[token]), abs=4 * 0.5 / n**0.5)


def test_pass_at_k_is_the_share_of_picks_that_hold_a_right_try():
    from itertools import combinations

    there = {}
    exec(source("def pass_at_k"), there)
    for n, c, k in [(6, 2, 3), (6, 0, 2), (5, 5, 1), (6, 4, 5)]:
        picks = list(combinations([True] * c + [False] * (n - c), k))
        assert len(picks) == comb(n, k)
        assert there["pass_at_k"](n, c, k) == pytest.approx(
            np.mean(list(map(any, picks)))
        )


PAIRS = pd.DataFrame(
    {
        "question": ["one?", "two?", "three?", "<b>four?</b>"],
        "answer": ["1", "2", "3", "4"],
        "untrained": ["no", "2", "", "<script>alert(1)</script>\nfour"],
        "trained": ["it is 1", "nothing", "33", "4"],
    }
)
for _score in evaluation.SCORES:
    PAIRS[f"{_score} before"] = [False, True, False, True]
    PAIRS[f"{_score} after"] = [True, False, False, True]


@pytest.mark.parametrize(
    ("outcome", "answers"),
    [
        ("all", ["1", "2", "3", "4"]),
        ("newly right", ["1"]),
        ("newly wrong", ["2"]),
        ("right both times", ["4"]),
        ("wrong both times", ["3"]),
    ],
)
def test_pairs_are_chosen_by_outcome_and_length(outcome, answers):
    chosen = widgets.select_pairs(PAIRS, "strict", outcome)
    assert chosen["answer"].tolist() == answers
    long = widgets.select_pairs(PAIRS, "strict", "all", (2, 7))
    assert long["answer"].tolist() == ["1", "2", "3"]


def test_what_a_model_wrote_never_becomes_part_of_the_page():
    table = widgets.text_table(PAIRS[["question", "untrained"]])
    assert "<script" not in table and "<b>" not in table
    assert "&lt;script&gt;alert(1)" in table
    assert "white-space: pre-wrap" in table
    colored = widgets.color_tokens(["<b>", "\n", "a&b"], [4.0, -1.5, 0.0])
    assert "<b>" not in colored and "&lt;b&gt;" in colored and "a&amp;b" in colored
    assert "rgba(0,114,178,0.75)" in colored and 'title="+4.00"' in colored
    assert "rgba(230,159,0,0.38);text-decoration:underline" in colored
    assert colored.count("underline") == 1 and "↵\n" in colored


def test_the_browser_leaves_a_table_and_follows_its_controls(monkeypatch):
    shown = []
    monkeypatch.setattr(widgets, "display", shown.append)
    widgets.browse_completions(PAIRS)
    table, box = shown
    assert "it is 1" in table.data and "nothing" in table.data
    (score, outcome, count), (lengths, number), text = (
        *(row.children for row in box.children[:2]),
        box.children[2],
    )
    assert count.value == "4 of 4 problems"
    assert (number.max, score.value) == (4, "lenient")
    number.value = 4
    assert "&lt;script&gt;" in text.value
    outcome.value = "newly right"
    assert count.value == "1 of 4 problems"
    assert (number.value, number.max) == (1, 1)
    assert "it is 1" in text.value
    lengths.value = (0, 2)
    assert count.value == "0 of 4 problems"
    assert "it is 1" not in text.value


def test_the_chat_asks_the_model_with_the_adapter_off_and_on(monkeypatch):
    shown, asked, state = [], [], ["on"]

    class Off(nullcontext):
        def __enter__(self):
            state[0] = "off"

        def __exit__(self, *error):
            state[0] = "on"

    def answer(model, tokenizer, chats, num_samples, temperature, limit):
        asked.append((state[0], chats[0], temperature, limit))
        return [[f"<i>{state[0]}</i> {len(asked)}"]]

    monkeypatch.setattr(widgets, "display", shown.append)
    monkeypatch.setattr(widgets, "sample_completions", answer)
    system = {"role": "system", "content": "s"}
    prompt = [system, {"role": "user", "content": "first"}]
    widgets.chat(SimpleNamespace(disable_adapter=Off), None, prompt, 7)
    table, box = shown
    line, (send, anew, status), text = (
        box.children[0],
        box.children[1].children,
        box.children[2],
    )
    assert "&lt;i&gt;off&lt;/i&gt; 1" in table.data
    assert "&lt;i&gt;on&lt;/i&gt; 2" in table.data
    assert [(a[0], a[1], *a[2:]) for a in asked] == [
        ("off", prompt, 0, 7),
        ("on", prompt, 0, 7),
    ]
    send.click()
    assert status.value == "Write something first." and len(asked) == 2
    line.value = "second"
    send.click()
    assert (line.value, status.value, send.disabled) == ("", "", False)
    roles = ["system", "user", "assistant", "user"]
    assert [m["role"] for m in asked[2][1]] == roles
    assert asked[2][1][2]["content"] == "<i>off</i> 1"
    assert asked[3][1][2]["content"] == "<i>on</i> 2"
    assert "second" in text.value
    anew.click()
    assert text.value == ""
    line.value = "third"
    send.click()
    assert asked[4][1] == [system, {"role": "user", "content": "third"}]
    assert "second" not in text.value


def test_merged_logits_are_those_of_the_adapter_in_fp32(adapted, prompts, tmp_path):
    """The notebook's own cell, with an adapter that moves the logits by far more."""
    model, tokenizer = adapted
    base = model.base_model.model.config.name_or_path
    save_adapter(model, tmp_path / "adapter", base)
    profile = replace(PROFILES["smoke"], model=base)
    there = {"replace": replace, "load_trained": load_trained, "torch": torch}
    there |= {"recipe": profile, "run": tmp_path, "tokenizer": tokenizer}
    there |= {"model": model, "questions": [{"prompt": prompts[0]}]}
    exec(source("merge_and_unload"), there)
    assert there["error"] < 1e-4 and there["moved"] > 100 * there["error"]
    assert there["moved"] > 0.05


def test_the_card_has_the_numbers_of_the_runs_files(tmp_path):
    recipe, seed = load_run(RUN)
    there = {"run": RUN, "share": tmp_path, "recipe": recipe, "trained_as": recipe}
    there |= {"seed": seed, "temperature": recipe.grpo["temperature"]}
    there |= {"report": evaluation.report, "Markdown": str}
    exec(source("front = f"), there)
    exec(source("## Limits"), there)
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    _, front, text = card.split("---\n", 2)
    assert "base_model: HuggingFaceTB/SmolLM2-135M-Instruct\n" in front
    assert "license: apache-2.0" in front
    splits = json.loads((RUN / "evaluation.json").read_text())["splits"]
    for part in splits.values():
        for which in ("before", "few_shot", "after"):
            for name in evaluation.SCORES:
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

    code = source("UPLOAD = False")

    def refuse(*args, **kwargs):
        raise AssertionError("asked for a token, or used one")

    monkeypatch.setattr(getpass, "getpass", refuse)
    monkeypatch.setattr(huggingface_hub, "HfApi", refuse)
    exec(code, {"share": tmp_path})
    assert capsys.readouterr().out == "Nothing is uploaded.\n"

    calls, there = [], {"share": tmp_path}

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
    here = evaluation.sample_completions(merged, tokenizer, prompts[:1], 1, 0, 12)
    merged.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    there = {}
    exec(source("program =").partition("prompt = questions")[0], there)
    arguments = [there["program"], str(tmp_path), json.dumps(prompts[0]), "12"]
    command = [sys.executable, "-c", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == here[0][0] != ""
