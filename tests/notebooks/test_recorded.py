"""The recorded runs: complete, consistent with their own completions, and small."""

import json

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from helpers.evaluation import EVALUATION_SEED, load_questions
from helpers.runs import load_run, read_log
from helpers.scoring import SCORES, score, summarize
from tests import RECORDED

RUNS = sorted(path.parent for path in RECORDED.glob("cpu*-seed*/config.json"))
ON_GPU = sorted(path.parent for path in RECORDED.glob("gpu_fp16-seed*/config.json"))


def flat(summary: dict) -> dict[str, float]:
    """Return the numbers of nested dictionaries under joined keys."""
    return pd.json_normalize(summary).iloc[0].to_dict()


def test_three_seeds_are_recorded():
    found = [(profile.name, seed) for profile, seed in map(load_run, RUNS)]
    assert found == [(name, seed) for name in ("cpu", "cpu_quick") for seed in range(3)]


@pytest.mark.parametrize("run", RUNS, ids=lambda run: run.name)
def test_every_step_stands_once_in_the_log(run):
    profile, _ = load_run(run)
    steps = [row["step"] for row in read_log(run)]
    assert steps == list(range(1, profile.grpo["max_steps"] + 1))


@pytest.mark.parametrize("run", RUNS, ids=lambda run: run.name)
def test_the_figures_follow_from_the_completions(run):
    frame = pd.read_parquet(run / "evaluation.parquet")
    scores = score(frame["completion"].tolist(), frame["answer"].tolist())
    for name in SCORES:
        assert scores[name].tolist() == frame[name].tolist()
    summary = json.loads((run / "evaluation.json").read_text())
    for split, rows in frame.groupby("split"):
        # Another NumPy may draw other bootstrap samples: a point more or less.
        assert flat(summarize(rows)) == pytest.approx(
            flat(summary["splits"][split]), abs=0.01
        )
    profile, _ = load_run(run)
    for split, part in summary["splits"].items():
        asked = load_questions(profile, split, EVALUATION_SEED)
        before = frame[(frame["split"] == split) & (frame["which"] == "before")]
        assert before["question"].tolist() == asked["question"][:]
        assert part["n"] == {"test": 1, "transfer": 0.5}[split] * profile.num_eval


def test_runs_on_a_gpu_took_the_way_of_a_t4():
    for run in ON_GPU:
        profile, _ = load_run(run)
        machine = json.loads((run / "config.json").read_text())["machine"]
        assert machine["gpu"] and profile.grpo["fp16"] and profile.trainer == "stock"
    assert len(ON_GPU) == 2


@pytest.mark.parametrize("run", RUNS + ON_GPU, ids=lambda run: run.name)
def test_the_gain_is_what_the_course_promises(run):
    part = json.loads((run / "evaluation.json").read_text())["splits"]["test"]
    assert part["after"]["format"]["rate"] >= 0.95
    for name, least in {"strict": 0.25, "lenient": 0.10}.items():
        gain = part["difference"][name]
        assert gain["mean"] >= least and gain["low"] > 0


@pytest.mark.parametrize("run", RUNS, ids=lambda run: run.name)
def test_adapters_are_small_fp16_and_files_name_no_machine(run):
    path = run / "adapter" / "adapter_model.safetensors"
    assert path.stat().st_size < 4e6
    assert {weight.dtype for weight in load_file(path).values()} == {torch.float16}
    for text in run.rglob("*.json*"):
        content = text.read_text(encoding="utf-8")
        assert not any(word in content for word in ("/root", "/home", "/tmp", "/work"))
