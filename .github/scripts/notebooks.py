"""The notebooks' gates: .github/scripts/notebooks.py stamp | check | link | run.

`stamp OWNER/NAME` writes the repository's address, which stands in pyproject.toml, into
badges, set-up cells and README; `stamp --check` says where they disagree. `check` says
what is wrong with a notebook, and without names also which figure of a README is
another than the recorded files give; `link` links the terms of notebooks/README.md
where a notebook first uses them; `run` executes notebooks in place. `03` is the English
notebook, `zh/03` the Chinese one; without names both editions are meant.
"""

import argparse
import ast
import bisect
import contextlib
import datetime
import hashlib
import json
import os
import re
import statistics
import subprocess
import sys
import time
import tomllib
import warnings
from collections.abc import Iterator
from pathlib import Path

import nbformat
from IPython.core.inputtransformer2 import TransformerManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, DeadKernelError
from packaging.requirements import Requirement

sys.path.append(str(Path(__file__).parent))
from editions import NAMES, different  # the script beside this one

ROOT = Path(__file__).resolve().parents[2]
SETUP = """\
# The set-up cell, the same in every notebook. Running it again changes nothing.
import sys
from pathlib import Path

places = [Path.cwd(), *Path.cwd().parents, Path.cwd() / "{name}"]
found = [str(p) for p in places if (p / "helpers" / "lab" / "colab.py").is_file()]
if not found:  # on Colab and Kaggle, where this notebook was opened alone
    !git clone --quiet --depth 1 https://github.com/{owner}/{name}
sys.path[:0] = [p for p in found[:1] or [str(places[-1])] if p not in sys.path]
from helpers.lab import colab

colab.set_up()"""
COLAB = "https://colab.research.google.com"
BADGE = (
    f"[![Open in Colab]({COLAB}/assets/colab-badge.svg)]"
    f"({COLAB}/github/{{owner}}/{{name}}/blob/main/{{file}})"
)
NAME = r"([\w.-]+/[\w.-]+)"
IN_PYPROJECT = rf'(Repository = "https://github\.com/){NAME}'
ADDRESSES = (
    IN_PYPROJECT,
    rf"(colab\.research\.google\.com/github/){NAME}(?=/blob/)",
    rf"(git clone (?:-\S+ |\d+ )*https://github\.com/){NAME}",
    rf"(https://github\.com/){NAME}(?=/issues/new)",
    rf'(repository-code: "https://github\.com/){NAME}',
)
SITE = r"(https://)([\w-]+)\.github\.io/([\w.-]+)(?=/(?:zh/)?\))"  # its root
STAMPED = ("pyproject.toml", "README.md", "CITATION.cff", ".github/CONTRIBUTING.md",
           "notebooks/zh/README.md")  # fmt: skip
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}
ON_GPU = ("05", "06", "10")  # what Colab opens with a T4
MAX_LINES, MAX_COLUMNS, MAX_BYTES = 30, 88, 500_000
# Lines of code at the median, and lines that draw, where they are more than 10 and 5.
MEDIAN_LINES, MAX_DRAWING = {"10": 12}, {("09", 18): 9}
# The words that a rule looks for, in English and in notebooks/zh/.
WORDS = {
    "en": {
        "recap": "Recap",
        "exercise": "Exercise ",
        "title": r"Exercise {}: .+ \((easy|medium|hard), \d+ minutes\)",
        "example": "Exercise {}: what (easy, 3 minutes)",
        "hint": "Hint",
        "solution": "Solution",
    },
    "zh": {
        "recap": "小结",
        "exercise": "练习 ",
        "title": r"练习 {}：.+（(简单|中等|困难)，\d+ 分钟）",
        "example": "练习 {}：什么（简单，3 分钟）",
        "hint": "提示",
        "solution": "解答",
    },
}
NEAR = 3  # cells before and after an exercise that must not give it away
GLOSSARY, MAX_TERMS = ROOT / "notebooks" / "README.md", 60
GLOSSARY_ZH = ROOT / "notebooks" / "zh" / "README.md"
ENTRY = re.compile(
    r'^- <a id="([\w-]+)"></a>(\*{2,3})([^*]+)\2(?: \(also ([^)]+)\))?: .+$',
    re.MULTILINE,
)
ROW = re.compile(  # the same in notebooks/zh/README.md
    r'^\| <a id="([\w-]+)"></a>(\*?)([^*|]+)\2 \| ([^|]+) \| [^|]+ \|$', re.MULTILINE
)
CLIP = r"clip|裁剪|采样比|比值|比率"  # no neighbour of 截断, which is *truncate*
GLOSSARY_LINK = re.compile(r"\[[^\]]+\]\(README\.md#([\w-]+)\)")
FOLDED = re.compile(r"<details><summary>(\w+).*?</details>", re.DOTALL)
NO_PROSE = re.compile(  # code, formulas, links, HTML, titles, indented code
    r"```.*?```|`[^`\n]*`|\$\$.*?\$\$|\$[^$\n]+\$|!?\[[^\]]*\]\([^)]*\)"
    r"|<summary>.*?</summary>|<[^>]+>|^#[^\n]*$|^ {4,}\S[^\n]*$|https?://\S+",
    re.DOTALL | re.MULTILINE,
)
NUMBERS = ROOT / ".github" / "scripts" / "numbers.toml"
NUMBER = re.compile(  # a Chinese character may stand right beside it
    r"(?<![^\W一-鿿])(?<![.,/#§-])\d+(?:,\d{3})*(?:\.\d+)?(?![^\W一-鿿]|[.,]\d)"
)
UNIT = (
    r"[ -]?(?:%|个百分点|毫?秒|分钟|小时|倍|(?:s|ms|seconds?|minutes?|hours?|[kMG]i?B"
    r"|[TG]?FLOP|nats?|times)(?![a-zA-Z]))"
)
SUMS, SUM_BEFORE = ("= ", " =", " ×", " ·", " /", "² "), r"(?:[=×·√≈]|\d [+−/]) ?\(?$"
SECRET = re.compile(
    r"\b(?:hf_\w{30,}|gh[pousr]_\w{30,}|github_pat_\w{30,}|sk-[\w-]{30,}|AKIA\w{16})"
)
MACHINE_PATH = re.compile(
    r"(?<![\w.:/~])/(?:home|root|Users|tmp|work|opt|mnt|content|usr|private|var)/[\w.]"
    r"|\b[A-Z]:\\+\w"
)


