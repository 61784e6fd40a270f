"""The gates of .github/scripts/notebooks.py: each rule fails on a broken notebook."""

import importlib.util
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import nbformat
import pytest

from tests import ROOT

SCRIPT = ROOT / ".github" / "scripts" / "notebooks.py"
spec = importlib.util.spec_from_file_location("gates", SCRIPT)
gates = importlib.util.module_from_spec(spec)
spec.loader.exec_module(gates)
NOTEBOOKS = gates.notebooks()
ENGLISH = gates.notebooks(editions="en")
GOOD = ROOT / "notebooks" / "00_start_here.ipynb"
PNG = {"image/png": "iVBORw0KGgo="}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=gates.label)
def test_nothing_is_wrong_with_a_notebook(path):
    assert gates.check(path) == []


def test_the_set_up_cell_is_short_and_the_same_everywhere():
    assert len(gates.setup_cell().splitlines()) <= 12
    cells = {gates.code_cells(nbformat.read(p, 4))[0].source for p in NOTEBOOKS}
    assert cells == {gates.setup_cell()}


def output(kind="display_data", **fields):
    """An output of a cell."""
    return nbformat.v4.new_output(kind, **fields)


def code(nb, place=1):
    """A code cell of a notebook."""
    return gates.code_cells(nb)[place]


def exercise(nb):
    """The place of the first exercise's cell."""
    return next(i for i, cell in enumerate(nb.cells) if gates.is_exercise(cell))


def add_code(nb, source):
    """Put a code cell before the recap."""
    nb.cells.insert(-1, nbformat.v4.new_code_cell(source))


def add_text(nb, source, place=2):
    """Put a Markdown cell there; the third one by default, below the set-up cell."""
    nb.cells.insert(place, nbformat.v4.new_markdown_cell(source))


def solution_of(nb, place=None):
    """The code of an exercise's solution."""
    folded = nb.cells[(place or exercise(nb)) + 1].source
    return re.search(r"```python\n(.*?)```", folded, re.DOTALL)[1]


def replace(cell, old, new):
    """Replace a text that must be there."""
    assert old in cell.source
    cell.source = cell.source.replace(old, new)


EXERCISES = [
    i for i, c in enumerate(nbformat.read(GOOD, 4).cells) if gates.is_exercise(c)
]
FIRST, SECOND = EXERCISES

