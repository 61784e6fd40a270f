"""The course's site: python .github/scripts/site.py [--out FOLDER] [NAME …].

Builds both editions, English from notebooks/ and Chinese from notebooks/zh/ where it
is there, out of the saved outputs: nothing is executed, and no network is asked. The
pages come from Sphinx, the slides (slides.py) from nbconvert. What the pages need is
in .github/site/requirements.txt. The site lies in .site/html afterwards. A warning of
Sphinx or a link inside the site that leads nowhere makes the command fail.
"""

import argparse
import base64
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import time
from html import escape
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import slides
from pages import (
    PICTURES,
    ROOT,
    Edition,
    editions,
    follow,
    on_github,
    picture_name,
    repository,
)

SITE = ROOT / ".github" / "site"
BADGE = "https://colab.research.google.com/assets/colab-badge.svg"
CODE = re.compile(r"^( *)(```|~~~).*?^\1\2\s*$|`[^`\n]*`", re.DOTALL | re.MULTILINE)
# The target of a Markdown link or image, and of a link or image in HTML.
TARGET = re.compile(r'(?<=\]\()[^()\s]+(?=\))|(?<=href=")[^"]+|(?<=src=")[^"]+')
ANCHOR = re.compile(r'<a (?:id|name)="([\w-]+)"></a>(\*+[^*\n]+\*+)?')
PICTURE = re.compile(r"^!\[[^\]]*\]\((pictures/[^)]+)\)$", re.MULTILINE)
# What the sidebar says, for each edition.
CAPTIONS = {
    "en": ("Notebooks", "More", "Glossary"),
    "zh": ("Notebook", "其他", "术语表"),
}


# --- from the repository to what Sphinx reads -----------------------------------------


class Stage:
    """A folder of sources for Sphinx, made from one edition."""

    def __init__(self, folder: Path, mine: Edition, known: list[Edition], root: Path):
        self.folder, self.mine, self.known, self.root = folder, mine, known, root
        self.extra = folder / "extra"  # what Sphinx copies as it is
        self.extra.mkdir(parents=True)

    def target(self, link: str, path: Path) -> str:
        """Return where a link of a file of the repository leads, for Sphinx."""
        if link == BADGE:
            return "colab-badge.svg"
        file, anchor = follow(link, path)
        if file is None:
            name, anchor = self.mine.page(path, link if link[0] == "#" else "")
            moved = name == "glossary" != self.mine.pages[path]
            return f"{name}.md{anchor}" if moved else link
        for edition in self.known:
            name, anchor = edition.page(file, anchor)
            if name and edition is self.mine:
                return f"{name}{file.suffix}{anchor}"
            if name:  # a page that this Sphinx does not build
                up = "../" * self.mine.prefix.count("/")
                scheme = "site-at" if anchor else "site"
                return f"{scheme}:{up}{edition.prefix}{name}.html{anchor}"
        if file.suffix in PICTURES and file.is_file():
            name = picture_name(file, self.root)
            for copy in (self.folder / name, self.extra / name):
                copy.parent.mkdir(exist_ok=True)
                shutil.copy(file, copy)
            return name
        return on_github(file, self.root) + anchor

    def markdown(self, text: str, path: Path) -> str:
        """Return a file's Markdown with its links as the site needs them."""

        def prose(part: str) -> str:
            part = ANCHOR.sub(lambda m: f"[{m[2] or ''}]{{#{m[1]}}}", part)
            part = TARGET.sub(lambda m: self.target(m[0], path), part)
            return PICTURE.sub(r"[\g<0>](site:\1)", part)  # a phone can enlarge it

        done, end = [], 0
        for code in CODE.finditer(text):
            done += [prose(text[end : code.start()]), code[0]]
            end = code.end()
        return "".join([*done, prose(text[end:])])

    def picture(self, output: dict, name: str) -> None:
        """Put a figure of an output into a file, so that its alt text is kept."""
        size = output.get("metadata", {}).get("image/png", {})
        file = self.extra / "figures" / f"{name}.png"
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(base64.b64decode(output["data"]["image/png"]))
        alt = escape(" ".join(size.get("alt", "").split()))
        source = f"figures/{name}.png"
        html = f'<a href="{source}"><img class="figure" src="{source}" alt="{alt}"></a>'
        output["data"] = {"text/html": html}

    def notebook(self, path: Path) -> dict:
        """Return a notebook with its links and figures as the site needs them."""
        nb = json.loads(path.read_text(encoding="utf-8"))
        for number, cell in enumerate(nb["cells"]):
            if cell["cell_type"] == "markdown":
                cell["source"] = self.markdown("".join(cell["source"]), path)
            for place, output in enumerate(cell.get("outputs", [])):
                data = output.get("data", {})
                if "image/png" in data:
                    self.picture(output, f"{path.stem[:2]}-{number}-{place}")
                elif "text/markdown" in data:  # its titles are no titles of the page
                    text = "".join(data["text/markdown"])
                    data["text/markdown"] = re.sub(
                        r"^#+ (.+)$", r"**\1**", text, flags=re.MULTILINE
                    )
        nb["metadata"]["language_info"]["pygments_lexer"] = "ipython3"
        return nb

    def toctree(self, caption: str, names: list[str]) -> str:
        """Return a part of the sidebar."""
        head = f":hidden:\n:caption: {caption}\n"
        return f"\n\n```{{toctree}}\n{head}\n" + "\n".join(names) + "\n```\n"

    def write(self) -> None:
        """Write every page of the edition."""
        shutil.copy(SITE / "colab-badge.svg", self.folder)
        numbered, pages = self.mine.numbered, self.mine.pages
        for path, name in pages.items():
            if path.suffix == ".ipynb":
                text = json.dumps(self.notebook(path), ensure_ascii=False)
            else:
                text = self.markdown(path.read_text(encoding="utf-8"), path)
            if name == "index":
                text, terms = self.mine.parted(text)
                if terms:
                    file = self.folder / "glossary.md"
                    file.write_text(terms, encoding="utf-8")
                books, more, glossary = CAPTIONS[self.mine.language]
                text += self.toctree(books, [pages[path] for path in numbered])
                listed = {"index", "glossary", *(pages[path] for path in numbered)}
                rest = [each for each in self.mine.names if each not in listed]
                text += self.toctree(more, [f"{glossary} <glossary>", *rest])
            where = self.folder / f"{name}{path.suffix}"
            where.write_text(text, encoding="utf-8")