def edition(path: Path) -> str:
    """Return `zh` for a notebook of the Chinese edition, else `en`."""
    return "zh" if path.parent.name == "zh" else "en"


def words(path: Path) -> dict[str, str]:
    """Return the words that rules look for in a notebook of this edition."""
    return WORDS[edition(path)]


def notebooks(names: list[str] = (), editions: str = "en zh") -> list[Path]:
    """Return the course's notebooks, or those whose names begin with one of `names`.

    `03` names the English one, `zh/03` the Chinese one.
    """
    folders = {"en": ROOT / "notebooks", "zh": ROOT / "notebooks" / "zh"}
    found = {
        kind: sorted(folders[kind].glob("[0-9][0-9]_*.ipynb"))
        for kind in editions.split()
    }
    everything = [path for paths in found.values() for path in paths]
    chosen = set()
    for name in names:
        paths = found.get("zh" if "zh" in Path(name).parts[:-1] else "en", [])
        meant = {path for path in paths if path.name.startswith(Path(name).name)}
        if not meant:
            known = ", ".join(path.stem for path in paths)
            sys.exit(f"no notebook begins with {name!r}; there are {known or 'none'}")
        chosen |= meant
    return [path for path in everything if not names or path in chosen]


# --- stamp ----------------------------------------------------------------------------


def address() -> str:
    """Return OWNER/NAME of this repository, from pyproject.toml."""
    return re.search(IN_PYPROJECT, (ROOT / "pyproject.toml").read_text())[2]


def label(path: Path) -> str:
    """Return the name of a notebook in a message: `zh/03_….ipynb` for a Chinese one."""
    return f"zh/{path.name}" if edition(path) == "zh" else path.name


def setup_cell() -> str:
    """Return the source of the set-up cell."""
    owner, name = address().split("/")
    return SETUP.format(owner=owner, name=name)


def badge(path: Path) -> str:
    """Return the Markdown of a notebook's badge."""
    owner, name = address().split("/")
    file = f"notebooks/{label(path)}"
    return BADGE.format(owner=owner, name=name, file=file)


def stamp(repository: str) -> None:
    """Write a repository's address wherever one stands."""
    if not re.fullmatch(NAME, repository):
        sys.exit(f"{repository!r} is no address of a repository; use OWNER/NAME")

    def stamped(text: str) -> str:
        for pattern in ADDRESSES:
            text = re.sub(pattern, rf"\g<1>{repository}", text)
        owner, name = repository.split("/")
        return re.sub(SITE, rf"\g<1>{owner}.github.io/{name}", text)

    for path in (ROOT / name for name in STAMPED):
        path.write_text(stamped(path.read_text(encoding="utf-8")), encoding="utf-8")
    for path in notebooks():
        nb = nbformat.read(path, as_version=4)
        for cell in nb.cells:
            cell.source = stamped(cell.source)
        code_cells(nb)[0].source = setup_cell()
        nbformat.write(nb, path)
    print(f"badges, set-up cells and README lead to {repository}")


def disagreements(repository: str | None = None) -> list[str]:
    """Return where another address stands than pyproject.toml's (or `repository`)."""
    known, problems = address(), []
    if repository and repository != known:
        problems = [f"pyproject.toml says {known}, this repository is {repository}"]
    texts = {name: (ROOT / name).read_text(encoding="utf-8") for name in STAMPED}
    for path in notebooks():
        cells = nbformat.read(path, as_version=4).cells
        texts[label(path)] = "\n".join(cell.source for cell in cells)
        readme = {"en": "README.md", "zh": "notebooks/zh/README.md"}[edition(path)]
        if badge(path) not in texts[readme]:
            problems.append(f"{readme}: no badge of {path.name} at {known}")
    for name, text in texts.items():
        there = [m[2] for pattern in ADDRESSES for m in re.finditer(pattern, text)]
        there += [f"{m[2]}/{m[3]}" for m in re.finditer(SITE, text)]
        problems += [f"{name}: {other} in place of {known}" for other in there
                     if other.removesuffix(".git") != known]  # fmt: skip
        if not there:
            problems.append(f"{name}: the address {known} does not stand there")
    return problems


# --- check: each rule yields what is wrong --------------------------------------------


