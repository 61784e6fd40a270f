"""The checks of the exercises: `check_NAME(answer)` prints one line and never raises.

A stub in a notebook holds `...` where the learner writes; untouched, it is "not done
yet", and Run all goes on. Where a usual mistake is known, the line names it.
"""

import functools
import math
import re
import time
from collections.abc import Callable

import torch

from .evaluation import wilson_interval
from .memory import (
    GIB,
    T4_GIB,
    architecture,
    count_parameters,
    linear_shapes,
    memory_budget,
    peak,
)
from .profiles import ATTENTION, PROFILES, SMOL
from .prompts import SYSTEM_PROMPT, extract_hash_answer, extract_xml_answer
from .rewards import INTEGER, NUMBER, REWARD_FUNCS, truth_table


def exercise(check: Callable[[object], str | None]) -> Callable[[object], None]:
    """Make a check of a function that returns what is wrong, None where nothing is."""

    @functools.wraps(check)
    def checked(answer: object) -> None:
        try:
            if holds_stub(answer):
                raise NotDone
            wrong = check(answer)
        except NotDone:
            print("○ not done yet")
            return
        except Exception as error:  # whatever a learner's answer may raise
            wrong = f"this answer cannot be read ({type(error).__name__}: {error})"
        print(f"✗ {wrong}" if wrong else "✓ right")

    return checked


def holds_stub(answer: object) -> bool:
    """Tell whether an answer is `...`, or a list, tuple or dict that still holds it."""
    if isinstance(answer, dict):
        answer = list(answer.values())
    if isinstance(answer, list | tuple):
        return any(holds_stub(part) for part in answer)
    return answer is ...


class NotDone(Exception):
    """The stub of a function still returns `...`."""


def match(answer: dict, right: dict, hints: dict) -> str | None:
    """Return what is wrong with a dict of answers: the first wrong one and its hint.

    `hints` maps (name, wrong value), or a name, to what is said of it.
    """
    if not isinstance(answer, dict) or answer.keys() != right.keys():
        return f"expected a dict with the keys {', '.join(map(str, right))}"
    for name, wanted in right.items():
        if answer[name] != wanted:
            default = hints.get(name, "read the hint below once more")
            return f"{name}: {hints.get((name, answer[name]), default)}"
    return None


def near(answer: float, right: float, mistakes: dict, hint: str, within=0.01):
    """Return what is wrong with a number: what `mistakes` says of it, else `hint`.

    `mistakes` maps wrong numbers to messages; `within` is a share of each number.
    """
    value = float(answer)
    for number, message in ({right: None} | mistakes).items():
        if abs(value - number) <= within * abs(number):
            return message
    return hint


def compare(
    answer: Callable, right: Callable, cases: list, mistakes: list
) -> str | None:
    """Return what is wrong with a function of one tensor, None where nothing is.

    `mistakes` holds (function, message): the message is given where the answer agrees
    with that function in all cases, but not with `right`.
    """
    if not callable(answer):
        return "pass the function itself, not what it returns"
    given = [answer(case.clone()) for case in cases]
    if holds_stub(given):
        raise NotDone
    if given[0] is None:
        return "the function returns None: is its `return` missing?"
    given = [torch.as_tensor(value, dtype=torch.float32) for value in given]

    def first_difference(function: Callable) -> int | None:
        for place, (case, value) in enumerate(zip(cases, given, strict=True)):
            wanted = function(case)
            close = {"rtol": 1e-4, "atol": 1e-6, "equal_nan": True}
            if value.shape != wanted.shape or not torch.allclose(
                value, wanted, **close
            ):
                return place
        return None

    place = first_difference(right)
    if place is None:
        return None
    for function, message in mistakes:
        if first_difference(function) is None:
            return message
    wanted, got, where = right(cases[place]), given[place], cases[place].tolist()
    if got.shape != wanted.shape:
        return f"for {where}: shape {tuple(got.shape)}, expected {tuple(wanted.shape)}"
    return f"for {where}: expected {wanted.tolist()}, got {got.tolist()}"


@exercise
def check_four_scores(answer):
    """0.1: (format, strict, lenient) of four completions, scored by eye."""
    names = ("format", "strict", "lenient")

    def flat(scores: dict) -> dict:
        if any(len(three) != 3 for three in scores.values()):
            raise ValueError("each needs three scores: format, strict, lenient")
        cells = {key: zip(names, three, strict=True) for key, three in scores.items()}
        return {f"{k}, {name}": bool(x) for k, row in cells.items() for name, x in row}

    right = flat({"A": (1, 1, 1), "B": (0, 1, 1), "C": (1, 0, 0), "D": (0, 0, 1)})
    hints = {
        "B, format": "every tag is there, but must it not stand on a line of its own?",
        "C, format": "format asks how the answer is laid out, not whether it is right",
        "C, lenient": "12 stands in the text, but it is not the last number",
        "D, strict": "strict reads the answer tag alone, and there is none",
        "D, lenient": "lenient asks for no tag: what is the last number in the text?",
    }
    if not isinstance(answer, dict) or answer.keys() != set("ABCD"):
        return "expected a dict with the keys A, B, C, D"
    return match(flat(answer), right, hints)


