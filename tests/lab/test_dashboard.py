"""The dashboard: what it costs, and what it draws while a run trains."""

import io
import json
import shutil

import numpy as np
import pandas as pd
import PIL.Image
import pytest
from matplotlib.colors import to_rgb

from helpers import GIB, CourseError
from helpers.lab import dashboard
from helpers.lab.plots import STYLES, as_image, plot_run
from helpers.runs import read_log
from tests import RUN

TITLES = [f"step {r['step']}, reward {r['reward']:.2f}" for r in read_log(RUN)]


class Place:
    """Stands for a display: keeps what it was updated with."""

    def __init__(self):
        self.shown = []

    def update(self, what):
        self.shown.append(what)


@pytest.fixture
def places(monkeypatch):
    made = []

    def display(*args, **kwargs):
        made.append(Place())
        return made[-1]

    monkeypatch.setattr(dashboard, "display", display)
    return made


class State:
    max_steps, global_step = 24, 0


def test_it_redraws_at_most_every_ten_seconds_and_costs_little(places, monkeypatch):
    clock = [1000.0]
    monkeypatch.setattr(dashboard.time, "monotonic", lambda: clock[0])
    drawn = dashboard.Dashboard(RUN)
    state = State()
    for second in range(60):  # a step a second
        clock[0], state.global_step = 1000.0 + second, second
        drawn.on_step_begin(None, state, None)
    assert len(places[1].shown) == 6
    assert (
        "about " in places[0].shown[0].data
        and "minutes left" in places[0].shown[0].data
    )
    drawn.on_train_end(None, state, None)
    assert len(places[1].shown) == 7
    assert places[0].shown[-1].data == f"<b>{TITLES[-1]}</b>"


def test_slow_drawing_is_done_less_often(places, monkeypatch):
    clock = [1000.0]
    monkeypatch.setattr(dashboard.time, "monotonic", lambda: clock[0])
    drawn = dashboard.Dashboard(RUN)

    def draw(run, step):
        clock[0] += 2.0  # a drawing of two seconds
        return plot(run, step)

    plot = dashboard.plot_run
    monkeypatch.setattr(dashboard, "plot_run", draw)
    state = State()
    while clock[0] < 2000.0:
        state.global_step += 1
        drawn.on_step_begin(None, state, None)
        clock[0] += 1.0
    assert drawn.spent <= 0.03 * 1000
    assert len(places[1].shown) > 5


def test_legends_lie_below_their_curves_and_each_curve_keeps_its_colour():
    figure = plot_run(RUN)
    drawn = as_image(figure, "six curves")
    for axes in figure.axes[:2]:
        legend = axes.get_legend().get_window_extent()
        assert legend.y1 < axes.get_window_extent().y0
    assert not any(axes.get_legend() for axes in figure.axes[2:])
    assert [axes.get_xlabel() for axes in figure.axes[-2:]] == ["step", "step"]
    ticks = figure.axes[0].xaxis.get_major_locator().tick_values(1, 18)
    assert all(tick == int(tick) for tick in ticks)
    pixels = np.asarray(PIL.Image.open(io.BytesIO(drawn.data)).convert("RGB"))
    for color, _ in STYLES.values():
        off = np.abs(pixels - 255 * np.array(to_rgb(color))).max(axis=-1)
        assert off.min() <= 10


def test_completions_are_coloured_by_advantage_and_escaped(tmp_path):
    chat = [
        [{"role": "assistant", "content": f"<answer>{n}</answer>"}] for n in range(3)
    ]
    rows = {"step": 1, "prompt": "p", "completion": chat, "xmlcount_reward_func": 0.25}
    frame = pd.DataFrame(rows | {"advantage": [1.2, -0.7, 0.0]})
    (tmp_path / "completions").mkdir()
    frame.to_parquet(tmp_path / "completions" / "completions_00001.parquet")
    html = dashboard.completions_html(tmp_path, 1)
    assert "&lt;answer&gt;0&lt;/answer&gt;" in html and "<answer>" not in html
    assert "rgba(0,114,178,0.24)" in html and "rgba(230,159,0,0.14)" in html
    # The advantage first: a narrow screen cuts the table off at the right.
    assert "<th>advantage</th><th>xmlcount</th>" in html
    assert "<td>+1.20</td><td>0.25</td>" in html
    assert dashboard.completions_html(tmp_path, 2) == ""


def test_a_run_without_a_step_is_one_line(tmp_path, places):
    with pytest.raises(CourseError, match="has no step in its log"):
        dashboard.replay(tmp_path)
    dashboard.Dashboard(tmp_path).draw()
    assert not any(place.shown for place in places)


def test_a_runs_memory_is_said_in_gib_whatever_its_log_counts(tmp_path):
    for name in ("config.json", "log.jsonl"):
        shutil.copy(RUN / name, tmp_path)
    most = max(row["memory_gb"] for row in read_log(RUN))  # recorded before: 10^9 bytes
    said = f"memory of a training step: {most * 1e9 / GIB:.2f} GiB at most"
    assert said in dashboard.describe_run(RUN)
    rows = [row | {"memory_gib": 1.5 + n % 2} for n, row in enumerate(read_log(RUN))]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "log.jsonl").write_text(text)
    said = "\nmemory of a training step: 2.50 GiB at most"
    assert said in dashboard.describe_run(tmp_path)