def code_cells(nb) -> list:
    """Return the code cells."""
    return [cell for cell in nb.cells if cell.cell_type == "code"]


def markdown_cells(nb) -> list:
    """Return the Markdown cells."""
    return [cell for cell in nb.cells if cell.cell_type == "markdown"]


def is_exercise(cell) -> bool:
    """Tell whether a cell holds an exercise's stub."""
    return "exercise" in cell.metadata.get("tags", [])


def transformed(cell) -> str:
    """Return the source of a code cell with its magics turned into calls."""
    return TransformerManager().transform_cell(cell.source)


def parse(cell) -> ast.Module:
    """Return the syntax tree of a code cell, its magics turned into calls."""
    return ast.parse(transformed(cell))


def without_imports(cell) -> str:
    """Return a code cell's source with its import statements cut out.

    Where it does not parse, or magics such as `%%time` move its lines, it stays whole.
    """
    try:
        nodes = ast.walk(parse(cell))
    except SyntaxError:  # rule_code says so
        return cell.source
    imports = [n for n in nodes if isinstance(n, ast.Import | ast.ImportFrom)]
    imports.sort(key=lambda n: (n.lineno, n.col_offset), reverse=True)
    lines, parsed = cell.source.split("\n"), transformed(cell).split("\n")
    spans = [slice(n.lineno - 1, n.end_lineno) for n in imports]
    if any(parsed[span] != lines[span] for span in spans):
        return cell.source
    for node, span in zip(imports, spans, strict=True):  # the last one first
        before = lines[span][0].encode()[: node.col_offset].decode()
        after = lines[span][-1].encode()[node.end_col_offset :].decode()
        rest = before + after  # of a line that holds more, such as `import x; y = 1`
        lines[span] = [rest] if rest.strip() else []
    return "\n".join(lines).strip("\n")


def code_digest(nb) -> str:
    """Return a hash of the code cells but the set-up cell, which a stamp changes.

    Imports are left out: the outputs stay true where a module has moved.
    """
    sources = [without_imports(cell) for cell in code_cells(nb)[1:]]
    return hashlib.sha256(json.dumps(sources).encode()).hexdigest()


def texts_of(output) -> Iterator[str]:
    """Yield every text of an output."""
    yield output.get("text", "")
    yield from output.get("traceback", [])
    for kind, value in output.get("data", {}).items():
        if not kind.startswith("image/"):
            yield value if isinstance(value, str) else json.dumps(value)


def rule_format(path, nb):
    """Valid nbformat 4.5 with cell ids and one kernelspec."""
    try:
        nbformat.validate(nb)
    except nbformat.ValidationError as error:
        yield f"not valid: {error.message}"
    if (nb.nbformat, nb.nbformat_minor) < (4, 5):
        yield "nbformat is below 4.5, which brought cell ids"
    raw = json.loads(path.read_text(encoding="utf-8"))  # nbformat adds missing ids
    if not all(cell.get("id") for cell in raw["cells"]):
        yield "a cell has no id"
    if dict(nb.metadata.get("kernelspec", {})) != KERNEL:
        yield f"the kernelspec is not {KERNEL}"
    if path.stat().st_size > MAX_BYTES:
        yield f"larger than {MAX_BYTES // 1000} KB"


def rule_code(path, nb):
    """Code parses; cells and lines are short."""
    for number, cell in enumerate(code_cells(nb), 1):
        try:
            parse(cell)
        except SyntaxError as error:
            yield f"code cell {number}: {error.msg}"
        lines = cell.source.splitlines()
        if len(lines) > MAX_LINES:
            yield f"code cell {number}: {len(lines)} lines, {MAX_LINES} at most"
        if any(len(line) > MAX_COLUMNS for line in lines):
            yield f"code cell {number}: a line longer than {MAX_COLUMNS} columns"


def rule_ruff(path, nb):
    """Ruff finds nothing to lint or format in the cells but the set-up cell."""
    options = ["--quiet", "--config", str(ROOT / "pyproject.toml"), str(path)]
    for arguments in (["check", "--output-format=concise"], ["format", "--check"]):
        command = [sys.executable, "-m", "ruff", *arguments, *options]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            what = done.stdout.strip() or done.stderr.strip() or "not formatted"
            yield f"ruff {arguments[0]}: {what}"


def rule_set_up(path, nb):
    """The set-up cell comes first, of at most 12 lines, below a badge."""
    if [cell.source for cell in code_cells(nb)[:1]] != [setup_cell()]:
        yield "the first code cell is not the set-up cell"
    if badge(path) not in nb.cells[0].source:
        yield "the first cell has not this notebook's badge"


def rule_sections(path, nb):
    """The title bears the notebook's number; sections and exercises count from 1."""
    number, sections, exercises = int(path.name[:2]), 0, 0
    word = words(path)
    if not nb.cells[0].source.startswith(f"# {path.name[:2]} · "):
        yield f"the title does not begin with '# {path.name[:2]} · '"
    for cell in markdown_cells(nb):
        for title in re.findall(r"^## (.+)$", cell.source, re.MULTILINE):
            sections += title != word["recap"]
            if title != word["recap"] and not title.startswith(f"{number}.{sections} "):
                yield f"section {title!r}: expected number {number}.{sections}"
        titles = rf"^### ({word['exercise']}.+)$"
        for title in re.findall(titles, cell.source, re.MULTILINE):
            exercises += 1
            wanted = word["title"].format(rf"{number}\.{exercises}")
            if not re.fullmatch(wanted, title):
                name = word["example"].format(f"{number}.{exercises}")
                yield f"{title!r}: expected '{name}'"


