"""Where a profile runs: the choice, what is refused at once, and what it leaves free.

No GPU is needed: `gpus` stands in for one, or for several.
"""

import gc
import json
import os
import subprocess
import sys
import textwrap
import weakref
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from transformers import PreTrainedModel
from trl import GRPOConfig

from helpers import GIB, CourseError, evaluation, models, profiles, training
from helpers.__main__ import main
from helpers.profiles import PROFILES, choose_profile, grpo_config, override
from tests import ROOT
from tests.engine.test_house import ORDER
from tests.tiny import length_reward


@pytest.fixture
def gpus(monkeypatch):
    """A function that makes PyTorch see so many GPUs of 14.6 GiB, so much of it free.

    What would use one raises.
    """

    def see(count=1, free=14.0):
        def used(*args, **kwargs):
            raise AssertionError("a GPU was used")

        properties = SimpleNamespace(total_memory=14.6 * GIB)
        stand_in = {"is_available": lambda: True, "device_count": lambda: count}
        stand_in["mem_get_info"] = lambda *_: (int(free * GIB), int(14.6 * GIB))
        stand_in["get_device_properties"] = lambda *_: properties
        stand_in["get_device_name"] = lambda *_: "Tesla T4"
        for name in ("max_memory_allocated", "synchronize", "empty_cache"):
            stand_in[name] = used
        for name, function in stand_in.items():
            monkeypatch.setattr(torch.cuda, name, function)

    return see


@pytest.fixture
def refused(monkeypatch, tmp_path, capsys):
    """A function that trains by the command line, and returns the one line of refusal.

    Asserts that no model was asked for and nothing was written.
    """

    def fetch(*args, **kwargs):
        raise AssertionError("a model was asked for")

    monkeypatch.setattr(models, "load_model_and_tokenizer", fetch)
    monkeypatch.setattr(evaluation, "load_questions", fetch)

    def train(profile, *settings):
        words = [word for setting in settings for word in ("--set", setting)]
        run = tmp_path / "run"
        assert main(["train", "--profile", profile, "--out", str(run), *words]) == 2
        assert list(tmp_path.iterdir()) == []
        (line,) = capsys.readouterr().err.splitlines()
        return line

    return train


def test_a_gpu_whose_memory_is_taken_is_still_chosen(gpus):
    gpus(free=1.5)  # as when the notebook's own model is on it
    profile, reason = choose_profile()
    assert profile.name == "t4_quick" and reason.startswith("Tesla T4, 14.6 GiB; ")
    assert "GRPO_PROFILE=t4 " in reason


def test_every_profile_says_its_device():
    kinds = {name: profile.device for name, profile in PROFILES.items()}
    gpu = dict.fromkeys(("article", "t4", "t4_quick"), "gpu")
    assert kinds == gpu | dict.fromkeys(("cpu", "cpu_quick", "smoke"), "cpu")


@pytest.mark.parametrize("dtype", ["fp32", "fp16", "bf16"])
def test_a_gpu_profile_stays_on_the_gpu_in_every_dtype(
    dtype, gpus, tiny_model, finished, monkeypatch
):
    """The remedy "load in fp32" does not send 1.5 B weights to two CPU cores."""
    went = []

    def to(self, device, *args):
        went.append(str(device))
        return self

    monkeypatch.setattr(PreTrainedModel, "to", to)
    profile = override(PROFILES["t4"], [f"dtype={dtype}", f"fp16={dtype == 'fp16'}"])
    assert grpo_config(profile, "out").use_cpu is False
    gpus()
    profile = replace(profile, model=str(tiny_model))
    monkeypatch.setattr(models.PeftModel, "from_pretrained", lambda model, _: model)
    model, _ = models.load_trained(profile, finished / "adapter")
    assert went == ["cuda"] and model.dtype == models.DTYPES[dtype]


@pytest.mark.parametrize("name", ["cpu", "cpu_quick", "smoke"])
def test_a_cpu_profile_stays_on_the_cpu_beside_a_gpu(
    name, gpus, tiny_model, tmp_path, monkeypatch
):
    gpus()
    monkeypatch.setattr(torch.cuda, "_lazy_init", lambda: pytest.fail("CUDA begins"))
    settings = [f"model={tiny_model}", "dtype=fp32", "num_generations=2"]
    settings += ["per_device_train_batch_size=2", "gradient_accumulation_steps=1"]
    profile = override(PROFILES[name], [*settings, "max_completion_length=4"])
    profiles.check_device(profile)
    pair = models.load_model_and_tokenizer(profile.model, "fp32", profile.device)
    profile = override(profile, ["num_train=8"])
    questions = evaluation.load_questions(profile, "train", 0)
    trainer = training.build_trainer(
        profile, tmp_path, *pair, questions, reward_funcs=[length_reward]
    )
    assert trainer.args.device.type == trainer.model.device.type == "cpu"
    memory = training.MemoryPeak(trainer.args.device)
    training.free_memory()
    assert memory.peak() > 0.1  # the process's, not 0 of a GPU
    memory.close()


