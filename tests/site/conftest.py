"""The scripts of the site, and the site itself, built once where it is asked for."""

import os
import sys
from pathlib import Path

import pytest

from tests import ROOT
from tests.browser.conftest import QUIET, chromium  # noqa: F401

SCRIPTS = ROOT / ".github" / "scripts"


@pytest.fixture(scope="session", autouse=True)
def scripts():
    """Make the modules beside site.py importable, as they are to site.py."""
    sys.path.insert(0, str(SCRIPTS))
    yield
    sys.path.remove(str(SCRIPTS))


@pytest.fixture(scope="session")
def site(scripts):
    """The module site.py, under a name that the standard library has not."""
    import importlib.util

    spec = importlib.util.spec_from_file_location("course_site", SCRIPTS / "site.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def built(site, tmp_path_factory) -> tuple[Path, list[str]]:
    """The folder of the whole site, and the warnings of its making."""
    if not os.environ.get("GRPO_TEST_SITE"):
        pytest.skip("builds the whole site; set GRPO_TEST_SITE=1")
    for name in ("sphinx", "myst_nb", "sphinx_book_theme", "sphinx_revealjs"):
        pytest.importorskip(name, reason="pip install -r .github/site/requirements.txt")
    out = tmp_path_factory.mktemp("site") / "html"
    known = site.editions()
    warnings = site.build(out, known)
    site.slides.build(out, known)
    return out, warnings


@pytest.fixture(scope="session")
def browser(chromium):  # noqa: F811
    """A headless Chromium."""
    from playwright.sync_api import sync_playwright

    options = {"executable_path": chromium, "args": [*QUIET, "--no-first-run"]}
    with sync_playwright() as driver:
        browser = driver.chromium.launch(**options)
        yield browser
        browser.close()
