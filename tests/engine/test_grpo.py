"""helpers.grpo gives the loss and the gradients of the installed GRPOTrainer.

The trainer runs its own code: data loader, advantages, shuffling, micro-batches, loss.
Only what it generates is given, so that completions end, are cut off and are padded.
"""

import itertools

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from trl import GRPOConfig, GRPOTrainer

from helpers import CourseError, grpo
from helpers.models import load_model_and_tokenizer

# Completions of each prompt with their rewards: a wide spread, a small one, none. Those
# of more than seven tokens are cut off there, the others end with the end token.
WRITTEN = {
    "The capital of France is": {
        " Paris, which is also its largest city.": 4.0,
        " Paris.": 0.5,
        " a city of two million people, and": 1.0,
        " the city of Paris.": 2.5,
    },
    "Once upon a time, there": {
        " was a little girl who lived in a village": 0.50,
        " was a king.": 0.51,
        " lived an old man.": 0.52,
        " were three bears in a small house in": 0.50,
    },
    "One two three four five six seven": {
        " eight nine ten eleven twelve thirteen fourteen": 1.0,
        " eight.": 1.0,
        " eight nine ten.": 1.0,
        "": 1.0,
    },
}
REWARDS = [reward for group in WRITTEN.values() for reward in group.values()]
LONGEST, LOW, HIGH, TEMPERATURE = 7, 0.2, 0.28, 0.8
CASES = list(itertools.product(grpo.LOSS_TYPES, grpo.SCALES, (0.0, 0.3), grpo.LEVELS))


@pytest.fixture(scope="module", autouse=True)
def _quiet():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")  # of rollout_func
        yield


def completions(tokenizer) -> dict[str, list[list[int]]]:
    """The ids of each prompt's completions."""
    end = [tokenizer.eos_token_id]
    return {
        prompt: [(tokenizer(text)["input_ids"] + end)[:LONGEST] for text in group]
        for prompt, group in WRITTEN.items()
    }


def build(folder, model_folder, spread: float = 0.5, **settings):
    """Return TRL's trainer, a batch, and the reward of each completion's tokens.

    The adapters are not those of the start. The batch is the list of micro-batches that
    the trainer made, with the stored log-probs of a policy that has moved.
    """
    model, tokenizer = load_model_and_tokenizer(str(model_folder), "fp32")
    texts = completions(tokenizer)
    ids = [tuple(row) for rows in texts.values() for row in rows]
    pay = dict(zip(ids, REWARDS, strict=True))

    def rollout(prompts, trainer):
        turns = {prompt: itertools.cycle(rows) for prompt, rows in texts.items()}
        ids = [next(turns[prompt]) for prompt in prompts]
        return {
            "prompt_ids": tokenizer(prompts)["input_ids"],
            "completion_ids": ids,
            "logprobs": None,
        }

    def reward(completion_ids, **kwargs):
        return [pay[tuple(ids)] for ids in completion_ids]

    common = {"num_generations": 4, "per_device_train_batch_size": 2}
    common |= {"gradient_accumulation_steps": 6, "max_completion_length": LONGEST}
    common |= {"num_iterations": 2, "epsilon": LOW, "epsilon_high": HIGH}
    common |= {"temperature": TEMPERATURE, "gradient_checkpointing": False}
    common |= {"use_cpu": True, "bf16": False, "report_to": "none"}
    trainer = GRPOTrainer(
        model=model,
        reward_funcs=reward,
        args=GRPOConfig(str(folder), **(common | settings)),
        train_dataset=Dataset.from_dict({"prompt": list(WRITTEN)}),
        processing_class=tokenizer,
        peft_config=LoraConfig(
            task_type="CAUSAL_LM", r=4, lora_dropout=0.0, target_modules="all-linear"
        ),
        rollout_func=rollout,
    )
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, weight in trainer.model.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=spread, generator=generator)
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = (
        trainer.args.gradient_accumulation_steps
    )
    torch.manual_seed(3)
    trainer._prepare_inputs(next(iter(trainer.get_train_dataloader())))
    if trainer.num_iterations > 1:
        age(trainer._buffered_inputs)
    return trainer, trainer._buffered_inputs, pay


