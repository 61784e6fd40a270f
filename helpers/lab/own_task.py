"""What notebook 10 needs besides the engine: its cells put into a task file."""

import linecache
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


def cells_run() -> list[str]:
    """Return the source of each cell that this kernel has run, the newest last.

    Who runs cells without a history, as nbval does, still leaves them where a traceback
    would look for them: under the names of files that are none.
    """
    known = [entry for entry in linecache.cache.values() if len(entry) == 4]
    known = ["".join(lines) for *_, lines, name in known if not Path(name).exists()]
    return known + get_ipython().user_ns["In"]


def write_parts(name: str) -> Path:
    """Write that file of the cells run so far into this folder; return its path."""
    path = Path(name)
    path.write_text(join_parts(path.name, cells_run()), encoding="utf-8")
    return path
