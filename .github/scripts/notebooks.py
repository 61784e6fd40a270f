"""The notebooks' gates: python .github/scripts/notebooks.py stamp | check | run.

`stamp OWNER/NAME` writes the repository's address, which stands in pyproject.toml, into
badges, set-up cells and README; `stamp --check` says where they disagree. `check` says
what is wrong with a notebook, and without names also which figure of a README is
another than the recorded files give; `run` executes notebooks in place.
"""

import argparse
import ast
import datetime
import hashlib
import json
import os
import re
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import nbformat
from IPython.core.inputtransformer2 import TransformerManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, DeadKernelError
from packaging.requirements import Requirement

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
    f"({COLAB}/github/{{owner}}/{{name}}/blob/main/notebooks/{{file}})"
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
STAMPED = ("pyproject.toml", "README.md", "CITATION.cff", ".github/CONTRIBUTING.md")
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}
ON_GPU = ("05", "06", "10")  # what Colab opens with a T4
MAX_LINES, MAX_COLUMNS, MAX_BYTES = 30, 88, 500_000
SECRET = re.compile(
    r"\b(?:hf_\w{30,}|gh[pousr]_\w{30,}|github_pat_\w{30,}|sk-[\w-]{30,}|AKIA\w{16})"
)
MACHINE_PATH = re.compile(
    r"(?<![\w.:/~])/(?:home|root|Users|tmp|work|opt|mnt|content|usr|private|var)/[\w.]"
    r"|\b[A-Z]:\\+\w"
)


def notebooks(names: list[str] = ()) -> list[Path]:
    """Return the course's notebooks, or those whose names begin with one of `names`."""
    paths = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
    for name in names:
        if not any(path.name.startswith(Path(name).name) for path in paths):
            known = ", ".join(path.stem for path in paths)
            sys.exit(f"no notebook begins with {name!r}; there are {known}")
    starts = tuple(Path(name).name for name in names)
    return [path for path in paths if not names or path.name.startswith(starts)]


# --- stamp ----------------------------------------------------------------------------


def address() -> str:
    """Return OWNER/NAME of this repository, from pyproject.toml."""
    return re.search(IN_PYPROJECT, (ROOT / "pyproject.toml").read_text())[2]


def setup_cell() -> str:
    """Return the source of the set-up cell."""
    owner, name = address().split("/")
    return SETUP.format(owner=owner, name=name)


def badge(path: Path) -> str:
    """Return the Markdown of a notebook's badge."""
    owner, name = address().split("/")
    return BADGE.format(owner=owner, name=name, file=path.name)


def stamp(repository: str) -> None:
    """Write a repository's address wherever one stands."""
    if not re.fullmatch(NAME, repository):
        sys.exit(f"{repository!r} is no address of a repository; use OWNER/NAME")

    def stamped(text: str) -> str:
        for pattern in ADDRESSES:
            text = re.sub(pattern, rf"\g<1>{repository}", text)
        return text

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
        texts[path.name] = "\n".join(cell.source for cell in cells)
        if badge(path) not in texts["README.md"]:
            problems.append(f"README.md: no badge of {path.name} at {known}")
    for name, text in texts.items():
        there = [m[2] for pattern in ADDRESSES for m in re.finditer(pattern, text)]
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
    if not nb.cells[0].source.startswith(f"# {path.name[:2]} · "):
        yield f"the title does not begin with '# {path.name[:2]} · '"
    for cell in markdown_cells(nb):
        for title in re.findall(r"^## (.+)$", cell.source, re.MULTILINE):
            sections += title != "Recap"
            if title != "Recap" and not title.startswith(f"{number}.{sections} "):
                yield f"section {title!r}: expected number {number}.{sections}"
        for title in re.findall(r"^### (Exercise .+)$", cell.source, re.MULTILINE):
            exercises += 1
            wanted = rf"Exercise {number}\.{exercises}: .+ \((easy|medium|hard), "
            if not re.fullmatch(wanted + r"\d+ minutes\)", title):
                name = f"Exercise {number}.{exercises}"
                yield f"{title!r}: expected '{name}: what (easy, 3 minutes)'"


def rule_exercises(path, nb):
    """An exercise has title, stub, check, hint and solution; nothing depends on it."""
    stubs: set[str] = set()
    cells, titles = nb.cells, []
    for place, cell in enumerate(cells):
        if cell.cell_type != "code":
            titles += re.findall(r"^### (Exercise [\d.]+)", cell.source, re.MULTILINE)
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
            if not what.startswith("Exercise"):
                yield f"{what} has no title"
            if not check or "..." not in cell.source:
                yield f"{what} has no stub (...) that ends with exercises.check_…(…)"
            for part in ("Hint", "Solution"):
                if f"<summary>{part}</summary>" not in folded:
                    yield f"{what} has no folded {part.lower()}"
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
            target = ROOT / "notebooks" / link.partition("#")[0]
            if not re.match(r"https?://|#|mailto:", link) and not target.exists():
                yield f"the link to {link} leads nowhere"
    if nb.cells[-1].cell_type != "markdown" or "## Recap" not in nb.cells[-1].source:
        yield "the last cell is not the recap"
    others = notebooks()
    later = [other.name for other in others if other.name > path.name][:1]
    if later and f"({later[0]})" not in nb.cells[-1].source:
        yield f"the recap does not link to {later[0]}"


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


RULES = [rule for name, rule in list(globals().items()) if name.startswith("rule_")]


def check(path: Path) -> list[str]:
    """Return what is wrong with a notebook, a line each."""
    warnings.simplefilter("ignore", nbformat.warnings.MissingIDFieldWarning)
    try:
        nb = nbformat.reads(path.read_text(encoding="utf-8"), as_version=4)
    except Exception as error:  # nbformat raises many kinds
        return [f"{path.name}: cannot be read: {error}"]
    if not nb.cells:
        return [f"{path.name}: no cells"]
    return [f"{path.name}: {text}" for rule in RULES for text in rule(path, nb)]


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
    p.add_argument("names", nargs="*", metavar="NAME", help="such as 03; default all")
    p = commands.add_parser("run", help="execute notebooks in place")
    p.add_argument("names", nargs="*", metavar="NAME", help="such as 03; default all")
    args = top.parse_args()
    if args.command == "run":
        for path in notebooks(args.names):
            run(path)
        return 0
    if args.command == "check":
        problems = [text for path in notebooks(args.names) for text in check(path)]
        if not args.names:
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
