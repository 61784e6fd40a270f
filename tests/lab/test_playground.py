"""The reward playground without a browser: what it reads, shows and escapes."""

import re
from html import unescape

import ipywidgets
import pytest

from helpers.lab import widgets
from helpers.lab.exercises.n02 import truth_table
from helpers.prompts import extract_xml_answer
from helpers.rewards import REWARD_FUNCS
from helpers.training import guard_reward

FUNCS = [guard_reward(func) for func in REWARD_FUNCS]
SMALL = [row for row in truth_table() if row["kind"] != "1 MB"]


@pytest.mark.parametrize("row", SMALL, ids=[row["name"] for row in SMALL])
def test_what_is_coloured_is_what_the_rewards_read(row):
    html = widgets.highlight(row["text"])
    assert unescape(re.sub("<[^>]+>", "", html)).replace("↵\n", "\n") == row["text"]
    found = re.search('<span class="answer"[^>]*>(.*?)</span>', html, re.DOTALL)
    answer = unescape(found[1]).replace("↵", "").strip() if found else ""
    assert answer == extract_xml_answer(row["text"])


def test_bars_and_total_are_those_of_the_table():
    for row in truth_table():
        html = widgets.score_html(row["text"], row["gold"], FUNCS)
        bars = [float(width) / 8 for width in re.findall(r";width:([\d.]+)em", html)]
        assert bars[:5] == row["points"], row["name"]
        assert f"<th>{sum(row['points']):g}</th>" in html


def test_a_text_cannot_become_part_of_the_page():
    text = "<script>alert(1)</script><answer><b></answer>"
    html = widgets.score_html(text, "1", FUNCS)
    assert "<script>" not in html and "<b>" not in html


def raises(completions, **kwargs):
    raise KeyError("<i>")


def penalty(completions, **kwargs):
    return [-0.5 if completion[0]["content"] else None for completion in completions]


def test_a_reward_of_ones_own_may_raise_fall_below_zero_or_not_apply():
    html = widgets.score_html("x", "1", [guard_reward(raises)])
    assert "reward function raises raised KeyError" in html and "<i>" not in html
    html = widgets.score_html("x", "1", [guard_reward(penalty)])
    assert "background:#E69F00;width:4.0em" in html and "<th>-0.5</th>" in html
    assert "<td>None</td>" in widgets.score_html("", "1", [guard_reward(penalty)])


def test_a_figure_stays_and_the_widget_follows_the_text(monkeypatch):
    shown, figures = [], []
    monkeypatch.setattr(widgets, "display", shown.append)
    monkeypatch.setattr(widgets, "show", lambda figure, alt: figures.append(alt))
    samples = {"good": ("<answer>18</answer>", "18"), "empty": ("", "18")}
    widgets.reward_playground(samples)
    assert figures == ["Points of samples, by reward: good 2.75, empty 0."]
    (box,) = shown
    assert isinstance(box, ipywidgets.VBox)
    row, text, html = box.children
    menu, gold = row.children
    assert "<th>2.75</th>" in html.value and text.continuous_update
    gold.value = "19"
    assert "<th>0.75</th>" in html.value
    menu.value = "empty"
    assert (text.value, gold.value) == ("", "18") and "<th>0</th>" in html.value
    text.value = "<answer>18</answer>"
    assert "<th>2.75</th>" in html.value
