"""What the course leans on of TRL, PEFT and Transformers is there, under its name.

A release that moves something fails here first, in a line that says what moved. Run it
with the newest releases and with the lowest ones of requirements.txt.
"""

import ast
import difflib
import functools
import importlib
import inspect
import logging
import re
import sys
import warnings
from importlib import metadata
from pathlib import Path

import peft
import pytest
import transformers
import trl

from helpers import CourseError, evaluation, models, runs
from helpers.generation import generate, generate_completions
from helpers.profiles import PROFILES, grpo_config, lora_config
from tests import ROOT
from tests.calls import ACCEPTS, Call, calls, moved, texts
from tests.tiny import go_on, new_run

# What notebook 05 shows to be refused.
REFUSED = {"max_prompt_length", "warmup_ratio"}
# What is overridden or called by position: the parameters, in order. `…` says that more
# may follow, `|` that either name will do.
SIGNATURES = {
    "trl.GRPOTrainer._generate": "self, prompts",
    "trl.GRPOTrainer._generate_single_turn": (
        "self, prompt_ids, images, multimodal_fields, num_generations, …"
    ),
    "trl.GRPOTrainer._get_per_token_logps_and_entropies": (
        "self, model, input_ids, attention_mask, logits_to_keep, batch_size, "
        "compute_entropy, …"
    ),
    "trl.GRPOTrainer._compute_loss": "self, model, inputs",
    "trl.GRPOTrainer.compute_loss": "self, model, inputs, …",
    "trl.GRPOTrainer._prepare_inputs": "self, generation_batch",
    "trl.GRPOTrainer._save_checkpoint": "self, model, trial",
    "trl.GRPOTrainer.train": "self, resume_from_checkpoint, …",
    "accelerate.Accelerator.backward": "self, loss, …",
    "accelerate.Accelerator.unwrap_model": "self, model, …",
    "transformers.LlamaModel.forward": (
        "self, input_ids, attention_mask, position_ids, past_key_values|cache, "
        "inputs_embeds, use_cache, …"
    ),
    "transformers.Qwen2Model.forward": (
        "self, input_ids, attention_mask, position_ids, past_key_values|cache, "
        "inputs_embeds, use_cache, …"
    ),
    "transformers.DynamicCache.batch_repeat_interleave": "self, repeats",
    "transformers.DynamicCache.batch_select_indices": "self, indices",
    "transformers.cache_utils.DynamicLayer.update": (
        "self, key_states, value_states, …"
    ),
    "transformers.cache_utils.DynamicLayer.get_seq_length": "self, …",
    "transformers.cache_utils.DynamicLayer.batch_repeat_interleave": "self, repeats",
    "transformers.cache_utils.DynamicLayer.batch_select_indices": "self, indices",
    "transformers.TrainerCallback.on_train_begin": "self, args, state, control, …",
    "transformers.TrainerCallback.on_step_end": "self, args, state, control, …",
    "transformers.TrainerCallback.on_save": "self, args, state, control, …",
    "transformers.TrainerCallback.on_log": "self, args, state, control, …",
    "peft.PeftModel.load_adapter": "self, model_id, adapter_name, …",
    "peft.tuners.lora.Linear.get_delta_weight": "self, adapter",
    "peft.tuners.lora.LoraLayer.get_base_layer": "self",
}
# What is read of an object: it is set somewhere in its class.
ATTRIBUTES = {
    "trl.GRPOTrainer": (
        "_is_vlm _entropy_bonus_enabled _buffered_inputs _metrics accelerator beta "
        "eos_token_ids generation_kwargs max_completion_length rollout_func "
        "temperature tools"
    ),
    "transformers.PreTrainedConfig": "_attn_implementation",
    "transformers.DynamicCache": "layers",
    "transformers.cache_utils.DynamicLayer": "device is_initialized keys values",
    "peft.tuners.lora.LoraLayer": "lora_A lora_B scaling disable_adapters",
    "accelerate.state.AcceleratorState": "_shared_state",
}
# Private names of PyTorch and of Python: their own tests would fail in plain words.
OTHERS = {"_parameters", "_buffers", "_cdata", "_lazy_init", "_exit", "_replace"}


def find(path: str):
    """The object at a dotted path; AttributeError where it is gone."""
    parts = path.split(".")
    for end in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:end]))
        except ImportError:
            continue
        for part in parts[end:]:
            found = getattr(found, part)
        return found
    raise AttributeError(path)


def release(path: str) -> str:
    """The package of a dotted path with its version."""
    package = path.partition(".")[0]
    return f"{package} {metadata.version(package)}"


