"""The figures in the READMEs are those of the recorded files."""

import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests import RECORDED, ROOT

SCRIPT = ROOT / ".github" / "scripts" / "figures.py"
spec = importlib.util.spec_from_file_location("figures", SCRIPT)
script = importlib.util.module_from_spec(spec)
spec.loader.exec_module(script)


@pytest.fixture
def course(tmp_path) -> Path:
    """A copy of what the figures are read from and written to."""
    shutil.copy(ROOT / "README.md", tmp_path)
    chinese = ROOT / "notebooks" / "zh" / "README.md"
    for path in [*RECORDED.rglob("*.json"), RECORDED / "README.md", chinese]:
        there = tmp_path / path.relative_to(ROOT)
        there.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, there)
    for path in (ROOT / "notebooks").glob("[0-9]*.ipynb"):
        shutil.copy(path, tmp_path / "notebooks")
    return tmp_path


def change(path: Path, old: str, new: str) -> None:
    """Replace a text that stands there once."""
    text = path.read_text(encoding="utf-8")
    assert text.count(old) == 1
    path.write_text(text.replace(old, new), encoding="utf-8")


def test_every_figure_is_what_the_recorded_files_give():
    command = [sys.executable, str(SCRIPT), "--check"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "nothing found\n"), done.stderr


@pytest.mark.parametrize(
    "old,new,says",
    [
        ("63.0 and 66.5%", "63.0 and 67.5%", "'57.0, 63.0 and 67.5%' for after, not"),
        ("gains of 46.5 to 55", "gains of 46.5 to 56", "'46.5 to 56' for gains, not"),
        ("reaches 24.5% (19", "reaches 24.5% (18", "'24.5% (18 to 31)' for few_shot"),
        ("and two of the three", "and one of the three", "'one' for zero, not 'two'"),
        ("| 3.7 to 4.0 |", "| 3.6 to 4.0 |", "'3.6 to 4.0' for quick_minutes, not"),
        ("five rewards gain 32.", "five rewards gain 33.", "'33' for all_gain, not"),
        ("took 4 to 10 minutes", "took 4 to 9 minutes", "'4 to 9' for train, not"),
        (
            "| 3 on 2 CPU cores; 4",
            "| 2 on 2 CPU cores; 4",
            "'2' for notebook_01, not '3'",
        ),
    ],
)
def test_a_figure_off_by_one_is_found_and_written_back(old, new, says, course):
    path = course / "README.md"
    good = path.read_text(encoding="utf-8")
    change(path, old, new)
    (line,) = script.figures(course, write=False)
    assert line.startswith("README.md: figures:") and says in line
    assert path.read_text(encoding="utf-8") != good
    script.figures(course, write=True)
    assert path.read_text(encoding="utf-8") == good


@pytest.mark.parametrize(
    "old,new,says",
    [
        ("63.0 和 66.5%", "63.0 和 67.5%", "'57.0、63.0 和 67.5%' for after, not"),
        ("提高 46.5～55", "提高 46.5～56", "'46.5～56' for gains, not"),
        ("可达 24.5%（19", "可达 24.5%（18", "'24.5%（18～31）' for few_shot"),
        ("有 2 个包含 0", "有 1 个包含 0", "'1' for zero, not '2'"),
        ("%（共 200 题） |", "%（共 100 题） |", "57.0～66.5%（共 100 题）'"),
        ("时提高 32 个", "时提高 33 个", "'33' for all_gain, not"),
        ("的一步 | 4 分钟", "的一步 | 6 分钟", "'6' for notebook_08, not '4'"),
    ],
)
def test_the_chinese_readme_has_the_same_figures(old, new, says, course):
    path = course / "notebooks" / "zh" / "README.md"
    good = path.read_text(encoding="utf-8")
    change(path, old, new)
    (line,) = script.figures(course, write=False)
    assert line.startswith("notebooks/zh/README.md: figures:") and says in line
    script.figures(course, write=True)
    assert path.read_text(encoding="utf-8") == good


def test_check_of_the_notebooks_compares_the_figures(course, monkeypatch, capsys):
    gates = SCRIPT.with_name("notebooks.py")
    spec = importlib.util.spec_from_file_location("gates_of_figures", gates)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "ROOT", course)
    monkeypatch.setattr(module, "notebooks", lambda names=(), editions="": [])
    monkeypatch.setattr(module, "glossary_problems", lambda *_: [])
    monkeypatch.setattr(module, "edition_problems", lambda *_: [])
    monkeypatch.setattr(sys, "argv", ["notebooks.py", "check"])
    monkeypatch.syspath_prepend(str(gates.parent))
    assert module.main() == 0 and capsys.readouterr().out == "nothing found\n"
    change(course / "README.md", "| 3.7 to 4.0 |", "| 3.7 to 4.1 |")
    assert module.main() == 1
    assert "'3.7 to 4.1' for quick_minutes, not '3.7" in capsys.readouterr().out


def test_other_recorded_files_are_other_figures(course):
    path = course / "notebooks" / "recorded" / "cpu-seed2" / "evaluation.json"
    found = json.loads(path.read_text())
    found["splits"]["test"]["after"]["strict"]["rate"] = 0.7
    path.write_text(json.dumps(found))
    # Two texts, and `as *strict*`, in each language.
    assert len(script.figures(course, write=True)) == 6
    text = (course / "README.md").read_text(encoding="utf-8")
    assert "57.0, 63.0 and 70.0% after" in text and "57.0 to 70.0% of 200" in text
    assert script.figures(course, write=False) == []


def test_marks_and_texts_that_are_gone_are_said(course):
    path = course / "README.md"
    change(path, "<!-- figures:machines -->", "")
    change(path, "each paired 95% interval from", "every paired interval from")
    assert script.figures(course, write=True) == [
        "README.md: figures:result does not say 'each paired 95% interval from "
        "{above} up.' any more",
        "README.md: the marks <!-- figures:machines --> … are gone",
    ]
