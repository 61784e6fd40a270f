"""Notebook 03's own loop: its pieces are the helpers', its record says what it says."""

import importlib.util
import json

import torch

from helpers.grpo import completion_logps
from helpers.lab.exercises.n03 import tiny_model
from tests import RECORDED, ROOT
from tests.notebooks.cells import source

PIECES = ("^GROUP, LENGTH", "^def score", "^def pay")
SOLUTION = "^def my_step.*\n    ids, mask"
spec = importlib.util.spec_from_file_location(
    "own_loop", ROOT / ".github" / "scripts" / "own_loop.py"
)
script = importlib.util.module_from_spec(spec)
spec.loader.exec_module(script)


def pieces() -> dict:
    """The names of section 3.15, for completions of at most eight tokens that end."""
    there: dict = {"torch": torch, "longest": 0}  # LENGTH is 8
    there["tokenizer"] = type("Tokenizer", (), {"eos_token_id": 2})
    for text in PIECES:
        exec(source("03", text), there)
    return there


def test_what_it_samples_is_scored_as_the_helpers_score_it():
    torch.manual_seed(0)
    there, model, prompt = pieces(), tiny_model(), torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(20 if weight.dim() > 1 else 1)  # far from uniform
    ids, mask = there["sample"](model, prompt)
    assert ids.shape == mask.shape == (16, 8)
    ended = (ids == 2).any(dim=1)
    assert ended.any() and not ended.all()
    for row, keep in zip(ids.tolist(), mask.tolist(), strict=True):
        length = row.index(2) + 1 if 2 in row else 8
        assert keep == [1.0] * length + [0.0] * (8 - length)
    rows = prompt.expand(16, -1)
    batch = {"prompt_ids": rows, "prompt_mask": torch.ones_like(rows)}
    batch |= {"completion_ids": ids, "completion_mask": torch.ones_like(ids)}
    wanted = completion_logps(model, batch)
    assert wanted.std() > 0.5
    assert torch.allclose(there["score"](model, prompt, ids), wanted, atol=1e-4)


def test_tokens_are_drawn_as_often_as_the_model_says():
    torch.manual_seed(0)
    there, model, prompt = pieces(), tiny_model(), torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        model.lm_head.weight.mul_(60)
        wanted = model(prompt).logits[0, -1].softmax(-1)
    first = torch.cat([there["sample"](model, prompt)[0][:, 0] for _ in range(250)])
    found = first.bincount(minlength=16) / len(first)
    assert wanted.max() > 0.15
    assert (found - wanted).abs().max() < 0.03  # 4,000 draws: 0.024 is three sigma


def test_sampling_reward_advantage_loss_and_update_are_forty_lines():
    texts = [source("03", text) for text in PIECES]
    texts.append(source("03", SOLUTION, solutions=True))
    lines = [line for text in texts for line in text.splitlines() if line.strip()]
    own = [x for x in lines if not x.startswith(("from ", "train_and"))]
    assert len(own) <= 40


def test_every_recorded_seed_earns_more_and_is_right_more_often():
    record = json.loads((RECORDED / "own_loop.json").read_text())
    seeds = len(script.SEEDS)
    assert [len(times) for times in record["seconds"].values()] == [seeds, seeds]
    strict = record["right"]["strict"]
    assert len(record["rewards"]) == len(strict["after"]) == seeds == 3
    for rewards, after in zip(record["rewards"], strict["after"], strict=True):
        assert len(rewards) == 10
        assert max(rewards[:2]) < 1 and min(rewards[-3:]) > 1.5
        assert len(after) == len(strict["before"]) == script.PROBLEMS
        assert sum(after) > sum(strict["before"])
