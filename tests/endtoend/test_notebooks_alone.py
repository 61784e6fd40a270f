"""Each notebook passes alone, in a clean copy of the course, without a network."""

import os
import subprocess
import sys

import pytest

from tests import ROOT

FOLDER = ROOT / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("[0-9]*.ipynb"))
# Three that take little. That all of the Chinese code is the English is proven by
# tests/notebooks/test_editions.py and `notebooks.py check`.
for number in ("02", "03", "07"):
    NOTEBOOKS += (FOLDER / "zh").glob(f"{number}_*.ipynb")


def name(path) -> str:
    """A notebook's path under notebooks/, without its ending."""
    return path.relative_to(FOLDER).with_suffix("").as_posix()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=name)
def test_a_notebook_passes_alone_without_network(path, clone, embedded_model):
    nowhere = "http://127.0.0.1:9"
    names = ("HTTPS_PROXY", "HTTP_PROXY", "PIP_INDEX_URL", "HF_ENDPOINT")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", f"notebooks/{name(path)}.ipynb"],
        cwd=clone,
        env=os.environ | dict.fromkeys(names, nowhere),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    assert " passed" in done.stdout and "skipped" not in done.stdout
