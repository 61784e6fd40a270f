"""The group widget of notebook 03 in JupyterLab, driven as a learner would."""

import os

import nbformat
import torch
from browser import (
    CHROMIUM,
    QUIET,
    jupyterlab,
    playwright,
    pytestmark,
    run_all,
)

from helpers.grpo import group_advantages

__all__ = ["jupyterlab", "pytestmark"]  # pytest reads them from this module
NEEDED = ("colab.set_up()", "completions = [", "advantages = centred /")


def shorten(path):
    """Keep of the notebook what the widget needs, without outputs; count its cells."""
    nb = nbformat.read(path, as_version=4)
    kept = []
    for text in (*NEEDED, "play_group(completions"):
        cell = next(c for c in nb.cells if c.cell_type == "code" and text in c.source)
        cell.outputs, cell.execution_count = [], None
        kept.append(cell)
    hostile = '"They hold 12 pens."', '"<b>They</b> hold 12 pens."'
    assert hostile[0] in kept[1].source
    kept[1].source = kept[1].source.replace(*hostile)
    nb.cells = kept
    nbformat.write(nb, path)
    return len(kept)


def test_sliders_move_advantages_and_pushes(jupyterlab, clone):
    path = clone / "notebooks" / "03_grpo_from_scratch.ipynb"
    count = shorten(path)
    with playwright.sync_playwright() as driver:
        options = {"executable_path": CHROMIUM, "args": [*QUIET, "--no-first-run"]}
        browser = driver.chromium.launch(**options)
        page = browser.new_page(viewport={"width": 1300, "height": 1400})
        run_all(page, jupyterlab, path.name, count)
        cell = page.locator(".jp-CodeCell").nth(count - 1)
        expect = playwright.expect
        static, live = cell.locator("table").first, cell.locator(".widget-vbox table")

        def shows(rewards: list[float], scale: str) -> None:
            values = group_advantages(torch.tensor(rewards), 4, scale).tolist()
            for number, value in enumerate(values, 1):
                row = live.locator("tr").nth(number).locator("td")
                expect(row.nth(1)).to_have_text(f"{rewards[number - 1]:.2f}")
                expect(row.nth(2)).to_have_text(f"{value:+.2f}")

        shows([4.0, 2.0, 2.75, 0.0], "group")
        assert static.inner_text().split() == live.inner_text().split()
        expect(cell.locator("table b")).to_have_count(0)  # what a model wrote is text
        handle = cell.locator(".widget-hslider").nth(3).locator(".noUi-handle")
        for _ in range(16):
            handle.press("ArrowRight")
        shows([4.0, 2.0, 2.75, 4.0], "group")
        cell.locator("select").select_option("none")
        shows([4.0, 2.0, 2.75, 4.0], "none")
        if folder := os.environ.get("GRPO_SCREENSHOTS"):
            page.screenshot(path=f"{folder}/jupyterlab-03.png")
        errors = page.locator('[data-mime-type="application/vnd.jupyter.stderr"]')
        assert errors.all_inner_texts() == []
        page.keyboard.press("Control+s")
        browser.close()
