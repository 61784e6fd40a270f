"""Copy finished runs into notebooks/recorded/: python .github/scripts/record.py RUN …

`record.py --renew` makes the runs of each recipe below with seeds 0, 1 and 2 in runs/
first (where they are not there yet, or not finished), evaluates them, and executes all
notebooks at the end: whatever the repository shows of these profiles, by one command,
in an hour and a half (predicted), each on the kind of CPU that it is started on.
`record.py --renew own_task` does the same for one recipe, and executes no notebook.

Keeps what plots, widgets and tests read: config.json, log.jsonl, evaluation.json,
evaluation.parquet, report.md with its figure, a task's file; of the profiles' runs also
the adapter in fp16 and, as group.json, one group of completions. Draws before_after.png
and the pictures of the loop (loop.png, and those with the parts marked that a notebook
is about) where one of the runs is theirs. `record.py --loop` draws these alone.
"""

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
from safetensors.torch import load_file, save_file

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from helpers.evaluation import load_questions  # noqa: E402
from helpers.lab.loop import plot_loop, read_group  # noqa: E402
from helpers.lab.plots import plot_before_after  # noqa: E402
from helpers.profiles import PROFILES  # noqa: E402
from helpers.runs import load_run  # noqa: E402

RECORDED = ROOT / "notebooks" / "recorded"
FILES = ("config.json", "log.jsonl", "evaluation.json", "evaluation.parquet")
FILES += ("report.md", "rewards.png")
LOOP = RECORDED / "cpu_quick-seed0"  # whose group the pictures of the loop show
MARKED = {
    "03": ("rewards", "advantages", "update"),
    "08": ("completions", "update"),
}
OWN_TASK = ["--profile", "cpu_quick", "--task", "notebooks/my_task.py"]
OWN_TASK += ["--set", "num_examples=2", "--set", "max_prompt_length=256"]
RECIPES = {name: ["--profile", name] for name in ("cpu", "cpu_quick")}
RECIPES["own_task"] = OWN_TASK


def record(run: Path) -> Path:
    """Copy one run; return its folder."""
    folder = RECORDED / run.name
    (folder / "adapter").mkdir(parents=True, exist_ok=True)
    tasks = [path.name for path in run.glob("*.py")]
    for name in (*FILES, *tasks):
        shutil.copy(run / name, folder / name)
    if run.name.partition("-")[0] not in PROFILES:  # no notebook reads its adapter
        (folder / "adapter").rmdir()
        return folder
    name = "adapter/adapter_model.safetensors"
    half = {key: weight.half() for key, weight in load_file(run / name).items()}
    save_file(half, folder / name, metadata={"format": "pt"})
    shutil.copy(run / "adapter/adapter_config.json", folder / "adapter")
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


def draw_loops() -> None:
    """Draw loop.png, and for each notebook that shows it again loop-NN.png."""
    group = read_group(LOOP)
    plot_loop(group).savefig(RECORDED / "loop.png", dpi=110)
    for number, parts in MARKED.items():
        plot_loop(group, parts).savefig(RECORDED / f"loop-{number}.png", dpi=110)


def python(*arguments: str) -> None:
    """Run Python in the repository's folder; stop where it fails."""
    subprocess.run([sys.executable, *arguments], cwd=ROOT, check=True)


def make_run(recipe: str, seed: int, minutes: dict) -> Path:
    """Train with a seed, or go on, and evaluate; return the run's folder.

    Adds to `minutes` what `train` took, unless it only went on.
    """
    run = ROOT / "runs" / f"{recipe}-seed{seed}"
    chosen = [*RECIPES[recipe], "--seed", str(seed)]
    chosen = ["--resume"] if (run / "config.json").exists() else chosen
    if not (run / "report.md").exists():
        begun = time.monotonic()
        python("-m", "helpers", "train", *chosen, "--out", str(run))
        if chosen != ["--resume"]:
            took = round((time.monotonic() - begun) / 60, 1)
            minutes.setdefault(recipe, []).append(took)
    python("-m", "helpers", "evaluate", str(run), "--few-shot")
    return run


def note_minutes(minutes: dict) -> None:
    """Keep the minutes of those recipes whose three runs were all made just now."""
    path = RECORDED / "minutes.json"
    known = json.loads(path.read_text())
    known["minutes"] |= {name: took for name, took in minutes.items() if len(took) == 3}
    path.write_text(json.dumps(known, indent=1) + "\n")


if __name__ == "__main__":
    if sys.argv[1:] == ["--loop"]:
        sys.exit(draw_loops())
    renew, names = sys.argv[1:2] == ["--renew"], sys.argv[2:] or RECIPES
    if renew:
        minutes, seeds = {}, range(3)
        runs = [make_run(name, seed, minutes) for name in names for seed in seeds]
        folders = [record(run) for run in runs]
        note_minutes(minutes)
    else:
        folders = [record(Path(run)) for run in sys.argv[1:]]
    cpu = sorted(RECORDED.glob("cpu-seed*"))
    if set(folders) & set(cpu):
        plot_before_after(cpu).savefig(RECORDED / "before_after.png", dpi=110)
    if LOOP in folders:
        draw_loops()
    print("\n".join(str(folder.relative_to(ROOT)) for folder in folders))
    if renew and not sys.argv[2:]:
        python(".github/scripts/notebooks.py", "run")
