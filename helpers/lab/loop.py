"""The picture of GRPO: its loop, with one real group of completions in it."""

import json
import textwrap
from collections.abc import Collection
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from .. import CourseError

# The parts of the loop: heading, and where its column begins and ends (0 to 1).
PARTS = {
    "prompt": ("1 · prompt", 0.0, 0.175),
    "completions": ("2 · a group of completions", 0.185, 0.585),
    "rewards": ("3 · rewards", 0.595, 0.695),
    "advantages": ("4 · advantages", 0.705, 0.85),
    "update": ("5 · update", 0.86, 1.0),
}
MORE, LESS, NEITHER = "#0072B2", "#D55E00", "#666666"


def read_group(run: Path) -> dict:
    """Return a recorded run's group: step, question, answer, and a list each of

    `completions`, `rewards` (points) and `advantages`. Raises CourseError if the run
    has no group.json.
    """
    try:
        return json.loads((run / "group.json").read_text(encoding="utf-8"))
    except OSError as error:
        raise CourseError(f"{run} has no group.json, take a recorded run") from error


def one_line(text: str, width: int) -> str:
    """Return a text on one line of at most `width` characters, `↵` for a line break.

    What is cut out of the middle leaves a `…`: the answer stands at the end.
    """
    text, half = text.strip().replace("\n", "↵"), width // 2
    return text if len(text) <= width else text[:half] + "…" + text[half + 1 - width :]


def plot_loop(group: dict, mark: str | Collection[str] = ()) -> Figure:
    """Return the loop of GRPO, filled with a group; `mark`: the part or parts to show.

    Raises CourseError if `mark` holds what is none of the parts.
    """
    marked = {mark} if isinstance(mark, str) else set(mark)
    for name in sorted(marked - set(PARTS)):
        raise CourseError(f"mark is {name!r}; use one of {', '.join(PARTS)}")
    count = len(group["completions"])
    figure = Figure(figsize=(9.6, 0.46 * count + 1.2))
    axes = figure.add_axes((0.01, 0.02, 0.98, 0.96))
    axes.set(xlim=(0, 1), ylim=(-1.6, count + 1))
    axes.axis("off")
    for name, (heading, left, right) in PARTS.items():
        shade = "#FFF2CC" if name in marked else "#F3F3F3"
        size = (right - left, count + 0.1)
        axes.add_patch(Rectangle((left, -0.3), *size, color=shade, lw=0))
        weight = "bold" if name in marked else "normal"
        middle = (left + right) / 2
        axes.text(middle, count + 0.15, heading, ha="center", weight=weight)
    asked = textwrap.fill(group["question"], 22)
    asked += f"\n\n(kept from the model:\nthe answer is {group['answer']})"
    axes.text(0.008, count - 0.45, asked, va="top", fontsize=9)
    longest = max(abs(a) for a in group["advantages"]) or 1
    rows = zip(group["completions"], group["rewards"], group["advantages"], strict=True)
    for place, (text, reward, advantage) in enumerate(rows):
        y = count - 0.75 - place
        axes.text(0.19, y, one_line(text, 48), family="monospace", fontsize=9)
        axes.text(0.645, y, f"{reward:.3g}", ha="center")
        color = MORE if advantage > 0 else LESS if advantage < 0 else NEITHER
        wide = 0.03 * advantage / longest
        axes.add_patch(Rectangle((0.745, y - 0.12), wide, 0.45, color=color))
        axes.text(0.842, y, f"{advantage:+.2f}", ha="right", color=color)
        arrow = "▲ likelier" if advantage > 0 else "▼ less likely"
        arrow = arrow if advantage else "as it is"
        axes.text(0.93, y, arrow, ha="center", color=color, fontsize=9)
    axes.plot([0.93, 0.93, 0.0875], [-0.35, -0.85, -0.85], color="black", lw=1.4)
    arrow = {"arrowstyle": "-|>", "color": "black", "lw": 1.4, "mutation_scale": 14}
    axes.annotate("", (0.0875, -0.3), (0.0875, -0.87), arrowprops=arrow)
    again = "the next step: the model, changed a little, meets other prompts"
    axes.text(0.5, -1.4, again, ha="center", fontsize=10)
    return figure
