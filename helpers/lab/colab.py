"""What the first cell of a notebook calls: install what is missing, say what is here.

On Colab and Kaggle packages are installed, so only the standard library is imported
before: what is imported keeps its old version until the session restarts. The folder
for runs that outlive the session is chosen here as well.
"""

import contextlib
import importlib
import logging
import os
import subprocess
import sys
import tempfile
import warnings
from importlib import metadata
from pathlib import Path

from .. import ROOT, CourseError, check_requirements

# Never touched on a hosted machine: its torch fits its GPU driver, its numpy is in use
# before the first cell runs; and who reads a notebook there does so without JupyterLab.
LEFT_ALONE = ("torch", "numpy", "jupyterlab")
# Not moved either where they meet requirements.txt.
KEPT = ("pandas", "transformers", "scipy", "matplotlib", "ipywidgets")
GPU_MENU = {
    "Colab": "Runtime > Change runtime type > T4 GPU > Save",
    "Kaggle": "Settings > Accelerator > GPU T4 x2",
}
RESTART_MENU = {"Colab": "Runtime > Restart session", "Kaggle": "Run > Restart session"}
DRIVE = Path("/content/drive")  # where Colab mounts it
replaced: set[str] = set()  # packages that changed in this session while imported


def hosted() -> str | None:
    """Return `Colab` or `Kaggle`; None on a machine of the learner's own."""
    if "KAGGLE_KERNEL_RUN_TYPE" in os.environ:  # its image has Colab's variables too
        return "Kaggle"
    names = sys.modules.keys() | os.environ.keys()
    return "Colab" if names & {"google.colab", "COLAB_RELEASE_TAG"} else None


def set_up() -> None:
    """Make the course run here; print what was done, then machine, profile, versions.

    Installs nothing on a learner's own machine, nor where all is there. Raises
    CourseError with pip's own reason, or if an imported package was replaced.
    """
    place = hosted()
    try:
        if place:
            print(f"{place}: {install()}", flush=True)
        if replaced:
            names = ", ".join(sorted(replaced))
            raise CourseError(
                f"{names} changed while in use. {RESTART_MENU[place]}, then run this "
                "cell again; what is installed stays."
            )
        # The course needs no Hugging Face account, and a warning that there is none
        # would only frighten.
        logging.getLogger("huggingface_hub.utils._http").addFilter(not_about_token)
        # PEFT asks transformers for a setting by its old name, whatever one does.
        old_name = "`(is_)?gradient_checkpointing"
        warnings.filterwarnings("ignore", old_name, FutureWarning)
        if place == "Kaggle":  # Trainer would want to use both of its GPUs
            os.environ.setdefault("CUDA_VISIBLE_DEVICES", "0")
        print(describe(place))
    except ImportError as error:
        raise CourseError(f"{error}: run pip install -r requirements.txt") from error


def not_about_token(record: logging.LogRecord) -> bool:
    """Tell whether a log record of the Hub's client is about something else."""
    return "HF_TOKEN" not in record.getMessage()


def install() -> str:
    """Install what requirements.txt wants and this machine lacks; say what was done."""
    rows, before = check_requirements(), versions()
    lacking = [row for row in rows if row[0] not in LEFT_ALONE and not row[3]]
    missing = [line for _, line, _, _ in lacking]
    if missing:
        print(f"Installing {', '.join(missing)} (about a minute) …", flush=True)
        pins = {name for name, _, _, met in rows if name in KEPT and met}
        pins |= {n for n in before if n.startswith("torch") or n == "numpy"}
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "constraints.txt")
            path.write_text("".join(f"{name}=={before[name]}\n" for name in pins))
            pip("install", "--constraint", str(path), *missing)
    # PEFT needs no torchao, but refuses to apply LoRA beside one older than 0.16.
    if tuple(map(int, before.get("torchao", "1.0").split(".")[:2])) < (0, 16):
        pip("uninstall", "--yes", "torchao")
    importlib.invalidate_caches()
    after, owners = versions(), metadata.packages_distributions()
    used = {owner for module in sys.modules for owner in owners.get(module, ())}
    moved = {n for n in before.keys() & after.keys() if before[n] != after[n]}
    replaced.update(used & moved)
    done = {
        "installed": [f"{n} {after[n]}" for n in sorted(after.keys() - before.keys())],
        "moved": [f"{n} {before[n]} to {after[n]}" for n in sorted(moved)],
        "removed": [f"{n} {before[n]}" for n in sorted(before.keys() - after.keys())],
    }
    parts = [f"{verb} {', '.join(names)}" for verb, names in done.items() if names]
    return "; ".join(parts) or "all packages are there"


