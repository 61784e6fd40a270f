"""The house of the helpers: its size, which way imports go, and what importing changes.

Imports are read from the syntax trees, those inside functions included.
"""

import ast
import importlib.util
import json
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests import ROOT

HELPERS = ROOT / "helpers"
# Top to bottom: a module imports only from those above it. The engine, then the lab,
# and last the command line, the one part of the engine that may use the lab.
ENGINE = ["errors", "prompts", "data", "rewards", "grpo", "scoring", "processes"]
ENGINE += ["task", "pace", "profiles", "models", "generation", "runs", "fast"]
ENGINE += ["training", "evaluation", "preflight", "doctor"]
LAB = ["bonus", "plots", "diagrams", "gains", "loop", "budget", "dashboard", "widgets"]
LAB += ["colab", "own_task", "experiments", "exercises"]
ROOMS = [f"exercises.{path.stem}" for path in (HELPERS / "lab/exercises").glob("n*.py")]
ORDER = ["helpers", *(f"helpers.{name}" for name in ENGINE), "helpers.lab"]
ORDER += [f"helpers.lab.{name}" for name in (*LAB, *sorted(ROOMS))]
ORDER += ["helpers.__main__"]


def name_of(path: Path) -> str:
    """The name under which a file of the helpers is imported."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts).removesuffix(".__init__")


PATHS = {name_of(path): path for path in sorted(HELPERS.rglob("*.py"))}


def lines(path: Path) -> int:
    """How long a file is, docstrings and blank lines included."""
    return len(path.read_text(encoding="utf-8").splitlines())


def imported(name: str, text: str) -> set[str]:
    """The modules of the helpers that the text of a module imports."""
    package = name if PATHS[name].stem == "__init__" else name.rpartition(".")[0]
    found = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            source = "." * node.level + (node.module or "")
            source = importlib.util.resolve_name(source, package)
            inside = {f"{source}.{alias.name}" for alias in node.names} & PATHS.keys()
            # `from . import CourseError` reads the package, `from . import x` module x.
            found |= inside
            found |= {source} if len(inside) < len(node.names) else set()
    return {x for x in found if x.partition(".")[0] == "helpers"}


def upward(name: str, text: str) -> list[str]:
    """What a module imports that does not stand above it in the order."""
    above = ORDER[: ORDER.index(name)]
    return sorted(imported(name, text) - set(above))


def test_every_module_has_its_place_in_the_order():
    assert sorted(ORDER) == sorted(PATHS)


@pytest.mark.parametrize("name", PATHS)
def test_imports_go_one_way(name):
    """Down the order, so there is no circle, and no way from the engine to the lab."""
    assert upward(name, PATHS[name].read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "name,text,wrong",
    [
        ("scoring", "from . import evaluation", "evaluation"),
        ("scoring", "from . import CourseError, runs as r", "runs"),
        ("scoring", "from .evaluation import report", "evaluation"),
        ("scoring", "def f():\n    from .training import guard_reward", "training"),
        ("scoring", "class A:\n    if 1:\n        import helpers.fast as f", "fast"),
        ("scoring", "from helpers import doctor", "doctor"),
        ("scoring", "from helpers.doctor import check_run", "doctor"),
        ("scoring", "from .scoring import score", "scoring"),  # a circle of one
        ("evaluation", "def f():\n    from .lab.plots import show", "lab.plots"),
        ("evaluation", "from .lab import plots", "lab.plots"),
        ("evaluation", "from . import lab", "lab"),
        ("evaluation", "import helpers.lab.colab", "lab.colab"),
        ("lab.plots", "from .widgets import chat", "lab.widgets"),
        ("lab.plots", "from ..lab import exercises", "lab.exercises"),
        ("lab.plots", "from .. import __main__", "__main__"),
        ("lab.exercises", "from .n00 import check_how_many", "lab.exercises.n00"),
        ("lab.exercises.n00", "from ...__main__ import main", "__main__"),
        ("lab.exercises.n00", "def f():\n    from . import n08", "lab.exercises.n08"),
        ("lab", "from . import plots", "lab.plots"),
    ],
)
def test_an_upward_import_is_caught(name, text, wrong):
    assert upward(f"helpers.{name}", text) == [f"helpers.{wrong}"]


@pytest.mark.parametrize(
    "name,text,right",
    [
        ("scoring", "import re, json\nfrom scipy import stats", set()),
        ("scoring", "from . import CourseError, rewards", {"helpers", "rewards"}),
        ("lab.plots", "from ..scoring import SCORES", {"scoring"}),
        ("lab.exercises.n08", "from ...fast import TILE", {"fast"}),
        ("lab.exercises.n08", "from . import match, n02", {"lab.exercises.n02"}),
        ("__main__", "def f():\n    from .lab import plots", {"lab.plots"}),
    ],
)
def test_a_downward_import_is_seen_and_allowed(name, text, right):
    right = {x if x == "helpers" else f"helpers.{x}" for x in right}
    right |= {"helpers.lab.exercises"} if "match" in text else set()
    assert imported(f"helpers.{name}", text) == right
    assert upward(f"helpers.{name}", text) == []


def test_the_engine_can_be_read_in_an_evening():
    sizes = {path.stem: lines(path) for path in HELPERS.glob("*.py")}
    # To be read in an evening; the aim is 2,300.
    assert sum(sizes.values()) <= 3350
    assert {name: size for name, size in sizes.items() if size > 300} == {}


def test_no_room_of_the_lab_is_too_long():
    sizes = {path.stem: lines(path) for path in (HELPERS / "lab").rglob("*.py")}
    assert {name: size for name, size in sizes.items() if size > 320} == {}


# Imports each module in turn; prints what each changed of the filters of warnings, of
# the environment, and of what stands in TRL's modules and in their classes.
WATCH = """
    import importlib, inspect, json, os, sys, types, warnings
    import accelerate, datasets, ipywidgets, matplotlib.pyplot, pandas, peft
    import scipy.stats, torch, transformers, trl, trl.trainer.grpo_trainer
    from trl import GRPOConfig, GRPOTrainer

    def contents(owner):
        # A package gains its modules as they are imported.
        return {k: v for k, v in vars(owner).items() if not inspect.ismodule(v)}

    def state():
        found = {("warnings", "filters"): list(warnings.filters)}
        found |= {("os.environ", name): value for name, value in os.environ.items()}
        for name in [m for m in sys.modules if m.partition(".")[0] == "trl"]:
            for key, value in contents(sys.modules[name]).items():
                found[name, key] = value
                if inspect.isclass(value) and value.__module__ == name:
                    for inner, part in contents(value).items():
                        found[name, f"{key}.{inner}"] = part
        return found, set(sys.modules)

    def same(a, b):
        return a is b or (isinstance(a, str | list) and type(a) is type(b) and a == b)

    def may_grow(name, known):
        # A TRL module that is new; a lazy one, which grows as it is read.
        found = sys.modules.get(name)
        return name not in known or type(found) is not types.ModuleType

    changes = {}
    for name in json.loads(sys.argv[1]):
        before, known = state()
        exec(sys.argv[2] if name == "planted" else f"import {name}")
        after, _ = state()
        lost = before.keys() - after.keys()
        both = before.keys() & after.keys()
        other = [key for key in both if not same(before[key], after[key])]
        new = [key for key in after.keys() - before.keys()
               if not (key[0].startswith("trl") and may_grow(key[0], known))]
        changes[name] = sorted(" ".join(key) for key in [*lost, *other, *new])
    print(json.dumps(changes))
