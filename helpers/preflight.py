"""The preflight: is this recipe going to work here?

It tries a batch of the evaluation, a batch of completions and an optimizer step, says
how much memory each takes, and leaves everything as it was.
"""

import dataclasses
import math

import psutil
import torch
from trl import GRPOTrainer

from . import GIB, CourseError
from .errors import is_memory_full
from .generation import LiveBar, generate
from .profiles import Profile
from .training import MemoryPeak, build_trainer, free_memory

AFRESH = "Load the model afresh and build the trainer again."
FP32 = "Load the model in fp32, or take another one."
# What is tried, and the setting that makes it smaller.
SMALLER = {
    "evaluation": "eval_batch_size",
    "generation": "num_generations, max_completion_length",
    "one step": "per_device_train_batch_size",
}


class MemoryFull(CourseError):
    """A part of the preflight did not fit; `part` is one of SMALLER."""

    def __init__(self, part: str):
        super().__init__(f"{part}: the memory is full. Lower {SMALLER[part]}.")
        self.part = part


def fit(
    profile: Profile, run, model, tokenizer, questions, **settings
) -> tuple[GRPOTrainer, Profile]:
    """Return a trainer that passed the preflight, and the profile that it has.

    Where memory is full, the micro-batch or the evaluation's batch is halved, which a
    line says: a step keeps its completions. The rest is as in `build_trainer`.
    """
    while True:
        trainer = build_trainer(profile, run, model, tokenizer, questions, **settings)
        try:
            preflight(trainer, profile)
            return trainer, profile
        except MemoryFull as full:
            grpo, smaller = dict(profile.grpo), profile.eval_batch_size // 2
            name = "per_device_train_batch_size"
            if full.part == "evaluation" and smaller:
                profile = dataclasses.replace(profile, eval_batch_size=smaller)
            elif full.part == "one step" and not grpo[name] % 2:
                grpo[name] //= 2
                grpo["gradient_accumulation_steps"] *= 2
                profile, smaller = dataclasses.replace(profile, grpo=grpo), grpo[name]
            else:
                raise
            print(f"{full} Tried again with half of it, {smaller}.")
            model = trainer.model.unload()
        del trainer
        free_memory()


def preflight(trainer: GRPOTrainer, profile: Profile) -> None:
    """Check dtypes, attention, logits, memory and one optimizer step before a run.

    Takes what `build_trainer` returned. Weights and random numbers are afterwards as
    they were. Raises CourseError with the remedy, MemoryFull where memory is full.
    """
    model, device = trainer.model, trainer.args.device
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    check_dtypes(trainer, list(trained.values()))
    before = {name: p.detach().clone() for name, p in trained.items()}
    mode, memory, used = model.training, MemoryPeak(device), {}
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            for part in LiveBar(SMALLER, desc="preflight", leave=False):
                memory.peak()
                try:
                    if part == "evaluation":
                        try_evaluation(trainer, profile)
                    elif part == "generation":
                        try_generation(trainer)
                    else:
                        norm = try_step(trainer, list(trained.values()))
                except (RuntimeError, MemoryError) as error:
                    if not is_memory_full(error):
                        raise
                    raise MemoryFull(part) from error
                used[part] = memory.peak()
        changed = sum(not torch.equal(p, before[name]) for name, p in trained.items())
    finally:
        memory.close()
        model.train(mode)
        for name, p in trained.items():
            p.grad = None
            p.data.copy_(before[name])
        free_memory()
    if not changed:
        rate = f"learning_rate={trainer.args.learning_rate:g}"
        raise CourseError(f"a step with {rate} changes nothing: raise learning_rate")
    tensors = f"{changed} of {len(trained)} adapter tensors"
    print(f"one step: gradient norm {norm:.3g}, {tensors} changed, and put back")
    parts = ", ".join(f"{part} {most:.2f}" for part, most in used.items())
    left = psutil.virtual_memory().available
    left = torch.cuda.mem_get_info()[0] if device.type == "cuda" else left
    print(f"memory: GiB at most for {parts}; {left / GIB:.2f} free now")


def check_dtypes(trainer: GRPOTrainer, trained: list) -> None:
    """Print the dtypes of weights and the attention; CourseError if one is bad."""
    model, args = trainer.model, trainer.args
    if not trained:
        raise CourseError(f"nothing is trained: no weight has requires_grad. {AFRESH}")
    kinds = {
        "base weights": {p.dtype for p in model.parameters() if not p.requires_grad},
        "norms": {p.dtype for n, p in model.named_parameters() if "norm" in n},
        "adapters": {p.dtype for p in trained},
    }
    for kind, dtypes in kinds.items():
        print(f"{kind}: {', '.join(str(x).removeprefix('torch.') for x in dtypes)}")
    emulated = args.device.type == "cuda" and not torch.cuda.is_bf16_supported(False)
    if args.bf16 and (emulated or torch.float16 in kinds["base weights"]):
        why = "this GPU only emulates bf16" if emulated else "the base weights are fp16"
        raise CourseError(f"bf16=True, but {why}: set fp16=True, bf16=False")
    if kinds["adapters"] != {torch.float32}:
        raise CourseError(
            "the adapters are not in float32: 'Attempting to unscale FP16 gradients' "
            f"would end the run. {AFRESH} PEFT must keep autocast_adapter_dtype=True."
        )
    attention = model.config._attn_implementation
    print(f"attention: {attention}")
    if attention != "sdpa":
        way = "load the model with attn_implementation='sdpa'"
        raise CourseError(f"attention is {attention!r}, slow and large: {way}")


