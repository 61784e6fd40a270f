"""A GRPO run: its folder, its trainer, its log, and going on after a stop.

`runs/<name>/` holds config.json, log.jsonl (a line a step, as TRL logs it, with `step`
and the Unix `time`), completions/*.parquet, checkpoint-*/ and adapter/.
"""

import contextlib
import ctypes
import dataclasses
import functools
import importlib.metadata
import json
import math
import os
import platform
import shutil
import signal
import subprocess
import threading
import time
import traceback
import warnings
import zipfile
from pathlib import Path

import psutil
import torch
from datasets import Dataset
from safetensors import SafetensorError, safe_open
from tqdm.auto import tqdm
from transformers import PrinterCallback, TrainerCallback
from trl import GRPOTrainer
from trl.trainer import grpo_trainer

from . import CourseError
from .fast import trainer_class
from .profiles import Profile, grpo_config, lora_config

PACKAGES = ("torch", "transformers", "trl", "peft", "accelerate", "datasets")
# What a checkpoint must hold; two processes write rng_state_0.pth and rng_state_1.pth.
NEEDED = ["trainer_state.json", "adapter_model.safetensors", "optimizer.pt"]
NEEDED += ["scheduler.pt", "rng_state*.pth"]
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


@contextlib.contextmanager
def storing(run: Path):
    """Turn a full disk, a read-only folder and the like into one clear line."""
    try:
        yield
    except Exception as error:
        # torch.save, safetensors and tokenizers raise errors of their own for it.
        files = {frame.filename for frame in traceback.extract_tb(error.__traceback__)}
        foreign = "(os error" in str(error) or torch.serialization.__file__ in files
        if not isinstance(error, OSError) and not foreign:
            raise
        reason = str(error).partition("\n")[0]
        raise CourseError(
            f"{run} cannot be written or read ({reason}). Is the disk full, or the "
            "folder read-only? What was saved before is kept. Make room, or move to "
            "another folder (with what is in this one), and go on."
        ) from error


def choose_folder(place: str | Path = "runs", on_drive: bool = False) -> Path:
    """Return the folder for runs: `place`, or one on Google Drive, mounted for it.

    Colab's own disk ends with the session, Drive stays. Training writes straight to it:
    it is slow, and what it has not uploaded when the session ends is lost.
    """
    try:
        if on_drive:
            from google.colab import drive

            drive.mount("/content/drive")
    except Exception as error:  # Colab names no type for a refusal
        raise CourseError(
            f"Google Drive is not mounted ({error}). On Colab, run this cell again and "
            "allow it; elsewhere set on_drive=False and name a folder that lasts."
        ) from error
    return Path("/content/drive/MyDrive/grpo-step-by-step" if on_drive else place)


def open_run(folder: Path, profile: Profile, seed: int) -> Path:
    """Return the newest unfinished run of a profile in a folder, else a new one."""
    for config in sorted(folder.glob("*/config.json"), reverse=True):
        finished = (config.parent / "adapter" / "adapter_config.json").exists()
        if not finished and load_run(config.parent)[0].name == profile.name:
            return config.parent
    run = folder / time.strftime(f"%Y%m%d-%H%M%S-{profile.name}")
    create_run(run, profile, seed)
    return run


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
    """Make a new run's folder and its config.json; CourseError where it cannot be."""
    check_new(run)
    git = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        commit = subprocess.run(git, capture_output=True, text=True).stdout.strip()
    except FileNotFoundError:  # no git here
        commit = None
    config = {"profile": dataclasses.asdict(profile), "seed": seed}
    config |= {"machine": machine(), "commit": commit, "started": time.time()}
    with storing(run):
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


