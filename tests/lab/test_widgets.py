"""The browser of completions and the chat, without a page to show them on."""

from contextlib import nullcontext
from types import SimpleNamespace

import pandas as pd
import pytest

from helpers.lab import widgets
from helpers.scoring import SCORES

PAIRS = pd.DataFrame(
    {
        "question": ["one?", "two?", "three?", "<b>four?</b>"],
        "answer": ["1", "2", "3", "4"],
        "untrained": ["no", "2", "", "<script>alert(1)</script>\nfour"],
        "trained": ["it is 1", "nothing", "33", "4"],
    }
)
for _score in SCORES:
    PAIRS[f"{_score} before"] = [False, True, False, True]
    PAIRS[f"{_score} after"] = [True, False, False, True]


@pytest.mark.parametrize(
    ("outcome", "answers"),
    [
        ("all", ["1", "2", "3", "4"]),
        ("newly right", ["1"]),
        ("newly wrong", ["2"]),
        ("right both times", ["4"]),
        ("wrong both times", ["3"]),
    ],
)
def test_pairs_are_chosen_by_outcome_and_length(outcome, answers):
    chosen = widgets.select_pairs(PAIRS, "strict", outcome)
    assert chosen["answer"].tolist() == answers
    long = widgets.select_pairs(PAIRS, "strict", "all", (2, 7))
    assert long["answer"].tolist() == ["1", "2", "3"]


def test_what_a_model_wrote_never_becomes_part_of_the_page():
    table = widgets.text_table(PAIRS[["question", "untrained"]])
    assert "<script" not in table and "<b>" not in table
    assert "&lt;script&gt;alert(1)" in table
    assert "white-space: pre-wrap" in table
    colored = widgets.color_tokens(["<b>", "\n", "a&b"], [4.0, -1.5, 0.0])
    assert "<b>" not in colored and "&lt;b&gt;" in colored and "a&amp;b" in colored
    assert "rgba(0,114,178,0.75)" in colored and 'title="+4.00"' in colored
    assert "rgba(230,159,0,0.38);text-decoration:underline" in colored
    assert colored.count("underline") == 1 and "↵\n" in colored


def test_the_browser_leaves_a_table_and_follows_its_controls(monkeypatch):
    shown = []
    monkeypatch.setattr(widgets, "display", shown.append)
    widgets.browse_completions(PAIRS)
    table, box = shown
    assert "it is 1" in table.data and "nothing" in table.data
    (score, outcome, count), (lengths, number), text = (
        *(row.children for row in box.children[:2]),
        box.children[2],
    )
    assert count.value == "4 of 4 problems"
    assert (number.max, score.value) == (4, "lenient")
    number.value = 4
    assert "&lt;script&gt;" in text.value
    outcome.value = "newly right"
    assert count.value == "1 of 4 problems"
    assert (number.value, number.max) == (1, 1)
    assert "it is 1" in text.value
    lengths.value = (0, 2)
    assert count.value == "0 of 4 problems"
    assert "it is 1" not in text.value


def test_the_chat_asks_the_model_with_the_adapter_off_and_on(monkeypatch):
    shown, asked, state = [], [], ["on"]

    class Off(nullcontext):
        def __enter__(self):
            state[0] = "off"

        def __exit__(self, *error):
            state[0] = "on"

    def answer(model, tokenizer, chats, limit):
        asked.append((state[0], chats[0], limit))
        return [[(f"<i>{state[0]}</i> {len(asked)}", False)]]

    monkeypatch.setattr(widgets, "display", shown.append)
    monkeypatch.setattr(widgets, "generate_completions", answer)
    system = {"role": "system", "content": "s"}
    prompt = [system, {"role": "user", "content": "first"}]
    widgets.chat(SimpleNamespace(disable_adapter=Off), None, prompt, 7)
    table, box = shown
    line, (send, anew, status), text = (
        box.children[0],
        box.children[1].children,
        box.children[2],
    )
    assert "&lt;i&gt;off&lt;/i&gt; 1" in table.data
    assert "&lt;i&gt;on&lt;/i&gt; 2" in table.data
    assert asked == [("off", prompt, 7), ("on", prompt, 7)]
    send.click()
    assert status.value == "Write something first." and len(asked) == 2
    line.value = "second"
    send.click()
    assert (line.value, status.value, send.disabled) == ("", "", False)
    roles = ["system", "user", "assistant", "user"]
    assert [m["role"] for m in asked[2][1]] == roles
    assert asked[2][1][2]["content"] == "<i>off</i> 1"
    assert asked[3][1][2]["content"] == "<i>on</i> 2"
    assert "second" in text.value
    anew.click()
    assert text.value == ""
    line.value = "third"
    send.click()
    assert asked[4][1] == [system, {"role": "user", "content": "third"}]
    assert "second" not in text.value


def test_tokens_are_escaped_and_special_ones_dark(tokenizer):
    ids = tokenizer("<b>&\n")["input_ids"]
    parts = [("system", ids), ("user", ids[:1]), ("end", [tokenizer.eos_token_id])]
    html = widgets.show_tokens(tokenizer, parts).data
    assert "<b>&" not in html and "&lt;" in html and "&amp;" in html and "↵" in html
    assert f"<b>system</b>: {len(ids)} tokens" in html
    (dark,) = (box for box in html.split("<span")[1:] if "background:black" in box)
    assert "&lt;|im_end|&gt;" in dark
    assert f'title="{tokenizer.eos_token_id}"' in dark


def test_a_short_text_stays_and_a_long_one_is_cut():
    assert widgets.short("a\r\nb") == "a\\r↵b"
    assert widgets.short("x" * 70) == "x" * 70
    assert widgets.short("x" * 71) == "x" * 70 + "…"


def test_points_are_shaded_by_their_share_of_the_most():
    table = pd.DataFrame({"text": ["<i>", "b"], "points": [1.0, 2.0]})
    html = widgets.shade_points(table, ["points"]).to_html()
    assert "&lt;i&gt;" in html and "<i>" not in html
    assert html.count("rgba(0,114,178,0.30)") == html.count("rgba(0,114,178,0.60)") == 1