def title(edition: Edition) -> str:
    """Return what the site is called, from the first title of its first page."""
    first = next(path for path, name in edition.pages.items() if name == "index")
    return re.search(r"^# (.+)$", first.read_text(encoding="utf-8"), re.MULTILINE)[1]


# --- Sphinx ---------------------------------------------------------------------------


def mathjax() -> Path:
    """Return the one file of MathJax, which a package brings."""
    for file in importlib.metadata.files("sphinx-mathjax-offline"):
        if file.name == "tex-svg-full.js":
            return Path(file.locate())
    raise FileNotFoundError("sphinx-mathjax-offline has no tex-svg-full.js")


def build(
    out: Path, known: list[Edition], decks: bool = True, root: Path = ROOT
) -> list[str]:
    """Build the pages of editions; return the warnings, a line each."""
    work = out.parent / "work"
    for folder in (out, work):
        shutil.rmtree(folder, ignore_errors=True)
    lines = []
    for edition in known:
        stage = Stage(work / edition.language, edition, known, root)
        stage.write()
        scripts = work / f"{edition.language}-static"
        scripts.mkdir()
        shutil.copy(mathjax(), scripts / "mathjax.js")
        others = [other for other in known if other is not edition]
        facts = {
            "language": edition.language,
            "prefix": edition.prefix,
            "place": edition.place.relative_to(root).as_posix(),
            "repository": repository(root),
            "static": str(scripts),
            "extra": str(stage.extra),
            "title": title(edition),
            "slides": decks,
            "first": edition.pages[edition.numbered[0]],
            "others": {o.language: [o.prefix, o.names] for o in others},
        }
        command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going"]
        command += ["-j", "auto", "-c", str(SITE)]
        command += ["-d", str(work / f"{edition.language}-cache")]
        command += [str(stage.folder), str(out / edition.prefix)]
        own = {"COURSE_SITE": json.dumps(facts), "PYTHONWARNINGS": "ignore"}
        both = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        done = subprocess.run(command, env=os.environ | own, encoding="utf-8", **both)
        said = done.stdout.replace(f"{work}/", "").strip()
        if done.returncode or said:
            lines += said.splitlines() or [f"Sphinx ended with {done.returncode}"]
    (out / ".nojekyll").touch()
    return lines


