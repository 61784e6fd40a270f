"""Notebook 00 in JupyterLab, in the Chromium of this machine."""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request

import nbformat
import pytest

playwright = pytest.importorskip("playwright.sync_api")
NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next(filter(None, map(shutil.which, NAMES)), None)
QUIET = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine"),
]
# Cells out of sight are there too, so that the page can be asked about them.
SETTINGS = '{"windowingMode": "none"}'


@pytest.fixture
def jupyterlab(clone, tmp_path):
    """The address of a JupyterLab that serves a copy of the course."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = tmp_path / "settings" / "@jupyterlab" / "notebook-extension"
    settings.mkdir(parents=True)
    (settings / "tracker.jupyterlab-settings").write_text(SETTINGS)
    own = {"JUPYTERLAB_SETTINGS_DIR": str(tmp_path / "settings")}
    own |= {"JUPYTER_CONFIG_DIR": str(tmp_path / "config"), "GRPO_PROFILE": "smoke"}
    command = [sys.executable, "-m", "jupyter", "lab", "--no-browser", "--allow-root"]
    command += [f"--port={port}", "--ServerApp.port_retries=0"]
    command += ["--IdentityProvider.token=", f"--ServerApp.root_dir={clone}"]
    command += ["--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate"]
    command += ["--LabApp.news_url=None"]
    with open(tmp_path / "lab.log", "w") as log:
        both = {"stdout": log, "stderr": log}
        server = subprocess.Popen(command, env=os.environ | own, **both)
        try:
            address = f"http://127.0.0.1:{port}"
            for _ in range(120):
                try:
                    urllib.request.urlopen(f"{address}/api/status").close()
                    break
                except OSError:
                    assert server.poll() is None, (tmp_path / "lab.log").read_text()
                    time.sleep(0.5)
            yield address
        finally:
            server.terminate()
            server.wait(30)


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
    while prompts.nth(count - 1).inner_text().strip() != f"[{count}]:":
        assert time.time() < end, prompts.all_inner_texts()
        if ask.is_visible():
            ask.click()
        elif not any("[ ]" not in text for text in prompts.all_inner_texts()):
            page.get_by_role("menuitem", name="Run", exact=True).click()
            page.get_by_text("Run All Cells", exact=True).click()
            time.sleep(10)
        time.sleep(1)


def test_00_runs_to_its_end_in_jupyterlab(jupyterlab, clone, embedded_model):
    path = clone / "notebooks" / "00_start_here.ipynb"
    nb = nbformat.read(path, as_version=4)
    for cell in nb.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    nbformat.write(nb, path)
    count = sum(cell.cell_type == "code" for cell in nb.cells)
    with playwright.sync_playwright() as driver:
        options = {"executable_path": CHROMIUM, "args": [*QUIET, "--no-first-run"]}
        browser = driver.chromium.launch(**options)
        page = browser.new_page(viewport={"width": 1300, "height": 1000})
        run_all(page, jupyterlab, path.name, count)
        figures = page.locator(".jp-OutputArea-output img")
        assert figures.count() == 2
        for number in range(2):
            figure = figures.nth(number)
            figure.scroll_into_view_if_needed()
            assert figure.is_visible()
            assert figure.evaluate("image => image.naturalWidth") > 400
        errors = page.locator('[data-mime-type="application/vnd.jupyter.stderr"]')
        assert errors.all_inner_texts() == []
        if folder := os.environ.get("GRPO_SCREENSHOTS"):
            page.screenshot(path=f"{folder}/jupyterlab-00.png")
        page.keyboard.press("Control+s")
        browser.close()
