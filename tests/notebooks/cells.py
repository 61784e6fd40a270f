"""The code of the notebooks, found by what stands in it."""

import functools
import re

import nbformat

from tests import ROOT


@functools.cache
def cells(number: str) -> list:
    """All cells of the notebook whose name begins with a number; not to be changed."""
    (path,) = (ROOT / "notebooks").glob(f"{number}_*.ipynb")
    return nbformat.read(path, as_version=4).cells


def source(number: str, pattern: str, solutions: bool = False) -> str:
    """The one code cell of a notebook that holds a pattern.

    With `solutions` those of the exercises, folded below them, are looked at as well.
    """
    found = [cell.source for cell in cells(number) if cell.cell_type == "code"]
    for cell in cells(number) if solutions else []:
        if cell.cell_type == "markdown":
            folded = r"```python\n(.*?)\nexercises\."
            found += re.findall(folded, cell.source, re.DOTALL)
    (code,) = (text for text in found if re.search(pattern, text, re.MULTILINE))
    return code
