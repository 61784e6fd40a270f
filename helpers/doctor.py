"""Is this machine ready, and is this run alive."""

import math
import shutil
import sys
from pathlib import Path

import pandas as pd
import psutil
import torch

from . import check_requirements
from .models import cache_folder
from .profiles import choose_profile
from .training import PACKAGES, load_run, read_log

MEMORY_GB, DISK_GB = 6, 2
LENGTH, CUT = "completions/mean_length", "completions/clipped_ratio"
EQUAL = "frac_reward_zero_std"
# What is seen, the likely cause, the setting to change.
ILLNESSES = {
    "NaN or skipped steps": "{broken} of {steps} steps have no finite loss, reward or "
    "grad_norm. fp16 skips such a step (a few at the start are normal). Lower "
    "learning_rate, or load the model in fp32.",
    "reward never fires": "{dead} paid 0 in all {steps} steps. Try it by hand on some "
    "completions; ask for what it wants in the prompt, or show it (num_examples=1).",
    "reward constant": "{flat} paid everything alike in all {steps} steps. Try it by "
    "hand on a good and a bad completion.",
    "no variance": "in {end[frac_reward_zero_std]:.0%} of the last groups all rewards "
    "were equal: every advantage is 0. Take problems neither too easy nor too hard, "
    "raise temperature or num_generations, see that rewards read the completion.",
    "gradient zero": "the last grad_norm is {grad_norm:.1g}, so nothing is learned. Is "
    "the adapter frozen, lora_alpha 0, target_modules wrong? Do rewards in a group "
    "differ by rounding alone?",
    "learning rate zero": "the weights stay as they are. Set learning_rate above 0 and "
    "warmup_steps well below max_steps.",
    "gradient exploding": "the last grad_norm is {grad_norm:.3g}: unscaled rewards or "
    'too large steps. Keep scale_rewards="group", set max_grad_norm to 1.0 or less, '
    "lower learning_rate.",
    "entropy collapsed": "{start[entropy]:.2g} → {end[entropy]:.2g} nats a token: the "
    "model writes the same again and again. Lower learning_rate, train fewer steps, "
    "raise temperature.",
    "entropy exploded": "{start[entropy]:.2g} → {end[entropy]:.2g} nats a token: the "
    "model writes noise. Start again with a tenth of the learning_rate.",
    "everything cut off": "{end[completions/clipped_ratio]:.0%} of the last texts have "
    "no end within max_completion_length ({limit}). Raise it; ask for shorter texts.",
    "length creeping": "{start[completions/mean_length]:.0f} → "
    "{end[completions/mean_length]:.0f} tokens of {limit}, and more are cut off. See "
    "which reward pays for length; raise max_completion_length.",
    "reward hacked": "other rewards gained {layout:.2g}, correctness {learned:.2g}. "
    "Read completions/; pay less for the layout and more for being right.",
}


def check_machine() -> tuple[list[str], list[str]]:
    """Return (findings, remedies); without a remedy the machine is ready.

    Raises CourseError if `GRPO_PROFILE` names no profile.
    """
    found, remedies = [f"Python {sys.version.split()[0]}"], []
    if not (3, 11) <= sys.version_info[:2] <= (3, 13):
        remedies.append("Use Python 3.11, 3.12 or 3.13.")
    for name, line, version, met in check_requirements():
        if name in PACKAGES or not met:
            found.append(f"{name} {version or 'is not installed'}")
        if not met:
            remedies.append(f"pip install '{line}', or -r requirements.txt")
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no CUDA GPU"
    found.append(f"{gpu}; {torch.get_num_threads()} CPU threads")
    memory = psutil.virtual_memory().available / 1e9
    found.append(f"{memory:.1f} GB of memory free")
    if memory < MEMORY_GB:
        remedies.append(f"Close other programs: a run wants {MEMORY_GB} GB of memory.")
    folder = cache_folder()
    disk = next(p for p in (folder, *folder.parents) if p.exists())
    free = shutil.disk_usage(disk).free / 1e9
    shown = str(folder).replace(str(Path.home()), "~", 1)
    found.append(f"{free:.1f} GB of disk free for {shown}")
    if free < DISK_GB:
        remedies.append(f"Free {DISK_GB} GB of disk, or set GRPO_CACHE_DIR elsewhere.")
    profile, reason = choose_profile()
    found.append(f"profile {profile.name}: {profile.purpose} ({reason})")
    return found, remedies


