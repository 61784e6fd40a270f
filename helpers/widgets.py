"""Widgets of the notebooks, and tables for where no widget is drawn.

All text that a model wrote is escaped: it cannot become part of the page.
"""

import re
import time
from collections.abc import Callable
from contextlib import nullcontext
from html import escape
from pathlib import Path
from statistics import median

import ipywidgets as widgets
import pandas as pd
import torch
from IPython.display import HTML, display
from transformers import TrainerCallback

from . import CourseError
from .evaluation import SCORES, sample_completions
from .grpo import group_advantages
from .memory import GIB, T4_GIB, peak
from .plots import STYLES, as_image, plot_budgets, plot_run, show
from .profiles import Profile
from .rewards import REWARD_FUNCS, completion_text
from .training import guard_reward, read_log

# Right before, right after; right by the score that is chosen.
OUTCOMES = {"all": None, "newly right": (False, True), "newly wrong": (True, False)}
OUTCOMES |= {"right both times": (True, True), "wrong both times": (False, False)}


def text_table(frame: pd.DataFrame) -> str:
    """Return a table of texts as HTML, escaped, with their line breaks."""
    left = [{"selector": "th", "props": "text-align: left"}]
    look = {"white-space": "pre-wrap", "text-align": "left", "vertical-align": "top"}
    look["line-height"] = "1.4"  # a widget's own is that of a button
    style = frame.style.format(escape="html").hide(axis="index").set_table_styles(left)
    return style.set_properties(**look).to_html()


def chats(texts: list[str]) -> list[list[dict]]:
    """Return completions as TRL hands them to a reward function: a chat each."""
    return [[{"role": "assistant", "content": text}] for text in texts]


def select_pairs(pairs: pd.DataFrame, score: str, outcome: str, lengths=(0, 10**9)):
    """Return the pairs with an outcome by a score.

    `lengths` are the least and most characters that the trained model wrote.
    """
    fits = pairs["trained"].str.len().between(*lengths)
    if OUTCOMES[outcome]:
        right = pairs[[f"{score} before", f"{score} after"]]
        fits &= (right == list(OUTCOMES[outcome])).all(axis=1)
    return pairs.loc[fits, ["question", "answer", "untrained", "trained"]]


def browse_completions(pairs: pd.DataFrame) -> None:
    """Display a browser of completions before and after, below a table of two of them.

    `pairs` holds question, answer, the texts `untrained` and `trained`, and the scores
    as columns such as "strict before" and "strict after".
    """
    two = [select_pairs(pairs, "lenient", o)[:1] for o in list(OUTCOMES)[1:3]]
    display(HTML(text_table(pd.concat(two))))
    longest = int(pairs["trained"].str.len().max())
    score = widgets.Dropdown(options=SCORES, value="lenient", description="score")
    outcome = widgets.Dropdown(options=list(OUTCOMES), description="show")
    span = {"value": (0, longest), "max": longest, "description": "characters"}
    lengths = widgets.IntRangeSlider(**span)
    number = widgets.IntSlider(value=1, min=1, description="number")
    count, shown = widgets.Label(), widgets.HTML()

    def renew(change=None):
        chosen = select_pairs(pairs, score.value, outcome.value, lengths.value)
        count.value = f"{len(chosen)} of {len(pairs)} problems"
        number.max = max(1, len(chosen))
        shown.value = text_table(chosen[number.value - 1 : number.value])

    for control in (score, outcome, lengths, number):
        control.observe(renew, "value")
    renew()
    rows = [widgets.HBox([score, outcome, count]), widgets.HBox([lengths, number])]
    display(widgets.VBox([*rows, shown]))


def chat(model, tokenizer, prompt: list[dict], limit: int = 128) -> None:
    """Display a chat with a PeftModel, its adapter off and on, side by side.

    Both answer `prompt` (chat messages) greedily, in at most `limit` tokens; "new chat"
    leaves what stands before its last message.
    """
    talk: list[dict] = []
    shown, status = widgets.HTML(), widgets.Label()
    line = widgets.Textarea(placeholder="Write to both models")
    send, anew = (widgets.Button(description=text) for text in ("send", "new chat"))

    def ask(question: str) -> str:
        talk.append({"role": "user", "untrained": question, "trained": question})
        answers = {"role": "assistant"}
        for side in ("untrained", "trained"):
            said = [{"role": turn["role"], "content": turn[side]} for turn in talk]
            chats = [[*prompt[:-1], *said]]
            with model.disable_adapter() if side == "untrained" else nullcontext():
                texts = sample_completions(model, tokenizer, chats, 1, 0, limit)
            answers[side] = texts[0][0]
        talk.append(answers)
        return text_table(pd.DataFrame(talk))

    def on_send(button):
        question, send.disabled = line.value.strip(), True
        status.value = "writing …" if question else "Write something first."
        if question:
            shown.value, line.value, status.value = ask(question), "", ""
        send.disabled = False

    def on_new(button):
        talk.clear()
        shown.value, send.disabled = "", False

    send.on_click(on_send)
    anew.on_click(on_new)
    display(HTML(ask(prompt[-1]["content"])))
    display(widgets.VBox([line, widgets.HBox([send, anew, status]), shown]))


