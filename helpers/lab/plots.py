"""Matplotlib figures: those of a run, from its folder alone, and those of 01 and 02."""

import io
import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import PIL.Image
from IPython.display import Image, display
from matplotlib import pyplot
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL.Image import Quantize

from .. import CourseError
from ..runs import load_run, read_log
from ..scoring import SCORES, wilson_interval

# Okabe and Ito's palette: told apart by colour-blind readers; the dashes help in print.
STYLES = {
    "correctness": ("#0072B2", "-"),
    "int": ("#D55E00", "--"),
    "strict_format": ("#009E73", "-."),
    "soft_format": ("#CC79A7", ":"),
    "xmlcount": ("#E69F00", (0, (5, 1, 1, 1))),
}

# What evaluation.json calls it: label, colour, hatch.
PARTS = {
    "before": ("untrained", "#999999", "//"),
    "few_shot": ("untrained, best few-shot prompt", "#E69F00", ".."),
    "after": ("trained", "#0072B2", ""),
}


def as_image(figure: Figure, alt: str) -> Image:
    """Return a figure as png of 256 colours, with a text for who cannot see it."""
    drawn, png = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, format="png", dpi=90)
    pyplot.close(figure)  # else a notebook draws a pyplot figure once more
    # A quarter of the bytes: a notebook stays small. Rare colours stay what they are.
    few = PIL.Image.open(drawn).convert("RGB").quantize(method=Quantize.MAXCOVERAGE)
    few.save(png, "png", optimize=True)
    return Image(png.getvalue(), metadata={"alt": alt})


def show(figure: Figure, alt: str) -> None:
    """Display a figure in a notebook; `alt` says in words what it shows."""
    display(as_image(figure, alt))


def plot_rates(frames: dict[str, pd.DataFrame], columns: list[str]) -> Figure:
    """Return the rates of boolean columns with Wilson's 95% interval, a panel a column.

    `frames` maps names to tables with a row for each problem.
    """
    figure = Figure(figsize=(9, 2.6), layout="constrained")
    (panels,) = figure.subplots(1, len(columns), sharey=True, squeeze=False)
    for axes, column in zip(panels, columns, strict=True):
        for place, frame in enumerate(frames.values()):
            part = wilson_interval(frame[column].sum(), len(frame))
            ends = [100 * part["low"], 100 * part["high"]]
            axes.plot(ends, [place, place], color="#0072B2", lw=3)
            axes.plot(100 * part["rate"], place, "ko", ms=4)
        axes.set(title=column, xlim=(0, 100), xlabel="% of problems")
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_yticks(range(len(frames)), list(frames))
    panels[0].invert_yaxis()
    return figure


def plot_groups(blocks: dict, most: list[float]) -> Figure:
    """Return rewards as shades of blue: a row a group, a column a completion.

    `blocks` maps titles to arrays `(groups, completions)`, `most` holds the points of
    the darkest blue for each. Blocks of fewer than 64 completions show their numbers.
    """
    figure = Figure(figsize=(10, 3.4), layout="constrained")
    (panels,) = figure.subplots(1, len(blocks), sharey=True, squeeze=False)
    for axes, (name, block), top in zip(panels, blocks.items(), most, strict=True):
        block = np.asarray(block)
        axes.imshow(block, cmap="Blues", vmin=0, vmax=top, aspect="auto")
        title = f"{name}\nmean {block.mean():.2f} of {top:g}"
        axes.set(title=title, xlabel="completion", xticks=[])
        for row in range(len(block) - 1):
            axes.axhline(row + 0.5, color="0.8", lw=0.7)
        for (row, column), points in np.ndenumerate(block if block.size < 64 else []):
            color = "white" if points > top / 2 else "black"
            at = {"ha": "center", "va": "center", "fontsize": 8, "color": color}
            axes.text(column, row, f"{points:g}", **at)
    panels[0].set_yticks(range(len(block)), range(1, len(block) + 1), fontsize=7)
    panels[0].set_ylabel("problem")
    return figure