# --- what is wrong with the site ------------------------------------------------------


class Page(HTMLParser):
    """The links, anchors and pictures of a page, and stars left in its prose."""

    def __init__(self, text: str):
        super().__init__()
        self.code, self.stars = [], []
        self.links, self.anchors, self.loaded, self.nameless = [], set(), [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        """Note what a tag holds."""
        given = dict(attrs)
        if tag in ("code", "pre", "script", "style"):
            self.code.append(tag)
        self.anchors |= {given[key] for key in ("id", "name") if given.get(key)}
        if tag == "a" and given.get("href"):
            self.links.append(given["href"])
        source = given.get("src")
        if tag == "link" and given.get("rel") in ("stylesheet", "preload", "icon"):
            source = given.get("href")
        if source:
            self.loaded.append(source)
        alt = (given.get("alt") or "").strip()
        if tag == "img" and (not alt or alt.startswith("No description")):
            self.nameless.append(source or "?")

    handle_startendtag = handle_starttag

    def handle_endtag(self, tag):
        """Note the end of code."""
        if self.code and tag == self.code[-1]:
            self.code.pop()

    def handle_data(self, data):
        """Note bold that Markdown did not take: between Chinese and punctuation."""
        if not self.code:
            self.stars += re.findall(r".{0,12}[\u3000-\uffef]\*\*.{0,12}", data)


def problems(out: Path) -> tuple[list[str], int, int]:
    """Return what is wrong with a built site, and how many pages and links it has.

    A link inside it leads to a file and an anchor that are there; nothing is loaded
    from another host; every picture has an alt text; bold Chinese is bold.
    """
    read = {
        path: Page(path.read_text(encoding="utf-8"))
        for path in sorted(out.rglob("*.html"))
        if not {"_static", "plugin"} & set(path.parts)
    }
    lines, followed = [], 0
    for path, page in read.items():
        where = path.relative_to(out)
        lines += [f"{where}: {src} has no alt text" for src in page.nameless]
        lines += [f"{where}: ** is not taken as bold: {text}" for text in page.stars]
        for link in page.links + page.loaded:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                if link in page.loaded and parts.scheme != "data":
                    lines.append(f"{where}: {link} is loaded from another host")
                continue
            followed += 1
            file = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            file = file / "index.html" if file.is_dir() else file
            if not file.is_file():
                lines.append(f"{where}: {link} leads nowhere")
            elif parts.fragment and file in read:
                named = {parts.fragment, unquote(parts.fragment)}
                if not named & read[file].anchors and parts.fragment[0] != "/":
                    lines.append(f"{where}: {link}: there is no such anchor")
    return lines, len(read), followed


def main() -> int:
    """Build the site; return 1 where something is wrong with it."""
    top = argparse.ArgumentParser(description=__doc__)
    top.add_argument("names", nargs="*", metavar="NAME", help="such as 03; default all")
    top.add_argument("--out", type=Path, default=ROOT / ".site" / "html")
    top.add_argument("--no-slides", action="store_true", help="pages alone")
    args = top.parse_args()
    begun = time.monotonic()
    out = args.out.resolve()
    known = editions(names=tuple(args.names))
    lines = build(out, known, decks=not args.no_slides)
    decks = 0 if args.no_slides else slides.build(out, known)
    found, pages, followed = problems(out)
    lines += found
    for line in lines:
        print(line, file=sys.stderr)
    print(f"{pages} pages, {decks} of them decks of slides; {followed} links followed")
    print(f"{len(lines)} problems, {time.monotonic() - begun:.0f} s: {out}")
    return int(bool(lines))


if __name__ == "__main__":
    sys.exit(main())
