"""A task file: each mistake in it is one line, a good one works from end to end."""

import json
import shutil

import pandas as pd
import pytest
from datasets import Dataset

from helpers import CourseError, evaluation, runs
from helpers.__main__ import main
from helpers.profiles import PROFILES, differences, override, with_task
from helpers.task import ODD_TEXTS, call, get_task_questions, load_task, score_task
from tests.engine.test_command_line import error_of

# A good file; each case below breaks it in one place.
GOOD = '''\
"""Say a word again."""
from helpers.rewards import completion_text

system_prompt = "Repeat the word."
examples = [("Say: dog", "dog"), ("Say: ant", "ant")]


def questions(split):
    words = {"train": ["cat", "cow", "fox", "hen"], "test": ["pig", "rat"]}[split]
    return [{"question": f"Say: {word}", "answer": word} for word in words]


def correct(completions, answer, **kwargs):
    pairs = zip(completions, answer, strict=True)
    return [float(completion_text(c).strip() == gold) for c, gold in pairs]


def length(completions, **kwargs):
    return [min(len(completion_text(c)), 20) / 100 for c in completions]


reward_funcs = [correct, length]
'''
ROW = '{"question": f"Say: {word}", "answer": word}'
PAYS = "return [float(completion_text(c).strip() == gold) for c, gold in pairs]"
# What is replaced by what, and the line that is said then.
BROKEN = {
    "no Python": (
        "reward_funcs = [",
        "reward_funcs = ([",
        "say.py, line 22: '(' was never closed",
    ),
    "an import that is not there": (
        '"""Say a word again."""',
        "import no_such_package",
        "say.py, line 1: the file raised ModuleNotFoundError(\"No module named 'no_",
    ),
    "no questions": (
        "def questions",
        "def problems",
        "say.py: there is no questions; helpers/task.py says what it is",
    ),
    "no rewards": (
        "reward_funcs =",
        "rewards =",
        "say.py: there is no reward_funcs; helpers/task.py says what it is",
    ),
    "questions called": (
        "reward_funcs =",
        "questions = questions('train')\nreward_funcs =",
        "say.py: questions is no function: def questions(split):",
    ),
    "rewards called": (
        "[correct, length]",
        "[correct, 1.0]",
        "say.py: reward_funcs is no list of functions",
    ),
    "no reward": (
        "[correct, length]",
        "[]",
        "say.py: reward_funcs is no list of functions",
    ),
    "a reward twice": (
        "[correct, length]",
        "[correct, correct]",
        "say.py: two rewards have one name: ['correct', 'correct']",
    ),
    "questions raise": (
        '["pig", "rat"]}[split]',
        '["pig", "rat"]}[split + "ing"]',
        "say.py, line 9: questions('train') raised KeyError('training')",
    ),
    "a split is empty": (
        '["pig", "rat"]',
        "[]",
        "say.py: questions('test') returned nothing; wanted are rows",
    ),
    "no rows": (
        f"return [{ROW} for word in words]",
        "return dict.fromkeys(words)",
        "say.py: questions('train') returned dict; wanted are rows, as a list",
    ),
    "a row that is no dict": (
        ROW,
        "word",
        "say.py: questions('train'), row 0: 'cat' is no dict",
    ),
    "no answer": (
        ', "answer": word',
        "",
        "row 0: columns ['question']; wanted are answer, and question or prompt",
    ),
    "columns that differ": (
        ROW,
        '{"question": word, "answer": word} | ({"x": 1} if word == "fox" else {})',
        "row 2: columns ['question', 'answer', 'x'], in row 0 ['question', 'answer']",
    ),
    "an empty question": (
        'f"Say: {word}"',
        '""',
        "say.py: questions('train'), row 0: question is '', no text",
    ),
    "a prompt that is a text": (
        '"question": f"Say: {word}"',
        '"prompt": word',
        "row 0: prompt is no chat, [{'role': …, 'content': …}]; a text is a question",
    ),
    "a column of TRL's": (
        ROW,
        ROW[:-1] + ', "images": 1}',
        "row 0: TRL takes the column images for its own; name it otherwise",
    ),
    "a column that would change": (
        '"answer": word',
        '"answer": {word: 1}',
        "row 0: answer {'cat': 1} would be {'cat': 1, 'cow': None, 'fox': None",
    ),
    "a column of two types": (
        '"answer": word',
        '"answer": 1 if word == "fox" else word',
        "say.py: questions('train') cannot be stored: ",
    ),
    "train in test": (
        '["pig", "rat"]',
        '["pig", "fox"]',
        "say.py: 1 of 2 test questions are in train too, such as ['Say: fox']",
    ),
    "an example in test": (
        '("Say: ant", "ant")',
        '("Say: rat", "rat")',
        "say.py: 1 of 2 test questions are in examples too, such as ['Say: rat']",
    ),
    "examples that are no pairs": (
        '("Say: ant", "ant")',
        '"Say: ant"',
        "say.py: examples is no list of pairs of texts, (question, reply)",
    ),
    "a reward that raises on an odd text": (
        "min(len(completion_text(c)), 20) / 100",
        "1 / len(completion_text(c))",
        "say.py: reward function length raised ZeroDivisionError('division by zero')",
    ),
    "one reward for all": (
        PAYS,
        "return [1.0]",
        "say.py: correct returned 1 rewards for 28 texts",
    ),
    "a reward that is no number": (
        PAYS,
        "return [completion_text(c) for c in completions]",
        "say.py: reward function correct returned '', not a finite number",
    ),
    "a reward that is infinite": (
        PAYS,
        'return [float("inf") for c in completions]',
        "say.py: reward function correct returned inf, not a finite number",
    ),
    "a reward without **kwargs": (
        "def length(completions, **kwargs)",
        "def length(completions)",
        'say.py: reward function length raised TypeError("length() got an unexpected',
    ),
    "scores of other names": (
        "reward_funcs =",
        'scores = {"right": correct}\nreward_funcs =',
        "say.py: scores is no dict {'strict': function, …}, of format, strict, lenient",
    ),
    "a score that raises": (
        "reward_funcs =",
        'scores = {"strict": correct, "format": lambda **kw: 1 / 0}\nreward_funcs =',
        "say.py: reward function <lambda> raised ZeroDivisionError",
    ),
    "no text before the question": (
        '"Repeat the word."',
        "None",
        "say.py: system_prompt is no text",
    ),
}


