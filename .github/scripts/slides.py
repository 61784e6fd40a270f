"""The slides, a deck for each notebook, made of its own cells; site.py calls it.

.github/site/slides.toml names the cells: a list for each slide. Of a Markdown cell
the slide shows the last title and the first paragraph below it, and the speaker's
notes the rest; of a code cell its source and its outputs. What else is wanted stands
after a colon: `:all` (all below the title), `:list` (the first list), `:title` (the
title alone), `:out` (outputs alone), `:figure` (figures alone), `:code` (source
alone). A translation has the same cells in the same order.
"""

import importlib.util
import re
import shutil
import tomllib
from html import escape
from pathlib import Path

import nbformat
from nbconvert import SlidesExporter
from pages import PICTURES, Edition, follow, on_github, picture_name
from traitlets.config import Config

SITE = Path(__file__).resolve().parents[1] / "site"
FOLDED = re.compile(r"<details>.*?</details>\s*", re.DOTALL)
LINK = re.compile(r"(?<=\]\()[^()\s]+(?=\))")
BADGE = re.compile(r"\[!\[[^\]]*\]\([^)]*\)\]\([^)]*\)\s*")

ENDS = (".", "!", "?", ")", "*", "。", "！", "？", "）")
ANNOUNCED = re.compile(r"(?:(?<=[.!?)])\s+|(?<=[。！？）]))[^.!?。！？]*[:：]$")


def chosen() -> dict[str, list[list[str]]]:
    """Return the cells of each slide, for each notebook's number."""
    return tomllib.loads((SITE / "slides.toml").read_text(encoding="utf-8"))


def parts(source: str, wanted: str) -> tuple[str, str]:
    """Return what a slide shows of a Markdown text, and what the notes hold."""
    text = BADGE.sub("", FOLDED.sub("", source)).strip()
    titles = list(re.finditer(r"^#{1,4} .*$", text, re.MULTILINE))
    title = titles[-1][0] if titles else ""
    below = text[titles[-1].end() :] if titles else text
    blocks = [each.strip("\n") for each in re.split(r"\n\s*\n", below)]
    blocks = [each for each in blocks if each.strip()]
    if wanted in ("all", "title"):
        first, rest = (blocks, []) if wanted == "all" else ([], blocks)
    elif wanted == "list":
        place = next(
            (i for i, each in enumerate(blocks) if re.match(r"[-*] |\d+\. ", each)), 0
        )
        first, rest = blocks[max(0, place - 1) : place + 1], blocks[place + 1 :]
    elif blocks and not blocks[0].endswith(ENDS):  # what it announces belongs to it
        first, rest = blocks[:2], blocks[2:]
    else:
        first, rest = blocks[:1], blocks[1:]
    return "\n\n".join([title, *first]).strip(), "\n\n".join(rest)


def place_links(text: str, path: Path, edition: Edition, known: list[Edition]) -> str:
    """Return a Markdown text with its links as a deck needs them."""

    def target(link: str) -> str:
        file, anchor = follow(link, path)
        if file is None:
            return link
        up = "../" * (1 + edition.prefix.count("/"))
        for other in known:
            name, anchor = other.page(file, anchor)
            if name:
                return f"{up}{other.prefix}{name}.html{anchor}"
        if file.suffix in PICTURES:  # site.py has copied it
            return f"{up}{edition.prefix}{picture_name(file)}"
        return on_github(file) + anchor

    return LINK.sub(lambda m: target(m[0]), text)


