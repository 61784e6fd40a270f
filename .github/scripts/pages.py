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

    @property
    def numbered(self) -> list[Path]:
        """Its notebooks, in order."""
        return sorted(path for path in self.pages if path.suffix == ".ipynb")


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
            found.append(Edition(language, folder, prefix, pages))
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