def versions() -> dict[str, str]:
    """Return the version of every installed package."""
    return {d.name: d.version for d in metadata.distributions() if d.name}


def pip(*arguments: str) -> None:
    """Run pip quietly; raise CourseError with its own reason if it fails.

    Where it succeeds its lines are not shown: that gcsfs wants an older fsspec, for
    one, is red, and of no consequence here.
    """
    quiet = ["--quiet", "--disable-pip-version-check", "--no-input"]
    command = [sys.executable, "-m", "pip", arguments[0], *quiet, *arguments[1:]]
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        lines = result.stderr.strip().splitlines() or ["pip gave no reason"]
        reason = [line for line in lines if line.startswith("ERROR")] or lines[-1:]
        raise CourseError(
            f"pip {arguments[0]} failed: {' '.join(reason)} Nothing was started; fix "
            "that (is the Internet on?) and run this cell again."
        )


def describe(place: str | None = None) -> str:
    """Return lines on machine, profile and versions, and one on how to get a GPU."""
    from ..profiles import choose_profile
    from ..runs import PACKAGES, machine

    found, (profile, reason) = machine(), choose_profile()
    shown = [f"{name} {found[name]}" for name in ("python", *PACKAGES)]
    gpu = found["gpu"] or "no GPU"
    text = f"{found['cpu']}, {found['cores']} cores, {found['memory_gb']} GB, {gpu}"
    text += f"\nprofile {profile.name} ({reason})\n{', '.join(shown)}"
    if found["gpu"] is None and place:
        text += (
            f"\nNo GPU is on. To get one: {GPU_MENU[place]}, then run this cell again."
        )
    elif found["gpu"] is None and profile.device == "gpu":
        text += f"\nProfile {profile.name} wants a CUDA GPU, and none is visible here."
    return text


def choose_folder(place: str | Path = "runs", on_drive: bool = False) -> Path:
    """Return the folder for runs: `place`, or one on Google Drive, mounted for it.

    Colab's own disk ends with the session, Drive stays. Training writes straight to it:
    it is slow, and what it has not uploaded when the session ends is lost.
    """
    if not on_drive:
        return Path(place)
    try:
        from google.colab import drive

        drive.mount(str(DRIVE))
    except Exception as error:  # Colab names no type for a refusal
        raise CourseError(
            f"Google Drive is not mounted ({error}). On Colab, run this cell again and "
            "allow it, or set KEEP_ON_DRIVE = False and lose the run with the session; "
            "elsewhere there is no Drive: set on_drive=False."
        ) from error
    return DRIVE / "MyDrive" / "grpo-step-by-step"


def runs_folder(keep_on_drive: bool) -> Path:
    """Return the folder for a notebook's runs: on Drive where that is wanted on Colab.

    Elsewhere a disk lasts, so the wish is ignored: it is `runs` in the course's folder.
    """
    return choose_folder(ROOT / "runs", keep_on_drive and hosted() == "Colab")


def finished_run(profile, folder: Path) -> tuple[Path, str]:
    """Return the newest finished run of a profile, and a line that says which it is.

    Looks in `folder` and where the course keeps runs on this machine. A run is finished
    when it holds an adapter. Where none is, it is the profile's recorded run of seed 0,
    else `cpu-seed0`, and the line says why.
    """
    from ..profiles import PROFILES
    from ..runs import load_run

    found = []
    for place in {folder, ROOT / "runs", ROOT / "notebooks" / "runs"}:
        for adapter in place.glob("*/adapter/adapter_config.json"):
            with contextlib.suppress(CourseError):  # another program's folder
                of = load_run(adapter.parents[1])[0].name
                found.append((adapter.stat().st_mtime, adapter.parents[1], of))
    if mine := [each for each in found if each[2] == profile.name]:
        run = max(mine)[1]
        where = "Google Drive" if DRIVE in run.parents else "this machine"
        return run, f"your run {run.name}, the newest finished one on {where}"
    recorded = ROOT / "notebooks" / "recorded"
    run = recorded / f"{profile.name}-seed0"
    run = run if run.exists() else recorded / "cpu-seed0"
    where = "Google Drive or " if DRIVE in folder.parents else ""
    line = f"the recorded run {run.name}: no finished run of {profile.name} is on "
    line += f"{where}this machine"
    if hosted() == "Colab" and not where:
        line += " (KEEP_ON_DRIVE is off)"
    if (model := load_run(run)[0].model) != profile.model:
        line += f"; its model is another, {model}"
    if others := sorted({of for *_, of in found} & PROFILES.keys() - {"smoke"}):
        line += f". To see one of {others[0]}, set GRPO_PROFILE={others[0]}"
    return run, line
