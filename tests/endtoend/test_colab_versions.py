"""The set-up cell, then each notebook alone, among the versions of Colab's image."""

import json
import shutil
import subprocess
import sys
import time
import venv
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest
from nbclient import NotebookClient

from tests import ROOT

GOOD = ROOT / "notebooks" / "00_start_here.ipynb"
NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))
VERSIONS = Path(__file__).with_name("colab_versions.txt")
STAND_IN = Path(__file__).with_name("google_colab")
NOWHERE = "http://127.0.0.1:9"


def frozen(python: Path) -> dict[str, str]:
    """The versions of all packages of an environment."""
    command = [str(python), "-m", "pip", "list", "--format=json"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return {row["name"]: row["version"] for row in json.loads(listed)}


def address() -> str:
    """Where a notebook on Colab clones the course from."""
    lines = (ROOT / "pyproject.toml").read_text().splitlines()
    return next(row.split('"')[1] for row in lines if row.startswith("Repository"))


def published(course: Path) -> None:
    """Commit a copy of the course, so that it can be cloned."""
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "course"]):
        who = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
        subprocess.run(["git", "-C", str(course), *who, *command], check=True)


@pytest.fixture(scope="module")
def replica(tmp_path_factory, embedded_model) -> SimpleNamespace:
    """An environment with Colab's versions and its kernel, as a notebook finds it."""
    place = tmp_path_factory.mktemp("colab")
    venv.create(place / "colab", with_pip=True)
    python = place / "colab" / "bin" / "python"
    torch = f"torch=={metadata.version('torch').split('+')[0]}"
    install = [str(python), "-m", "pip", "install", "--quiet", torch]
    subprocess.run([*install, "-r", str(VERSIONS)], check=True)
    (packages,) = (place / "colab" / "lib").glob("python*/site-packages")
    shutil.copytree(STAND_IN, packages / "google" / "colab")
    kernel = place / "share" / "kernels" / "colab"
    kernel.mkdir(parents=True)
    argv = [str(python), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    spec = {"argv": argv, "display_name": "Colab", "language": "python"}
    (kernel / "kernel.json").write_text(json.dumps(spec))
    return SimpleNamespace(python=python, share=place / "share", before=frozen(python))


@pytest.fixture
def content(replica, clone, tmp_path, monkeypatch) -> Path:
    """The empty folder of a new session; GitHub is a copy of the course."""
    published(clone)
    monkeypatch.setenv("GIT_CONFIG_COUNT", "1")
    monkeypatch.setenv("GIT_CONFIG_KEY_0", f"url.{clone.as_uri()}.insteadOf")
    monkeypatch.setenv("GIT_CONFIG_VALUE_0", address())
    monkeypatch.setenv("JUPYTER_PATH", str(replica.share))
    monkeypatch.setenv("COLAB_RELEASE_TAG", "release-colab_20260801")
    monkeypatch.setenv("GRPO_TEST_DRIVE", str(tmp_path / "drive"))
    (tmp_path / "content").mkdir()
    return tmp_path / "content"


def execute(cells: list, content: Path) -> tuple[list, list[float]]:
    """Run cells in one session; return their outputs and seconds. None may warn."""
    started, seconds = {}, []

    def start(cell, cell_index):
        started[cell_index] = time.monotonic()

    def end(cell, cell_index, **kwargs):
        seconds.append(time.monotonic() - started[cell_index])

    book = nbformat.v4.new_notebook(cells=cells)
    options = {"kernel_name": "colab", "timeout": 900, "coalesce_streams": True}
    options |= {"on_cell_start": start, "on_cell_executed": end}
    where = {"metadata": {"path": str(content)}}
    NotebookClient(book, resources=where, **options).execute()
    outputs = [out for cell in book.cells for out in cell.get("outputs", [])]
    assert not [out for out in outputs if out.get("name") == "stderr"], outputs
    return outputs, seconds


def code_cells(path: Path) -> list:
    """The code cells of a notebook."""
    nb = nbformat.read(path, as_version=4)
    return [cell for cell in nb.cells if cell.cell_type == "code"]


@pytest.mark.colab
def test_among_colabs_versions_the_set_up_cell_and_00_run(
    replica, content, monkeypatch
):
    """From an empty folder: clone, install, LoRA, all of 00; then twice, no network."""
    before, source = replica.before, code_cells(GOOD)[0].source
    assert before["torchao"] == "0.10.0" and "trl" not in before
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
    outputs, seconds = execute(cells, content)
    said = outputs[0].text
    print(f"set-up cell {seconds[1]:.0f} s\n{said}")
    assert "Colab: installed " in said and "trl 1.16" in said
    assert "removed torchao 0.10.0" in said and "Runtime > Change runtime type" in said
    assert "trainable params: " in outputs[-1].text
    after = frozen(replica.python)
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

    for name in ("HTTPS_PROXY", "HTTP_PROXY", "PIP_INDEX_URL", "HF_ENDPOINT"):
        monkeypatch.setenv(name, NOWHERE)
    twice = [nbformat.v4.new_code_cell(source) for _ in range(2)]
    outputs, _ = execute(twice, content)
    assert outputs[0].text == outputs[1].text
    assert outputs[0].text.startswith("Colab: all packages are there\n")
    assert frozen(replica.python) == after
    execute(code_cells(GOOD), content)


@pytest.mark.colab
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_alone_on_colab(path, content, monkeypatch):
    """In an empty folder, as Colab opens it, under the profile smoke."""
    monkeypatch.setenv("GRPO_PROFILE", "smoke")
    _, seconds = execute(code_cells(path), content)
    print(f"{path.stem} {sum(seconds):.0f} s, the set-up cell {seconds[0]:.0f} s")
    assert len(seconds) == len(code_cells(path))


@pytest.mark.colab
def test_a_torchao_put_back_is_found_and_goes(replica, content, monkeypatch):
    """Colab's next image brings it again, beside a PEFT that refuses it."""
    pip = [str(replica.python), "-m", "pip", "install", "--quiet", "--no-deps"]
    subprocess.run([*pip, "torchao==0.10.0"], check=True)
    source = code_cells(GOOD)[0].source
    outputs, _ = execute([nbformat.v4.new_code_cell(source)], content)
    assert "removed torchao 0.10.0" in outputs[0].text


BUILD = """
import json
from helpers.models import fetch_embedded_model, load_model_and_tokenizer, sha256
folder = fetch_embedded_model()
model, tokenizer = load_model_and_tokenizer("SmolLM2-135M-Instruct")
chat = [{"role": "user", "content": "2 < 3 <answer>"}]
ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True)["input_ids"]
tokens = tokenizer.special_tokens_map
print(json.dumps([sha256(folder / "model.safetensors"), ids, tokens,
                  model.generation_config.eos_token_id]))
"""


@pytest.mark.colab
def test_the_embedded_model_is_built_there_as_here(
    replica, content, embedded_model, monkeypatch
):
    """Nothing cached: the conversion too is that of Colab's transformers."""
    execute(code_cells(GOOD)[:1], content)  # it installs what is missing

    def built(python) -> list:
        command, course = [str(python), "-c", BUILD], content / "grpo-step-by-step"
        ran = subprocess.run(command, capture_output=True, text=True, cwd=course)
        assert ran.returncode == 0, ran.stderr[-2000:]
        return json.loads(ran.stdout.splitlines()[-1])

    here = built(sys.executable)
    monkeypatch.setenv("GRPO_CACHE_DIR", str(content / "models"))
    assert built(replica.python) == here
