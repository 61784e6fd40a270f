"""The teachers' page: its minutes and points are those of the notebooks.

The Chinese page has the English one's numbers: row by row in its tables, as a whole
in the text of each section.
"""

import re
from itertools import zip_longest

import pytest

from tests import ROOT
from tests.notebooks.cells import cells

PAGE = (ROOT / "notebooks" / "TEACHING.md").read_text(encoding="utf-8")
CHINESE = (ROOT / "notebooks" / "zh" / "TEACHING.md").read_text(encoding="utf-8")
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


NUMBER = re.compile(r"\d+(?:[.:]\d+)*")


def sections(page: str) -> list[tuple[list[str], str]]:
    """The rows of the tables and the rest of each section, the page's head first.

    Addresses are left out: their numbers are nobody's minutes.
    """
    found = []
    for part in re.sub(r"\]\([^)]*\)", "]", page).split("\n## "):
        lines = part.splitlines()
        rows = [line for line in lines if line.startswith("|")]
        found.append((rows, "\n".join(line for line in lines if line not in rows)))
    return found


def differences(english: str, other: str) -> list[str]:
    """Which rows of two pages, cell by cell, or texts of sections differ in numbers."""
    said = []
    for number, both in enumerate(zip_longest(sections(english), sections(other))):
        if None in both:
            return [*said, "one of the pages has more sections"]
        (rows, text), (other_rows, other_text) = both
        for row, its in zip_longest(rows, other_rows, fillvalue=""):
            a, b = ([sorted(NUMBER.findall(cell)) for cell in each.split("|")]
                    for each in (row, its))  # fmt: skip
            said += [] if a == b else [f"{its} in place of {row}"]
        if missing := set(NUMBER.findall(text)) ^ set(NUMBER.findall(other_text)):
            said.append(f"section {number}: {sorted(missing)}")
    return said


def test_the_chinese_page_has_the_numbers_of_the_english_one():
    assert differences(PAGE, CHINESE) == []


@pytest.mark.parametrize(
    "before,after,says",
    [
        ("| 3.8 | 20 | 3 |", "| 3.8 | 20 | 2 |", "| 3.8 | 20 | 2 |"),
        ("| 3 | 155 | 8 |", "| 3 | 165 | 8 |", "| 3 | 165 | 8 |"),
        ("| 15 | 60 |", "| 60 | 15 |", "| 60 | 15 |"),
        ("| 0:55 | ", "| 0:45 | ", "| 0:45 | "),
        ("3.1 到 3.4 |", "3.1 到 3.5 |", "3.1 到 3.5 |"),
        ("371 分钟", "317 分钟", "['317', '371']"),
        ("\n| 9.4 |", "\n9.4 |", " in place of | 9.4 |"),
        ("\n## 半天", "\n半天", "one of the pages has more sections"),
    ],
)
def test_another_number_in_the_chinese_page_is_named(before, after, says):
    assert before in CHINESE
    found = differences(PAGE, CHINESE.replace(before, after, 1))
    assert any(says in line for line in found), found
