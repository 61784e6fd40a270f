"""Whatever generates or scores, with tensors that say they are on a GPU.

A tiny model with the shapes of the T4 recipes (their rows, their tokens, fp16), through
each function that a learner's GPU meets; see tests/fake_cuda.py for what is not real.
"""

import inspect
from dataclasses import replace

import pytest
import torch
from accelerate.state import AcceleratorState, PartialState
from torch._subclasses.fake_tensor import FakeTensorMode

from helpers import GIB, generation, training
from helpers.data import get_gsm8k_questions
from helpers.evaluation import answer_questions
from helpers.generation import generate, generate_completions
from helpers.models import load_model_and_tokenizer
from helpers.preflight import preflight
from helpers.profiles import PROFILES
from helpers.prompts import SYSTEM_PROMPT
from tests.fake_cuda import CUDA, FakeCuda, label
from tests.tiny import WORDS, adapters, length_reward, prompts_of, qwen2

RECIPES = ["article", "t4", "t4_quick"]


@pytest.fixture
def cuda(monkeypatch):
    """Fake CUDA tensors, and a GPU's answers of what there is of memory."""
    stand_in = {"mem_get_info": lambda *_: (14 * GIB, 15 * GIB)}
    stand_in |= {"max_memory_allocated": lambda *_: GIB}
    stand_in |= {"is_bf16_supported": lambda *_: False}
    for name in ("reset_peak_memory_stats", "empty_cache", "synchronize"):
        stand_in[name] = lambda *_: None
    fork_rng = torch.random.fork_rng
    monkeypatch.setattr(torch.random, "fork_rng", lambda *_, **__: fork_rng([]))
    for name, function in stand_in.items():
        monkeypatch.setattr(torch.cuda, name, function)
    with FakeCuda():
        yield


@pytest.fixture(scope="session")
def terse(tokenizer, tmp_path_factory):
    """The folder of the tiny model with a tokenizer of its own, of 600 words.

    Without AVX-512 the head of a larger vocabulary takes minutes in fp16.
    """
    folder = tmp_path_factory.mktemp("models") / "terse-qwen2"
    own = tokenizer.train_new_from_iterator([SYSTEM_PROMPT], WORDS)
    qwen2(vocab_size=WORDS, eos_token_id=own.eos_token_id).save_pretrained(folder)
    own.save_pretrained(folder)
    return folder


@pytest.fixture
def trainer(cuda, terse, gsm8k_folder, tmp_path, monkeypatch):
    """A function that builds (trainer, profile) of a T4 recipe, and moves it."""
    monkeypatch.setattr(training, "check_device", lambda profile: None)

    def build(name):
        grpo = PROFILES[name].grpo | {"max_steps": 1}
        profile = replace(PROFILES[name], model=str(terse), grpo=grpo)
        pair = load_model_and_tokenizer(profile.model, profile.dtype)
        questions = get_gsm8k_questions("train", folder=gsm8k_folder)
        made = training.build_trainer(
            replace(profile, device="cpu"),
            tmp_path,
            *pair,
            questions,
            reward_funcs=[length_reward],
        )
        monkeypatch.setattr(type(made.args), "device", CUDA)
        for state in (PartialState, AcceleratorState):
            monkeypatch.setitem(state._shared_state, "device", CUDA)
        made.model.to("cuda")
        return made, profile

    return build


@pytest.mark.parametrize("name", RECIPES)
def test_the_preflight_passes(name, trainer, capsys):
    made, profile = trainer(name)
    preflight(made, profile)
    assert "memory: GiB at most for evaluation 1.00" in capsys.readouterr().out
    assert {p.device for p in adapters(made.model).values()} == {CUDA}


@pytest.mark.parametrize("name", RECIPES)
def test_a_step_of_training_passes(name, trainer):
    made, _ = trainer(name)
    made.train()
    assert made.state.global_step == 1


@pytest.mark.parametrize("name", RECIPES)
def test_an_evaluation_passes(name, trainer, gsm8k_folder):
    made, profile = trainer(name)
    questions = get_gsm8k_questions("test", folder=gsm8k_folder)
    rows = answer_questions(profile, made.model, made.processing_class, questions)
    assert len(rows) == 8


@pytest.mark.parametrize(("samples", "temperature"), [(1, 0.0), (1, 0.7), (16, 1.0)])
def test_the_chat_and_pass_at_k_pass(samples, temperature, trainer, prompts):
    made, profile = trainer("t4_quick")
    settings = (profile.eval_new_tokens, samples, temperature)
    drawn = generate_completions(made.model, made.processing_class, prompts, *settings)
    assert [len(each) for each in drawn] == [samples] * len(prompts)