@exercise
def check_how_many(answer):
    """0.2: how many problems bring the interval of a rate of 50% to ± 5 points."""

    def reach(n: int) -> float:
        interval = wilson_interval(n // 2, n)
        return (interval["high"] - interval["low"]) / 2

    n = int(answer)
    if n < 2:
        return f"{n} is no number of problems"
    if reach(n) > 0.05:
        points = 100 * reach(n)
        return f"with {n} problems the interval still reaches {points:.1f} points"
    if reach(n) <= 0.025:
        return "that many bring it to 5 points in all; 5 to each side need fewer"
    return None if reach(n - 4) > 0.05 else f"{n} are enough, but so are fewer"


def compare_texts(
    answer: Callable, right: Callable, cases: dict[str, str], mistakes: list
) -> str | None:
    """Return what is wrong with a function of a text, None where nothing is.

    `cases` maps each text to what is said (may be nothing) if the answer is wrong
    there; the first one counts. `mistakes`, as in `compare`, come before.
    """

    def result(text: str) -> object:
        try:
            return answer(text)
        except Exception as error:  # shown like any other wrong result
            return error

    given = {text: result(text) for text in cases}
    if holds_stub(given):
        raise NotDone
    wrong = [text for text in cases if given[text] != right(text)]
    for function, message in mistakes:
        if wrong and all(given[text] == function(text) for text in cases):
            return message
    for text in wrong:
        got, said = given[text], cases[text]
        if isinstance(got, str) and got.strip() == right(text):
            said = "take off the spaces and line breaks around it"
        where = f"{said}: for {text!r}" if said else f"for {text!r}:"
        return f"{where} expected {right(text)!r}, got {got!r}"
    return None


@exercise
def check_chat(answer):
    """1.1: what the chat template makes of the system prompt and a question."""

    def chat(question, end="<|im_end|>\n", last="<|im_start|>assistant\n"):
        turns = {"system": SYSTEM_PROMPT, "user": question}
        parts = [f"<|im_start|>{role}\n{text}{end}" for role, text in turns.items()]
        return "".join(parts) + last

    mistakes = [
        (lambda q: chat(q, last=""), "the generation prompt is missing"),
        (lambda q: chat(q)[:-1], "the line of the generation prompt is not ended"),
        (lambda q: chat(q, end="<|im_end|>"), "a line break follows each <|im_end|>"),
        (lambda q: chat(q) + "<|im_end|>\n", "the model closes its message itself"),
        (lambda q: SYSTEM_PROMPT + q, "this is a plain string, without any role"),
    ]
    return compare_texts(answer, chat, {"Why?": "compare line by line"}, mistakes)


@exercise
def check_hash_answer(answer):
    """1.2: the gold answer of a solution."""
    cases = {
        "6 * 7 = 42\n#### 42": "the marker is ####; a split at ### leaves a # behind",
        "#### 1\n#### 2": "the last marker counts",
        "#### $36": "the $ stays",
        "#### 1,250,000": "thousands commas stay",
        "#### 7.5": "the decimal point has to stay",
        "#### -6": "the sign has to stay",
        "#### 12.": "the closing full stop stays",
        "no marker, 42": "without a marker there is no answer",
    }
    return compare_texts(answer, extract_hash_answer, cases, [])


@exercise
def check_xml_answer(answer):
    """1.3: the text of the last complete answer pair."""
    cases = {
        "<answer>\n42\n</answer>\n": "the answer stands between the two tags",
        "<answer>\n4 or\n2\n</answer>": "an answer may have several lines",
        "<answer>1</answer> <answer>2</answer>": "the last pair counts",
        "<answer>1</answer> <answer>2": "a pair without closing tag is not complete",
        "<answer>5</answer></answer>": "the pair ends at the first closing tag",
        "It is 42.": "without tags there is no answer",
        "<answer><answer>6</answer></answer>": "the innermost pair counts",
        "I use <answer>. <answer>7</answer>": "the pair begins at the last opening tag",
    }
    if wrong := compare_texts(answer, extract_xml_answer, cases, []):
        return wrong
    began = time.process_time()
    answer("<answer>" * 8000)
    seconds = time.process_time() - began
    slow = f"64 KB of opening tags take {seconds:.1f} s, a megabyte 244 times that"
    return slow if seconds > 0.2 else None


@exercise
def check_gold_cases(answer):
    """1.4: cases that let no broken reader of gold answers through."""

    def last(text):
        return text.rpartition("####")[2].strip()

    broken = {
        "splits at ###": lambda t: t.partition("###")[2].strip(),
        "takes the first ####": lambda t: t.partition("####")[2].split("\n")[0].strip(),
        "leaves the $": lambda t: last(t).replace(",", ""),
        "leaves the commas": lambda t: last(t).replace("$", ""),
        "drops every dot": lambda t: extract_hash_answer(t).replace(".", ""),
    }
    for text, gold in answer.items():
        if gold != extract_hash_answer(text):
            return f"{gold!r} is not the right answer of {text!r}"
    for name, reader in broken.items():
        if all(reader(text) == gold for text, gold in answer.items()):
            return f"a reader that {name} passes all of your cases"
    return None


@exercise
def check_teaches(answer):
    """1.5: which groups of rewards can be learned from."""
    hints = {
        "A": "all are 0: who is better than the average of the group?",
        "B": "one tag is little, but it is more than the others have",
        "C": "all are perfect: which one should become likelier?",
        "D": "laid out well and all wrong: is one better than the others?",
    }
    return match(answer, {"A": False, "B": True, "C": False, "D": False}, hints)


@exercise
def check_points(answer):
    """2.1: the points of five completions in all, by eye."""
    right = {"A": 4.0, "B": 1.5, "C": 3.5, "D": 0.0, "E": 0.375}
    hints = {
        ("B", 4.0): "12 pens is no number: neither correctness nor int pay",
        ("B", 3.5): "12 pens is no number: correctness does not pay either",
        ("C", 4.0): "strict wants each tag on a line of its own",
        ("D", 2.0): "correctness reads the answer tag alone, and there is none",
        ("E", 3.375): "without a closing tag there is no answer to read",
        ("E", 0.875): "soft wants the answer pair closed too",
        "A": "nothing is missing here",
    }
    return match(answer, right, hints)


@exercise
def check_integer(answer):
    """2.2: a function that tells whether a text is an integer."""

    def by_int(text: str) -> bool:
        try:
            return isinstance(int(text), int)
        except ValueError:
            return False

    def fits(pattern: str, method=re.fullmatch) -> Callable:
        return lambda text: bool(method(pattern, text))

    rows = [row for row in truth_table() if row["kind"] in ("number", "script")]
    cases = [*dict.fromkeys(extract_xml_answer(row["text"]) for row in rows), "12,345"]
    integer, anywhere = INTEGER.pattern, r"[+-]?\$?[{}]+"
    mistakes = [
        (str.isdigit, "isdigit pays for ² and refuses signs, $ and commas"),
        (by_int, "int() reads digits of other scripts, and refuses $ and commas"),
        (fits(integer, re.match), "the start fits, but what follows? use fullmatch"),
        (fits(integer.replace("0-9", r"\d")), r"\d means digits of other scripts too"),
        (fits(anywhere.format("0-9,")), "a comma belongs before three digits only"),
        (fits(anywhere.format("0-9")), "1,018 is an integer too"),
        (fits(NUMBER.pattern), "18.0 is a number, but not written as an integer"),
    ]
    return compare_texts(answer, fits(integer), dict.fromkeys(cases, ""), mistakes)


@exercise
def check_group(answer):
    """2.3: the chance that a group teaches, and the size for one half, at p = 0.05."""
    chance, size = answer
    equal = 0.95**8 + 0.05**8
    mistakes = {
        equal: "that is the chance that all eight are equal",
        0.95**8 * 0.05 * 8 / 0.95: "that is the chance of exactly one right answer",
        0.4: "chances of several tries do not add up: 20 of them would give 1",
    }
    hint = "chance: expected 1 minus the chances of all right and all wrong"
    if wrong := near(chance, 1 - equal, mistakes, hint):
        return wrong
    if size < 14:
        return f"size: of {size}, {1 - 0.95**size - 0.05**size:.0%} have both outcomes"
    return None if size == 14 else f"size: {size} are enough, but so are fewer"


def points_of(text: str, gold: str) -> dict[str, float]:
    """Return what each reward pays for a text, by the reward's short name."""
    names = [func.__name__.removesuffix("_reward_func") for func in REWARD_FUNCS]
    rewards = [func([text], answer=[gold])[0] for func in REWARD_FUNCS]
    return dict(zip(names, rewards, strict=True))


@exercise
def check_wrong_but_paid(answer):
    """2.4: a wrong answer (gold 18) that earns as much as possible."""
    points = points_of(str(answer), "18")
    if points.pop("correctness"):
        return "this answer is right: it is to be a wrong one"
    lacking = [f"{name} pays {p:g} of 0.5" for name, p in points.items() if p < 0.5]
    return f"there is more to get: {', '.join(lacking)}" if lacking else None


@exercise
def check_right_but_poor(answer):
    """2.5: a right answer (gold 18) that earns as little as possible beside it."""
    points = points_of(str(answer), "18")
    if not points.pop("correctness"):
        return "correctness does not pay for this one: it is to be right"
    paying = [f"{name} still pays {p:g}" for name, p in points.items() if p]
    return ", ".join(paying) or None


@exercise
def check_patch(answer):
    """2.6: 0.5 for a reasoning with a letter or a digit in it."""

    def pays(flags: int, readable: Callable, whole: bool = False) -> Callable:
        def function(text: str) -> float:
            found = re.search("<reasoning>(.*?)</reasoning>", text, flags)
            read = text if whole else found and found[1]
            return 0.5 if found and readable(read) else 0.0

        return function

    def readable(text: str) -> bool:
        return any(character.isalnum() for character in text)

    kinds = ("layout", "hack", "empty")
    cases = [row["text"] for row in truth_table() if row["kind"] in kinds]
    mistakes = [
        (pays(re.DOTALL, bool), "a line break alone is no reasoning"),
        (
            pays(re.DOTALL, str.strip),
            "dots alone: ask for a letter or a digit",
        ),
        (pays(0, readable), "this pays 0 where the reasoning has line breaks"),
        (pays(re.DOTALL, readable, True), "a letter or digit elsewhere is no reason"),
        (lambda text: 0.5 * readable(text), "there must be a reasoning at all"),
    ]
    cases = dict.fromkeys(cases, "")
    return compare_texts(answer, pays(re.DOTALL, readable), cases, mistakes)


@exercise
def check_short(answer):
    """2.7: a reward function of one's own, with a column, None and both formats."""
    texts, limits, right = ["12345", "1234", "123"], [4, 4, None], [0.0, 1.0, None]
    chats = [[{"role": "assistant", "content": text}] for text in texts]
    columns = {"prompts": ["p"] * 3, "limit": limits, "answer": ["1"] * 3}
    given = answer(completions=chats, **columns)
    if holds_stub(given):
        raise NotDone
    if not isinstance(given, list) or len(given) != 3:
        return f"expected a list of 3 rewards for 3 completions, got {given!r}"
    mistakes = [
        ([1.0, 1.0, None], "len() of a chat counts messages: take completion_text"),
        ([0.0, 0.0, None], "at most: a text of just that length is paid too"),
        ([0.0, 1.0, 0.0], "where limit is None the reward does not apply: None, not 0"),
        ([1.0, 0.0, None], "this pays for the long ones"),
    ]
    for wrong, message in mistakes:
        if given == wrong:
            return message
    plain = answer(completions=texts, **columns)
    for kind, rewards in (("chats", given), ("plain texts", plain)):
        if rewards != right:
            return f"for {kind} with limits {limits}: expected {right}, got {rewards}"
    return None


@exercise
def check_pushed_up(answer):
    """3.1: is the completion with 3 of (1, 2, 3, 4) points still made likelier."""
    hints = {
        "A": "the mean grows by 10 as well",
        "B": "the mean is doubled as well",
        "C": "-3 is below the mean of -2.5",
        "D": "the mean is 11.5 now, and 3 is below it",
        "E": "it is exactly at the mean: its advantage is 0",
    }
    return match(answer, {"A": 1, "B": 1, "C": 0, "D": 0, "E": 0}, hints)


@exercise
def check_token_logps(answer):
    """3.2: log-probabilities of a completion's tokens, from the logits of all."""
    ids, start = torch.tensor([2, 0, 1, 1, 2]), 2

    def picked(values: torch.Tensor, first: int, last: int | None) -> torch.Tensor:
        rows = values[first:last]
        return rows.gather(1, ids[len(ids) - len(rows) :, None])[:, 0]

    def right(logits: torch.Tensor) -> torch.Tensor:
        return picked(logits.log_softmax(-1)[:-1], start - 1, None)

    mistakes = [
        (lambda x: picked(x.log_softmax(-1), start, None), "a row scores the NEXT id"),
        (lambda x: picked(x[:-1], start - 1, None), "logits are no log-probabilities"),
        (lambda x: right(x).exp(), "these are probabilities; the log is missing"),
        (lambda x: picked(x.log_softmax(-1)[:-1], 0, None), "the prompt is not scored"),
        (lambda x: right(x).sum(), "one number for each token, not their sum"),
    ]
    logits = [
        torch.randn(5, 3, generator=torch.Generator().manual_seed(n)) for n in (0, 1)
    ]
    return compare(lambda x: answer(x, ids, start), right, logits, mistakes)


def pair(function: Callable) -> Callable:
    """Make a function of two tensors one of a tensor that holds both."""
    return lambda both: function(both[0], both[1])


@exercise
def check_clipped_loss(answer):
    """3.3: the clipped loss of tokens, epsilons 0.2 and 0.28."""

    def right(ratio, a, low=0.8, high=1.28, pick=torch.min):
        return -pick(ratio * a, ratio.clamp(low, high) * a)

    mistakes = [
        (lambda r, a: -right(r, a), "a loss is minus the objective"),
        (lambda r, a: right(r, a, pick=torch.max), "the smaller of the two products"),
        (lambda r, a: -r.clamp(0.8, 1.28) * a, "that always clips: where is min?"),
        (lambda r, a: -r * a, "nothing is clipped here"),
        (lambda r, a: right(r, a, 0.8, 1.2), "upwards epsilon is 0.28"),
        (lambda r, a: right(r, a, 0.72, 1.2), "the two epsilons are swapped"),
    ]
    ratio = torch.tensor([0.5, 0.75, 0.95, 1.1, 1.25, 1.6])
    cases = [torch.stack([ratio, torch.full((6,), a)]) for a in (2.0, -1.0)]
    return compare(
        pair(answer), pair(right), cases, [(pair(f), m) for f, m in mistakes]
    )


@exercise
def check_k3(answer):
    """3.4: the estimate k3 of the KL divergence at each token."""

    def right(p, ref):
        return (ref - p).exp() - 1 - (ref - p)

    mistakes = [
        (lambda p, ref: right(ref, p), "r is reference / policy, not the reverse"),
        (lambda p, ref: p - ref, "that is k1, which can be negative"),
        (lambda p, ref: (p - ref) ** 2 / 2, "that is k2"),
        (lambda p, ref: right(p, ref) + 1, "where both agree it must be 0"),
        (lambda p, ref: right(p, ref).mean(), "one number for each token"),
    ]
    cases = [torch.tensor([[-1.0, -0.5, -2.0], [-1.0, -1.5, -0.5]])]
    return compare(
        pair(answer), pair(right), cases, [(pair(f), m) for f, m in mistakes]
    )


@exercise
def check_token_weights(answer):
    """3.5: the weight of a token of the longest of 2, 3 and 5 tokens, at most 20."""
    few, long = "and then the mean over 3 completions", "all 10 tokens count alike"
    right = {"grpo": 1 / 15, "bnpo": 1 / 10, "dr_grpo": 1 / 60, "dapo": 1 / 10}
    mistakes = {"grpo": {1 / 5: few, 1 / 10: "that is a mean over all tokens"}}
    mistakes["dr_grpo"] = {1 / 20: "3 completions, each of 20", 1 / 15: "20, not 5"}
    mistakes |= {name: {1 / 15: long, 1 / 5: long} for name in ("bnpo", "dapo")}
    if not isinstance(answer, dict) or answer.keys() != right.keys():
        return match(answer, right, {})
    for name, wanted in right.items():
        hint = "by which number does it divide?"
        if wrong := near(answer[name], wanted, mistakes[name], hint):
            return f"{name}: {wrong}"
    return None


@exercise
def check_grpo_mean(answer):
    """3.6: the mean of each completion's tokens, then that of the completions."""

    def right(loss, mask, least=1):
        return ((loss * mask).sum(1) / mask.sum(1).clamp(min=least)).mean()

    mistakes = [
        (lambda loss, mask: loss.mean(), "the mask is not used"),
        (lambda loss, mask: (loss * mask).mean(), "padding is divided by as well"),
        (lambda loss, mask: (loss * mask).sum() / mask.sum(), "that is dapo's mean"),
        (lambda loss, mask: (loss * mask).sum(1).mean(), "divide by each one's length"),
        (lambda loss, mask: right(loss, mask) * len(loss), "take a mean over rows"),
    ]
    loss = torch.tensor([[1.0, 2.0, 9.0, 9.0], [3.0, 4.0, 5.0, 7.0]])
    mask = torch.tensor([[1.0, 1.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0]])
    cases, mistakes = [torch.stack([loss, mask])], [(pair(f), m) for f, m in mistakes]
    if wrong := compare(pair(answer), pair(right), cases, mistakes):
        return wrong
    cases = [torch.stack([loss, mask * torch.tensor([[0.0], [1.0]])])]
    message = "a row masked whole divides 0 by 0: divide by at least 1"
    mistakes = [(pair(lambda loss, mask: right(loss, mask, 0)), message)]
    return compare(pair(answer), pair(right), cases, mistakes)


@exercise
def check_rloo(answer):
    """3.7: RLOO's advantages of a group."""

    def right(r: torch.Tensor) -> torch.Tensor:
        return r - (r.sum() - r) / (len(r) - 1)

    mistakes = [
        (lambda r: r - r.mean(), "that mean holds the completion's own reward"),
        (lambda r: r - (r.sum() - r) / len(r), "there are n - 1 others"),
        (lambda r: right(r) / (r.std() + 1e-4), "RLOO does not divide by the spread"),
        (lambda r: (r.sum() - r) / (len(r) - 1), "that is the baseline; take it off"),
        (lambda r: -right(r), "the sign is turned round"),
    ]
    groups = [[4.0, 2.0, 2.75, 0.0], [1.0, 0.0, 0.0, 0.0, 0.0], [1.0, 3.0]]
    return compare(answer, right, [torch.tensor(group) for group in groups], mistakes)


@exercise
def check_lora_count(answer):
    """4.1: weights that rank 16 on all seven linear maps of SmolLM2 trains."""
    config = architecture(SMOL)
    shapes = linear_shapes(config)
    right = count_parameters(config, 16, list(shapes))
    layers = config.num_hidden_layers
    mistakes = {
        right / layers: "that is one layer; how many are there?",
        right / 2: "that is rank 8",
        layers * sum(a * b for a, b in shapes.values()): "those are the base weights",
        count_parameters(config, 16, ATTENTION): "that is attention alone",
    }
    hint = "expected r × (inputs + outputs), over seven maps and all layers"
    return near(answer, right, mistakes, hint, 1e-6)


@exercise
def check_lora_update(answer):
    """4.2: the update of a weight from A, B and alpha."""

    def other(a: torch.Tensor) -> torch.Tensor:  # a B for each A: (6, r) to A's (r, 4)
        return torch.arange(6.0 * len(a)).reshape(6, -1).cos()

    def factor(a: torch.Tensor, n: float) -> torch.Tensor:
        return 32 / n * other(a) @ a

    mistakes = [
        (lambda a: factor(a, 32), "the factor alpha / r is missing"),
        (lambda a: factor(a, 1), "that is alpha, not alpha / r"),
        (lambda a: factor(a, a.shape[1]), "r is the thin side of A: its rows"),
        (lambda a: factor(a, len(a) ** 0.5), "alpha / √r is rsLoRA; here alpha / r"),
        (lambda a: factor(a, len(a)).T, "that is the transpose: W is (out, in)"),
    ]
    cases = [torch.arange(4.0 * r).reshape(r, 4).sin() for r in (2, 3)]
    return compare(
        lambda a: answer(a, other(a), 32), lambda a: factor(a, len(a)), cases, mistakes
    )


@exercise
def check_fp16_numbers(answer):
    """4.3: what becomes of five numbers in fp16."""

    def fate(number: float) -> str:
        half = float(torch.tensor(number, dtype=torch.float16))
        known = {0.0: "zero", math.inf: "infinite", number: "exact"}
        return known.get(half, "rounded")

    hints = {
        "0.25": "a power of two, and neither too small nor too large",
        "0.1": "no sum of powers of two, in any of the three formats",
        "2049": "from 2048 on the distance between neighbours is 2",
        "70000": "compare it with the largest number",
        "1e-8": "compare it with half of the smallest number",
    }
    fates = {"exact", "rounded", "zero", "infinite"}
    if isinstance(answer, dict) and not set(answer.values()) <= fates:
        return "expected exact, rounded, zero or infinite for each"
    return match(answer, {name: fate(float(name)) for name in hints}, hints)


@exercise
def check_scaler_order(answer):
    """4.4: the order of the five calls of a step with a gradient scaler."""
    before = {
        ("backward", "unscale"): "there is no gradient yet to divide",
        ("unscale", "clip"): "the limit would be held against the scaled gradient",
        ("clip", "step"): "after the step a shorter gradient changes nothing",
        ("step", "update"): "update reads what was found on the way to the step",
    }
    if sorted(answer) != ["backward", "clip", "step", "unscale", "update"]:
        return "expected backward, clip, step, unscale and update, each once"
    for (first, second), why in before.items():
        if answer.index(first) > answer.index(second):
            return f"{second} before {first}: {why}"
    return None


@exercise
def check_scaler_rule(answer):
    """4.5: the scales of a run, from which of its steps overflowed."""

    def rule(skip=0.5, grow=2.0, forget=True, at=3):
        def scales(overflows: torch.Tensor) -> torch.Tensor:
            scale, good, used = 2.0**16, 0, []
            for overflow in overflows.tolist():
                used.append(scale)
                good = (0 if forget else good) if overflow else good + 1
                scale *= skip if overflow else grow if good == at else 1
                good %= at
            return torch.tensor(used)

        return scales

    mistakes = [
        (rule(forget=False), "after an overflow the count of good steps starts anew"),
        (rule(at=1), "it doubles after three good steps in a row, not after each"),
        (rule(skip=1.0), "an overflow must halve the scale"),
        (rule(grow=1.0), "three good steps in a row must double the scale"),
        (lambda x: rule()(torch.cat([x, x[:1]]))[1:], "return the scale that each "
         "step used, not the one after it"),
    ]  # fmt: skip
    flags = ([1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1, 0], [0, 0, 0, 0, 0, 0, 1, 1, 0, 0, 0, 0])
    return compare(answer, rule(), [torch.tensor(case) for case in flags], mistakes)


@exercise
def check_make_it_fit(answer):
    """4.6: settings with which 32 completions of 1,536 tokens fit on a T4."""

    def needs(changes: dict) -> tuple[str, float]:
        changes = {"max_completion_length": 1536} | changes
        moment, most = peak(memory_budget(PROFILES["t4"], gpu=True, **changes))
        return moment, most / GIB

    at_once, times = "per_device_train_batch_size", "gradient_accumulation_steps"
    if not isinstance(answer, dict) or not {at_once, times} <= answer.keys():
        return f"expected a dict that sets {at_once}, {times} and what else it takes"
    if other := sorted(answer.keys() - {at_once, times, "gradient_checkpointing"}):
        return f"{other[0]} is not to be changed"
    if answer[at_once] * answer[times] != 32:
        return f"{answer[at_once]} × {answer[times]} are not 32 completions a step"
    moment, most = needs(answer)
    if most > T4_GIB - 0.5:
        return f"that needs {most:.1f} GiB for {moment}"
    more = {at_once: 2 * answer[at_once], times: answer[times] // 2}
    more |= {"gradient_checkpointing": True}
    if answer[times] > 1 and needs(more)[1] <= T4_GIB - 0.5:
        return f"that fits, but {more[at_once]} at once can fit too"
    return None


@exercise
def check_article_run(answer):
    """5.1: completions and problems in a step of the article's run, and its steps."""
    right = {"completions": 8, "problems": 2, "steps": 10}
    hints = {
        ("completions", 4): "4 go through at once; how many times in a step?",
        ("problems", 8): "not every completion has a problem of its own",
        ("problems", 4): "4 is the size of a group; how many groups are there?",
        ("steps", 20): "a step uses more than one problem",
        ("steps", 2.5): "20 problems are not 20 completions",
    }
    return match(answer, right, hints)


@exercise
def check_largest_batch(answer):
    """5.2: completions at once on a T4 without gradient checkpointing."""

    def needs(batch: int) -> float:
        changes = {"per_device_train_batch_size": batch}
        changes["gradient_accumulation_steps"] = 32 // batch
        changes["gradient_checkpointing"] = False
        return peak(memory_budget(PROFILES["t4"], **changes))[1] / GIB

    batch, limit = int(answer), T4_GIB - 0.5
    if batch not in (1, 2, 4, 8, 16, 32):
        return "expected one of 1, 2, 4, 8, 16 and 32"
    if needs(batch) <= limit:
        more = batch < 32 and needs(2 * batch) <= limit
        return f"{batch} fit, but so do {2 * batch}" if more else None
    return f"without checkpointing {batch} need {needs(batch):.1f} GiB"


@exercise
def check_advantages(answer):
    """5.3: the advantages of one group."""

    def centred(rewards: torch.Tensor) -> torch.Tensor:
        return rewards - rewards.mean()

    rewards = [[0.0, 0.0, 0.0, 4.0], [0.5, 2.5, 3.5, 1.0, 1.0], [1.0, 1.0, 1.0, 1.0]]
    mistakes = [
        (lambda r: centred(r) / (r.std(correction=0) + 1e-4), "that std divides by n"),
        (lambda r: centred(r) / r.std(), "a group without spread divides by zero"),
        (centred, "this is the distance from the mean; the spread is missing"),
        (lambda r: r / (r.std() + 1e-4), "the mean of the group is not taken off"),
        (lambda r: -centred(r) / (r.std() + 1e-4), "the sign is turned round"),
    ]

    def right(rewards: torch.Tensor) -> torch.Tensor:
        return centred(rewards) / (rewards.std() + 1e-4)

    return compare(answer, right, [torch.tensor(group) for group in rewards], mistakes)


@exercise
def check_gain(answer):
    """6.1: gain in points, and % of the problems that changed, from four counts."""
    gain, changed = (round(float(part), 6) for part in answer)
    hints = {
        35: "those newly wrong count too",
        36: "that is a number of problems; points are % of all 120",
        0.3: "that is a fraction of 1; points are hundredths",
        55: "that is the rate after training; what was it before?",
    }
    if gain != 30:
        return f"gain: {hints.get(gain, 'newly right minus newly wrong, of 120')}"
    if changed == 30:
        return "changed: that is the gain; newly wrong problems changed too"
    return None if changed == 40 else "changed: newly right and newly wrong, of 120"


@exercise
def check_claims(answer):
    """6.2: which of four claims a report supports."""
    hints = {
        "A": "the whole interval of lenient on test is above 0",
        "B": "the interval on transfer holds 0",
        "C": "from -1 to 19 points: not shown to be there is not shown to be absent",
        "D": "lenient needs no tag: what part of the gain did it not see?",
    }
    return match(answer, {"A": True, "B": False, "C": False, "D": True}, hints)


@exercise
def check_problems_needed(answer):
    """6.3: problems to see a gain of 5 points where 30% of them change."""
    right = 2.8**2 * (0.30 - 0.05**2) / 0.05**2
    mistakes = {
        1.96**2 / 2.8**2: "with 1.96 the gain is seen half of the time, not 4 in 5",
        1e-4: "5 points are 0.05 where shares are fractions of 1",
        0.42 / 0.2975: "that is for two different sets of problems",
    }
    mistakes = {right * ratio: message for ratio, message in mistakes.items()}
    return near(answer, right, mistakes, "expected spread², times (2.8 / d)²", 0.02)


@exercise
def check_curves(answer):
    """6.4: what three pairs of pass@k curves say."""
    wanted = {"A": "more often", "B": "new", "C": "narrower"}
    hints = {
        "A": "pass@1 rose, but which problems did 16 tries solve that they did not?",
        "B": "pass@16 rose by 20 points: were those problems in reach before?",
        "C": "pass@16 fell: does it still reach all that it reached?",
    }
    return match(answer, wanted, hints)


@exercise
def check_times_likelier(answer):
    """6.5: how many times likelier a token became, from -3.0 to -0.5 nats."""
    mistakes = {
        2.5: "that is the difference of the logarithms; undo the logarithm",
        6: "logarithms are subtracted, not divided",
        10**2.5: "these are natural logarithms, not powers of 10",
    }
    return near(answer, 12.18, mistakes, "expected exp(after - before)")


# Of recorded/sick/: the runs that exercise 5.4 shows, by letter.
PATIENTS = {"A": "length_creeping", "B": "gradient_exploding", "C": "no_variance"}


@exercise
def check_diagnoses(answer):
    """5.4: what is wrong with three runs."""
    known = ["no variance", "everything cut off", "entropy collapsed"]
    known += ["gradient exploding", "length creeping", "reward hacked"]
    hints = {
        ("A", "everything cut off"): "almost half are cut off at the end: why?",
        ("A", "reward hacked"): "what grows together with the reward?",
        ("B", "reward hacked"): "the reward was that large from the first step on",
        ("C", "entropy collapsed"): "it hesitates as much at the end as at the start",
        ("C", "reward hacked"): "the reward does not rise",
    }
    hints |= dict.fromkeys("ABC", "which column stands out, and which one moves?")
    if isinstance(answer, dict) and not set(answer.values()) <= set(known):
        return f"expected one of {', '.join(known)} for each"
    right = {name: run.replace("_", " ") for name, run in PATIENTS.items()}
    return match(answer, right, hints)


@exercise
def check_flops(answer):
    """8.1: FLOP of one forward pass that scores a group of 4."""

    def flops(through: int, scored: int) -> float:
        return 2 * 100e6 * through + 2 * 20e6 * scored

    mistakes = {
        flops(600, 600): "that is stock TRL on a CPU: every token, every row",
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
def check_group_mask(answer):
    """8.2: which token of a packed group may see which."""

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
    """8.3: the position ids of a packed group, from the lengths of its parts."""

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
    """8.4: a step of 10 + 5 + 12 s, the last two parts 10 times faster."""
    mistakes = {
        10: "generation stays as slow as it was",
        27 / 10: "that is the bound, were scoring free",
        (10 + 17 * 10) / 27: "speed-ups cannot be averaged; add up the seconds",
        11.7: "those are the seconds that are left",
        7: "that is the mean of three speed-ups; add up the seconds",
        11.7 / 27: "that is the share of the time that is left; turn it over",
    }
    return near(answer, 27 / 11.7, mistakes, "expected old seconds / new seconds")
