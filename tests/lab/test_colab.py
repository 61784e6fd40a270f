"""The set-up cell: on a machine of one's own, on Colab, twice, and when pip fails."""

import logging
import os
import re
import sys
from importlib import metadata
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from IPython.core.interactiveshell import InteractiveShell

from helpers import CourseError
from helpers.lab import colab
from helpers.runs import PACKAGES


@pytest.fixture(autouse=True)
def _no_pip(monkeypatch):
    """A machine of one's own, where a test must ask for pip to get it."""
    for name in ("COLAB_RELEASE_TAG", "KAGGLE_KERNEL_RUN_TYPE", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(colab, "replaced", set())
    monkeypatch.setattr(colab, "pip", lambda *args: pytest.fail(f"pip {args}"))


@pytest.fixture
def on_colab(monkeypatch):
    """As on Colab, with everything installed that it never installs."""
    monkeypatch.setenv("COLAB_RELEASE_TAG", "release-colab_20260801")


def missing(name, version=None):
    """A row of check_requirements that is not met."""
    return (name, f"{name}>=1,<2", version, False)


def test_on_a_machine_of_ones_own_all_is_said_and_nothing_done(capsys):
    for _ in range(2):
        colab.set_up()
        machine, profile, packages = capsys.readouterr().out.splitlines()
        assert machine.endswith(", no GPU")
        chosen = r"profile cpu(_quick)? \(no CUDA GPU is visible; predicted minutes"
        assert re.fullmatch(rf"{chosen} here: cpu \d+, cpu_quick \d+\)", profile)
        for package in PACKAGES:
            assert f"{package} {metadata.version(package)}" in packages


def test_a_gpu_profile_without_a_gpu_is_said(capsys, monkeypatch):
    monkeypatch.setenv("GRPO_PROFILE", "t4")
    colab.set_up()
    assert capsys.readouterr().out.endswith(
        "\nProfile t4 wants a CUDA GPU, and none is visible here.\n"
    )


def test_on_colab_with_all_there_nothing_is_done_and_the_menu_named(capsys, on_colab):
    for _ in range(2):
        colab.set_up()
        first, *_, last = capsys.readouterr().out.splitlines()
        assert first == "Colab: all packages are there"
        assert last == (
            "No GPU is on. To get one: Runtime > Change runtime type > T4 GPU > Save, "
            "then run this cell again."
        )


def test_on_kaggle_one_of_two_gpus_is_used(capsys, monkeypatch):
    monkeypatch.setenv("KAGGLE_KERNEL_RUN_TYPE", "Interactive")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # so that it is restored
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    colab.set_up()
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "0"
    assert "Kaggle: " in (out := capsys.readouterr().out)
    assert "Settings > Accelerator > GPU T4 x2" in out


def test_only_what_lacks_is_installed_and_torch_and_numpy_are_held(
    capsys, on_colab, monkeypatch
):
    rows = [missing("trl"), missing("torch", "0.9"), missing("jupyterlab")]
    rows += [missing("numpy", "1.0"), ("pandas", "pandas>=2,<4", "2.2.3", True)]
    calls = []

    def pip(*arguments):
        pins = Path(arguments[2]).read_text().splitlines()
        calls.append((arguments[:2], set(pins), arguments[3:]))

    monkeypatch.setattr(colab, "check_requirements", lambda: rows)
    monkeypatch.setattr(colab, "pip", pip)
    there = {"torch": "0.9", "torchvision": "0.1", "numpy": "1.0", "pandas": "2.2.3"}
    states = iter([there, there | {"trl": "1.16.0", "pyarrow": "26.0"}])
    monkeypatch.setattr(colab, "versions", lambda: next(states))
    done = colab.install()
    assert calls == [
        (
            ("install", "--constraint"),
            {f"{name}=={version}" for name, version in there.items()},
            ("trl>=1,<2",),
        )
    ]
    assert done == "installed pyarrow 26.0, trl 1.16.0"
    assert capsys.readouterr().out == "Installing trl>=1,<2 (about a minute) …\n"


@pytest.mark.parametrize(
    "version,gone", [("0.10.0", True), ("0.15.1", True), ("0.16.0", False)]
)
def test_a_torchao_that_peft_refuses_goes(version, gone, on_colab, monkeypatch):
    calls = []
    there = {"torchao": version}
    monkeypatch.setattr(colab, "check_requirements", list)
    monkeypatch.setattr(colab, "pip", lambda *args: calls.append(args) or there.clear())
    monkeypatch.setattr(colab, "versions", lambda: dict(there))
    done = colab.install()
    assert calls == ([("uninstall", "--yes", "torchao")] if gone else [])
    assert done == ("removed torchao 0.10.0" if version == "0.10.0" else done)


def test_a_restart_is_asked_for_only_where_an_imported_package_moved(
    capsys, on_colab, monkeypatch
):
    monkeypatch.setattr(colab, "check_requirements", lambda: [missing("datasets")])
    monkeypatch.setattr(colab, "pip", lambda *args: None)
    states = [{"numpy": "1", "no-such": "1"}, {"numpy": "1", "no-such": "2"}]
    monkeypatch.setattr(colab, "versions", lambda: states.pop(0))
    colab.set_up()
    assert "moved no-such 1 to 2" in capsys.readouterr().out
    states += [{"numpy": "1"}, {"numpy": "2"}]
    with pytest.raises(
        CourseError, match=r"^numpy changed while in use\. Runtime > Res"
    ):
        colab.set_up()
    # The next try in the same session has nothing to install, and must still say so.
    monkeypatch.setattr(colab, "install", lambda: "all packages are there")
    with pytest.raises(CourseError, match="numpy changed while in use"):
        colab.set_up()


def test_pips_own_reason_is_given(monkeypatch, on_colab):
    monkeypatch.undo()
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")
    with pytest.raises(CourseError) as error:
        colab.pip("install", "no-such-package-grpo>=1")
    text = str(error.value)
    assert text.startswith("pip install failed: ERROR: Could not find a version")
    assert "is the Internet on?" in text and "\n" not in text


def test_a_missing_package_on_ones_own_machine_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "helpers.runs", None)
    with pytest.raises(CourseError, match=r"run pip install -r requirements\.txt"):
        colab.set_up()


