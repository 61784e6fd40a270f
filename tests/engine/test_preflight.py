"""The preflight on a tiny fp16 model: what it prints, and each remedy on a broken one.

On a CPU there is neither autocast nor a scaler, whatever `fp16` says; the lines for
CUDA are read by the test that wants a GPU.
"""

import re
import time

import psutil
import pytest
import torch

from helpers import GIB, CourseError, evaluation, training
from helpers import preflight as module
from helpers.__main__ import main
from helpers.data import drop_long_prompts, get_gsm8k_questions
from helpers.evaluation import load_questions
from helpers.models import load_model_and_tokenizer
from helpers.preflight import MemoryFull, preflight
from helpers.profiles import MICRO_BATCH, PROFILES, override
from helpers.runs import load_run, read_log
from tests.tiny import go_on, length_reward, new_run

TRIED = ("try_evaluation", "try_generation", "try_step")


@pytest.fixture
def make(tiny_model, gsm8k_folder, tmp_path, monkeypatch):
    """A function that builds (trainer, profile) of the T4 recipe on the tiny model.

    On a CPU a run with fp16 is refused; what the preflight sees is the same there.
    """
    on_cpu = [] if torch.cuda.is_available() else ["device=cpu"]
    if on_cpu:
        monkeypatch.setattr(training, "check_device", lambda profile: None)

    def build(dtype="fp16", **settings):
        short = [f"model={tiny_model}", "max_completion_length=4", f"dtype={dtype}"]
        # A quarter of a step's completions: fp16 is slow on a CPU.
        short += ["per_device_train_batch_size=8", "eval_batch_size=4"]
        short += ["eval_new_tokens=4", *on_cpu]
        profile = override(PROFILES["t4"], short)
        pair = load_model_and_tokenizer(profile.model, dtype)
        questions = get_gsm8k_questions("train", folder=gsm8k_folder)
        trainer = training.build_trainer(
            profile, tmp_path, *pair, questions, **settings
        )
        return trainer, profile

    return build


def test_a_healthy_run_is_described_and_left_as_it_was(make, capsys):
    trainer, profile = make()
    before = {n: p.detach().clone() for n, p in trainer.model.named_parameters()}
    state, mode = torch.get_rng_state(), trainer.model.training
    preflight(trainer, profile)
    assert torch.equal(torch.get_rng_state(), state)
    assert trainer.model.training is mode and trainer.optimizer is None
    for name, p in trainer.model.named_parameters():
        assert torch.equal(p, before[name]) and p.grad is None, name
    lines = capsys.readouterr().out.splitlines()
    assert lines[:4] == [
        "base weights: float16",
        "norms: float16",
        "adapters: float32",
        "attention: sdpa",
    ]
    assert lines[4] == "logits: float16"
    # Two layers of q, k, v, o; where B = 0, A has no gradient yet.
    assert lines[5].startswith("one step: gradient norm ")
    assert lines[5].endswith("8 of 16 adapter tensors changed, and put back")
    number = r"(\d+\.\d\d)"
    parts = rf"evaluation {number}, generation {number}, one step {number}"
    most = re.fullmatch(f"memory: GiB at most for {parts}; {number} free now", lines[6])
    assert min(map(float, most.groups())) > (0.0 if torch.cuda.is_available() else 0.1)
    assert len(lines) == 7


def test_training_after_a_preflight_is_training_without_one(make):
    settings = {"max_steps": 1, "learning_rate": 1e-2, "warmup_steps": 0}
    settings |= {"fp16": False, "reward_funcs": [length_reward]}
    adapters = []
    for check in (False, True):
        trainer, profile = make("fp32", **settings)
        trained = [p for p in trainer.model.parameters() if p.requires_grad]
        before = [p.detach().clone() for p in trained]
        if check:
            preflight(trainer, profile)
        trainer.train()
        # B moves at the first step, A where the gradient passes a B that is not zero.
        pairs = zip(before, trained, strict=True)
        assert sum(not torch.equal(p, q) for p, q in pairs) >= 8
        adapters.append([p.detach().clone() for p in trained])
        assert trainer.state.log_history[0]["reward_std"] > 0
    for p, q in zip(*adapters, strict=True):
        assert torch.equal(p, q)


