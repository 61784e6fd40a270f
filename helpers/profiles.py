"""Hardware profiles: what a run uses, on which machine, and why.

`GRPO_PROFILE` chooses one; unset, the machine does. No T4 was at hand: minutes on one
are *predicted*, as helpers/lab/budget.py shows.
"""

import ast
import difflib
import math
import os
import tomllib
import warnings
from dataclasses import dataclass, fields, replace
from pathlib import Path

import torch

from . import GIB, CourseError
from .pace import MOST, predicted_minutes
from .processes import check_start, number
from .rewards import ARTICLE_REWARD_FUNCS, REWARD_FUNCS
from .task import is_task, load_task

EMBEDDED_MODEL = SMOL = "SmolLM2-135M-Instruct"
QWEN = "Qwen/Qwen2.5-1.5B-Instruct"
QWEN_05B = "Qwen/Qwen2.5-0.5B-Instruct"
ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
MICRO_BATCH = ("per_device_train_batch_size", "gradient_accumulation_steps")
T4_GIB = 14  # what a GPU needs in all; a T4 has 14.6
# Every setting, side by side: a row a setting, a column a profile.
TABLE = tomllib.loads(Path(__file__).with_name("profiles.toml").read_text("utf-8"))
NAMES, OWN, LORA, GRPO = TABLE["name"], TABLE["own"], TABLE["lora"], TABLE["grpo"]


@dataclass(frozen=True)
class Profile:
    """Every setting of a run; lengths are in tokens.

    `grpo` and `lora` hold arguments of TRL's GRPOConfig and PEFT's LoraConfig. `dtype`
    is fp16, bf16, fp32 or auto (the faster of the last two on this CPU).
    """

    name: str
    purpose: str
    model: str
    dtype: str
    dataset: str
    rewards: str
    num_train: int
    num_examples: int
    max_prompt_length: int
    num_eval: int
    eval_new_tokens: int
    eval_batch_size: int
    lora: dict
    grpo: dict
    trainer: str = "stock"
    device: str = "cpu"

    @property
    def reward_funcs(self) -> list:
        """The reward functions: all five, the article's four, or the task's own."""
        if is_task(self.dataset):
            return load_task(self.dataset).reward_funcs
        known = {"all": REWARD_FUNCS, "article": ARTICLE_REWARD_FUNCS}
        if self.rewards not in known:
            raise CourseError(f"rewards is {self.rewards!r}; use 'all' or 'article'")
        return known[self.rewards]


def with_task(profile: Profile, file: str | Path) -> Profile:
    """Return a profile that takes problems and rewards from a task file (`task`)."""
    name = f"{profile.name}-{Path(file).stem}"
    if not is_task(str(file)):
        raise CourseError(f"the task {file} is no Python file (.py)")
    return replace(profile, name=name, dataset=str(file), rewards="task")


def _column(index: int) -> Profile:
    own = {setting: row[index] for setting, row in OWN.items()}
    lora = {setting: row[index] for setting, row in LORA.items()}
    grpo = {setting: row[index] for setting, row in GRPO.items() if row[index] != ""}
    lora["target_modules"] = list(ATTENTION)
    return Profile(NAMES[index], TABLE["purpose"][index], **own, lora=lora, grpo=grpo)


PROFILES = {name: _column(index) for index, name in enumerate(NAMES)}


def choose_profile(name: str | None = None) -> tuple[Profile, str]:
    """Return (profile, reason): by name, by `GRPO_PROFILE`, else for this machine.

    Raises CourseError for an unknown name.
    """
    reason = "asked for" if name else "GRPO_PROFILE is set"
    name = name or os.environ.get("GRPO_PROFILE")
    if name in PROFILES:
        return PROFILES[name], reason
    if name:
        known = ", ".join(NAMES)
        raise CourseError(f"no profile {name!r} ({reason}); use one of {known}")
    if not torch.cuda.is_available():
        return _for_cpu("no CUDA GPU is visible")
    # In all: of what is free, a notebook's own model has taken its part.
    total = torch.cuda.get_device_properties(0).total_memory / GIB
    reason = f"{torch.cuda.get_device_name()}, {total:.1f} GiB"
    if total < T4_GIB:
        return _for_cpu(f"{reason}; a GPU profile needs {T4_GIB}")
    more = "GRPO_PROFILE=t4 takes the larger model, for longer"
    return PROFILES["t4_quick"], f"{reason}; {more}"


def _for_cpu(reason: str) -> tuple[Profile, str]:
    # The larger one where it is done in time; both are named.
    names = ("cpu", "cpu_quick")
    minutes = {name: sum(predicted_minutes(PROFILES[name]).values()) for name in names}
    chosen = "cpu" if minutes["cpu"] <= MOST else "cpu_quick"
    shown = ", ".join(f"{name} {minutes[name]:.0f}" for name in names)
    return PROFILES[chosen], f"{reason}; predicted minutes here: {shown}"


