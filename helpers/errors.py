"""Errors of others turned into one clear line: of the disk, the device, a reward."""

import contextlib
import errno
import functools
import math
import traceback
from pathlib import Path

import torch

from . import CourseError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
FORBIDDEN = (errno.EROFS, errno.EACCES, errno.EPERM)
GONE = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EIO, errno.ESTALE)
GONE += (errno.ENOTCONN,)  # Colab's Drive, when its connection ends


@contextlib.contextmanager
def storing(run: Path):
    """Turn a full disk, a read-only folder and the like into one clear line.

    Any other error, that of a logging service's network among them, stays as it is.
    """
    try:
        yield
    except Exception as error:
        # torch.save, safetensors and tokenizers raise errors of their own for it.
        files = {frame.filename for frame in traceback.extract_tb(error.__traceback__)}
        foreign = "(os error" in str(error) or torch.serialization.__file__ in files
        number = getattr(error, "errno", None)
        if foreign:
            why = "Is the disk full, or the folder read-only?"
        elif number in FULL:
            why = "The disk is full."
        elif number in FORBIDDEN:
            why = "The folder is read-only, or not yours."
        elif number in GONE:
            why = "Is the drive still there?"
        else:
            raise
        reason = str(error).partition("\n")[0]
        raise CourseError(
            f"{run} cannot be written or read ({reason}). {why} What was saved before "
            "is kept. Make room, or move to another folder (with what is in this one), "
            "and go on."
        ) from error


def is_memory_full(error: Exception) -> bool:
    """Tell whether an error means that a GPU's or this machine's memory is full."""
    said = ("out of memory", "can't allocate memory", "not enough memory")
    known = isinstance(error, torch.OutOfMemoryError | MemoryError)
    return known or any(words in str(error) for words in said)


@contextlib.contextmanager
def explained(setting: str):
    """Turn a full memory, a dead GPU or a miscounting reward into one clear line.

    `setting` says what to lower where memory is full.
    """
    try:
        yield
    except (RuntimeError, MemoryError, ValueError) as error:
        text = str(error)
        if is_memory_full(error):
            raise CourseError(f"the memory is full: lower {setting}") from error
        if "device-side assert" in text:
            raise CourseError(
                "the GPU has stopped for this process (device-side assert, often after "
                "NaN in fp16): restart Python or the session, and go on in fp32"
            ) from error
        if text.startswith("The reward function"):  # TRL counts the rewards
            raise CourseError(text) from error
        raise


def guard_reward(reward_func):
    """Wrap a reward function so that a mistake in it is one clear line.

    The wrapper raises CourseError where the function raises, or returns a reward that
    is neither None nor a finite number. TRL itself checks how many there are.
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
        for reward in rewards:  # None: the function does not apply here
            number = isinstance(reward, int | float) and math.isfinite(reward)
            if reward is not None and not number:
                raise CourseError(f"{name} returned {reward!r}, not a finite number")
        return rewards

    return guarded