def rule_exercises(path, nb):
    """An exercise has title, stub, check, hint and solution; nothing depends on it."""
    stubs: set[str] = set()
    cells, titles, word = nb.cells, [], words(path)
    title = rf"^### ({word['exercise']}[\d.]+)"
    for place, cell in enumerate(cells):
        if cell.cell_type != "code":
            titles += re.findall(title, cell.source, re.MULTILINE)
            continue
        try:
            nodes = list(ast.walk(parse(cell)))
        except SyntaxError:  # rule_code says so
            continue
        last = cell.source.strip().splitlines()[-1:] or [""]
        check = re.fullmatch(r"exercises\.check_\w+\(.+\)", last[0])
        names = [n for n in nodes if isinstance(n, ast.Name)]
        bound = {n.id for n in names if isinstance(n.ctx, ast.Store)}
        bound |= {n.name for n in nodes if isinstance(n, ast.FunctionDef)}
        if is_exercise(cell):
            folded = cells[place + 1].source if place + 1 < len(cells) else ""
            what = titles.pop() if titles else f"the exercise in cell {place + 1}"
            if not what.startswith(word["exercise"]):
                yield f"{what} has no title"
            if not check or "..." not in cell.source:
                yield f"{what} has no stub (...) that ends with exercises.check_…(…)"
            for part in ("hint", "solution"):
                if f"<summary>{word[part]}</summary>" not in folded:
                    yield f"{what} has no folded {part}"
            if "```python" not in folded:
                yield f"{what} has no solution in Python"
            stubs |= bound
        else:
            if check:
                yield f"cell {place + 1} checks an exercise without the tag exercise"
            read = {n.id for n in names if isinstance(n.ctx, ast.Load)} - bound
            for name in sorted(read & stubs):
                yield f"cell {place + 1} depends on {name}, which a learner fills in"
            stubs -= bound


def rule_markdown(path, nb):
    """No base64, no image without alt text, no link that leads nowhere."""
    for cell in markdown_cells(nb):
        if "base64" in cell.source or cell.get("attachments"):
            yield "Markdown holds an image as base64"
        tags = re.findall(r"<img[^>]*>", cell.source)
        if re.search(r"!\[\s*\]\(", cell.source) or any("alt=" not in t for t in tags):
            yield "an image in Markdown has no alt text"
        for link in re.findall(r"\]\(([^)\s]+)\)", cell.source):
            folder = ROOT / "notebooks" / ("zh" if edition(path) == "zh" else "")
            target = folder / link.partition("#")[0]
            if not re.match(r"https?://|#|mailto:", link) and not target.exists():
                yield f"the link to {link} leads nowhere"
    recap = f"## {words(path)['recap']}"
    if nb.cells[-1].cell_type != "markdown" or recap not in nb.cells[-1].source:
        yield "the last cell is not the recap"
    others = notebooks(editions="en")
    later = [other.name for other in others if other.name > path.name][:1]
    if later and f"({later[0]})" not in nb.cells[-1].source:
        yield f"the recap does not link to {later[0]}"


def rule_lengths(path, nb):
    """Code cells are short as a rule; drawing is done by helpers.lab."""
    sizes = [len(cell.source.splitlines()) for cell in code_cells(nb)[1:]]
    if sizes and statistics.median(sizes) > MEDIAN_LINES.get(path.name[:2], 10):
        yield f"code cells have {statistics.median(sizes):.0f} lines at the median"
    draws = r"^\s*(?:axes?|ax|left|right|plt|pyplot|figure)(?:\[.*\])?\.\w+\("
    for number, cell in enumerate(code_cells(nb), 1):
        lines = len(re.findall(draws, cell.source, re.MULTILINE))
        if lines > MAX_DRAWING.get((path.name[:2], number), 5):
            yield f"code cell {number}: {lines} lines draw, 5 at most"


def rule_reading(path, nb):
    """Minutes to read and solve follow from words, lines of code and exercises."""
    if edition(path) != "en":  # whose minutes are those of the English notebook
        return
    texts = [cell.source for cell in markdown_cells(nb)]
    count = sum(len(text.split()) for text in texts)
    lines = sum(len(cell.source.splitlines()) for cell in code_cells(nb)[1:])
    titles = r"^### Exercise .*?, (\d+) minutes\)$"
    exercises = sum(map(int, re.findall(titles, "\n".join(texts), re.MULTILINE)))
    needed = count / 200 + lines / 6 + exercises  # 200 words a minute, 10 s a line
    stated = re.search(
        r"(\d+)(?= to read and solve)|to read and solve \| (\d+)", texts[0]
    )
    if not stated:
        yield "the first cell does not say how many minutes it is 'to read and solve'"
    elif abs(int(stated[1] or stated[2]) - needed) > needed / 10:
        yield f"{stated[0]}: words, code and exercises make {needed:.0f} minutes"


def unfolded(source: str, *kinds: str) -> str:
    """Return a Markdown text without what is folded, or without these kinds of it."""
    return FOLDED.sub(lambda m: "" if not kinds or m[1] in kinds else m[0], source)


