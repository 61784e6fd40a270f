"""A GRPO run: its folder, its trainer, its log, and going on after a stop.

`runs/<name>/` holds config.json, log.jsonl (a line a step, as TRL logs it, with `step`
and the Unix `time`), completions/*.parquet, checkpoint-*/ and adapter/.
"""

import dataclasses
import functools
import importlib.metadata
import json
import math
import os
import platform
import signal
import subprocess
import threading
import time
import traceback
import warnings
from pathlib import Path

import psutil
import torch
from datasets import Dataset
from tqdm.auto import tqdm
from transformers import PrinterCallback, TrainerCallback
from trl import GRPOTrainer
from trl.trainer import grpo_trainer

from . import CourseError
from .profiles import Profile, grpo_config, lora_config

PACKAGES = ("torch", "transformers", "trl", "peft", "accelerate", "datasets")
# transformers 5.23 has a new name for this setting; 5.15, Colab's, knows the old one
# alone, and transformers itself sets it by the old name.
warnings.filterwarnings("ignore", "`(is_)?gradient_checkpointing", FutureWarning)
# TRL would print a table of all completions at each step. They are in completions/.
grpo_trainer.print_prompt_completions_sample = lambda *args, **kwargs: None


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a file so that a reader sees the old content or the new, never a part."""
    scratch = path.with_name(f".{path.name}.part")
    scratch.write_bytes(content.encode() if isinstance(content, str) else content)
    os.replace(scratch, path)


def machine() -> dict:
    """Return what each figure is reported with: the machine and package versions."""
    cpu = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():  # Linux leaves platform.processor() empty
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next((x.split(": ")[1] for x in lines if "model name" in x), cpu)
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    memory = round(psutil.virtual_memory().total / 1e9, 1)
    found = {"cpu": cpu, "cores": os.cpu_count(), "memory_gb": memory, "gpu": gpu}
    found |= {"system": platform.system(), "python": platform.python_version()}
    return found | {name: importlib.metadata.version(name) for name in PACKAGES}


def check_new(run: Path) -> None:
    """Raise CourseError if the folder for a new run holds anything already."""
    if run.exists() and (not run.is_dir() or any(run.iterdir())):
        raise CourseError(
            f"{run} exists already and stays as it is. Go on with it by --resume --out "
            f"{run}, or name another folder with --out."
        )


def create_run(run: Path, profile: Profile, seed: int) -> None:
    """Make a new run's folder with its config.json; CourseError if it is not new."""
    check_new(run)
    git = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        commit = subprocess.run(git, capture_output=True, text=True).stdout.strip()
    except FileNotFoundError:  # no git here
        commit = None
    config = {"profile": dataclasses.asdict(profile), "seed": seed}
    config |= {"machine": machine(), "commit": commit, "started": time.time()}
    run.mkdir(parents=True, exist_ok=True)
    write_atomically(run / "config.json", json.dumps(config, indent=1))


