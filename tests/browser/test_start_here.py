"""Notebook 00 in JupyterLab, in the Chromium of this machine."""

import nbformat

from tests.browser.driving import assert_no_warning, run_all, shot


def test_00_runs_to_its_end_in_jupyterlab(jupyterlab, page, clone, embedded_model):
    path = clone / "notebooks" / "00_start_here.ipynb"
    nb = nbformat.read(path, as_version=4)
    for cell in nb.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    nbformat.write(nb, path)
    count = sum(cell.cell_type == "code" for cell in nb.cells)
    run_all(page, jupyterlab, path.name, count)
    figures = page.locator(".jp-OutputArea-output img")
    assert figures.count() == 3
    for number in range(3):
        figure = figures.nth(number)
        figure.scroll_into_view_if_needed()
        assert figure.is_visible()
        assert figure.evaluate("image => image.naturalWidth") > 400
    assert_no_warning(page)
    shot(page, "00")