def deck(path: Path, original: Path, edition: Edition, known: list[Edition]):
    """Return a notebook of the cells that a deck shows, each with its slide type.

    `original` is the English notebook, whose cell ids slides.toml has.
    """
    there = nbformat.read(path, as_version=4)
    ids = [cell.id for cell in nbformat.read(original, as_version=4).cells]
    made = nbformat.v4.new_notebook(metadata=there.metadata)
    for slide in chosen()[original.name[:2]]:
        notes = []
        for place, name in enumerate(slide):
            name, _, wanted = name.partition(":")
            cell = there.cells[ids.index(name)].copy()
            after = [each.partition(":")[0] for each in slide[place + 1 : place + 2]]
            cell.id = f"slide-{len(made.cells)}"  # a cell can stand on two slides
            if cell.cell_type == "markdown":
                cell.source, rest = (
                    place_links(text, path, edition, known)
                    for text in parts(cell.source, wanted)
                )
                if (
                    after != ids[ids.index(name) + 1 :][:1]
                ):  # what it announces is not there
                    cell.source = ANNOUNCED.sub("", cell.source)
                notes.append(rest)
            else:
                hide = {"remove_source": wanted in ("out", "figure")}
                cell.metadata = nbformat.from_dict({"transient": hide})
                cell.outputs = [
                    each for each in cell.outputs
                    if not wanted or wanted == "out"
                    or (wanted == "figure" and "image/png" in each.get("data", {}))
                ]  # fmt: skip
                for output in cell.outputs:
                    describe(output)
            kind = "-" if place else "slide"
            cell.metadata["slideshow"] = {"slide_type": kind}
            made.cells.append(cell)
        if text := "\n\n".join(filter(None, notes)):
            note = nbformat.v4.new_markdown_cell(text)
            note.metadata["slideshow"] = {"slide_type": "notes"}
            made.cells.append(note)
    return made


def describe(output) -> None:
    """Make a figure of an output an HTML tag: nbconvert would drop its alt text."""
    data = output.get("data", {})
    if "image/png" in data:
        alt = output.metadata.get("image/png", {}).get("alt", "")
        source = "data:image/png;base64," + data["image/png"].replace("\n", "")
        alt = escape(" ".join(alt.split()))
        output.data = {"text/html": f'<img src="{source}" alt="{alt}">'}


def copy_reveal(out: Path) -> None:
    """Copy what the decks load of reveal.js, which a package brings."""
    package = importlib.util.find_spec("sphinx_revealjs").submodule_search_locations[0]
    reveal = Path(package) / "_static" / "revealjs"
    names = (
        "reveal.css",
        "reveal.js",
        "theme/white.css",
        "theme/fonts/source-sans-pro",
    )
    for name in ("LICENSE", "plugin/notes", *(f"dist/{name}" for name in names)):
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        copy = shutil.copytree if (reveal / name).is_dir() else shutil.copy
        copy(reveal / name, out / name)


def build(out: Path, known: list[Edition]) -> int:
    """Write a deck for each notebook of each edition; return how many."""
    copy_reveal(out / "reveal")
    shutil.copy(SITE / "slides" / "deck.css", out / "reveal")
    shutil.copy(SITE / "slides" / "deck.js", out / "reveal")
    english, count = known[0].place, 0
    for edition in known:
        folder = out / edition.prefix / "slides"
        folder.mkdir(parents=True, exist_ok=True)
        up = "../" * (1 + edition.prefix.count("/"))
        config = Config()
        config.CSSHTMLHeaderPreprocessor.style = "default"
        exporter = SlidesExporter(
            config=config,
            extra_template_basedirs=[str(SITE / "slides")],
            template_name="deck",
            reveal_theme="white",
            reveal_url_prefix=f"{up}reveal",
            mathjax_url=f"{up}_static/mathjax.js",
            language_code=edition.language,
        )
        for path in edition.numbered:
            nb = deck(path, english / path.name, edition, known)
            html, _ = exporter.from_notebook_node(nb)
            title = re.search(r"^# (.+)$", nb.cells[0].source, re.MULTILINE)[1]
            title = f"<title>{escape(title)}</title>"
            html = re.sub("<title>.*?</title>", lambda m, new=title: new, html, count=1)
            html = html.replace('<html lang="zh">', '<html lang="zh-CN">', 1)
            (folder / f"{edition.pages[path]}.html").write_text(html, encoding="utf-8")
            count += 1
    return count