def squeezed(text: str) -> str:
    """Return a text without blanks, its Python written in one way."""
    text = re.sub(
        r"```python\n(.*?)```", lambda m: squeezed(m[1]), text, flags=re.DOTALL
    )
    with contextlib.suppress(SyntaxError):
        text = ast.unparse(ast.parse(text))
    return re.sub(r"\s+", "", text).replace('"', "'")


def solution_parts(solution: str) -> set[str]:
    """Return what a solution computes: each right-hand side of some length."""
    parts = []
    for block in re.findall(r"```python\n(.*?)```", solution, re.DOTALL):
        with contextlib.suppress(SyntaxError):
            for node in ast.walk(ast.parse(block)):
                if isinstance(node, ast.Return | ast.Assign) and node.value:
                    parts.append(squeezed(ast.unparse(node.value)))
    return {part for part in parts if len(part) >= 18}


def told(cell, exercise: str) -> set[str]:
    """Return the numbers that every reader of a cell sees, other exercises left out."""
    texts = [unfolded(cell.source).partition(f"### {exercise}")[0]]
    if "nbval-check-output" in cell.metadata.get(
        "tags", []
    ):  # the same on each machine
        texts += [
            text for output in cell.get("outputs", []) for text in texts_of(output)
        ]
    return set(NUMBER.findall("\n".join(texts)))


def rule_spoilers(path, nb):
    """No exercise is solved in the cells around it, folded solutions aside.

    A cell solves it that holds most of the solution's code, or a result (a number of
    three digits or more) that the solution's text names.
    """
    word = words(path)
    for place, cell in enumerate(nb.cells[:-1]):
        if not is_exercise(cell):
            continue
        folds = {m[1]: m[0] for m in FOLDED.finditer(nb.cells[place + 1].source)}
        solution = folds.get(word["solution"], "")
        parts = solution_parts(solution)
        asked = nb.cells[place - 1].source.rpartition(f"### {word['exercise']}")[2]
        asked += cell.source
        results = set(NUMBER.findall(prose(solution))) - set(NUMBER.findall(asked))
        results = {each for each in results if len(re.sub(r"\D", "", each)) > 2}
        span = slice(max(0, place - NEAR - 1), place + NEAR + 2)
        for near, other in list(enumerate(nb.cells, 1))[span]:
            text = squeezed(unfolded(other.source))
            given = sum(len(part) for part in parts if part in text)
            if other is not cell and given > sum(map(len, parts)) / 2:
                yield f"cell {near} gives away the exercise in cell {place + 1}"
            for each in sorted(results & told(other, word["exercise"])):
                yield f"cell {near} names {each}, a result of cell {place + 1}"


def prose(source: str) -> str:
    """Return a Markdown text without its code, formulas, addresses and titles."""
    source = re.sub(r"```.*?```|\$\$.*?\$\$", "", source, flags=re.DOTALL)
    other = r"`[^`]*`|\$[^$\n]+\$|https?://\S+|^    .*$|\]\([^)]*\)|^#.*$"
    return re.sub(other, "", source, flags=re.MULTILINE)


def claims(nb, word: dict[str, str] = WORDS["en"]) -> Iterator[tuple[int, str]]:
    """Yield the numbers that a notebook's text claims, each with its cell's number.

    They are those with decimals and those with a unit. Left out are exercises with
    their hints and solutions, which bring their own; sums, which show how they are
    made; what stands beside a link to its source; and the table of minutes.
    """
    for number, cell in enumerate(nb.cells, 1):
        if cell.cell_type != "markdown":
            continue
        text = unfolded(cell.source, word["hint"], word["solution"])
        text = text.partition(f"### {word['exercise']}")[0]
        for block in re.split(r"\n\s*\n|\n(?=[-|])", text):
            minutes = number == 1 and block.startswith("|")
            if minutes or re.search(r"\]\((?!README\.md#|\d\d_)[^)]+\)", block):
                continue
            plain = prose(block)
            for found in NUMBER.finditer(plain):
                before, after = plain[: found.start()], plain[found.end() :]
                unit = "." in found[0] or re.match(UNIT, after)
                if unit and not re.search(SUM_BEFORE, before) and after[:2] not in SUMS:
                    yield number, found[0]


def rule_numbers(path, nb):
    """A number that the text claims stands in an output or the code.

    So does what rounds to it, or is a hundredth of it. Others stand in numbers.toml,
    with where they are from. Whole numbers to 20, 95 and 100 are let pass.
    """
    shown = [cell.source for cell in code_cells(nb)]
    for output in (output for cell in code_cells(nb) for output in cell.outputs):
        shown += [*texts_of(output), str(output.get("metadata", ""))]
    there = re.findall(r"\d[\d,]*(?:\.\d+)?(?:e-?\d+)?", "\n".join(shown))
    there = {float(each.replace(",", "")) for each in there}
    allowed = tomllib.loads(NUMBERS.read_text(encoding="utf-8")).get(path.name[:2], {})
    allowed = {each for group in allowed.values() for each in group}
    section = rf"{int(path.name[:2])}\.\d{{1,2}}"
    for number, text in claims(nb, words(path)):
        value, digits = float(text.replace(",", "")), len(text.partition(".")[2])
        passes = not digits and (value <= 20 or value in (95, 100))
        passes |= bool(re.fullmatch(section, text)) or text in allowed
        near = any(
            round(each, digits) == value or round(100 * each, digits) == value
            for each in there
        )
        if not passes and not near:
            yield f"cell {number}: {text} stands in no output and not in numbers.toml"


