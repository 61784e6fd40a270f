"""The Chinese notebooks have the cells and the code of the English ones."""

import re

import nbformat
import pytest

from tests import ROOT
from tests.notebooks.test_rules import call, gates

editions = gates.different.__globals__  # the module beside the gates
NAME = "00_start_here.ipynb"
ENGLISH = ROOT / "notebooks" / NAME
TITLE = r"### Exercise ([\d.]+): (.+) \((easy|medium|hard), (\d+) minutes\)"
LEVELS = {"easy": "简单", "medium": "中等", "hard": "困难"}
THERE = {path.name for path in gates.notebooks(editions="zh")}


def in_chinese(source: str) -> str:
    """Markdown with the words that the rules look for in Chinese, the rest English."""

    def title(found) -> str:
        number, what, level, minutes = found.groups()
        return f"### 练习 {number}：{what}（{LEVELS[level]}，{minutes} 分钟）"

    source = re.sub(TITLE, title, source)
    words = {"## Recap": "## 小结", ">Hint<": ">提示<", ">Solution<": ">解答<"}
    words |= {"main/notebooks/": "main/notebooks/zh/", "](recorded": "](../recorded"}
    for english, chinese in words.items():
        source = source.replace(english, chinese)
    return source


@pytest.fixture
def pair():
    """An English notebook, and one that stands for the Chinese one."""
    english, other = (nbformat.read(ENGLISH, as_version=4) for _ in range(2))
    for cell, ours in zip(other.cells, english.cells, strict=True):
        cell.metadata["english"] = editions["english_hash"](ours)
        if cell.cell_type == "markdown":
            cell.source = in_chinese(cell.source)
    first = other.cells[0]
    first.source = first.source.replace("\n\n", "\n\n组相对策略优化（GRPO）。\n\n", 1)
    return english, other


def check(nb, folder) -> list[str]:
    """What the gates say of a Chinese notebook."""
    path = folder / "zh" / NAME
    path.parent.mkdir()
    nbformat.write(nb, path)
    return gates.check(path)


def place(nb, pattern: str, kind: str) -> int:
    """The first cell of a kind that holds a pattern."""
    for number, cell in enumerate(nb.cells):
        if cell.cell_type == kind and re.search(pattern, cell.source, re.MULTILINE):
            return number
    raise AssertionError(pattern)


def change(nb, old: str, new: str, kind: str = "markdown") -> None:
    """Replace a text in the first cell that has it."""
    cell = nb.cells[place(nb, re.escape(old), kind)]
    cell.source = cell.source.replace(old, new, 1)


def test_a_notebook_in_chinese_is_content(pair, tmp_path):
    assert list(editions["different"](*pair)) == []
    assert check(pair[1], tmp_path) == []


# What is planted, and what the check then says.
PLANTED = {
    "a token of code": (
        lambda nb: change(nb, "min(8", "min(9", "code"),
        ": another code than in English: `9` in place of `8`",
    ),
    "a line of code": (
        lambda nb: nb.cells[3].update(source=nb.cells[3].source + "\nx = 1"),
        "cell 4 (00-003): another code than in English: ",
    ),
    "a name": (
        lambda nb: change(nb, "profile.model", "profile.name", "code"),
        ": another code than in English: `profile.name` in place of `profile.model`",
    ),
    "code that does not parse": (
        lambda nb: nb.cells[3].update(source="for"),
        "cell 4 (00-003): another code than in English: it does not parse: invalid",
    ),
    "an exercise's number": (
        lambda nb: change(nb, "### 练习 0.1：", "### 练习 0.2："),
        "has the exercises [('0.2', '",
    ),
    "an exercise's minutes": (
        lambda nb: change(nb, " 分钟）", "0 分钟）"),
        "has the exercises [('0.1', '",
    ),
    "a solution": (
        lambda nb: change(nb, "```python\n", "```python\nx = 1\n"),
        "has another ```python than in English: `x = 1; ",
    ),
    "a solution gone": (
        lambda nb: change(nb, "```python\n", "```\n"),
        "has another ```python than in English: 0 blocks in place of 1",
    ),
    "a section's number": (
        lambda nb: change(nb, "## 0.3 ", "## 0.4 "),
        "has the sections ['0.4'], in English ['0.3']",
    ),
    "a stale cell": (
        lambda nb: nb.cells[4].metadata.update(english="0" * 12),
        "cell 5 (00-004): stale: its English cell has changed since it was written",
    ),
    "a cell without a hash": (
        lambda nb: nb.cells[0].metadata.pop("english"),
        "cell 1 (00-000): stale: ",
    ),
    "a missing cell": (
        lambda nb: nb.cells.pop(4),
        "cell 5 (00-004) of the English notebook is missing",
    ),
    "a cell more": (
        lambda nb: nb.cells.insert(4, nbformat.v4.new_markdown_cell("好", id="more")),
        "cell 5 (more) is not in the English notebook",
    ),
    "another order": (
        lambda nb: nb.cells.insert(4, nb.cells.pop(6)),
        "the cells stand in another order than in English",
    ),
    "another type": (
        lambda nb: nb.cells.__setitem__(
            4, nbformat.v4.new_code_cell("x = 1", id=nb.cells[4].id)
        ),
        "cell 5 (00-004): is code, in English markdown",
    ),
    "a tag": (
        lambda nb: nb.cells[3].metadata.update(tags=["exercise"]),
        "cell 4 (00-003): has the tags ['exercise'], in English []",
    ),
    "the English badge": (
        lambda nb: change(nb, "main/notebooks/zh/", "main/notebooks/"),
        "the first cell has not this notebook's badge",
    ),
    "the English title of an exercise": (
        lambda nb: change(nb, "（简单，", " (easy, "),
        "expected '练习 0.1：什么（简单，3 分钟）'",
    ),
    "no recap": (
        lambda nb: change(nb, "## 小结", "## Recap"),
        "the last cell is not the recap",
    ),
    "a hint in English": (
        lambda nb: change(nb, ">提示<", ">Hint<"),
        "Exercise 0.1 has no folded hint".replace("Exercise", "练习"),
    ),
    "a link from the English folder": (
        lambda nb: change(nb, "](../recorded/README.md)", "](recorded/README.md)"),
        "the link to recorded/README.md leads nowhere",
    ),
    "a number": (
        lambda nb: change(nb, "## 小结", "## 小结\n\n最后降到0.4137左右。"),
        "0.4137 stands in no output and not in numbers.toml",
    ),
    "seconds": (
        lambda nb: change(nb, "## 小结", "## 小结\n\n一步要1,234秒。"),
        "1,234 stands in no output and not in numbers.toml",
    ),
    "a term": (
        lambda nb: change(nb, "## 小结", "## 小结\n\n每个**微批次**都算。"),
        "'微批次' (micro-batch) is used before it is linked or has its English word",
    ),
    "truncation for clip": (
        lambda nb: change(nb, "## 小结", "## 小结\n\n截断（clip）限制它。"),
        "截断 is *truncate*; clip is 裁剪",
    ),
}


