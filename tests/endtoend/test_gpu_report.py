"""What a T4 recipe costs on a GPU: seconds and memory of a step at its longest.

`pytest -m gpu` prints what was measured as the block of a *T4 report* and writes it to
runs/gpu-report.json. Weights are random, of the real model's shapes, so nothing is
fetched but the embedded model, for its tokenizer. A CPU measures a tiny model so.
"""

import json

import pytest
import torch
from transformers import AutoModelForCausalLM

from helpers import GIB, runs, training
from helpers.data import drop_long_prompts, get_gsm8k_questions
from helpers.lab.budget import architecture, memory_budget, peak
from helpers.lab.dashboard import describe_run
from helpers.models import DTYPES
from helpers.preflight import fit
from helpers.profiles import PROFILES, override
from tests.conftest import MEASURED
from tests.tiny import qwen2_config

STEPS = 3
SENTENCE = " Ann has seven pens, buys twelve more and gives one away."


def longest_problems(profile, tokenizer, folder):
    """Return 64 times the problem whose prompt is as long as the recipe lets it be."""
    rows = [{"question": SENTENCE * n, "answer": "18\n#### 18"} for n in range(1, 40)]
    (folder / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    problems = get_gsm8k_questions("train", folder=folder)
    problems = drop_long_prompts(problems, tokenizer, profile.max_prompt_length)
    return problems.select([len(problems) - 1] * 64)


def measure(profile, config, tokenizer, folder) -> dict:
    """Train STEPS steps with random weights; return what there is to say of them."""
    torch.manual_seed(0)
    with torch.device("cuda" if profile.device == "gpu" else "cpu"):
        dtype = DTYPES[profile.dtype]
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    problems, run = longest_problems(profile, tokenizer, folder), folder / "run"
    profile = override(profile, [f"max_steps={STEPS}", f"save_steps={STEPS}"])
    runs.create_run(run, profile, 0)
    trainer, profile = fit(profile, run, model, tokenizer, problems)
    runs.update_profile(run, profile)
    assert training.train_or_resume(trainer, run) is None
    log = runs.read_log(run)
    report = {"weights": "random", "profile": profile.name, "machine": runs.machine()}
    report |= {"settings": profile.grpo, "eval_batch_size": profile.eval_batch_size}
    names = ("step_time", "memory_gib", "completions/mean_length")
    report |= {name: [row[name] for row in log] for name in names}
    most = peak(memory_budget(profile, config))[1]
    return report | {"predicted_gib": most / GIB, "block": describe_run(run)}


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["t4", "t4_quick"])
def test_a_step_is_measured(name, tokenizer, tmp_path, request):
    profile = PROFILES[name]
    report = measure(profile, architecture(profile.model), tokenizer, tmp_path)
    request.config.stash.setdefault(MEASURED, []).append(report)
    assert max(report["memory_gib"]) < torch.cuda.mem_get_info()[1] / GIB
    check(report, profile)


def test_a_tiny_model_is_measured_the_same_way(tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "check_device", lambda profile: None)
    settings = ["device=cpu", "dtype=fp32", "fp16=False", "max_completion_length=8"]
    settings += ["per_device_train_batch_size=8", "eval_batch_size=4"]
    profile = override(PROFILES["t4_quick"], settings)
    # As with Qwen2.5, the model has words that the tokenizer does not know.
    config = qwen2_config(vocab_size=len(tokenizer) + 2000)
    report = measure(profile, config, tokenizer, tmp_path)
    json.dumps(report)
    check(report, profile)


def check(report: dict, profile) -> None:
    """Assert that a report says what a step at its longest took."""
    assert len(report["step_time"]) == STEPS and min(report["step_time"]) > 0
    assert min(report["memory_gib"]) > 0 and report["predicted_gib"] > 0
    longest = profile.grpo["max_completion_length"]
    assert report["completions/mean_length"] == pytest.approx(
        [longest] * STEPS, rel=0.1
    )
    assert f"profile {profile.name}, {profile.model}" in report["block"]
    assert "seconds a step (median)" in report["block"]
