"""Every exercise of every notebook: solution, stub, wrong answers; never an error."""

import ast
import importlib
import pkgutil
import re
import symtable
import tomllib
from pathlib import Path

import nbformat
import pytest
from hypothesis import given
from hypothesis import strategies as st
from IPython.core.inputtransformer2 import TransformerManager

from helpers.lab import exercises
from tests import ROOT

PATH = Path(__file__).with_name("wrong_answers.toml")
WRONG = tomllib.loads(PATH.read_text("utf-8"))
ROOMS = {
    room.name: importlib.import_module(f"{exercises.__name__}.{room.name}")
    for room in pkgutil.iter_modules(exercises.__path__)
}
# Each check by its name, from the room that defines it.
CHECKS = {
    name: function
    for room in ROOMS.values()
    for name, function in vars(room).items()
    if name.startswith("check_") and function.__module__ == room.__name__
}
CHECK = re.compile(r"exercises\.(check_\w+)\((.+)\)$")


def names(code: str) -> tuple[set[str], set[str]]:
    """The names that code binds, and those that it reads, at its top level."""
    top = symtable.symtable(code, "cell", "exec")
    symbols = top.get_symbols()
    bound = {s.get_name() for s in symbols if s.is_assigned() or s.is_imported()}
    read = {s.get_name() for s in symbols if s.is_referenced()}
    tables = top.get_children()
    while tables:
        table = tables.pop()
        read |= {s.get_name() for s in table.get_symbols() if s.is_global()}
        tables += table.get_children()
    return bound, read


def statements_for(code: str, cells: list) -> str:
    """The statements of earlier cells without which `code` would not run."""
    earlier = []
    for cell in cells:
        earlier += ast.parse(TransformerManager().transform_cell(cell.source)).body
    wanted, needed = names(code)[1], []
    for statement in map(ast.unparse, reversed(earlier)):
        bound, read = names(statement)
        if bound & wanted:
            wanted |= read
            needed.insert(0, statement)
    return "\n".join(needed)


def find_exercises() -> list:
    """(notebook, check, argument, statements needed, stub, solution) of each one."""
    found = []
    for path in sorted((ROOT / "notebooks").glob("[0-9]*.ipynb")):
        before = []
        cells = nbformat.read(path, as_version=4).cells
        for place, cell in enumerate(cells):
            if cell.cell_type != "code":
                continue
            if "exercise" in cell.metadata.get("tags", []):
                check, argument = CHECK.search(cell.source.strip()).groups()
                folded = cells[place + 1].source.partition("<summary>Solution<")[2]
                blocks = re.findall(r"```python\n(.*?)```", folded, re.DOTALL)
                solution = "\n".join(blocks)
                needed = statements_for(cell.source + "\n" + solution, before[1:])
                case = (path.stem, check, argument, needed, cell.source, solution)
                found.append(pytest.param(*case, id=f"{path.stem}-{check}"))
            else:
                before.append(cell)
    return found


EXERCISES = find_exercises()


@pytest.mark.parametrize("notebook,check,argument,needed,stub,solution", EXERCISES)
def test_solution_passes_stub_does_not_mistakes_are_named(
    notebook, check, argument, needed, stub, solution, capsys, monkeypatch
):
    monkeypatch.setenv("GRPO_PROFILE", "smoke")
    there: dict = {}
    exec(needed, there)
    capsys.readouterr()
    exec(stub, there)
    assert capsys.readouterr().out.splitlines()[-1] == "○ not done yet"
    exec(solution, there)
    assert capsys.readouterr().out.splitlines()[-1] == "✓ right"
    said, right = set(), []
    for wrong in WRONG[check]:
        exec(wrong["code"], there)
        if eval(wrong.get("unless", "False"), there):
            right.append(wrong)
            continue
        CHECKS[check](there["answer"])
        line = capsys.readouterr().out.rstrip()
        assert line.startswith(f"✗ {wrong['says']}"), wrong["code"]
        assert "\n" not in line
        said.add(line)
    assert len(said) + len(right) == len(WRONG[check]) and len(said) >= 2


def test_each_check_has_its_exercise_and_its_wrong_answers():
    used = [param.values[1] for param in EXERCISES]
    assert sorted(used) == sorted(CHECKS) == sorted(WRONG)


def test_each_notebook_has_its_own_room():
    for notebook, check, *_ in (param.values for param in EXERCISES):
        assert CHECKS[check].__module__ == f"{exercises.__name__}.n{notebook[:2]}"
    assert set(ROOMS) == {f"n{param.values[0][:2]}" for param in EXERCISES}


@pytest.mark.parametrize("check", sorted(CHECKS))
@given(
    answer=st.recursive(
        st.none() | st.text() | st.integers() | st.floats() | st.just(...),
        lambda part: st.lists(part) | st.dictionaries(st.sampled_from("ABCD"), part),
    )
)
def test_a_check_prints_one_line_and_never_raises(check, answer):
    CHECKS[check](answer)


def test_a_broken_answer_is_one_clear_line(capsys):
    class Broken(dict):
        def keys(self):
            raise RuntimeError("broken")

    CHECKS["check_four_scores"](Broken())
    assert capsys.readouterr().out == (
        "✗ this answer cannot be read (RuntimeError: broken)\n"
    )
    loop = []
    loop.append(loop)
    CHECKS["check_how_many"](loop)
    assert "RecursionError" in capsys.readouterr().out
