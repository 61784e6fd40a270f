"""Make the experiments of notebook 07 anew: python .github/scripts/experiments.py NAME

Without NAME all of experiments.toml, one after the other, each seed. What is there
already is left alone; `--again` makes it anew. A run that was stopped goes on.

Each is a run like any other (helpers.profiles, training, evaluation), made in
runs/experiments/; what plots and tests read is kept in notebooks/recorded/experiments/:
config.json, a short log.jsonl, evaluation.json with a figure a problem, and a few
texts. `base_rate` and `untrained` are no runs: samples and answers before training.
"""

import argparse
import dataclasses
import json
import shutil
import sys
import time
from pathlib import Path

import pandas as pd

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from helpers import (  # noqa: E402
    CourseError,
    data,
    evaluation,
    models,
    pace,
    profiles,
    rewards,
    runs,
    training,
)
from helpers.generation import generate_completions  # noqa: E402
from helpers.lab import bonus  # noqa: E402
from helpers.lab.experiments import RECORDED, TABLE, profile_of  # noqa: E402
from helpers.scoring import SCORES  # noqa: E402

KEPT = (
    "step", "loss", "grad_norm", "learning_rate", "reward", "reward_std",
    "frac_reward_zero_std", "entropy", "completions/mean_length",
    "completions/clipped_ratio", "step_time",
)  # fmt: skip
TEXTS = 4  # texts kept of the first and the last step, and of the held-out problems


def reward_funcs(name: str) -> list | None:
    """Return the reward functions that an experiment names, None for the profile's."""
    names = TABLE["runs"][name].get("rewards")
    return names and [getattr(rewards, n, None) or getattr(bonus, n) for n in names]


def training_questions(name: str, profile: profiles.Profile, seed: int):
    """Return the problems that an experiment trains on."""
    questions = evaluation.load_questions(profile, "train", seed)
    wanted = TABLE["runs"][name].get("operations")
    if not wanted:
        return questions
    signs = questions["operation"]
    return questions.select([i for i, sign in enumerate(signs) if sign in wanted])


def held_out(profile: profiles.Profile, split: str):
    """Return the first problems of a split, as many as the table says."""
    count = TABLE["held_out"][split]
    times = 2 if split == "transfer" else 1  # a profile takes half as many there
    asked = dataclasses.replace(profile, num_eval=times * count)
    return evaluation.load_questions(asked, split, evaluation.EVALUATION_SEED)


def today() -> str:
    """Return the date, as year, month and day."""
    return time.strftime("%Y-%m-%d")


def write(path: Path, content: dict) -> None:
    """Write JSON as a whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(content, indent=1, ensure_ascii=False)
    runs.write_atomically(path, text + "\n")


def figures(profile: profiles.Profile, model, tokenizer) -> dict:
    """Return each split's scores, a digit a problem, and its first few texts."""
    found = {}
    for split in TABLE["held_out"]:
        questions = held_out(profile, split)
        frame = evaluation.answer_questions(profile, model, tokenizer, questions)
        digits = {
            score: "".join(map(str, frame[score].astype(int)))
            for score in (*SCORES, "cut_off")
        }
        found[split] = {"n": len(frame), **digits}
        found[split]["operations"] = "".join(frame["operation"])
        shown = frame[["question", "answer", "completion"]][:TEXTS]
        found[split]["texts"] = shown.to_dict("records")
    return found


def make_untrained(examples: int, out: Path, changes: list[str]) -> Path:
    """Score the model before training with a prompt of so many worked examples."""
    path = out / "untrained" / f"{examples}_examples.json"
    if not path.exists():
        profile = models.settle_dtype(profile_of("base", changes))
        profile = dataclasses.replace(profile, num_examples=examples)
        loaded = models.load_model_and_tokenizer(profile.model, profile.dtype)
        found = {"date": today(), "machine": runs.machine(), "dtype": profile.dtype}
        write(path, found | {"splits": figures(profile, *loaded)})
    return path


def make_base_rate(examples: int, out: Path, changes: list[str]) -> Path:
    """Sample the untrained model's completions, as a training step would."""
    path = out / "base_rate" / f"{examples}_examples.json"
    if path.exists():
        return path
    wanted = TABLE["base_rate"]
    profile = models.settle_dtype(profile_of("base", changes))
    profile = dataclasses.replace(
        profile, num_examples=examples, num_train=wanted["problems"]
    )
    model, tokenizer = models.load_model_and_tokenizer(profile.model, profile.dtype)
    questions = evaluation.load_questions(profile, "train", 0)
    tokens, warmth = (
        profile.grpo[key] for key in ("max_completion_length", "temperature")
    )
    training.torch.manual_seed(0)
    drawn = generate_completions(
        model,
        tokenizer,
        questions["prompt"][:],
        tokens,
        num_samples=wanted["samples"],
        temperature=warmth,
        batch_size=2,
    )
    problems = []
    for row, texts in zip(questions, drawn, strict=True):
        texts = [text for text, _ in texts]
        gold = [row["answer"]] * len(texts)
        paid = [func(texts, answer=gold) for func in profile.reward_funcs]
        right = "".join("1" if points else "0" for points in paid[0])
        total = [round(sum(points), 3) for points in zip(*paid, strict=True)]
        problems.append(
            {"operation": row["operation"], "right": right, "points": total}
        )
    kept = {"examples": examples, "temperature": warmth, "tokens": tokens}
    kept |= {"dtype": profile.dtype, "date": today(), "machine": runs.machine()}
    write(path, kept | {"problems": problems})
    return path