def damage(checkpoint: Path) -> str | None:
    """Return which file of a checkpoint is missing or damaged, None if it is whole.

    Torch's files hold checksums; of the adapter the size is compared with its header.
    """
    # A run has a gradient scaler in all of its checkpoints or in none.
    scalers = [path.name for path in checkpoint.parent.glob("checkpoint-*/scaler.pt")]
    for name in NEEDED + scalers:
        path = next(checkpoint.glob(name), checkpoint / name)
        try:
            if path.suffix == ".json":
                json.loads(path.read_text(encoding="utf-8"))
            elif path.suffix == ".safetensors":
                safe_open(path, "pt")
            elif zipfile.ZipFile(path).testzip():
                return f"{path.name} is damaged"
        except FileNotFoundError:
            return f"{name} is missing"
        except (ValueError, SafetensorError, zipfile.BadZipFile):
            return f"{path.name} is cut short"
    return None


def last_checkpoint(run: Path) -> tuple[int, str | None]:
    """Return (step, folder) of the newest whole checkpoint, else (0, None).

    Prints one line on damaged ones that it passes over.
    """
    passed = []
    names = [path.name.removeprefix("checkpoint-") for path in run.glob("checkpoint-*")]
    for step in sorted((int(name) for name in names if name.isdigit()), reverse=True):
        wrong = damage(run / f"checkpoint-{step}")
        if not wrong:
            break
        passed.append(f"checkpoint-{step} ({wrong})")
    else:
        step = 0
    if passed:
        start = f"checkpoint-{step}" if step else "the beginning: none is whole"
        print(f"Damaged: {', '.join(passed)}. Training goes on from {start}.")
    return step, str(run / f"checkpoint-{step}") if step else None


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


def time_parts(trainer: GRPOTrainer) -> dict[str, float]:
    """Return a dict of seconds that grows while the trainer works, from now on.

    `generation`: writing completions; `forward`: log-probs and loss; `backward`. The
    rest of a step (rewards, optimizer, saving) is in none of them.
    """
    seconds = dict.fromkeys(("generation", "forward", "backward"), 0.0)

    def clock() -> float:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return time.monotonic()

    def watch(owner, name: str, part: str) -> None:
        method = getattr(owner, name)

        @functools.wraps(method)
        def timed(*args, **kwargs):
            begun = clock()
            try:
                return method(*args, **kwargs)
            finally:
                seconds[part] += clock() - begun

        setattr(owner, name, timed)

    watch(trainer, "_generate", "generation")
    watch(trainer, "compute_loss", "forward")
    watch(trainer.accelerator, "backward", "backward")
    return seconds


def give_back_memory() -> None:
    """Return freed memory to Linux: its allocator keeps it, in pieces, step by step."""
    with contextlib.suppress(OSError, AttributeError, TypeError):  # other systems
        ctypes.CDLL(None).malloc_trim(0)