def age(batch: list[dict]) -> None:
    """Make the stored log-probs those of a policy from which two in three moved far."""
    generator, seen = torch.Generator().manual_seed(4), 0
    for part in batch:
        old = part["old_per_token_logps"]
        for row, advantage in zip(old, part["advantages"].sign(), strict=True):
            seen += 1
            row -= advantage * (0.6 if seen % 3 else -0.1)
        old += 0.2 * torch.randn(old.shape, generator=generator)


def gradients(model) -> dict[str, torch.Tensor]:
    """Return and clear the gradients of what is trained."""
    found = {n: p.grad for n, p in model.named_parameters() if p.requires_grad}
    model.zero_grad(set_to_none=True)
    return found


def course_batch(trainer, batch: list[dict], pay: dict) -> list[dict]:
    """The micro-batches with the course's own advantages in place of the trainer's."""
    scale = trainer.args.scale_rewards
    values = grpo.group_advantages(torch.tensor(REWARDS), 4, scale).tolist()
    known, ours = dict(zip(pay, values, strict=True)), []
    for part in batch:
        both = zip(part["completion_ids"], part["completion_mask"].bool(), strict=True)
        values = [known[tuple(ids[mask].tolist())] for ids, mask in both]
        ours.append(part | {"advantages": torch.tensor(values)})
    return ours


def course_loss(trainer, part: dict, **changes) -> torch.Tensor:
    """The loss of a micro-batch by helpers.grpo, with the trainer's settings."""
    args = trainer.args
    names = ("advantages", "completion_mask", "old_per_token_logps")
    settings = {
        "ref_per_token_logps": part.get("ref_per_token_logps"),
        "beta": args.beta,
        "epsilon_low": args.epsilon,
        "epsilon_high": args.epsilon_high,
        "importance_sampling_level": args.importance_sampling_level,
        "use_bias_correction_kl": args.use_bias_correction_kl,
        "loss_type": args.loss_type,
        "max_completion_length": args.max_completion_length,
        # TRL counts the tokens of a generation batch, which may last several steps.
        "num_items_in_batch": part["num_items_in_batch"]
        * (args.gradient_accumulation_steps / args.steps_per_generation),
        "gradient_accumulation_steps": args.gradient_accumulation_steps,
    }
    logps = grpo.completion_logps(trainer.model, part, args.temperature)
    assert not logps[part["completion_mask"] == 0].any()  # as TRL has padding
    return grpo.grpo_loss(logps, *(part.get(n) for n in names), **(settings | changes))


def differences(trainer, batch, pay, **changes) -> tuple[float, float]:
    """Relative differences, in norm: of a step's losses, of its worst gradient.

    A loss is a sum of terms of both signs; that of one micro-batch can be near 0.
    """
    losses, ours = [], []
    for part in batch:
        losses.append(trainer._compute_loss(trainer.model, part))
        losses[-1].backward()
    wanted = gradients(trainer.model)
    for part in course_batch(trainer, batch, pay):
        ours.append(course_loss(trainer, part, **changes))
        ours[-1].backward()
    got = gradients(trainer.model)
    losses, ours = torch.stack(losses).detach(), torch.stack(ours).detach()
    assert wanted.keys() == got.keys() and min(g.norm() for g in wanted.values()) > 0
    norms = [(got[name] - g).norm() / g.norm() for name, g in wanted.items()]
    both = (ours - losses).norm() / losses.norm(), torch.stack(norms).max()
    return tuple(x.nan_to_num(torch.inf).item() for x in both)


