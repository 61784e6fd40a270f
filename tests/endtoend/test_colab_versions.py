"""The set-up cell and notebook 00 among the versions of Colab's image."""

import json
import subprocess
import time
import venv
from importlib import metadata
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from tests import ROOT

GOOD = ROOT / "notebooks" / "00_start_here.ipynb"
VERSIONS = Path(__file__).with_name("colab_versions.txt")


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
    wanted = ["-r", str(VERSIONS)]
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
