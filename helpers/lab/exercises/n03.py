"""The checks of notebook 03, GRPO from scratch."""

import torch

from . import compare, exercise, match, near, pair


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