# What breaks a good notebook, and what the check then says.
BROKEN = {
    "no id": (lambda nb: nb.cells[3].pop("id"), "a cell has no id"),
    "invalid": (lambda nb: nb.cells[0].update(x=1), "not valid: Additional properties"),
    "old format": (lambda nb: nb.update(nbformat_minor=4), "nbformat is below 4.5"),
    "kernelspec": (
        lambda nb: nb.metadata.kernelspec.update(name="conda-env-x"),
        "the kernelspec is not",
    ),
    "size": (
        lambda nb: code(nb).outputs.append(
            output(data={"text/plain": "x" * gates.MAX_BYTES})
        ),
        "larger than 500 KB",
    ),
    "syntax": (lambda nb: code(nb).update(source="for"), "code cell 2: invalid syntax"),
    "long cell": (
        lambda nb: code(nb).update(source="x = 1\n" * 31),
        "code cell 2: 31 lines, 30 at most",
    ),
    "long line": (
        lambda nb: code(nb).update(source="#" * 89),
        "code cell 2: a line longer than 88 columns",
    ),
    "lint": (lambda nb: code(nb).update(source="import os"), "ruff check: "),
    "style": (lambda nb: code(nb).update(source="x=1"), "ruff format: "),
    "set-up cell": (
        lambda nb: replace(code(nb, 0), "colab.set_up()", "colab.set_up(1)"),
        "the first code cell is not the set-up cell",
    ),
    "set-up cell not first": (
        lambda nb: nb.cells.insert(1, nbformat.v4.new_code_cell("x = 1")),
        "the first code cell is not the set-up cell",
    ),
    "badge": (
        lambda nb: replace(nb.cells[0], "00_start_here.ipynb", "03_grpo.ipynb"),
        "the first cell has not this notebook's badge",
    ),
    "title": (
        lambda nb: replace(nb.cells[0], "# 00 ·", "# 01 ·"),
        "the title does not begin with '# 00 · '",
    ),
    "section": (
        lambda nb: [
            c.update(source=c.source.replace("## 0.3", "## 0.4")) for c in nb.cells
        ],
        "section '0.4 A real model tries': expected number 0.3",
    ),
    "exercise number": (
        lambda nb: [
            c.update(source=c.source.replace("e 0.1:", "e 0.3:")) for c in nb.cells
        ],
        "expected 'Exercise 0.1: what (easy, 3 minutes)'",
    ),
    "exercise without title": (
        lambda nb: [c.update(source=c.source.replace("### E", "E")) for c in nb.cells],
        "has no title",
    ),
    "exercise without stub": (
        lambda nb: nb.cells[exercise(nb)].update(source="exercises.check_x(1)"),
        "Exercise 0.1 has no stub (...) that ends with exercises.check_…(…)",
    ),
    "exercise without hint": (
        lambda nb: replace(nb.cells[exercise(nb) + 1], "Hint", "Clue"),
        "Exercise 0.1 has no folded hint",
    ),
    "exercise without solution": (
        lambda nb: replace(nb.cells[exercise(nb) + 1], "```python", "```"),
        "Exercise 0.1 has no solution in Python",
    ),
    "exercise without tag": (
        lambda nb: nb.cells[exercise(nb)].metadata.update(tags=[]),
        "checks an exercise without the tag exercise",
    ),
    "dependence on a stub": (
        lambda nb: add_code(nb, "print(my_scores)"),
        "depends on my_scores, which a learner fills in",
    ),
    "base64": (
        lambda nb: nb.cells[2].update(source="![dot](data:image/png;base64,AA)"),
        "Markdown holds an image as base64",
    ),
    "no alt text": (
        lambda nb: nb.cells[2].update(source="![](recorded/before_after.png)"),
        "an image in Markdown has no alt text",
    ),
    "img without alt": (
        lambda nb: nb.cells[2].update(source='<img src="recorded/before_after.png">'),
        "an image in Markdown has no alt text",
    ),
    "link": (
        lambda nb: nb.cells[2].update(source="[see](12_nowhere.ipynb#x)"),
        "the link to 12_nowhere.ipynb#x leads nowhere",
    ),
    "recap": (
        lambda nb: replace(nb.cells[-1], "## Recap", "End"),
        "the last cell is not the recap",
    ),
    "secret": (
        lambda nb: replace(nb.cells[0], "# 00", f"# 00 hf_{'x' * 34}"),
        "cell 1: what looks like a secret",
    ),
    "secret in an output": (
        lambda nb: code(nb).outputs.append(
            output("stream", name="stdout", text=f"token ghp_{'x' * 36}")
        ),
        "what looks like a secret",
    ),
    "machine path": (
        lambda nb: code(nb).outputs.append(
            output("stream", name="stdout", text="saved in /home/ada/runs")
        ),
        "a path of a machine in the output: /home/a…",
    ),
    "machine path in HTML": (
        lambda nb: code(nb).outputs.append(
            output(data={"text/html": r"<b>C:\Users\ada</b>"})
        ),
        "a path of a machine in the output: ",
    ),
    "widget state": (
        lambda nb: nb.metadata.update(widgets={}),
        "metadata.widgets: widget state is not to be saved",
    ),
    "widget": (
        lambda nb: code(nb).outputs.append(
            output(data={"application/vnd.jupyter.widget-view+json": {"model_id": "1"}})
        ),
        "code cell 2: a widget without state in the output",
    ),
    "not run": (
        lambda nb: code(nb).update(execution_count=None),
        "code cell 2 was not run in order",
    ),
    "error": (
        lambda nb: code(nb).outputs.append(
            output("error", ename="E", evalue="", traceback=[])
        ),
        "code cell 2 ended with an error",
    ),
    "warning": (
        lambda nb: code(nb).outputs.append(
            output("stream", name="stderr", text="FutureWarning: soon")
        ),
        "code cell 2 printed a warning: 'FutureWarning: soon'",
    ),
    "svg": (
        lambda nb: code(nb).outputs.append(output(data={"image/svg+xml": "<svg/>"})),
        "code cell 2: an image that is not png",
    ),
    "figure without alt text": (
        lambda nb: code(nb).outputs.append(output(data=PNG)),
        "code cell 2: a figure without alt text",
    ),
    "median of lines": (
        lambda nb: [c.update(source="x = 1\n" * 11) for c in gates.code_cells(nb)[1:]],
        "code cells have 11 lines at the median",
    ),
    "drawing": (
        lambda nb: code(nb).update(source="ax.plot(x)\naxes[0, 1].legend()\n" * 3),
        "code cell 2: 6 lines draw, 5 at most",
    ),
    "too few minutes": (
        lambda nb: replace(nb.cells[0], "40 to read", "30 to read"),
        "30: words, code and exercises make 39 minutes",
    ),
    "no minutes": (
        lambda nb: replace(nb.cells[0], "; 40 to read and solve", ""),
        "does not say how many minutes it is 'to read and solve'",
    ),
    "exercise solved above": (
        lambda nb: nb.cells[exercise(nb) - 2].update(source=solution_of(nb)),
        f"cell {FIRST - 1} gives away the exercise in cell {FIRST + 1}",
    ),
    "exercise solved below": (
        lambda nb: add_text(nb, f"```python\n{solution_of(nb)}```", FIRST + 4),
        f"cell {FIRST + 5} gives away the exercise in cell {FIRST + 1}",
    ),
    "result in a text": (
        lambda nb: add_text(nb, "You need 382 problems.", SECOND + 2),
        f"cell {SECOND + 3} names 382, a result of cell {SECOND + 1}",
    ),
    "result in an output": (
        lambda nb: (
            nb.cells[SECOND - 2].metadata.update(tags=["nbval-check-output"]),
            nb.cells[SECOND - 2].outputs.append(
                output("stream", name="stdout", text="382\n")
            ),
        ),
        f"names 382, a result of cell {SECOND + 1}",
    ),
    "decimal": (
        lambda nb: add_text(nb, "It fell to 0.4137 in the end."),
        "cell 3: 0.4137 stands in no output and not in numbers.toml",
    ),
    "per cent": (
        lambda nb: add_text(nb, "| runs | right |\n|---|---|\n| ours | 83% |"),
        "cell 3: 83 stands in no output and not in numbers.toml",
    ),
    "seconds": (
        lambda nb: add_text(nb, "A step takes 1,234 seconds."),
        "cell 3: 1,234 stands in no output and not in numbers.toml",
    ),
    "term": (
        lambda nb: add_text(nb, "Then comes the micro-batch."),
        "cell 3: 'micro-batch' is used before it is linked or explained",
    ),
    "term before its link": (
        lambda nb: replace(nb.cells[0], "[reward](README.md#reward)", "reward"),
        "cell 1: 'reward' is used before it is linked or explained",
    ),
    "link to no term": (
        lambda nb: add_text(nb, "A [learner](README.md#learner)."),
        "cell 3: the glossary has no 'learner'",
    ),
    "outputs older than the code": (
        lambda nb: replace(code(nb, 4), "min(8", "min(9"),
        "the outputs are older than the code",
    ),
    "profile": (
        lambda nb: nb.metadata.course.update(profile="smoke"),
        "the outputs are of profile smoke, not cpu",
    ),
    "versions": (
        lambda nb: nb.metadata.course.machine.update(trl="0.9.6"),
        "the outputs were made with trl 0.9.6, not trl>=1.16,<1.17",
    ),
    "no provenance": (
        lambda nb: nb.metadata.course.pop("date"),
        "nothing says with which date the outputs were made",
    ),
    "GPU not wanted": (
        lambda nb: nb.metadata.update(accelerator="GPU"),
        "accelerator and colab.gpuType are ('GPU', None), expected (None, None)",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_rule_fails_on_a_broken_notebook(case, tmp_path):
    breaks, says = BROKEN[case]
    nb = nbformat.read(GOOD, as_version=4)
    breaks(nb)
    path = tmp_path / GOOD.name
    path.write_text(nbformat.v4.writes_json(nb), encoding="utf-8")
    found = gates.check(path)
    assert any(says in line for line in found), found
    assert all(line.startswith(f"{GOOD.name}: ") for line in found)


def test_every_rule_is_shown_failing():
    said = " ".join(says for _, says in BROKEN.values())
    assert len(gates.RULES) == 17  # rule_edition is shown in test_editions.py
    for word in ("kernelspec", "syntax", "ruff", "set-up", "section", "folded", "alt",
                 "secret", "widget", "older", "gpuType", "draw", "minutes",
                 "gives away", "no output", "linked"):  # fmt: skip
        assert word in said


@pytest.mark.parametrize(
    "text",
    [
        "Take 37 problems, and 5 of 9 answers.",  # a count
        "It took 12 s, at 95%.",  # small whole numbers
        "In `step(0.4137)` the rate is $0.4137$.\n\n    python run.py 0.4137",
        "## 0.4 A title with 0.4137",
        "That is 0.5 × 0.8274 = 0.4137.",  # shows how it is made
        "It was [0.4137](https://example.org), they say.",
        "It was 0.4137 ([the report](recorded/README.md)).",
        "### Exercise 0.9: a rate (easy, 1 minutes)\n\nThe rate is 0.4137.",
        "<details><summary>Hint</summary>\n\nNot 0.4137.\n</details>",
    ],
)
def test_a_number_that_claims_nothing_or_has_a_source_is_let_pass(text):
    nb = nbformat.read(GOOD, as_version=4)
    add_text(nb, text)
    assert list(gates.rule_numbers(GOOD, nb)) == []


def test_a_number_may_be_rounded_and_a_share_may_be_a_percentage():
    nb = nbformat.read(GOOD, as_version=4)
    code(nb).outputs.append(output("stream", name="stdout", text="0.41372 1.37e-05"))
    add_text(nb, "It is 0.41, 0.4137, 41% or 41.4%, and the other 0.0000137.")
    assert list(gates.rule_numbers(GOOD, nb)) == []
    add_text(nb, "It is 0.4321.")
    assert len(list(gates.rule_numbers(GOOD, nb))) == 1


def test_every_number_that_is_allowed_is_needed():
    kept = tomllib.loads(gates.NUMBERS.read_text(encoding="utf-8"))
    groups = [group for notebook in kept.values() for group in notebook.values()]
    assert sum(map(len, groups)) <= 60
    for path in ENGLISH:
        claimed = {text for _, text in gates.claims(nbformat.read(path, 4))}
        groups = kept.get(path.name[:2], {}).values()
        assert {text for group in groups for text in group} <= claimed, path.name


def test_results_elsewhere_or_in_another_exercise_give_nothing_away():
    nb = nbformat.read(GOOD, as_version=4)
    add_text(nb, "You need 382 problems.")
    add_text(nb, "### Exercise 0.3: other (easy, 1 minutes)\n\nTake 382.", SECOND + 4)
    assert list(gates.rule_spoilers(GOOD, nb)) == []


# --- the glossary ---------------------------------------------------------------------

TERMS = """
- <a id="reward"></a>**reward** (also pay): points.
- <a id="reward-function"></a>**reward function**: a function.
- <a id="kl"></a>**KL** (also KL divergence): a distance.
- <a id="strict"></a>***strict***: a score.
"""


@pytest.mark.parametrize(
    "text,unexplained",
    [
        ("Its reward, its reward.", ["reward"]),
        ("Rewards pay.", ["Rewards"]),
        ("A reward function is code. Reward it.", ["reward function", "Reward"]),
        ("rewarded, pre-reward, reward_func", []),
        ("`reward` and $reward$\n\n# reward\n\n    reward\n\n[a reward](x.md)", []),
        ("```\nreward\n```\n<summary>reward</summary>", []),
        ("A **reward** is points. A reward.", []),
        ("The reward grows. A **reward** is points.", []),  # the same paragraph
        ("The reward grows.\n\nA **reward** is points.", ["reward"]),
        ("**The reward grows.**", ["reward"]),
        ("[rewards](README.md#reward) are a reward", []),
        ("reward and [reward](README.md#reward)", ["reward"]),
        ("kl KL KL divergence", ["KL"]),
        ("the KL divergence", ["KL divergence"]),
        ("be strict, *strict*", ["strict"]),
        ("be strict: **strict** is a score", []),
        (
            "<details><summary>Hint</summary>\n\nreward, reward</details>\nreward",
            ["reward", "reward"],
        ),
        ("**reward**\n<details><summary>Hint</summary>\n\nreward</details>", []),
    ],
)
def test_a_term_counts_in_prose_until_it_is_explained(text, unexplained):
    nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(text)])
    found = gates.unexplained(nb, gates.glossary(TERMS))
    assert [text[start:end] for _, start, end, _ in found] == unexplained