@pytest.mark.parametrize("case", PLANTED)
def test_what_is_planted_in_a_chinese_notebook_is_named(case, pair, tmp_path):
    plant, says = PLANTED[case]
    plant(pair[1])
    found = check(pair[1], tmp_path)
    assert any(says in line for line in found), found
    assert all(line.startswith(f"zh/{NAME}: ") for line in found)


def test_english_that_changes_makes_its_cell_stale(pair):
    english, other = pair
    english.cells[4].source += " More."
    assert list(editions["different"](english, other)) == [
        "cell 5 (00-004): stale: its English cell has changed since it was written"
    ]


def test_a_stamp_makes_no_cell_stale(pair):
    english, other = pair
    owner_and_name = gates.address()
    for cell in english.cells:
        cell.source = cell.source.replace(owner_and_name, "ada-l/grpo.course")
    assert "ada-l" in english.cells[0].source
    assert not any("stale" in line for line in editions["different"](english, other))


@pytest.mark.parametrize(
    "english,chinese",
    [
        ("x = 1  # one", "x = 1  # 一"),
        ('def f():\n    "One."\n    return 1', 'def f():\n    "一。"\n    return 1'),
        ('print("a")', 'print("甲")'),
        ('print(f"{a} of {b:.2f}")', 'print(f"{b:.2f} 中的 {a}")'),
        ('print("a", x, "b" if x else "c")', 'print("甲", x, "乙" if x else "丙")'),
        ('print("a {}".format(x) + "b")', 'print("甲 {}".format(x) + "乙")'),
        ('print("; ".join(f"{a}s" for a in b))', 'print("；".join(f"{a}" for a in b))'),
        ('display(Markdown("a"))', 'display(Markdown("甲"))'),
        ('show(plot(x), f"Mean {x}.")', 'show(plot(x), f"平均 {x}。")'),
        ("!ls\nx = 1", "!ls\nx = 1  # 一"),
    ],
)  # fmt: skip
def test_comments_and_what_is_printed_may_be_chinese(english, chinese):
    assert editions["code_difference"](english, chinese) is None


