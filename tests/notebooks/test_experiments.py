"""The experiments of 07: complete, recomputed from their logs, made by one command."""

import importlib.util
import json
import shlex
import tomllib

import nbformat
import numpy as np
import pytest

from helpers import CourseError
from helpers.lab import bonus, experiments
from helpers.profiles import differences
from helpers.runs import load_run, read_log
from tests import RECORDED, ROOT
from tests.notebooks.cells import cells, source

FOLDER = RECORDED / "experiments"
TABLE = tomllib.loads((FOLDER / "experiments.toml").read_text(encoding="utf-8"))
RUNS = [(name, seed) for name in TABLE["runs"] for seed in TABLE["seeds"]]
spec = importlib.util.spec_from_file_location("made", ROOT / experiments.SCRIPT)
made = importlib.util.module_from_spec(spec)
spec.loader.exec_module(made)


def folder(name: str, seed: int):
    """The folder of a recorded run."""
    return FOLDER / f"{name}-seed{seed}"


def rates(name: str, score: str, splits=("test",)) -> list[float]:
    """The rates of an experiment's runs, counted from the digits of evaluation.json."""
    found = []
    for seed in TABLE["seeds"]:
        text = (folder(name, seed) / "evaluation.json").read_text(encoding="utf-8")
        kept = json.loads(text)["splits"]
        digits = "".join(kept[split][score] for split in splits)
        found.append(digits.count("1") / len(digits))
    return found


