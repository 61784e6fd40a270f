"""Hardware profiles: what a run uses, on which machine, and why.

`GRPO_PROFILE` chooses one; unset, the machine does. No T4 was at hand: minutes on one
are *predicted*, as helpers/lab/budget.py shows.
"""

import ast
import difflib
import os
import tomllib
import warnings
from dataclasses import dataclass, fields, replace
from pathlib import Path

import torch

from . import GIB, CourseError
from .rewards import ARTICLE_REWARD_FUNCS, REWARD_FUNCS

EMBEDDED_MODEL = SMOL = "SmolLM2-135M-Instruct"
QWEN = "Qwen/Qwen2.5-1.5B-Instruct"
QWEN_05B = "Qwen/Qwen2.5-0.5B-Instruct"
ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
T4_GIB_FREE = 14
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

    @property
    def reward_funcs(self) -> list:
        """The reward functions: all five, or the article's four."""
        known = {"all": REWARD_FUNCS, "article": ARTICLE_REWARD_FUNCS}
        if self.rewards not in known:
            raise CourseError(f"rewards is {self.rewards!r}; use 'all' or 'article'")
        return known[self.rewards]


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
        return PROFILES["cpu"], "no CUDA GPU is visible"
    free = torch.cuda.mem_get_info()[0] / GIB
    reason = f"{torch.cuda.get_device_name()}, {free:.1f} GiB free"
    if free < T4_GIB_FREE:
        return PROFILES["cpu"], f"{reason}; t4 needs {T4_GIB_FREE}"
    return PROFILES["t4"], reason


def uses_gpu(dtype: str) -> bool:
    """Tell whether a model in that dtype runs on a GPU: fp16, where there is one."""
    return dtype == "fp16" and torch.cuda.is_available()


def grpo_config(profile: Profile, output_dir: str, **settings):
    """Return the trl.GRPOConfig of a profile, with `settings` on top.

    Of the article's arguments TRL has two no more: `max_prompt_length` (`data` drops
    long prompts) and `warmup_ratio` (a `warmup_steps` below 1 is a ratio). Its defaults
    are today's: beta 0.0, `loss_type="dapo"`. CourseError for a value that TRL refuses.
    """
    from trl import GRPOConfig  # takes seconds, and figures do without

    # Transformers 5.23 renamed it; 5.15, Colab's, knows the old name alone.
    old_name = "`(is_)?gradient_checkpointing"
    warnings.filterwarnings("ignore", old_name, FutureWarning)
    common = {"lr_scheduler_type": "cosine", "use_cpu": not uses_gpu(profile.dtype)}
    common |= {"report_to": "none", "disable_tqdm": True, "save_total_limit": 2}
    common |= {"logging_steps": 1, "logging_nan_inf_filter": False}
    # All are kept in completions/, none is printed.
    common |= {"log_completions": True, "num_completions_to_print": 0}
    try:
        return GRPOConfig(str(output_dir), **(common | profile.grpo | settings))
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
