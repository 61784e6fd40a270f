"""GRPO in plain tensors: advantages, ratio, clip, KL and loss, as TRL 1.16 has them.

Group Relative Policy Optimization: DeepSeekMath (https://arxiv.org/abs/2402.03300).
Shapes: `batch` counts completions, those of a group one after the other; `tokens` the
places of the longest completion. tests/engine/test_grpo.py compares it with TRL.
"""

import torch
from torch import Tensor

from . import CourseError

SCALES, LEVELS = ("group", "batch", "none"), ("token", "sequence")
LOSS_TYPES = ("grpo", "bnpo", "dr_grpo", "dapo")


def check(name: str, value: str, known: tuple[str, ...]) -> None:
    """Raise CourseError unless a setting has a known value."""
    if value not in known:
        raise CourseError(f"{name} is {value!r}; use one of {', '.join(known)}")


def group_advantages(
    rewards: Tensor, num_generations: int, scale_rewards: str = "group"
) -> Tensor:
    """Return how much better each completion is than its group, `(batch,)`.

    Reward minus the group's mean, by 1e-4 plus the standard deviation (n - 1) of the
    group (DeepSeekMath, section 4.1.2), the batch (https://arxiv.org/abs/2508.08221) or
    none (https://arxiv.org/abs/2503.20783). Raises CourseError for a part of a group.
    """
    check("scale_rewards", scale_rewards, SCALES)
    if num_generations < 2 or len(rewards) % num_generations:
        raise CourseError(
            f"{len(rewards)} rewards are no whole groups of {num_generations} (2 or "
            "more); give the rewards of each group one after the other"
        )
    groups = rewards.view(-1, num_generations)
    centred = groups - groups.mean(dim=1, keepdim=True)
    if scale_rewards == "none":
        return centred.flatten()
    std = rewards.std() if scale_rewards == "batch" else groups.std(dim=1, keepdim=True)
    return (centred / (std + 1e-4)).flatten()


def completion_logps(model, batch: dict, temperature: float = 1.0) -> Tensor:
    """Return the log-probability of each completion token (padding: 0).

    Of `batch`, takes `prompt_ids` and `completion_ids` and the `_mask` of each.
    """
    ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1)
    mask = torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1)
    keep = batch["completion_ids"].shape[1] + 1  # logits score the token after theirs
    out = model(ids, attention_mask=mask, logits_to_keep=keep, use_cache=False)
    logps = (out.logits[:, :-1].float() / temperature).log_softmax(dim=-1)
    logps = logps.gather(-1, batch["completion_ids"][..., None])[..., 0]
    return logps.masked_fill(batch["completion_mask"] == 0, 0)


def importance_ratio(
    logps: Tensor, old_logps: Tensor, completion_mask: Tensor, level: str = "token"
) -> Tensor:
    """Return how many times likelier a token is than when it was drawn.

    `token`: `(batch, tokens)`, PPO (https://arxiv.org/abs/1707.06347); `sequence`:
    their geometric mean, `(batch, 1)`, GSPO (https://arxiv.org/abs/2507.18071).
    """
    check("importance_sampling_level", level, LEVELS)
    log_ratio = logps - old_logps
    if level == "sequence":
        length = completion_mask.sum(dim=1, keepdim=True).clamp(min=1)
        log_ratio = (log_ratio * completion_mask).sum(dim=1, keepdim=True) / length
    return log_ratio.exp()


def clipped_loss(
    ratio: Tensor, advantages: Tensor, epsilon_low=0.2, epsilon_high=0.2
) -> Tensor:
    """Return -min(ratio A, clip(ratio, 1 - low, 1 + high) A), the shape of `ratio`.

    PPO, equation 7; two epsilons: DAPO (https://arxiv.org/abs/2503.14476), section 3.1.
    """
    advantages = advantages[:, None]
    clipped = ratio.clamp(1 - epsilon_low, 1 + epsilon_high)
    return -torch.min(ratio * advantages, clipped * advantages)


def kl_k3(logps: Tensor, ref_logps: Tensor) -> Tensor:
    """Return the estimate k3 (≥ 0) of KL(policy || reference) at each token.

    DeepSeekMath, equation 4; http://joschu.net/blog/kl-approx.html.
    """
    log_ratio = ref_logps - logps
    return log_ratio.exp() - log_ratio - 1


def reduce_tokens(
    per_token_loss: Tensor,
    completion_mask: Tensor,
    loss_type: str = "dapo",
    max_completion_length: int | None = None,
    num_items_in_batch: int | Tensor | None = None,
    gradient_accumulation_steps: int = 1,
) -> Tensor:
    """Return the loss of a micro-batch; those of an optimizer step add up to its loss.

    `grpo`: mean of each completion, then of the completions (DeepSeekMath, equation 3);
    `bnpo`: mean of the micro-batch's tokens; `dr_grpo`: sum, by completions ×
    `max_completion_length` (https://arxiv.org/abs/2503.20783); `dapo`: sum, by the
    step's tokens, `num_items_in_batch` (https://arxiv.org/abs/2503.14476). Raises
    CourseError where one is missing.
    """
    check("loss_type", loss_type, LOSS_TYPES)
    masked = per_token_loss * completion_mask
    if loss_type == "dapo" and num_items_in_batch is None:
        raise CourseError("dapo wants num_items_in_batch, the step's tokens")
    if loss_type == "dr_grpo" and max_completion_length is None:
        raise CourseError("dr_grpo wants max_completion_length")
    if loss_type == "dapo":
        return masked.sum() / max(num_items_in_batch, 1)
    if loss_type == "grpo":
        lengths = completion_mask.sum(dim=1).clamp(min=1)
        loss = (masked.sum(dim=1) / lengths).mean()
    elif loss_type == "bnpo":
        loss = masked.sum() / completion_mask.sum().clamp(min=1)
    else:
        loss = masked.sum() / (len(masked) * max_completion_length)
    return loss / gradient_accumulation_steps


def grpo_loss(
    per_token_logps: Tensor,
    advantages: Tensor,
    completion_mask: Tensor,
    old_per_token_logps: Tensor | None = None,
    ref_per_token_logps: Tensor | None = None,
    beta: float = 0.0,
    epsilon_low: float = 0.2,
    epsilon_high: float = 0.2,
    importance_sampling_level: str = "token",
    use_bias_correction_kl: bool = True,
    **reduction,
) -> Tensor:
    """Return GRPO's loss of a micro-batch; `reduction` goes to `reduce_tokens`.

    Without `old_per_token_logps` the policy is the one that drew the tokens: the ratio
    is 1, its gradient is not 0. The KL is k3, by default times the ratio, so that its
    gradient is right too (DeepSeek-V3.2, https://arxiv.org/abs/2512.02556).
    """
    old, level = old_per_token_logps, importance_sampling_level
    old = per_token_logps.detach() if old is None else old
    ratio = importance_ratio(per_token_logps, old, completion_mask, level)
    per_token_loss = clipped_loss(ratio, advantages, epsilon_low, epsilon_high)
    if beta:
        if ref_per_token_logps is None:
            raise CourseError("beta is not 0: ref_per_token_logps are wanted")
        kl = kl_k3(per_token_logps, ref_per_token_logps)
        kl = kl * ratio if use_bias_correction_kl else kl
        per_token_loss = per_token_loss + beta * kl
    return reduce_tokens(per_token_loss, completion_mask, **reduction)