def test_what_is_wrong_with_the_whole_glossary_is_named(tmp_path):
    path = tmp_path / "00_small.ipynb"
    text = "reward, reward function, KL, *strict*"
    cells = [nbformat.v4.new_markdown_cell(text)]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    assert gates.glossary_problems(TERMS, [path]) == []
    many = "".join(f'- <a id="t{i}"></a>**t{i}**: x.\n' for i in range(57))
    found = gates.glossary_problems(TERMS + many, [path])
    assert "README.md: the glossary has 61 terms, 60 at most" in found
    assert "README.md: no notebook uses 't56' of the glossary" in found
    found = gates.glossary_problems(TERMS + '- <a id="kl"></a>**reward**: x.\n', [path])
    assert "README.md: two terms of the glossary have the same anchor" in found
    found = gates.glossary_problems(TERMS + '- <a id="x"></a>reward, points.\n', [path])
    assert found == [
        'README.md: no entry of the glossary: - <a id="x"></a>reward, points.'
    ]


def test_an_entry_of_the_glossary_is_two_sentences_at_most():
    entries = gates.ENTRY.finditer(gates.GLOSSARY.read_text(encoding="utf-8"))
    texts = [entry[0].partition(": ")[2] for entry in entries]
    assert 20 < len(texts) <= gates.MAX_TERMS
    assert [t for t in texts if len(re.findall(r"[.!?](?=\)? |\)?$)", t)) > 2] == []


