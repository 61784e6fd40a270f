"""The teachers' page: its minutes and points are those of the notebooks."""

import re

import pytest

from tests import ROOT
from tests.notebooks.cells import cells

PAGE = (ROOT / "notebooks" / "TEACHING.md").read_text(encoding="utf-8")
NUMBERS = [f"{number:02}" for number in range(11)]
POINTS = {"easy": 1, "medium": 2, "hard": 3}
TITLE = re.compile(r"^### Exercise (\S+): .* \((\w+), (\d+) minutes\)$", re.MULTILINE)


def exercises() -> dict[str, tuple[int, int]]:
    """Minutes and points of each exercise, from its title."""
    texts = [cell.source for number in NUMBERS for cell in cells(number)]
    found = TITLE.findall("\n".join(texts))
    return {name: (int(minutes), POINTS[level]) for name, level, minutes in found}


def test_the_rubric_has_every_exercise_with_its_minutes_and_points():
    rows = re.findall(r"^\| (\d+\.\d+) \| (\d+) \| (\d) \| \S", PAGE, re.MULTILINE)
    listed = {name: (int(minutes), int(points)) for name, minutes, points in rows}
    assert list(listed.items()) == list(exercises().items())
    minutes, points = map(sum, zip(*listed.values(), strict=True))
    assert f"{len(rows)} exercises, {minutes} minutes, {points} points" in PAGE


@pytest.mark.parametrize("number", NUMBERS)
def test_minutes_to_read_and_solve_are_the_first_cells(number):
    (row,) = re.findall(rf"^\| \[{number}\]\(.*", PAGE, re.MULTILINE)
    stated = r"(\d+)(?= to read and solve)|to read and solve \| (\d+)"
    first = re.search(stated, cells(number)[0].source)
    assert row.split(" | ")[-2] == (first[1] or first[2])


def test_four_weeks_are_the_whole_course():
    plan = PAGE.partition("## Four weeks")[2].partition("\n## ")[0]
    weeks = re.findall(r"\| (\d+) \| [^|]*\|$", plan, re.MULTILINE)
    table = PAGE.partition("## Minutes")[2].partition("\n## ")[0]
    notebooks = re.findall(r"\| (\d+) \| \d+ \|$", table, re.MULTILINE)
    assert len(notebooks) == len(NUMBERS)
    assert sum(map(int, weeks)) == sum(map(int, notebooks))


def test_a_day_has_the_minutes_that_its_clock_leaves():
    plan = PAGE.partition("## A day")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (\d):(\d\d) \| .* \| (\d*) ?\| [^|]*\|$", plan, re.M)
    clock = [60 * int(hours) + int(minutes) for hours, minutes, _ in rows]
    for begun, over, (_, _, needed) in zip(clock, clock[1:], rows, strict=False):
        assert over - begun >= int(needed or 0)
