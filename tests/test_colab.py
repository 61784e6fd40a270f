"""The set-up cell: on a machine of one's own, on Colab, twice, and when pip fails."""

import json
import logging
import os
import subprocess
import sys
import time
import venv
from importlib import metadata
from pathlib import Path

import nbformat
import pytest
from IPython.core.interactiveshell import InteractiveShell
from nbclient import NotebookClient

from helpers import CourseError, colab
from helpers.training import PACKAGES

ROOT = Path(__file__).resolve().parents[1]
GOOD = ROOT / "notebooks" / "00_start_here.ipynb"


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


def test_on_a_machine_of_ones_own_one_line_is_printed_and_nothing_done(capsys):
    for _ in range(2):
        colab.set_up()
        (line,) = capsys.readouterr().out.splitlines()
        assert "| profile cpu (no CUDA GPU is visible) |" in line
        for package in PACKAGES:
            assert f"{package} {metadata.version(package)}" in line


def test_a_gpu_profile_without_a_gpu_is_said(capsys, monkeypatch):
    monkeypatch.setenv("GRPO_PROFILE", "t4")
    colab.set_up()
    assert capsys.readouterr().out.endswith(
        "\nProfile t4 wants a CUDA GPU, and none is visible here.\n"
    )


def test_on_colab_with_all_there_nothing_is_done_and_the_menu_named(capsys, on_colab):
    for _ in range(2):
        colab.set_up()
        first, _, last = capsys.readouterr().out.splitlines()
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
    monkeypatch.setitem(sys.modules, "helpers.training", None)
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


def frozen(python: Path) -> dict[str, str]:
    """The versions of all packages of an environment."""
    command = [str(python), "-m", "pip", "list", "--format=json"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return {row["name"]: row["version"] for row in json.loads(listed)}


@pytest.mark.colab
def test_among_colabs_versions_the_set_up_cell_and_00_run(
    tmp_path, clone, embedded_model, monkeypatch
):
    """From an empty folder: clone, install, LoRA, all of 00; then twice, no network."""
    venv.create(tmp_path / "colab", with_pip=True)
    python = tmp_path / "colab" / "bin" / "python"
    wanted = ["-r", str(ROOT / "tests" / "colab_versions.txt")]
    torch = f"torch=={metadata.version('torch').split('+')[0]}"
    install = [str(python), "-m", "pip", "install", "--quiet", torch, *wanted]
    subprocess.run(install, check=True)
    before = frozen(python)
    assert before["torchao"] == "0.10.0" and "trl" not in before

    # GitHub is this folder, and the kernel that of the environment.
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "course"]):
        who = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
        subprocess.run(["git", "-C", str(clone), *who, *command], check=True)
    address = next(
        line.split('"')[1]
        for line in (ROOT / "pyproject.toml").read_text().splitlines()
        if line.startswith("Repository")
    )
    monkeypatch.setenv("GIT_CONFIG_COUNT", "1")
    monkeypatch.setenv("GIT_CONFIG_KEY_0", f"url.{clone.as_uri()}.insteadOf")
    monkeypatch.setenv("GIT_CONFIG_VALUE_0", address)
    kernel = tmp_path / "share" / "kernels" / "colab"
    kernel.mkdir(parents=True)
    argv = [str(python), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    spec = {"argv": argv, "display_name": "Colab", "language": "python"}
    (kernel / "kernel.json").write_text(json.dumps(spec))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "share"))
    monkeypatch.setenv("COLAB_RELEASE_TAG", "release-colab_20260801")
    content = tmp_path / "content"
    content.mkdir()

    nb = nbformat.read(GOOD, as_version=4)
    source = next(cell for cell in nb.cells if cell.cell_type == "code").source
    cells = [nbformat.v4.new_code_cell(text) for text in (
        "import numpy",  # as on Colab
        source,
        "from peft import LoraConfig, get_peft_model\n"
        "from transformers import Qwen2Config, Qwen2ForCausalLM\n"
        "tiny = Qwen2Config(hidden_size=32, intermediate_size=64, num_hidden_layers=1,"
        " num_attention_heads=2, num_key_value_heads=2, vocab_size=99)\n"
        "model = get_peft_model(Qwen2ForCausalLM(tiny), LoraConfig(r=8))\n"
        "model.print_trainable_parameters()",
    )]  # fmt: skip
    seconds = {}

    def start(cell, cell_index):
        seconds[cell_index] = -time.monotonic()

    def end(cell, cell_index, **kwargs):
        seconds[cell_index] += time.monotonic()

    def execute(cells):
        book = nbformat.v4.new_notebook(cells=cells)
        options = {"kernel_name": "colab", "timeout": 900, "on_cell_start": start}
        options["coalesce_streams"] = True
        where = {"metadata": {"path": str(content)}}
        NotebookClient(book, resources=where, on_cell_executed=end, **options).execute()
        outputs = [out for cell in book.cells for out in cell.get("outputs", [])]
        assert not [out for out in outputs if out.get("name") == "stderr"], outputs
        return outputs

    outputs = execute(cells)
    said = outputs[0].text
    print(f"set-up cell {seconds[1]:.0f} s\n{said}")
    assert "Colab: installed " in said and "trl 1.16" in said
    assert "removed torchao 0.10.0" in said and "Runtime > Change runtime type" in said
    assert "trainable params: " in outputs[-1].text
    after = frozen(python)
    for name in (
        "torch",
        "numpy",
        "pandas",
        "transformers",
        "matplotlib",
        "ipywidgets",
    ):
        assert after[name] == before[name]
    assert "torchao" not in after and "jupyterlab" not in after

    nowhere = "http://127.0.0.1:9"
    for name in ("HTTPS_PROXY", "HTTP_PROXY", "PIP_INDEX_URL", "HF_ENDPOINT"):
        monkeypatch.setenv(name, nowhere)
    outputs = execute([nbformat.v4.new_code_cell(source) for _ in range(2)])
    assert outputs[0].text == outputs[1].text
    assert outputs[0].text.startswith("Colab: all packages are there\n")
    assert frozen(python) == after
    execute([cell for cell in nb.cells if cell.cell_type == "code"])
