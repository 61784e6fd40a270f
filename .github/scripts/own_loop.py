"""Record what the solution of exercise 3.8 does: python .github/scripts/own_loop.py.

Runs notebook 03's own loop with three seeds and writes
notebooks/recorded/own_loop.json: the mean reward of each step, which held-out problems
are right before and after, two of seed 0 in words, seconds and machine. With --dry it
writes nothing.
"""

import contextlib
import datetime
import io
import json
import os
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
OUT = ROOT / "notebooks" / "recorded" / "own_loop.json"
SEEDS, PROBLEMS = range(3), 100
CELLS = ("^def new_model", "^GROUP, LENGTH", "^def score", "^def pay")
CELLS += ("^def train_model", "^def examine")


def own_loop() -> dict:
    """Return the names that the cells of section 3.15 and the solution define."""
    from tests.notebooks.cells import source

    there: dict = {}
    exec("import torch\nfrom dataclasses import replace", there)
    exec("from helpers.profiles import *", there)
    exec("from helpers.rewards import REWARD_FUNCS", there)
    exec("from helpers.models import load_model_and_tokenizer", there)
    exec("from helpers.evaluation import load_questions", there)
    exec("longest = 32", there)
    exec("_, tokenizer = load_model_and_tokenizer(PROFILES['cpu'].model)", there)
    for text in CELLS:
        exec(source("03", text), there)
    # Without the line that trains: seeds are chosen here.
    solution = source("03", "^def my_step.*\n    ids, mask", solutions=True)
    exec(solution.partition("\n\n\ntrain_and_count")[0], there)
    return there


def in_words(before, after, row: int) -> dict:
    """Return one problem with its answer and both completions."""
    shown = {"problem": before["question"][row], "answer": before["answer"][row]}
    return shown | {
        "before": before["completion"][row],
        "after": after["completion"][row],
    }


def main() -> None:
    """Run all seeds, printing each, and write the record."""
    from helpers.runs import machine, write_atomically

    there, rewards = own_loop(), []
    right: dict = {name: {"after": []} for name in ("strict", "lenient")}
    seconds: dict = {"training": [], "examining": []}
    for seed in SEEDS:
        begun = time.monotonic()
        with contextlib.redirect_stdout(io.StringIO()):
            model, curve = there["train_model"](there["my_step"], seed)
        trained = time.monotonic()
        if seed == SEEDS[0]:
            with model.disable_adapter():
                before = there["examine"](model, PROBLEMS)
        after = there["examine"](model, PROBLEMS)
        seconds["training"].append(round(trained - begun, 1))
        seconds["examining"].append(round(time.monotonic() - trained, 1))
        rewards.append(curve)
        for name, each in right.items():
            each["before"] = before[name].astype(int).tolist()
            each["after"].append(after[name].astype(int).tolist())
        if seed == SEEDS[0]:
            shown = [in_words(before, after, row) for row in range(2)]
        print(f"seed {seed}:", " ".join(f"{reward:.2f}" for reward in curve), end="; ")
        for name, each in right.items():
            print(name, sum(each["before"]), "then", sum(each["after"][-1]), end="; ")
        print(f"{trained - begun:.0f} s", flush=True)
    record = {"date": datetime.date.today().isoformat(), "machine": machine()}
    record["threads"] = there["torch"].get_num_threads()
    record |= {"seconds": seconds, "rewards": rewards}
    record |= {"right": right, "shown": shown}
    if sys.argv[1:] != ["--dry"]:
        write_atomically(OUT, json.dumps(record) + "\n")


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    os.environ.setdefault("GRPO_PROFILE", "cpu")
    main()
