"""The replay of a recorded run in JupyterLab, moved with its slider."""

import time

import nbformat

from helpers.runs import read_log
from tests import RUN
from tests.browser.driving import run_all, shot

TITLES = [f"step {r['step']}, reward {r['reward']:.2f}" for r in read_log(RUN)]
REPLAY = """from helpers import ROOT
from helpers.lab.dashboard import replay
replay(ROOT / 'notebooks' / 'recorded' / 'cpu-seed0')"""


def test_the_replay_moves_with_its_slider(jupyterlab, page, expect, clone):
    path = clone / "notebooks" / "00_start_here.ipynb"
    nb = nbformat.read(path, as_version=4)
    setup = next(cell.source for cell in nb.cells if cell.cell_type == "code")
    nb.cells = [nbformat.v4.new_code_cell(text) for text in (setup, REPLAY)]
    nbformat.write(nb, path)
    run_all(page, jupyterlab, path.name, 2)
    outputs = page.locator(".jp-CodeCell").nth(1).locator(".jp-OutputArea")
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
    shot(page, "replay")
