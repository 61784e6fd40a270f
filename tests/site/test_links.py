"""What the site says of its own links, and where it leads those of the course."""

import shutil

import pytest

from tests import ROOT


@pytest.fixture
def pages(scripts):
    """The module that knows the editions and their pages."""
    import pages

    return pages


README = """# A

See [the terms](#术语表).

## B

## 术语表

All of them.

| <a id="prompt"></a>提示词 | prompt |
"""


@pytest.fixture
def course(tmp_path, pages):
    """A course of one notebook in two languages, and its editions."""
    place = tmp_path / "notebooks"
    (place / "zh").mkdir(parents=True)
    for folder in (place, place / "zh"):
        shutil.copy(ROOT / "notebooks" / "00_start_here.ipynb", folder)
        (folder / "README.md").write_text(README)
    (place / "recorded").mkdir()
    (place / "recorded" / "loop.png").write_bytes(b"png")
    (tmp_path / "README.md").write_text("# Course\n")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path, pages.editions(tmp_path)


@pytest.mark.parametrize(
    "file,link,leads",
    [
        ("README.md", "notebooks/00_start_here.ipynb", "00_start_here.ipynb"),
        ("README.md", "notebooks/README.md#prompt", "glossary.md#prompt"),
        ("README.md", "notebooks/zh/README.md", "site:zh/index.html"),
        ("README.md", "notebooks/recorded/loop.png",
         "pictures/notebooks-recorded-loop.png"),
        ("README.md", "notebooks/recorded",
         "{repository}/tree/main/notebooks/recorded"),
        ("README.md", "pyproject.toml", "{repository}/blob/main/pyproject.toml"),
        ("README.md", "https://example.org/a(b)", "https://example.org/a(b)"),
        ("README.md", "#here", "#here"),
        ("notebooks/zh/README.md", "../README.md#prompt",
         "site-at:../glossary.html#prompt"),
        ("notebooks/zh/README.md", "00_start_here.ipynb", "00_start_here.ipynb"),
        ("notebooks/zh/README.md", "../../README.md", "site:../index.html"),
        ("notebooks/zh/README.md", "#术语表", "glossary.md"),
        ("notebooks/zh/README.md", "#prompt", "glossary.md#prompt"),
        ("notebooks/zh/README.md", "#b", "#b"),
        ("notebooks/zh/00_start_here.ipynb", "README.md#prompt", "glossary.md#prompt"),
        ("notebooks/zh/00_start_here.ipynb", "README.md#b", "index.md#b"),
        ("notebooks/zh/00_start_here.ipynb", "README.md", "index.md"),
        ("README.md", "notebooks/zh/README.md#prompt",
         "site-at:zh/glossary.html#prompt"),
        ("notebooks/README.md", "#prompt", "#prompt"),
    ],
)  # fmt: skip
def test_a_link_leads_to_a_page_a_picture_or_github(
    site, course, tmp_path, file, link, leads
):
    root, known = course
    mine = known["/zh/" in file]
    stage = site.Stage(tmp_path / "stage", mine, known, root)
    repository = site.repository(root)
    assert stage.target(link, root / file) == leads.format(repository=repository)


def test_code_keeps_its_links(site, course, tmp_path):
    root, known = course
    stage = site.Stage(tmp_path / "stage", known[0], known, root)
    text = '`[a](README.md)` <a id="x"></a>**x** and [a](notebooks/README.md)'
    assert stage.markdown(text, root / "README.md") == (
        "`[a](README.md)` [**x**]{#x} and [a](glossary.md)"
    )


def test_the_course_has_each_of_its_pages(pages):
    english, chinese = pages.editions()
    for edition in (english, chinese):
        names = edition.names
        assert len(names) == len(set(names))
        assert {"index", "glossary", "TEACHING", "OTHERS"} < set(names)
    assert [path.name[:2] for path in english.numbered] == [
        f"{n:02}" for n in range(11)
    ]


def test_the_glossary_that_ends_a_readme_is_a_page(site, course, tmp_path):
    root, known = course
    site.Stage(tmp_path / "stage", known[1], known, root).write()
    index, glossary = (
        (tmp_path / "stage" / f"{name}.md").read_text(encoding="utf-8")
        for name in ("index", "glossary")
    )
    assert "See [the terms](glossary.md)." in index and "All of them" not in index
    assert glossary.startswith("# 术语表\n\nAll of them.")
    assert "[]{#prompt}提示词" in glossary
    assert "\n术语表 <glossary>\n" in index


@pytest.mark.parametrize(
    "tag,says",
    [
        ('<a href="nowhere.html">', "nowhere.html leads nowhere"),
        ('<a href="b.html#no">', "b.html#no: there is no such anchor"),
        ('<a href="#no">', "#no: there is no such anchor"),
        ('<script src="https://cdn.example.org/x.js"></script>',
         "https://cdn.example.org/x.js is loaded from another host"),
        ('<img src="p.png" alt="">', "p.png has no alt text"),
        ('<img src="q.png" alt="q">', "q.png leads nowhere"),
        ("<p>先看**重点**（x）</p>", "** is not taken as bold: 先看**重点**（x）"),
        ("<pre>先看**重点**</pre>", None),
        ('<a href="b.html#there">', None),
        ('<a href="https://example.org">', None),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_page_is_said(site, tmp_path, tag, says):
    (tmp_path / "a.html").write_text(tag)
    (tmp_path / "b.html").write_text('<p id="there">')
    (tmp_path / "p.png").touch()
    lines, pages, _ = site.problems(tmp_path)
    assert lines == ([f"a.html: {says}"] if says else [])
    assert pages == 2


def test_the_whole_site_builds_clean(site, built):
    out, warnings = built
    lines, pages, links = site.problems(out)
    assert warnings + lines == []
    known = site.editions()
    assert pages >= sum(len(each.names) + len(each.numbered) for each in known)
    assert links > 2000


def test_colab_opens_the_notebook_of_each_page(site, built):
    out, _ = built
    for edition in site.editions():
        place = edition.place.relative_to(ROOT).as_posix()
        for path, name in edition.pages.items():
            text = (out / f"{edition.prefix}{name}.html").read_text(encoding="utf-8")
            opened = path if path in edition.numbered else edition.numbered[0]
            owner = site.repository().removeprefix("https://github.com/")
            address = f"google.com/github/{owner}/blob/main/{place}/{opened.name}"
            assert f'{address}" title=' in text, name


def test_each_page_has_its_sidebar_and_leads_to_the_other_language(site, built):
    out, _ = built
    first, second = site.editions()
    for mine, other in ((first, second), (second, first)):
        up = "../" * mine.prefix.count("/")
        sidebar = [f'internal" href="{name}.html">' for name in mine.names[1:]]
        for name in mine.names:
            text = (out / f"{mine.prefix}{name}.html").read_text(encoding="utf-8")
            same = name if name in other.names else "index"
            assert f'<a href="{up}{other.prefix}{same}.html" title=' in text, name
            here = text.replace('href="#"', f'href="{name}.html"')
            assert [each for each in sidebar if each not in here] == [], name