def test_no_warning_about_a_missing_token(caplog, capsys):
    colab.set_up()
    logger = logging.getLogger("huggingface_hub.utils._http")
    logger.warning("You are sending unauthenticated requests. Please set a HF_TOKEN")
    logger.warning("The Hub is read-only today")
    assert caplog.messages == ["The Hub is read-only today"]


def test_an_error_in_a_notebook_is_its_text_alone(capsys):
    shell = InteractiveShell()
    code = (
        "from helpers import CourseError\nraise CourseError('what, where, what to do')"
    )
    shell.run_cell(code)
    assert capsys.readouterr().out == "CourseError: what, where, what to do\n"


def test_the_folder_is_here_or_on_drive(monkeypatch):
    assert colab.choose_folder() == Path("runs")
    assert colab.choose_folder("/mnt/big") == Path("/mnt/big")
    with pytest.raises(CourseError, match=r"Drive is not mounted .*on_drive=False"):
        colab.choose_folder(on_drive=True)
    mounted = []
    google = ModuleType("google.colab")
    google.drive = SimpleNamespace(mount=mounted.append)
    monkeypatch.setitem(sys.modules, "google", ModuleType("google"))
    monkeypatch.setitem(sys.modules, "google.colab", google)
    folder = colab.choose_folder(on_drive=True)
    assert folder == Path("/content/drive/MyDrive/grpo-step-by-step")
    assert mounted == ["/content/drive"]

    def refuse(place):
        raise ValueError("mount failed")

    google.drive.mount = refuse
    with pytest.raises(CourseError, match=r"not mounted \(mount failed\).*allow it"):
        colab.choose_folder(on_drive=True)
