"""What several tests of the engine begin with: models with adapters, runs that stop."""

import shutil
from pathlib import Path

import pytest

from helpers.models import load_model_and_tokenizer
from tests.tiny import WORDS, go_on, new_run, qwen2


@pytest.fixture(scope="session")
def small_model(tokenizer, tmp_path_factory) -> Path:
    """A random Qwen2 with 600 words: on a CPU stock TRL takes its time for 49,152."""
    folder = tmp_path_factory.mktemp("models") / "small-qwen2"
    qwen2(vocab_size=WORDS, initializer_range=0.05).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def pair(small_model, request):
    """(model, tokenizer) of the small model, in the dtype that the test names."""
    return load_model_and_tokenizer(str(small_model), getattr(request, "param", "fp32"))


@pytest.fixture(scope="session")
def finished(tiny_model, tmp_path_factory) -> Path:
    """A run of 3 steps that nothing disturbed; not to be changed."""
    run = new_run(tmp_path_factory.mktemp("survival") / "run", tiny_model, 3)
    assert go_on(run) is None
    return run


@pytest.fixture
def stopped(finished, tmp_path) -> Path:
    """That run as it was after its third save, before its adapter was written."""
    shutil.copytree(finished, tmp_path / "run", ignore=lambda *_: ["adapter"])
    return tmp_path / "run"
