"""Hardware profiles: what a run uses, on which machine, and why.

`GRPO_PROFILE` chooses one; unset, the machine does. No T4 was at hand: minutes on one
are *predicted*. A `t4` step decodes 256 tokens at some 50 ms (28 layers launched from
Python), 13 s; forward, recomputation and backward of 32 × 400 tokens are 1.2e14 FLOP at
some 20 TFLOP/s, 6 s; with the logits 25 s. 200 steps take 85 minutes, 8 batches of each
evaluation 2, loading 3. `t4_quick`: 200 tokens at 40 ms and a third of the FLOP, 11 s;
100 steps take 18 minutes, the rest 3. `article`: 512 tokens at 50 ms, 28 s; 10 steps
take 5 minutes, the rest 7.
"""

import ast
import difflib
import os
from dataclasses import dataclass, fields, replace

import torch
from peft import LoraConfig
from trl import GRPOConfig

from . import CourseError
from .rewards import ARTICLE_REWARD_FUNCS, REWARD_FUNCS

EMBEDDED_MODEL = SMOL = "SmolLM2-135M-Instruct"
QWEN = "Qwen/Qwen2.5-1.5B-Instruct"
QWEN_05B = "Qwen/Qwen2.5-0.5B-Instruct"
NAMES = ("article", "t4", "t4_quick", "cpu", "smoke")
PURPOSES = (
    "the article's own recipe on today's API",
    "a free Colab T4, 92 minutes predicted",
    "a first curve on a T4, 21 minutes predicted",
    "two CPU cores, no network but PyPI",
    "a check in a minute or two that all runs; it learns nothing",
)
# A row a setting, a column a profile. None leaves TRL's default as it is.
# fmt: off
OWN = {  #                          article   t4        t4_quick  cpu           smoke
    "model":                       (QWEN,     QWEN,     QWEN_05B, SMOL,         SMOL),
    "dtype":                       ("fp16",   "fp16",   "fp16",   "auto",       "fp32"),
    "dataset":                     ("gsm8k",  "gsm8k",  "gsm8k",  "arithmetic", "arithmetic"),  # noqa: E501
    "rewards":                     ("article", "all",    "all",    "all",        "all"),
    "num_train":                   (20,       7000,     2000,     900,          100),
    "num_examples":                (0,        0,        0,        1,            1),
    "max_prompt_length":           (256,      256,      256,      160,          160),
    "num_eval":                    (100,      200,      100,      200,          4),
    "eval_new_tokens":             (512,      256,      256,      128,          128),
    "eval_batch_size":             (25,       25,       50,       50,           4),
    # TRL's own, or the faster one for CPUs (helpers/fast.py).
    "trainer":                     ("stock",  "stock",  "stock",  "fast",       "fast"),
}
LORA = {
    "r":                           (8,        8,        8,        8,            8),
    "lora_alpha":                  (32,       32,       32,       32,           32),
    # Active dropout would score another policy than the one that sampled.
    "lora_dropout":                (0.05,     0.0,      0.0,      0.0,          0.0),
}
GRPO = {
    # 5e-6 hardly moves an adapter in a few hundred steps.
    "learning_rate":               (5e-6,     2e-5,     2e-5,     1e-3,         5e-4),
    "warmup_steps":                (0.1,      10,       5,        0.0,          0.0),
    "adam_beta1":                  (0.9,      0.9,      0.9,      0.9,          0.9),
    "adam_beta2":                  (0.99,     0.99,     0.99,     0.99,         0.99),
    "weight_decay":                (0.1,      0.1,      0.1,      0.0,          0.0),
    "max_grad_norm":               (0.1,      0.1,      0.1,      1.0,          1.0),
    "per_device_train_batch_size": (4,        4,        8,        32,           8),
    # 32 completions, on a CPU 64: four or eight problems a step in place of two.
    "gradient_accumulation_steps": (2,        8,        4,        2,            1),
    # In a group of 4, all are often equally right or wrong: nothing to learn from.
    "num_generations":             (4,        8,        8,        8,            4),
    # Enough for the answers, in half the time.
    "max_completion_length":       (512,      256,      200,      48,           24),
    # At 1, TRL's default, the samples of a group differ more.
    "temperature":                 (None,     None,     None,     1.0,          0.7),
    "num_train_epochs":            (1,        None,     None,     None,         None),
    "max_steps":                   (None,     200,      100,      40,           2),
    "save_steps":                  (1,        10,       10,       1,            1),
    "fp16":                        (True,     True,     True,     False,        False),
    # Unset, TRL turns bf16 on: emulated on a T4, slow and silent.
    "bf16":                        (False,    False,    False,    False,        False),
    # Recomputing activations saves memory that a CPU run does not lack.
    "gradient_checkpointing":      (True,     True,     True,     False,        False),
}
# fmt: on
ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
T4_BYTES_FREE = 14 * 2**30


