"""The figures of notebook 06: gains, kinds of problems, planning a test, many tries."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ..scoring import wilson_interval

# Colour and marker: before training, after it.
BEFORE, AFTER, MARK = ("#999999", "s"), ("#0072B2", "o"), "#D55E00"
LOOKS = {"before": BEFORE, "untrained": BEFORE, "after": AFTER, "trained": AFTER}


def small_figure(height: float) -> tuple:
    """Return (figure, axes), as wide as a notebook's text, without a frame."""
    figure = Figure(figsize=(7.5, height), layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def beside(axes) -> None:
    """Put the legend to the right of the axes, where it covers no data."""
    axes.legend(
        fontsize="small", loc="upper left", bbox_to_anchor=(1, 1), frameon=False
    )


def plot_gains(gains, low: float, high: float, score: str) -> Figure:
    """Return the histogram of a bootstrap's gains, fractions of 1.

    Dashed lines: the ends `low` and `high` of the interval. Dotted: no gain.
    """
    figure, axes = small_figure(2.6)
    points = 100 * np.asarray(gains)
    edges = np.arange(points.min() - 0.25, points.max() + 1, 1)
    axes.hist(points, bins=edges, color=AFTER[0], alpha=0.8)
    axes.axvline(0, color="black", ls=":", label="no gain")
    for end, label in ((low, "95% interval"), (high, None)):
        axes.axvline(100 * end, color=MARK, ls="--", label=label)
    beside(axes)
    axes.set(xlabel=f"gain in {score}, points", ylabel="repeats")
    return figure


def plot_kinds(counts: pd.DataFrame) -> Figure:
    """Return the share right by kind of problem, before and after, with its interval.

    `counts` has a row for each (kind, `before` or `after`), and the columns `right` and
    `problems`. Intervals are Wilson's, of 95%.
    """
    names = list(counts.index.unique(0))
    figure, axes = small_figure(1 + 0.45 * len(names))
    seen = set()
    for (name, which), (right, problems) in counts.iterrows():
        color, marker = LOOKS[which]
        place = names.index(name) + (0.12 if which == "after" else -0.12)
        part = wilson_interval(right, problems)
        ends = [100 * part["low"], 100 * part["high"]]
        axes.plot(ends, [place] * 2, color=color, lw=3)
        label = None if which in seen else which
        axes.plot(100 * part["rate"], place, marker, color=color, label=label)
        seen.add(which)
    axes.set_yticks(range(len(names)), names)
    axes.set(xlim=(0, 100), xlabel="% right, 95% intervals")
    axes.set_ylabel(counts.index.names[0])
    beside(axes)
    return figure


def plot_needed(gains, curves: dict, results: dict, problems: int) -> Figure:
    """Return the problems needed to see a gain, on a logarithmic scale.

    `curves` maps labels to numbers of problems, one for each of `gains` (fractions of
    1; NaN is not drawn). `results` maps labels to gains seen with `problems` problems.
    """
    figure, axes = small_figure(3.2)
    for (label, needed), dashes in zip(curves.items(), (":", "-", "--"), strict=False):
        color = "black" if dashes == ":" else AFTER[0]
        axes.plot(100 * np.asarray(gains), needed, dashes, color=color, label=label)
    axes.axhline(problems, color="#999999", lw=1)
    axes.text(2, 0.85 * problems, f"{problems} problems", va="top", color="#666666")
    for label, gain in results.items():
        axes.plot(100 * gain, problems, "D", color=MARK)
        at = {"textcoords": "offset points", "ha": "left"}
        axes.annotate(label, (100 * gain, problems), (4, 8), **at)
    axes.set(yscale="log", ylim=(5, 2e5), xlim=(-1, 68))
    axes.set(xlabel="gain to be seen, points", ylabel="problems needed")
    axes.legend(fontsize="small", frameon=False)
    return figure


def plot_tries(means: pd.Series) -> Figure:
    """Return pass@k and majority@k over k, untrained and trained.

    `means` is indexed by (side, `pass` or `majority`, k) and holds fractions of 1.
    """
    figure, axes = small_figure(3)
    means = means.sort_index()
    for side in ("untrained", "trained"):
        color, marker = LOOKS[side]
        for what, dashes in {"pass": "-", "majority": ":"}.items():
            line = means[side, what]
            look = {"marker": marker, "color": color, "label": f"{side}, {what}@k"}
            axes.plot(line.index, 100 * line, dashes, **look)
    axes.set_xscale("log", base=2)
    axes.set_xticks(line.index, line.index)
    axes.set(xlabel="k, tries", ylabel="% of problems", ylim=(0, 100))
    beside(axes)
    return figure