def degenerate(trainer, batch: list[dict]) -> list[str]:
    """What would make an agreement worth nothing."""
    args, end = trainer.args, trainer.processing_class.eos_token_id
    low = high = cut = 0
    masks, kl = [], []
    for part in batch:
        with torch.no_grad():
            logps = grpo.completion_logps(trainer.model, part, TEMPERATURE)
        mask, advantages = part["completion_mask"].bool(), part["advantages"][:, None]
        old, level = part["old_per_token_logps"], args.importance_sampling_level
        ratio = grpo.importance_ratio(logps, old, mask, level).expand_as(logps)
        low += (mask & (ratio < 1 - LOW) & (advantages < 0)).sum()
        high += (mask & (ratio > 1 + HIGH) & (advantages > 0)).sum()
        cut += (mask[:, -1] & (part["completion_ids"][:, -1] != end)).sum()
        masks.append(mask)
        if args.beta:
            kl.append(grpo.kl_k3(logps, part["ref_per_token_logps"])[mask].mean())
    mask, named = torch.cat(masks), dict(trainer.model.named_parameters())
    prompts = torch.cat([part["prompt_mask"] for part in batch])
    modules = trainer.model.modules()
    faults = {
        "few tokens clipped below": low < 0.1 * mask.sum(),
        "few tokens clipped above": high < 0.1 * mask.sum(),
        "no KL": args.beta and min(kl) < 0.01,
        "nothing padded": mask.all() or prompts.all(),
        "nothing cut off": cut < 2,
        "one micro-batch": len(batch) < 3,
        "dropout": any(isinstance(m, torch.nn.Dropout) and m.p for m in modules),
        "B is 0": not all(p.any() for n, p in named.items() if "lora_B" in n),
    }
    return [name for name, fault in faults.items() if fault]


def agrees(trainer, batch, pay, **changes) -> bool:
    """Whether loss and gradients are within what the course promises."""
    loss, gradient = differences(trainer, batch, pay, **changes)
    print(f"loss {loss:.1e}, gradients {gradient:.1e}")
    return loss < 1e-5 and gradient < 1e-4


@pytest.mark.filterwarnings("ignore:When using `importance_sampling_level")
@pytest.mark.parametrize("loss_type,scale,beta,level", CASES)
def test_loss_and_gradients_are_trls(
    loss_type, scale, beta, level, tiny_model, tmp_path
):
    settings = {"loss_type": loss_type, "scale_rewards": scale, "beta": beta}
    settings["importance_sampling_level"] = level
    trainer, batch, pay = build(tmp_path, tiny_model, **settings)
    assert degenerate(trainer, batch) == []
    assert agrees(trainer, batch, pay)


@pytest.mark.parametrize("loss_type", grpo.LOSS_TYPES)
@pytest.mark.parametrize(
    "settings",
    [
        {"beta": 0.3, "use_bias_correction_kl": False},
        # A generation batch that lasts three optimizer steps.
        {"gradient_accumulation_steps": 2, "steps_per_generation": 6},
    ],
    ids=["kl without ratio", "three steps a generation"],
)
def test_other_settings_agree_too(loss_type, settings, tiny_model, tmp_path):
    trainer, batch, pay = build(tmp_path, tiny_model, loss_type=loss_type, **settings)
    assert agrees(trainer, batch, pay)


def test_on_policy_without_stored_log_probs(tiny_model, tmp_path):
    settings = {"num_iterations": 1, "beta": 0.3}
    trainer, batch, pay = build(tmp_path, tiny_model, **settings)
    assert all("old_per_token_logps" not in part for part in batch)
    assert agrees(trainer, batch, pay)


def biased(rewards, n, scale):
    groups = rewards.view(-1, n)
    std = groups.std(1, correction=0, keepdim=True)
    return ((groups - groups.mean(1, keepdim=True)) / (std + 1e-4)).flatten()


