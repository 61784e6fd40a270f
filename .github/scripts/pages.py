"""The editions of the course, and where a link between its files leads."""

import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

ROOT = Path(__file__).resolve().parents[2]
PICTURES = (".png", ".svg", ".jpg", ".gif")


@dataclass
class Edition:
    """One language of the course: where its files lie, and the pages they become."""

    language: str
    place: Path  # of its notebooks
    prefix: str  # of its pages' addresses
    pages: dict[Path, str]  # a file and the name of its page
    glossary: str = ""  # where it ends the first page: its title

    @property
    def numbered(self) -> list[Path]:
        """Its notebooks, in order."""
        return sorted(path for path in self.pages if path.suffix == ".ipynb")

    @property
    def names(self) -> list[str]:
        """The names of all its pages: the glossary is one in each language."""
        own = ["glossary"] if self.glossary else []
        return [*dict.fromkeys([*self.pages.values(), *own])]

    def page(self, file: Path, anchor: str = "") -> tuple[str, str]:
        """Return the page that a link leads to, "" where it has none, and the anchor.

        On GitHub the Chinese glossary ends the README; here it is a page of its own.
        """
        name = self.pages.get(file, "")
        if name == "index" and self.glossary and anchor:
            _, terms = self.parted(file.read_text(encoding="utf-8"))
            if anchor == f"#{self.glossary}":
                return "glossary", ""
            if f'<a id="{anchor[1:]}"></a>' in terms:
                return "glossary", anchor
        return name, anchor

    def parted(self, text: str) -> tuple[str, str]:
        """Return the text of the first page without and as the glossary, a page."""
        if not self.glossary:
            return text, ""
        rest, title, terms = text.partition(f"\n## {self.glossary}\n")
        return rest, title.replace("\n## ", "# ") + terms


def editions(root: Path = ROOT, names: tuple[str, ...] = ()) -> list[Edition]:
    """Return the editions that are there, with all or the named notebooks."""
    place, found = root / "notebooks", []
    pages = {root / "README.md": "index", place / "README.md": "glossary"}
    for language, folder in (("en", place), ("zh", place / "zh")):
        if language == "zh":
            pages = {folder / "README.md": "index"}
        numbered = sorted(folder.glob("[0-9][0-9]_*.ipynb"))
        numbered = [each for each in numbered if each.name.startswith(names or "")]
        if numbered:
            others = [path for path in folder.glob("*.md") if path not in pages]
            pages |= {path: path.stem for path in [*numbered, *sorted(others)]}
            prefix = "" if language == "en" else f"{language}/"
            glossary = "术语表" if language == "zh" else ""
            found.append(Edition(language, folder, prefix, pages, glossary))
    return found


def repository(root: Path = ROOT) -> str:
    """Return the address of the repository, from pyproject.toml."""
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    return project["project"]["urls"]["Repository"]


def follow(link: str, path: Path) -> tuple[Path | None, str]:
    """Return the file that a link of another leads to, if any, and its anchor."""
    place, _, anchor = link.partition("#")
    if not place or re.match(r"[a-z]+:", link):
        return None, anchor
    file = (path.parent / unquote(place)).resolve()
    return file, f"#{anchor}" if anchor else ""


def on_github(file: Path, root: Path = ROOT) -> str:
    """Return the address of a file or folder of the repository."""
    kind = "tree" if file.is_dir() else "blob"
    return f"{repository(root)}/{kind}/main/{file.relative_to(root).as_posix()}"


def picture_name(file: Path, root: Path = ROOT) -> str:
    """Return where the site keeps a picture of the repository."""
    return "pictures/" + file.relative_to(root).as_posix().replace("/", "-")