def write(folder, *change):
    """Write the good file, with a text in it replaced; return its path."""
    assert not change or GOOD.count(change[0]) == 1
    (folder / "say.py").write_text(GOOD.replace(*change) if change else GOOD)
    return folder / "say.py"


def everything(folder) -> dict:
    """What lies in a folder, and what stands in it."""
    paths = folder.rglob("*")
    return {p: p.read_bytes() if p.is_file() else None for p in paths}


@pytest.fixture
def at_work(tmp_path, monkeypatch):
    """A folder where a learner works, so that a run would land in it."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "work"


@pytest.mark.parametrize("case", BROKEN)
def test_a_mistake_is_one_line_and_nothing_is_written(case, capsys, at_work):
    *change, says = BROKEN[case]
    file = write(at_work, *change)
    before = everything(at_work)
    line = error_of(capsys, "train", "--profile", "smoke", "--task", file)
    assert says in line
    assert everything(at_work) == before


def test_a_file_that_is_none_is_one_line(capsys, at_work):
    train = ["train", "--profile", "smoke", "--task"]
    (at_work / "folder.py").mkdir()
    (at_work / "bytes.py").write_bytes(b"\xff\xfe = 1")
    before = everything(at_work)
    line = error_of(capsys, *train, "none.py")
    assert "the task none.py cannot be read: [Errno 2] No such file" in line
    assert "the task folder.py cannot be read: " in error_of(
        capsys, *train, "folder.py"
    )
    assert "bytes.py cannot be read: 'utf-8' codec" in error_of(
        capsys, *train, "bytes.py"
    )
    line = error_of(capsys, *train, "say.txt")
    assert "the task say.txt is no Python file (.py)" in line
    line = error_of(
        capsys, *train, write(at_work), "--set", "num_eval=-2", "--set", "num_train=0"
    )
    assert "say.py train: no problems; one is needed" in line
    line = error_of(capsys, *train, at_work / "say.py", "--set", "num_train=1")
    assert "1 problems to train on; a step takes 2" in line
    (at_work / "say.py").unlink()
    assert everything(at_work) == before


def small(tiny_model, folder) -> list[str]:
    """A command that trains the tiny model on the good file."""
    settings = [f"model={tiny_model}", "eval_new_tokens=4", "max_completion_length=4"]
    chosen = [word for setting in settings for word in ("--set", setting)]
    train = ["train", "--profile", "smoke", *chosen, "--out", str(folder / "run")]
    return [*train, "--task", str(folder / "say.py")]


def test_a_task_is_trained_resumed_evaluated_and_examined(
    tiny_model, at_work, capsys, monkeypatch
):
    monkeypatch.setenv("GRPO_CACHE_DIR", str(at_work / "cache"))
    file, run = write(at_work), at_work / "run"
    assert main([*small(tiny_model, at_work), "--max-minutes", "0"]) == 0
    assert "and saved. Go on:" in capsys.readouterr().out
    assert [row["step"] for row in runs.read_log(run)] == [1]
    file.unlink()  # the run does without it, in another place
    run = run.rename(at_work / "elsewhere")
    assert main(["train", "--resume", "--out", str(run)]) == 0
    out = capsys.readouterr().out
    assert "profile smoke-say" in out and "; say problems; greedy, 4 tokens" in out
    log = runs.read_log(run)
    assert [row["step"] for row in log] == [1, 2]
    names = {key for key in log[0] if key.startswith("rewards/")}
    assert names == {
        f"rewards/{name}/{what}"
        for name in ("correct", "length")
        for what in ("mean", "std")
    }
    assert main(["evaluate", str(run), "--few-shot"]) == 0
    out = capsys.readouterr().out
    assert [n for n in range(5) if f"untrained, {n} worked examples" in out] == [
        0,
        1,
        2,
    ]
    summary = json.loads((run / "evaluation.json").read_text())
    part = summary["splits"]["test"]
    assert (summary["dataset"], list(summary["splits"])) == ("say", ["test"])
    assert part["n"] == 2
    # Only what the task counts: nothing is made up for format and lenient.
    assert part["after"].keys() == {"strict", "cut_off"}
    assert part["difference"].keys() == {"strict"}
    rows = pd.read_parquet(run / "evaluation.parquet")
    assert set(rows["question"]) == {"Say: pig", "Say: rat"}
    assert "| strict |" in evaluation.report(run)
    assert "| lenient |" not in evaluation.report(run)
    assert main(["doctor", str(run)]) in (0, 1)
    said = capsys.readouterr().out
    assert "alive: 2 steps" in said or "the last" in said
    kept = json.loads((run / "config.json").read_text())["profile"]
    assert (kept["dataset"], kept["rewards"]) == ("say.py", "task")


def test_a_run_keeps_its_task_where_the_file_changes(tiny_model, at_work):
    profile = with_task(PROFILES["smoke"], write(at_work))
    run = runs.open_run(at_work / "runs", profile, 0)
    found, _ = runs.load_run(run)
    assert differences(found, profile) == []
    assert runs.open_run(at_work / "runs", profile, 0) == run  # goes on with it
    write(at_work, '"pig"', '"ape"')
    assert differences(found, profile) == ["dataset"]
    asked = get_task_questions(found.dataset, "test")["question"][:]
    assert asked == ["Say: pig", "Say: rat"]
    asked = get_task_questions(profile.dataset, "test")["question"][:]
    assert asked == ["Say: ape", "Say: rat"]
    runs.update_profile(run, override(found, ["eval_batch_size=2"]))
    moved = shutil.copytree(run, at_work / "moved")
    assert runs.load_run(moved)[0].dataset == str(moved / "say.py")


def test_a_run_keeps_as_many_problems_as_it_uses(at_work):
    file = write(at_work)
    profile = with_task(override(PROFILES["smoke"], ["num_train=3"]), file)
    runs.create_run(at_work / "run", profile, 0)
    assert [
        len(load_task(at_work / "run/say.py").rows[s]) for s in ("train", "test")
    ] == [
        3,
        2,
    ]


def test_prompts_show_the_system_prompt_and_examples(at_work):
    file = write(at_work)
    prompt = get_task_questions(file, "test", 1, num_examples=1)["prompt"][0]
    assert prompt == [
        {"role": "system", "content": "Repeat the word."},
        {"role": "user", "content": "Say: dog"},
        {"role": "assistant", "content": "dog"},
        {"role": "user", "content": "Say: pig"},
    ]
    assert len(get_task_questions(file, "test", num_examples=9)["prompt"][0]) == 6
    with pytest.raises(CourseError, match="split is 'transfer'; a task has 'train'"):
        get_task_questions(file, "transfer")


def test_a_prompt_of_its_own_is_taken_as_it_is(at_work):
    chat = '[{"role": "user", "content": word}]'
    file = write(at_work, '"question": f"Say: {word}"', f'"prompt": {chat}')
    row = get_task_questions(file, "test", num_examples=2)[0]
    assert row["prompt"] == [{"role": "user", "content": "pig"}]
    assert (row["question"], row["answer"]) == ("pig", "pig")


def test_a_data_set_does_as_a_list_does(at_work):
    rows = f"[{ROW} for word in words]"
    file = write(at_work, f"return {rows}", f"return Dataset.from_list({rows})")
    file.write_text("from datasets import Dataset\n" + file.read_text())
    assert load_task(file).rows["test"][0] == {"question": "Say: pig", "answer": "pig"}
    assert isinstance(get_task_questions(file, "test"), Dataset)


def test_scores_are_what_the_task_counts(at_work):
    scores = 'scores = {"strict": correct, "lenient": lambda **kw: [None, -1, 0.2]}'
    file = write(at_work, "reward_funcs =", f"{scores}\nreward_funcs =")
    with pytest.raises(CourseError, match="<lambda> returned 3 rewards for 28 texts"):
        load_task(file)
    runs.create_run(at_work / "run", with_task(PROFILES["smoke"], write(at_work)), 0)
    (at_work / "run/say.py").write_text(GOOD + scores)
    questions = Dataset.from_list([{"answer": w, "prompt": []} for w in "abc"])
    frame = score_task(at_work / "run/say.py", questions, ["a", "a", "c"])
    assert frame["strict"].tolist() == [True, False, True]
    assert frame["lenient"].tolist() == [False, False, True]
    assert list(frame) == ["strict", "lenient"]


def test_functions_are_called_as_trl_calls_them():
    seen = {}

    def reward(prompts, completions, trainer_state, log_metric, **kwargs):
        seen.update(kwargs, prompts=prompts)
        return [0.0] * len(completions)

    prompt = [{"role": "user", "content": "q"}]
    call(reward, [{"prompt": prompt, "answer": "1", "x": 2}], ["text"])
    assert seen == {"answer": ["1"], "x": [2], "prompts": [prompt], "log_extra": None}
    assert len(ODD_TEXTS) == 14