def rule_secrets(path, nb):
    """No secret anywhere, no path of a machine in an output."""
    for number, cell in enumerate(nb.cells, 1):
        outputs = [t for out in cell.get("outputs", []) for t in texts_of(out)]
        if any(SECRET.search(text) for text in [cell.source, *outputs]):
            yield f"cell {number}: what looks like a secret"
        for found in filter(None, map(MACHINE_PATH.search, outputs)):
            yield f"cell {number}: a path of a machine in the output: {found[0]}…"


def rule_outputs(path, nb):
    """Outputs without widgets, errors and warnings; png with alt text."""
    if "widgets" in nb.metadata:
        yield "metadata.widgets: widget state is not to be saved"
    for number, cell in enumerate(code_cells(nb), 1):
        if cell.execution_count != number:
            yield f"code cell {number} was not run in order"
        for output in cell.outputs:
            data = output.get("data", {})
            if output.output_type == "error":
                yield f"code cell {number} ended with an error"
            if output.get("name") == "stderr":
                yield f"code cell {number} printed a warning: {output.text[:60]!r}"
            if any("widget-view" in kind for kind in data):
                yield f"code cell {number}: a widget without state in the output"
            if {kind for kind in data if kind.startswith("image/")} - {"image/png"}:
                yield f"code cell {number}: an image that is not png"
            about = output.get("metadata", {}).get("image/png", {})
            if "image/png" in data and not about.get("alt"):
                yield f"code cell {number}: a figure without alt text (plots.show)"


def rule_provenance(path, nb):
    """Outputs are those of this code, with versions that requirements.txt admits."""
    made = nb.metadata.get("course", {})
    if made.get("code") != code_digest(nb):
        yield "the outputs are older than the code: notebooks.py run"
    if made.get("profile") != "cpu":
        yield f"the outputs are of profile {made.get('profile')}, not cpu"
    for line in (ROOT / "requirements.txt").read_text().splitlines():
        wanted = Requirement(line) if line and not line.startswith("#") else None
        there = made.get("machine", {}).get(wanted.name) if wanted else None
        if there and not wanted.specifier.contains(there, prereleases=True):
            yield f"the outputs were made with {wanted.name} {there}, not {line}"
    for name in ("date", "seconds", "machine"):
        if not made.get(name):
            yield f"nothing says with which {name} the outputs were made"


def rule_colab(path, nb):
    """On Colab 05, 06 and 10 open with a T4, the others without a GPU."""
    there = nb.metadata.get("accelerator"), nb.metadata.get("colab", {}).get("gpuType")
    wanted = ("GPU", "T4") if path.name[:2] in ON_GPU else (None, None)
    if there != wanted:
        yield f"accelerator and colab.gpuType are {there}, expected {wanted}"


# --- the glossary ---------------------------------------------------------------------


def glossary(text: str) -> dict[str, re.Pattern]:
    """Return the glossary's anchors, each with what finds a use of its term.

    A term that the glossary shows in italics is an everyday word too, and is found in
    italics or bold alone. Letters count as they are where a term has capitals.
    """
    terms = {}
    for anchor, stars, name, others in ENTRY.findall(text):
        forms = sorted([name, *filter(None, others.split(", "))], key=len, reverse=True)
        forms = "|".join(map(re.escape, forms))
        if stars == "***":
            terms[anchor] = re.compile(rf"(?<=\*)(?:{forms})(?=\*)")
        else:
            flags = re.IGNORECASE if forms == forms.lower() else 0
            terms[anchor] = re.compile(rf"(?<![\w@-])(?:{forms})s?(?![\w@-])", flags)
    return terms


def chinese_glossary(text: str) -> tuple[dict[str, re.Pattern], dict[str, str]]:
    """Return the anchors of notebooks/zh/README.md with what finds each term.

    Then the English word of each. A term may have several forms, parted by `、`. One in
    italics is an everyday word too: nothing finds it.
    """
    terms, english = {}, {}
    for anchor, star, name, word in ROW.findall(text):
        forms = sorted(map(re.escape, name.split("、")), key=len, reverse=True)
        flags = re.IGNORECASE if name == name.lower() else 0
        pattern = rf"(?<![\w@-])(?:{'|'.join(forms)})(?![\w@-])"
        terms[anchor] = re.compile("(?!)" if star else pattern, flags | re.ASCII)
        english[anchor] = word
    return terms, english


def is_followed(term: str, rest: str, words: str) -> bool:
    """Tell whether a Chinese term has one of its English words behind it.

    It stands in parentheses. Behind a term that is English itself, anything may.
    """
    found = re.match(r"[*_` ]*[（(]([^）)]+)", rest)
    known = [word.lower() for word in words.split(", ")]
    there = found and (
        term.isascii() or any(word in found[1].lower() for word in known)
    )
    return bool(there)


