"""A task of your own: one Python file with problems and rewards, checked before a run.

The file must define

- `questions(split)`: a list of dicts or a datasets.Dataset, for "train" and for "test".
  Each has `question`, a text (or `prompt`, chat messages), `answer`, and whatever else
  the functions below want to know;
- `reward_funcs`: a list of functions with TRL's signature. Each takes `completions`
  (read them with `helpers.rewards.completion_text`), the columns of the data as lists,
  and `**kwargs`; it returns one number, or None, for each completion.

It may define

- `scores`: what counts in the evaluation, `{"strict": function}`, perhaps `format` and
  `lenient` too. Functions as above; a completion counts where one returns more than 0.
  Without it, `strict` is the first of `reward_funcs`;
- `system_prompt`: a text before each question;
- `examples`: pairs (question, reply). A prompt shows the first `num_examples` of them,
  the few-shot baseline up to 4. A row with a `prompt` of its own shows no other.

A run's folder keeps the file and its problems: `questions` is not called again.
"""

import contextlib
import shutil
import sys
import traceback
import types
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pyarrow
from datasets import Dataset
from pyarrow import parquet

from . import CourseError
from .errors import guard_reward
from .scoring import SCORES

SPLITS = ("train", "test")
# TRL hands these to reward functions itself, or takes them for something else.
TAKEN = {"prompts", "completion", "completions", "completion_ids", "image", "images"}
TAKEN |= {"environment", "environments", "trainer_state", "log_extra", "log_metric"}
# What a model may write, and a reward function has to survive.
ODD_TEXTS = ["", " \n", "18", "²", "٣", "\x00", "NaN", "{", '{"a": 1e999}', "<b>\r\n"]
ODD_TEXTS += ["</answer><answer>", "[" * 20_000, "a" * 20_000, "🙂" * 100]


@dataclass(frozen=True)
class Task:
    """What a task file defines; `rows` are its problems, a list of dicts a split."""

    rows: dict[str, list[dict]]
    reward_funcs: list
    scores: dict
    system_prompt: str
    examples: list


def is_task(dataset: str) -> bool:
    """Tell whether a profile's data set is a task file."""
    return dataset.endswith(".py")


def kept(path: Path, split: str) -> Path:
    """Return where a run's folder keeps the problems of its task file."""
    return path.with_name(f"{path.stem}.kept-{split}.parquet")


def load_task(file: str | Path) -> Task:
    """Return the task of a file; CourseError names the first mistake in it.

    Writes nothing. In a run's folder the problems are those that it keeps.
    """
    path = Path(file)
    found = execute(path)

    def demand(good: object, mistake: str) -> None:
        if not good:
            raise CourseError(f"{path.name}: {mistake}")

    for name in ("questions", "reward_funcs"):
        demand(name in found, f"there is no {name}; helpers/task.py says what it is")
    funcs, questions = found["reward_funcs"], found["questions"]
    demand(callable(questions), "questions is no function: def questions(split):")
    good = isinstance(funcs, list) and funcs and all(map(callable, funcs))
    demand(good, "reward_funcs is no list of functions")
    names = [getattr(func, "__name__", repr(func)) for func in funcs]
    demand(len(set(names)) == len(names), f"two rewards have one name: {names}")
    scores = found.get("scores", {"strict": funcs[0]})
    good = isinstance(scores, dict) and {"strict"} <= set(scores) <= {*SCORES}
    good = good and all(map(callable, scores.values()))
    demand(good, "scores is no dict {'strict': function, …}, of " + ", ".join(SCORES))
    system, examples = found.get("system_prompt", ""), found.get("examples", [])
    demand(isinstance(system, str), "system_prompt is no text")
    good = isinstance(examples, list) and all(
        isinstance(pair, tuple | list) and [*map(type, pair)] == [str, str]
        for pair in examples
    )
    demand(good, "examples is no list of pairs of texts, (question, reply)")
    task = Task({}, funcs, scores, system, examples)
    if kept(path, "test").exists():
        for split in SPLITS:
            task.rows[split] = parquet.read_table(kept(path, split)).to_pylist()
        return task
    for split in SPLITS:
        asking = f"questions({split!r})"
        with one_line(path, asking):
            task.rows[split] = checked_rows(questions(split), asking)
    train, test = ({asked(row) for row in task.rows[split]} for split in SPLITS)
    for what, texts in (("train", train), ("examples", {text for text, _ in examples})):
        both = sorted(test & texts)
        mistake = f"{len(both)} of {len(test)} test questions are in {what} too"
        demand(not both, f"{mistake}, such as {both[:1]}")
    count = len(ODD_TEXTS)
    some = [row | {"prompt": chat(task, row)} for row in task.rows["train"][:count]]
    some = (some * count)[: 2 * count]
    texts = ODD_TEXTS + [str(row["answer"]) for row in some[count:]]
    for func in dict.fromkeys([*funcs, *scores.values()]):
        with one_line(path, "a reward"):
            call(func, some, texts)
    return task


def execute(path: Path) -> dict:
    """Return what a file defines. It is not imported, which would leave a cache."""
    try:
        code = compile(path.read_text(encoding="utf-8"), str(path), "exec")
    except SyntaxError as error:
        raise CourseError(f"{path.name}, line {error.lineno}: {error.msg}") from error
    except (OSError, ValueError) as error:
        raise CourseError(f"the task {path} cannot be read: {error}") from error
    module = sys.modules["own_task"] = types.ModuleType("own_task")
    module.__file__ = str(path)
    with one_line(path, "the file"):
        exec(code, vars(module))
    return vars(module)


