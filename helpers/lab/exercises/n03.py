"""The checks of notebook 03, GRPO from scratch."""

import copy
from collections.abc import Callable

import torch

from . import NotDone, compare, exercise, match, near, pair


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
def check_whole_loss(answer):
    """3.4: GRPO's loss of a group: new, old, mask `(n, tokens)`, rewards `(n,)`."""
    rewards = torch.tensor([4.0, 2.0, 2.75, 0.0])
    mask = (torch.arange(4) < torch.tensor([[4], [3], [4], [1]])).float()
    lengths, everywhere = mask.sum(1), torch.ones(4, 4)
    spread = rewards.std() + 1e-4
    right_a = (rewards - rewards.mean()) / spread
    large = (rewards - rewards.mean()) / (rewards.std(correction=0) + 1e-4)

    def tokens(new, old, a, low=0.8, high=1.2):
        ratio = (new - old).exp()
        return -torch.min(ratio * a, ratio.clamp(low, high) * a)

    def loss(a=right_a[:, None], mask=mask, **limits):
        return lambda p: (tokens(*p, a, **limits) * mask).sum() / mask.sum()

    right, wide = loss(), {"low": 0.0, "high": 1e9}
    always = lambda p: (p[0] - p[1]).exp().clamp(0.8, 1.2)  # noqa: E731
    rows = lambda p: (tokens(*p, right_a[:, None]) * mask).sum(1) / lengths  # noqa: E731
    mistakes = [
        (lambda p: -right(p), "a loss is minus the objective"),
        (loss((rewards / spread)[:, None]), "subtract the group's mean"),
        (loss(rewards[:, None]), "these are rewards, not advantages"),
        (loss((right_a * spread)[:, None]), "divide by the standard deviation too"),
        (loss(large[:, None]), "std() divides by n - 1: leave it so"),
        (loss(right_a[None]), "each token gets its completion's: advantages[:, None]"),
        (loss(mask=everywhere), "the mask is not used"),
        (lambda p: right(p) * mask.mean(), "divide by mask.sum(): padding is no token"),
        (lambda p: rows(p).mean(), "a mean of means is grpo's; here all tokens count"),
        (loss(**wide), "nothing is clipped here"),
        (
            lambda p: -(always(p) * right_a[:, None] * mask).sum() / mask.sum(),
            "that always clips: where is min?",
        ),
        (lambda p: right(p.flip(0)), "the ratio is new / old"),
    ]
    generator = torch.Generator().manual_seed(0)
    old = -2 * torch.rand(4, 4, generator=generator)
    both = torch.stack([old + torch.randn(4, 4, generator=generator) / 2, old])
    call = lambda p: answer(p[0], p[1], rewards.clone(), mask.clone())  # noqa: E731
    if wrong := compare(call, right, [both], mistakes):
        return wrong.rpartition("]]]: ")[2]  # without 32 log-probabilities
    leaves = [both[0].clone().requires_grad_() for _ in range(2)]
    for leaf, function in zip(leaves, (call, right), strict=True):
        found = function([leaf, both[1]])
        if not found.requires_grad:
            return "no gradient reaches new: detach nothing here"
        found.backward()
    same = torch.allclose(leaves[0].grad, leaves[1].grad, atol=1e-6)
    return None if same else "the value is right, its gradient is not"


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


def tiny_model():
    """Return a language model of 16 tokens that is ready at once; 2 ends a text."""
    from transformers import LlamaConfig, LlamaForCausalLM  # takes seconds

    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2}
    config = LlamaConfig(vocab_size=16, num_hidden_layers=1, **sizes)
    return LlamaForCausalLM(config).eval()


def expected_move(
    model, prompt, group: tuple, centre=True, scaled=True, masked=True, sign=1
) -> torch.Tensor:
    """Return how a step of plain gradient descent, rate 1, moves all weights.

    `group` is (ids, mask, rewards); the switches take a piece of GRPO away.
    """
    ids, mask, rewards = group
    texts = torch.cat([prompt.expand(len(ids), -1), ids], dim=1)
    logps = model(texts).logits[:, prompt.shape[1] - 1 : -1].log_softmax(-1)
    logps = logps.gather(-1, ids[..., None])[..., 0]
    a = rewards - rewards.mean() if centre else rewards
    a = a / (rewards.std() + 1e-4) if scaled else a
    mask = mask if masked else torch.ones_like(mask)
    objective = sign * (logps * a[:, None] * mask).sum() / mask.sum()
    grads = torch.autograd.grad(objective, list(model.parameters()))
    return torch.cat([grad.flatten() for grad in grads])


MISSING = {
    "sign": (-1, "a loss is minus the objective: this step goes the wrong way"),
    "centre": (False, "subtract the group's mean from the rewards"),
    "scaled": (False, "divide by the group's standard deviation"),
    "masked": (False, "the mask is not used in the loss"),
}


@exercise
def check_own_step(answer):
    """3.8: a step (model, optimizer, prompt, pay) that returns the mean reward.

    A tiny model takes two of them; each must move its weights as the gradient says.
    """
    if not callable(answer):
        return "pass the function itself, not what it returns"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return fault_of_steps(answer, tiny_model())


def fault_of_steps(step: Callable, model) -> str | None:
    """Return what is wrong with two steps of a model, None where nothing is."""
    optimizer, prompt = torch.optim.SGD(model.parameters(), 1.0), torch.arange(5, 9)
    groups: list[tuple] = []
    former = 0

    def pay(ids, mask):
        groups.append((ids, mask, torch.arange(len(ids)).remainder(5) + 1.0))
        return groups[-1][2].clone()

    def near(one: torch.Tensor, other: torch.Tensor) -> bool:
        return bool((one - other).norm() <= 1e-2 * other.norm())

    for number in (1, 2):
        start = copy.deepcopy(model)
        mean = step(model, optimizer, prompt[None], pay)
        if mean is ...:
            raise NotDone
        if len(groups) != number:
            return "call pay once in each step"
        pairs = zip(model.parameters(), start.parameters(), strict=True)
        moved = torch.cat([(new - old).detach().flatten() for new, old in pairs])
        if not moved.any():
            return "no weight moved: are backward() and optimizer.step() there?"
        wanted = expected_move(start, prompt[None], groups[-1])
        if not near(moved, wanted):
            if number == 2 and near(moved, wanted + former):
                return "the former step's gradient is still there: zero_grad()"
            for name, (value, says) in MISSING.items():
                other = expected_move(start, prompt[None], groups[-1], **{name: value})
                if near(moved, other):
                    return says
            return "the weights do not move as the gradient of GRPO's loss says"
        former = wanted
    paid = groups[-1][2].mean().item()
    if mean is None or abs(float(mean) - paid) > 1e-4:
        return f"return the group's mean reward, {paid:.2f} here, not {mean}"
    return None