SOURCE = "".join(map(inspect.getsource, (generation.read_shared, generate)))


@pytest.mark.parametrize("place", range(SOURCE.count(", device=device")))
def test_a_tensor_left_on_the_cpu_is_caught(place, cuda, monkeypatch):
    """Each device that is named is needed: without it two devices meet."""
    parts = SOURCE.split(", device=device")
    source = ", device=device".join(parts[: place + 1])
    source += ", device=device".join(parts[place + 1 :])
    exec(source, scope := dict(vars(generation)))
    model = qwen2(vocab_size=WORDS).to("cuda")
    with pytest.raises(RuntimeError, match="at least two devices, cuda:0 and cpu"):
        scope["generate"](model, prompts_of(3), 4, 8, 1.0, [5], 1)


def test_a_module_left_on_the_cpu_is_caught(cuda):
    model = qwen2(vocab_size=WORDS).to("cuda")
    assert len(generate(model, prompts_of(3), 4, 8, 1.0, [5])) == 12
    model.model.norm.to("cpu")
    with pytest.raises(RuntimeError, match="at least two devices, cuda:0 and cpu"):
        generate(model, prompts_of(3), 4, 8, 1.0, [5])


def test_a_model_loads_there_as_anywhere(tiny_model):
    """Buffers too: transformers makes them on the meta device, and fills them later."""
    plain, _ = load_model_and_tokenizer(str(tiny_model), "fp16")
    with FakeCuda():
        moved, _ = load_model_and_tokenizer(str(tiny_model), "fp16")
    known = {name: buffer.clone() for name, buffer in plain.named_buffers()}
    assert known and known.keys() == dict(moved.named_buffers()).keys()
    assert all(torch.equal(b, known[name]) for name, b in moved.named_buffers())


CALLS = {
    "a sum": lambda a, b: a + b,
    "a sum with a number": lambda a, b: a + b.sum(),
    "a number and a sum": lambda a, b: b.sum() * a,
    "a product": lambda a, b: a @ b,
    "linear": torch.nn.functional.linear,
    "cat": lambda a, b: torch.cat([a, b]),
    "where": lambda a, b: torch.where(a > 0, a, b),
    "in place": lambda a, b: a.clone().add_(b),
    "masked_fill": lambda a, b: a.masked_fill(b > 0, 1.0),
    "gather": lambda a, b: a.gather(1, b.long() * 0),
    "embedding": lambda a, b: torch.nn.functional.embedding(b.long() * 0, a),
    "searchsorted": lambda a, b: torch.searchsorted(a, b),
    "isin": lambda a, b: torch.isin(a, b),
    "moved first": lambda a, b: a + b.to(a.device),
    "made like it": lambda a, b: a + torch.zeros_like(a),
    "made beside it": lambda a, b: a + a.new_zeros(4),
    "made elsewhere": lambda a, b: a + torch.zeros(4),
}


@pytest.mark.parametrize(
    "devices", [("cuda", "cuda"), ("cuda", "cpu"), ("cpu", "cuda")]
)
@pytest.mark.parametrize("call", CALLS)
def test_the_rules_are_those_of_pytorchs_fake_tensors(call, devices):
    def outcome(mode):
        with mode, torch.no_grad():
            pair = [torch.ones(4, 4, device=device) for device in devices]
            try:
                return str(CALLS[call](*pair).device.type)
            except RuntimeError as error:
                return "device" in str(error)

    assert outcome(FakeCuda()) == outcome(FakeTensorMode())


def test_what_an_index_may_write_and_read(cuda):
    """As CUDA does; FakeTensorMode knows no assignment by index in a CPU build."""
    there, here = torch.zeros(4, device="cuda"), torch.zeros(4)
    there[:2], here[:2] = here[:2], there[:2]  # a slice copies over
    here.copy_(there)
    there[here > 1] = 1.0
    assert there[torch.tensor([0])].is_cuda
    for call in (
        lambda: there.__setitem__(there == 0, here),
        lambda: here.__setitem__(there == 0, 1.0),
        lambda: here[torch.tensor([0], device="cuda")],
    ):
        with pytest.raises(RuntimeError, match="at least two devices"):
            call()


def test_a_cuda_tensor_has_no_array(cuda):
    with pytest.raises(TypeError, match="can't convert cuda:0"):
        label(torch.ones(2), True).numpy()
    assert torch.ones(2, device="cuda").cpu().numpy().sum() == 2