def changed(path: str, wanted: str) -> str | None:
    """Say what another signature a function has; None where it is the one we know."""
    try:
        found = find(path)
    except AttributeError:
        near = difflib.get_close_matches(path.rpartition(".")[2], names_near(path), 1)
        hint = f"; did {near[0]} take its place?" if near else ""
        return f"{release(path)} has no {path} any more{hint}"
    while hasattr(found, "__wrapped__"):
        found = found.__wrapped__
    there, known = list(inspect.signature(found).parameters), wanted.split(", ")
    if known[-1] == "…":
        known = known[:-1]
        there = there[: len(known)]
    same = len(there) == len(known) and all(
        name in either.split("|") for name, either in zip(there, known, strict=True)
    )
    if same:
        return None
    return f"{path}({', '.join(there)}) in {release(path)}; the course knows ({wanted})"


def names_near(path: str) -> list[str]:
    """The names beside one that is gone."""
    try:
        return dir(find(path.rpartition(".")[0]))
    except AttributeError:
        return []


def unset(path: str, names: str) -> list[str]:
    """Say which attributes no class above a class sets."""
    text = ""
    for owner in inspect.getmro(find(path)):
        if owner.__module__.partition(".")[0] in ("trl", "transformers", "peft"):
            text += inspect.getsource(owner)
    owner = find(path)
    return [
        f"{release(path)}: {path} sets no {name} any more"
        for name in names.split()
        if not (re.search(rf"self\.{name}\b(?:, self\.\w+)* *(?:=|:)", text)
                or re.search(rf"^    {name}\b *[:=]", text, re.MULTILINE)
                or hasattr(owner, name))
    ]  # fmt: skip


def private(path: Path) -> set[str]:
    """The private names that a file takes from elsewhere."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    own, read = set(), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            own.add(node.name)
        if isinstance(node, ast.Attribute) and re.match(r"_[a-z]", node.attr):
            read.add(node.attr)
            if isinstance(node.ctx, ast.Store):
                own.add(node.attr)
    # A method that overrides one of theirs is read through super().
    supers = re.findall(r"super\(\)\.(_[a-z]\w*)", path.read_text(encoding="utf-8"))
    return (read - own) | set(supers)


@functools.cache
def found_calls() -> list[Call]:
    """All keywords that helpers and notebooks pass."""
    return [call for where, text in texts().items() for call in calls(where, text)]


def test_every_keyword_that_is_passed_is_taken():
    found = [call for call in found_calls() if call.keyword not in REFUSED]
    assert moved(found) == []


def test_the_calls_are_seen():
    found = {(call.to, call.keyword) for call in found_calls()}
    assert {name for name, _ in found} >= ACCEPTS.keys() - {"PeftModel.from_pretrained"}
    for row in ("num_generations", "use_cpu", "logging_nan_inf_filter", "adam_beta2"):
        assert ("GRPOConfig", row) in found
    assert ("LoraConfig", "r") in found
    assert ("AutoModelForCausalLM.from_pretrained", "dtype") in found
    assert ("generate", "repetition_penalty") in found
    assert ("build_trainer", "generation_kwargs") in found
    assert ("grpo_config", "num_items_in_batch") not in found  # another `settings`


def test_what_notebook_05_shows_refused_is_refused():
    found = [call for call in found_calls() if call.keyword in REFUSED]
    assert {call.keyword for call in found} == REFUSED
    assert len(moved(found)) == 2


@pytest.mark.parametrize("path", SIGNATURES)
def test_what_is_leaned_on_has_its_signature(path):
    assert changed(path, SIGNATURES[path]) is None


@pytest.mark.parametrize("path", ATTRIBUTES)
def test_what_is_read_is_set(path):
    assert unset(path, ATTRIBUTES[path]) == []


def test_no_private_name_is_leaned_on_that_no_row_checks():
    rows = {path.rpartition(".")[2] for path in SIGNATURES} | OTHERS
    rows |= {name for names in ATTRIBUTES.values() for name in names.split()}
    files = [*(ROOT / "helpers").rglob("*.py"), *(ROOT / "tests").rglob("*.py")]
    unchecked = {
        f"{path.relative_to(ROOT)} leans on {name}: add it to SIGNATURES or ATTRIBUTES"
        for path in files
        if path not in (Path(__file__), ROOT / "tests" / "calls.py")
        for name in private(path) - rows
    }
    assert unchecked == set()


# --- warnings that our own call causes ------------------------------------------------

# What is known and waits for a reason: (a part of the text, why).
KNOWN = {"gradient_checkpointing": "Colab's Transformers knows the old name alone"}


def package_of(frame) -> str:
    """The package, or the folder of the course, that a frame's code belongs to."""
    path = Path(frame.f_code.co_filename)
    if path.is_relative_to(ROOT):
        return path.relative_to(ROOT).parts[0]
    return frame.f_globals.get("__name__", "").partition(".")[0]