def _finite(value) -> float:
    # Any JSON may stand in a log; what is no finite number counts as missing.
    good = isinstance(value, int | float) and abs(value) < 1e100
    return float(value) if good else math.nan


def check_run(run: Path) -> list[str]:
    """Return a line for each illness of a run, else the one line that it is alive.

    Compares the first third of the log with the last, at least 3 steps each. Seed 0 of
    recorded/sick/ and cpu-seed0 set the thresholds, the first 16 steps of cpu-seed1 the
    last one; cpu-seed2 and other seeds set none. A function with "correct" or "accura"
    in its name pays for correctness. Raises CourseError for a folder that is no run's.
    """
    (profile, _), rows = load_run(run), read_log(run)
    if not rows:
        return ["no step is logged: not begun, or stopped by an error in the first one"]
    log = pd.DataFrame(rows).map(_finite)
    steps, window = len(log), max(3, len(log) // 3)
    missing = log[log.columns.intersection(["loss", "reward", "grad_norm"])].isna()
    late, broken = missing.any(axis=1)[steps // 4 :], missing.any(axis=1).sum()
    unreal = missing.drop(columns="grad_norm", errors="ignore").any(axis=None)
    keys = [LENGTH, CUT, EQUAL, "reward", "entropy", "grad_norm", "learning_rate"]
    log = log.reindex(columns=log.columns.union(keys))
    start, end = log[:window].mean(), log[-window:].mean()
    least = max(0.02, 0.03 * min(start["entropy"], 1))  # healthy: 0.04 at the end
    grad_norm = log["grad_norm"][-window:].median()  # one peak is no explosion
    limit = profile.grpo.get("max_completion_length")
    clip = min(profile.grpo.get("max_grad_norm") or 1.0, 1.0)
    paid = log.filter(regex="^rewards/.+/mean$").rename(columns=lambda key: key[8:-5])
    spread = log.filter(regex="^rewards/.+/std$").rename(columns=lambda key: key[8:-4])
    spread = spread.max().reindex(paid.columns)
    same = paid.columns[~((paid.max() - paid.min() > 1e-6) | (spread > 1e-6))]
    alone = len(same) == len(paid.columns)
    # One function of several may well fire late.
    same = same if steps >= (3 if alone else 8) else same[:0]
    dead = ", ".join(name for name in same if not paid[name].any())
    flat = ", ".join(name for name in same if paid[name].any())
    right = paid.columns.str.contains("correct|accura", case=False)
    first, earned = paid[:window].mean(), paid[-window:].mean()
    learned, layout = (earned - first)[right].sum(), (earned - first)[~right].sum()

    sick = {
        "NaN or skipped steps": unreal or (late.sum() >= 3 and late.mean() > 0.3),
        "entropy collapsed": end["entropy"] < least,
        "entropy exploded": end["entropy"] > max(2, 3 * log["entropy"].min()),
        "reward never fires": dead,
        "reward constant": flat,
        "no variance": end[EQUAL] >= 0.9 and not (alone and len(same)),
        "gradient zero": grad_norm < 1e-3 and end[EQUAL] < 0.9,
        "learning rate zero": steps >= 3 and log["learning_rate"].max() == 0,
        "gradient exploding": grad_norm > 100 * clip,
        "everything cut off": end[CUT] >= 0.8,
        "length creeping": end[CUT] > start[CUT] + 0.1
        and end[LENGTH] > 1.25 * start[LENGTH]
        and log[LENGTH].corr(pd.Series(range(steps))) > 0.7,
        "reward hacked": any(right)
        and steps >= 9
        and layout > 0.5 * first[~right].sum()
        and earned[right].sum() < 0.1 * earned.sum(),
    }
    facts = locals()
    lines = [f"{n}: {ILLNESSES[n].format(**facts)}" for n, yes in sick.items() if yes]
    alive = f"alive: {steps} steps, reward {start['reward']:.2f} → {end['reward']:.2f}"
    return lines or [f"{alive} (means of the first and the last {window} steps)"]
