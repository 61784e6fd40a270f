"""Record what the solution of exercise 3.8 does: python .github/scripts/own_loop.py.

Runs notebook 03's own loop with five seeds and writes notebooks/recorded/own_loop.json:
the mean reward of each step, seconds and machine. With --dry it writes nothing.
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
SEEDS = range(5)


def own_loop() -> dict:
    """Return the names that the cells of section 3.15 and the solution define."""
    from tests.notebooks.cells import source

    there: dict = {}
    exec("import torch\nfrom helpers.profiles import *", there)
    exec("from helpers.models import load_model_and_tokenizer", there)
    exec("from helpers.evaluation import load_questions", there)
    exec("longest = 32", there)
    exec("_, tokenizer = load_model_and_tokenizer(PROFILES['cpu'].model)", there)
    for text in ("^GROUP, LENGTH", "^def score", "^def train_model"):
        exec(source("03", text), there)
    # Without the line that trains: seeds are chosen here.
    solution = source("03", "^def my_step.*\n    ids, mask", solutions=True)
    exec(solution.partition("\n\n\nmy_rewards")[0], there)
    return there


def main() -> None:
    """Run all seeds, printing each, and write the record."""
    from helpers.runs import machine, write_atomically

    there, rewards, seconds = own_loop(), [], []
    for seed in SEEDS:
        begun, printed = time.monotonic(), io.StringIO()
        with contextlib.redirect_stdout(printed):
            rewards.append(there["train_model"](there["my_step"], seed))
        seconds.append(round(time.monotonic() - begun, 1))
        curve = " ".join(f"{reward:.2f}" for reward in rewards[-1])
        print(f"seed {seed}: {curve}; {seconds[-1]} s", flush=True)
    record = {"date": datetime.date.today().isoformat(), "machine": machine()}
    record["threads"] = there["torch"].get_num_threads()
    record |= {"seconds": seconds, "rewards": rewards}
    if sys.argv[1:] != ["--dry"]:
        write_atomically(OUT, json.dumps(record) + "\n")


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    os.environ.setdefault("GRPO_PROFILE", "cpu")
    main()
