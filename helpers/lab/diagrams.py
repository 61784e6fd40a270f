"""Figures of small tensors, for notebook 03: a group, the clip, pushes, weights.

Where a curve or a bar needs a colour it takes the palette of `plots`.
"""

import torch
from matplotlib.figure import Figure

from ..grpo import clipped_loss
from .plots import STYLES

LOOKS = list(STYLES.values())
BLUE, ORANGE, GREY = "#0072B2", "#E69F00", "#999999"


def plot_group(rewards: torch.Tensor, advantages: torch.Tensor) -> Figure:
    """Return the rewards of one group beside its advantages, a bar a completion."""
    figure = Figure(figsize=(9, 2.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    names = [f"completion {n}" for n in range(1, len(rewards) + 1)]
    left.barh(names, rewards, color=GREY)
    left.axvline(rewards.mean(), color="black", ls="--", label="mean of the group")
    left.set(title="reward", xlim=(0, 1.05 * float(rewards.max())))
    left.legend(fontsize="small", loc="lower right")
    color = [BLUE if a > 0 else ORANGE for a in advantages]
    hatch = ["" if a > 0 else "//" for a in advantages]
    right.barh(names, advantages, color=color, hatch=hatch, edgecolor="white")
    right.axvline(0, color="black", lw=0.8)
    right.set(title="advantage (blue: likelier, orange: less likely)")
    for axes in (left, right):
        axes.invert_yaxis()
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def plot_clip(ratio: float, epsilon: float) -> Figure:
    """Return the clipped objective against the ratio, for both signs of the advantage.

    A dot stands at `ratio`; each title says the slope there, which is the gradient.
    """
    figure = Figure(figsize=(9, 2.8), layout="constrained")
    line = torch.linspace(0.4, 1.8, 200)
    for axes, advantage in zip(figure.subplots(1, 2), (1.0, -1.0), strict=True):

        def objective(ratios, advantage=advantage):
            signs = torch.full((len(ratios),), advantage)
            return -clipped_loss(ratios[:, None], signs, epsilon, epsilon)[:, 0]

        point = torch.tensor([ratio], requires_grad=True)
        value = objective(point)
        (slope,) = torch.autograd.grad(value.sum(), point)
        axes.plot(line, line * advantage, color=GREY, ls=":", label="not clipped")
        axes.plot(line, objective(line), color=BLUE, label="clipped")
        axes.plot(ratio, value.item(), "o", color="#D55E00", ms=9, label="my_ratio")
        axes.axvspan(1 - epsilon, 1 + epsilon, color=GREY, alpha=0.15)
        title = f"advantage {advantage:+.0f}: slope {slope.item():+.0f} at {ratio}"
        axes.set(title=title, xlabel="ratio", ylabel="objective")
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(fontsize="small")
    return figure


def plot_pushes(push: torch.Tensor, mask: torch.Tensor, clipped: torch.Tensor):
    """Return a square a token: how hard it is pushed, on the scale of the hardest.

    All three are `(completions, tokens)`; padding and clipped tokens carry that word.
    """
    figure = Figure(figsize=(7, 2.4), layout="constrained")
    axes = figure.subplots()
    scaled = push / push.abs().max()
    image = axes.imshow(scaled, cmap="PuOr", vmin=-1, vmax=1, aspect="auto")
    for word, where in {"padding": mask == 0, "clipped": clipped & (mask == 1)}.items():
        for row, column in where.nonzero().tolist():
            axes.text(column, row, word, ha="center", va="center", fontsize="small")
    names = [f"completion {n}" for n in range(1, len(push) + 1)]
    axes.set(yticks=range(len(push)), yticklabels=names, xlabel="token")
    figure.colorbar(image, label="push on its log-prob")
    return figure


def plot_token_weights(weights: dict[str, torch.Tensor], mask: torch.Tensor) -> Figure:
    """Return a panel a loss type: the weight of each token of two completions."""
    figure = Figure(figsize=(10, 2.4), layout="constrained")
    panels = figure.subplots(1, len(weights), sharey=True)
    lengths = mask.sum(1).long().tolist()
    for axes, (loss_type, weight) in zip(panels, weights.items(), strict=True):
        short, long = range(lengths[0]), range(lengths[0] + 1, sum(lengths) + 1)
        axes.bar(short, weight[0, : lengths[0]], color=BLUE, label="short completion")
        tall = weight[1, : lengths[1]]
        axes.bar(long, tall, color=ORANGE, hatch="//", label="long completion")
        axes.set(title=loss_type, xticks=[])
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("weight of a token")
    panels[-1].legend(fontsize="x-small", loc="upper right")
    return figure


def plot_bands(curves: dict[str, torch.Tensor], ylabel: str, window: int = 5) -> Figure:
    """Return named curves `(seeds, steps)`: the mean, and a band from worst to best.

    Each seed is first averaged over `window` steps.
    """
    figure = Figure(figsize=(8, 3), layout="constrained")
    axes = figure.subplots()
    for (name, runs), (color, dashes) in zip(curves.items(), LOOKS, strict=False):
        smooth = runs.unfold(1, min(window, runs.shape[1]), 1).mean(-1)
        x = range(1 + runs.shape[1] - smooth.shape[1], 1 + runs.shape[1])
        axes.plot(x, smooth.mean(0), color=color, ls=dashes, label=name)
        low, high = smooth.min(0).values, smooth.max(0).values
        axes.fill_between(x, low, high, color=color, alpha=0.15)
    axes.set(xlabel="step", ylabel=ylabel)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return figure
