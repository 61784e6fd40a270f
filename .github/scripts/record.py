"""Copy finished runs into notebooks/recorded/: python .github/scripts/record.py RUN …

Keeps what plots, widgets and tests read: config.json, log.jsonl, evaluation.json,
evaluation.parquet, report.md with its figure, and the adapter in fp16. Draws
before_after.png from all of them.
"""

import json
import shutil
import sys
from pathlib import Path

from matplotlib.figure import Figure
from safetensors.torch import load_file, save_file

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from helpers.evaluation import SCORES  # noqa: E402
from helpers.training import read_log  # noqa: E402

RECORDED = ROOT / "notebooks" / "recorded"
FILES = ("config.json", "log.jsonl", "evaluation.json", "evaluation.parquet")
PARTS = {
    "before": ("#999999", "//"),
    "few_shot": ("#E69F00", ".."),
    "after": ("#0072B2", ""),
}


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


def draw(folders: list[Path]) -> Figure:
    """Return rewards over steps, and the scores on `test` before and after."""
    figure = Figure(figsize=(10, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    lines = ("-", "--", ":")
    summaries = []
    for folder, line in zip(folders, lines, strict=False):
        log = read_log(folder)
        seed = json.loads((folder / "config.json").read_text())["seed"]
        steps, rewards = [r["step"] for r in log], [r["reward"] for r in log]
        left.plot(steps, rewards, line, color="#0072B2", label=f"seed {seed}")
        summaries.append(json.loads((folder / "evaluation.json").read_text()))
    left.set(
        xlabel="step", ylabel="mean reward (of 4.0)", ylim=(0, 4), title="Training"
    )
    left.legend()
    parts = [summary["splits"]["test"] for summary in summaries]
    shown = [name for name in PARTS if all(name in part for part in parts)]
    labels = {
        "before": "untrained",
        "few_shot": "untrained, few-shot",
        "after": "trained",
    }
    width = 0.8 / (len(shown) * len(parts))
    for i, name in enumerate(shown):
        color, hatch = PARTS[name]
        for j, part in enumerate(parts):
            at = [
                x - 0.4 + (i * len(parts) + j + 0.5) * width for x in range(len(SCORES))
            ]
            rates = [100 * part[name][score]["rate"] for score in SCORES]
            low = [
                r - 100 * part[name][s]["low"]
                for r, s in zip(rates, SCORES, strict=True)
            ]
            high = [
                100 * part[name][s]["high"] - r
                for r, s in zip(rates, SCORES, strict=True)
            ]
            right.bar(
                at, rates, width, yerr=(low, high), color=color, hatch=hatch,
                edgecolor="white", ecolor="black", capsize=1.5,
                label=labels[name] if j == 0 else None,
            )  # fmt: skip
    right.set_xticks(range(len(SCORES)), SCORES)
    n = parts[0]["n"]
    right.set(ylabel="% of problems", ylim=(0, 105), title=f"{n} held-out problems")
    right.legend(fontsize="small")
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    return figure


if __name__ == "__main__":
    folders = [record(Path(name)) for name in sys.argv[1:]]
    draw(folders).savefig(RECORDED / "before_after.png", dpi=110)
    print("\n".join(str(folder.relative_to(ROOT)) for folder in folders))
