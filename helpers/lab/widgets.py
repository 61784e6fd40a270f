"""Widgets of the notebooks but the dashboard, and tables for where none is drawn.

All text that a model wrote is escaped: it cannot become part of the page.
"""

import re
from contextlib import nullcontext
from html import escape

import ipywidgets as widgets
import pandas as pd
import torch
from IPython.display import HTML, display

from .. import CourseError
from ..generation import generate_completions
from ..grpo import group_advantages
from ..rewards import REWARD_FUNCS
from ..scoring import SCORES
from ..training import guard_reward
from .plots import STYLES, show

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


def short(text: str, most: int = 70) -> str:
    """Return a text on one line, with visible line breaks, cut to `most` characters."""
    text = text[: most + 1].replace("\r", "\\r").replace("\n", "↵")
    return text if len(text) <= most else text[:most] + "…"


def shade_points(table: pd.DataFrame, points: list[str]):
    """Return a table whose columns of points are the darker the more they hold."""

    def shade(column: pd.Series) -> list[str]:
        shares = column / column.max()
        return [f"background:rgba(0,114,178,{0.6 * share:.2f})" for share in shares]

    look = {"text-align": "left", "font-size": "85%", "padding": "1px 6px"}
    look |= {"background": "white", "color": "black", "overflow-wrap": "anywhere"}
    style = table.style.format(escape="html").format("{:g}", points)
    style = style.set_properties(**look).hide(axis="index")
    # Texts need room; a column of points or of one number is as wide as its name.
    texts = [name for name in ("row", "completion") if name in table]
    style = style.set_properties(subset=texts, **{"min-width": "7em"})
    style = style.set_table_styles([{"selector": "th", "props": "text-align: left"}])
    return style.apply(shade, subset=points)


def token_html(tokenizer, token: int, color: str) -> str:
    """Return one token as a small box; dark where it is a special one."""
    piece = tokenizer.decode([token])
    special = token in tokenizer.all_special_ids
    look = f"background:{'black' if special else color + '33'};"
    look += f"color:{'white' if special else 'black'};border:1px solid {color};"
    look += "margin:1px;padding:0 1px;white-space:pre;display:inline-block"
    text = escape(piece).replace("\n", "↵")
    end = "<br>" if piece == "\n" else ""
    return f'<span style="{look}" title="{token}">{text}</span>{end}'


def show_tokens(tokenizer, parts: list[tuple[str, list[int]]]) -> HTML:
    """Return three parts of a prompt, (title, token ids), as a block of boxes each."""
    html = "background:white;color:black;padding:8px;font-family:monospace"
    html = f'<div style="{html};line-height:1.6">'
    colors = ("#009E73", "#0072B2", "#D55E00")
    for (title, ids), color in zip(parts, colors, strict=True):
        boxes = "".join(token_html(tokenizer, token, color) for token in ids)
        html += f'<div style="border-left:6px solid {color};padding-left:6px;'
        html += f'margin-top:6px"><b>{title}</b>: {len(ids)} tokens<br>{boxes}</div>'
    return HTML(f"{html}</div>")


def chats(texts: list[str]) -> list[list[dict]]:
    """Return completions as TRL hands them to a reward function: a chat each."""
    return [[{"role": "assistant", "content": text}] for text in texts]


def select_pairs(pairs: pd.DataFrame, score: str, outcome: str, lengths=(0, 10**9)):
    """Return the pairs with an outcome by a score.

    `lengths` are the least and most characters that the trained model wrote.
    """
    least, most = lengths
    fits = pairs["trained"].str.len().between(least, most)
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
    lengths = widgets.IntRangeSlider(
        value=(0, longest), max=longest, description="characters"
    )
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
            asked = [[*prompt[:-1], *said]]
            with model.disable_adapter() if side == "untrained" else nullcontext():
                found = generate_completions(model, tokenizer, asked, limit)
            answers[side], _ = found[0][0]
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


def group_table(completions: list[str], rewards: list[float], scale: str) -> str:
    """Return a group as HTML: rewards, advantages, and the push on each completion.

    The push: how likely each is, of as many answers that were equally likely, after a
    step of gradient ascent (rate 1) on the mean of advantage times log-probability.
    """
    found = group_advantages(torch.tensor(rewards), len(rewards), scale)
    likely = torch.softmax((found - found.mean()) / len(found), dim=0)
    table = "<tr><th style='text-align: left'>completion<th>reward<th>advantage"
    table += f"<th>{1 / len(found):.0%} becomes"
    rows = zip(completions, rewards, found.tolist(), likely.tolist(), strict=True)
    for text, reward, push, share in rows:
        color = "0,114,178" if push > 0 else "230,159,0"
        style = f"background: rgba({color},{min(abs(push), 2) / 4:.2f})"
        bar = f"width:{200 * share:.0f}px;border:1px solid rgb({color});{style}"
        bar = f'<div style="{bar}">{share:.1%}</div>'
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
