"""Is this machine ready, and is this run alive."""

import math
import shutil
import sys
import tomllib
from pathlib import Path

import pandas as pd
import psutil
import torch

from . import check_requirements
from .models import cache_folder
from .profiles import choose_profile
from .runs import PACKAGES, load_run, read_log

MEMORY_GB, DISK_GB = 6, 2
ILLNESSES = tomllib.loads(Path(__file__).with_name("illnesses.toml").read_text("utf-8"))
LENGTH, CUT = "completions/mean_length", "completions/clipped_ratio"
EQUAL = "frac_reward_zero_std"


def check_machine() -> tuple[list[str], list[str]]:
    """Return (findings, remedies), the latter empty if the machine is ready."""
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
    there = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(there).free / 1e9
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


def _rewards(log: pd.DataFrame, start: pd.Series, end: pd.Series) -> dict:
    # Who paid all alike, and what was gained. A function pays for correctness if its
    # name has "correct" or "accura" in it.
    paid = log.filter(regex="^rewards/.+/mean$")
    spread = log.reindex(columns=[key[:-4] + "std" for key in paid]).max().to_numpy()
    varies = (paid.max() - paid.min() > 1e-6) | (spread > 1e-6)
    # One function of several may well fire late.
    enough = len(log) >= (8 if varies.any() else 3)
    same = paid.columns[~varies & enough]
    correct = paid.columns.str.contains("correct|accura", case=False)
    right, others = paid.columns[correct], paid.columns[~correct]
    gained = end - start
    return {
        "dead": ", ".join(key[8:-5] for key in same if not paid[key].any()),
        "flat": ", ".join(key[8:-5] for key in same if paid[key].any()),
        "nothing_varies": len(same) > 0 and not varies.any(),
        "learned": gained[right].sum(),
        "layout": gained[others].sum(),
        "hacked": len(right)
        and gained[others].sum() > 0.5 * start[others].sum()
        and end[right].sum() < 0.1 * end[paid.columns].sum(),
    }


def check_run(run: Path) -> list[str]:
    """Return a line for each illness of a run, else the one line that it is alive.

    Compares the first third of the log with the last, at least 3 steps each. Seed 0 of
    recorded/sick/ and cpu-seed0 set the thresholds, the first 16 steps of cpu-seed1 the
    last one. Raises CourseError for a folder that is no run's.
    """
    profile, _ = load_run(run)
    log = pd.DataFrame(read_log(run), dtype=object).map(_finite)
    steps, window = len(log), max(3, len(log) // 3)
    if not steps:
        return ["no step is logged: not begun, or stopped by an error in the first one"]
    missing = log.filter(["loss", "reward", "grad_norm"]).isna()
    unreal = missing.filter(["loss", "reward"]).any(axis=None)
    broken = missing.any(axis=1)
    late = broken[steps // 4 :]  # in fp16 the first few are normal
    wanted = [LENGTH, CUT, EQUAL, "reward", "entropy", "grad_norm", "learning_rate"]
    log = log.reindex(columns=log.columns.union(wanted))
    start, end = log[:window].mean(), log[-window:].mean()
    grad_norm = log["grad_norm"][-window:].median()  # one peak is no explosion
    clip = min(profile.grpo.get("max_grad_norm") or 1.0, 1.0)
    facts = _rewards(log, start, end)
    facts |= {"steps": steps, "start": start, "end": end, "grad_norm": grad_norm}
    facts["broken"] = broken.sum()
    facts["limit"] = profile.grpo.get("max_completion_length")
    sick = {
        "NaN or skipped steps": unreal or (late.sum() >= 3 and late.mean() > 0.3),
        # A healthy run ends at 0.04.
        "entropy collapsed": end.entropy < max(0.02, 0.03 * min(start.entropy, 1)),
        "entropy exploded": end.entropy > max(2, 3 * log["entropy"].min()),
        "reward never fires": facts["dead"],
        "reward constant": facts["flat"],
        "no variance": end[EQUAL] >= 0.9 and not facts["nothing_varies"],
        "gradient zero": grad_norm < 1e-3 and end[EQUAL] < 0.9,
        "learning rate zero": steps >= 3 and log["learning_rate"].max() == 0,
        "gradient exploding": grad_norm > 100 * clip,
        "everything cut off": end[CUT] >= 0.8,
        "length creeping": end[CUT] > start[CUT] + 0.1
        and end[LENGTH] > 1.25 * start[LENGTH]
        and log[LENGTH].corr(pd.Series(range(steps))) > 0.7,
        "reward hacked": steps >= 9 and facts["hacked"],
    }
    lines = [
        f"{name}: {ILLNESSES[name].format(**facts)}" for name in sick if sick[name]
    ]
    alive = f"alive: {steps} steps, reward {start.reward:.2f} → {end.reward:.2f}"
    return lines or [f"{alive} (means of the first and the last {window} steps)"]
