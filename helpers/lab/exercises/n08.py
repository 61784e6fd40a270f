"""The checks of notebook 08, make it fast."""

import torch
from torch.profiler import profile

from . import compare, exercise, near


@exercise
def check_flops(answer):
    """8.1: FLOP of one forward pass that scores a group of 4."""

    def flops(through: int, scored: int) -> float:
        return 2 * 100e6 * through + 2 * 20e6 * scored

    mistakes = {
        flops(600, 600): "the prompt counts once in the layers, and is not scored",
        flops(600, 200): "the prompt passes through the layers once, not 4 times",
        flops(300, 300): "nobody asks how likely the prompt was",
        flops(300, 200) / 2: "a weight is multiplied and added: 2 FLOP",
        flops(150, 50): "that is one completion; the group has 4",
        flops(300, 0): "the output layer is missing",
        flops(300, 200) / 1e9: "that is in GFLOP, not in FLOP",
    }
    hint = "expected 2 × weights × tokens, for the layers and for the output layer"
    return near(answer, flops(300, 200), mistakes, hint)


@exercise
def check_waste(answer):
    """8.2: the tables of logits in the reader's own profile of stock's scoring.

    All is compared with that profile, so that it holds on any machine.
    """
    names = ("profile", "operation", "share", "rows", "why")
    if not isinstance(answer, dict) or set(answer) != set(names):
        return f"expected a dict with the keys {', '.join(names)}"
    recorded, operation, share, rows, why = (answer[name] for name in names)
    if not isinstance(recorded, profile):
        return "profile: expected what torch.profiler.profile(…) returns"
    entries = recorded.key_averages(group_by_input_shape=True)
    keys = {entry.key for entry in entries}
    if "ChunkedLogProbFunctionBackward" not in keys:
        return "profile: no backward pass of stock's scoring in it; record that as well"
    if not any(entry.input_shapes for entry in entries):
        return "profile: it holds no shapes; record it with record_shapes=True"

    def wide(entry) -> bool:
        shape = (entry.input_shapes or [[]])[0]
        numbers = all(isinstance(number, int) for number in shape)
        return numbers and len(shape) == 2 and shape[1] > 10_000

    total = sum(entry.self_cpu_time_total for entry in entries)

    def part(some) -> float:
        return sum(entry.self_cpu_time_total for entry in some) / total

    logits = list(filter(wide, entries))
    worst = max(logits, key=lambda entry: entry.self_cpu_time_total)
    if operation not in keys:
        return "operation: expected a key of this profile, such as aten::add"
    if operation != worst.key:
        return f"operation: {worst.key} has a costlier table of logits"
    products = [entry for entry in entries if "mm" in entry.key]
    mistakes = {
        100 * part(logits): "share: that is in percent; expected a fraction of 1",
        part([worst]): "share: that is the costliest entry alone; add up all tables",
        part(products): "share: those are the matrix products",
    }
    hint = "share: expected the tables' self time, divided by that of all entries"
    wrong = near(share, part(logits), mistakes, hint)
    if wrong:
        return wrong
    if rows != worst.input_shapes[0][0]:
        return f"rows: a table of {operation} has the shape {worst.input_shapes[0]}"
    mistakes = {
        "A": "why: so few calls are not the trouble; look at how large each one is",
        "C": "why: compare the rows with the number of tokens that were written",
    }
    return None if why == "B" else mistakes.get(why, "why: expected 'A', 'B' or 'C'")


@exercise
def check_group_mask(answer):
    """8.3: which token of a packed group may see which."""

    def mask(owner: torch.Tensor, prompt=True, others=False, future=False):
        seen, sees = owner[None], owner[:, None]
        rule = (seen == sees) | (prompt and seen == 0) | torch.tensor(others)
        return (rule if future else rule.tril()).float()

    cases = [[0, 0, 0, 1, 1, 2], [0, 1, 1, 2, 2, 2], [0, 0, 1, 2, 3, 3]]
    mistakes = [
        (lambda o: mask(o, others=True), "completions see each other"),
        (lambda o: mask(o, future=True), "tokens see what comes after them"),
        (lambda o: mask(o, prompt=False), "completions do not see the prompt"),
        (lambda o: mask(o).T, "rows and columns are exchanged: the row's token sees"),
        (lambda o: 1 - mask(o), "true and false are exchanged: true is may see"),
        (lambda o: mask(o).tril(-1), "a token sees itself too"),
    ]
    return compare(answer, mask, [torch.tensor(case) for case in cases], mistakes)


@exercise
def check_positions(answer):
    """8.4: the position ids of a packed group, from the lengths of its parts."""

    def positions(sizes: torch.Tensor, start: int | None = None) -> torch.Tensor:
        start = sizes[0] if start is None else start
        own = [start + torch.arange(n) for n in sizes[1:]]
        return torch.cat([torch.arange(sizes[0]), *own]).float()

    def going_on(sizes: torch.Tensor) -> torch.Tensor:
        return torch.arange(sizes.sum()).float()

    cases = [torch.tensor(case) for case in ([4, 3, 2, 3], [5, 1, 4], [2, 2, 2, 2, 1])]
    mistakes = [
        (going_on, "that is the bug: these are the places in the packed sequence"),
        (lambda s: positions(s, 0), "a completion begins where the prompt ends, not 0"),
        (lambda s: positions(s, s[0] - 1), "the prompt's last token stands there"),
        (lambda s: positions(s, s[0] + 1), "a place is left free behind the prompt"),
        (lambda s: positions(s) + 1, "places are counted from 0"),
    ]
    return compare(answer, positions, cases, mistakes)


@exercise
def check_amdahl(answer):
    """8.5: a step of 10 + 5 + 12 s, the last two parts 10 times faster."""
    mistakes = {
        10: "generation stays as slow as it was",
        27 / 10: "that is the bound, were scoring free",
        (10 + 17 * 10) / 27: "speed-ups cannot be averaged; add up the seconds",
        11.7: "those are the seconds that are left",
        7: "that is the mean of three speed-ups; add up the seconds",
        11.7 / 27: "that is the share of the time that is left; turn it over",
    }
    return near(answer, 27 / 11.7, mistakes, "expected old seconds / new seconds")