@pytest.mark.parametrize(
    "english,chinese,says",
    [
        ("x = 1", "x = 2", "`2` in place of `1`"),
        ("x = 'a'", "x = '甲'", "`'甲'` in place of `'a'`"),
        ("x", "x\ny", "`x; y` in place of `x`"),
        ("d = {'a': 1}", "d = {'甲': 1}", "`'甲'` in place of `'a'`"),
        ("print(d['a'])", "print(d['甲'])", "`'甲'` in place of `'a'`"),
        ("print({'a': 1})", "print({'甲': 1})", "`'甲'` in place of `'a'`"),
        ("print('a' == b)", "print('甲' == b)", "`'甲'` in place of `'a'`"),
        ("print(f('a'))", "print(f('甲'))", "`'甲'` in place of `'a'`"),
        ("print('a' if x == 'b' else c)", "print('a' if x == '乙' else c)", "'乙'"),
        ("print(x, end='a')", "print(x, end='甲')", "`'甲'` in place of `'a'`"),
        ("print(f'{a} b')", "print(f'{b} b')", "place of `f'{a} b'`"),
        ("print(f'{a:.1f}')", "print(f'{a:.2f}')", "place of `f'{a:.1f}'`"),
        ("print('a'.replace('b', 'c'))", "print('a'.replace('b', '丙'))", "'丙'"),
        ("open('a.txt')", "open('甲.txt')", "`'甲.txt'` in place of `'a.txt'`"),
        ("ask('Hello')", "ask('你好')", "`'你好'` in place of `'Hello'`"),
        ("ax.set_title('a')", "ax.set_title('甲')", "`'甲'` in place of `'a'`"),
        ("show(plot('a'), 'b')", "show(plot('甲'), '乙')", "`'甲'` in place of `'a'`"),
        ("assert x, 'a'", "assert x, '甲'", "`'甲'` in place of `'a'`"),
        ("True", "1", "`1` in place of `True`"),
        ("def f():\n    x", "def f():\n    y", "`y` in place of `x`"),
        ("!ls", "!ls -l", "in place of"),
    ],
)
def test_no_other_code_may_differ(english, chinese, says):
    assert says in editions["code_difference"](english, chinese)


@pytest.mark.parametrize(
    "text,unexplained",
    [
        ("奖励（reward）越高越好，奖励。", []),
        ("**奖励**（reward）越高越好。", []),
        ("[奖励](README.md#reward)越高越好，奖励。", []),
        ("奖励越高越好。", ["奖励"]),
        ("**奖励**越高越好。", ["奖励"]),
        ("奖励函数（reward function）返回奖励。", ["奖励"]),
        ("重要性采样比（importance ratio）是1。", []),
        ("用 TRL 训练。", ["TRL"]),
        ("用 [TRL](README.md#trl) 训练。**LoRA** 很小。", []),
        ("GRPO（组相对策略优化）很简单。", []),
        ("每组八个，`奖励` 和 $奖励$", []),
    ],
)
def test_a_chinese_term_has_its_english_word_at_first_use(text, unexplained):
    nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(text)])
    known = gates.chinese_glossary(gates.GLOSSARY_ZH.read_text(encoding="utf-8"))
    found = gates.unexplained(nb, *known)
    assert [text[start:end] for _, start, end, _ in found] == unexplained


def test_all_notebooks_are_there_in_both_languages():
    assert set(editions["NAMES"]) == {p.name for p in gates.notebooks(editions="en")}
    assert set(editions["NAMES"]) == THERE and len(THERE) == 11


def test_what_is_wrong_with_the_chinese_edition_as_a_whole_is_named():
    text = gates.GLOSSARY_ZH.read_text(encoding="utf-8")
    every = set(editions["NAMES"])
    assert gates.edition_problems(every, text) == []
    assert gates.edition_problems(every - {NAME}, text) == [f"zh/{NAME} is missing"]
    row = '| <a id="zebra"></a>斑马 | zebra | 一种动物。 |\n'
    assert gates.edition_problems(every, text + row) == [
        "zh/README.md: only one of the two glossaries has 'zebra'"
    ]
    broken = text.replace('| <a id="clip"></a>裁剪 |', '| <a id="clip"></a> |')
    found = gates.edition_problems(every, broken)
    assert found[0].startswith("zh/README.md: no row of the glossary: | <a id=")
    assert "zh/README.md: only one of the two glossaries has 'clip'" in found


def test_the_commands_tell_the_editions_apart(clone, pair):
    """`03` is English, `zh/03` Chinese; a stamp reaches both."""
    folder = clone / "notebooks" / "zh"
    nbformat.write(pair[1], folder / NAME)
    assert call(clone, "check", "zh/00").stdout == "nothing found\n"
    change(pair[1], "min(8", "min(9", "code")
    nbformat.write(pair[1], folder / NAME)
    assert call(clone, "check", "00").stdout == "nothing found\n"
    assert f"zh/{NAME}: cell " in call(clone, "check", "zh/00").stdout
    assert f"zh/{NAME}: cell " in call(clone, "check").stdout
    assert call(clone, "stamp", "ada-l/grpo.course").returncode == 0
    assert "ada-l/grpo.course" in (folder / NAME).read_text(encoding="utf-8")
    assert call(clone, "stamp", "--check").returncode == 0
    done = call(clone, "check", "zh/77")
    assert done.returncode == 1 and "no notebook begins with 'zh/77'" in done.stderr


def test_a_chinese_notebook_runs_in_its_own_folder(clone):
    path = clone / "notebooks" / "zh" / "99_small.ipynb"
    source = "import os\n\nprint(os.getcwd())"
    cells = [nbformat.v4.new_code_cell(s) for s in (gates.setup_cell(), source)]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    done = call(clone, "run", "zh/99")
    assert done.returncode == 0, done.stderr
    outputs = [cell.outputs[0].text for cell in nbformat.read(path, 4).cells]
    assert "\nprofile cpu " in outputs[0]
    assert outputs[1] == f"{path.parent}\n"
