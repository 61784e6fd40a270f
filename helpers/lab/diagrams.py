"""Figures of small tensors, for notebooks 03 and 04, that no run has to be read for.

Where a curve or a bar needs a colour it takes the palette of `plots`.
"""

import torch
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

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
    left.set(title="reward", xlabel="points", xlim=(0, 1.05 * float(rewards.max())))
    left.legend(fontsize="small", loc="lower right")
    color = [BLUE if a > 0 else ORANGE for a in advantages]
    hatch = ["" if a > 0 else "//" for a in advantages]
    right.barh(names, advantages, color=color, hatch=hatch, edgecolor="white")
    right.axvline(0, color="black", lw=0.8)
    right.set(title="advantage (blue: made likelier)", xlabel="advantage")
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
        band = {"color": GREY, "alpha": 0.15, "label": "1 − ε to 1 + ε"}
        axes.axvspan(1 - epsilon, 1 + epsilon, **band)
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
        axes.set(title=loss_type, xlabel="tokens", xticks=[])
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("weight of a token")
    panels[-1].legend(fontsize="small", loc="upper right")
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
        look = {"lw": 2.5, "zorder": 3} if dashes == ":" else {}  # seen on others
        axes.plot(x, smooth.mean(0), color=color, ls=dashes, label=name, **look)
        low, high = smooth.min(0).values, smooth.max(0).values
        axes.fill_between(x, low, high, color=color, alpha=0.15)
    axes.set(xlabel="step", ylabel=ylabel)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def plot_adapter(size: int, r: int) -> Figure:
    """Return a square matrix and the two thin ones of its adapter, drawn to scale."""
    figure = Figure(figsize=(7, 3), layout="constrained")
    axes, red = figure.subplots(), "#D55E00"
    half, gap = size / 2, size / 24
    axes.add_patch(Rectangle((0, 0), size, size, color=GREY))
    axes.add_patch(Rectangle((1.5 * size, 0), r, size, color=red))
    axes.add_patch(Rectangle((1.63 * size, size - r), size, r, color=BLUE))
    middle = {"ha": "center", "va": "center"}
    axes.text(half, half, f"W, frozen\n{size * size:,} weights", **middle)
    axes.text(1.25 * size, half, "+   α/r ·", **middle)
    below = {"ha": "center", "va": "top"}
    axes.text(1.5 * size, -gap, f"B\n{size * r:,}", color=red, **below)
    axes.text(2.13 * size, size - gap, f"A\n{size * r:,}", color=BLUE, **below)
    axes.set(xlim=(-20, 2.67 * size), ylim=(-6 * gap, size + 30), aspect="equal")
    axes.axis("off")
    return figure


def plot_errors(curves: dict[str, list], x: list, xlabel: str, ylabel: str) -> Figure:
    """Return named curves with logarithmic errors; x too where it is not steps."""
    figure = Figure(figsize=(7, 2.8), layout="constrained")
    axes = figure.subplots()
    for (name, values), (color, dashes) in zip(curves.items(), LOOKS, strict=False):
        axes.plot(x, values, color=color, linestyle=dashes, label=name)
    axes.set(xlabel=xlabel, ylabel=ylabel, yscale="log")
    axes.set_xscale("linear" if xlabel == "step" else "log")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def plot_formats(formats: dict[str, torch.dtype]) -> Figure:
    """Return how far the nearest number of each format is from a given one."""
    values = torch.logspace(-45, 38, 8301, dtype=torch.float64)
    curves = {}
    for name, dtype in formats.items():
        near = values.to(dtype).double()
        error = ((near - values).abs() / values).nan_to_num(1).clamp(max=1)
        curves[name] = error.unfold(0, 31, 1).amax(-1)  # the worst of a neighbourhood
    about = "size of the number", "error, relative"
    figure = plot_errors(curves, values[15:-15], *about)
    axes = figure.axes[0]
    axes.axvspan(2**-24, 2**-14, color=BLUE, alpha=0.12, lw=0)
    axes.text(2e-6, 3e-6, "fp16 has\nfewer digits", fontsize="small", ha="center")
    return figure


def plot_sizes(sizes: torch.Tensor, power: int) -> Figure:
    """Return how many numbers have which size, as they are and times 2^power.

    Grey: 0 in fp16. Dotted: the smallest with all digits. Dashed: overflow.
    """
    low, high = -60, 20
    counts = sizes.log2().histc(high - low, low, high) / len(sizes)
    figure = Figure(figsize=(8, 2.8), layout="constrained")
    axes = figure.subplots()
    for shift, color, hatch in ((0, "#D55E00", "//"), (power, BLUE, "")):
        style = {"color": color, "alpha": 0.6, "hatch": hatch, "edgecolor": "white"}
        style["label"] = f"scaled by 2^{shift}" if shift else "not scaled"
        axes.bar(
            [low + 0.5 + k + shift for k in range(len(counts))], counts, 1, **style
        )
    axes.axvspan(low, -25, color=GREY, alpha=0.3, lw=0)
    axes.text(low + 1, 0.02, "0 in fp16", fontsize="small")
    axes.axvline(-14, color="black", lw=1, linestyle=":")
    axes.axvline(16, color="black", lw=1, linestyle="--")
    axes.set(xlabel="size, as a power of 2", ylabel="share", xlim=(low, high))
    axes.legend(fontsize="small", loc="upper left")
    return figure


def plot_scale(scales: list[float], skipped: list[bool]) -> Figure:
    """Return a scaler's scale over its steps, a cross at each step that it skipped."""
    figure = Figure(figsize=(8, 2.5), layout="constrained")
    axes, steps = figure.subplots(), list(range(1, len(scales) + 1))
    powers = torch.tensor(scales).log2().tolist()
    axes.step(steps, powers, where="mid", color=BLUE)
    at = [step for step, skip in zip(steps, skipped, strict=True) if skip]
    marks = {"color": "#D55E00", "marker": "X", "s": 70, "zorder": 3}
    axes.scatter(at, [powers[step - 1] for step in at], label="skipped", **marks)
    axes.set(xlabel="step", ylabel="scale, as a power of 2")
    axes.legend(fontsize="small")
    return figure
