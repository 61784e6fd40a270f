"""python -m helpers: what it does, and how it says what is wrong."""

import pytest

from helpers.__main__ import main


def error_of(capsys, *arguments) -> str:
    """Run a command that must fail; return its one line."""
    assert main([str(a) for a in arguments]) == 2
    captured = capsys.readouterr()
    assert "Traceback" not in captured.out + captured.err
    lines = captured.err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: ")
    return lines[0]


def test_an_unknown_profile(capsys, tmp_path):
    line = error_of(capsys, "train", "--profile", "gpu", "--out", tmp_path / "run")
    known = "article, t4, t4_quick, cpu, cpu_quick, smoke"
    assert f"no profile 'gpu' (asked for); use one of {known}" in line
    assert not (tmp_path / "run").exists()


def test_an_unknown_model_or_data_set(capsys, tmp_path):
    train = ["train", "--profile", "smoke", "--out", tmp_path / "run", "--set"]
    line = error_of(capsys, *train, f"model={tmp_path}/none")
    assert f"model '{tmp_path}/none' could not be loaded" in line
    assert "no data set 'math'" in error_of(capsys, *train, "dataset=math")
    assert not (tmp_path / "run").exists()


def test_numbers_of_problems_completions_or_examples_that_cannot_be(capsys, tmp_path):
    train = ["train", "--profile", "smoke", "--out", tmp_path / "run", "--set"]
    assert "arithmetic train: no problems" in error_of(capsys, *train, "num_train=0")
    line = error_of(capsys, *train, "num_generations=3")
    assert "GRPOConfig: generation_batch_size (8) must be divisible by" in line
    line = error_of(capsys, *train, "num_examples=9")
    assert "num_examples is 9; use 0 to 4" in line
    assert not (tmp_path / "run").exists()


def test_a_bad_row(capsys, tmp_path, gsm8k_folder, monkeypatch):
    (gsm8k_folder / "train.jsonl").write_text(
        '{"question": "q", "answer": "#### 1"}\n?'
    )
    monkeypatch.setenv("GRPO_GSM8K_DIR", str(gsm8k_folder))
    train = ["train", "--profile", "smoke", "--out", tmp_path / "run"]
    line = error_of(capsys, *train, "--set", "dataset=gsm8k")
    assert "train.jsonl, line 2: expected" in line
    monkeypatch.setenv("GRPO_GSM8K_DIR", str(tmp_path))
    assert "train.jsonl" in error_of(capsys, *train, "--set", "dataset=gsm8k")


def test_a_folder_that_is_in_use_or_no_run(capsys, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    train = ["train", "--profile", "smoke", "--out", tmp_path]
    assert "exists already and stays as it is" in error_of(capsys, *train)
    assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]
    resume = ["train", "--resume", "--out", tmp_path]
    assert "is not a run's folder" in error_of(capsys, *resume)
    assert "it keeps the run's settings" in error_of(capsys, *resume, "--seed", 1)
    assert "is not a run's folder" in error_of(capsys, "evaluate", tmp_path)


def test_a_reward_function_that_raises(capsys, tmp_path, tiny_model, monkeypatch):
    def wrong(completions, **kwargs):
        return 1 / 0

    monkeypatch.setattr("helpers.profiles.REWARD_FUNCS", [wrong])
    settings = [f"model={tiny_model}", "eval_new_tokens=4", "max_completion_length=4"]
    settings = [word for setting in settings for word in ("--set", setting)]
    run = tmp_path / "run"
    train = ["train", "--profile", "smoke", "--out", run, *settings]
    line = error_of(capsys, *train)
    assert "reward function wrong raised ZeroDivisionError" in line
    assert "test_command_line.py, line" in line
    config = (run / "config.json").read_bytes()
    error_of(capsys, "train", "--resume", "--out", run)
    assert (run / "config.json").read_bytes() == config


def test_the_doctor_and_the_help(capsys):
    assert main(["doctor"]) == 0
    assert capsys.readouterr().out.rstrip().endswith("Ready.")
    for command in (["train"], ["evaluate"], ["doctor"], []):
        with pytest.raises(SystemExit) as exit_:
            main([*command, "--help"])
        assert exit_.value.code == 0
    assert "--max-minutes" not in capsys.readouterr().err


def test_the_doctor_names_the_remedy(capsys, monkeypatch, tmp_path):
    (tmp_path / "requirements.txt").write_text("trl>=99\n")
    monkeypatch.setattr("helpers.ROOT", tmp_path)
    assert main(["doctor"]) == 1
    assert "pip install 'trl>=99'" in capsys.readouterr().out


def test_evaluate_by_several_processes_is_refused(capsys, finished, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    line = "error: evaluate is made for one process: python -m helpers …"
    assert error_of(capsys, "evaluate", finished) == line