@dataclass(frozen=True)
class Profile:
    """Every setting of a run.

    `grpo` and `lora` hold arguments of TRL's GRPOConfig and PEFT's LoraConfig; lengths
    are in tokens. `dtype` is fp16, bf16, fp32 or auto (bf16 or fp32, whichever this
    CPU multiplies faster); `trainer` is stock or fast.
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
    own, lora, grpo = (
        {name: values[index] for name, values in table.items()}
        for table in (OWN, LORA, GRPO)
    )
    lora["target_modules"] = list(ATTENTION)
    grpo = {name: value for name, value in grpo.items() if value is not None}
    return Profile(NAMES[index], PURPOSES[index], **own, lora=lora, grpo=grpo)


PROFILES = {name: _column(index) for index, name in enumerate(NAMES)}


def choose_profile(name: str | None = None) -> tuple[Profile, str]:
    """Return (profile, reason): by name, by `GRPO_PROFILE`, else for this machine.

    Raises CourseError for an unknown name.
    """
    reason = "asked for" if name else "GRPO_PROFILE is set"
    name = name or os.environ.get("GRPO_PROFILE")
    if name:
        if name not in PROFILES:
            known = ", ".join(NAMES)
            raise CourseError(f"no profile {name!r} ({reason}); use one of {known}")
        return PROFILES[name], reason
    if not torch.cuda.is_available():
        return PROFILES["cpu"], "no CUDA GPU is visible"
    free = torch.cuda.mem_get_info()[0]
    reason = f"{torch.cuda.get_device_name()}, {free / 2**30:.1f} GiB free"
    if free < T4_BYTES_FREE:
        return PROFILES["cpu"], f"{reason}; t4 needs {T4_BYTES_FREE / 2**30:.0f}"
    return PROFILES["t4"], reason


def uses_gpu(dtype: str) -> bool:
    """Tell whether a model in that dtype runs on a GPU: fp16 does, where there is one.

    The other dtypes are those of the CPU profiles.
    """
    return dtype == "fp16" and torch.cuda.is_available()


def grpo_config(profile: Profile, output_dir: str, **settings) -> GRPOConfig:
    """Return the GRPOConfig of a profile; `settings` come on top.

    Of the article's arguments, `max_prompt_length` is gone from TRL (`data` drops long
    prompts instead), and `warmup_ratio=0.1` is now `warmup_steps=0.1` (a float below 1
    is a ratio). All others keep their names. Where the article relied on a default,
    today's holds: beta 0.0, `loss_type="dapo"`. Raises CourseError for a value that
    TRL refuses.
    """
    common = {"lr_scheduler_type": "cosine"}
    common |= {"report_to": "none", "disable_tqdm": True, "log_completions": True}
    common |= {"logging_steps": 1, "logging_nan_inf_filter": False}
    common |= {"save_total_limit": 2, "use_cpu": not uses_gpu(profile.dtype)}
    try:
        return GRPOConfig(str(output_dir), **(common | profile.grpo | settings))
    except (TypeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise CourseError(f"profile {profile.name}, GRPOConfig: {reason}") from error


def lora_config(profile: Profile) -> LoraConfig:
    """Return the LoraConfig of a profile."""
    return LoraConfig(task_type="CAUSAL_LM", **profile.lora)


def override(profile: Profile, settings: list[str]) -> Profile:
    """Return the profile with `name=value` settings of its own, GRPOConfig's or LoRA's.

    Raises CourseError for an unknown name or a value of the wrong type.
    """
    trl = {f.name: f.default for f in fields(GRPOConfig) if f.name != "output_dir"}
    for setting in settings:
        name, _, text = setting.partition("=")
        own = {key: getattr(profile, key) for key in OWN}
        known = own | trl | profile.lora | profile.grpo
        if name not in known or not text:
            near = difflib.get_close_matches(name, known, 1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise CourseError(f"--set {setting}: there is no setting {name!r}{hint}")
        try:
            value = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            value = text
        now = known[name]
        fits = type(value) is type(now) or (type(now), type(value)) == (float, int)
        if isinstance(now, bool | int | float | str) and not fits:
            kind = type(now).__name__
            raise CourseError(f"--set {setting}: expected {kind}, as in {now!r}")
        part = "lora" if name in profile.lora else "grpo"
        changed = {part: getattr(profile, part) | {name: value}}
        profile = replace(profile, **({name: value} if name in own else changed))
    return profile