def without_1e4(rewards, n, scale):
    groups = rewards.view(-1, n)
    centred = groups - groups.mean(1, keepdim=True)
    return (centred / groups.std(1, keepdim=True)).nan_to_num().flatten()


def padded_too(loss, mask, loss_type, **sizes):
    return right_reduce(loss * mask, torch.ones_like(mask), loss_type, **sizes)


def own_tokens(loss, mask, loss_type, **sizes):
    sizes |= {"num_items_in_batch": 6 * mask.sum()}  # of this micro-batch alone
    return right_reduce(loss, mask, loss_type, **sizes)


def own_longest(loss, mask, loss_type, **sizes):
    sizes |= {"max_completion_length": mask.sum(1).max()}
    return right_reduce(loss, mask, loss_type, **sizes)


def right_reduce(*args, **sizes):
    return RIGHT["reduce_tokens"](*args, **sizes)


def wrong_side(ratio, advantages, low, high):
    advantages = advantages[:, None]
    return -torch.max(ratio * advantages, ratio.clamp(1 - low, 1 + high) * advantages)


def epsilons_swapped(ratio, advantages, low, high):
    return RIGHT["clipped_loss"](ratio, advantages, high, low)


def other_direction(logps, ref):
    return RIGHT["kl_k3"](ref, logps)


RIGHT = {n: getattr(grpo, n) for n in ("reduce_tokens", "clipped_loss", "kl_k3")}
WRONG = {
    "biased std": ("group_advantages", biased, "dapo"),
    "no 1e-4": ("group_advantages", without_1e4, "dapo"),
    "grpo over padded tokens": ("reduce_tokens", padded_too, "grpo"),
    "bnpo over padded tokens": ("reduce_tokens", padded_too, "bnpo"),
    "dapo over the micro-batch": ("reduce_tokens", own_tokens, "dapo"),
    "dr_grpo over the longest": ("reduce_tokens", own_longest, "dr_grpo"),
    "clip on the wrong side": ("clipped_loss", wrong_side, "dapo"),
    "epsilons swapped": ("clipped_loss", epsilons_swapped, "dapo"),
    "KL the other way": ("kl_k3", other_direction, "dapo"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_variant_is_caught(name, tiny_model, tmp_path, monkeypatch):
    function, wrong, loss_type = WRONG[name]
    settings = {"loss_type": loss_type, "beta": 0.3}
    trainer, batch, pay = build(tmp_path, tiny_model, **settings)
    assert agrees(trainer, batch, pay)
    monkeypatch.setattr(grpo, function, wrong)
    assert not agrees(trainer, batch, pay)


def test_a_kl_without_its_ratio_is_caught(tiny_model, tmp_path):
    trainer, batch, pay = build(tmp_path, tiny_model, beta=0.3)
    assert not agrees(trainer, batch, pay, use_bias_correction_kl=False)


@pytest.mark.parametrize(
    "call,says",
    [
        (lambda x: grpo.group_advantages(x, 3), "4 rewards are no whole groups of 3"),
        (lambda x: grpo.group_advantages(x, 1), "4 rewards are no whole groups of 1"),
        (lambda x: grpo.group_advantages(x, 2, "all"), "scale_rewards is 'all'; use"),
        (lambda x: grpo.importance_ratio(x, x, x, "word"), "importance_sampling_level"),
        (lambda x: grpo.reduce_tokens(x, x, "mean"), "loss_type is 'mean'; use one of"),
        (lambda x: grpo.reduce_tokens(x, x, "dapo"), "dapo wants num_items_in_batch"),
        (lambda x: grpo.reduce_tokens(x, x, "dr_grpo"), "dr_grpo wants max_complet"),
        (lambda x: grpo.grpo_loss(x[None], x[:1], x[None], beta=1.0), "ref_per_token"),
    ],
)
def test_a_setting_that_cannot_be_is_said(call, says):
    with pytest.raises(CourseError, match=says):
        call(torch.ones(4))
