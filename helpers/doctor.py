"""Is this machine ready: versions, device, memory, disk, and the profile chosen."""

import shutil
import sys
from pathlib import Path

import psutil
import torch

from . import check_requirements
from .models import cache_folder
from .profiles import choose_profile
from .training import PACKAGES

MEMORY_GB, DISK_GB = 6, 2


def check_machine() -> tuple[list[str], list[str]]:
    """Return (findings, remedies); without a remedy the machine is ready.

    Raises CourseError if `GRPO_PROFILE` names no profile.
    """
    found, remedies = [f"Python {sys.version.split()[0]}"], []
    if not (3, 11) <= sys.version_info[:2] <= (3, 13):
        remedies.append("Use Python 3.11, 3.12 or 3.13.")
    for name, line, version, met in check_requirements():
        if name in PACKAGES or not met:
            found.append(f"{name} {version or 'is not installed'}")
        if not met:
            remedies.append(f"pip install '{line}', or -r requirements.txt")
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no CUDA GPU"
    found.append(f"{gpu}; {torch.get_num_threads()} CPU threads")
    memory = psutil.virtual_memory().available / 1e9
    found.append(f"{memory:.1f} GB of memory free")
    if memory < MEMORY_GB:
        remedies.append(f"Close other programs: a run wants {MEMORY_GB} GB of memory.")
    folder = cache_folder()
    disk = next(p for p in (folder, *folder.parents) if p.exists())
    free = shutil.disk_usage(disk).free / 1e9
    shown = str(folder).replace(str(Path.home()), "~", 1)
    found.append(f"{free:.1f} GB of disk free for {shown}")
    if free < DISK_GB:
        remedies.append(f"Free {DISK_GB} GB of disk, or set GRPO_CACHE_DIR elsewhere.")
    profile, reason = choose_profile()
    found.append(f"profile {profile.name}: {profile.purpose} ({reason})")
    return found, remedies
