"""What the tests take for Colab is Colab: its versions, and what it lets one import."""

import ast
import re

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from helpers.lab import colab
from tests import COLAB_LIST, ROOT
from tests.calls import texts

VERSIONS = ROOT / "tests" / "endtoend" / "colab_versions.txt"
STAND_IN = ROOT / "tests" / "endtoend" / "google_colab"


def pins(text: str) -> dict[str, str]:
    """The versions of a list of packages, without local parts such as +cu128."""
    found = re.findall(r"^([\w.-]+)==([^+\s]+)", text, re.MULTILINE)
    return {canonicalize_name(name): version for name, version in found}


def disagreements(ours: dict[str, str], theirs: dict[str, str]) -> list[str]:
    """Where our list of Colab's versions is not Colab's."""
    return [
        f"{name} {version} in colab_versions.txt, {theirs.get(name, 'gone')} on Colab"
        for name, version in ours.items()
        if theirs.get(name) != version
    ]


def refused(versions: dict[str, str], requirements: str) -> list[str]:
    """Which of Colab's versions requirements.txt does not admit."""
    lines = [line for line in requirements.splitlines() if re.match(r"\w", line)]
    return [
        f"Colab has {wanted.name} {versions[wanted.name]}, and {wanted} refuses it"
        for wanted in map(Requirement, lines)
        if wanted.name in versions
        if not wanted.specifier.contains(versions[wanted.name])
    ]


def imported() -> set[str]:
    """What helpers and notebooks import from google.colab."""
    names = set()
    for text in texts().values():
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ImportFrom) and node.module == "google.colab":
                names |= {alias.name for alias in node.names}
    return names


@pytest.mark.skipif(not COLAB_LIST.exists(), reason="no copy of Colab's published list")
def test_the_list_of_the_tests_is_colabs():
    theirs = pins(COLAB_LIST.read_text(encoding="utf-8"))
    assert disagreements(pins(VERSIONS.read_text()), theirs) == []
    requirements = (ROOT / "requirements.txt").read_text()
    assert refused(theirs, requirements) == []


def test_requirements_admit_what_colab_brings():
    versions = pins(VERSIONS.read_text())
    assert refused(versions, (ROOT / "requirements.txt").read_text()) == []
    assert set(colab.KEPT) <= versions.keys()


def test_the_stand_in_has_what_is_imported_from_google_colab():
    assert imported() == {"drive"}
    for name in imported():
        assert (STAND_IN / f"{name}.py").exists()


def test_an_image_that_moved_is_caught():
    ours, theirs = {"numpy": "2.1.3", "torchao": "0.10.0"}, {"numpy": "2.3.0"}
    assert disagreements(ours, theirs) == [
        "numpy 2.1.3 in colab_versions.txt, 2.3.0 on Colab",
        "torchao 0.10.0 in colab_versions.txt, gone on Colab",
    ]
    assert refused({"numpy": "2.1.3"}, "# numbers\nnumpy>=2.2,<3\n") == [
        "Colab has numpy 2.1.3, and numpy<3,>=2.2 refuses it"
    ]
