"""Copy finished runs into notebooks/recorded/: python .github/scripts/record.py RUN …

`record.py --renew` makes the runs of cpu and cpu_quick with seeds 0, 1 and 2 in runs/
first (where they are not there yet, or not finished), evaluates them, and executes all
notebooks at the end: whatever the repository shows of these profiles, by one command,
in an hour and a half (predicted), each on the kind of CPU that it is started on.

Keeps what plots, widgets and tests read: config.json, log.jsonl, evaluation.json,
evaluation.parquet, report.md with its figure, the adapter in fp16, and as group.json
one group of completions. Draws before_after.png from the runs of cpu, and loop.png.
"""

import json
import shutil
import subprocess
import sys
from itertools import starmap
from pathlib import Path

import pandas as pd
from safetensors.torch import load_file, save_file

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from helpers.evaluation import load_questions  # noqa: E402
from helpers.lab.loop import plot_loop, read_group  # noqa: E402
from helpers.lab.plots import plot_before_after  # noqa: E402
from helpers.runs import load_run  # noqa: E402

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
    (folder / "group.json").write_text(json.dumps(find_group(run), indent=1))
    return folder


def find_group(run: Path, right: int = 3) -> dict:
    """Return a run's first group in which so many completions were right.

    helpers.lab.loop draws it. Raises StopIteration if there is none.
    """
    steps = sorted((run / "completions").glob("*.parquet"))
    rows = pd.concat(map(pd.read_parquet, steps), ignore_index=True)
    rows["question"] = [prompt[-1]["content"] for prompt in rows["prompt"]]
    funcs = [name for name in rows if name.endswith("_func")]
    groups = rows.groupby(["step", "question"], sort=False)
    (step, question), group = next(
        (key, group)
        for key, group in groups
        if (group["correctness_reward_func"] > 0).sum() == right
    )
    problems = load_questions(load_run(run)[0], "train", load_run(run)[1]).to_pandas()
    answer = problems.set_index("question")["answer"][question]
    found = {"step": int(step), "question": question, "answer": str(answer)}
    found["completions"] = [reply[0]["content"] for reply in group["completion"]]
    found["rewards"] = group[funcs].sum(axis=1).tolist()
    return found | {"advantages": group["advantage"].round(4).tolist()}


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
    group = read_group(RECORDED / "cpu_quick-seed0")
    plot_loop(group).savefig(RECORDED / "loop.png", dpi=110)
    print("\n".join(str(folder.relative_to(ROOT)) for folder in folders))
    if renew:
        python(".github/scripts/notebooks.py", "run")
