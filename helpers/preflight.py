"""The preflight: is this recipe going to work here? It tries one step and undoes it."""

import math

import torch
from trl import GRPOTrainer

from . import GIB, CourseError
from .profiles import Profile

AFRESH = "Load the model afresh and build the trainer again."
FP32 = "Load the model in fp32, or take another one."


def preflight(trainer: GRPOTrainer, profile: Profile) -> None:
    """Check dtypes, attention, logits and one optimizer step before a run.

    Takes what `build_trainer` returned, and the first 8 of its problems. Weights and
    random numbers are afterwards as they were. Raises CourseError with the remedy.
    """
    model, device = trainer.model, trainer.args.device
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    check_dtypes(trainer, list(trained.values()))
    before = {name: p.detach().clone() for name, p in trained.items()}
    mode = model.training
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            inputs = first_prompts(trainer)
            check_logits(trainer, *inputs)
            norm = try_step(trainer, list(trained.values()), *inputs)
        changed = sum(not torch.equal(p, before[name]) for name, p in trained.items())
    except torch.OutOfMemoryError as error:
        smaller = "lower per_device_train_batch_size, raise gradient_accumulation_steps"
        raise CourseError(f"the GPU's memory is full: {smaller}") from error
    finally:
        model.train(mode)
        for name, p in trained.items():
            p.grad = None
            p.data.copy_(before[name])
    if not changed:
        rate = f"learning_rate={trainer.args.learning_rate:g}"
        raise CourseError(f"a step with {rate} changes nothing: raise learning_rate")
    tensors = f"{changed} of {len(trained)} adapter tensors"
    print(f"one step: gradient norm {norm:.3g}, {tensors} changed, and put back")
    if device.type == "cuda":
        most, left = torch.cuda.max_memory_allocated(), torch.cuda.mem_get_info()[0]
        print(f"GPU: {most / GIB:.2f} GiB at most, {left / GIB:.2f} GiB left")


def check_dtypes(trainer: GRPOTrainer, trained: list) -> None:
    """Print each kind of weight's dtype and the attention; CourseError if one is bad."""
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


def first_prompts(trainer: GRPOTrainer) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the ids and mask of the first 8 problems, padded on the left."""
    layout = {"padding": True, "padding_side": "left", "add_generation_prompt": True}
    layout |= {"return_tensors": "pt", "return_dict": True}
    chats = trainer.train_dataset["prompt"][:8]
    batch = trainer.processing_class.apply_chat_template(chats, **layout)
    return batch["input_ids"].to(trainer.args.device), batch["attention_mask"].to(
        trainer.args.device
    )


def check_logits(trainer: GRPOTrainer, ids: torch.Tensor, mask: torch.Tensor) -> None:
    """Raise CourseError unless the model's logits are finite."""
    model = trainer.model.eval()
    with torch.no_grad(), trainer.accelerator.autocast():
        logits = model(ids, attention_mask=mask, logits_to_keep=1).logits
    print(f"logits: {str(logits.dtype).removeprefix('torch.')}")
    if not torch.isfinite(logits).all():
        every = model.named_parameters()
        bad = next((n for n, p in every if not torch.isfinite(p).all()), None)
        why = f"nor is the weight {bad}. {AFRESH}"
        why = why if bad else f"the model overflows. {FP32}"
        raise CourseError(f"the logits are not finite: {why}")


def try_step(trainer: GRPOTrainer, weights: list, ids, mask) -> float:
    """Do one optimizer step as TRL would, and return the norm of its gradient.

    The prompts, said again, stand for completions of full length. Raises CourseError
    where the gradient is 0 or not finite.
    """
    model, args, width = trainer.model, trainer.args, trainer.args.max_completion_length
    model.train()
    if args.gradient_checkpointing:
        model.gradient_checkpointing_enable(args.gradient_checkpointing_kwargs)
    said = ids.repeat(1, width // ids.shape[1] + 1)[:, :width]
    ids, mask = torch.cat([ids, said], 1), torch.cat([mask, torch.ones_like(said)], 1)
    # Weight decay would change an adapter that has no gradient.
    optimizer = torch.optim.AdamW(weights, lr=args.learning_rate, weight_decay=0.0)
    gpu = args.device.type == "cuda"
    # TRL's own scaler begins at 2**16 and skips steps until the scale fits.
    scaler = torch.amp.GradScaler(args.device.type, 2.0**10, enabled=gpu and args.fp16)
    if gpu:
        torch.cuda.reset_peak_memory_stats()
    for rows in torch.arange(len(ids)).split(args.per_device_train_batch_size):
        score = trainer._get_per_token_logps_and_entropies
        logprobs, *_ = score(model, ids[rows], mask[rows], width, compute_entropy=True)
        advantages = (1.0 - 2.0 * (rows % 2)).to(args.device)[:, None]
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
