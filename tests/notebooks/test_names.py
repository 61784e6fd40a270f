"""A name means one thing in a notebook, so cells may be run again and out of order."""

import ast

import pytest
from IPython.core.inputtransformer2 import TransformerManager

from tests.notebooks.cells import cells

SCOPES = ast.FunctionDef | ast.Lambda | ast.GeneratorExp
SCOPES |= ast.ListComp | ast.DictComp | ast.SetComp


def bound_and_read(code: str) -> tuple[set[str], set[str]]:
    """The names that a cell binds at its top level, and those that it reads."""
    tree = ast.parse(TransformerManager().transform_cell(code))
    inside = [node for node in ast.walk(tree) if isinstance(node, SCOPES)]
    local = {id(name) for node in inside for name in ast.walk(node)}
    names = [node for node in ast.walk(tree) if isinstance(node, ast.Name)]
    stored = {n.id for n in names if isinstance(n.ctx, ast.Store)}
    stored |= {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}
    bound = {n.id for n in names if isinstance(n.ctx, ast.Store) and id(n) not in local}
    read = {n.id for n in names if isinstance(n.ctx, ast.Load)}
    return bound, read - stored


def reused(sources: list[str]) -> set[str]:
    """The names that two cells bind and another cell reads."""
    found = [bound_and_read(source) for source in sources]
    often = {
        name
        for bound, _ in found
        for name in bound
        if sum(name in other for other, _ in found) > 1
    }
    return {name for name in often if any(name in read for _, read in found)}


def test_a_name_that_two_cells_bind_and_a_third_reads_is_found():
    assert reused(["x = 1", "x = 'a'", "print(x)"]) == {"x"}
    assert reused(["for x in y:\n    print(x)", "x = 2\nprint(x)"]) == set()
    assert reused(["x = [n for n in y]", "n = 2", "print(n)"]) == set()


# What is replaced on purpose: a smaller trainer, or the settings that a run has.
MEANT = {"profile", "model", "trainer"}


@pytest.mark.parametrize("number", ["05", "06", "08"])
def test_a_name_means_one_thing_in_a_notebook(number):
    sources = [cell.source for cell in cells(number) if cell.cell_type == "code"]
    assert reused(sources) <= MEANT