@pytest.mark.parametrize("name,seed", RUNS)
def test_a_run_is_the_one_that_the_table_asks_for(name, seed):
    run = folder(name, seed)
    profile, own_seed = load_run(run)
    assert own_seed == seed
    assert differences(profile, experiments.profile_of(name)) == []
    steps = [row["step"] for row in read_log(run)]
    assert steps == list(range(1, profile.grpo["max_steps"] + 1))
    paid = [func.__name__ for func in made.reward_funcs(name) or profile.reward_funcs]
    logged = {key for key in read_log(run)[0] if key.startswith("rewards/")}
    assert logged == {f"rewards/{each}/mean" for each in paid}
    sizes = {len(row["groups"]) for row in read_log(run)}
    assert sizes == {32 // profile.grpo["num_generations"]}


@pytest.mark.parametrize("name,seed", RUNS)
def test_its_figures_are_those_of_the_held_out_problems(name, seed):
    text = (folder(name, seed) / "evaluation.json").read_text(encoding="utf-8")
    kept = json.loads(text)
    profile = experiments.profile_of(name)
    assert kept["examples"] == profile.num_examples
    for split, count in TABLE["held_out"].items():
        part = kept["splits"][split]
        asked = made.held_out(profile, split)
        assert part["n"] == len(asked) == count
        assert part["operations"] == "".join(asked["operation"])
        for score in ("format", "strict", "lenient", "cut_off"):
            assert len(part[score]) == count and set(part[score]) <= {"0", "1"}
        # What is right in the tag is not always the last number, but has a tag.
        for place, shown in enumerate(part["texts"]):
            assert shown["question"] == asked["question"][place]
            right = made.rewards.correctness_reward_func(
                [shown["completion"]], [shown["answer"]]
            )
            assert bool(right[0]) == (part["strict"][place] == "1")


def test_all_of_it_is_small():
    assert len(TABLE["seeds"]) >= 3
    files = [path for path in FOLDER.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 3e6
    assert {path.parent.name for path in FOLDER.glob("*-seed*/log.jsonl")} == {
        f"{name}-seed{seed}" for name, seed in RUNS
    }


@pytest.mark.parametrize("name", TABLE["runs"])
@pytest.mark.parametrize("key", experiments.CURVES)
def test_a_curve_is_drawn_from_the_logs(name, key):
    """Each line and band of `draw`, against the lines of log.jsonl."""
    logs = [
        [json.loads(line) for line in (folder(name, seed) / "log.jsonl").open()]
        for seed in TABLE["seeds"]
    ]
    size = load_run(folder(name, 0))[0].grpo["num_generations"]

    def value(row):
        if key == "teaching":
            return sum(sums > 1 for _, sums in row["groups"]) / len(row["groups"])
        if key == "right":
            counts = [right for right, _ in row["groups"]]
            return np.nan if None in counts else sum(counts) / size / len(counts)
        return row.get(key, np.nan)

    wanted = np.array([[value(row) for row in log] for log in logs], dtype=float)
    (axes,) = experiments.draw([name], [key]).axes
    *thin, thick = axes.lines
    assert len(thin) == len(logs)
    for line, row in zip(thin, wanted, strict=True):
        np.testing.assert_allclose(line.get_ydata(), row)
        assert line.get_xdata().tolist() == [row["step"] for row in logs[0]]
    np.testing.assert_allclose(thick.get_ydata(), wanted.mean(0))
    (band,) = axes.collections
    corners = (
        band.get_paths()[0].vertices if len(band.get_paths()) else np.empty((0, 2))
    )
    for step, column in enumerate(wanted.T, 1):
        if not np.isnan(column).any():
            at = corners[corners[:, 0] == step, 1]
            assert at.min() == pytest.approx(column.min())
            assert at.max() == pytest.approx(column.max())


def test_what_trl_counts_as_equal_groups_is_what_teaches_not():
    for name, seed in RUNS:
        for row in read_log(folder(name, seed)):
            teaching = np.mean([sums > 1 for _, sums in row["groups"]])
            assert teaching == pytest.approx(1 - row["frac_reward_zero_std"]), row


@pytest.mark.parametrize("name", TABLE["runs"])
@pytest.mark.parametrize("splits", [("test",), ("test", "transfer")])
def test_a_row_of_a_table_is_counted_from_the_digits(name, splits):
    for score in ("format", "strict", "lenient"):
        row = experiments.table([name], score, splits=splits).iloc[0]
        after = rates(name, score, splits)
        assert row["after, by seed"] == ", ".join(f"{100 * r:.1f}" for r in after)
        examples = experiments.profile_of(name).num_examples
        path = FOLDER / "untrained" / f"{examples}_examples.json"
        kept = json.loads(path.read_text(encoding="utf-8"))["splits"]
        digits = "".join(kept[split][score] for split in splits)
        before = digits.count("1") / len(digits)
        assert row["before"] == f"{100 * before:.1f}"
        gain = 100 * (sum(after) / len(after) - before)
        shown = float(row["gain (95% interval)"].split(" ")[0])
        assert shown == pytest.approx(gain, abs=0.0501)


def test_compare_is_clear_only_where_both_conditions_hold():
    def runs(*shares):
        return np.stack([(np.arange(200) < 200 * share) * 1.0 for share in shares])

    low, high = runs(0.2, 0.22, 0.24), runs(0.5, 0.52, 0.54)
    found = experiments.compare(high, low)
    assert found["clear"] and found["mean"] == pytest.approx(0.3)
    assert found["low"] == pytest.approx(
        0.3 - 1.96 * (0.3 * 0.7 / 200) ** 0.5, abs=0.03
    )
    assert experiments.compare(low, high)["clear"]
    assert not experiments.compare(high, runs(0.2, 0.2, 0.51))["clear"]  # seeds overlap
    near = runs(0.5, 0.5, 0.5)
    swapped = 1 - near[:, ::-1] * 1.0
    swapped[:, 0] = 1 - swapped[:, 0]
    assert not experiments.compare(near, swapped)["clear"]  # one problem of 200


def test_the_thresholds_stand_in_the_table_and_are_checked_against_the_runs():
    wanted = TABLE["hacking"]
    assert wanted["hacked_gain_below"] == 0.05 and wanted["patched_gain_above"] == 0
    assert sum(TABLE["held_out"].values()) >= wanted["problems"] == 400
    both = ("test", "transfer")
    for name in ("hacked", "patched"):
        before, after = experiments.scores(name, splits=both)
        assert len(before) == 400
        for seed, each in enumerate(after):
            gain = experiments.paired_difference(before, each)
            log = read_log(folder(name, seed))
            rewards = [row["reward"] for row in log]
            if name == "hacked":
                assert np.mean(rewards[-3:]) > np.mean(rewards[:3])
                assert gain["high"] < wanted["hacked_gain_below"]
            else:
                assert gain["low"] > wanted["patched_gain_above"]


def test_what_the_notebook_writes_or_imports_is_what_the_runs_were_made_with():
    there = {}
    exec(source("07", r"^def length_bonus_reward_func"), there)
    exec(source("07", r"import reasoning_bonus_reward_func"), there)
    for name in ("length_bonus", "reasoning_bonus"):
        inline = there[f"{name}_reward_func"]
        course = getattr(bonus, f"{name}_reward_func")
        texts = ["", "12", "a" * 300, "<reasoning>\nx", "<reasoning></reasoning>"]
        texts += [f"<reasoning>\n{'so ' * n}\n</reasoning>\n<answer>\n1\n</answer>"
                  for n in (0, 1, 5, 9, 80)]  # fmt: skip
        texts += [texts[-1].split("<answer>")[0], texts[-1] + "12", texts[-1][::-1]]
        assert inline(texts) == course(texts)
        assert len(set(course(texts))) > 3
        chats = [[{"role": "assistant", "content": text}] for text in texts]
        assert inline(chats) == course(chats)


def test_the_notebook_compares_as_the_helpers_do():
    there = {"experiments": experiments}
    exec(source("07", r"^def compare"), there)
    rng = np.random.default_rng(0)
    for _ in range(5):
        one, other = (rng.random((3, 60)) < rng.random() for _ in range(2))
        one, other = one * 1.0, other * 1.0
        assert there["compare"](one, other) == experiments.compare(one, other)


def test_the_printed_command_makes_the_run(tiny_model, tmp_path, monkeypatch, capsys):
    """The whole way on a tiny random model: the table's settings, then smaller ones."""
    monkeypatch.setitem(made.TABLE, "held_out", {"test": 4, "transfer": 2})
    monkeypatch.setitem(made.TABLE, "base_rate", {**TABLE["base_rate"], "problems": 2,
                        "samples": 4, "examples": [0]})  # fmt: skip
    small = [f"model={tiny_model}", "max_steps=2", "num_examples=0", "num_eval=4"]
    small += ["num_generations=2", "per_device_train_batch_size=4"]
    small += ["max_completion_length=4", "eval_new_tokens=4"]
    printed = experiments.command("harder", 1)
    assert printed == (
        "python .github/scripts/experiments.py harder --seed 1 --out runs/again"
    )
    arguments = [*shlex.split(printed)[2:-1], str(tmp_path / "again")]
    arguments += ["--work", str(tmp_path / "work")]
    for setting in small:
        arguments += ["--set", setting]
    assert made.main(arguments) == 0
    run = tmp_path / "again" / "harder-seed1"
    names = {path.name for path in run.iterdir()}
    assert names == {"config.json", "evaluation.json", "log.jsonl", "texts.json"}
    assert names == {path.name for path in folder("harder", 1).iterdir()}
    log = read_log(run)
    assert [row["step"] for row in log] == [1, 2]
    assert [len(row["groups"]) for row in log] == [2, 2]
    assert read_log(folder("harder", 1))[0].keys() == log[0].keys()
    asked = [t["question"] for t in json.loads((run / "texts.json").read_text())["1"]]
    pool = made.training_questions("harder", experiments.profile_of("harder"), 1)
    assert set(asked) <= set(pool["question"]) and set(pool["operation"]) == {"-", "/"}
    before, after = experiments.scores("harder", recorded=tmp_path / "again")
    assert before.shape == (4,) and after.shape == (1, 4)
    # What is there stays, and `--again` makes it anew.
    stamp = (run / "evaluation.json").stat().st_mtime_ns
    assert made.main(arguments) == 0
    assert (run / "evaluation.json").stat().st_mtime_ns == stamp
    arguments[0] = "base_rate"
    assert made.main(arguments) == 0
    path = tmp_path / "again" / "base_rate" / "0_examples.json"
    problems = json.loads(path.read_text())["problems"]
    assert [len(row["right"]) for row in problems] == [4, 4]
    capsys.readouterr()
    assert made.main(["nothing"]) == 2
    assert capsys.readouterr().err.startswith("error: no experiment 'nothing'; use ")


def test_an_experiment_that_was_not_made_names_its_command(tmp_path):
    with pytest.raises(CourseError, match=r"experiments.py base --out runs/again"):
        experiments.curve("base", recorded=tmp_path)


def test_a_prediction_never_blocks(capsys):
    options = ["a", "b"]
    experiments.predict("q", ..., options)
    experiments.answer("q", "a")
    experiments.predict("q", {1: 2}, options)
    experiments.predict("q", "b", options)
    experiments.answer("q", "a")
    experiments.predict("q", "a", options)
    experiments.answer("q", "a")
    assert capsys.readouterr().out.splitlines() == [
        "○ no prediction yet; choose one: a, b",
        "you predicted: nothing yet",
        "the runs say:  a",
        "✗ {1: 2} is none of a, b",
        "✓ noted: b",
        "you predicted: b",
        "the runs say:  a",
        "✓ noted: a",
        "you predicted: a",
        "the runs say:  a – as predicted",
    ]


def test_every_experiment_is_in_the_notebook_and_every_question_is_predicted():
    code = "\n".join(c.source for c in cells("07") if c.cell_type == "code")
    for name in TABLE["runs"]:
        assert f'"{name}"' in code, name
    predicted = code.count("experiments.predict(")
    assert predicted == code.count("experiments.answer(") >= 6


def test_the_notebook_was_saved_with_nothing_predicted():
    path = ROOT / "notebooks" / "07_experiments.ipynb"
    for cell in nbformat.read(path, as_version=4).cells:
        if "experiments.predict(" in cell.source:
            assert "○ no prediction yet" in cell.outputs[0].text