def test_the_check_of_all_notebooks_reads_the_glossary_and_link_mends(clone):
    path = clone / "notebooks" / GOOD.name
    before = path.read_bytes()
    nb = nbformat.read(path, as_version=4)
    for cell in gates.markdown_cells(nb):
        cell.source = gates.GLOSSARY_LINK.sub(
            lambda m: m[0][1:].split("]")[0], cell.source
        )
    nbformat.write(nb, path)
    glossary = clone / "notebooks" / "README.md"
    with glossary.open("a", encoding="utf-8") as file:
        file.write('- <a id="zebra"></a>**zebra**: an animal.\n')
    said = call(clone, "check").stdout
    assert f"{GOOD.name}: cell 1: 'reward' is used before it is linked" in said
    assert "README.md: no notebook uses 'zebra' of the glossary" in said
    assert call(clone, "link", "00").stdout.startswith(f"{GOOD.name}: ")
    assert path.read_bytes() == before


def test_05_06_and_10_open_with_a_t4(tmp_path):
    nb = nbformat.read(GOOD, as_version=4)
    path = tmp_path / "05_train_with_trl.ipynb"
    nbformat.write(nb, path)
    wanted = "accelerator and colab.gpuType are (None, None), expected ('GPU', 'T4')"
    assert f"{path.name}: {wanted}" in gates.check(path)
    nb.metadata |= {"accelerator": "GPU", "colab": {"gpuType": "T4"}}
    nbformat.write(nb, path)
    assert not any("accelerator" in line for line in gates.check(path))