@contextlib.contextmanager
def one_line(path: Path, what: str):
    """Turn whatever a learner's code raises into a line that says where it did."""
    try:
        yield
    except CourseError as error:
        raise CourseError(f"{path.name}: {error}") from error
    except (Exception, SystemExit) as error:
        # Its last line in the file: deeper ones are a library's.
        frames = traceback.extract_tb(error.__traceback__)
        lines = [f", line {f.lineno}" for f in frames if f.filename == str(path)]
        where = f"{path.name}{lines[-1] if lines else ''}"
        raise CourseError(f"{where}: {what} raised {error!r}") from error


def asked(row: dict) -> str:
    """Return the question of a row: its own, or the last message of its prompt."""
    return row["question"] if "question" in row else row["prompt"][-1]["content"]


def chat(task: Task, row: dict, num_examples: int = 0) -> list[dict[str, str]]:
    """Return the messages of a row: its own prompt, or its question after examples."""
    if "prompt" in row:
        return row["prompt"]
    texts = [("system", task.system_prompt)] if task.system_prompt else []
    for question, reply in task.examples[:num_examples]:
        texts += [("user", question), ("assistant", reply)]
    texts.append(("user", row["question"]))
    return [{"role": role, "content": content} for role, content in texts]


def get_task_questions(
    file: str | Path, split: str, max_samples: int | None = None, num_examples: int = 0
) -> Dataset:
    """Return the problems of a task file as `data` returns others, `prompt` included.

    Raises CourseError for a split that is none, and as `load_task` does.
    """
    if split not in SPLITS:
        raise CourseError(f"split is {split!r}; a task has 'train' and 'test'")
    task = load_task(file)
    rows = [
        row | {"prompt": chat(task, row, num_examples), "question": asked(row)}
        for row in task.rows[split][:max_samples]
    ]
    if not rows:
        raise CourseError(f"{Path(file).name} {split}: no problems; one is needed")
    return Dataset.from_list(rows)


def score_task(file: str | Path, questions: Dataset, texts: list[str]) -> pd.DataFrame:
    """Return one row a completion with the booleans that the task's `scores` define."""
    scores = load_task(file).scores
    paid = {
        x: call(scores[x], questions.to_list(), texts) for x in SCORES if x in scores
    }
    return pd.DataFrame(paid).fillna(0) > 0


def keep_task(file: str | Path, run: Path, counts: dict[str, int]) -> None:
    """Copy a task file and its first problems, so many a split, into a run's folder."""
    task = load_task(file)
    copy = Path(shutil.copy(file, run))
    for split, count in counts.items():
        table = pyarrow.Table.from_pylist(task.rows[split][:count])
        parquet.write_table(table, kept(copy, split))


def checked_rows(found, asking: str) -> list[dict]:
    """Return the rows of a split; CourseError says what is wrong with one."""
    if not isinstance(found, list | Dataset) or not len(found):
        wanted = "wanted are rows, as a list of dicts or a datasets.Dataset"
        got = "nothing" if isinstance(found, list | Dataset) else type(found).__name__
        raise CourseError(f"{asking} returned {got}; {wanted}")
    rows = list(found)
    for number, row in enumerate(rows):
        if mistake := row_mistake(row, rows[0]):
            raise CourseError(f"{asking}, row {number}: {mistake}")
    try:
        stored = pyarrow.Table.from_pylist(rows).to_pylist()
    except (ValueError, TypeError, OverflowError) as error:  # pyarrow's among them
        reason = str(error).partition("\n")[0]
        raise CourseError(f"{asking} cannot be stored: {reason}") from error
    for number, (row, other) in enumerate(zip(rows, stored, strict=True)):
        for name in row:
            if row[name] != other[name]:
                change = f"{name} {row[name]!r:.60} would be {other[name]!r:.60}"
                way = "keep it as a text (json.dumps)"
                raise CourseError(f"{asking}, row {number}: {change}; {way}")
    return rows


def row_mistake(row: object, first: dict) -> str | None:
    """Return what is wrong with a row of problems, None where nothing is."""
    if not isinstance(row, dict):
        return f"{row!r:.60} is no dict"
    if row.keys() != first.keys():
        return f"columns {[*row]}, in row 0 {[*first]}"
    if not ("answer" in row and ("question" in row or "prompt" in row)):
        return f"columns {[*row]}; wanted are answer, and question or prompt"
    if names := sorted(TAKEN & row.keys()):
        return f"TRL takes the column {names[0]} for its own; name it otherwise"
    text = row.get("question", "-")
    if not (isinstance(text, str) and text.strip()):
        return f"question is {text!r:.60}, no text"
    said = row.get("prompt", [{"role": "user", "content": "-"}])
    good = isinstance(said, list) and said and all(isinstance(m, dict) for m in said)
    if not (good and all({"role", "content"} <= m.keys() for m in said)):
        return "prompt is no chat, [{'role': …, 'content': …}]; a text is a question"
    return None


def call(func, rows: list[dict], texts: list[str]) -> list:
    """Return what a function pays for a text each, called as TRL calls it."""
    chats = [[{"role": "assistant", "content": text}] for text in texts]
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    columns["prompts"] = columns.pop("prompt")
    columns |= {"trainer_state": None, "log_extra": None, "log_metric": None}
    paid = guard_reward(func)(completions=chats, **columns)
    if len(paid) != len(texts):
        name = getattr(func, "__name__", func)
        raise CourseError(f"{name} returned {len(paid)} rewards for {len(texts)} texts")
    return paid
