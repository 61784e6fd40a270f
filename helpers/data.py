"""Problems to train and to test on: GSM8K, and one-step word problems made here.

Every function returns a `datasets.Dataset` with the columns `prompt` (chat messages),
`question`, `solution` (in GSM8K's form, ending in `#### 18`) and `answer` (gold, as
text); the made problems add `operation`, `template`, `a` and `b`.
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
TEMPLATES = """
+ A farmer has {a} sheep and buys {b} more. How many sheep does he have?
+ Mia read {a} pages on Monday and {b} on Tuesday. How many pages in total?
+ There are {a} boys and {b} girls in a choir. How many children sing in it?
+ Sam has {a} coins. His aunt gives him {b} coins. How many coins has he now?
+ A shop sold {a} cups in May and {b} in June. How many cups did it sell?
+ A bus carries {a} people and {b} more get on. How many people are on it?
+ A tree is {a} feet tall and grows {b} feet. How tall is it then?
- Ben had {a} cards and lost {b} of them. How many cards are left?
- A jar holds {a} sweets. Eva eats {b}. How many sweets remain?
- Lily has {a} dollars and spends {b}. How many dollars does she have left?
- There were {a} birds on a roof and {b} flew away. How many birds stayed?
- A book has {a} pages and Tim has read {b}. How many pages are left to read?
- A store had {a} lamps and sold {b}. How many lamps are still there?
- A tank held {a} litres and {b} leaked out. How many litres are left?
* There are {a} boxes with {b} pens in each. How many pens are there?
* A ticket costs {a} dollars. How many dollars do {b} tickets cost?
* Ida runs {a} miles every day. How many miles does she run in {b} days?
* A hall has {a} rows of {b} chairs. How many chairs are in the hall?
* Each of {a} children brings {b} apples. How many apples do they bring?
* A baker makes {a} pies an hour. How many pies does he make in {b} hours?
* One bag weighs {a} pounds. How many pounds do {b} such bags weigh?
/ {a} cookies are shared equally by {b} friends. How many does each get?
/ {a} eggs are packed in boxes of {b}. How many boxes are filled?
/ A ribbon of {a} inches is cut into {b} equal pieces. How long is each?
/ {b} identical toys cost {a} dollars. How many dollars does one toy cost?
/ A class of {a} forms teams of {b}. How many teams are there?
/ Paul plants {a} seeds in {b} equal rows. How many seeds are in a row?
/ A trip of {a} miles takes {b} hours at one speed. How many miles per hour?
"""
TRANSFER_TEMPLATES = """
+ A museum had {a} visitors before noon and {b} after. How many came that day?
+ Omar drove {a} km and then {b} km further. How far did he drive?
- Of {a} seats in a cinema, {b} are taken. How many seats are free?
- A candle of {a} mm burns down by {b} mm. How many mm of it are left?
* A week's rent is {a} dollars. What is the rent for {b} weeks in dollars?
* A printer prints {a} sheets a minute. How many sheets is that in {b} minutes?
/ {a} players split into {b} equal groups. How many players are in a group?
/ {a} roses make bunches of {b}. How many bunches can be made?
"""


def operands(operation: str, transfer: bool) -> list[tuple[int, int]]:
    """Return every pair (a, b) of an operation; the two ranges have none in common.

    Train and test: sums and products to 50, differences from at most 20, dividends to
    50. Transfer: sums and differences of 51 to 99, factors and quotients 11 to 19.
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
    lines = (TRANSFER_TEMPLATES if transfer else TEMPLATES).strip().splitlines()
    texts = [line[2:] for line in lines if line[0] == operation]
    every = [(text, a, b) for text in texts for a, b in operands(operation, transfer)]
    if not transfer:
        # The seed has no part in this: train of one seed never meets test of another.
        quarter = [(_digest("split", *problem)[0] < 64, problem) for problem in every]
        every = [problem for held, problem in quarter if held == (split == "test")]
    return sorted(every, key=lambda problem: _digest(seed, *problem))


def get_arithmetic_questions(
    split: str = "train", max_samples: int | None = None, seed: int = 0, num_examples=0
) -> Dataset:
    """Return one-step word problems with four operations, operands to 50.

    `test` has the templates of `train`, but no (template, numbers) pair of it;
    `transfer` has templates and operands that `train` never shows. The same seed gives
    the same rows on every machine. Raises CourseError for more than there are.
    """
    if split not in ("train", "test", "transfer"):
        raise CourseError(f"split is {split!r}; use 'train', 'test' or 'transfer'")
    pools = {operation: _problems(split, operation, seed) for operation in "+-*/"}
    most = min(len(p) * 20 // OPERATIONS.count(o) for o, p in pools.items())
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
    lines of `{"question": …, "answer": "… #### 18"}`. Raises CourseError with file and
    line for a bad row, and where the Hub does not answer.
    """
    if split not in ("train", "test"):
        raise CourseError(f"split is {split!r}; GSM8K has 'train' and 'test'")
    folder = folder or os.environ.get("GRPO_GSM8K_DIR")
    if folder:
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
    """Return the rows of a file in GSM8K's format; CourseError names a bad line."""
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
            raise CourseError(
                f'{path}, line {number}: expected {{"question": "…", "answer": '
                f'"… #### 18"}}, got {line.strip()[:60]!r}'
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
    """Return the rows whose prompt has at most `max_tokens` tokens; say how many went.

    Raises CourseError if none is left.
    """
    chats = dataset["prompt"][:]
    ids = tokenizer.apply_chat_template(
        chats, add_generation_prompt=True, return_dict=True
    )["input_ids"]
    kept = dataset.select([i for i, x in enumerate(ids) if len(x) <= max_tokens])
    if not len(kept):
        raise CourseError(f"every prompt is longer than {max_tokens} tokens")
    if len(kept) < len(dataset):
        dropped = f"{len(dataset) - len(kept)} of {len(dataset)} problems dropped"
        print(f"{dropped}: prompts longer than {max_tokens} tokens")
    return kept
