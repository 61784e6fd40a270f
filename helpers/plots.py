"""Matplotlib figures, drawn from a run's folder alone."""

from pathlib import Path

from matplotlib.figure import Figure

from . import CourseError
from .training import read_log

# Okabe and Ito's palette: told apart by colour-blind readers; the dashes help in print.
STYLES = {
    "correctness": ("#0072B2", "-"),
    "int": ("#D55E00", "--"),
    "strict_format": ("#009E73", "-."),
    "soft_format": ("#CC79A7", ":"),
    "xmlcount": ("#E69F00", (0, (5, 1, 1, 1))),
}


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
