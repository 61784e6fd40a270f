"""JupyterLab and a headless Chromium, for the tests of test_browser*.py."""

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
def page():
    """A page of a headless Chromium; what is open is saved at the end."""
    options = {"executable_path": CHROMIUM, "args": [*QUIET, "--no-first-run"]}
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(**options)
        page = browser.new_page(viewport={"width": 1300, "height": 1200})
        yield page
        page.keyboard.press("Control+s")
        browser.close()


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
    failed = page.locator('[data-mime-type="application/vnd.jupyter.error"]')
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
