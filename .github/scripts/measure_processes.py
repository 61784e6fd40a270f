"""Measure a step on one and on two processes: measure_processes.py, for notebook 09.

Writes notebooks/recorded/two_processes/measured.json: the seconds of each step's parts
for 32 completions on one process with one thread, with two threads, and on two
processes with one thread each; for 16 and 8 completions on one process with one thread;
and the seconds that adding up the adapter's gradients takes. All completions have 48
tokens and random rewards, so each step has as much to do. Takes some eight minutes on
two cores, which nothing else should use.
"""

import datetime
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

FOLDER = ROOT / "notebooks" / "recorded" / "two_processes"
STEPS, ROUNDS = 4, 1  # the first step of each is left out: it warms up
CASES = [(1, 1, 32), (2, 1, 32), (1, 2, 32), (1, 1, 16), (1, 1, 8)]
CUT = [
    "dtype='fp32'",
    f"max_steps={STEPS}",
    "save_steps=100",
    "max_completion_length=48",
]


def random_reward(completions, **kwargs) -> list[float]:
    """Make every completion's advantage differ from 0: none is left out of a step."""
    return [random.random() for _ in completions]


def work(run: Path, completions: int) -> None:
    """Do the steps in this process; the main one writes what they took."""
    import torch

    from helpers import runs, training
    from helpers.evaluation import load_questions
    from helpers.models import load_model_and_tokenizer
    from helpers.pace import speeds
    from helpers.processes import is_main, number
    from helpers.profiles import PROFILES, override

    settings = [*CUT, f"per_device_train_batch_size={completions}"]
    profile = override(PROFILES["cpu_quick"], settings)
    gflops = {"gflops": speeds()["fp32"]}
    if is_main():
        runs.create_run(run, profile, 0)
    pair = load_model_and_tokenizer(profile.model, profile.dtype)
    trainer = training.build_trainer(
        profile,
        run,
        *pair,
        load_questions(profile, "train", 0),
        reward_funcs=[random_reward],
        generation_kwargs={"min_new_tokens": 48},
    )
    assert trainer.obstacle is None
    training.train_or_resume(trainer, run)
    found = gflops | {"machine": runs.machine()}
    if number() > 1:
        trained = [p for p in trainer.model.parameters() if p.requires_grad]
        found["all_reduce"] = {}
        for size in (1, sum(p.numel() for p in trained)):
            numbers, spent = torch.ones(size), []
            for _ in range(30):
                begun = time.perf_counter()
                torch.distributed.all_reduce(numbers.fill_(1))
                spent.append(time.perf_counter() - begun)
            found["all_reduce"][4 * size] = sorted(spent)[15]  # bytes: median seconds
    if is_main():
        (run / "found.json").write_text(json.dumps(found))


def measure(processes: int, threads: int, completions: int, scratch: Path) -> dict:
    """Start one case; return its steps and what else it found."""
    run = Path(tempfile.mkdtemp(dir=scratch)) / "run"
    launcher = ["-m", "torch.distributed.run", "--standalone"]
    launcher += [f"--nproc-per-node={processes}"]
    command = [sys.executable, *launcher * (processes > 1), __file__]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "TQDM_DISABLE": "1"}
    words = [*command, str(run), str(completions)]
    subprocess.run(words, env=environment, check=True, cwd=ROOT)
    found, last, steps = json.loads((run / "found.json").read_text()), None, []
    for line in (run / "log.jsonl").read_text().splitlines():
        row = json.loads(line)
        if last:
            parts = ("generation", "forward", "backward")
            step = {part: round(row[f"seconds/{part}"], 4) for part in parts}
            step |= {"whole": round(row["time"] - last, 4), "tokens": row["num_tokens"]}
            steps.append(step)
        last = row["time"]
    case = {"processes": processes, "threads": threads, "completions": completions}
    return {**case, "steps": steps, **found}


def main() -> None:
    """Measure all cases, round by round, and write the file."""
    cases = []
    with tempfile.TemporaryDirectory() as scratch:
        for _ in range(ROUNDS):
            for case in CASES:
                cases.append(measure(*case, Path(scratch)))
                whole = [step["whole"] for step in cases[-1]["steps"]]
                print(*case, *whole, flush=True)
    machine = cases[0]["machine"]
    for case in cases:
        del case["machine"]
    made = {"date": datetime.date.today().isoformat(), "machine": machine}
    made |= {"settings": ["profile cpu_quick", *CUT], "cases": cases}
    FOLDER.mkdir(parents=True, exist_ok=True)
    (FOLDER / "measured.json").write_text(json.dumps(made, indent=1) + "\n")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        work(Path(sys.argv[1]), int(sys.argv[2]))
    else:
        main()
