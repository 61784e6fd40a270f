"""Links inside the repository lead somewhere, anchors too; and codespell is content."""

import re
import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest

from tests import ROOT
from tests.links import anchors, links, markdown, wrong

CODESPELL = shutil.which("codespell", path=sysconfig.get_path("scripts"))
# Words that are right here, though codespell knows better; in lower case.
IGNORED = "ans"


def tracked(*patterns: str) -> list[Path]:
    """The files that git knows, or would, by pattern."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run([*command, *patterns], cwd=ROOT, capture_output=True)
    names = done.stdout.decode().splitlines()
    return [ROOT / name for name in names if (ROOT / name).exists()]


PAGES = tracked("*.md", "*.ipynb")


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path):
    assert wrong(path, ROOT) == []


def test_links_are_seen():
    count = sum(len(links(markdown(path))) for path in PAGES)
    assert count > 200
    assert "../README.md#the-code" in links(markdown(ROOT / ".github/CONTRIBUTING.md"))
    assert "tests" in anchors(ROOT / "README.md")


@pytest.mark.parametrize(
    "text,says",
    [
        ("[a](nowhere.md)", "nowhere.md leads nowhere"),
        ("![a](recorded/no.png)", "recorded/no.png leads nowhere"),
        ("[a](#not-here)", "#not-here: page.md has no heading #not-here"),
        ("[a](other.md#b)", "other.md#b: other.md has no heading #b"),
        ("[a](../../outside.md)", "../../outside.md leads nowhere"),
        ("[a](https//example.org)", "https//example.org leads nowhere"),
        ("[a](https://example)", "https://example is no address"),
        ('<img src="no.png" alt="x">', "no.png leads nowhere"),
    ],
)
def test_a_dead_link_is_said(text, says, tmp_path):
    (tmp_path / "other.md").write_text("# A\n")
    (tmp_path / "page.md").write_text(f"# Here\n\n{text}\n")
    assert wrong(tmp_path / "page.md", tmp_path) == [f"page.md: {says}"]


def test_a_good_link_is_not_said(tmp_path):
    (tmp_path / "other.md").write_text("# A `b` c\n\n## Twice\n\n## Twice\n")
    good = "[a](other.md#a-b-c) [b](#a-b) [c](other.md#twice-1) [d](https://a.org/b(c))"
    (tmp_path / "page.md").write_text(f"# A: b\n\n{good} `[e](no.md)`\n\n")
    assert wrong(tmp_path / "page.md", tmp_path) == []


def misspelled(*paths: Path) -> list[str]:
    """What codespell finds in files; of a notebook in its Markdown and code alone."""
    if CODESPELL is None:
        pytest.skip("wants codespell: pip install -r tests/requirements.txt")
    command = [CODESPELL, "--ignore-words-list", IGNORED, *map(str, paths)]
    return subprocess.run(command, capture_output=True, text=True).stdout.splitlines()


def test_the_spelling_is_right(tmp_path):
    """Chinese is left out; so is what a model wrote."""
    texts = []
    for path in tracked("*.ipynb"):
        if "zh" in path.parts:
            continue
        texts.append(tmp_path / f"{path.stem}.md")
        texts[-1].write_text(markdown(path), encoding="utf-8")
    sources = tracked("*.md", "*.py", "*.toml", "*.yml")
    recorded = ROOT / "notebooks" / "recorded"
    texts += [
        path for path in sources
        if not path.is_relative_to(recorded) or path.name == "README.md"
        if "zh" not in path.parts and path != Path(__file__)
    ]  # fmt: skip
    assert misspelled(*texts) == []


def test_a_misspelling_is_found(tmp_path):
    path = tmp_path / "page.md"
    path.write_text("A seperate reward.\n")
    (line,) = misspelled(path)
    assert re.search(r":1: seperate ==> separate", line)