def halve_an_adapter(trainer):
    for name, p in trainer.model.named_parameters():
        if "lora_A" in name:
            p.data = p.data.half()


def freeze(trainer):
    trainer.model.requires_grad_(False)


def blow_up_a_weight(trainer):
    trainer.model.get_base_model().model.layers[1].mlp.up_proj.weight.data[0] = (
        torch.inf
    )


def overflow(trainer):
    # Each weight is finite, but their products are larger than fp16's 65,504.
    for layer in trainer.model.get_base_model().model.layers:
        layer.mlp.up_proj.weight.data.fill_(6e4)
        layer.mlp.gate_proj.weight.data.fill_(6e4)


def zero_the_adapters(trainer):
    for p in trainer.model.parameters():
        if p.requires_grad:
            p.data.zero_()


@pytest.mark.parametrize(
    "break_it, settings, remedy",
    [
        (halve_an_adapter, {}, "Attempting to unscale FP16 gradients"),
        (halve_an_adapter, {}, "autocast_adapter_dtype=True"),
        (freeze, {}, "nothing is trained: no weight has requires_grad. Load the model"),
        (blow_up_a_weight, {}, "layers.1.mlp.up_proj.weight. Load the model afresh"),
        (overflow, {}, "logits are not finite: the model overflows. Load the model in"),
        (zero_the_adapters, {}, "no gradient reaches the adapters. Load the model"),
        (None, {"learning_rate": 0.0}, "learning_rate=0 changes nothing: raise"),
        (None, {"fp16": False, "bf16": True}, "fp16: set fp16=True, bf16=False"),
    ],
)
def test_what_is_broken_stops_it_with_the_remedy(make, break_it, settings, remedy):
    trainer, profile = make(**settings)
    if break_it:
        break_it(trainer)
    adapters = [p.clone() for p in trainer.model.parameters() if p.requires_grad]
    with pytest.raises(CourseError) as error:
        preflight(trainer, profile)
    assert remedy in str(error.value) and "\n" not in str(error.value)
    after = [p for p in trainer.model.parameters() if p.requires_grad]
    for p, q in zip(after, adapters, strict=True):
        assert torch.equal(p, q)


def test_eager_attention_is_refused(make):
    trainer, profile = make()
    trainer.model.get_base_model().set_attn_implementation("eager")
    with pytest.raises(CourseError, match="load the model with attn_implementation="):
        preflight(trainer, profile)


@pytest.mark.parametrize(
    "function,remedy",
    [
        ("try_evaluation", "evaluation: the memory is full. Lower eval_batch_size."),
        (
            "try_generation",
            "generation: the memory is full. Lower num_generations",
        ),
        (
            "try_step",
            "one step: the memory is full. Lower per_device_train_batch",
        ),
    ],
)
@pytest.mark.parametrize(
    "full",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: not enough memory"),
    ],
    ids=["gpu", "python", "cpu"],
)
def test_memory_that_ends_gets_the_remedy_of_its_part(
    make, monkeypatch, function, remedy, full
):
    def fill(*args):
        raise full

    trainer, profile = make()
    monkeypatch.setattr(f"helpers.preflight.{function}", fill)
    adapters = [p.clone() for p in trainer.model.parameters() if p.requires_grad]
    with pytest.raises(MemoryFull, match=re.escape(remedy)):
        preflight(trainer, profile)
    after = [p for p in trainer.model.parameters() if p.requires_grad]
    for p, q in zip(after, adapters, strict=True):
        assert torch.equal(p, q)


def rows_of(trainer, profile) -> list[int]:
    """Completions at once, steps of accumulation, and problems asked at once."""
    args = trainer.args
    rows = [args.per_device_train_batch_size, args.gradient_accumulation_steps]
    assert rows == [profile.grpo[name] for name in MICRO_BATCH]
    return [*rows, profile.eval_batch_size]


