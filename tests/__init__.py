"""The tests, a folder for each tier; here are the places that several of them read."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
GSM8K = ROOT.parent / "shared" / "gsm8k"  # a full copy, where there is one
RECORDED = ROOT / "notebooks" / "recorded"
RUN = RECORDED / "cpu-seed0"
