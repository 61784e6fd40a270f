"""A run's folder: making it, opening it, its log, its checkpoints, its adapter.

`runs/<name>/` holds config.json, log.jsonl (a line a step, as TRL logs it, with `step`
and the Unix `time`), completions/*.parquet, checkpoint-*/ and adapter/.
"""

import contextlib
import dataclasses
import importlib.metadata
import json
import math
import os
import platform
import shutil
import subprocess
import threading
import time
from pathlib import Path

import psutil
import torch
from filelock import FileLock, Timeout

from . import ROOT, CourseError
from .errors import storing
from .models import damage
from .pace import speeds
from .processes import is_main
from .profiles import Profile, differences
from .task import is_task, keep_task

PACKAGES = ("torch", "transformers", "trl", "peft", "accelerate", "datasets")


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a file so that a reader sees the old content or the new, never a part."""
    scratch = path.with_name(f".{path.name}.part")
    scratch.write_bytes(content.encode() if isinstance(content, str) else content)
    os.replace(scratch, path)


BEAT, SILENT = 20, 120  # seconds between two heartbeats; without any, a run is free
HELD: dict[Path, str] = {}  # the runs that this process holds, and its name there


def last_beat(run: Path) -> tuple[str, float]:
    """Return who works in a run's folder, and how many seconds ago it said so."""
    try:
        beat = json.loads((run / "heartbeat.json").read_text(encoding="utf-8"))
        return beat["who"], time.time() - beat["time"]
    except (OSError, ValueError, KeyError, TypeError):
        return "another process", math.inf


def check_hold(run: Path) -> None:
    """Raise CourseError if another process works in a run that this one held."""
    who, _ = last_beat(run)
    if is_main() and who not in (HELD.get(run.resolve()), "another process"):
        raise CourseError(
            f"{who} has gone on with {run}; this process leaves it alone."
        )


@contextlib.contextmanager
def holding(run: Path):
    """Keep a run's folder for this process; CourseError says who else works in it.

    A file lock tells the processes of a machine apart. It does not reach over a network
    drive: there heartbeat.json says who was there in the last two minutes. A process
    may hold a run twice; of several that share it, the main one holds it for all.
    """
    if run.resolve() in HELD or not is_main():
        yield
        return
    here, lock = platform.node(), FileLock(run / ".lock", blocking=False)
    taken = f"{run} is in use by {{}}. Wait until it has stopped, or name another run."
    try:
        with storing(run):
            lock.acquire()
    except Timeout:
        raise CourseError(taken.format(last_beat(run)[0])) from None
    me, (who, seconds) = f"process {os.getpid()} on {here}", last_beat(run)
    if seconds < SILENT and not who.endswith(f" on {here}"):
        lock.release()
        raise CourseError(taken.format(f"{who}, {seconds:.0f} s ago"))
    over, HELD[run.resolve()] = threading.Event(), me

    def beat() -> None:
        said = json.dumps({"who": me, "time": time.time()})
        write_atomically(run / "heartbeat.json", said)

    def keep_beating() -> None:
        while not over.wait(BEAT):
            with contextlib.suppress(OSError):  # the next step that stores says so
                if last_beat(run)[0] == me:
                    beat()

    thread = threading.Thread(target=keep_beating, daemon=True)
    try:
        with storing(run):
            beat()
        thread.start()
        yield
    finally:
        over.set()
        if thread.ident:
            thread.join()
        del HELD[run.resolve()]
        with contextlib.suppress(OSError):  # a full disk was said already
            if last_beat(run)[0] == me:
                (run / "heartbeat.json").unlink(missing_ok=True)
        lock.release()


def machine() -> dict:
    """Return what each figure is reported with: the machine and package versions."""
    cpu = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():  # Linux leaves platform.processor() empty
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next((x.split(": ")[1] for x in lines if "model name" in x), cpu)
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    memory = round(psutil.virtual_memory().total / 1e9, 1)
    found = {"cpu": cpu, "cores": os.cpu_count(), "memory_gb": memory, "gpu": gpu}
    found["gflops"] = {name: round(rate) for name, rate in speeds().items()}
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
    config = {"profile": stored(profile), "seed": seed}
    config |= {"machine": machine(), "commit": commit, "started": time.time()}
    with storing(run):
        run.mkdir(parents=True, exist_ok=True)
        if is_task(profile.dataset):
            counts = {"train": profile.num_train, "test": profile.num_eval}
            keep_task(profile.dataset, run, counts)
        write_atomically(run / "config.json", json.dumps(config, indent=1))


def stored(profile: Profile) -> dict:
    """Return what config.json says of a profile: a task's file lies beside it."""
    return dataclasses.asdict(profile) | {"dataset": Path(profile.dataset).name}


def update_profile(run: Path, profile: Profile) -> None:
    """Put the profile into a run's config.json where it differs from the one there."""
    config = json.loads((run / "config.json").read_text(encoding="utf-8"))
    if config["profile"] != stored(profile):
        config["profile"] = stored(profile)
        with storing(run):
            write_atomically(run / "config.json", json.dumps(config, indent=1))


def load_run(run: Path) -> tuple[Profile, int]:
    """Return (profile, seed) of a run; CourseError if the folder holds none."""
    try:
        config = json.loads((run / "config.json").read_text(encoding="utf-8"))
        profile = Profile(**config["profile"])
        if is_task(profile.dataset):
            profile = dataclasses.replace(profile, dataset=str(run / profile.dataset))
        return profile, config["seed"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CourseError(f"{run} is not a run's folder: {error!r}") from error


def open_run(folder: Path, profile: Profile, seed: int) -> Path:
    """Return the newest unfinished run of a profile in a folder, else a new one.

    One that was made with other settings or another seed is left alone, which a line
    says. Raises CourseError if another process works in it.
    """
    for config in sorted(folder.glob("*/config.json"), reverse=True):
        run = config.parent
        try:
            found, found_seed = load_run(run)
        except CourseError:  # another program's config.json, such as a merged model's
            continue
        finished = (run / "adapter" / "adapter_config.json").exists()
        if finished or found.name != profile.name:
            continue
        changed = differences(found, profile)
        changed += ["seed"] if found_seed != seed else []
        if not changed:
            with holding(run):
                return run
        print(f"{run} was made with other settings ({', '.join(changed)}): left alone.")
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

    Damaged ones are set aside: the trainer would count them as those that it keeps. A
    step that was logged but not saved is done again, so its line goes.
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