def groups_of(run: Path, step: int) -> list[list[int | None]]:
    """Return for each group of a step: how many are right, how many sums of points.

    None in place of the first where correctness is not among the rewards.
    """
    name = f"completions_{step:05d}.parquet"
    frame = pd.read_parquet(run / "completions" / name)
    paid = frame.filter(like="reward_func")
    frame["sum"] = paid.sum(axis=1).round(6)
    known = "correctness_reward_func" in frame
    found = []
    for _, rows in frame.groupby(frame["prompt"].map(str), sort=False):
        right = int((rows["correctness_reward_func"] > 0).sum()) if known else None
        found.append([right, int(rows["sum"].nunique())])
    return found


def texts_of(run: Path, step: int) -> list[dict]:
    """Return a few completions of a step with what each reward function paid."""
    name = f"completions_{step:05d}.parquet"
    frame = pd.read_parquet(run / "completions" / name)
    rows = frame.iloc[:: max(1, len(frame) // TEXTS)][:TEXTS]
    paid = rows.filter(like="reward_func")
    found = []
    for at, row in rows.iterrows():
        completion = row["completion"]
        text = completion if isinstance(completion, str) else completion[0]["content"]
        prompt = row["prompt"]
        asked = prompt if isinstance(prompt, str) else prompt[-1]["content"]
        points = paid.loc[at].round(3).to_dict()
        found.append({"question": asked, "completion": text, "points": points})
    return found


def keep(run: Path, folder: Path, scores: dict, examples: int) -> None:
    """Copy what plots, tables and tests read of a finished run; its scores last."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(run / "config.json", folder)
    lines = []
    log = runs.read_log(run)
    for row in log:
        names = [key for key in row if key in KEPT]
        names += [k for k in row if k.startswith("rewards/") and k.endswith("/mean")]
        short = {
            key: float(f"{row[key]:.6g}") if isinstance(row[key], float) else row[key]
            for key in names
        }
        short["groups"] = groups_of(run, row["step"])
        lines.append(json.dumps(short))
    runs.write_atomically(folder / "log.jsonl", "\n".join(lines) + "\n")
    first, last = log[0]["step"], log[-1]["step"]
    write(folder / "texts.json", {str(s): texts_of(run, s) for s in (first, last)})
    write(folder / "evaluation.json", {"examples": examples, "splits": scores})


def make(name: str, seed: int, out: Path, work: Path, changes: list[str]) -> Path:
    """Train an experiment with a seed, evaluate it and keep it; return its folder."""
    folder, run = out / f"{name}-seed{seed}", work / f"{name}-seed{seed}"
    profile = profile_of(name, changes)
    make_untrained(profile.num_examples, out, changes)
    if (folder / "evaluation.json").exists():
        return folder
    begun = time.monotonic()
    if (run / "config.json").exists():
        profile, seed = runs.load_run(run)
    else:
        profile = models.settle_dtype(profile)
        runs.create_run(run, profile, seed)
    if predicted := pace.predicted_minutes(profile):
        print(f"{name}, seed {seed}: training {predicted['training']:.1f} minutes here")
    if not (run / "adapter" / "adapter_config.json").exists():
        model, tokenizer = models.load_model_and_tokenizer(profile.model, profile.dtype)
        questions = training_questions(name, profile, seed)
        questions = data.drop_long_prompts(
            questions, tokenizer, profile.max_prompt_length
        )
        settings = {"seed": seed, "reward_funcs": reward_funcs(name)}
        trainer = training.build_trainer(
            profile, run, model, tokenizer, questions, **settings
        )
        stopped = training.train_or_resume(trainer, run)
        if stopped:
            raise CourseError(f"{name}-seed{seed}: {stopped}; the same command goes on")
        del trainer, model
        training.free_memory()
    model, tokenizer = models.load_trained(profile, run / "adapter")
    keep(run, folder, figures(profile, model, tokenizer), profile.num_examples)
    print(f"{folder}: {(time.monotonic() - begun) / 60:.1f} minutes", flush=True)
    return folder


def main(arguments: list[str] | None = None) -> int:
    """Make what the command line names; return 0, 2 for an error."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    known = ["untrained", "base_rate", *TABLE["runs"]]
    parser.add_argument("name", nargs="*", help=", ".join(known))
    parser.add_argument("--seed", type=int, action="append", help="one of the seeds")
    parser.add_argument("--again", action="store_true", help="also what is there")
    parser.add_argument("--out", type=Path, default=RECORDED, help="what is kept")
    text = "where runs are made"
    parser.add_argument(
        "--work", type=Path, default=ROOT / "runs/experiments", help=text
    )
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE")
    args = parser.parse_args(arguments)
    try:
        for name in args.name or known:
            if name not in known:
                raise CourseError(f"no experiment {name!r}; use {', '.join(known)}")
            for seed in args.seed or TABLE["seeds"]:
                if args.again and name in TABLE["runs"]:
                    for parent in (args.out, args.work):
                        shutil.rmtree(parent / f"{name}-seed{seed}", ignore_errors=True)
                if name in TABLE["runs"]:
                    make(name, seed, args.out, args.work, args.set)
            for examples in TABLE["base_rate"]["examples"]:
                if name == "untrained":
                    make_untrained(examples, args.out, args.set)
                if name == "base_rate":
                    make_base_rate(examples, args.out, args.set)
    except CourseError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
