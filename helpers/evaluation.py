"""What a run was worth: three scores on held-out problems, each with its interval.

`format`: the strict layout reward is paid. `strict`: the answer tag holds the right
number. `lenient`: the last number in the text is right. A run keeps every completion in
evaluation.parquet; evaluation.json and the report are made from it alone.
"""

import hashlib
import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
from datasets import Dataset
from scipy import stats
from tqdm.auto import tqdm

from . import CourseError, rewards
from .data import drop_long_prompts, get_arithmetic_questions, get_gsm8k_questions
from .fast import generate
from .models import cache_folder
from .profiles import Profile
from .prompts import SYSTEM_PROMPT, WORKED_EXAMPLES
from .training import PACKAGES, load_run, read_log, write_atomically

SCORES = ("format", "strict", "lenient")
SPLITS = {"arithmetic": ("test", "transfer"), "gsm8k": ("test",)}
EVALUATION_SEED = 0
# A sign that follows a digit, a letter or a bracket is an operator: 19-7, not -7.
SIGN = r"(?:(?<![\w)])[+-])?"
NUMBER_IN_TEXT = re.compile(rewards.NUMBER.pattern.replace("[+-]?", SIGN, 1))


def load_questions(
    profile: Profile, split: str, seed: int, num_examples: int | None = None
) -> Dataset:
    """Return a profile's problems for a split; `transfer` has half as many as `test`.

    `num_examples` worked examples stand in each prompt, the profile's own by default.
    """
    counts = {"train": profile.num_train, "transfer": max(1, profile.num_eval // 2)}
    count = counts.get(split, profile.num_eval)
    examples = profile.num_examples if num_examples is None else num_examples
    if profile.dataset == "arithmetic":
        return get_arithmetic_questions(split, count, seed, examples)
    if profile.dataset == "gsm8k":
        return get_gsm8k_questions(split, count, num_examples=examples)
    raise CourseError(f"no data set {profile.dataset!r}; use {' or '.join(SPLITS)}")


def extract_last_number(text: str) -> str:
    """Return the last number in a text, without `$`, else `""`."""
    numbers = NUMBER_IN_TEXT.findall(text)
    return numbers[-1].replace("$", "") if numbers else ""


def complete(
    model, tokenizer, prompts: list, num_samples: int, temperature, max_new_tokens: int
) -> list[list[tuple[str, bool]]]:
    """Return (text, cut off at `max_new_tokens`) of `num_samples` completions of each
    chat prompt, drawn at a temperature; 0 is greedy.

    A model's own sampling defaults (Qwen2.5: a repetition penalty) play no part.
    """
    chat = {"add_generation_prompt": True, "return_dict": True}
    ids = tokenizer.apply_chat_template(prompts, **chat)["input_ids"]
    ends = model.generation_config.eos_token_id
    ends = ends if isinstance(ends, list) else [ends]
    model.eval()
    drawn = generate(model, ids, num_samples, max_new_tokens, temperature, ends)
    texts = tokenizer.batch_decode(drawn, skip_special_tokens=True)
    cut_off = [row[-1] not in ends for row in drawn]
    pairs = list(zip(texts, cut_off, strict=True))
    return [pairs[at : at + num_samples] for at in range(0, len(pairs), num_samples)]


def generate_greedy(
    model, tokenizer, prompts: list, max_new_tokens: int, batch_size: int = 32
) -> list[tuple[str, bool]]:
    """Return (text, cut off at `max_new_tokens`) of each chat prompt's completion."""
    answers = []
    with tqdm(total=len(prompts), desc="answering", unit="problem") as bar:
        for start in range(0, len(prompts), batch_size):
            chats = prompts[start : start + batch_size]
            found = complete(model, tokenizer, chats, 1, 0, max_new_tokens)
            answers += [pairs[0] for pairs in found]
            bar.update(len(chats))
    return answers


def sample_completions(
    model, tokenizer, prompts: list, num_samples: int, temperature, max_new_tokens: int
) -> list[list[str]]:
    """Return the texts of `complete` alone."""
    found = complete(
        model, tokenizer, prompts, num_samples, temperature, max_new_tokens
    )
    return [[text for text, _ in pairs] for pairs in found]


def score(texts: list[str], answers: list[str]) -> pd.DataFrame:
    """Return one row per completion with the booleans format, strict and lenient."""
    last = [extract_last_number(text) for text in texts]
    same = [rewards.same_answer(a, b) for a, b in zip(last, answers, strict=True)]
    laid_out = rewards.strict_format_reward_func(texts)
    correct = rewards.correctness_reward_func(texts, answers)
    columns = {"format": laid_out, "strict": correct, "lenient": same}
    return pd.DataFrame(columns).astype(bool)


def answer_questions(profile: Profile, model, tokenizer, questions) -> pd.DataFrame:
    """Return one row per problem: question, answer, completion, cut_off and scores."""
    limits = profile.eval_new_tokens, profile.eval_batch_size
    written = generate_greedy(model, tokenizer, questions["prompt"][:], *limits)
    texts, cut_off = map(list, zip(*written, strict=True))
    kept = [c for c in ("question", "answer", "operation") if c in questions.features]
    frame = questions.select_columns(kept).to_pandas()
    frame = frame.assign(completion=texts, cut_off=cut_off)
    return frame.join(score(texts, frame["answer"].tolist()))


def few_shot_baseline(
    profile: Profile, split: str, model, tokenizer, compute: bool
) -> pd.DataFrame | None:
    """Return the untrained model's rows with its best prompt of 0, 1, 2 or 4 examples.

    Best is by strict, on the problems themselves, which favours this baseline. The rows
    are kept in the cache folder, once for a model and problem set; None if they are not
    there and `compute` is false.
    """
    asked = load_questions(profile, split, EVALUATION_SEED)["question"][:]
    key = [profile.model, profile.dtype, profile.eval_new_tokens, asked]
    key = json.dumps([*key, SYSTEM_PROMPT, WORKED_EXAMPLES])
    digest = hashlib.sha256(key.encode()).hexdigest()[:16]
    path = cache_folder() / f"few-shot-{digest}.parquet"
    if not path.exists() and compute:
        tried = []
        for examples in (0, 1, 2, 4):
            print(f"{split}: untrained, {examples} worked examples", flush=True)
            questions = load_questions(profile, split, EVALUATION_SEED, examples)
            frame = answer_questions(profile, model, tokenizer, questions)
            tried.append(frame.assign(examples=examples))
        best = max(tried, key=lambda frame: frame["strict"].mean())
        write_atomically(path, best.to_parquet(index=False))
    return pd.read_parquet(path) if path.exists() else None


def wilson_interval(successes: int, n: int) -> dict[str, float]:
    """Return a rate with Wilson's 95% interval (low, high), as fractions of 1."""
    interval = stats.binomtest(int(successes), n).proportion_ci(method="wilson")
    low, high = float(interval.low), float(interval.high)
    return {"rate": float(successes) / n, "low": low, "high": high}


def paired_difference(before, after, seed: int = 0) -> dict[str, float]:
    """Return mean, low and high of after − before on the same problems.

    The 95% interval is the percentile bootstrap over problems (10,000 resamples).
    """
    change = np.asarray(after, float) - np.asarray(before, float)
    options = {"n_resamples": 10_000, "method": "percentile", "rng": seed}
    drawn = stats.bootstrap((change,), np.mean, **options).confidence_interval
    low, high = float(drawn.low), float(drawn.high)
    return {"mean": float(change.mean()), "low": low, "high": high}


def summarize(frame: pd.DataFrame) -> dict:
    """Return the rates, intervals and differences of one split's rows."""
    parts = {which: rows.sort_values("index") for which, rows in frame.groupby("which")}
    result = {"n": len(next(iter(parts.values())))}
    for which, rows in parts.items():
        rates = {name: wilson_interval(rows[name].sum(), len(rows)) for name in SCORES}
        result[which] = rates | {"cut_off": float(rows["cut_off"].mean())}
        if which == "few_shot":
            result[which]["examples"] = int(rows["examples"].iloc[0])
    if "before" in parts and "after" in parts:
        pair = parts["before"], parts["after"]
        result["difference"] = {
            name: paired_difference(*(rows[name] for rows in pair)) for name in SCORES
        }
    return result


def record(run: Path, split: str, which: str, frame: pd.DataFrame) -> None:
    """Put rows into a run's evaluation.parquet and renew its evaluation.json.

    `which` is before, after or few_shot; former rows of the same kind are replaced.
    """
    path, (profile, _) = run / "evaluation.parquet", load_run(run)
    frame = frame.assign(split=split, which=which, index=range(len(frame)))
    if path.exists():
        former = pd.read_parquet(path)
        same = (former["split"] == split) & (former["which"] == which)
        frame = pd.concat([former[~same], frame], ignore_index=True)
    write_atomically(path, frame.to_parquet(index=False))
    summary = {
        "dataset": profile.dataset,
        "seed": EVALUATION_SEED,
        "max_new_tokens": profile.eval_new_tokens,
        "completions": path.name,
        "splits": {name: summarize(rows) for name, rows in frame.groupby("split")},
    }
    write_atomically(run / "evaluation.json", json.dumps(summary, indent=1))


def evaluate_part(
    run: Path, split: str, which: str, model, tokenizer, compute: bool = True
) -> None:
    """Evaluate one part (before, after or few_shot) of a run if it is not there yet.

    A few-shot baseline that is not kept yet is computed only with `compute`.
    """
    path, (profile, _) = run / "evaluation.json", load_run(run)
    if path.exists() and which in json.loads(path.read_text())["splits"].get(split, {}):
        return
    if which == "few_shot":
        frame = few_shot_baseline(profile, split, model, tokenizer, compute)
    else:
        print(f"{split}: {which} training", flush=True)
        questions = load_questions(profile, split, EVALUATION_SEED)
        questions = drop_long_prompts(questions, tokenizer, profile.max_prompt_length)
        frame = answer_questions(profile, model, tokenizer, questions)
    if frame is not None:
        record(run, split, which, frame)


def report(run: Path) -> str:
    """Return a run's evaluation as Markdown: a table a split, in percent."""

    def percent(part: dict, middle: str, sign: str = "") -> str:
        shown = [f"{100 * part[key]:{sign}.1f}" for key in (middle, "low", "high")]
        return f"{shown[0]} ({shown[1]} to {shown[2]})"

    summary = json.loads((run / "evaluation.json").read_text(encoding="utf-8"))
    profile, seed = load_run(run)
    text = (
        f"# {run.resolve().name}\n\n{profile.model} in {profile.dtype}, seed {seed}; "
        f"{summary['dataset']} problems; greedy, {summary['max_new_tokens']} tokens; "
        "95% intervals (Wilson; of the difference: paired bootstrap).\n"
    )
    for split, part in summary["splits"].items():
        shown = [which for which in ("before", "few_shot", "after") if which in part]
        rows = {" ": shown, "---": ["---"] * len(shown)}
        for name in SCORES:
            rows[name] = [percent(part[which][name], "rate") for which in shown]
        rows["cut off"] = [f"{100 * part[which]['cut_off']:.1f}" for which in shown]
        if "difference" in part:
            change = part["difference"]
            change = [percent(change[name], "mean", "+") for name in SCORES]
            column = ["after − before", "---", *change, ""]
            for cells, cell in zip(rows.values(), column, strict=True):
                cells.append(cell)
        text += f"\n**{split}**, {part['n']} problems, % of them:\n\n"
        for name, cells in rows.items():
            text += f"| {name} | {' | '.join(cells)} |\n"
        if "few_shot" in part:
            count = part["few_shot"]["examples"]
            text += f"\nfew_shot: untrained, {count} worked examples in the prompt.\n"
    return text


def describe_run(run: Path) -> str:
    """Return a few lines on a run, to paste into a report: machine, seconds, scores."""
    config = json.loads((run / "config.json").read_text(encoding="utf-8"))
    made, profile, log = (
        config["machine"],
        config["profile"],
        pd.DataFrame(read_log(run)),
    )
    packages = ", ".join(f"{name} {made[name]}" for name in ("python", *PACKAGES))
    middle = log.filter(regex="^(step_time|seconds/.*|memory_gb)$").median()
    parts = [f"{name[8:]} {middle[name]:.1f}" for name in middle.index if "/" in name]
    lines = [
        f"{made['gpu'] or 'no GPU'}; {made['cpu']}, {made['cores']} cores",
        packages,
        f"profile {profile['name']}, {profile['model']} in {profile['dtype']}, "
        f"{len(log)} steps, seed {config['seed']}",
        f"seconds a step (median): {middle['step_time']:.1f}, of it {', '.join(parts)}",
        f"memory: {log['memory_gb'].max():.2f} GB at most",
    ]
    summary = run / "evaluation.json"
    splits = json.loads(summary.read_text())["splits"] if summary.exists() else {}
    for split, part in splits.items():
        for which in ("before", "after"):
            rates = [
                f"{s} {part[which][s]['rate']:.1%}" for s in SCORES if which in part
            ]
            if rates:
                lines.append(f"{split}, n = {part['n']}, {which}: {', '.join(rates)}")
    return "\n".join(lines)
