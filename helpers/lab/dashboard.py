"""The dashboard of a run, its replay, and a run in a few lines.

All text that a model wrote is escaped: it cannot become part of the page.
"""

import json
import time
from html import escape
from pathlib import Path
from statistics import median

import ipywidgets as widgets
import pandas as pd
from IPython.display import HTML, display
from transformers import TrainerCallback

from .. import GIB, CourseError
from ..evaluation import report
from ..rewards import completion_text
from ..runs import PACKAGES, read_log
from .plots import as_image, plot_run


def memory_gib(log: pd.DataFrame) -> float:
    """Return the most memory of a run's log, in GiB; older logs count 10^9 bytes."""
    if "memory_gib" in log:
        return log["memory_gib"].max()
    return log["memory_gb"].max() * 1e9 / GIB


def describe_run(run: Path) -> str:
    """Return a run as Markdown to paste into a report: machine, seconds, scores."""
    config = json.loads((run / "config.json").read_text(encoding="utf-8"))
    made, profile = config["machine"], config["profile"]
    log = pd.DataFrame(read_log(run))
    parts = log.filter(like="seconds/").median().rename(lambda name: name[8:])
    lines = [
        f"{made['gpu'] or 'no GPU'}; {made['cpu']}, {made['cores']} cores",
        ", ".join(f"{name} {made[name]}" for name in ("python", *PACKAGES)),
        f"profile {profile['name']}, {profile['model']} in {profile['dtype']}, "
        f"{len(log)} steps, seed {config['seed']}",
        f"seconds a step (median): {log['step_time'].median():.1f}, of it "
        + ", ".join(f"{name} {seconds:.1f}" for name, seconds in parts.items()),
        f"memory of a training step: {memory_gib(log):.2f} GiB at most",
    ]
    if (run / "evaluation.json").exists():
        lines += ["", report(run)]
    return "\n".join(lines)


def completions_html(run: Path, step: int, count: int = 4) -> str:
    """Return a step's first completions as an HTML table: rewards, and the advantage.

    The background says how the advantage pushes a completion: blue likelier, orange
    less likely. "" if the run kept no completions of that step.
    """
    path = run / "completions" / f"completions_{step:05d}.parquet"
    if not path.exists():
        return ""
    frame = pd.read_parquet(path).head(count)
    names = [n for n in frame if n not in ("step", "prompt", "completion", "advantage")]
    rewards = [name.removesuffix("_reward_func") for name in names]
    table = "<tr><th style='text-align: left'>completion</th>"
    table += "".join(f"<th>{cell}</th>" for cell in ("advantage", *rewards)) + "</tr>"
    for _, row in frame.iterrows():
        push = float(row["advantage"])
        text = completion_text(row["completion"])
        color = "0,114,178" if push > 0 else "230,159,0"
        strength = min(abs(push), 2) / 5
        table += f'<tr style="background: rgba({color},{strength:.2f})">'
        style = "white-space: pre-wrap; text-align: left"
        table += f'<td style="{style}">{escape(text)}</td>'
        table += f"<td>{push:+.2f}</td>"
        table += "".join(f"<td>{row[name]:.3g}</td>" for name in names) + "</tr>"
    caption = f"<caption style='text-align: left'>step {step}</caption>"
    return f"<table>{caption}{table}</table>"


class Dashboard(TrainerCallback):
    """A run's pictures and latest completions, redrawn in place while it trains.

    Reads the run's folder alone. It redraws at a step's end, every `seconds` at most,
    and less often where drawing takes more than 1/40 of the time (2.5%). What it drew
    last stays in the notebook.
    """

    def __init__(self, run: Path, seconds: float = 10.0):
        self.run, self.seconds = run, seconds
        self.next, self.spent = 0.0, 0.0
        self.places = [display(HTML(""), display_id=True) for _ in range(3)]

    def draw(self, step: int | None = None, left: str = "") -> None:
        """Redraw up to a step, the last one by default."""
        rows = [r for r in read_log(self.run) if step is None or r["step"] <= step]
        if not rows:
            return
        begun, last = time.monotonic(), rows[-1]
        title = f"step {last['step']}, reward {last['reward']:.2f}{left}"
        figure = plot_run(self.run, last["step"])
        self.places[0].update(HTML(f"<b>{title}</b>"))
        self.places[1].update(as_image(figure, f"Six curves of the run: {title}"))
        self.places[2].update(HTML(completions_html(self.run, last["step"])))
        now = time.monotonic()
        self.spent += now - begun
        self.next = now + max(self.seconds, 40 * (now - begun))

    def on_step_begin(self, args, state, control, **kwargs):
        """Redraw with the steps before this one, whose log is written by now."""
        if state.global_step and time.monotonic() >= self.next:
            times = [row["step_time"] for row in read_log(self.run)[-5:]]
            left = (state.max_steps - state.global_step) * median(times) / 60
            self.draw(left=f", about {left:.0f} minutes left")

    def on_train_end(self, args, state, control, **kwargs):
        """Draw the end, whenever the last drawing was."""
        self.draw()


def replay(run: Path) -> None:
    """Show a recorded or finished run, with a slider over its steps.

    Raises CourseError if the run has logged no step.
    """
    steps = [row["step"] for row in read_log(run)]
    if not steps:
        raise CourseError(f"{run} has no step in its log.jsonl yet")
    slider = widgets.SelectionSlider(options=steps, value=steps[-1], description="step")
    display(slider)
    dashboard = Dashboard(run)
    dashboard.draw()
    slider.observe(lambda change: dashboard.draw(change["new"]), "value")
