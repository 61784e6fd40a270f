"""requirements.txt can be met: on Colab, beside its whole list, and at its lowest."""

import re
import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest

from helpers.lab import colab
from tests import COLAB_LIST, ROOT

# What installing TRL moves on Colab; nothing else of its list may have to.
FREE = r"(datasets|pyarrow|fsspec|dill|multiprocess|huggingface[_-]hub)=="
# PyTorch's own, which the course never touches there: PyPI's build wants other ones.
WITH_TORCH = r"(nvidia|cuda)-|triton=="
UV = shutil.which("uv", path=sysconfig.get_path("scripts")) or shutil.which("uv")
NO_INDEX = ("Failed to fetch", "error sending request", "dns error", "Connection")


def resolve(tmp_path: Path, requirements: str, *options: str) -> str:
    """Return what uv resolves requirements to, a line a package; AssertionError if not.

    Nothing is downloaded but the packages' metadata.
    """
    if UV is None:
        pytest.skip("wants uv: pip install -r tests/requirements.txt")
    path = tmp_path / "requirements.txt"
    path.write_text(requirements)
    command = [UV, "pip", "compile", "--quiet", "--no-annotate", "--no-header"]
    command += ["--python-platform", "x86_64-manylinux_2_28", *options, str(path)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode and any(text in done.stderr for text in NO_INDEX):
        pytest.skip("wants a package index that answers")
    assert done.returncode == 0, done.stderr
    return done.stdout


def wanted() -> str:
    """requirements.txt as the set-up cell installs it: without JupyterLab."""
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    left = [name for name in colab.LEFT_ALONE if name not in ("torch", "numpy")]
    return "\n".join(line for line in lines if not line.startswith(tuple(left)))


def colabs_list(tmp_path: Path) -> Path:
    """Colab's list as constraints: a line a version, what may move left out."""
    if not COLAB_LIST.exists():
        pytest.skip("no copy of Colab's published list")
    lines = COLAB_LIST.read_text(encoding="utf-8").splitlines()
    pinned = [re.sub(r"\+\w+$", "", line) for line in lines if "==" in line]
    assert len(pinned) > 500
    kept = [p for p in pinned if not re.match(f"{FREE}|{WITH_TORCH}", p)]
    (tmp_path / "colab.txt").write_text("\n".join(kept))
    return tmp_path / "colab.txt"


def test_requirements_resolve_beside_the_whole_of_colabs_list(tmp_path):
    options = ["--python-version", "3.13", "--constraint", str(colabs_list(tmp_path))]
    found = resolve(tmp_path, wanted(), *options)
    for name in ("torch", "numpy", "pandas", "transformers", "peft", "ipython"):
        (there,) = re.findall(rf"^{name}==([\d.]+)", COLAB_LIST.read_text(), re.M)
        assert f"{name}=={there}\n" in found


@pytest.mark.colab
def test_a_requirement_that_colab_cannot_meet_is_named(tmp_path):
    options = ["--python-version", "3.13", "--constraint", str(colabs_list(tmp_path))]
    with pytest.raises(AssertionError, match=r"you require numpy|numpy==2\.1\.3"):
        resolve(tmp_path, wanted() + "\nnumpy>=2.2\n", *options)


@pytest.mark.parametrize(
    "python", ["3.11", pytest.param("3.13", marks=pytest.mark.colab)]
)
def test_the_lowest_versions_resolve(python, tmp_path):
    requirements = (ROOT / "requirements.txt").read_text()
    options = ["--python-version", python, "--resolution", "lowest-direct"]
    found = resolve(tmp_path, requirements, *options)
    lowest = re.findall(r"^(trl|transformers|peft|accelerate)>=([\d.]+)", requirements,
                        re.M)  # fmt: skip
    assert len(lowest) == 4
    for name, version in lowest:
        assert re.search(rf"^{name}=={re.escape(version)}(\.0)?$", found, re.M)