def test_fp16_on_a_cpu_is_refused_before_anything_is_fetched(refused):
    line = refused("smoke", "fp16=True")
    assert "profile smoke: device is 'cpu', and fp16=True: a CPU has neither" in line
    assert line.endswith("Set dtype=fp32 and fp16=False, or take a GPU.")
    assert "use 'gpu' or 'cpu'" in refused("smoke", "device=tpu")


def test_a_gpu_profile_without_a_gpu_is_refused_before_anything_is_fetched(
    refused, monkeypatch
):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for name in ("article", "t4", "t4_quick"):
        line = f"error: profile {name}: device is 'gpu', and no CUDA GPU is visible. "
        assert refused(name) == line + "Take a machine with one, or the profile cpu."
    # The notebooks and `evaluate` load models too.
    with pytest.raises(CourseError, match="is to run on a GPU, and no CUDA GPU is vis"):
        models_load("Qwen/Qwen2.5-1.5B-Instruct", "fp16", "gpu")


models_load = models.load_model_and_tokenizer  # which `refused` replaces


def test_training_t4_without_a_gpu_is_one_line_in_ten_seconds(tmp_path):
    nowhere = {"CUDA_VISIBLE_DEVICES": "", "HF_HOME": str(tmp_path / "hub")}
    nowhere |= {"GRPO_CACHE_DIR": str(tmp_path / "cache"), "PYTHONPATH": str(ROOT)}
    # Whoever asks the network anyhow is answered at once.
    nowhere |= dict.fromkeys(("HTTPS_PROXY", "HTTP_PROXY"), "http://127.0.0.1:9")
    command = [sys.executable, "-m", "helpers", "train", "--profile", "t4"]
    (tmp_path / "here").mkdir()
    begun = os.times()
    done = subprocess.run(
        command,
        cwd=tmp_path / "here",
        env=os.environ | nowhere,
        capture_output=True,
        text=True,
    )
    ended = os.times()
    assert done.returncode == 2 and "Traceback" not in done.stderr
    line = "error: profile t4: device is 'gpu', and no CUDA GPU is visible. Take a "
    assert done.stderr == f"{line}machine with one, or the profile cpu.\n"
    assert [path.name for path in tmp_path.rglob("*")] == ["here"]
    # Of the processor, so that a busy machine does not fail the test.
    used = ended.children_user + ended.children_system
    assert used - begun.children_user - begun.children_system < 10


def test_several_gpus_are_refused_with_the_command_that_takes_one(refused, gpus):
    gpus(2)
    line = refused("t4")
    assert line.startswith("error: 2 GPUs are visible, and a process uses one.")
    assert "CUDA_VISIBLE_DEVICES=0 python -m helpers train … " in line
    assert line.endswith("accelerate launch --num_processes 2 -m helpers train …")
    profiles.check_device(PROFILES["cpu"])  # which uses none of them
    gpus(1)
    profiles.check_device(PROFILES["t4"])


def test_a_process_for_each_gpu_may_start_and_no_more(gpus, monkeypatch):
    gpus(2)
    monkeypatch.setenv("WORLD_SIZE", "4")  # on two machines
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    profiles.check_device(PROFILES["t4"])
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    with pytest.raises(CourseError, match=r"^4 processes and 2 GPU: start one process"):
        profiles.check_device(PROFILES["t4"])
    profiles.check_device(PROFILES["cpu"])


def test_accelerate_that_started_one_process_in_place_of_two_is_refused(
    refused, monkeypatch
):
    """On a CPU it does so for --num_processes 2, without a word."""
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    profiles.check_device(PROFILES["smoke"])  # it was to start one
    monkeypatch.setenv("MASTER_PORT", "29500")
    line = "error: accelerate launch has started one process: on a CPU it needs MPI to "
    line += "start several. Use torchrun --standalone --nproc-per-node 2 -m helpers "
    assert refused("smoke") == f"{line}train …"
    monkeypatch.setenv("WORLD_SIZE", "2")
    profiles.check_device(PROFILES["smoke"])


