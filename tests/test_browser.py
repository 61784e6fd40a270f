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


def run_all(page, address: str, name: str) -> None:
    """Open a notebook, wait for its kernel, and choose Run > Run All Cells."""
    page.goto(f"{address}/lab/tree/notebooks/{name}", timeout=120_000)
    page.wait_for_selector(".jp-Notebook .jp-CodeCell", timeout=60_000)
    idle = page.locator('.jp-Notebook-ExecutionIndicator[data-status="idle"]')
    ask = page.get_by_role("button", name="Select Kernel")  # on a busy machine
    playwright.expect(idle.or_(ask).first).to_be_visible(timeout=60_000)
    if ask.is_visible():
        ask.click()
    idle.wait_for(timeout=60_000)
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_text("Run All Cells", exact=True).click()


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
        run_all(page, jupyterlab, path.name)
        last = page.locator(".jp-CodeCell .jp-InputPrompt").nth(count - 1)
        playwright.expect(last).to_have_text(f"[{count}]:", timeout=300_000)
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
