"""Several processes at one run, as torchrun starts them: who is who, and ending alike.

Each has a copy of the model and a part of every batch. Rank 0 alone writes and prints.
"""

import contextlib
import os
import signal

from . import CourseError

# How gloo (CPUs) and NCCL (GPUs) say that the other end of a connection is gone.
GONE = ("gloo", "NCCL", "Connection closed by peer", "Connection reset by peer")


class ProcessLost(CourseError):
    """Another process of this run has ended."""


def number() -> int:
    """Return how many processes share this run."""
    return int(os.environ.get("WORLD_SIZE", 1))


def is_main() -> bool:
    """Tell whether this process is the one that writes and prints."""
    return os.environ.get("RANK", "0") == "0"


def check_start() -> None:
    """Raise CourseError where accelerate launch was to start several and started one.

    On a CPU it does so without a word, unless MPI starts them.
    """
    several = {"ACCELERATE_MIXED_PRECISION", "MASTER_PORT"} <= os.environ.keys()
    if several and "WORLD_SIZE" not in os.environ:
        raise CourseError(
            "accelerate launch has started one process: on a CPU it needs MPI to start "
            "several. Use torchrun --standalone --nproc-per-node 2 -m helpers train …"
        )


@contextlib.contextmanager
def ending_together(go_on: str):
    """End with one clear line where another process of this run has ended.

    The launcher then sends SIGTERM, and what waits for the lost process fails. `go_on`
    is the command that goes on with the run. At a good end this takes the group down,
    whose threads can abort a Python that closes.
    """
    lost = ProcessLost(
        "another process of this run has ended, and this one ends with it. What was "
        f"saved is kept. Go on, with this number of processes or another: {go_on}"
    )

    def end(*_):
        raise lost

    former = signal.signal(signal.SIGTERM, end) if number() > 1 else None
    try:
        yield
        if number() > 1:
            from torch.distributed import destroy_process_group

            destroy_process_group()
    except RuntimeError as error:
        if number() == 1 or not any(words in str(error) for words in GONE):
            raise
        raise lost from error
    finally:
        if number() > 1:
            signal.signal(signal.SIGTERM, former)