@pytest.mark.parametrize("processes,sizes", [(1, (32, 2)), (4, (8, 2)), (64, None)])
def test_processes_share_the_completions_of_a_step(processes, sizes, monkeypatch):
    monkeypatch.setattr(profiles, "number", lambda: processes)
    if sizes is None:
        line = "64 processes divide neither of per_device_train_batch_size=32 and "
        with pytest.raises(CourseError, match=f"^{line}gradient_accumulation_steps=2"):
            grpo_config(PROFILES["cpu"], "out")
        return
    monkeypatch.setattr(GRPOConfig, "world_size", processes)  # no group is there
    args = grpo_config(PROFILES["cpu"], "out")
    names = ("per_device_train_batch_size", "gradient_accumulation_steps")
    assert tuple(getattr(args, name) for name in names) == sizes
    assert args.generation_batch_size == 64


def overflowing(tiny_model):
    # Each weight is finite, but their products are larger than fp16's 65,504.
    model, tokenizer = models.load_model_and_tokenizer(str(tiny_model), "fp16")
    for layer in model.model.layers:
        layer.mlp.up_proj.weight.data.fill_(6e4)
        layer.mlp.gate_proj.weight.data.fill_(6e4)
    return model, tokenizer


def not_a_number(tiny_model):
    model, tokenizer = models.load_model_and_tokenizer(str(tiny_model))
    model.model.norm.weight.data[3] = torch.nan
    return model, tokenizer


@pytest.mark.parametrize("make", [overflowing, not_a_number])
def test_logits_that_are_not_finite_stop_the_evaluation_with_the_remedy(
    make, tiny_model
):
    """In place of token 0, "!!!!", scored as 0%."""
    profile = replace(PROFILES["smoke"], model=str(tiny_model), eval_new_tokens=4)
    questions = evaluation.load_questions(profile, "test", 0)
    with pytest.raises(CourseError) as error:
        evaluation.answer_questions(profile, *make(tiny_model), questions)
    assert str(error.value) == (
        "the model's logits are not finite. Load it in fp32 (dtype=fp32, fp16=False), "
        "or with attn_implementation='eager'."
    )


# Imports every module of the course as on a machine with a GPU, and makes what a CPU
# run makes; whatever would begin CUDA is named.
IMPORTING = """
    import importlib, json, sys, traceback, torch

    begun = []
    def begin(*args):
        begun.append(traceback.extract_stack()[-3].name)
    torch.cuda._lazy_init = begin
    torch.cuda.is_available, torch.cuda.device_count = lambda: True, lambda: 1
    for name in json.loads(sys.argv[1]):
        importlib.import_module(name)
    assert begun == [] and not torch.cuda.is_initialized(), begun
    print("none")
"""


def test_importing_the_course_never_begins_cuda():
    script = [sys.executable, "-c", textwrap.dedent(IMPORTING), json.dumps(ORDER)]
    done = subprocess.run(script, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "none\n"), done.stderr


def test_the_model_that_was_trained_is_gone_before_the_next_is_loaded(
    tiny_model, tmp_path, monkeypatch
):
    """`del model` alone frees nothing: the trainer holds it."""
    loaded, left = [], []
    load, load_trained = models.load_model_and_tokenizer, models.load_trained

    def watched(*args):
        model, tokenizer = load(*args)
        loaded.append(weakref.ref(model))
        return model, tokenizer

    def load_second(*args):
        left.append(loaded[0]())
        return load_trained(*args)

    monkeypatch.setattr(models, "load_model_and_tokenizer", watched)
    monkeypatch.setattr(models, "load_trained", load_second)
    settings = [f"model={tiny_model}", "max_steps=1", "max_completion_length=4"]
    words = [word for x in (*settings, "eval_new_tokens=4") for word in ("--set", x)]
    run = ["--out", str(tmp_path / "run")]
    gc.disable()  # what is freed is freed by the course, not by chance
    try:
        assert main(["train", "--profile", "smoke", *run, *words]) == 0
    finally:
        gc.enable()
    assert len(loaded) == 2 and left == [None]


def test_freeing_memory_empties_the_allocators_cache_where_there_is_one(monkeypatch):
    emptied = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: emptied.append(1))
    training.free_memory()
    assert emptied == []  # no CUDA in this process
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    training.free_memory()
    assert emptied == [1]