def uses(
    source: str, terms: dict, english: dict | None = None
) -> list[tuple[int, int, str, bool, bool]]:
    """Return where a Markdown text uses terms: start, end, anchor, explained?, folded?

    A link to the glossary explains a term, and so does bold type, in all of its
    paragraph. With `english`, in the Chinese edition, its English word in parentheses
    does, and bold type only where both words are one. Code, formulas, titles and other
    links do not count; of two terms at one place the longer one does.
    """
    plain = NO_PROSE.sub(lambda m: " " * len(m[0]), source)
    found = [(*m.span(), a) for a, form in terms.items() for m in form.finditer(plain)]
    ends = [m.end() for m in re.finditer(r"\n\s*\n", source)]  # of paragraphs
    folds = [range(*m.span()) for m in FOLDED.finditer(source)]
    chosen, bold, named = [], set(), set()
    for start, end, anchor in sorted(found, key=lambda each: each[0] - each[1]):
        if all(end <= other[0] or start >= other[1] for other in chosen):
            chosen.append((start, end, anchor))
            term = source[start:end]
            if english and is_followed(term, source[end:], english[anchor]):
                named.add((start, end, anchor))
            is_bold = source[:start].endswith("**") and source[end:].startswith("**")
            if is_bold and (english is None or term.isascii()):
                bold.add((bisect.bisect(ends, start), anchor))
    links = [(*m.span(), m[1]) for m in GLOSSARY_LINK.finditer(source)]
    return [
        (*each, each in links or each in named
         or (bisect.bisect(ends, each[0]), each[2]) in bold,
         any(each[0] in fold for fold in folds))
        for each in sorted(chosen + links)
    ]  # fmt: skip


def unexplained(
    nb, terms: dict, english: dict | None = None
) -> Iterator[tuple[int, int, int, str]]:
    """Yield each use of a term that nothing has explained: cell, start, end, anchor.

    What is explained in a folded text is not yet explained to one who leaves it folded.
    """
    seen, opened = set(), set()
    for place, cell in enumerate(nb.cells):
        if cell.cell_type != "markdown":
            continue
        for start, end, anchor, explained, folded in uses(cell.source, terms, english):
            if not explained and anchor not in (seen if folded else opened):
                yield place, start, end, anchor
            seen.add(anchor)
            opened |= set() if folded else {anchor}


def rule_glossary(path, nb):
    """A term of the glossary is linked, or explained, at its first use.

    It is explained in bold type; in the Chinese edition by its English word behind it.
    """
    if edition(path) == "zh":
        terms, english = chinese_glossary(GLOSSARY_ZH.read_text(encoding="utf-8"))
        what = "is used before it is linked or has its English word behind it"
    else:
        terms, english = glossary(GLOSSARY.read_text(encoding="utf-8")), None
        what = "is used before it is linked or explained"
    for place, start, end, anchor in unexplained(nb, terms, english):
        text = nb.cells[place].source[start:end]
        word = f" ({english[anchor]})" if english else ""
        yield f"cell {place + 1}: {text!r}{word} {what}"
    for number, cell in enumerate(nb.cells, 1):
        for linked in GLOSSARY_LINK.findall(cell.source):
            if linked not in terms:
                yield f"cell {number}: the glossary has no {linked!r}"


def rule_edition(path, nb):
    """The Chinese notebook has the cells and the code of the English one, as of now."""
    english = ROOT / "notebooks" / path.name
    if edition(path) == "en":
        return
    if not english.exists():
        yield f"there is no English notebook {path.name}"
        return
    yield from different(nbformat.read(english, as_version=4), nb)
    for number, cell in enumerate(nb.cells, 1):
        sentences = re.split(r"[。！？；\n]", prose(cell.source))
        if any("截断" in s and re.search(CLIP, s) for s in sentences):
            yield f"cell {number}: 截断 is *truncate*; clip is 裁剪"


def edition_problems(there: set[str], text: str) -> list[str]:
    """Return which Chinese notebooks are missing, and how their glossary is another.

    `there` holds the names of those that are there, `text` is notebooks/zh/README.md.
    """
    problems = [f"{name} is missing" for name in NAMES if name not in there]
    problems += [f"{name} is in no list of names" for name in sorted(there - {*NAMES})]
    terms, rows = chinese_glossary(text)[0], re.findall("^\\| <a id=.*", text, re.M)
    odd = [row for row in rows if not ROW.match(row)]
    problems += [f"README.md: no row of the glossary: {row[:60]}" for row in odd]
    if len(terms) < len(rows) - len(odd):
        problems.append("README.md: two terms of the glossary have the same anchor")
    english = glossary(GLOSSARY.read_text(encoding="utf-8")).keys()
    what = "README.md: only one of the two glossaries has"
    problems += [f"{what} {a!r}" for a in sorted(english ^ terms.keys())]
    return [f"zh/{problem}" for problem in problems]


def glossary_problems(text: str, paths: list[Path]) -> list[str]:
    """Return what is wrong with the glossary as a whole, a line each."""
    terms, entries = glossary(text), re.findall(r"^- <a id=.*", text, re.MULTILINE)
    odd = [entry for entry in entries if not ENTRY.match(entry)]
    problems = [f"no entry of the glossary: {entry[:60]}" for entry in odd]
    if len(entries) > MAX_TERMS:
        problems.append(f"the glossary has {len(entries)} terms, {MAX_TERMS} at most")
    if len(terms) < len(entries) - len(odd):
        problems.append("two terms of the glossary have the same anchor")
    cells = [c for path in paths for c in markdown_cells(nbformat.read(path, 4))]
    used = {each[2] for cell in cells for each in uses(cell.source, terms)}
    problems += [
        f"no notebook uses {a!r} of the glossary" for a in terms if a not in used
    ]
    return [f"{GLOSSARY.name}: {problem}" for problem in problems]


