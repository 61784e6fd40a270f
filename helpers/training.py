"""A GRPO run: its trainer, what is logged at each step, and going on after a stop."""

import contextlib
import ctypes
import functools
import gc
import json
import math
import shutil
import signal
import threading
import time
from pathlib import Path

import psutil
import torch
from accelerate.utils import broadcast_object_list, gather_object
from datasets import Dataset
from tqdm.auto import tqdm
from transformers import PrinterCallback, TrainerCallback
from trl import GRPOTrainer

from . import GIB, CourseError
from .errors import explained, guard_reward, storing
from .fast import trainer_class
from .generation import LiveBar
from .models import seal
from .processes import is_main, number
from .profiles import Profile, check_device, grpo_config, lora_config
from .runs import (
    check_hold,
    checkpoint_steps,
    holding,
    last_checkpoint,
    load_run,
    rewind,
    save_adapter,
)

SMALLER = (
    "per_device_train_batch_size (and raise gradient_accumulation_steps as much), "
    "num_generations or max_completion_length"
)


def time_parts(trainer: GRPOTrainer) -> dict[str, float]:
    """Return a dict of seconds that grows while the trainer works, from now on.

    `generation`: writing completions; `forward`: log-probs and loss; `backward`. The
    rest of a step (rewards, optimizer, saving) is in none of them.
    """
    seconds: dict[str, float] = {}

    def clock() -> float:
        if trainer.args.device.type == "cuda":
            torch.cuda.synchronize()
        return time.monotonic()

    def watch(owner, name: str, part: str) -> None:
        method, seconds[part] = getattr(owner, name), 0.0

        @functools.wraps(method)
        def timed(*args, **kwargs):
            begun = clock()
            result = method(*args, **kwargs)
            seconds[part] += clock() - begun
            return result

        setattr(owner, name, timed)

    watch(trainer, "_generate", "generation")
    watch(trainer, "compute_loss", "forward")
    watch(trainer.accelerator, "backward", "backward")
    return seconds


def free_memory() -> None:
    """Give back what nothing refers to any more, PyTorch's own reserve included."""
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    give_back_memory()


class MemoryPeak:
    """The most memory that a run held on its device, in GiB, since it was last asked.

    On a GPU what PyTorch has allocated; on a CPU the process's resident memory, looked
    at ten times a second.
    """

    def __init__(self, device: torch.device):
        self.gpu, self.most, self.over = device.type == "cuda", 0, threading.Event()
        self.lock = threading.Lock()
        if not self.gpu:
            threading.Thread(target=self.watch, daemon=True).start()

    def watch(self):
        """Look until `close` is called."""
        while not self.over.wait(0.1):
            with self.lock:
                self.most = max(self.most, psutil.Process().memory_info().rss)

    def peak(self) -> float:
        """Return the peak since the last call, and begin anew."""
        if self.gpu:
            most = torch.cuda.max_memory_allocated()
            torch.cuda.reset_peak_memory_stats()
            return most / GIB
        with self.lock:  # a quick step ends before anybody looks
            most = max(self.most, psutil.Process().memory_info().rss)
            self.most = 0
        return most / GIB

    def close(self):
        """Look no more."""
        self.over.set()


def give_back_memory() -> None:
    """Return freed memory to Linux: its allocator keeps it, in pieces, step by step."""
    with contextlib.suppress(OSError, AttributeError, TypeError):  # other systems
        ctypes.CDLL(None).malloc_trim(0)


