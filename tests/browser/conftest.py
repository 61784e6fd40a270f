"""A JupyterLab and a page of a headless Chromium: both are started here alone."""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request

import pytest

pytest.register_assert_rewrite("tests.browser.driving")
NAMES = ("chromium", "chromium-browser", "google-chrome")
QUIET = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
# Cells out of sight are there too, so that the page can be asked about them.
SETTINGS = '{"windowingMode": "none"}'


@pytest.fixture(scope="session")
def chromium() -> str:
    """The Chromium of this machine; without one, or playwright, the test is skipped."""
    pytest.importorskip("playwright.sync_api")
    found = next(filter(None, map(shutil.which, NAMES)), None)
    return found or pytest.skip("no Chromium on this machine")


@pytest.fixture
def expect(chromium):
    """Playwright's assertions, which wait for the page."""
    from playwright.sync_api import expect

    return expect


@pytest.fixture
def page(chromium):
    """A page of a headless Chromium; what is open is saved at the end."""
    from playwright.sync_api import sync_playwright

    options = {"executable_path": chromium, "args": [*QUIET, "--no-first-run"]}
    with sync_playwright() as driver:
        browser = driver.chromium.launch(**options)
        page = browser.new_page(viewport={"width": 1300, "height": 1200})
        yield page
        page.keyboard.press("Control+s")
        browser.close()


@pytest.fixture
def jupyterlab(chromium, clone, tmp_path):
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