@pytest.fixture
def fitting(tiny_model, tmp_path, monkeypatch):
    """A function that fits a recipe into a memory that holds so many rows of a part."""
    real = {name: getattr(module, name) for name in TRIED}

    def fit(name="smoke", step=1000, evaluation=1000, generation=True, settings=()):
        def tried(part, rows, most):
            def try_(trainer, *rest):
                if rows(trainer, *rest) > most:
                    raise torch.OutOfMemoryError("CUDA out of memory")
                return real[part](trainer, *rest)

            monkeypatch.setattr(module, part, try_)

        def at_once(trainer, *_):
            return trainer.args.per_device_train_batch_size

        tried("try_step", at_once, step)
        tried("try_evaluation", lambda _, profile: profile.eval_batch_size, evaluation)
        tried("try_generation", lambda *_: 0, 0 if generation else -1)
        short = [f"model={tiny_model}", "device=cpu", "fp16=False", "dtype=fp32"]
        short += ["max_completion_length=4", "eval_new_tokens=4", "max_steps=1"]
        short += ["dataset=arithmetic", "num_train=64", *settings]
        profile = override(PROFILES[name], short)
        pair = load_model_and_tokenizer(profile.model)
        weights = {n: p.detach().clone() for n, p in pair[0].named_parameters()}
        questions = load_questions(profile, "train", 0)
        questions = drop_long_prompts(questions, pair[1], profile.max_prompt_length)
        trainer, profile = module.fit(
            profile, tmp_path, *pair, questions, reward_funcs=[length_reward]
        )
        there = {
            name.replace(".base_layer", ""): p
            for name, p in trainer.model.get_base_model().named_parameters()
        }
        assert all(torch.equal(there[n], p) for n, p in weights.items())
        return trainer, profile

    return fit


@pytest.mark.parametrize("name, before", [("t4", [32, 1, 100]), ("smoke", [8, 1, 4])])
def test_what_fits_is_tried_once_and_stays(fitting, capsys, name, before):
    assert rows_of(*fitting(name)) == before
    out = capsys.readouterr().out
    assert out.count("memory: GiB at most for ") == 1 and "full" not in out


@pytest.mark.parametrize(
    "name, step, evaluation, after",
    [
        ("t4", 8, 1000, [8, 4, 100]),
        ("t4", 1, 30, [1, 32, 25]),
        ("smoke", 2, 1, [2, 4, 1]),
    ],
)
def test_a_micro_batch_that_does_not_fit_is_halved_until_it_does(
    fitting, capsys, name, step, evaluation, after
):
    """A step keeps its completions; the trainer that comes back trains."""
    trainer, profile = fitting(name, step, evaluation)
    assert rows_of(trainer, profile) == after
    at_once, steps, _ = after
    was = PROFILES[name].grpo
    assert at_once * steps == was[MICRO_BATCH[0]] * was[MICRO_BATCH[1]]
    lines = capsys.readouterr().out.splitlines()
    said = [line for line in lines if "Tried again" in line]
    halves, full = [], "one step: the memory is full. Lower per_device_train_batch_size"
    for part, rows, size in (
        ("evaluation", after[2], PROFILES[name].eval_batch_size),
        ("one step", at_once, was[MICRO_BATCH[0]]),
    ):
        while size > rows:
            size //= 2
            halves.append((part, size))
    assert [
        (line.partition(":")[0], int(line.rstrip(".").split()[-1])) for line in said
    ] == halves
    again = f"{full}. Tried again with half of it, {at_once}."
    assert said[-1] == again and lines[-1].startswith("memory: GiB at most for ")
    trainer.train()
    assert trainer.state.log_history[0]["reward_std"] > 0
    assert trainer.state.global_step == 1


@pytest.mark.parametrize(
    "settings, part",
    [
        ({"step": 0}, "one step"),  # not even one completion
        ({"evaluation": 0}, "evaluation"),
        ({"generation": False}, "generation"),  # of all micro-batches at once
        (
            {"step": 2, "settings": ["num_generations=3", f"{MICRO_BATCH[0]}=3"]},
            "one step",  # nor is three halved
        ),
    ],
)
def test_what_cannot_be_halved_is_refused_with_the_setting(fitting, settings, part):
    with pytest.raises(MemoryFull) as error:
        fitting(**settings)
    setting = module.SMALLER[part]
    assert str(error.value) == f"{part}: the memory is full. Lower {setting}."