def highlight(text: str) -> str:
    """Return a completion as HTML, its last reasoning and its last answer coloured."""
    marks = []
    for tag, color in (("reasoning", "0,158,115"), ("answer", "0,114,178")):
        # Between the tags of a pair there is no other tag of its name.
        pair = rf"<{tag}>((?:(?!</?{tag}>).)*)</{tag}>"
        for found in list(re.finditer(pair, text, re.DOTALL))[-1:]:
            style = f"background:rgba({color},0.25)"
            marks.append((found.start(1), f'<span class="{tag}" style="{style}">'))
            marks.append((found.end(1), "</span>"))
    html, end = "", 0
    for place, mark in sorted(marks, key=lambda pair: pair[0]):
        html, end = html + escape(text[end:place]) + mark, place
    return (html + escape(text[end:])).replace("\n", "↵\n")


def score_html(text: str, gold: str, reward_funcs: list) -> str:
    """Return a completion as HTML: what is read out of it, and a bar for each reward.

    `reward_funcs` are guarded; if one raises, its line stands in place of the bars.
    """
    page = "background:white;color:black;padding:0.5em;line-height:1.4;"
    html = f'<div style="{page}white-space:pre-wrap;overflow-wrap:anywhere">'
    html, rows, total = f"{html}{highlight(text)}</div>", "", 0.0
    for func in reward_funcs:
        try:
            points = func(chats([text]), answer=[gold])[0]
        except CourseError as error:
            return f'{html}<div style="{page}">{escape(str(error))}</div>'
        name, value = func.__name__.removesuffix("_reward_func"), points or 0.0
        color, total = "#0072B2" if value > 0 else "#E69F00", total + value
        style = f"height:0.8em;background:{color};width:{8 * abs(value):.1f}em"
        rows += f"<tr><td>{escape(name)}</td><td>{points}</td>"
        rows += f'<td><div class="bar" style="{style}"></div></td></tr>'
    rows += f"<tr><th>total</th><th>{total:g}</th><td></td></tr>"
    return f'{html}<table style="{page}min-width:26em">{rows}</table>'


def reward_playground(samples: dict[str, tuple[str, str]], reward_funcs=None) -> None:
    """Display a text box whose completion is scored as one types, below a figure.

    `samples` maps names to (completion, gold answer). The reward functions (all five
    by default) get chat completions and the column `answer`.
    """
    funcs = [guard_reward(func) for func in reward_funcs or REWARD_FUNCS]
    texts, answers = map(list, zip(*samples.values(), strict=True))
    points = pd.DataFrame(index=list(samples))
    for func in funcs:
        name = func.__name__.removesuffix("_reward_func")
        points[name] = [p or 0.0 for p in func(chats(texts), answer=answers)]
    colors = [color for color, _ in STYLES.values()]
    look = {"color": colors, "edgecolor": "white", "figsize": (8, 1 + len(points) / 4)}
    axes = points[::-1].plot.barh(stacked=True, xlabel="points", **look)
    axes.figure.set_layout_engine("constrained")
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    totals = [f"{name} {total:g}" for name, total in points.sum(axis=1).items()]
    show(axes.figure, f"Points of samples, by reward: {', '.join(totals)}.")

    wide = widgets.Layout(width="95%")
    menu = widgets.Dropdown(options=list(samples), description="sample")
    gold = widgets.Text(description="gold")
    box = widgets.Textarea(description="completion", rows=8, layout=wide)
    shown = widgets.HTML(layout=wide)

    def load(change=None):
        box.value, gold.value = samples[menu.value]

    def renew(change=None):
        shown.value = score_html(box.value, gold.value, funcs)

    menu.observe(load, "value")
    for control in (box, gold):
        control.observe(renew, "value")
    load()
    renew()
    display(widgets.VBox([widgets.HBox([menu, gold]), box, shown]))


def color_tokens(pieces: list[str], changes: list[float]) -> str:
    """Return tokens as HTML, coloured by the change of their log-probability.

    Blue: likelier; orange: less likely, underlined from 0.1 nats on. Most colour at 3.
    """
    html = ""
    for piece, change in zip(pieces, changes, strict=True):
        color = "0,114,178" if change > 0 else "230,159,0"
        style = f"background:rgba({color},{min(abs(change), 3) / 4:.2f})"
        style += ";text-decoration:underline" if change < -0.1 else ""
        text = escape(piece).replace("\n", "↵\n")
        html += f'<span style="{style}" title="{change:+.2f}">{text}</span>'
    page = "background:white;color:black;white-space:pre-wrap;padding:0.5em"
    return f'<div style="{page}">{html}</div>'


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
    cells = [
        "completion",
        *(n.removesuffix("_reward_func") for n in names),
        "advantage",
    ]
    table = "<tr>" + "".join(f"<th>{cell}</th>" for cell in cells) + "</tr>"
    for _, row in frame.iterrows():
        push = float(row["advantage"])
        text = completion_text(row["completion"])
        color = "0,114,178" if push > 0 else "230,159,0"
        strength = min(abs(push), 2) / 5
        table += f'<tr style="background: rgba({color},{strength:.2f})">'
        style = "white-space: pre-wrap; text-align: left"
        table += f'<td style="{style}">{escape(text)}</td>'
        table += "".join(f"<td>{row[name]:.3g}</td>" for name in names)
        table += f"<td>{push:+.2f}</td></tr>"
    return f"<table><caption>step {step}</caption>{table}</table>"