class RunCallback(TrainerCallback):
    """Write log.jsonl, draw the bar, stop on time, on Ctrl-C and on broken numbers."""

    def __init__(self, run: Path, max_minutes: float | None = None, seconds=None):
        self.run, self.max_minutes = run, max_minutes
        self.seconds = {} if seconds is None else seconds  # of time_parts
        self.bar, self.former, self.stopped, self.memory = None, None, None, None
        self.start = self.step_end = time.monotonic()
        self.step = self.longest_step = self.longest_save = self.limit = 0

    def on_interrupt(self, *_):
        """Stop after this step on Ctrl-C, at once on a second one."""
        if self.stopped == "Ctrl-C":
            if number() > 1:  # torchrun passes on what the terminal has sent already
                return
            raise KeyboardInterrupt
        self.stopped = "Ctrl-C"
        again = "; Ctrl-C again loses the step" if number() == 1 else ""
        tqdm.write(f"Stopping after this step{again}.")

    def on_train_begin(self, args, state, control, **kwargs):
        """Open the bar and take Ctrl-C over."""
        if threading.current_thread() is threading.main_thread():
            self.former = signal.signal(signal.SIGINT, self.on_interrupt)
        self.memory = MemoryPeak(args.device)
        total, done = state.max_steps, state.global_step
        self.bar = LiveBar(total=total, initial=done, desc="training", unit="step")
        self.telling = done + 1 + (args.device.type == "cuda")  # a GPU warms up
        self.step_end = time.monotonic()

    def on_step_end(self, args, state, control, model=None, **kwargs):
        """Check the adapter before it is saved; stop where anything says so."""
        check_hold(self.run)
        for name, weight in model.named_parameters():
            if weight.requires_grad and not torch.isfinite(weight).all():
                self.broken(state, f"the weight {name} is not finite")
        give_back_memory()
        self.step_end, before = time.monotonic(), self.step_end
        self.step = self.step_end - before
        self.longest_step = max(self.longest_step, self.step)
        end = self.step_end - self.start + self.longest_step + self.longest_save
        if self.max_minutes is not None and end > 60 * self.max_minutes:
            reason = f"{self.max_minutes:g} minutes leave no time for another step"
            self.stopped = self.stopped or reason
        # What stops one process stops all, after the same step.
        self.stopped = next(filter(None, gather_object([self.stopped])), None)
        if self.stopped:
            control.should_save = control.should_training_stop = True

    def on_save(self, args, state, control, **kwargs):
        """Seal a checkpoint: without, a kill cut it short. Then the oldest may go."""
        gather_object([None])  # each process has saved its random numbers
        if is_main():
            seal(self.run / f"checkpoint-{state.global_step}")
            for step in checkpoint_steps(self.run)[self.limit :] if self.limit else []:
                shutil.rmtree(self.run / f"checkpoint-{step}", ignore_errors=True)
        self.longest_save = max(self.longest_save, time.monotonic() - self.step_end)

    def on_log(self, args, state, control, logs=None, **kwargs):
        """Append a step to log.jsonl, unless its loss or reward is not finite."""
        if "loss" not in logs:  # the summary at the end
            return
        for key in ("loss", "reward"):
            if logs.get(key) is None or not math.isfinite(logs[key]):
                self.broken(state, f"the {key} is {logs.get(key)}")
        line = {"step": state.global_step, "time": time.time(), **logs}
        line |= {f"seconds/{part}": spent for part, spent in self.seconds.items()}
        line |= {"memory_gib": self.memory.peak(), "processes": number()}
        self.seconds.update(dict.fromkeys(self.seconds, 0.0))
        if not is_main():
            return
        with open(self.run / "log.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        if state.global_step == self.telling:
            left = (state.max_steps - state.global_step) * self.step / 60
            took = f"step {state.global_step} took {self.step:.0f} s"
            tqdm.write(f"{took}: at that pace {left:.1f} minutes to the last.")
        self.bar.set_postfix(reward=f"{logs['reward']:.2f}", refresh=False)
        self.bar.update(state.global_step - self.bar.n)

    def broken(self, state, what: str):
        """Stop for good: nothing after this step would mean anything."""
        kept = last_checkpoint(self.run)[1] or "the untrained model"
        raise CourseError(
            f"step {state.global_step}: {what}; training cannot go on. The last good "
            f"state is {kept}. Try a lower learning_rate, or fp32 "
            "(dtype=fp32, fp16=False) in place of fp16."
        )

    def close(self):
        """Give Ctrl-C back and end the bar, however the training ended."""
        if self.former is not None:
            signal.signal(signal.SIGINT, self.former)
        if self.bar is not None:
            self.bar.close()
            self.memory.close()


def build_trainer(
    profile: Profile, run: Path, model, tokenizer, questions: Dataset, **settings
) -> GRPOTrainer:
    """Return the GRPOTrainer that a profile names: TRL's own, or the faster one.

    Of `settings`, `reward_funcs` (the profile's by default) and `callbacks` are the
    trainer's; all others are GRPOConfig's. Raises CourseError for what TRL refuses.
    """
    check_device(profile)
    funcs = settings.pop("reward_funcs", None) or profile.reward_funcs
    callbacks = settings.pop("callbacks", None)
    args = grpo_config(profile, run, **settings)
    try:
        return trainer_class(profile)(
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
        # The trainer's own limit would remove a hand-made checkpoint-best.
        trainer.limit, trainer.args.save_total_limit = trainer.args.save_total_limit, 0
    callback = RunCallback(run, max_minutes, trainer.seconds)
    callback.limit = trainer.limit
    for kind in (PrinterCallback, RunCallback, *map(type, callbacks)):
        trainer.remove_callback(kind)  # those of a former call among them
    for each in (callback, *callbacks):
        trainer.add_callback(each)
    with holding(run), storing(run), explained(SMALLER), contextlib.closing(callback):
        found = rewind(run) if is_main() else (0, None)
        step, checkpoint = broadcast_object_list(list(found))
        state = Path(checkpoint or run, "trainer_state.json")
        try:
            if step and step == json.loads(state.read_text())["max_steps"]:
                # train() would do a step more
                trainer.model.load_adapter(checkpoint, "default")
            else:
                trainer.train(resume_from_checkpoint=checkpoint)
        except RuntimeError as error:
            if "probability tensor" not in str(error):
                raise
            callback.broken(trainer.state, "the model's output is not finite")
        if trainer.state.global_step < trainer.state.max_steps:
            (saved,) = broadcast_object_list([last_checkpoint(run)[0]])
            if saved < trainer.state.global_step:
                trainer._save_checkpoint(trainer.model, trial=None)
                callback.on_save(trainer.args, trainer.state, trainer.control)
            return callback.stopped or "a callback stopped it"
        if is_main():
            save_adapter(trainer.model, run / "adapter", load_run(run)[0].model)
        gather_object([None])  # nobody reads it before it is there
    return None
