"""The picture of the loop: what it draws is what a recorded run did."""

import importlib.util

import pytest
import torch

from helpers import CourseError
from helpers.grpo import group_advantages
from helpers.lab.loop import PARTS, one_line, plot_loop, read_group
from helpers.runs import read_log
from tests import RECORDED, ROOT

NOTEBOOKS = RECORDED.parent
spec = importlib.util.spec_from_file_location(
    "record", ROOT / ".github/scripts/record.py"
)
record = importlib.util.module_from_spec(spec)
spec.loader.exec_module(record)
GROUPS = sorted(path.parent for path in RECORDED.glob("cpu*/group.json"))


def texts(figure) -> list[str]:
    """The texts of a figure."""
    return [text.get_text() for text in figure.axes[0].texts]


@pytest.mark.parametrize("run", GROUPS, ids=lambda run: run.name)
def test_a_groups_advantages_follow_from_its_rewards(run):
    group = read_group(run)
    rewards = torch.tensor(group["rewards"])
    assert len(group["completions"]) == len(rewards) == 8
    assert group_advantages(rewards, 8).tolist() == pytest.approx(
        group["advantages"], abs=1e-3
    )
    steps = [row["step"] for row in read_log(run)]
    assert group["step"] in steps


def test_each_completion_is_drawn_with_its_numbers_and_its_direction():
    group = {"question": "6 x 7?", "answer": "42", "step": 1}
    group |= {"completions": ["<answer>\n42", "13", "?"], "rewards": [2.0, 0.125, 1.0]}
    group |= {"advantages": [1.04, -0.96, 0.0]}
    drawn = texts(plot_loop(group, "rewards"))
    assert [text for text in drawn if text in ("<answer>↵42", "13", "?")] == [
        "<answer>↵42",
        "13",
        "?",
    ]
    assert {"2", "0.125", "1", "+1.04", "-0.96", "+0.00"} <= set(drawn)
    ways = [text for text in drawn if text[:1] in tuple("▲▼") or text == "as it is"]
    assert ways == ["▲ likelier", "▼ less likely", "as it is"]
    assert "6 x 7?" in drawn[len(PARTS)] and "42" in drawn[len(PARTS)]


def test_the_marked_parts_alone_are_bold():
    group = read_group(GROUPS[0])
    for mark in PARTS:
        headings = plot_loop(group, mark).axes[0].texts[: len(PARTS)]
        bold = [text.get_text() for text in headings if text.get_weight() == "bold"]
        assert bold == [PARTS[mark][0]]
    several = plot_loop(group, ("rewards", "update")).axes[0].texts[: len(PARTS)]
    assert [t.get_weight() == "bold" for t in several] == [
        False,
        False,
        True,
        False,
        True,
    ]
    with pytest.raises(CourseError, match="mark is 'clip'; use one of prompt, compl"):
        plot_loop(group, "clip")


def test_notebooks_03_and_08_show_the_loop_with_their_own_parts_marked():
    texts = {path.name[:2]: path.read_text() for path in NOTEBOOKS.glob("*.ipynb")}
    for number, parts in record.MARKED.items():
        picture = f"loop-{number}.png"
        assert (RECORDED / picture).stat().st_size < 120_000 and set(parts) <= set(
            PARTS
        )
        assert f"](recorded/{picture})" in texts[number]


def test_a_run_without_a_group_says_so(tmp_path):
    with pytest.raises(CourseError, match=r"has no group\.json, take a recorded"):
        read_group(tmp_path)


def test_a_long_text_is_cut_to_the_width():
    assert one_line(" a\nb\n", 5) == "a↵b"
    assert one_line("123456", 5) == "12…56" and one_line("1234567", 6) == "123…67"
    assert one_line("x" * 90, 62) == "x" * 31 + "…" + "x" * 30
