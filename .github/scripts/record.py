"""Copy finished runs into notebooks/recorded/: python .github/scripts/record.py RUN …

`record.py --renew` makes the runs of cpu and cpu_quick with seeds 0, 1 and 2 in runs/
first (where they are not there yet, or not finished), evaluates them, and executes all
notebooks at the end: whatever the repository shows of these profiles, by one command,
in an hour and a half (predicted), each on the kind of CPU that it is started on.

Keeps what plots, widgets and tests read: config.json, log.jsonl, evaluation.json,
evaluation.parquet, report.md with its figure, and the adapter in fp16. Draws
before_after.png from those of cpu.
"""

import shutil
import subprocess
import sys
from itertools import starmap
from pathlib import Path

from safetensors.torch import load_file, save_file

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from helpers.lab.plots import plot_before_after  # noqa: E402

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


def python(*arguments: str) -> None:
    """Run Python in the repository's folder; stop where it fails."""
    subprocess.run([sys.executable, *arguments], cwd=ROOT, check=True)


def make_run(profile: str, seed: int) -> Path:
    """Train with a seed, or go on, and evaluate; return the run's folder."""
    run = ROOT / "runs" / f"{profile}-seed{seed}"
    chosen = ["--profile", profile, "--seed", str(seed)]
    chosen = ["--resume"] if (run / "config.json").exists() else chosen
    if not (run / "report.md").exists():
        python("-m", "helpers", "train", *chosen, "--out", str(run))
    python("-m", "helpers", "evaluate", str(run), "--few-shot")
    return run


if __name__ == "__main__":
    renew = sys.argv[1:] == ["--renew"]
    pairs = [(name, seed) for name in ("cpu", "cpu_quick") for seed in range(3)]
    runs = starmap(make_run, pairs) if renew else map(Path, sys.argv[1:])
    folders = [record(run) for run in runs]
    cpu = sorted(RECORDED.glob("cpu-seed*"))
    plot_before_after(cpu).savefig(RECORDED / "before_after.png", dpi=110)
    print("\n".join(str(folder.relative_to(ROOT)) for folder in folders))
    if renew:
        python(".github/scripts/notebooks.py", "run")
