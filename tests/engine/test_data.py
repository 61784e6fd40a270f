"""The data sets: disjoint, reproducible, without a shortcut."""

import hashlib
import json
from collections import Counter

import pytest

from helpers import CourseError
from helpers.data import (
    TEMPLATES,
    drop_long_prompts,
    get_arithmetic_questions,
    get_gsm8k_questions,
)
from helpers.prompts import WORKED_EXAMPLES, extract_hash_answer
from tests import GSM8K

SPLITS = ("train", "test", "transfer")


def problems(split, seed=0, count=None):
    rows = get_arithmetic_questions(split, count, seed)
    return set(zip(rows["template"], rows["a"], rows["b"], strict=True))


def test_rows_have_the_form_of_gsm8k():
    rows = get_arithmetic_questions("train", 40, seed=3, num_examples=1)
    for row in rows:
        assert row["question"] == row["template"].format(a=row["a"], b=row["b"])
        assert row["prompt"][-1] == {"role": "user", "content": row["question"]}
        assert len(row["prompt"]) == 4
        assert extract_hash_answer(row["solution"]) == row["answer"]
        expression = f"{row['a']} {row['operation']} {row['b']}"
        assert eval(expression) == int(row["answer"])
        assert f"<<{expression.replace(' ', '')}={row['answer']}>>" in row["solution"]


def test_train_and_test_share_templates_and_no_problem_whatever_the_seeds():
    test = problems("test", 0) | problems("test", 5)
    for seed in (0, 1, 2):
        train = problems("train", seed)
        assert not train & test
        assert {p[0] for p in train} == {p[0] for p in test}


def test_transfer_has_templates_and_operands_of_its_own():
    rows = get_arithmetic_questions("transfer")
    trained = get_arithmetic_questions("train")
    assert not set(rows["template"]) & set(trained["template"])
    for sign in "+-*/":
        # What is new in a division is the quotient, elsewhere the first operand.
        key = "answer" if sign == "/" else "a"
        here = {row[key] for row in rows if row["operation"] == sign}
        assert here and not here & {r[key] for r in trained if r["operation"] == sign}


def test_there_are_enough_templates_and_operands_stay_within_fifty():
    for split, count in {"train": 7, "transfer": 2}.items():
        lines = [text for texts in TEMPLATES[split].values() for text in texts]
        assert len(lines) == len(set(lines)) == 4 * count
        counts = {sign: len(texts) for sign, texts in TEMPLATES[split].items()}
        assert counts == dict.fromkeys("+-*/", count)
    for split in ("train", "test"):
        rows = get_arithmetic_questions(split)
        assert max(rows["a"]) <= 50 and max(rows["b"]) <= 50
        assert min(int(answer) for answer in rows["answer"]) >= 2


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("count", [100, 200, None])
def test_no_constant_and_no_single_operation_is_a_shortcut(split, count):
    rows = get_arithmetic_questions(split, count)
    most = Counter(rows["answer"]).most_common(1)[0][1]
    assert most / len(rows) <= 0.10
    for sign in "+-*/":
        right = sum(eval(f"{r['a']}{sign}{r['b']}") == int(r["answer"]) for r in rows)
        assert right / len(rows) <= 0.40


def test_the_same_seed_gives_the_same_rows_on_every_machine():
    digests = {}
    for split in SPLITS:
        rows = [
            get_arithmetic_questions(split, 100, seed)["question"] for seed in (0, 1)
        ]
        assert rows[0][:] != rows[1][:]
        text = json.dumps([list(questions) for questions in rows])
        digests[split] = hashlib.sha256(text.encode()).hexdigest()[:12]
    assert digests == {
        "train": "8b62ac962770",
        "test": "d7be59f94206",
        "transfer": "795fbe9dde6f",
    }


def test_worked_examples_are_in_no_data_set():
    asked = {question for split in SPLITS for question in
             get_arithmetic_questions(split)["question"]}  # fmt: skip
    assert not asked & {question for question, *_ in WORKED_EXAMPLES}


def test_what_cannot_be_had_is_said():
    with pytest.raises(CourseError, match="use 'train', 'test' or 'transfer'"):
        get_arithmetic_questions("valid")
    with pytest.raises(CourseError, match="test has 282 problems; 9999 were asked for"):
        get_arithmetic_questions("test", 9999)
    with pytest.raises(CourseError, match="no problems; at least one is needed"):
        get_arithmetic_questions("test", 0)
    with pytest.raises(CourseError, match="GSM8K has 'train' and 'test'"):
        get_gsm8k_questions("transfer")


def test_gsm8k_is_read_from_a_folder(gsm8k_folder, monkeypatch):
    rows = get_gsm8k_questions("train", 3, folder=gsm8k_folder)
    assert rows["answer"][:] == ["2", "4", "6"]
    monkeypatch.setenv("GRPO_GSM8K_DIR", str(gsm8k_folder))
    assert len(get_gsm8k_questions("test")) == 8
    assert (
        get_gsm8k_questions("test", 1, num_examples=2)["prompt"][0][1]["role"] == "user"
    )


@pytest.mark.parametrize(
    "line",
    ["{", "[1]", '{"question": "q"}', '{"question": "q", "answer": "no marker"}',
     '{"question": 3, "answer": "#### 1"}', '{"question": " ", "answer": "#### 1"}'],
)  # fmt: skip
def test_a_bad_row_is_named_with_file_and_line(gsm8k_folder, line):
    path = gsm8k_folder / "train.jsonl"
    path.write_text(path.read_text() + "\n" + line + "\n")
    with pytest.raises(CourseError, match=r"train\.jsonl, line 10: expected"):
        get_gsm8k_questions("train", folder=gsm8k_folder)


def test_without_the_hub_the_way_out_is_named(monkeypatch):
    def refuse(*args, **kwargs):
        raise ConnectionError("no route")

    monkeypatch.setattr("helpers.data.load_dataset", refuse)
    with pytest.raises(CourseError, match=r"no route.*Set GRPO_GSM8K_DIR"):
        get_gsm8k_questions()


@pytest.mark.hub
def test_gsm8k_comes_from_the_hub():
    assert len(get_gsm8k_questions("train")) == 7473


@pytest.mark.skipif(not GSM8K.exists(), reason="no copy of GSM8K beside the course")
def test_long_prompts_of_gsm8k_are_dropped_and_counted(tokenizer, capsys):
    rows = get_gsm8k_questions("train", folder=GSM8K)
    kept = drop_long_prompts(rows, tokenizer, 128)
    assert f"{2000 - len(kept)} of 2000 problems dropped" in capsys.readouterr().out
    chat = {"add_generation_prompt": True, "return_dict": True}
    lengths = [
        len(tokenizer.apply_chat_template(p, **chat)["input_ids"])
        for p in kept["prompt"]
    ]
    assert 1000 < len(kept) < 2000 and max(lengths) <= 128
    with pytest.raises(CourseError, match="longer than 10 tokens"):
        drop_long_prompts(rows.select(range(5)), tokenizer, 10)
