"""A run's folder: making it, opening it, its log, its checkpoints, its adapter.

`runs/<name>/` holds config.json, log.jsonl (a line a step, as TRL logs it, with `step`
and the Unix `time`), completions/*.parquet, checkpoint-*/ and adapter/.
"""

import contextlib
import dataclasses
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import time
import traceback
from pathlib import Path

import psutil
import torch

from . import ROOT, CourseError
from .models import damage
from .profiles import Profile

PACKAGES = ("torch", "transformers", "trl", "peft", "accelerate", "datasets")


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a file so that a reader sees the old content or the new, never a part."""
    scratch = path.with_name(f".{path.name}.part")
    scratch.write_bytes(content.encode() if isinstance(content, str) else content)
    os.replace(scratch, path)


@contextlib.contextmanager
def storing(run: Path):
    """Turn a full disk, a read-only folder and the like into one clear line."""
    try:
        yield
    except Exception as error:
        # torch.save, safetensors and tokenizers raise errors of their own for it.
        files = {frame.filename for frame in traceback.extract_tb(error.__traceback__)}
        foreign = "(os error" in str(error) or torch.serialization.__file__ in files
        if not isinstance(error, OSError) and not foreign:
            raise
        reason = str(error).partition("\n")[0]
        raise CourseError(
            f"{run} cannot be written or read ({reason}). Is the disk full, or the "
            "folder read-only? What was saved before is kept. Make room, or move to "
            "another folder (with what is in this one), and go on."
        ) from error


def machine() -> dict:
    """Return what each figure is reported with: the machine and package versions."""
    cpu = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():  # Linux leaves platform.processor() empty
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next((x.split(": ")[1] for x in lines if "model name" in x), cpu)
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    memory = round(psutil.virtual_memory().total / 1e9, 1)
    found = {"cpu": cpu, "cores": os.cpu_count(), "memory_gb": memory, "gpu": gpu}
    found |= {"system": platform.system(), "python": platform.python_version()}
    return found | {name: importlib.metadata.version(name) for name in PACKAGES}


def check_new(run: Path) -> None:
    """Raise CourseError if the folder for a new run holds anything already."""
    if run.exists() and (not run.is_dir() or any(run.iterdir())):
        raise CourseError(
            f"{run} exists already and stays as it is. Go on with it by --resume --out "
            f"{run}, or name another folder with --out."
        )


def create_run(run: Path, profile: Profile, seed: int) -> None:
    """Make a new run's folder and its config.json; CourseError where it cannot be."""
    check_new(run)
    git = ["git", "-C", str(ROOT), "rev-parse", "HEAD"]
    commit = None
    with contextlib.suppress(FileNotFoundError):  # no git here
        commit = subprocess.run(git, capture_output=True, text=True).stdout.strip()
    config = {"profile": dataclasses.asdict(profile), "seed": seed}
    config |= {"machine": machine(), "commit": commit, "started": time.time()}
    with storing(run):
        run.mkdir(parents=True, exist_ok=True)
        write_atomically(run / "config.json", json.dumps(config, indent=1))


def load_run(run: Path) -> tuple[Profile, int]:
    """Return (profile, seed) of a run; CourseError if the folder holds none."""
    try:
        config = json.loads((run / "config.json").read_text(encoding="utf-8"))
        return Profile(**config["profile"]), config["seed"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CourseError(f"{run} is not a run's folder: {error!r}") from error


def open_run(folder: Path, profile: Profile, seed: int) -> Path:
    """Return the newest unfinished run of a profile in a folder, else a new one."""
    for config in sorted(folder.glob("*/config.json"), reverse=True):
        finished = (config.parent / "adapter" / "adapter_config.json").exists()
        if not finished and load_run(config.parent)[0].name == profile.name:
            return config.parent
    run = folder / time.strftime(f"%Y%m%d-%H%M%S-{profile.name}")
    create_run(run, profile, seed)
    return run


def read_log(run: Path) -> list[dict]:
    """Return the lines of log.jsonl, one dict a step; a line cut short is left out."""
    path, rows = run / "log.jsonl", []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        with contextlib.suppress(ValueError):
            rows.append(json.loads(line))
    return rows


def checkpoint_steps(run: Path) -> list[int]:
    """Return the steps of a run's numbered checkpoints, the newest first."""
    names = [path.name.removeprefix("checkpoint-") for path in run.glob("checkpoint-*")]
    return sorted((int(name) for name in names if name.isdigit()), reverse=True)


def last_checkpoint(run: Path) -> tuple[int, str | None]:
    """Return (step, folder) of the newest whole checkpoint, else (0, None)."""
    for step in checkpoint_steps(run):
        if not damage(run / f"checkpoint-{step}"):
            return step, str(run / f"checkpoint-{step}")
    return 0, None


def rewind(run: Path) -> tuple[int, str | None]:
    """Bring a run back to its last whole checkpoint; return that as (step, folder).

    Damaged ones are set aside: the trainer would count them among the two that it keeps.
    A step that was logged but not saved is done again, so its line goes.
    """
    last, folder = last_checkpoint(run)
    for step in checkpoint_steps(run):
        path = run / f"checkpoint-{step}"
        if wrong := damage(path):
            aside = path.rename(run / f"damaged-{path.name}-{time.time_ns()}")
            print(f"{path.name} is damaged ({wrong}), now {aside.name}.")
            print(f"Training goes on from step {last}.")
    rows = [json.dumps(row) + "\n" for row in read_log(run) if row["step"] <= last]
    write_atomically(run / "log.jsonl", "".join(rows))
    return last, folder


def save_adapter(model, folder: Path, base_model: str) -> None:
    """Save a LoRA adapter that names its base model, not a path on this machine."""
    scratch = folder.with_name(f".{folder.name}.part")
    model.save_pretrained(scratch)
    path = scratch / "adapter_config.json"
    config = json.loads(path.read_text()) | {"base_model_name_or_path": base_model}
    # An older PEFT, such as Colab's, warns of settings that it does not know.
    config = {name: value for name, value in config.items() if value is not None}
    path.write_text(json.dumps(config, indent=1))
    (scratch / "README.md").unlink(missing_ok=True)  # PEFT's card is an empty form
    shutil.rmtree(folder, ignore_errors=True)  # where a run that is done is run again
    os.replace(scratch, folder)