def check_device(profile: Profile) -> None:
    """Raise CourseError where a profile cannot train here, before anything is made."""
    ask = f"profile {profile.name}: device is {profile.device!r}"
    if profile.device not in ("gpu", "cpu"):
        raise CourseError(f"{ask}; use 'gpu' or 'cpu'")
    check_start()
    if profile.device == "cpu" and profile.grpo.get("fp16"):
        raise CourseError(
            f"{ask}, and fp16=True: a CPU has neither autocast nor a gradient scaler. "
            "Set dtype=fp32 and fp16=False, or take a GPU."
        )
    if profile.device == "gpu" and not torch.cuda.is_available():
        raise CourseError(
            f"{ask}, and no CUDA GPU is visible. Take a machine with one, or the "
            "profile cpu."
        )
    gpus = torch.cuda.device_count()
    if profile.device == "gpu" and gpus > 1 and number() == 1:
        raise CourseError(
            f"{gpus} GPUs are visible, and a process uses one. Set it before Python "
            "starts: CUDA_VISIBLE_DEVICES=0 python -m helpers train … For all of them, "
            f"not measured: accelerate launch --num_processes {gpus} -m helpers train …"
        )
    here = int(os.environ.get("LOCAL_WORLD_SIZE", number()))
    if profile.device == "gpu" and here > gpus:
        raise CourseError(f"{here} processes and {gpus} GPU: start one process a GPU")


def differences(one: Profile, other: Profile) -> list[str]:
    """Return the names of the settings that give two profiles different runs.

    What the preflight may have halved, and a CPU's measured `dtype`, do not.
    """
    free = {"eval_batch_size"} | ({"dtype"} if other.device == "cpu" else set())
    names = [name for name in OWN if name not in free]
    changed = [name for name in names if getattr(one, name) != getattr(other, name)]
    files = [Path(each.dataset) for each in (one, other) if is_task(each.dataset)]
    if len({file.read_text(encoding="utf-8") for file in files}) == 1 < len(files):
        changed = [name for name in changed if name != "dataset"]  # a run keeps a copy
    for mine, its in ((one.lora, other.lora), (one.grpo, other.grpo)):
        both = sorted((mine.keys() | its.keys()) - set(MICRO_BATCH))
        changed += [name for name in both if mine.get(name) != its.get(name)]
    sizes = [math.prod(p.grpo[name] for name in MICRO_BATCH) for p in (one, other)]
    return changed + (["completions of a step"] if sizes[0] != sizes[1] else [])


def grpo_config(profile: Profile, output_dir: str, **settings):
    """Return the trl.GRPOConfig of a profile, with `settings` on top.

    Of the article's arguments TRL has two no more: `max_prompt_length` (`data` drops
    long prompts) and `warmup_ratio` (a `warmup_steps` below 1 is a ratio). Its defaults
    are today's: beta 0.0, `loss_type="dapo"`. CourseError for a value that TRL refuses.
    Several processes share the completions of a step, so each takes fewer at once.
    """
    from trl import GRPOConfig  # takes seconds, and figures do without

    # Transformers 5.23 renamed it; 5.15, Colab's, knows the old name alone.
    old_name = "`(is_)?gradient_checkpointing"
    warnings.filterwarnings("ignore", old_name, FutureWarning)
    common = {"lr_scheduler_type": "cosine", "use_cpu": profile.device == "cpu"}
    common |= {"report_to": "none", "disable_tqdm": True, "save_total_limit": 2}
    common |= {"logging_steps": 1, "logging_nan_inf_filter": False}
    # All are kept in completions/, none is printed.
    common |= {"log_completions": True, "num_completions_to_print": 0}
    if number() > 1:
        common["ddp_find_unused_parameters"] = False
    grpo = dict(profile.grpo)
    shared = [name for name in MICRO_BATCH if grpo[name] % number() == 0]
    if not shared:
        sizes = " and ".join(f"{name}={grpo[name]}" for name in MICRO_BATCH)
        raise CourseError(f"{number()} processes divide neither of {sizes}")
    grpo[shared[0]] //= number()
    try:
        return GRPOConfig(str(output_dir), **(common | grpo | settings))
    except (TypeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise CourseError(f"profile {profile.name}, GRPOConfig: {reason}") from error


def lora_config(profile: Profile):
    """Return the peft.LoraConfig of a profile."""
    from peft import LoraConfig

    return LoraConfig(task_type="CAUSAL_LM", **profile.lora)


def override(profile: Profile, settings: list[str]) -> Profile:
    """Return the profile with `name=value` settings: its own, GRPOConfig's or LoRA's.

    Raises CourseError for an unknown name or a value of the wrong type.
    """
    from trl import GRPOConfig

    known = {f.name: f.default for f in fields(GRPOConfig) if f.name != "output_dir"}
    known |= {name: getattr(profile, name) for name in OWN}
    known |= profile.lora | profile.grpo
    own, lora, grpo = {}, dict(profile.lora), dict(profile.grpo)
    for setting in settings:
        name, _, text = setting.partition("=")
        if name not in known or not text:
            near = difflib.get_close_matches(name, known, 1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise CourseError(f"--set {setting}: there is no setting {name!r}{hint}")
        value = _read(text)
        now = known[name]
        kinds = (int, float) if type(now) is float else (type(now),)
        if isinstance(now, bool | int | float | str) and type(value) not in kinds:
            kind = type(now).__name__
            raise CourseError(f"--set {setting}: expected {kind}, as in {now!r}")
        part = own if name in OWN else lora if name in lora else grpo
        part[name] = value
    return replace(profile, **own, lora=lora, grpo=grpo)


def _read(text: str):
    # What is no Python value is a text: --set model=/a/b.
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