def test_training_tries_the_recipe_before_its_first_evaluation(
    tiny_model, tmp_path, monkeypatch, capsys
):
    def evaluated(*args, **kwargs):
        raise CourseError("evaluated")

    def tried(*args):
        raise CourseError("tried")

    monkeypatch.setattr(evaluation, "evaluate_part", evaluated)
    monkeypatch.setattr(module, "preflight", tried)
    words = ["--set", f"model={tiny_model}", "--out", str(tmp_path / "run")]
    assert main(["train", "--profile", "smoke", *words]) == 2
    assert capsys.readouterr().err == "error: tried\n"


def test_a_run_keeps_the_micro_batch_that_fitted(
    tiny_model, tmp_path, monkeypatch, capsys
):
    try_step, small = module.try_step, 4

    def fill(trainer, *rest):
        if trainer.args.per_device_train_batch_size > small:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return try_step(trainer, *rest)

    monkeypatch.setattr(module, "try_step", fill)
    words = [f"model={tiny_model}", "max_completion_length=4", "eval_new_tokens=4"]
    words = [word for setting in words for word in ("--set", setting)]
    run = tmp_path / "run"
    train = ["train", "--out", str(run)]
    stop = ["--max-minutes", "0"]
    assert main([*train, "--profile", "smoke", *words, *stop]) == 0
    assert capsys.readouterr().out.count("Tried again with half of it, 4.") == 1
    profile, _ = load_run(run)
    assert [profile.grpo[name] for name in MICRO_BATCH] == [4, 2]
    assert main([*train, "--resume"]) == 0
    assert "Tried again" not in capsys.readouterr().out
    assert [row["step"] for row in read_log(run)] == [1, 2]


@pytest.mark.skipif(torch.cuda.is_available(), reason="of the memory of a process")
def test_the_memory_that_a_part_takes_is_measured_not_predicted(
    make, monkeypatch, capsys
):
    def take(gib):
        block = torch.ones(int(gib * GIB / 4))
        time.sleep(0.3)
        del block
        training.give_back_memory()

    def step(trainer, weights):
        weights[0].data += 1
        take(0.5)
        return 1.0

    trainer, profile = make()
    monkeypatch.setattr(module, "try_evaluation", lambda *_: take(0.25))
    monkeypatch.setattr(module, "try_generation", lambda *_: take(1.0))
    monkeypatch.setattr(module, "try_step", step)
    preflight(trainer, profile)
    said = capsys.readouterr().out.splitlines()[-1]
    evaluation, generation, step, _ = map(float, re.findall(r"\d+\.\d\d", said))
    assert generation - evaluation == pytest.approx(0.75, rel=0.1)
    assert generation - step == pytest.approx(0.5, rel=0.1)
    base = psutil.Process().memory_info().rss / GIB
    assert evaluation == pytest.approx(base + 0.25, rel=0.1)


def test_the_log_has_the_peak_of_each_step_in_gib(tiny_model, tmp_path):
    """Not what is left at its end, nor what the process once had."""
    run, seen = new_run(tmp_path / "run", tiny_model, 3), []

    def reward(completions, **kwargs):
        seen.append(len(seen))
        block = torch.ones(GIB // 8 if len(seen) == 2 else 1)
        time.sleep(0.3)
        del block
        return length_reward(completions)

    assert go_on(run, reward) is None
    first, second, third = (row["memory_gib"] for row in read_log(run))
    assert second - first == pytest.approx(0.5, rel=0.1)
    assert third == pytest.approx(first, abs=0.05)
    rss = psutil.Process().memory_info().rss / GIB
    assert third == pytest.approx(rss, rel=0.1)
    assert not any("memory_gb" in row for row in read_log(run))


@pytest.mark.gpu
def test_on_a_gpu_the_step_is_scaled_and_measured(make, capsys):
    trainer, profile = make()
    preflight(trainer, profile)
    assert "GiB at most" in capsys.readouterr().out
    assert trainer.accelerator.scaler.get_scale() == 2.0**16
    if not torch.cuda.is_bf16_supported(False):
        trainer, profile = make("bf16", fp16=False, bf16=True)
        with pytest.raises(CourseError, match="only emulates bf16: set fp16=True"):
            preflight(trainer, profile)