def plot_teaching(teaches, blocks: dict, sizes=(4, 8, 16)) -> Figure:
    """Return the share of groups with both outcomes over the share of paid completions.

    Lines: `teaches(share, size)`. Points with Wilson's 95% interval: `blocks`, names to
    arrays `(groups, completions)`, true where the reward was paid.
    """
    figure = Figure(figsize=(7, 3.4), layout="constrained")
    axes, p = figure.subplots(), np.linspace(0, 1, 201)
    for size, line in zip(sizes, (":", "-", "--"), strict=True):
        axes.plot(p, teaches(p, size), line, color="0.4", label=f"G = {size}")
    for mark, (name, block) in zip("osD^", blocks.items(), strict=False):
        both = block.any(axis=1) & ~block.all(axis=1)
        part = wilson_interval(both.sum(), len(both))
        reach = [[part["rate"] - part["low"]], [part["high"] - part["rate"]]]
        look = {"fmt": mark, "color": STYLES[name][0], "capsize": 3, "label": name}
        axes.errorbar(block.mean(), part["rate"], yerr=reach, **look)
    axes.set(xlabel="share of completions paid, p", ylabel="share of groups that teach")
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def plot_before_after(runs: list[Path], split: str = "test") -> Figure:
    """Return the mean rewards of runs over their steps, and their scores on a split.

    The runs must have the same parts and number of problems; each bar carries its
    Wilson 95% interval.
    """
    figure = Figure(figsize=(10, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    for run, line in zip(runs, ("-", "--", ":"), strict=False):
        log = read_log(run)
        steps, rewards = [r["step"] for r in log], [r["reward"] for r in log]
        label = f"seed {load_run(run)[1]}"
        left.plot(steps, rewards, linestyle=line, color="#0072B2", label=label)
    left.set(xlabel="step", ylabel="mean reward (of 4.0)", ylim=(0, 4))
    left.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
    left.set_title("training")
    texts = [(run / "evaluation.json").read_text(encoding="utf-8") for run in runs]
    splits = [json.loads(text)["splits"][split] for text in texts]
    shown = [name for name in PARTS if all(name in part for part in splits)]
    # A part that is the same in all runs, such as the untrained model, is drawn once.
    same = {n: all(part[n] == splits[0][n] for part in splits) for n in shown}
    bars = [(n, part) for n in shown for part in (splits[:1] if same[n] else splits)]
    width = 0.8 / len(bars)
    for bar, (name, part) in enumerate(bars):
        label, color, hatch = PARTS[name]
        at = [x - 0.4 + (bar + 0.5) * width for x in range(len(SCORES))]
        rates = pd.DataFrame(part[name])[list(SCORES)].loc[["rate", "low", "high"]]
        middle, low, high = (100 * rates).to_numpy()
        right.bar(
            at,
            middle,
            width,
            yerr=[middle - low, high - middle],
            color=color,
            hatch=hatch,
            edgecolor="white",
            ecolor="black",
            capsize=1.5,
            label=label if part is splits[0] else None,
        )
    right.set_xticks(range(len(SCORES)), SCORES)
    right.set(ylabel="% of problems", ylim=(0, 105))
    seeds = ", ".join(str(load_run(run)[1]) for run in runs)
    right.set_title(f"{splits[0]['n']} held-out problems; bars: seed {seeds}")
    below = {"loc": "upper center", "ncols": 3, "frameon": False, "fontsize": "small"}
    right.legend(bbox_to_anchor=(0.5, -0.1), **below)
    left.legend(loc="lower right", fontsize="small")
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def plot_intervals(parts: dict[str, dict]) -> Figure:
    """Return rates (dots) with their intervals (bars), one line a label.

    `parts` maps a label to what `scoring.wilson_interval` returns.
    """
    figure = Figure(figsize=(7, 0.5 * len(parts)), layout="constrained")
    axes = figure.subplots()
    for place, part in enumerate(parts.values()):
        axes.plot([100 * part["low"], 100 * part["high"]], [place] * 2, "C0", lw=4)
        axes.plot(100 * part["rate"], place, "ko")
    axes.set_yticks(range(len(parts)), list(parts))
    axes.set(xlim=(0, 100), xlabel="% right: the rate (dot) and its 95% interval (bar)")
    return figure


def plot_rewards(run: Path) -> Figure:
    """Return the mean rewards of a run's completions over its steps.

    Left the sum with ± one standard deviation, right each reward function. Raises
    CourseError if the run has logged no step.
    """
    log = read_log(run)
    if not log:
        raise CourseError(f"{run} has no step in its log.jsonl yet")
    steps = [row["step"] for row in log]
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    total, parts = figure.subplots(1, 2)
    reward = [row["reward"] for row in log]
    spread = [row["reward_std"] for row in log]
    total.plot(steps, reward, color="black", marker=".", label="mean reward")
    low = [r - s for r, s in zip(reward, spread, strict=True)]
    high = [r + s for r, s in zip(reward, spread, strict=True)]
    total.fill_between(steps, low, high, alpha=0.15, color="black", label="± 1 std")
    total.set(xlabel="step", ylabel="points", title="all rewards together")
    names = [
        k.split("/")[1] for k in log[0] if k.startswith("rewards/") and "mean" in k
    ]
    for name in names:
        short = name.removesuffix("_reward_func")
        color, dashes = STYLES.get(short, (None, "-"))
        values = [row[f"rewards/{name}/mean"] for row in log]
        parts.plot(steps, values, color=color, linestyle=dashes, label=short)
    parts.set(xlabel="step", ylabel="points", title="each reward function")
    for axes in (total, parts):
        axes.legend(fontsize="small")
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def plot_run(run: Path, step: int | None = None) -> Figure:
    """Return six small pictures of a run up to a step (the last by default).

    Rewards by function; spread and share of groups without any; length and share cut
    off at the limit; entropy; gradient norm; seconds a step. Raises CourseError if the
    run has logged no step.
    """
    log = [row for row in read_log(run) if step is None or row["step"] <= step]
    if not log:
        raise CourseError(f"{run} has no step in its log.jsonl yet")
    config, steps = load_run(run)[0].grpo, [row["step"] for row in log]
    figure = Figure(figsize=(8.5, 7.2), layout="constrained")
    axes = figure.subplots(3, 2).flat
    below = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.12), "frameon": False}

    def draw(place, title, lines, unit=""):
        for number, (key, label) in enumerate(lines.items()):
            color, dashes = STYLES.get(label, list(STYLES.values())[number])
            values = [row.get(key, math.nan) for row in log]
            axes[place].plot(
                steps, values, color=color, linestyle=dashes, marker=".", label=label
            )
        axes[place].set(title=title, ylabel=unit)
        axes[place].set_xlim(0.5, max(config.get("max_steps") or 0, steps[-1]) + 0.5)
        axes[place].xaxis.set_major_locator(MaxNLocator("auto", integer=True))
        axes[place].spines[["top", "right"]].set_visible(False)
        if len(lines) > 1:
            axes[place].legend(**below, ncols=3, fontsize="small")

    means = [k for k in log[0] if k.startswith("rewards/") and k.endswith("/mean")]
    short = {key: key.split("/")[1].removesuffix("_reward_func") for key in means}
    draw(0, f"reward, {log[-1]['reward']:.2f} in all", short, "points")
    share = "frac_reward_zero_std"
    draw(1, "spread of rewards", {"reward_std": "std", share: "groups without spread"})
    long, cut = "completions/mean_length", "completions/clipped_ratio"
    draw(2, f"length, {log[-1].get(cut, 0):.0%} cut off", {long: "tokens"}, "tokens")
    draw(3, "entropy", {"entropy": "entropy"}, "nats")
    draw(4, "gradient norm", {"grad_norm": "norm"})
    draw(5, "time", {"step_time": "seconds"}, "seconds a step")
    for panel in axes[4:]:
        panel.set_xlabel("step")
    return figure


