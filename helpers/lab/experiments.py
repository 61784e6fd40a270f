"""The recorded experiments of notebook 07: curves, scores, and what they can answer."""

import json
import tomllib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from .. import CourseError, pace, profiles
from ..runs import read_log
from ..scoring import paired_difference

ROOT = Path(__file__).resolve().parents[2]
RECORDED = ROOT / "notebooks" / "recorded" / "experiments"
TABLE = tomllib.loads((RECORDED / "experiments.toml").read_text(encoding="utf-8"))
SCRIPT = ".github/scripts/experiments.py"
# Colour, line and marker of the runs of a figure: told apart in print as well.
STYLES = (
    ("#0072B2", "-", "o"),
    ("#D55E00", "--", "s"),
    ("#009E73", "-.", "^"),
    ("#CC79A7", ":", "D"),
)
# A curve's title and unit; all but the last two stand in log.jsonl under that name.
CURVES = {
    "reward": ("mean reward", "points"),
    "entropy": ("entropy", "nats a token"),
    "completions/mean_length": ("length", "tokens"),
    "completions/clipped_ratio": ("cut off", "share of completions"),
    "rewards/correctness_reward_func/mean": ("correctness reward", "points"),
    "grad_norm": ("gradient norm", "norm"),
    "right": ("right answers", "share of completions"),
    "teaching": ("groups that teach", "share of groups"),
}
UNCLEAR = "no clear difference"


def profile_of(name: str, changes: list[str] = ()) -> profiles.Profile:
    """Return the profile of an experiment; `changes` come on top of its settings."""
    base = profiles.PROFILES[TABLE["profile"]]
    own = TABLE["runs"].get(name, {}).get("settings", [])
    return profiles.override(base, [*TABLE["settings"], *own, *changes])


def label(name: str) -> str:
    """Return what a figure or a table calls an experiment."""
    return TABLE["runs"][name]["label"]


def folders(name: str, recorded: Path = RECORDED) -> list[Path]:
    """Return an experiment's finished runs, a seed each; CourseError for none."""
    found = [path.parent for path in recorded.glob(f"{name}-seed*/evaluation.json")]
    if not found:
        raise CourseError(f"no run of {name!r} in {recorded}; {command(name)}")
    return sorted(found)


def command(name: str, seed: int | None = None) -> str:
    """Return the line that makes an experiment, without a seed all of its runs.

    It writes to runs/again/ and leaves the recorded runs alone.
    """
    chosen = "" if seed is None else f" --seed {seed}"
    return f"python {SCRIPT} {name}{chosen} --out runs/again"


def curve(name: str, key: str = "reward", recorded: Path = RECORDED) -> pd.DataFrame:
    """Return a logged number of each run: a row a step, a column a seed.

    Beside what TRL logs: `right`, the share of completions that were right, and
    `teaching`, the share of groups whose rewards were not all equal.
    """
    found = {}
    for run in folders(name, recorded):
        log, size = read_log(run), profile_of(name).grpo["num_generations"]
        if key == "teaching":
            values = [np.mean([sums > 1 for _, sums in r["groups"]]) for r in log]
        elif key == "right":
            right = [[count for count, _ in row["groups"]] for row in log]
            values = [np.mean(row) / size if None not in row else None for row in right]
        else:
            values = [row.get(key) for row in log]
        steps = pd.Index([row["step"] for row in log], name="step")
        seed = int(run.name.rpartition("seed")[2])
        found[seed] = pd.Series(values, steps, dtype=float)
    return pd.DataFrame(found).rename_axis(columns="seed")


def digits(part: dict, score: str, splits) -> np.ndarray:
    """Return a score of splits, problem by problem, as an array of 0.0 and 1.0."""
    return np.array([float(d) for split in splits for d in part[split][score]])


def scores(
    name: str, score: str = "strict", splits=("test",), recorded: Path = RECORDED
) -> tuple[np.ndarray, np.ndarray]:
    """Return (before, after) of an experiment on the held-out problems.

    before: shape (problems,), the untrained model with the same prompt; after: shape
    (seeds, problems). Each number is 1 where the score is reached, else 0.
    """
    runs = [json.loads((r / "evaluation.json").read_text("utf-8")) for r in
            folders(name, recorded)]  # fmt: skip
    path = recorded / "untrained" / f"{runs[0]['examples']}_examples.json"
    untrained = json.loads(path.read_text(encoding="utf-8"))["splits"]
    after = [digits(run["splits"], score, splits) for run in runs]
    return digits(untrained, score, splits), np.stack(after)


def compare(after_one: np.ndarray, after_other: np.ndarray) -> dict:
    """Return the difference of two experiments, one − other, and whether it is clear.

    Both have shape (seeds, problems). mean, low, high: paired bootstrap over problems
    of the means over seeds. Clear: the interval leaves out 0, and all seeds of the one
    lie on the same side of all seeds of the other.
    """
    found = paired_difference(after_other.mean(0), after_one.mean(0))
    one, other = after_one.mean(1), after_other.mean(1)
    apart = one.min() > other.max() or one.max() < other.min()
    clear = apart and (found["low"] > 0 or found["high"] < 0)
    return found | {"clear": bool(clear)}


def best(names: list[str], score: str = "strict", **where) -> str:
    """Return the experiment that is clearly above each other one, else UNCLEAR."""
    after = {name: scores(name, score, **where)[1] for name in names}
    first = max(after, key=lambda name: after[name].mean())
    others = [compare(after[first], after[n]) for n in names if n != first]
    return first if all(found["clear"] for found in others) else UNCLEAR


