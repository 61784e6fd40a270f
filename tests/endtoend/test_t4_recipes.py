"""The recipes for a T4 from end to end, on a tiny fp16 model and a CPU.

There accelerate applies neither autocast nor a gradient scaler, whatever `fp16` says:
these runs prove that the settings are accepted, that an fp16 base and an fp32 adapter
train together, and that files come out. tests/engine/test_t4_recipes.py has the rest.
"""

import pytest
import torch

from helpers import runs, training
from helpers.evaluation import load_questions
from helpers.models import load_model_and_tokenizer
from helpers.profiles import PROFILES, override


@pytest.mark.parametrize("name", ["article", "t4", "t4_quick"])
def test_the_recipe_runs_end_to_end(
    name, tiny_model, gsm8k_folder, tmp_path, monkeypatch
):
    monkeypatch.setenv("GRPO_GSM8K_DIR", str(gsm8k_folder))
    # Without a GPU such a run is refused: the check is off, the device a CPU.
    monkeypatch.setattr(training, "check_device", lambda profile: None)
    settings = [f"model={tiny_model}", "max_completion_length=4", "max_steps=2"]
    settings += ["device=cpu"]
    profile = override(PROFILES[name], [*settings, "save_steps=1"])
    pair = load_model_and_tokenizer(profile.model, profile.dtype)
    questions = load_questions(profile, "train", 0)
    run = tmp_path / "run"
    runs.create_run(run, profile, 0)
    trainer = training.build_trainer(profile, tmp_path / "unused", *pair, questions)
    assert trainer.args.fp16 and trainer.model.dtype == torch.float16
    assert {p.dtype for p in trainer.model.parameters() if p.requires_grad} == {
        torch.float32
    }
    pair = load_model_and_tokenizer(profile.model, profile.dtype)
    trainer = training.build_trainer(profile, run, *pair, questions)
    assert training.train_or_resume(trainer, run) is None
    log = runs.read_log(run)
    assert [row["step"] for row in log] == [1, 2]
    names = [func.__name__ for func in profile.reward_funcs]
    assert [k.split("/")[1] for k in log[0] if k.endswith("func/mean")] == names
