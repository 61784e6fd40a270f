"""Problems to train and to test on: GSM8K, and one-step word problems made here.

A data set has the columns `prompt` (chat messages), `question`, `solution` (in GSM8K's
form, ending in `#### 18`) and `answer` (gold, as text); the made problems add
`operation`, `template`, `a` and `b`.
"""

import hashlib
import json
import os
from pathlib import Path

from datasets import Dataset, load_dataset

from . import CourseError
from .prompts import build_prompt, extract_hash_answer

# Operations of 20 problems in a row. One guess for all is right for at most 40%.
OPERATIONS = "+*-+*/*+-*+-+*+*/+*-"
FILE = Path(__file__).with_name("word_problems.json")
TEMPLATES = json.loads(FILE.read_text(encoding="utf-8"))


def operands(operation: str, transfer: bool) -> list[tuple[int, int]]:
    """Return every pair (a, b) of an operation; the two ranges have none in common.

    Train and test: sums, products and dividends to 50, differences from at most 20.
    Transfer: sums and differences of 51 to 99, factors and quotients 11 to 19.
    """
    low, high = (51, 99) if transfer else (2, 50)
    pairs = [(a, b) for a in range(low, high + 1) for b in range(low, high + 1)]
    if operation == "+":
        return [(a, b) for a, b in pairs if transfer or a + b <= 50]
    if operation == "-":
        return [(a, b) for a, b in pairs if a - b >= 2 and (transfer or a <= 20)]
    first = range(11, 20) if transfer else range(2, 11)
    factors = [(a, b) for a in first for b in range(2, 11) if transfer or a * b <= 50]
    return factors if operation == "*" else [(a * b, b) for a, b in factors]


def _digest(*parts: object) -> bytes:
    # Unlike random's methods, a hash gives the same order in every Python version.
    return hashlib.sha256("|".join(map(str, parts)).encode()).digest()


def _problems(split: str, operation: str, seed: int) -> list[tuple[str, int, int]]:
    transfer = split == "transfer"
    texts = TEMPLATES["transfer" if transfer else "train"][operation]
    every = [(text, a, b) for text in texts for a, b in operands(operation, transfer)]
    if not transfer:
        # The seed has no part in this: train of one seed never meets test of another.
        quarter = {problem for problem in every if _digest("split", *problem)[0] < 64}
        every = quarter if split == "test" else set(every) - quarter
    return sorted(every, key=lambda problem: _digest(seed, *problem))


def get_arithmetic_questions(
    split: str = "train", max_samples: int | None = None, seed: int = 0, num_examples=0
) -> Dataset:
    """Return one-step word problems, the same for a seed on every machine.

    `test` has the templates of `train`, but no pair (template, numbers); `transfer` has
    templates and operands of its own. Raises CourseError for more than there are.
    """
    if split not in ("train", "test", "transfer"):
        raise CourseError(f"split is {split!r}; use 'train', 'test' or 'transfer'")
    pools = {sign: _problems(split, sign, seed) for sign in "+-*/"}
    most = min(len(pools[sign]) * 20 // OPERATIONS.count(sign) for sign in pools)
    count = most if max_samples is None else max_samples
    if count > most:
        raise CourseError(f"{split} has {most} problems; {count} were asked for")
    rows = []
    for index in range(count):
        sign = OPERATIONS[index % 20]
        template, a, b = pools[sign].pop()
        answer = {"+": a + b, "-": a - b, "*": a * b, "/": a // b}[sign]
        solution = f"{a} {sign} {b} = <<{a}{sign}{b}={answer}>>{answer}\n#### {answer}"
        row = {"question": template.format(a=a, b=b), "answer": solution}
        rows.append(row | {"operation": sign, "template": template, "a": a, "b": b})
    return _to_prompts(rows, f"arithmetic {split}", num_examples)


def get_gsm8k_questions(
    split: str = "train", max_samples: int | None = None, folder=None, num_examples=0
) -> Dataset:
    """Return GSM8K problems, from JSONL files where there are some, else from the Hub.

    `folder` (or the variable `GRPO_GSM8K_DIR`) holds `train.jsonl` and `test.jsonl`,
    lines as in `read_jsonl`. Raises CourseError where the Hub does not answer.
    """
    if split not in ("train", "test"):
        raise CourseError(f"split is {split!r}; GSM8K has 'train' and 'test'")
    if folder := folder or os.environ.get("GRPO_GSM8K_DIR"):
        rows = read_jsonl(Path(folder) / f"{split}.jsonl")
    else:
        try:
            rows = list(load_dataset("openai/gsm8k", "main", split=split))
        except Exception as error:  # the Hub client raises a dozen unrelated types
            raise CourseError(
                f"GSM8K could not be fetched from the Hugging Face Hub ({error}). Set "
                "GRPO_GSM8K_DIR to a folder with train.jsonl and test.jsonl."
            ) from error
    return _to_prompts(rows[:max_samples], f"GSM8K {split}", num_examples)


def read_jsonl(path: Path) -> list[dict[str, str]]:
    """Return a file's rows `{"question": "…", "answer": "… #### 18"}`, all checked."""
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            good = row["question"].strip() and extract_hash_answer(row["answer"])
        except (ValueError, KeyError, TypeError, AttributeError):
            good = False
        if not good:
            wanted = '{"question": "…", "answer": "… #### 18"}'
            found = line.strip()[:60]
            raise CourseError(
                f"{path}, line {number}: expected {wanted}, got {found!r}"
            )
        rows.append(row)
    return rows


def _to_prompts(rows: list[dict], source: str, num_examples: int) -> Dataset:
    if not rows:
        raise CourseError(f"{source}: no problems; at least one is needed")
    for row in rows:
        row["prompt"] = build_prompt(row["question"], num_examples)
        row["solution"] = row["answer"]
        row["answer"] = extract_hash_answer(row["solution"])
    return Dataset.from_list(rows)


def drop_long_prompts(dataset: Dataset, tokenizer, max_tokens: int) -> Dataset:
    """Return the rows whose prompt has at most so many tokens; CourseError for none."""
    chat = {"add_generation_prompt": True, "return_dict": True}
    ids = tokenizer.apply_chat_template(dataset["prompt"][:], **chat)["input_ids"]
    kept = dataset.select([i for i, x in enumerate(ids) if len(x) <= max_tokens])
    if not len(kept):
        raise CourseError(f"every prompt is longer than {max_tokens} tokens")
    if len(kept) < len(dataset):
        dropped = f"{len(dataset) - len(kept)} of {len(dataset)} problems dropped"
        print(f"{dropped}: prompts longer than {max_tokens} tokens")
    return kept
