"""The links of Markdown files and notebooks inside the repository, and the spelling."""

import json
import re
from pathlib import Path

FENCED = re.compile(r"^( *)(```|~~~).*?^\1\2\s*$|`[^`\n]*`", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\]\(\s*<?([^()\s>]*(?:\([^()]*\)[^()\s>]*)*)>?[^()]*\)")
TAG = re.compile(r"<(?:a|img)\b[^>]*?(?:href|src)=\"([^\"]+)\"")


def markdown(path: Path) -> str:
    """The Markdown of a file or of a notebook's cells."""
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".ipynb":
        return text
    cells = json.loads(text)["cells"]
    kept = (cell for cell in cells if cell["cell_type"] == "markdown")
    return "\n\n".join("".join(cell["source"]) for cell in kept)


def links(text: str) -> list[str]:
    """The targets of a text's links and images, those in code left out."""
    text = FENCED.sub("", text)
    return LINK.findall(text) + TAG.findall(text)


def anchors(path: Path) -> set[str]:
    """The names that headings can be reached by, on GitHub and in JupyterLab."""
    found, seen = set(), {}
    text = FENCED.sub(lambda m: m[0] if m[0].startswith("`") else "", markdown(path))
    for title in re.findall(r"^#{1,6}\s+(.+?)\s*#*$", text, re.MULTILINE):
        title = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", title)
        title = re.sub(r"[*`\\]", "", title)
        found.add(title.replace(" ", "-"))  # Jupyter's
        slug = re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")
        count = seen[slug] = seen.get(slug, -1) + 1
        found.add(f"{slug}-{count}" if count else slug)
    found |= set(re.findall(r"<a\s+(?:id|name)=\"([^\"]+)\"", text))
    return found


def wrong(path: Path, root: Path) -> list[str]:
    """Say which links of a file lead nowhere in the repository, or are malformed."""
    lines = []
    for link in links(markdown(path)):
        if re.match(r"[a-z]+:", link):
            good = re.fullmatch(r"(https?://[\w.-]+\.\w+(:\d+)?(/\S*)?|mailto:\S+@\S+)",
                                link)  # fmt: skip
            lines += [] if good else [f"{link} is no address"]
            continue
        place, _, anchor = link.partition("#")
        target = (path.parent / place).resolve() if place else path
        if not target.exists() or not target.is_relative_to(root):
            lines.append(f"{link} leads nowhere")
        elif not anchor or target.suffix not in (".md", ".ipynb"):
            continue
        elif anchor not in anchors(target):
            lines.append(f"{link}: {target.name} has no heading #{anchor}")
    return [f"{path.relative_to(root)}: {line}" for line in lines]
