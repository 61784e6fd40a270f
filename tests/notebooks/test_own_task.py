"""Notebook 10: its cells are notebooks/my_task.py; what the recorded runs show."""

import json

import pandas as pd
import pytest
from IPython.core.interactiveshell import InteractiveShell

from helpers import CourseError
from helpers.lab.own_task import join_parts, write_parts
from helpers.runs import load_run, read_log
from helpers.scoring import SCORES, summarize
from helpers.task import get_task_questions, load_task, score_task
from tests import RECORDED, ROOT
from tests.notebooks.cells import cells
from tests.notebooks.test_recorded import flat

TASK = ROOT / "notebooks" / "my_task.py"
RUNS = [RECORDED / f"own_task-seed{seed}" for seed in range(3)]


def test_the_cells_of_10_are_the_file_beside_it():
    sources = [cell.source for cell in cells("10") if cell.cell_type == "code"]
    assert join_parts("my_task.py", sources) == TASK.read_text(encoding="utf-8")


def test_parts_are_joined_in_order_and_the_last_version_counts():
    said = [
        "# my_task.py, part 2: b\ny = x\n",
        "print(1)",
        "# my_task.py, part 1\nx = 0",
    ]
    wanted = "# my_task.py, part 1\nx = 1\n\n\n# my_task.py, part 2: b\ny = x\n"
    assert join_parts("my_task.py", [*said, "# my_task.py, part 1\nx = 1"]) == wanted
    with pytest.raises(CourseError, match="part 1 was not run; run it first"):
        join_parts("my_task.py", said[:2])
    with pytest.raises(CourseError, match="part 1 was not run"):
        join_parts("other.py", said)


@pytest.mark.parametrize("history", [True, False])
def test_the_last_version_of_a_cell_is_written(history, tmp_path, monkeypatch):
    """Also where cells are run without a history, as nbval runs them."""
    shell = InteractiveShell()
    monkeypatch.setattr("helpers.lab.own_task.get_ipython", lambda: shell)
    monkeypatch.chdir(tmp_path)
    for place in (1, 2):
        cell = f"# {tmp_path.name}.py, part {place}\nx = {place}{history:d}"
        shell.run_cell(cell, store_history=history)
    path = write_parts(f"{tmp_path.name}.py")
    assert path.read_text().count("\nx = ") == 2
    assert path.read_text().endswith(f"x = 2{history:d}\n")
    if history:  # an older version that is run again
        for number in (5, 6, 5):
            shell.run_cell(f"# {path}, part 1\nx = {number}", store_history=True)
        assert "x = 5\n" in write_parts(str(path)).read_text()


def test_nothing_of_the_test_was_in_training():
    rows = load_task(TASK).rows
    assert (len(rows["train"]), len(rows["test"])) == (900, 200)
    seen = {split: set() for split in rows}
    for split, problems in rows.items():
        for row in problems:
            note, values = row["question"].split("\n")[1], json.loads(row["answer"])
            for key, value in values.items():
                seen[split].add(str(value))
                assert str(value) in note
                note = note.replace(str(value), f"<{key}>")
            seen[split].add(note)
    assert seen["train"] & seen["test"] == set()


@pytest.mark.parametrize("run", RUNS, ids=lambda run: run.name)
def test_a_recorded_run_is_whole_and_its_figures_follow(run):
    profile, seed = load_run(run)
    assert (profile.name, seed) == ("cpu_quick-my_task", int(run.name[-1]))
    assert (run / "my_task.py").read_bytes() == TASK.read_bytes()
    steps = [row["step"] for row in read_log(run)]
    assert steps == list(range(1, profile.grpo["max_steps"] + 1))
    frame = pd.read_parquet(run / "evaluation.parquet")
    asked = get_task_questions(TASK, "test", profile.num_eval)
    for _, rows in frame.groupby("which"):
        rows = rows.sort_values("index")
        assert rows["question"].tolist() == asked["question"][:]
        scores = score_task(TASK, asked, rows["completion"].tolist())
        for name in SCORES:
            assert scores[name].tolist() == rows[name].tolist()
    summary = json.loads((run / "evaluation.json").read_text())["splits"]["test"]
    assert flat(summarize(frame)) == pytest.approx(flat(summary), abs=0.01)
    for text in run.rglob("*.json*"):
        content = text.read_text(encoding="utf-8")
        assert not any(word in content for word in ("/root", "/home", "/tmp", "/work"))


@pytest.mark.parametrize("run", RUNS, ids=lambda run: run.name)
def test_the_gain_is_what_10_promises(run):
    part = json.loads((run / "evaluation.json").read_text())["splits"]["test"]
    assert part["difference"]["strict"]["low"] > 0
    assert part["difference"]["lenient"]["low"] > 0
    assert part["after"]["strict"]["low"] > part["few_shot"]["strict"]["rate"]
