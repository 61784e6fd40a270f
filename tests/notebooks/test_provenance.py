"""What notebooks and recorded files say of how they were made agrees, and is admitted.

The rules of one notebook stand in .github/scripts/notebooks.py; here is what holds
between notebooks, recorded runs, requirements.txt and pyproject.toml.
"""

import copy
import datetime
import functools
import json
import re
import tomllib

import nbformat
import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from helpers.runs import PACKAGES, read_log
from tests import RECORDED, ROOT

FIELDS = ("cpu", "cores", "memory_gb", "system", "python", *PACKAGES)
# Runs that are compared with each other were made alike.
FOLDER = ROOT / "notebooks"
NOTEBOOKS = [*sorted(FOLDER.glob("[0-9]*.ipynb")), *sorted(FOLDER.glob("zh/*.ipynb"))]
ALIKE = ("cpu-seed", "cpu_quick-seed", "own_task-seed", "gpu_fp16-seed", "sick/")


@functools.cache
def stamps() -> dict[str, dict]:
    """The machine, with the date, of each notebook and each recorded file."""
    found = {}
    for path in NOTEBOOKS:
        course = nbformat.read(path, as_version=4).metadata.course
        found[path.relative_to(FOLDER).as_posix()] = dict(course["machine"]) | {
            "date": course["date"]
        }
    for path in sorted(RECORDED.rglob("*.json")):
        made = json.loads(path.read_text(encoding="utf-8"))
        if path.name == "config.json" or "machine" in made:
            begun = made.get("started")
            date = begun and datetime.datetime.fromtimestamp(begun, datetime.UTC)
            date = made.get("date") or (date and date.date().isoformat())
            name = path.relative_to(RECORDED).as_posix().removesuffix("/config.json")
            found[name] = made.get("machine", {}) | {"date": date}
    return found


def admitted() -> dict[str, SpecifierSet]:
    """What requirements.txt admits of each package, and pyproject.toml of Python."""
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    wanted = [Requirement(line) for line in lines if re.match(r"\w", line)]
    python = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    found = {each.name: each.specifier for each in wanted}
    return found | {"python": SpecifierSet(python["requires-python"])}


def wrong(made: dict[str, dict], known: dict[str, SpecifierSet]) -> list[str]:
    """What does not agree, a line each."""
    lines = []
    for name, stamp in made.items():
        lines += [f"{name}: nothing says with which {field} it was made"
                  for field in (*FIELDS, "date") if not stamp.get(field)]  # fmt: skip
        lines += [
            f"{name} was made with {package} {stamp[package]}, and {package}{spec} "
            "is wanted"
            for package, spec in known.items()
            if stamp.get(package)
            if not spec.contains(stamp[package], prereleases=True)
        ]
    groups = {start: [n for n in made if n.startswith(start)] for start in ALIKE}
    groups["notebooks"] = [name for name in made if name.endswith(".ipynb")]
    for group, names in groups.items():
        for field in ("cpu", *PACKAGES) if group != "notebooks" else PACKAGES:
            kinds = {made[name].get(field): name for name in names}
            if len(kinds) > 1:
                each = ", ".join(f"{name} {kind}" for kind, name in kinds.items())
                lines.append(f"{group}: not all with the same {field}: {each}")
    for package in ("trl", "torch"):
        # Where a GPU was lent, torch was the one that was there, as on Colab.
        here = {name: stamp for name, stamp in made.items() if not stamp.get("gpu")}
        kinds = {s.get(package, "").rpartition(".")[0]: n for n, s in here.items()}
        if len(kinds) > 1:
            each = ", ".join(f"{name} {kind}" for kind, name in sorted(kinds.items()))
            lines.append(f"not all with the same {package}: {each}")
    return lines


def test_all_that_is_recorded_says_how_and_agrees():
    assert len(stamps()) > 30
    assert wrong(stamps(), admitted()) == []


@pytest.mark.parametrize(
    "name,field,value,says",
    [
        ("cpu-seed0", "trl", "1.17.0", "cpu-seed0 was made with trl 1.17.0, and trl<"),
        ("cpu-seed1", "cpu", "AMD EPYC", "cpu-seed: not all with the same cpu: "),
        ("own_loop.json", "torch", "2.11.0", "not all with the same torch: own_loop"),
        ("sick/healthy", "cpu", "", "sick/healthy: nothing says with which cpu it"),
        ("cpu-seed2", "date", None, "cpu-seed2: nothing says with which date it was"),
        ("05_train_with_trl.ipynb", "peft", "0.20.0", "notebooks: not all with the sa"),
        ("cpu-seed0", "python", "3.10.1", "cpu-seed0 was made with python 3.10.1, and"),
    ],
)
def test_a_stamp_that_disagrees_is_named(name, field, value, says):
    made = copy.deepcopy(stamps())
    made[name][field] = value
    assert any(line.startswith(says) for line in wrong(made, admitted()))


@pytest.mark.parametrize(
    "path",
    NOTEBOOKS,
    ids=lambda path: path.relative_to(FOLDER).with_suffix("").as_posix(),
)
def test_the_versions_that_a_notebook_prints_are_those_of_its_stamp(path):
    nb = nbformat.read(path, as_version=4)
    cell = next(cell for cell in nb.cells if cell.cell_type == "code")
    (printed,) = (out.text for out in cell.outputs)
    machine = nb.metadata.course.machine
    shown = [f"{name} {machine[name]}" for name in ("python", *PACKAGES)]
    assert printed.strip().endswith(", ".join(shown))
    assert printed.startswith(f"{machine.cpu}, {machine.cores} cores, ")


def test_minutes_of_train_are_possible():
    """More than to the last step, less than with another evaluation as at the start."""
    minutes = json.loads((RECORDED / "minutes.json").read_text())["minutes"]
    for recipe, took in minutes.items():
        least, most = [], []
        for seed in range(3):
            run = RECORDED / f"{recipe}-seed{seed}"
            begun = json.loads((run / "config.json").read_text())["started"]
            log = read_log(run)
            to_the_last = log[-1]["time"] - begun
            least.append(to_the_last / 60)
            before = log[0]["time"] - begun - log[0]["step_time"]
            most.append((to_the_last + before) / 60)
        assert min(least) < min(took) < min(most) + 0.05
        assert max(least) < max(took) < max(most) + 0.05
        if len(took) == 3:
            limits = zip(least, took, most, strict=True)
            assert all(low < t < high + 0.05 for low, t, high in limits)
