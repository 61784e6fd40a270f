"""The dashboard: what it costs, what it draws while a run trains, and the replay."""

import os
import time

import nbformat
import pandas as pd
import pytest
from browser import (
    CHROMIUM,
    QUIET,
    jupyterlab,
    playwright,
    pytestmark,
    run_all,
)

from helpers import ROOT, CourseError, widgets
from helpers.training import read_log

__all__ = ["jupyterlab"]
RECORDED = ROOT / "notebooks" / "recorded" / "cpu-seed0"
TITLES = [f"step {r['step']}, reward {r['reward']:.2f}" for r in read_log(RECORDED)]


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

    monkeypatch.setattr(widgets, "display", display)
    return made


class State:
    max_steps, global_step = 24, 0


def test_it_redraws_at_most_every_ten_seconds_and_costs_little(places, monkeypatch):
    clock = [1000.0]
    monkeypatch.setattr(widgets.time, "monotonic", lambda: clock[0])
    dashboard = widgets.Dashboard(RECORDED)
    state = State()
    for second in range(60):  # a step a second
        clock[0], state.global_step = 1000.0 + second, second
        dashboard.on_step_begin(None, state, None)
    assert len(places[1].shown) == 6
    assert (
        "about " in places[0].shown[0].data
        and "minutes left" in places[0].shown[0].data
    )
    dashboard.on_train_end(None, state, None)
    assert len(places[1].shown) == 7
    assert places[0].shown[-1].data == f"<b>{TITLES[-1]}</b>"


def test_slow_drawing_is_done_less_often(places, monkeypatch):
    clock = [1000.0]
    monkeypatch.setattr(widgets.time, "monotonic", lambda: clock[0])
    dashboard = widgets.Dashboard(RECORDED)

    def draw(run, step):
        clock[0] += 2.0  # a drawing of two seconds
        return plot(run, step)

    plot = widgets.plot_run
    monkeypatch.setattr(widgets, "plot_run", draw)
    state = State()
    while clock[0] < 2000.0:
        state.global_step += 1
        dashboard.on_step_begin(None, state, None)
        clock[0] += 1.0
    assert dashboard.spent <= 0.03 * 1000
    assert len(places[1].shown) > 5


def test_completions_are_coloured_by_advantage_and_escaped(tmp_path):
    chat = [
        [{"role": "assistant", "content": f"<answer>{n}</answer>"}] for n in range(3)
    ]
    rows = {"step": 1, "prompt": "p", "completion": chat, "xmlcount_reward_func": 0.25}
    frame = pd.DataFrame(rows | {"advantage": [1.2, -0.7, 0.0]})
    (tmp_path / "completions").mkdir()
    frame.to_parquet(tmp_path / "completions" / "completions_00001.parquet")
    html = widgets.completions_html(tmp_path, 1)
    assert "&lt;answer&gt;0&lt;/answer&gt;" in html and "<answer>" not in html
    assert "rgba(0,114,178,0.24)" in html and "rgba(230,159,0,0.14)" in html
    assert "<td>+1.20</td>" in html and "<th>xmlcount</th>" in html
    assert widgets.completions_html(tmp_path, 2) == ""


def test_a_run_without_a_step_is_one_line(tmp_path, places):
    with pytest.raises(CourseError, match="has no step in its log"):
        widgets.replay(tmp_path)
    widgets.Dashboard(tmp_path).draw()
    assert not any(place.shown for place in places)


@pytestmark[0]
@pytestmark[1]
def test_the_replay_moves_with_its_slider_in_jupyterlab(jupyterlab, clone):
    path = clone / "notebooks" / "00_start_here.ipynb"
    nb = nbformat.read(path, as_version=4)
    setup = next(cell.source for cell in nb.cells if cell.cell_type == "code")
    replay = "from helpers import ROOT\nfrom helpers.widgets import replay\n"
    replay += "replay(ROOT / 'notebooks' / 'recorded' / 'cpu-seed0')"
    nb.cells = [nbformat.v4.new_code_cell(text) for text in (setup, replay)]
    nbformat.write(nb, path)
    with playwright.sync_playwright() as driver:
        options = {"executable_path": CHROMIUM, "args": [*QUIET, "--no-first-run"]}
        browser = driver.chromium.launch(**options)
        page = browser.new_page(viewport={"width": 1300, "height": 1000})
        run_all(page, jupyterlab, path.name, 2)
        outputs = page.locator(".jp-CodeCell").nth(1).locator(".jp-OutputArea")
        expect = playwright.expect
        expect(outputs.first).to_contain_text(TITLES[-1], timeout=120_000)
        image = outputs.first.locator("img")
        expect(image).to_be_visible()
        last = image.get_attribute("src")
        handle = outputs.first.locator(".noUi-handle")
        for _ in range(4):
            handle.press("ArrowLeft")
        expect(outputs.first).to_contain_text(TITLES[-5], timeout=30_000)
        time.sleep(1)
        assert image.get_attribute("src") != last
        if folder := os.environ.get("GRPO_SCREENSHOTS"):
            page.screenshot(path=f"{folder}/jupyterlab-replay.png")
        page.keyboard.press("Control+s")
        browser.close()
