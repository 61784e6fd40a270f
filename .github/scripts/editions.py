"""What ties the Chinese notebooks, notebooks/zh/, to the English ones: no command.

Both have the same cells in the same order. Code differs at most in comments,
docstrings and texts that are printed; every cell of the Chinese edition keeps, in its
metadata, a hash of the English cell that it was written from. `notebooks.py check`
says where that is no longer so.
"""

import ast
import hashlib
import re
from collections.abc import Iterator

from IPython.core.inputtransformer2 import TransformerManager

KEY = "english"  # in a Chinese cell's metadata: the hash of its English cell
NAMES = (
    "00_start_here.ipynb",
    "01_prompts_and_data.ipynb",
    "02_reward_functions.ipynb",
    "03_grpo_from_scratch.ipynb",
    "04_lora_and_fp16.ipynb",
    "05_train_with_trl.ipynb",
    "06_evaluate_and_share.ipynb",
    "07_experiments.ipynb",
    "08_make_it_fast.ipynb",
    "09_scale_out.ipynb",
    "10_your_own_task.ipynb",
)
# What prints its arguments, and what reads its second one aloud (the alt text of a
# figure). What is drawn stays English: no font on Colab's image has Chinese characters.
DOCUMENTED = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
PRINTS, SHOWS = {"print", "display", "Markdown", "HTML"}, {"show"}
ADDRESS = re.compile(
    r"(colab\.research\.google\.com/github/)[\w.-]+/[\w.-]+(?=/blob/)"
    r"|(git clone (?:-\S+ |\d+ )*https://github\.com/)[\w.-]+/[\w.-]+"
    r"|(https://github\.com/)[\w.-]+/[\w.-]+(?=/issues/new)"
)


def english_hash(cell) -> str:
    """Return the hash of an English cell, by which a Chinese one knows it again.

    The repository's address does not count: a stamp changes it in both editions.
    """
    source = ADDRESS.sub(lambda m: m[m.lastindex], cell.source).strip()
    return hashlib.sha256(source.encode()).hexdigest()[:12]


def tree(source: str) -> ast.Module:
    """Return the syntax tree of a cell without docstrings, magics turned into calls."""
    found = ast.parse(TransformerManager().transform_cell(source))
    for node in ast.walk(found):
        if isinstance(node, DOCUMENTED) and ast.get_docstring(node) is not None:
            node.body[0].value.value = ""
    return found


def is_text(node) -> bool:
    """Tell whether a node is a string, with or without holes."""
    constant = isinstance(node, ast.Constant) and isinstance(node.value, str)
    return constant or isinstance(node, ast.JoinedStr)


def holes(node) -> list[str]:
    """Return what stands in the holes of a string; its order may change."""
    return sorted(ast.dump(n) for n in getattr(node, "values", ())
                  if isinstance(n, ast.FormattedValue))  # fmt: skip


def shown_fields(node, shown: bool) -> set[str]:
    """Return which fields of a node hold texts that are printed, if the node is.

    Sums of texts, `a if b else c`, `"…".format()` and `"…".join()` pass on what they
    are; indexes, comparisons, dicts and other calls do not.
    """
    if isinstance(node, ast.Call):
        name = getattr(node.func, "id", getattr(node.func, "attr", ""))
        if isinstance(node.func, ast.Name) and name in PRINTS:
            return {"args"}
        if shown and name in ("format", "join"):
            return {"func"} if name == "format" else {"func", "args"}
    fields = {
        ast.BinOp: {"left", "right"},
        ast.IfExp: {"body", "orelse"},
        ast.Attribute: {"value"},
        ast.Starred: {"value"},
        ast.List: {"elts"},
        ast.Tuple: {"elts"},
        ast.ListComp: {"elt"},
        ast.GeneratorExp: {"elt"},
    }
    return fields.get(type(node), set()) if shown else set()


