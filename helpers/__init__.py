"""The engine of the course *GRPO, step by step*; the lab beside it shows things.

Read the modules in this order, in which imports go: prompts, data, rewards, grpo,
scoring, processes, task, profiles, models, generation, runs, fast, training,
evaluation, preflight, doctor, __main__.
"""

from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
GIB = 2**30  # bytes


class CourseError(Exception):
    """Something that the learner can mend; the text says what, where and how."""

    def _render_traceback_(self, *args, **kwargs) -> list[str]:
        """Show the text alone in a notebook: the helpers' insides explain nothing."""
        return [f"CourseError: {self}"]


def check_requirements() -> list[tuple[str, str, str | None, bool]]:
    """Return (name, line, installed version, met) for each line of requirements.txt."""
    from packaging.requirements import Requirement

    rows = []
    for line in (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            wanted = Requirement(line)
            try:
                version = metadata.version(wanted.name)
            except metadata.PackageNotFoundError:
                version = None
            met = version is not None and wanted.specifier.contains(version, True)
            rows.append((wanted.name, line, version, met))
    return rows