class RunCallback(TrainerCallback):
    """Write log.jsonl, draw the bar, stop on time, on Ctrl-C and on broken numbers."""

    def __init__(self, run: Path, max_minutes: float | None = None, seconds=None):
        self.run, self.max_minutes, self.start = run, max_minutes, time.monotonic()
        self.seconds = {} if seconds is None else seconds  # of time_parts
        self.bar, self.former, self.stopped, self.memory = None, None, None, 0
        self.step_end, self.longest_step, self.longest_save = self.start, 0, 0

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
        self.step_end = time.monotonic()

    def on_step_end(self, args, state, control, model=None, **kwargs):
        """Check the adapter before it is saved; stop where time or Ctrl-C says so."""
        for name, weight in model.named_parameters():
            if weight.requires_grad and not torch.isfinite(weight).all():
                self.broken(state, f"the weight {name} is not finite")
        self.memory = psutil.Process().memory_info().rss
        give_back_memory()
        self.step_end, before = time.monotonic(), self.step_end
        self.longest_step = max(self.longest_step, self.step_end - before)
        end = self.step_end - self.start + self.longest_step + self.longest_save
        if self.max_minutes is not None and end > 60 * self.max_minutes:
            reason = f"{self.max_minutes:g} minutes leave no time for another step"
            self.stopped = self.stopped or reason
        if self.stopped:
            control.should_save = control.should_training_stop = True

    def on_save(self, args, state, control, **kwargs):
        """Time a save, so that the last one ends before the time is over."""
        self.longest_save = max(self.longest_save, time.monotonic() - self.step_end)

    def on_log(self, args, state, control, logs=None, **kwargs):
        """Append a step to log.jsonl, unless its loss or reward is not finite."""
        if "loss" not in logs:  # the summary at the end
            return
        for key in ("loss", "reward"):
            if logs.get(key) is None or not math.isfinite(logs[key]):
                self.broken(state, f"the {key} is {logs.get(key)}")
        memory = self.memory
        if torch.cuda.is_available():
            memory = torch.cuda.max_memory_allocated()
        logs = logs | {f"seconds/{name}": spent for name, spent in self.seconds.items()}
        logs |= {"memory_gb": memory / 1e9, "step": state.global_step}
        self.seconds.update(dict.fromkeys(self.seconds, 0.0))
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
    """Return the GRPOTrainer that a profile names: TRL's own, or the faster one.

    Of `settings`, `reward_funcs` (the profile's by default) and `callbacks` are the
    trainer's; all others are GRPOConfig's. Raises CourseError for what TRL refuses.
    """
    funcs = settings.pop("reward_funcs", None) or profile.reward_funcs
    callbacks = settings.pop("callbacks", None)
    args = grpo_config(profile, run, **settings)
    try:
        trainer = trainer_class(profile)(
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
    return trainer


def train_or_resume(
    trainer: GRPOTrainer, run: Path, max_minutes: float | None = None, callbacks=()
) -> str | None:
    """Train to the end, from the run's last checkpoint if it has one.

    Writes adapter/ at the end and returns None, or returns why it stopped early (then
    a checkpoint is saved), as before a step that might not end, and be saved, within
    `max_minutes` of this call. `callbacks` are called after the run's own. Raises
    CourseError on a non-finite loss, reward or weight, or a folder that cannot be
    written, and KeyboardInterrupt on a second Ctrl-C.
    """
    if not hasattr(trainer, "seconds"):
        trainer.seconds = time_parts(trainer)
    callback = RunCallback(run, max_minutes, trainer.seconds)
    for kind in (PrinterCallback, RunCallback, *map(type, callbacks)):
        trainer.remove_callback(kind)  # those of a former call among them
    for each in (callback, *callbacks):
        trainer.add_callback(each)
    with storing(run), contextlib.closing(callback):
        step, checkpoint = last_checkpoint(run)
        # The trainer keeps two checkpoints and would count damaged ones.
        for path in filter(damage, run.glob("checkpoint-*")):
            shutil.rmtree(path, ignore_errors=True)
        # A step that was logged but not saved is done again: each stands there once.
        rows = [json.dumps(row) + "\n" for row in read_log(run) if row["step"] <= step]
        write_atomically(run / "log.jsonl", "".join(rows))
        state = json.loads((Path(checkpoint) / NEEDED[0]).read_text()) if step else {}
        try:
            if step and step == state["max_steps"]:  # train() would do a step more
                trainer.model.load_adapter(checkpoint, "default")
            else:
                trainer.train(resume_from_checkpoint=checkpoint)
        except RuntimeError as error:
            if "probability tensor" not in str(error):
                raise
            callback.broken(trainer.state, "the model's output is not finite")
        if trainer.state.global_step < trainer.state.max_steps:
            return callback.stopped
        save_adapter(trainer.model, run / "adapter", load_run(run)[0].model)
    return None


def save_adapter(model, folder: Path, base_model: str) -> None:
    """Save a LoRA adapter that names its base model, not a path on this machine."""
    scratch = folder.with_name(f".{folder.name}.part")
    model.save_pretrained(scratch)
    path = scratch / "adapter_config.json"
    config = json.loads(path.read_text()) | {"base_model_name_or_path": base_model}
    # An older PEFT, such as Colab's, warns of settings that it does not know.
    config = {name: value for name, value in config.items() if value is not None}
    path.write_text(json.dumps(config, indent=1))
    (scratch / "README.md").unlink(missing_ok=True)  # PEFT's card is an empty form
    shutil.rmtree(folder, ignore_errors=True)  # where a run that is done is run again
    os.replace(scratch, folder)
