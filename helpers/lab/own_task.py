"""What notebook 10 needs besides the engine: its cells put into a task file."""

import re
from pathlib import Path

from IPython import get_ipython

from .. import CourseError


def join_parts(name: str, sources: list[str]) -> str:
    """Return a file of the cells whose first line is `# NAME, part 1: …`, 2 and so on.

    Of a part that was run again, changed, the last one counts. Raises CourseError where
    a part is missing.
    """
    first_line = re.compile(rf"# {re.escape(name)}, part ([0-9]+)\b")
    found = ((first_line.match(source), source) for source in sources)
    parts = {int(match[1]): source.rstrip() for match, source in found if match}
    if missing := sorted(set(range(1, max(parts, default=1) + 1)) - set(parts)):
        raise CourseError(
            f"{name}: the cell with part {missing[0]} was not run; run it first"
        )
    return "\n\n\n".join(parts[number] for number in sorted(parts)) + "\n"


def write_parts(name: str) -> Path:
    """Write that file of the cells run so far into this folder; return its path."""
    path = Path(name)
    cells = get_ipython().user_ns["In"]
    path.write_text(join_parts(path.name, cells), encoding="utf-8")
    return path