def group_table(completions: list[str], rewards: list[float], scale: str) -> str:
    """Return a group as HTML: rewards, advantages, and the push on each completion.

    The push: how likely each is, of as many answers that were equally likely, after a
    step of gradient ascent (rate 1) on the mean of advantage times log-probability.
    """
    found = group_advantages(torch.tensor(rewards), len(rewards), scale)
    likely = torch.softmax((found - found.mean()) / len(found), dim=0)
    table = f"<tr><th>completion<th>reward<th>advantage<th>{1 / len(found):.0%} becomes"
    rows = zip(completions, rewards, found.tolist(), likely.tolist(), strict=True)
    for text, reward, push, share in rows:
        color = "0,114,178" if push > 0 else "230,159,0"
        style = f"background: rgba({color},{min(abs(push), 2) / 4:.2f})"
        bar = f'<div style="width:{400 * share:.0f}px;{style}">{share:.1%}</div>'
        left = '<td style="white-space: pre-wrap; text-align: left">'
        table += f"<tr>{left}{escape(text)}<td>{reward:.2f}"
        table += f'<td style="{style}">{push:+.2f}{left}{bar}'
    return f"<table>{table}</table>"


def play_group(completions: list[str], rewards: list[float]) -> None:
    """Display sliders for the rewards of a group below the table that they move."""
    display(HTML(group_table(completions, rewards, "group")))
    span = {"min": 0.0, "max": 4.0, "step": 0.25}
    sliders = [
        widgets.FloatSlider(value=reward, description=f"reward {number}", **span)
        for number, reward in enumerate(rewards, 1)
    ]
    scale = widgets.Dropdown(options=["group", "none"], description="scale")
    shown = widgets.HTML()

    def renew(change=None):
        points = [slider.value for slider in sliders]
        table = group_table(completions, points, scale.value)
        shown.value = f'<div style="line-height: 1.4">{table}</div>'

    for control in (*sliders, scale):
        control.observe(renew, "value")
    renew()
    display(widgets.VBox([*sliders, scale, shown]))


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


def explore_budgets(budgets_of: Callable[..., dict], profile: Profile) -> None:
    """Display memory budgets of a profile, redrawn as its settings are changed.

    `budgets_of` takes settings by name and returns budgets by name, that of the
    settings themselves last. The number of problems a step stays the profile's.
    """
    grpo, powers = profile.grpo, [2**n for n in range(9)]
    problems = grpo["per_device_train_batch_size"] * grpo["gradient_accumulation_steps"]
    problems //= grpo["num_generations"]
    look = {"style": {"description_width": "13em"}, "continuous_update": False}
    tokens = look | {"min": 64, "step": 64}
    chosen = {
        "per_device_train_batch_size": widgets.SelectionSlider(
            options=powers[:7], description="completions at once", **look
        ),
        "num_generations": widgets.SelectionSlider(
            options=powers[1:7], description="generations", **look
        ),
        "max_prompt_length": widgets.IntSlider(
            max=2048, description="prompt tokens", **tokens
        ),
        "max_completion_length": widgets.IntSlider(
            max=4096, description="completion tokens", **tokens
        ),
        "r": widgets.SelectionSlider(options=powers, description="rank", **look),
        "dtype": widgets.Dropdown(options=["fp16", "fp32"], description="dtype"),
        "gradient_checkpointing": widgets.Checkbox(description="checkpointing"),
    }
    for name, control in chosen.items():
        own = grpo | profile.lora
        control.value = own[name] if name in own else getattr(profile, name)
    said = widgets.Label()

    def draw():
        settings = {name: control.value for name, control in chosen.items()}
        completions = problems * settings["num_generations"]
        at_once = min(settings["per_device_train_batch_size"], completions)
        settings["per_device_train_batch_size"] = at_once
        settings["gradient_accumulation_steps"] = completions // at_once
        budgets = budgets_of(**settings)
        moment, most = peak(list(budgets.values())[-1])
        fits = "fits" if most / GIB <= T4_GIB - 0.5 else "does not fit"
        said.value = f"{completions} completions a step, {at_once} at once: "
        said.value += f"{most / GIB:.1f} GiB for {moment}, {fits} on a T4"
        return as_image(plot_budgets(budgets), said.value)

    shown = display(draw(), display_id=True)
    for control in chosen.values():
        control.observe(lambda change: shown.update(draw()), "value")
    display(widgets.VBox([*chosen.values(), said]))
