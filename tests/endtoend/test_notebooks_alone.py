"""Each notebook passes alone, in a clean copy of the course, without a network."""

import os
import subprocess
import sys

import pytest

from tests import ROOT

NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_passes_alone_without_network(path, clone, embedded_model):
    nowhere = "http://127.0.0.1:9"
    names = ("HTTPS_PROXY", "HTTP_PROXY", "PIP_INDEX_URL", "HF_ENDPOINT")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", f"notebooks/{path.name}"],
        cwd=clone,
        env=os.environ | dict.fromkeys(names, nowhere),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    assert " passed" in done.stdout and "skipped" not in done.stdout
