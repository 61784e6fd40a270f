"""The group widget of notebook 03 in JupyterLab, driven as a learner would."""

import nbformat
import torch

from helpers.grpo import group_advantages
from tests.browser.driving import assert_no_warning, keep_cells, run_all, shot

NEEDED = ("colab.set_up()", "completions = [", "advantages = centred /")


def shorten(path):
    """Keep of the notebook what the widget needs; a completion becomes hostile."""
    count = keep_cells(path, (*NEEDED, "play_group(completions"))
    nb = nbformat.read(path, as_version=4)
    hostile = '"They hold 12 pens."', '"<b>They</b> hold 12 pens."'
    assert hostile[0] in nb.cells[1].source
    nb.cells[1].source = nb.cells[1].source.replace(*hostile)
    nbformat.write(nb, path)
    return count


def test_sliders_move_advantages_and_pushes(jupyterlab, page, expect, clone):
    path = clone / "notebooks" / "03_grpo_from_scratch.ipynb"
    count = shorten(path)
    run_all(page, jupyterlab, path.name, count)
    cell = page.locator(".jp-CodeCell").nth(count - 1)
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
    shot(page, "03")
    assert_no_warning(page)
