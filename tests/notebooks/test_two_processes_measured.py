"""What notebook 09 says of a step on two processes is what its recorded file holds."""

import importlib.util
import json
from statistics import median

import numpy as np
import pytest

from helpers.lab.budget import architecture, count_parameters
from helpers.profiles import ATTENTION, PROFILES, SMOL, override
from tests import ROOT
from tests.notebooks.cells import cells

FILE = ROOT / "notebooks" / "recorded" / "two_processes" / "measured.json"
MEASURED = json.loads(FILE.read_text())
PARTS = ("generation", "forward", "backward")
spec = importlib.util.spec_from_file_location(
    "measure", ROOT / ".github" / "scripts" / "measure_processes.py"
)
measure = importlib.util.module_from_spec(spec)
spec.loader.exec_module(measure)


def middle(case: tuple[int, int, int], part: str) -> float:
    """The median of a part over all steps of (processes, threads, completions)."""
    keys = ("processes", "threads", "completions")
    found = [x for x in MEASURED["cases"] if tuple(x[key] for key in keys) == case]
    return median(step[part] for each in found for step in each["steps"])


def test_the_file_holds_what_the_script_measures():
    keys = ("processes", "threads", "completions")
    cases = [tuple(case[key] for key in keys) for case in MEASURED["cases"]]
    assert cases == measure.CASES * measure.ROUNDS
    assert MEASURED["settings"] == ["profile cpu_quick", *measure.CUT]
    override(PROFILES["cpu_quick"], measure.CUT)  # which are still settings
    for case in MEASURED["cases"]:
        assert len(case["steps"]) == measure.STEPS - 1
        for step in case["steps"]:
            assert 0 < sum(step[part] for part in PARTS) <= step["whole"]
        assert ("all_reduce" in case) == (case["processes"] == 2)
    assert MEASURED["machine"]["cores"] == 2 and MEASURED["machine"]["cpu"]
    assert FILE.stat().st_size < 30_000


def test_the_adapters_bytes_are_those_that_were_added_up():
    size = 4 * count_parameters(architecture(SMOL), 8, ATTENTION)
    for case in MEASURED["cases"]:
        if case["processes"] == 2:
            assert sorted(map(int, case["all_reduce"])) == [4, size]


def fitted(part: str) -> tuple[float, float]:
    """The fixed seconds of a part, and those of each completion, of one process."""
    sizes = np.array([8, 16, 32])
    spent = np.array([middle((1, 1, size), part) for size in sizes])
    table = np.stack([np.ones(3), sizes], 1)
    fixed, each = np.linalg.lstsq(table, spent, rcond=None)[0]
    return fixed, each


def quoted() -> dict[str, str]:
    """Each figure of section 9.5's text that comes from the file, as it is written."""
    whole = {case: middle(case, "whole") for case in measure.CASES}
    one, two = whole[1, 1, 32], whole[2, 1, 32]
    lines = {part: fitted(part) for part in PARTS}
    model = sum(fixed + 16 * each for fixed, each in lines.values())
    real = sum(middle((2, 1, 32), part) for part in PARTS)
    fixed = sum(fixed for fixed, _ in lines.values())
    return {
        "two processes against one": f"{one / two:.2f} times as fast",
        "two threads against one": f"{one / whole[1, 2, 32]:.2f} times",
        "one process": f"{one:.1f} s",
        "two processes": f"{two:.1f} s",
        "fixed generation": f"{lines['generation'][0]:.1f} s of generation",
        "fixed in all": f"{fixed:.1f} s in all",
        "off by": f"{100 * (real / model - 1):+.0f}%".replace("-", "−"),
    }


@pytest.mark.parametrize("figure", quoted())
def test_the_text_quotes_what_was_measured(figure):
    text = "\n".join(c.source for c in cells("09") if c.cell_type == "markdown")
    section = text.partition("## 9.5 ")[2].partition("## 9.6 ")[0]
    assert quoted()[figure] in section, (figure, quoted()[figure])