def longest_prompts(trainer: GRPOTrainer, count: int) -> list:
    """Return `count` of the longest chat prompts of a run, said again if too few."""
    chats = trainer.train_dataset["prompt"][:1000]
    chats = sorted(chats, key=lambda chat: len(chat[-1]["content"]), reverse=True)
    return (chats * (count // len(chats) + 1))[:count]


def try_evaluation(trainer: GRPOTrainer, profile: Profile) -> None:
    """Read a batch of the evaluation's size, check its logits, and write two tokens.

    There is room for all tokens, so memory is as large as at the end.
    """
    model, chat = trainer.model.eval(), {"add_generation_prompt": True}
    layout = chat | {"padding": True, "padding_side": "left", "return_dict": True}
    chats = longest_prompts(trainer, profile.eval_batch_size)
    to_ids = trainer.processing_class.apply_chat_template
    one = to_ids(chats[:1], **layout, return_tensors="pt").to(trainer.args.device)
    with torch.no_grad(), trainer.accelerator.autocast():
        logits = model(**one, logits_to_keep=1).logits
    print(f"logits: {str(logits.dtype).removeprefix('torch.')}")
    if not torch.isfinite(logits).all():
        every = model.named_parameters()
        bad = next((n for n, p in every if not torch.isfinite(p).all()), None)
        why = f"nor is the weight {bad}. {AFRESH}"
        why = why if bad else f"the model overflows. {FP32}"
        raise CourseError(f"the logits are not finite: {why}")
    ids = to_ids(chats, **chat, return_dict=True)["input_ids"]
    generate(model, ids, 1, 2, 0.0, trainer.eos_token_ids, room=profile.eval_new_tokens)


def try_generation(trainer: GRPOTrainer) -> None:
    """Write a generation batch as the trainer does; on a CPU two tokens, with room."""
    args, number = trainer.args, trainer.num_generations
    rows = args.per_device_train_batch_size * args.steps_per_generation
    chats = longest_prompts(trainer, math.ceil(rows / number))
    ids = trainer.processing_class.apply_chat_template(
        chats, add_generation_prompt=True, return_dict=True
    )["input_ids"]
    if args.device.type == "cpu":
        room, ends = args.max_completion_length, trainer.eos_token_ids
        generate(trainer.model, ids, number, 2, args.temperature, ends, room=room)
    else:
        repeated = [prompt for prompt in ids for _ in range(number)]
        trainer._generate_single_turn(repeated, None, {}, number)


def try_step(trainer: GRPOTrainer, weights: list) -> float:
    """Do an optimizer step on one micro-batch as TRL would; return its gradient's norm.

    Completions of full length are made of the prompts, said again. Raises CourseError
    where the gradient is 0 or not finite.
    """
    model, args, width = trainer.model, trainer.args, trainer.args.max_completion_length
    rows = args.per_device_train_batch_size
    layout = {"padding": True, "padding_side": "left", "add_generation_prompt": True}
    layout |= {"return_tensors": "pt", "return_dict": True}
    chats = longest_prompts(trainer, math.ceil(rows / trainer.num_generations))
    chats = [chat for chat in chats for _ in range(trainer.num_generations)][:rows]
    batch = trainer.processing_class.apply_chat_template(chats, **layout)
    ids, mask = (batch[x].to(args.device) for x in ("input_ids", "attention_mask"))
    said = ids.flip(1).repeat(1, width // ids.shape[1] + 1)[:, :width]
    ids, mask = torch.cat([ids, said], 1), torch.cat([mask, torch.ones_like(said)], 1)
    model.train()
    if args.gradient_checkpointing:
        model.gradient_checkpointing_enable(args.gradient_checkpointing_kwargs)
    # Weight decay would change an adapter that has no gradient.
    optimizer = torch.optim.AdamW(weights, lr=args.learning_rate, weight_decay=0.0)
    gpu = args.device.type == "cuda"
    # TRL's own scaler begins at 2**16 and skips steps until the scale fits.
    scaler = torch.amp.GradScaler(args.device.type, 2.0**10, enabled=gpu and args.fp16)
    score = trainer._get_per_token_logps_and_entropies
    with trainer.accelerator.autocast():
        logprobs, *_ = score(model, ids, mask, width, compute_entropy=True)
    # Completions of a group are alike here: only the place tells their tokens apart.
    advantages = torch.linspace(-1, 1, width, device=args.device)
    loss = -((logprobs - logprobs.detach()).exp() * advantages).mean()
    scaler.scale(loss).backward()
    scaler.unscale_(optimizer)
    norm = float(torch.nn.utils.clip_grad_norm_(weights, args.max_grad_norm))
    if not math.isfinite(norm):
        raise CourseError(f"the gradient's norm is {norm}: it overflows. {FP32}")
    if norm == 0:
        raise CourseError(f"no gradient reaches the adapters. {AFRESH}")
    scaler.step(optimizer)
    return norm