def who_called(frame) -> str:
    """Who called the package that warns: the first frame outside of it."""
    # A model is called through torch.nn.Module.
    silent = ("warnings", "logging", "functools", "contextlib", "torch")
    while frame and package_of(frame) in silent:
        frame = frame.f_back
    inside = package_of(frame)
    while frame and package_of(frame) in (inside, *silent):
        frame = frame.f_back
    return package_of(frame) if frame else ""


def ours(who: str, text: str) -> bool:
    """Tell whether the course causes a warning, by its call or by a keyword."""
    passed = {call.keyword for call in found_calls()}
    quoted = set(re.findall(r"[`'\"](\w+)[`'\"]", text))
    # What a config hands on, TRL's for one, is what we gave it.
    handed = who in ("trl", "transformers", "accelerate") and quoted & passed
    return who in ("helpers", "tests", "notebooks") or bool(handed)


class Watch(logging.Handler):
    """Notes deprecations, as warnings and as log records, with who called."""

    def __init__(self):
        super().__init__(logging.WARNING)
        self.found: list[tuple[str, str]] = []

    def showwarning(self, message, category, *_):
        """Take a warning of Python."""
        if issubclass(category, FutureWarning | DeprecationWarning):
            here = sys._getframe().f_back.f_back  # warnings.py calls this
            self.found.append((who_called(here), str(message)))

    def emit(self, record):
        """Take a log record."""
        if "deprecat" in record.getMessage().lower():
            here = sys._getframe()
            while Path(here.f_code.co_filename).is_relative_to(Path(__file__)):
                here = here.f_back
            self.found.append((who_called(here), record.getMessage()))


@pytest.fixture
def watch(monkeypatch):
    """A watch over what is warned about until the test ends."""
    watching = Watch()
    loggers = [logging.getLogger(n) for n in ("transformers", "trl", "peft")]
    for logger in loggers:
        logger.addHandler(watching)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        monkeypatch.setattr(warnings, "showwarning", watching.showwarning)
        # grpo_config would ignore what we want to see.
        monkeypatch.setattr(warnings, "filterwarnings", lambda *args, **kwargs: None)
        yield watching
    for logger in loggers:
        logger.removeHandler(watching)


def deprecations(watching: Watch) -> list[str]:
    """The warnings that the course causes, a line each, without the known ones."""
    return sorted(
        f"our own call warns (through {who}): {text.strip().splitlines()[0]}"
        for who, text in set(watching.found)
        if ours(who, text) and not any(known in text for known in KNOWN)
    )


def test_no_call_of_ours_is_deprecated(watch, tiny_model, tmp_path):
    for profile in PROFILES.values():
        grpo_config(profile, tmp_path / "config")
        lora_config(profile)
    run = new_run(tmp_path / "run", tiny_model, 1)
    go_on(run)
    profile, _ = runs.load_run(run)
    model, tokenizer = models.load_trained(profile, run / "adapter")
    asked = evaluation.load_questions(profile, "test", 0)["prompt"][:2]
    generate_completions(model, tokenizer, asked, 2)
    assert deprecations(watch) == []


def test_pytest_turns_a_deprecated_call_of_ours_into_an_error():
    old = inside("transformers", WARNS.format("a", "b"), made=None)
    there = {"__name__": "helpers.planted", "old": old}
    with pytest.raises(FutureWarning, match="`a` is deprecated, use `b`"):
        exec("old()", there)


# --- planted --------------------------------------------------------------------------


def without(cls, old: str, new: str) -> inspect.Signature:
    """The signature of a class with a parameter renamed."""
    signature = inspect.signature(cls)
    renamed = [
        p.replace(name=new) if p.name == old else p
        for p in signature.parameters.values()
    ]
    return signature.replace(parameters=renamed)


def test_a_renamed_keyword_of_trl_is_caught(monkeypatch):
    other = without(trl.GRPOConfig, "num_generations", "num_generation")
    monkeypatch.setattr(trl.GRPOConfig, "__signature__", other, raising=False)
    lines = moved([call for call in found_calls() if call.keyword not in REFUSED])
    says = "GRPOConfig of trl {} takes no num_generations; did {} take its place?"
    says = says.format(trl.__version__, "num_generation")
    assert f"helpers/profiles.py: {says}" in lines
    assert f"notebooks/05_train_with_trl.ipynb: {says}" in lines
    assert all("num_generations" in line for line in lines)


def test_a_renamed_keyword_of_peft_is_caught(monkeypatch):
    other = without(peft.LoraConfig, "lora_alpha", "lora_alphas")
    monkeypatch.setattr(peft.LoraConfig, "__signature__", other, raising=False)
    lines = moved([call for call in found_calls() if call.keyword not in REFUSED])
    assert (
        f"helpers/profiles.py: LoraConfig of peft {peft.__version__} takes no "
        "lora_alpha; did lora_alphas take its place?"
    ) in lines


