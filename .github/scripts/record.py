"""Copy finished runs into notebooks/recorded/: python .github/scripts/record.py RUN …

Keeps what plots, widgets and tests read: config.json, log.jsonl, evaluation.json,
evaluation.parquet, report.md with its figure, and the adapter in fp16. Draws
before_after.png from all of them.
"""

import shutil
import sys
from pathlib import Path

from safetensors.torch import load_file, save_file

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from helpers.plots import plot_before_after  # noqa: E402

RECORDED = ROOT / "notebooks" / "recorded"
FILES = ("config.json", "log.jsonl", "evaluation.json", "evaluation.parquet")


def record(run: Path) -> Path:
    """Copy one run; return its folder."""
    folder = RECORDED / run.name
    (folder / "adapter").mkdir(parents=True, exist_ok=True)
    for name in (*FILES, "report.md", "rewards.png", "adapter/adapter_config.json"):
        shutil.copy(run / name, folder / name)
    name = "adapter/adapter_model.safetensors"
    half = {key: weight.half() for key, weight in load_file(run / name).items()}
    save_file(half, folder / name, metadata={"format": "pt"})
    return folder


if __name__ == "__main__":
    folders = [record(Path(name)) for name in sys.argv[1:]]
    plot_before_after(folders).savefig(RECORDED / "before_after.png", dpi=110)
    print("\n".join(str(folder.relative_to(ROOT)) for folder in folders))
