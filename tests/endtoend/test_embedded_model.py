"""The embedded model itself: fetched once, and what the tiny ones are tested for."""

import subprocess
import sys

import pytest
import torch
from peft import PeftModel
from torch.nn.functional import linear

from helpers import models
from helpers.data import get_arithmetic_questions
from helpers.evaluation import load_questions
from helpers.fast import merged
from helpers.generation import backbone_and_head, generate, generate_completions
from helpers.models import load_model_and_tokenizer, load_trained
from helpers.profiles import EMBEDDED_MODEL
from helpers.runs import load_run
from helpers.scoring import score
from tests import RECORDED, RUN
from tests.engine.test_generation import greedy_by_generate
from tests.engine.test_grpo import agrees, build, degenerate
from tests.notebooks.test_own_loop import script


def test_it_knows_where_paris_is(embedded_model):
    model, tokenizer = models.load_model_and_tokenizer(EMBEDDED_MODEL)
    ids = tokenizer("The capital of France is", return_tensors="pt")
    out = model.generate(**ids, max_new_tokens=1, do_sample=False)
    assert tokenizer.decode(out[0]).endswith(" Paris")


def test_two_processes_that_start_at_once_build_one_good_cache(tmp_path, monkeypatch):
    cache = tmp_path / "cache"
    monkeypatch.setenv("GRPO_CACHE_DIR", str(cache))
    command = "from helpers.models import *; print(fetch_embedded_model())"
    start = [sys.executable, "-c", command]
    both = [subprocess.Popen(start, stdout=subprocess.PIPE, text=True) for _ in "ab"]
    outputs = [process.communicate()[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert sum("Fetching" in output for output in outputs) == 1
    left = {path.name for path in cache.iterdir() if path.suffix != ".lock"}
    assert left == {EMBEDDED_MODEL}
    assert models.damage(cache / EMBEDDED_MODEL) is None


def test_agreement_on_the_embedded_model(embedded_model, tmp_path, monkeypatch):
    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")  # of rollout_func
    settings = {"beta": 0.3, "spread": 0.05}
    trainer, batch, pay = build(tmp_path, embedded_model, **settings)
    assert degenerate(trainer, batch) == []
    assert agrees(trainer, batch, pay)


def real_prompts(tokenizer, count):
    chats = get_arithmetic_questions("train", count, 3, 1)["prompt"][:]
    chats[1] = chats[1][-1:]  # a much shorter one
    layout = {"add_generation_prompt": True, "return_dict": True}
    return tokenizer.apply_chat_template(chats, **layout)["input_ids"]


def test_greedy_tokens_of_the_real_model_are_those_of_generate():
    model, tokenizer = load_model_and_tokenizer("SmolLM2-135M-Instruct", "fp32")
    model = PeftModel.from_pretrained(model, RECORDED / "cpu-seed0" / "adapter").eval()
    prompts, ends = real_prompts(tokenizer, 6), [tokenizer.eos_token_id]
    known = greedy_by_generate(model, prompts, ends, 48)
    assert generate(model, prompts, 1, 48, 0.0, ends) == known
    ended = [row[-1] == ends[0] for row in known]
    assert any(ended) and len(set(map(len, known))) > 1  # rows leave the batch early


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_merged_weights_are_the_trained_policy_in_fp32_and_not_quite_in_bf16(dtype):
    """Mean KL of rollout and trained policy: nothing in fp32, rounding in bf16."""
    model, tokenizer = load_model_and_tokenizer("SmolLM2-135M-Instruct", dtype)
    folder = RECORDED / "cpu-seed1" / "adapter"
    model = PeftModel.from_pretrained(model, folder).eval()
    prompts, temperature = real_prompts(tokenizer, 4), 1.0
    torch.manual_seed(0)

    def shares(prompt, completion):
        backbone, head = backbone_and_head(model)
        hidden = backbone(torch.tensor([prompt + completion])).last_hidden_state
        logits = linear(hidden[0, len(prompt) - 1 : -1], head.weight).float()
        return (logits / temperature).log_softmax(-1)

    with torch.no_grad():
        settings = (4, 48, temperature, [tokenizer.eos_token_id])
        with merged(model):
            drawn = generate(model, prompts, *settings)
        pairs = [(prompts[i // 4], row) for i, row in enumerate(drawn)]
        trained = torch.cat([shares(*each) for each in pairs])
        with merged(model):
            rollout = torch.cat([shares(*each) for each in pairs])
    kl = (rollout.exp() * (rollout - trained)).sum(-1).mean()
    assert len(trained) > 300
    assert kl < 1e-6 if dtype == "fp32" else 1e-5 < kl < 1e-2


def test_a_recorded_adapter_still_answers_in_the_layout(embedded_model):
    profile, _ = load_run(RUN)
    model, tokenizer = load_trained(profile, RUN / "adapter")
    asked = load_questions(profile, "test", 0).select(range(16))
    prompts = asked["prompt"][:]
    written = generate_completions(model, tokenizer, prompts, 64, batch_size=16)
    scores = score([text for ((text, _),) in written], asked["answer"][:])
    assert scores["format"].sum() >= 15
    with model.disable_adapter():
        written = generate_completions(model, tokenizer, prompts, 64, batch_size=16)
    scores = score([text for ((text, _),) in written], asked["answer"][:])
    assert scores["format"].sum() <= 4


def test_the_own_loop_of_notebook_03_raises_the_reward(embedded_model, capsys):
    there = script.own_loop()
    model, rewards = there["train_model"](there["my_step"], seed=0)
    assert len(rewards) == 10
    assert sum(rewards[-2:]) / 2 > sum(rewards[:2]) / 2 + 1
    with model.disable_adapter():
        before = there["examine"](model, count=50)
    after = there["examine"](model, count=50)
    assert after["strict"].sum() > before["strict"].sum()
