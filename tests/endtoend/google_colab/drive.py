"""Google Drive: a folder that `GRPO_TEST_DRIVE` names, wherever it is to be mounted."""

import os
from pathlib import Path

from helpers.lab import colab


def mount(mountpoint: str, force_remount: bool = False, timeout_ms: int = 120_000):
    """Make MyDrive appear; the course looks for it there from now on."""
    colab.DRIVE = Path(os.environ["GRPO_TEST_DRIVE"])
    (colab.DRIVE / "MyDrive").mkdir(parents=True, exist_ok=True)
    print(f"Mounted at {mountpoint}")
