"""What a run was worth: a model's answers to held-out problems, before and after."""

import hashlib
import json
import math
from contextlib import nullcontext
from pathlib import Path

import pandas as pd
from accelerate import PartialState
from accelerate.utils import gather_object
from datasets import Dataset

from . import CourseError
from .data import drop_long_prompts, get_arithmetic_questions, get_gsm8k_questions
from .errors import explained
from .generation import generate_completions
from .models import cache_folder
from .processes import is_main, number
from .profiles import MICRO_BATCH, Profile
from .prompts import SYSTEM_PROMPT, WORKED_EXAMPLES
from .runs import load_run, write_atomically
from .scoring import SCORES, score, summarize
from .task import get_task_questions, is_task, load_task, score_task

SPLITS = {"arithmetic": ("test", "transfer"), "gsm8k": ("test",)}  # a task: test
EVALUATION_SEED = 0
COLUMNS = {"before": "before", "few_shot": "few_shot", "after": "after"}
COLUMNS["difference"] = "after − before"


def load_questions(
    profile: Profile, split: str, seed: int, num_examples: int | None = None
) -> Dataset:
    """Return a profile's problems for a split, by default with its own examples."""
    counts = {"train": profile.num_train, "transfer": max(1, profile.num_eval // 2)}
    count = counts.get(split, profile.num_eval)
    examples = profile.num_examples if num_examples is None else num_examples
    if profile.dataset == "arithmetic":
        found = get_arithmetic_questions(split, count, seed, examples)
    elif profile.dataset == "gsm8k":
        found = get_gsm8k_questions(split, count, num_examples=examples)
    elif is_task(profile.dataset):
        found = get_task_questions(profile.dataset, split, count, examples)
    else:
        raise CourseError(f"no data set {profile.dataset!r}; use {' or '.join(SPLITS)}")
    rows = math.prod(profile.grpo[name] for name in MICRO_BATCH)
    groups = rows // profile.grpo["num_generations"]
    if split == "train" and len(found) < groups:  # TRL would do no step at all
        raise CourseError(f"{len(found)} problems to train on; a step takes {groups}")
    return found


def answer_questions(profile: Profile, model, tokenizer, questions) -> pd.DataFrame:
    """Return one row per problem: question, answer, completion, cut_off and scores.

    Several processes share the problems; each gets all rows.
    """
    prompts, size = questions["prompt"][:], profile.eval_batch_size
    mine = nullcontext(prompts)
    if number() > 1:
        mine = PartialState(profile.device == "cpu").split_between_processes(prompts)
    with mine as prompts:
        written = generate_completions(
            model, tokenizer, prompts, profile.eval_new_tokens, batch_size=size
        )
    written = gather_object(written)[: len(questions)] if number() > 1 else written
    frame = questions.to_pandas().filter(["question", "answer", "operation"])
    frame["completion"] = [text for ((text, _),) in written]
    frame["cut_off"] = [cut_off for ((_, cut_off),) in written]
    texts = frame["completion"].tolist()
    if is_task(profile.dataset):
        return frame.join(score_task(profile.dataset, questions, texts))
    return frame.join(score(texts, frame["answer"].tolist()))


def few_shot_baseline(
    profile: Profile, split: str, model, tokenizer, compute: bool
) -> pd.DataFrame | None:
    """Return the untrained model's rows with its best prompt of 0, 1, 2 or 4 examples.

    Best is by strict, on the problems themselves, which favours this baseline. The rows
    are kept in the cache folder; None if they are not there and `compute` is false.
    """
    asked = load_questions(profile, split, EVALUATION_SEED)["question"][:]
    key = [profile.model, profile.dtype, profile.eval_new_tokens, asked]
    key += [SYSTEM_PROMPT, WORKED_EXAMPLES]
    numbers = (0, 1, 2, 4)
    if is_task(profile.dataset):
        key.append(Path(profile.dataset).read_text(encoding="utf-8"))
        there = len(load_task(profile.dataset).examples)
        numbers = [number for number in numbers if number <= there]
    digest = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:16]
    path = cache_folder() / f"few-shot-{digest}.parquet"
    if path.exists():
        return pd.read_parquet(path)
    if not compute:
        return None
    path.parent.mkdir(parents=True, exist_ok=True)
    tried = []
    for examples in numbers:
        print(f"{split}: untrained, {examples} worked examples", flush=True)
        questions = load_questions(profile, split, EVALUATION_SEED, examples)
        frame = answer_questions(profile, model, tokenizer, questions)
        tried.append(frame.assign(examples=examples))
    best = max(tried, key=lambda frame: frame["strict"].mean())
    write_atomically(path, best.to_parquet(index=False))
    return best


def record(run: Path, split: str, which: str, frame: pd.DataFrame) -> None:
    """Put rows (of before, few_shot or after) into a run's evaluation.parquet.

    They replace former ones of their kind; evaluation.json is made from all rows alone.
    """
    profile, _ = load_run(run)
    path = run / "evaluation.parquet"
    frame = frame.assign(split=split, which=which, index=range(len(frame)))
    if path.exists():
        former = pd.read_parquet(path)
        same = (former["split"] == split) & (former["which"] == which)
        frame = pd.concat([former[~same], frame], ignore_index=True)
    write_atomically(path, frame.to_parquet(index=False))
    summary = {
        "dataset": Path(profile.dataset).stem,
        "seed": EVALUATION_SEED,
        "max_new_tokens": profile.eval_new_tokens,
        "completions": path.name,
        "splits": {name: summarize(rows) for name, rows in frame.groupby("split")},
    }
    write_atomically(run / "evaluation.json", json.dumps(summary, indent=1))


def evaluate_part(
    run: Path, split: str, which: str, model, tokenizer, compute: bool = True
) -> None:
    """Evaluate a run before or after training, or few_shot, if that is still to do.

    A few-shot baseline that is not kept yet is computed only with `compute`.
    """
    profile, _ = load_run(run)
    path = run / "evaluation.json"
    if path.exists() and which in json.loads(path.read_text())["splits"].get(split, {}):
        return
    with explained("eval_batch_size"):
        if which == "few_shot":
            frame = few_shot_baseline(profile, split, model, tokenizer, compute)
        else:
            print(f"{split}: {which} training", flush=True)
            asked = load_questions(profile, split, EVALUATION_SEED)
            asked = drop_long_prompts(asked, tokenizer, profile.max_prompt_length)
            frame = answer_questions(profile, model, tokenizer, asked)
    if frame is not None and is_main():
        record(run, split, which, frame)


def report(run: Path) -> str:
    """Return a run's evaluation as Markdown: a table a split, in percent."""
    summary = json.loads((run / "evaluation.json").read_text(encoding="utf-8"))
    profile, seed = load_run(run)
    text = (
        f"# {run.resolve().name}\n\n{profile.model} in {profile.dtype}, seed {seed}; "
        f"{summary['dataset']} problems; greedy, {summary['max_new_tokens']} tokens; "
        "95% intervals (Wilson; of the difference: paired bootstrap).\n"
    )
    for split, part in summary["splits"].items():
        shown = [name for name in COLUMNS if name in part]
        rows = [[" ", *(COLUMNS[name] for name in shown)], ["---"] * (len(shown) + 1)]
        for score_name in (*SCORES, "cut_off"):
            if score_name not in part[shown[0]]:  # a task need not define all
                continue
            cells = [_percent(part[name].get(score_name)) for name in shown]
            rows.append([score_name.replace("_", " "), *cells])
        text += f"\n**{split}**, {part['n']} problems, % of them:\n\n"
        text += "".join(f"| {' | '.join(row)} |\n" for row in rows)
        if "few_shot" in part:
            count = part["few_shot"]["examples"]
            examples = "1 worked example" if count == 1 else f"{count} worked examples"
            text += f"\nfew_shot: untrained, {examples} in the prompt.\n"
    return text


def _percent(figure: dict | float | None) -> str:
    # A rate or a difference with its interval, a share without one, or nothing.
    if not isinstance(figure, dict):
        return "" if figure is None else f"{100 * figure:.1f}"
    sign = "+" if "mean" in figure else ""
    middle, low, high = (f"{100 * value:{sign}.1f}" for value in figure.values())
    return f"{middle} ({low} to {high})"