def percent(found: dict) -> str:
    """Return a difference with its interval in percentage points."""
    middle, low, high = (f"{100 * found[key]:+.1f}" for key in ("mean", "low", "high"))
    return f"{middle} ({low} to {high})"


def table(names: list[str], score: str = "strict", **where) -> pd.DataFrame:
    """Return a row an experiment: a score before, after by seed, and its gain, in %.

    The gain is that of the mean over seeds, with its 95% interval over problems.
    """
    rows = {}
    for name in names:
        before, after = scores(name, score, **where)
        seeds = ", ".join(f"{100 * each.mean():.1f}" for each in after)
        gain = percent(paired_difference(before, after.mean(0)))
        row = {"before": f"{100 * before.mean():.1f}", "after, by seed": seeds}
        rows[label(name)] = row | {"gain (95% interval)": gain}
    return pd.DataFrame.from_dict(rows, orient="index")


def draw(names: list[str], keys: list[str], recorded: Path = RECORDED) -> Figure:
    """Return a panel for each key: the mean over seeds, a band from least to most.

    Thin lines are the single seeds.
    """
    columns, rows = min(2, len(keys)), -(-len(keys) // 2)
    size = (4.2 * columns, 2.6 * rows + 0.6)
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).flatten()
    for axes in panels[len(keys) :]:
        axes.set_axis_off()
    # The base looks the same in every figure, and nothing else like it.
    looks = STYLES if "base" in names else STYLES[1:]
    styles = dict(zip(sorted(names, key="base".__ne__), looks, strict=False))
    for axes, key in zip(panels, keys, strict=False):
        for name in names:
            color, line, marker = styles[name]
            each = curve(name, key, recorded)
            steps, least, most = each.index, each.min(axis=1), each.max(axis=1)
            axes.fill_between(steps, least, most, color=color, alpha=0.15, lw=0)
            axes.plot(steps, each, color=color, lw=0.5, alpha=0.6)
            style = {"color": color, "linestyle": line, "marker": marker, "ms": 3.5}
            axes.plot(steps, each.mean(axis=1), label=label(name), lw=2, **style)
        title, unit = CURVES[key]
        axes.set(title=title, ylabel=unit, xlabel="step")
        axes.spines[["top", "right"]].set_visible(False)
    below = {"loc": "outside lower center", "ncols": columns, "frameon": False}
    figure.legend(*panels[0].get_legend_handles_labels(), **below)
    return figure


def describe(names: list[str], keys: list[str], recorded: Path = RECORDED) -> str:
    """Return in words what `draw` shows: the first and the last step, over seeds."""
    parts = []
    for key in keys:
        for name in names:
            each = curve(name, key, recorded)
            first, last = (
                f"{row.mean():.2f} ({row.min():.2f} to {row.max():.2f})"
                for row in (each.iloc[0], each.iloc[-1])
            )
            parts.append(f"{CURVES[key][0]}, {label(name)}: {first} → {last}")
    return "; ".join(parts)


PREDICTED: dict[str, object] = {}


def predict(question: str, prediction: object, options: list[str]) -> None:
    """Note a prediction, or say what can be predicted; never raises."""
    PREDICTED.pop(question, None)
    if prediction is ...:
        print(f"○ no prediction yet; choose one: {', '.join(options)}")
    elif str(prediction) not in options:
        print(f"✗ {prediction!r} is none of {', '.join(options)}")
    else:
        PREDICTED[question] = str(prediction)
        print(f"✓ noted: {prediction}")


def answer(question: str, measured: str) -> None:
    """Print what was predicted beside what the runs say."""
    predicted = PREDICTED.get(question, "nothing yet")
    verdict = " – as predicted" if predicted == measured else ""
    print(f"you predicted: {predicted}\nthe runs say:  {measured}{verdict}")


def repeat(names: list[str], seed: int = 0) -> None:
    """Print the command that repeats each experiment, and its minutes here."""
    for name in names:
        problems = sum(TABLE["held_out"].values())
        profile = replace(profile_of(name), num_eval=problems)
        parts = pace.predicted_minutes(profile)
        spent = [f"{part} {parts[part]:.1f}" for part in ("training", "after")]
        print(f"{command(name, seed)}\n  predicted minutes here: {', '.join(spent)}")


def texts(name: str, step: int | None = None, seed: int = 0) -> list[dict]:
    """Return a few completions of a run's last step, or of another one that is kept."""
    path = RECORDED / f"{name}-seed{seed}" / "texts.json"
    kept = json.loads(path.read_text(encoding="utf-8"))
    return kept[str(step)] if step else kept[max(kept, key=int)]


def base_rate(examples: int = 1, operations: str = "+-*/") -> dict[str, np.ndarray]:
    """Return samples of the untrained model, of shape (problems, samples).

    right: 1 where a completion is right; points: the sum of the five rewards.
    """
    path = RECORDED / "base_rate" / f"{examples}_examples.json"
    kept = json.loads(path.read_text(encoding="utf-8"))["problems"]
    kept = [row for row in kept if row["operation"] in operations]
    right = np.array([[int(digit) for digit in row["right"]] for row in kept])
    return {"right": right, "points": np.array([row["points"] for row in kept])}