def test_a_file_that_is_no_notebook_is_one_line(tmp_path):
    path = tmp_path / GOOD.name
    path.write_text("{")
    assert len(gates.check(path)) == 1
    assert gates.check(path)[0].startswith("00_start_here.ipynb: cannot be read: ")


def call(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    """Run the script of a copy of the course."""
    command = [sys.executable, str(folder / ".github/scripts/notebooks.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True)


def test_one_command_makes_a_fork_and_the_check_finds_what_disagrees(clone):
    assert call(clone, "stamp", "--check").returncode == 0
    done = call(clone, "stamp", "ada-l/grpo.course")
    assert (done.returncode, done.stderr) == (0, "")
    assert call(clone, "stamp", "--check", "ada-l/grpo.course").stdout == (
        "nothing found\n"
    )
    # The outputs stay good: a stamp changes no code but the set-up cell's.
    assert call(clone, "check").stdout == "nothing found\n"
    for path in clone.rglob("*"):
        if path.suffix in (".ipynb", ".md", ".toml", ".cff", ".yml"):
            text = path.read_text(encoding="utf-8")
            assert gates.address() not in text, path
    nb = nbformat.read(clone / "notebooks" / GOOD.name, 4)
    assert "--depth 1 https://github.com/ada-l/grpo.course\n" in code(nb, 0).source
    assert 'Path.cwd() / "grpo.course"]' in code(nb, 0).source
    text = (clone / "README.md").read_text(encoding="utf-8")
    assert "(https://ada-l.github.io/grpo.course/)" in text
    done = call(clone, "stamp", "--check", "someone/else")
    assert done.returncode == 1
    assert done.stdout == (
        "pyproject.toml says ada-l/grpo.course, this repository is someone/else\n"
    )
    readme = clone / "README.md"
    text = text.replace("ada-l/grpo.course", "x/y", 1)
    text = text.replace("ada-l.github.io/grpo", "bo.github.io/grpo")
    readme.write_text(text, encoding="utf-8")
    done = call(clone, "stamp", "--check")
    assert done.returncode == 1
    for other in ("x/y", "bo/grpo.course"):
        assert f"README.md: {other} in place of ada-l/grpo.course" in done.stdout


def test_an_address_or_a_notebook_that_is_none_is_one_line(clone):
    done = call(clone, "stamp", "https://example.org")
    assert done.returncode == 1
    assert "is no address of a repository; use OWNER/NAME" in done.stderr
    done = call(clone, "check", "77")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("no notebook begins with '77'; there are 00_start")
    assert call(clone, "stamp").returncode == 2


def test_a_notebook_whose_cell_fails_stays_as_it_was(clone):
    path = clone / "notebooks" / "99_broken.ipynb"
    cells = [nbformat.v4.new_code_cell(s) for s in ("print(1)", "1 / 0")]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    before = path.read_bytes()
    done = call(clone, "run", "99")
    assert done.returncode == 1
    assert "99_broken.ipynb stays as it was; a cell failed:" in done.stderr
    assert "ZeroDivisionError" in done.stderr
    assert path.read_bytes() == before


def test_run_records_how_the_outputs_were_made(clone):
    path = clone / "notebooks" / "99_small.ipynb"
    sources = ("import os", "print(os.environ['GRPO_PROFILE'], os.getcwd())")
    cells = [nbformat.v4.new_code_cell(source) for source in sources]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    done = call(clone, "run", "99")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("99_small 1/2 ") and lines[0].endswith(" s  import os")
    nb = nbformat.read(path, as_version=4)
    assert code(nb).outputs[0].text == f"cpu {clone / 'notebooks'}\n"
    made = nb.metadata.course
    assert made.code == gates.code_digest(nb) and made.profile == "cpu"
    assert made.machine.torch and made.machine.cpu and made.date
    assert [cell.execution_count for cell in nb.cells] == [1, 2]