def link(path: Path) -> int:
    """Link the terms that a notebook uses unexplained; return how many."""
    nb = nbformat.read(path, as_version=4)
    terms = glossary(GLOSSARY.read_text(encoding="utf-8"))
    places = list(unexplained(nb, terms))
    for place, start, end, anchor in reversed(places):
        text = nb.cells[place].source
        named = f"[{text[start:end]}]({GLOSSARY.name}#{anchor})"
        nb.cells[place].source = text[:start] + named + text[end:]
    if places:
        nbformat.write(nb, path)
    return len(places)


RULES = [rule for name, rule in list(globals().items()) if name.startswith("rule_")]


def check(path: Path) -> list[str]:
    """Return what is wrong with a notebook, a line each."""
    warnings.simplefilter("ignore", nbformat.warnings.MissingIDFieldWarning)
    try:
        nb = nbformat.reads(path.read_text(encoding="utf-8"), as_version=4)
    except Exception as error:  # nbformat raises many kinds
        return [f"{label(path)}: cannot be read: {error}"]
    if not nb.cells:
        return [f"{label(path)}: no cells"]
    return [f"{label(path)}: {text}" for rule in RULES for text in rule(path, nb)]


# --- run ------------------------------------------------------------------------------


def run(path: Path, profile: str = "cpu") -> None:
    """Execute a notebook in place and record how; it stays as it is if a cell fails."""
    from helpers.runs import machine, write_atomically

    os.environ |= {"GRPO_PROFILE": profile, "TQDM_DISABLE": "1"}
    nb = nbformat.read(path, as_version=4)
    count, begun = len(code_cells(nb)), time.monotonic()
    started = {}

    def on_start(cell, cell_index):
        started[cell_index] = time.monotonic()

    def on_end(cell, cell_index, execute_reply):
        seconds = time.monotonic() - started[cell_index]
        title = cell.source.strip().splitlines()[0][:60]
        number = cell.get("execution_count")
        print(f"{path.stem} {number}/{count} {seconds:6.1f} s  {title}", flush=True)

    options = {"timeout": 3600, "kernel_name": "python3", "record_timing": False}
    options["coalesce_streams"] = True
    hooks = {"on_cell_start": on_start, "on_cell_executed": on_end}
    folder = {"metadata": {"path": str(path.parent)}}
    try:
        NotebookClient(nb, resources=folder, **options, **hooks).execute()
    except (CellExecutionError, DeadKernelError) as error:
        sys.exit(f"{path.name} stays as it was; a cell failed:\n{error}")
    for cell in code_cells(nb):
        cell.outputs = [
            out for out in cell.outputs
            if not any("widget-view" in kind for kind in out.get("data", {}))
        ]  # fmt: skip
    nb.metadata.pop("widgets", None)
    nb.metadata["kernelspec"] = KERNEL
    nb.metadata["language_info"] = {"name": "python"}
    nb.metadata["course"] = {
        "date": datetime.date.today().isoformat(),
        "profile": profile,
        "seconds": round(time.monotonic() - begun),
        "machine": machine(),
        "code": code_digest(nb),
    }
    write_atomically(path, nbformat.writes(nb) + "\n")
    print(f"{path.name}: {time.monotonic() - begun:.0f} s in all")


def main() -> int:
    """Run one command; return 1 where something is wrong."""
    top = argparse.ArgumentParser(description=__doc__)
    commands = top.add_subparsers(dest="command", required=True)
    p = commands.add_parser("stamp", help="write the repository's address everywhere")
    p.add_argument("repository", nargs="?", metavar="OWNER/NAME")
    p.add_argument("--check", action="store_true", help="change nothing")
    p = commands.add_parser("check", help="say what is wrong with notebooks")
    p.add_argument("names", nargs="*", metavar="NAME", help="03 or zh/03; default all")
    p = commands.add_parser("link", help="link the glossary's terms where they come up")
    p.add_argument("names", nargs="*", metavar="NAME", help="such as 03; default all")
    p = commands.add_parser("run", help="execute notebooks in place")
    p.add_argument("names", nargs="*", metavar="NAME", help="03 or zh/03; default all")
    args = top.parse_args()
    if args.command == "run":
        for path in notebooks(args.names):
            run(path)
        return 0
    if args.command == "link":
        for path in notebooks(args.names, "en"):
            print(f"{path.name}: {link(path)} links")
        return 0
    if args.command == "check":
        problems = [text for path in notebooks(args.names) for text in check(path)]
        if not args.names:
            text = GLOSSARY.read_text(encoding="utf-8")
            problems += glossary_problems(text, notebooks(editions="en"))
            there = {path.name for path in notebooks(editions="zh")}
            problems += edition_problems(there, GLOSSARY_ZH.read_text(encoding="utf-8"))
            from figures import figures  # the script beside this one

            problems += figures(ROOT, write=False)
    elif args.check:
        problems = disagreements(args.repository)
    elif args.repository:
        stamp(args.repository)
        return 0
    else:
        top.error("stamp wants OWNER/NAME, or --check")
    print("\n".join(problems) or "nothing found")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    sys.exit(main())
