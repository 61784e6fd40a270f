"""The tests, a folder for each tier; here are the places that several of them read."""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
GSM8K = ROOT.parent / "shared" / "gsm8k"  # a full copy, where there is one
# The packages of Colab's image as Google publishes them, where there is a copy.
COLAB_LIST = Path(
    os.environ.get("GRPO_COLAB_LIST")
    or ROOT.parent / "shared" / "colab" / "pip-freeze.gpu.txt"
)
RECORDED = ROOT / "notebooks" / "recorded"
RUN = RECORDED / "cpu-seed0"