def plot_mask(owner: list[int], sees) -> Figure:
    """Return the picture of an attention mask: coloured where a row sees a column.

    `owner` says of each token to whom it belongs (0 is the prompt), `sees` (tokens,
    tokens) what it may see; a square has the colour of the token that is seen.
    """
    figure = Figure(figsize=(4.6, 4.2), layout="constrained")
    axes = figure.subplots()
    colors = [[who + 1 if yes else 0 for who, yes in zip(owner, row, strict=True)]
              for row in sees.tolist()]  # fmt: skip
    palette = ["white", "#999999", "#0072B2", "#E69F00", "#009E73"]
    axes.imshow(colors, cmap=ListedColormap(palette), vmin=0, vmax=4)
    axes.set_xticks(range(len(owner)), owner)
    axes.set_yticks(range(len(owner)), owner)
    axes.set(xlabel="owner of the token that is seen", ylabel="owner of who sees it")
    edges = [place + 0.5 for place in range(len(owner) - 1)]
    axes.hlines(edges, -0.5, len(owner) - 0.5, color="#DDDDDD", lw=0.5)
    axes.vlines(edges, -0.5, len(owner) - 0.5, color="#DDDDDD", lw=0.5)
    return figure


def plot_ladder(ladder: dict[str, dict[str, float]]) -> Figure:
    """Return one bar of seconds for each state of a step, in order, split into parts.

    `ladder` maps a name to the seconds of its parts; all have the same parts.
    """
    figure = Figure(figsize=(9.5, 0.6 + 0.32 * len(ladder)), layout="constrained")
    axes, left = figure.subplots(), [0.0] * len(ladder)
    fills = zip(("#0072B2", "#E69F00", "#999999"), ("", "//", ".."), strict=True)
    for part, (color, hatch) in zip(next(iter(ladder.values())), fills, strict=True):
        wide = [seconds[part] for seconds in ladder.values()]
        style = {"color": color, "hatch": hatch, "edgecolor": "white", "label": part}
        axes.barh(range(len(ladder)), wide, left=left, **style)
        left = [sum(pair) for pair in zip(left, wide, strict=True)]
    for place, whole in enumerate(left):
        axes.text(whole, place, f" {whole:.1f}", va="center", fontsize=8)
    axes.set_yticks(range(len(ladder)), ladder)
    axes.set(xlabel="seconds of a step", xlim=(0, 1.08 * max(left)))
    axes.invert_yaxis()
    axes.legend(loc="lower right", fontsize="small")
    axes.spines[["top", "right"]].set_visible(False)
    return figure