def load_run(run: Path) -> tuple[Profile, int]:
    """Return (profile, seed) of a run; CourseError if the folder holds none."""
    try:
        config = json.loads((run / "config.json").read_text(encoding="utf-8"))
        return Profile(**config["profile"]), config["seed"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CourseError(f"{run} is not a run's folder: {error!r}") from error


def read_log(run: Path) -> list[dict]:
    """Return the lines of log.jsonl, one dict a step; a line cut short is left out."""
    path, rows = run / "log.jsonl", []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            rows.append(json.loads(line))
        except ValueError:
            continue
    return rows


def last_checkpoint(run: Path) -> tuple[int, str | None]:
    """Return (step, folder) of the newest complete checkpoint, else (0, None)."""
    newest = 0, None
    # Of a checkpoint's files, trainer_state.json is written last.
    for path in run.glob("checkpoint-*/trainer_state.json"):
        try:
            step = json.loads(path.read_text())["global_step"]
        except (ValueError, KeyError):
            continue
        newest = max(newest, (step, str(path.parent)), key=lambda pair: pair[0])
    return newest


def guard_reward(reward_func):
    """Wrap a reward function so that a mistake in it is one clear line.

    The wrapper raises CourseError where the function raises, returns another number of
    rewards than completions, or one that is neither None nor a finite number.
    """
    name = f"reward function {getattr(reward_func, '__name__', reward_func)}"

    @functools.wraps(reward_func)
    def guarded(completions, **kwargs):
        try:
            rewards = list(reward_func(completions=completions, **kwargs))
        except Exception as error:  # whatever a learner's function may raise
            at = traceback.extract_tb(error.__traceback__)[-1]
            where = f"{Path(at.filename).name}, line {at.lineno}: {at.line}"
            raise CourseError(f"{name} raised {error!r} ({where})") from error
        if len(rewards) != len(completions):
            wrong = f"{len(rewards)} rewards for {len(completions)} completions"
            raise CourseError(f"{name} returned {wrong}; it must return one for each")
        for reward in rewards:  # None: the function does not apply here
            number = isinstance(reward, int | float) and math.isfinite(reward)
            if reward is not None and not number:
                raise CourseError(f"{name} returned {reward!r}, not a finite number")
        return rewards

    return guarded


class RunCallback(TrainerCallback):
    """Write log.jsonl, draw the bar, stop on time, on Ctrl-C and on broken numbers."""

    def __init__(self, run: Path, max_minutes: float | None = None):
        self.run, self.max_minutes, self.start = run, max_minutes, time.monotonic()
        self.bar, self.former, self.stopped = None, None, None

    def on_interrupt(self, *_):
        """Stop after this step on Ctrl-C, at once on a second one."""
        if self.stopped == "Ctrl-C":
            raise KeyboardInterrupt
        self.stopped = "Ctrl-C"
        tqdm.write("Stopping after this step; Ctrl-C again loses the step.")

    def on_train_begin(self, args, state, control, **kwargs):
        """Open the bar and take Ctrl-C over."""
        if threading.current_thread() is threading.main_thread():
            self.former = signal.signal(signal.SIGINT, self.on_interrupt)
        total, done = state.max_steps, state.global_step
        self.bar = tqdm(total=total, initial=done, desc="training", unit="step")

    def on_step_end(self, args, state, control, model=None, **kwargs):
        """Check the adapter before it is saved; stop where time or Ctrl-C says so."""
        for name, weight in model.named_parameters():
            if weight.requires_grad and not torch.isfinite(weight).all():
                self.broken(state, f"the weight {name} is not finite")
        minutes = (time.monotonic() - self.start) / 60
        if self.max_minutes is not None and minutes >= self.max_minutes:
            self.stopped = self.stopped or f"{self.max_minutes:g} minutes are over"
        if self.stopped:
            control.should_save = control.should_training_stop = True

    def on_log(self, args, state, control, logs=None, **kwargs):
        """Append a step to log.jsonl, unless its loss or reward is not finite."""
        if "loss" not in logs:  # the summary at the end
            return
        for key in ("loss", "reward"):
            if logs.get(key) is None or not math.isfinite(logs[key]):
                self.broken(state, f"the {key} is {logs.get(key)}")
        line = json.dumps({"step": state.global_step, "time": time.time()} | logs)
        with open(self.run / "log.jsonl", "a", encoding="utf-8") as file:
            file.write(f"{line}\n")
        self.bar.set_postfix(reward=f"{logs['reward']:.2f}", refresh=False)
        self.bar.update(state.global_step - self.bar.n)

    def broken(self, state, what: str):
        """Stop for good: nothing after this step would mean anything."""
        kept = last_checkpoint(self.run)[1] or "the untrained model"
        raise CourseError(
            f"step {state.global_step}: {what}; training cannot go on. The last good "
            f"state is {kept}. Try a lower learning_rate, or fp32 in place of fp16."
        )

    def close(self):
        """Give Ctrl-C back and end the bar, however the training ended."""
        if self.former is not None:
            signal.signal(signal.SIGINT, self.former)
        if self.bar is not None:
            self.bar.close()


def build_trainer(
    profile: Profile, run: Path, model, tokenizer, questions: Dataset, **settings
) -> GRPOTrainer:
    """Return TRL's GRPOTrainer for a profile.

    Of `settings`, `reward_funcs` (the profile's by default) and `callbacks` are the
    trainer's; all others are GRPOConfig's. Raises CourseError for what TRL refuses.
    """
    funcs = settings.pop("reward_funcs", None) or profile.reward_funcs
    callbacks = settings.pop("callbacks", None)
    args = grpo_config(profile, run, **settings)
    try:
        trainer = GRPOTrainer(
            model=model,
            reward_funcs=[guard_reward(func) for func in funcs],
            args=args,
            train_dataset=questions,
            processing_class=tokenizer,
            peft_config=lora_config(profile),
            callbacks=callbacks,
        )
    except (ValueError, RuntimeError, ImportError) as error:
        reason = str(error).strip().splitlines()[0]
        raise CourseError(f"TRL refuses these settings: {reason}") from error
    trainer.remove_callback(PrinterCallback)
    return trainer


def train_or_resume(
    profile: Profile,
    run: Path,
    model,
    tokenizer,
    questions,
    max_minutes=None,
    **settings,
) -> str | None:
    """Train to the end, from the run's last checkpoint if it has one.

    Writes adapter/ at the end and returns None, or returns why it stopped early (then
    a checkpoint is saved). `settings` are those of `build_trainer`. Raises CourseError
    on a non-finite loss, reward or weight, and KeyboardInterrupt on a second Ctrl-C.
    """
    callback = RunCallback(run, max_minutes)
    settings["callbacks"] = [callback]
    trainer = build_trainer(profile, run, model, tokenizer, questions, **settings)
    step, checkpoint = last_checkpoint(run)
    # A step that was logged but not saved is done again: each stands there once.
    rows = [json.dumps(row) + "\n" for row in read_log(run) if row["step"] <= step]
    write_atomically(run / "log.jsonl", "".join(rows))
    try:
        trainer.train(resume_from_checkpoint=checkpoint)
    except RuntimeError as error:
        if "probability tensor" not in str(error):
            raise
        callback.broken(trainer.state, "the model's output is not finite")
    finally:
        callback.close()
    if trainer.state.global_step < trainer.state.max_steps:
        return callback.stopped
    save_adapter(trainer.model, run / "adapter", profile.model)
    return None


def save_adapter(model, folder: Path, base_model: str) -> None:
    """Save a LoRA adapter that names its base model, not a path on this machine."""
    scratch = folder.with_name(f".{folder.name}.part")
    model.save_pretrained(scratch)
    path = scratch / "adapter_config.json"
    config = json.loads(path.read_text()) | {"base_model_name_or_path": base_model}
    path.write_text(json.dumps(config, indent=1))
    (scratch / "README.md").unlink(missing_ok=True)  # PEFT's card is an empty form
    os.replace(scratch, folder)
