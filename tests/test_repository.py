"""What README, CI and helpers promise each other."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# helpers, top to bottom: a module imports only from those above it.
ORDER = [
    "prompts", "data", "rewards", "grpo", "profiles", "models", "fast",
    "training", "memory", "evaluation", "plots", "widgets", "doctor", "exercises",
    "colab", "__main__",
]  # fmt: skip


def test_helpers_import_downwards_only():
    for path in (ROOT / "helpers").glob("*.py"):
        if path.stem == "__init__":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.level == 1:
                names = [node.module] if node.module else [a.name for a in node.names]
                for name in set(names) & set(ORDER):
                    assert ORDER.index(name) < ORDER.index(path.stem), (path.stem, name)


def test_ci_and_workflow_run_the_test_command_of_the_readme():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    command = "pip install -r requirements.txt -r tests/requirements.txt && pytest"
    assert command in readme
    assert command in (ROOT / ".ci" / "run").read_text()
    assert "pip install -r requirements.txt && python -m helpers train" in readme
    workflow = (ROOT / ".github" / "workflows" / "tests.yml").read_text()
    assert "bash .ci/run" in workflow


def test_requirements_are_ranges_with_an_upper_bound():
    for line in (ROOT / "requirements.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            assert re.fullmatch(r"[\w-]+>=[\d.]+,<[\d.]+", line), line
    assert "trl>=1.16,<1.17" in (ROOT / "requirements.txt").read_text()


def test_helpers_stay_small():
    paths = (ROOT / "helpers").glob("*.py")
    assert sum(len(p.read_text(encoding="utf-8").splitlines()) for p in paths) <= 4340