def test_a_private_method_with_another_signature_is_caught(monkeypatch):
    name = "trl.GRPOTrainer._compute_loss"
    other = lambda self, model, batch, inputs: None  # noqa: E731
    monkeypatch.setattr(trl.GRPOTrainer, "_compute_loss", other)
    assert changed(name, SIGNATURES[name]) == (
        f"{name}(self, model, batch, inputs) in trl {trl.__version__}; "
        "the course knows (self, model, inputs)"
    )


def test_a_private_method_that_is_gone_is_caught(monkeypatch):
    name = "trl.GRPOTrainer._save_checkpoint"
    for owner in inspect.getmro(trl.GRPOTrainer):
        if "_save_checkpoint" in vars(owner):
            monkeypatch.delattr(owner, "_save_checkpoint")
    line = changed(name, SIGNATURES[name])
    assert line.startswith(f"trl {trl.__version__} has no {name} any more")


def test_an_attribute_that_nothing_sets_is_caught():
    assert unset("trl.GRPOTrainer", "_is_vlm _is_omni") == [
        f"trl {trl.__version__}: trl.GRPOTrainer sets no _is_omni any more"
    ]


def inside(package: str, code: str, **known):
    """A function `planted` whose code counts as a package's."""
    there = {"__name__": f"{package}.planted", "logging": logging, "warnings": warnings}
    exec(code, there | known, there)
    return there["planted"]


WARNS = """
def planted(*args, **kwargs):
    warnings.warn("`{}` is deprecated, use `{}`", FutureWarning, stacklevel=2)
    return made(*args, **kwargs)
"""


def test_a_deprecated_keyword_that_a_config_hands_on_is_caught(
    watch, tmp_path, monkeypatch
):
    base = transformers.TrainingArguments
    code = WARNS.format("save_total_limit", "keep_checkpoints")
    planted = inside("transformers", code, made=base.__post_init__)
    monkeypatch.setattr(base, "__post_init__", planted)
    grpo_config(PROFILES["smoke"], tmp_path)
    assert deprecations(watch) == [
        "our own call warns (through trl): `save_total_limit` is deprecated, use "
        "`keep_checkpoints`"
    ]


def test_a_deprecated_argument_of_a_model_is_caught(watch, tiny_model, monkeypatch):
    code = WARNS.format("position_ids", "positions")
    made = transformers.Qwen2Model.forward
    planted = inside("transformers", code, made=made)
    monkeypatch.setattr(transformers.Qwen2Model, "forward", planted)
    model, _ = models.load_model_and_tokenizer(str(tiny_model))
    generate(model, [[1, 2], [3]], 2, 2, 1.0, [0])
    assert deprecations(watch) == [
        "our own call warns (through helpers): `position_ids` is deprecated, use "
        "`positions`"
    ]


def test_a_deprecation_in_a_log_is_caught(watch, tiny_model, monkeypatch):
    code = """
def planted(*args, **kwargs):
    logging.getLogger("transformers.auto").warning("padding_side is deprecated")
    return made(*args, **kwargs)
"""
    auto = transformers.AutoTokenizer
    planted = inside("transformers", code, made=auto.from_pretrained)
    monkeypatch.setattr(auto, "from_pretrained", planted)
    models.load_model_and_tokenizer(str(tiny_model))
    assert deprecations(watch) == [
        "our own call warns (through helpers): padding_side is deprecated"
    ]


def test_what_one_library_does_to_another_is_not_ours(watch):
    warn = "def planted():\n    warnings.warn('`old` goes', FutureWarning)"
    planted = inside("transformers", warn)
    between = inside("peft", "def planted():\n    made()", made=planted)
    between()
    assert [who for who, _ in watch.found] == ["peft"] and deprecations(watch) == []


@pytest.fixture
def torchao_again(tmp_path, monkeypatch):
    """The torchao of Colab's image, as far as PEFT looks at it."""
    from peft.import_utils import is_torchao_available

    packages = tmp_path / "packages"
    (packages / "torchao").mkdir(parents=True)
    (packages / "torchao" / "__init__.py").touch()
    about = packages / "torchao-0.10.0.dist-info" / "METADATA"
    about.parent.mkdir()
    about.write_text("Metadata-Version: 2.1\nName: torchao\nVersion: 0.10.0\n")
    monkeypatch.syspath_prepend(str(packages))
    is_torchao_available.cache_clear()
    yield
    is_torchao_available.cache_clear()


def test_a_torchao_put_back_is_named(torchao_again, tiny_model, tmp_path):
    """Where the set-up cell did not run, and so did not remove it."""
    with pytest.raises(CourseError, match=r"torchao.* 0\.10\.0"):
        go_on(new_run(tmp_path / "run", tiny_model, 1))
