"""What a learner does in JupyterLab, and what the page then shows."""

import os
import time

import nbformat


def run_all(page, address: str, name: str, count: int, seconds: int = 300) -> None:
    """Open a notebook, choose Run > Run All Cells, wait for the last of its cells.

    On a busy machine JupyterLab asks for a kernel that it has not found yet, or takes
    the command before there is one; then it is told again.
    """
    page.goto(f"{address}/lab/tree/notebooks/{name}", timeout=120_000)
    page.wait_for_selector(".jp-Notebook .jp-CodeCell", timeout=60_000)
    idle = '.jp-Notebook-ExecutionIndicator[data-status="idle"]'
    page.wait_for_selector(idle, timeout=60_000)
    ask = page.get_by_role("button", name="Select Kernel")
    prompts, end = page.locator(".jp-CodeCell .jp-InputPrompt"), time.time() + seconds
    # JupyterLab shows an error as it shows what was printed to stderr.
    failed = page.locator('[data-mime-type="application/vnd.jupyter.stderr"]')
    failed = failed.filter(has_text="Error")
    while prompts.nth(count - 1).inner_text().strip() != f"[{count}]:":
        assert time.time() < end, prompts.all_inner_texts()
        assert failed.all_inner_texts() == []  # the cells after it would never run
        if ask.is_visible():
            ask.click()
        elif not any("[ ]" not in text for text in prompts.all_inner_texts()):
            page.get_by_role("menuitem", name="Run", exact=True).click()
            page.get_by_text("Run All Cells", exact=True).click()
            time.sleep(10)
        time.sleep(1)


def keep_cells(path, texts) -> int:
    """Keep of a notebook one code cell for each text, without outputs; count them."""
    nb = nbformat.read(path, as_version=4)
    code, kept = [c for c in nb.cells if c.cell_type == "code"], []
    for text in texts:
        (cell,) = (c for c in code if text in c.source)
        cell.outputs, cell.execution_count = [], None
        kept.append(cell)
    nb.cells = kept
    nbformat.write(nb, path)
    return len(kept)


def shot(page, name: str) -> None:
    """Save a picture of the page where `GRPO_SCREENSHOTS` names a folder."""
    if folder := os.environ.get("GRPO_SCREENSHOTS"):
        page.screenshot(path=f"{folder}/jupyterlab-{name}.png")


def assert_no_warning(page) -> None:
    """Fail if a cell of the notebook that is open printed to stderr."""
    errors = page.locator('[data-mime-type="application/vnd.jupyter.stderr"]')
    assert errors.all_inner_texts() == []
