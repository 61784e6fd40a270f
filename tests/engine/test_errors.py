"""Errors of the disk, the device, the network and a reward: one line, or left alone."""

import errno
import io
import os
import socket
import subprocess
import sys

import pytest
import requests
import torch

from helpers import CourseError, evaluation, runs, training
from helpers.__main__ import main
from helpers.models import load_model_and_tokenizer
from tests import RECORDED, ROOT
from tests.tiny import go_on, new_run

KEPT = "What was saved before is kept. Make room, or move to another folder"
FULL, FORBIDDEN = "The disk is full.", "The folder is read-only, or not yours."
GONE = "Is the drive still there?"


@pytest.mark.parametrize(
    "number, why",
    [
        (errno.ENOSPC, FULL),
        (errno.EDQUOT, FULL),
        (errno.EFBIG, FULL),
        (errno.EROFS, FORBIDDEN),
        (errno.EACCES, FORBIDDEN),
        (errno.EPERM, FORBIDDEN),
        (errno.ENOENT, GONE),
        (errno.EIO, GONE),
        (errno.ENOTCONN, GONE),  # Colab's Drive, unmounted
    ],
    ids=lambda value: errno.errorcode.get(value),
)
def test_an_error_of_the_disk_is_one_line_that_says_which(tmp_path, number, why):
    text = os.strerror(number)
    with pytest.raises(CourseError) as error, runs.storing(tmp_path):
        raise OSError(number, text, str(tmp_path / "log.jsonl"))
    message = str(error.value)
    assert message.startswith(f"{tmp_path} cannot be written or read ([Errno {number}]")
    assert f"{text}: '{tmp_path}/log.jsonl'). {why} {KEPT}" in message
    assert "\n" not in message


NETWORK = [
    requests.exceptions.ConnectionError("Max retries exceeded with url: /api/runs"),
    requests.exceptions.Timeout("read timeout=10"),
    requests.exceptions.HTTPError("503 Server Error"),
    ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused"),
    ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"),
    BrokenPipeError(errno.EPIPE, "Broken pipe"),
    TimeoutError(errno.ETIMEDOUT, "Connection timed out"),
    socket.gaierror(socket.EAI_NONAME, "Name or service not known"),
    OSError(errno.ENETUNREACH, "Network is unreachable"),
]


@pytest.mark.parametrize("error", NETWORK, ids=lambda e: type(e).__name__)
def test_an_error_of_the_network_is_not_called_a_full_disk(tmp_path, error):
    with pytest.raises(OSError) as caught, runs.storing(tmp_path):
        raise error
    assert caught.value is error


def test_a_logging_service_that_cannot_be_reached_says_so_itself(tiny_model, tmp_path):
    service = requests.exceptions.ConnectionError("api.wandb.ai: Max retries exceeded")

    class Logging(training.TrainerCallback):
        def on_log(self, *args, **kwargs):
            raise service

    run = new_run(tmp_path / "run", tiny_model, 2)
    with pytest.raises(requests.exceptions.ConnectionError) as caught:
        go_on(run, callbacks=[Logging()])
    assert caught.value is service


def refusing(error):
    """A reward function that ends as if the GPU, or TRL, had ended it."""

    def step(*args, **kwargs):
        raise error

    return step


OUT = "CUDA out of memory. Tried to allocate 2.32 GiB. GPU 0 has a total capacity of"
SMALLER = "lower per_device_train_batch_size (and raise gradient_accumulation_steps as "
SMALLER += "much), num_generations or max_completion_length"


@pytest.mark.parametrize(
    "error, message",
    [
        (torch.OutOfMemoryError(OUT), f"the memory is full: {SMALLER}"),
        (MemoryError(), f"the memory is full: {SMALLER}"),
        (
            RuntimeError(
                "[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: "
                "can't allocate memory: you tried to allocate 4398046511104 bytes."
            ),
            f"the memory is full: {SMALLER}",
        ),
        (
            torch.AcceleratorError(
                "CUDA error: device-side assert triggered\nCUDA kernel errors might be "
                "asynchronously reported at some other API call"
            ),
            "the GPU has stopped for this process (device-side assert, often after NaN "
            "in fp16): restart Python or the session, and go on in fp32",
        ),
    ],
    ids=["cuda", "python", "allocator", "assert"],
)
def test_a_step_that_ends_in_memory_or_on_the_device_is_one_line(
    tiny_model, tmp_path, monkeypatch, error, message
):
    run = new_run(tmp_path / "run", tiny_model, 3)
    go_on(run, max_minutes=0)
    monkeypatch.setattr("helpers.fast.FastGRPOTrainer.compute_loss", refusing(error))
    with pytest.raises(CourseError) as caught:
        go_on(run)
    assert str(caught.value) == message
    assert runs.last_checkpoint(run)[0] == 1


def test_an_evaluation_that_fills_the_memory_names_the_setting(
    tiny_model, tmp_path, monkeypatch
):
    run = new_run(tmp_path / "run", tiny_model, 3)
    full = refusing(torch.OutOfMemoryError(OUT))
    monkeypatch.setattr(evaluation, "generate_completions", full)
    for which in ("before", "few_shot", "after"):
        monkeypatch.setenv("GRPO_CACHE_DIR", str(tmp_path / "cache"))
        pair = load_model_and_tokenizer(str(tiny_model))
        with pytest.raises(CourseError) as caught:
            evaluation.evaluate_part(run, "test", which, *pair)
        assert str(caught.value) == "the memory is full: lower eval_batch_size"


def test_any_other_error_of_a_step_stays_as_it_is(tiny_model, tmp_path, monkeypatch):
    run = new_run(tmp_path / "run", tiny_model, 3)
    other = ValueError("the logging service knows no reward function called length")
    monkeypatch.setattr("helpers.fast.FastGRPOTrainer.compute_loss", refusing(other))
    with pytest.raises(ValueError) as caught:
        go_on(run)
    assert caught.value is other


def test_a_reward_function_that_miscounts_is_one_line_with_both_numbers(
    tiny_model, tmp_path
):
    run = new_run(tmp_path / "run", tiny_model, 3)
    with pytest.raises(CourseError) as caught:
        go_on(run, lambda completions, **kwargs: [1.0])
    message = str(caught.value)
    assert "returned 1 rewards, but 2 were expected" in message
    assert "\n" not in message


def test_arrows_and_minus_signs_pass_through_redirected_output():
    """As on Windows, whose cp1252 has neither."""
    environment = os.environ | {"PYTHONIOENCODING": "cp1252"}
    healthy = RECORDED / "cpu-seed0"
    done = subprocess.run(
        [sys.executable, "-m", "helpers", "doctor", str(healthy)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert "alive: 40 steps, reward 2.17 → 3.10 (" in done.stdout.decode("utf-8")


@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "utf-8"])
def test_the_final_report_passes_through_redirected_output(
    encoding, tiny_model, tmp_path, monkeypatch
):
    written, said = io.BytesIO(), io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding))
    monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(said, encoding))
    settings = [f"model={tiny_model}", "max_steps=1", "max_completion_length=4"]
    words = [word for x in (*settings, "eval_new_tokens=4") for word in ("--set", x)]
    run = ["--out", str(tmp_path / "→ run")]
    code = main(["train", "--profile", "smoke", *run, *words])
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    text = written.getvalue().decode("utf-8")
    assert code == 0 and "error" not in said.getvalue().decode("utf-8")
    assert "|   | before | after | after − before |" in text
    assert f"In {tmp_path / '→ run'}: report.md, evaluation.json" in text
    report = (tmp_path / "→ run" / "report.md").read_text(encoding="utf-8")
    assert "after − before" in report