"""
# What would be caught.
PLANTED = """
import os, trl, warnings
from trl.trainer import grpo_trainer
warnings.filterwarnings("ignore", "never", FutureWarning)
os.environ["GRPO_PLANTED"] = "1"
grpo_trainer.print_prompt_completions_sample = lambda *args, **kwargs: None
grpo_trainer.GRPOTrainer._generate = None
grpo_trainer.planted = 1
trl.GRPOConfig = None
"""


@pytest.fixture(scope="module")
def changes() -> dict[str, list[str]]:
    """What each module changes as it is imported, in one fresh process for all."""
    script = [sys.executable, "-c", textwrap.dedent(WATCH)]
    command = [*script, json.dumps([*ORDER, "planted"]), PLANTED]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("name", ORDER)
def test_importing_changes_no_warnings_no_environment_and_no_trl(name, changes):
    assert changes[name] == []


def test_a_module_that_changes_them_is_caught(changes):
    module = "trl.trainer.grpo_trainer"
    assert changes["planted"] == [
        "os.environ GRPO_PLANTED",
        "trl GRPOConfig",
        f"{module} GRPOTrainer._generate",
        f"{module} planted",
        f"{module} print_prompt_completions_sample",
        "warnings filters",
    ]


@pytest.mark.parametrize("name", ["scoring", "runs", "lab.plots"])
def test_scores_runs_and_figures_do_without_trl(name):
    code = f"import sys, helpers.{name}; assert 'trl' not in sys.modules"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
