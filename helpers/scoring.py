"""The three scores of a completion, and how sure a rate or a difference is.

`format`: the strict layout reward is paid. `strict`: the answer tag holds the right
number. `lenient`: the last number in the text is right.
"""

import re

import numpy as np
import pandas as pd
from scipy import stats

from . import rewards

SCORES = ("format", "strict", "lenient")
# A sign that follows a digit, a letter or a bracket is an operator: 19-7, not -7.
SIGN = r"(?:(?<![\w)])[+-])?"
NUMBER_IN_TEXT = re.compile(rewards.NUMBER.pattern.replace("[+-]?", SIGN, 1))


def extract_last_number(text: str) -> str:
    """Return the last number in a text, without `$`, else `""`."""
    numbers = NUMBER_IN_TEXT.findall(text)
    return numbers[-1].replace("$", "") if numbers else ""


def score(texts: list[str], answers: list[str]) -> pd.DataFrame:
    """Return one row per completion with the booleans format, strict and lenient."""
    last = map(extract_last_number, texts)
    scores = {"format": rewards.strict_format_reward_func(texts)}
    scores["strict"] = rewards.correctness_reward_func(texts, answers)
    scores["lenient"] = list(map(rewards.same_answer, last, answers))
    return pd.DataFrame(scores).astype(bool)


def wilson_interval(successes: int, n: int) -> dict[str, float]:
    """Return a rate with Wilson's 95% interval (low, high), as fractions of 1."""
    interval = stats.binomtest(int(successes), n).proportion_ci(method="wilson")
    low, high = float(interval.low), float(interval.high)
    return {"rate": float(successes) / n, "low": low, "high": high}


def paired_difference(before, after, seed: int = 0) -> dict[str, float]:
    """Return mean, low, high (95% percentile bootstrap) of after − before, in pairs."""
    change = np.asarray(after, float) - np.asarray(before, float)
    options = {"n_resamples": 10_000, "method": "percentile", "rng": seed}
    drawn = stats.bootstrap((change,), np.mean, **options).confidence_interval
    low, high = float(drawn.low), float(drawn.high)
    return {"mean": float(change.mean()), "low": low, "high": high}


def summarize(frame: pd.DataFrame) -> dict:
    """Return the rates, intervals and differences of one split's rows."""
    parts = {which: rows.sort_values("index") for which, rows in frame.groupby("which")}
    result = {"n": len(next(iter(parts.values())))}
    names = [name for name in SCORES if name in frame]  # a task need not define all
    for which, rows in parts.items():
        rates = {name: wilson_interval(rows[name].sum(), len(rows)) for name in names}
        result[which] = rates | {"cut_off": float(rows["cut_off"].mean())}
        if which == "few_shot":
            result[which]["examples"] = int(rows["examples"].iloc[0])
    if "before" in parts and "after" in parts:
        before, after = parts["before"], parts["after"]
        result["difference"] = {
            name: paired_difference(before[name], after[name]) for name in names
        }
    return result