def difference(english, other, shown: bool = False) -> str | None:
    """Return the first place where two syntax trees differ, None where they do not."""
    if isinstance(english, list) and isinstance(other, list):
        if len(english) != len(other):
            texts = ["; ".join(map(ast.unparse, filter(is_node, x)))
                     for x in (english, other)]  # fmt: skip
            return f"`{short(texts[1])}` in place of `{short(texts[0])}`"
        pairs = zip(english, other, strict=True)
        return next(filter(None, (difference(a, b, shown) for a, b in pairs)), None)
    if not is_node(english) or not is_node(other):
        same = type(english) is type(other) and english == other
        return None if same else f"`{other!r}` in place of `{english!r}`"
    if shown and is_text(english) and is_text(other):
        same = holes(english) == holes(other)
    else:
        same = type(english) is type(other)
    if not same:
        return (
            f"`{short(ast.unparse(other))}` in place of `{short(ast.unparse(english))}`"
        )
    if shown and is_text(english):
        return None
    passed = shown_fields(english, shown)
    alt = isinstance(english, ast.Call) and getattr(english.func, "id", "") in SHOWS
    for field in english._fields:
        a, b = getattr(english, field), getattr(other, field)
        if alt and field == "args" and len(a) == len(b) > 1:
            found = difference(a[:1], b[:1]) or difference(a[1:], b[1:], True)
        else:
            found = difference(a, b, field in passed)
        if found and not is_node(a) and not isinstance(a, list):
            a, b = short(ast.unparse(english)), short(ast.unparse(other))
            return f"`{b}` in place of `{a}`"
        if found:
            return found
    return None


def is_node(value) -> bool:
    """Tell whether a value is a node of a syntax tree."""
    return isinstance(value, ast.AST)


def short(text: str, most: int = 60) -> str:
    """Return a text in one line of some length."""
    text = " ".join(text.split())
    return text if len(text) <= most else text[: most - 2] + " …"


def code_difference(english: str, other: str) -> str | None:
    """Return what of a cell's code is not as in English, None where nothing is."""
    try:
        return difference(tree(english), tree(other))
    except SyntaxError as error:
        return f"it does not parse: {error.msg}"


# The number of an exercise with its minutes, and that of a section.
EXERCISE = r"^### (?:Exercise|练习) (\d+\.\d+).*?[ （，](\d+) (?:minutes|分钟)"
SECTION = r"^## (\d+\.\d+) "


def numbers(source: str, pattern: str) -> list:
    """Return the numbers of a cell's exercises or sections."""
    return re.findall(pattern, source, re.MULTILINE)


def blocks(source: str) -> list[str]:
    """Return the Python that stands in a Markdown cell, such as a solution."""
    return re.findall(r"```python\n(.*?)```", source, re.DOTALL)


def different_block(english: str, other: str) -> str | None:
    """Return what of the Python in two Markdown cells is not the same."""
    ours, theirs = blocks(english), blocks(other)
    if len(ours) != len(theirs):
        return f"{len(theirs)} blocks in place of {len(ours)}"
    pairs = [(a, b) for a, b in zip(ours, theirs, strict=True) if a != b]
    return next(filter(None, (code_difference(a, b) for a, b in pairs)), None)


def different(english, other) -> Iterator[str]:
    """Yield how a Chinese notebook differs from its English one, a line each."""
    there = {cell.get("id"): cell for cell in other.cells}
    wanted = [cell.id for cell in english.cells]
    for number, cell in enumerate(english.cells, 1):
        if cell.id not in there:
            yield f"cell {number} ({cell.id}) of the English notebook is missing"
    for number, cell in enumerate(other.cells, 1):
        if cell.get("id") not in wanted:
            yield f"cell {number} ({cell.get('id')}) is not in the English notebook"
    ids = [each for each in there if each in wanted]
    if ids != [each for each in wanted if each in there]:
        yield "the cells stand in another order than in English"
    for number, cell in enumerate(english.cells, 1):
        if cell.id in there:
            for line in different_cell(cell, there[cell.id]):
                yield f"cell {number} ({cell.id}): {line}"


def different_cell(english, other) -> Iterator[str]:
    """Yield how a Chinese cell differs from its English one, a line each."""
    if english.cell_type != other.cell_type:
        yield f"is {other.cell_type}, in English {english.cell_type}"
        return
    tags = [cell.metadata.get("tags", []) for cell in (english, other)]
    if tags[0] != tags[1]:
        yield f"has the tags {tags[1]}, in English {tags[0]}"
    if english.cell_type == "code":
        if found := code_difference(english.source, other.source):
            yield f"another code than in English: {found}"
            return
    else:
        for what, pattern in (("exercises", EXERCISE), ("sections", SECTION)):
            ours, theirs = (numbers(c.source, pattern) for c in (english, other))
            if ours != theirs:
                yield f"has the {what} {theirs}, in English {ours}"
        if found := different_block(english.source, other.source):
            yield f"has another ```python than in English: {found}"
    translated = english.cell_type == "markdown" or english.source != other.source
    if translated and other.metadata.get(KEY) != english_hash(english):
        yield "stale: its English cell has changed since it was written"
