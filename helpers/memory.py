"""What a run needs of a GPU's memory, and the preflight: the checks before it starts.

Bytes are counted from shapes, for TRL 1.16, SDPA attention, AdamW, prompts and
completions at their longest. What PyTorch keeps outside tensors (the CUDA context, gaps
between blocks) is not in them; allow half a GiB.
"""

import math

import psutil
import torch
from transformers import LlamaConfig, PreTrainedConfig, Qwen2Config
from trl import GRPOTrainer

from . import CourseError
from .fast import TILE
from .models import DTYPES
from .profiles import QWEN, QWEN_05B, SMOL, Profile, override

GIB = 2**30
T4_GIB = 14.6  # what PyTorch can use of a T4's 16 GB
# Of each model's config.json: hidden, intermediate, layers, heads, key-value heads,
# vocabulary. All three share input and output embedding.
SHAPES = {
    QWEN: (Qwen2Config, 1536, 8960, 28, 12, 2, 151_936),
    QWEN_05B: (Qwen2Config, 896, 4864, 24, 14, 2, 151_936),
    SMOL: (LlamaConfig, 576, 1536, 30, 9, 3, 49_152),
}
NAMES = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
NAMES += ("num_key_value_heads", "vocab_size")
# TRL makes logits in tiles: ChunkedLogProbFunction, _CHUNKED_LOGPROB_CHUNK_SIZE.
TILE_TOKENS, TILE_WORDS = 4096, 32_768
AFRESH = "Load the model afresh and build the trainer again."
FP32 = "Load the model in fp32, or take another one."
SMALLER = (
    "lower per_device_train_batch_size; if that is for prefill or decoding, do not "
    "raise gradient_accumulation_steps in its place"
)


def architecture(name: str) -> PreTrainedConfig:
    """Return the shapes of a profile's model as a config, without asking the Hub."""
    if name not in SHAPES:
        known = ", ".join(SHAPES)
        raise CourseError(f"no shapes of {name!r}: pass a config, or use {known}")
    kind, *shapes = SHAPES[name]
    return kind(**dict(zip(NAMES, shapes, strict=True)), tie_word_embeddings=True)


def linear_shapes(config: PreTrainedConfig) -> dict[str, tuple[int, int]]:
    """Return (inputs, outputs) of each linear map of one layer, by its name."""
    hidden, inner, _, heads, kv_heads, _ = (getattr(config, name) for name in NAMES)
    width = getattr(config, "head_dim", None) or hidden // heads
    shapes = dict.fromkeys(("k_proj", "v_proj"), (hidden, width * kv_heads))
    shapes |= dict.fromkeys(("gate_proj", "up_proj"), (hidden, inner))
    shapes |= {"q_proj": (hidden, width * heads), "o_proj": (width * heads, hidden)}
    return shapes | {"down_proj": (inner, hidden)}


def count_parameters(config: PreTrainedConfig, r: int = 0, target_modules=()) -> int:
    """Return the number of base weights, or with a rank `r` that of LoRA weights."""
    shapes, hidden = linear_shapes(config), config.hidden_size
    if r:
        layer = r * sum(sum(shapes[name]) for name in target_modules)
        return config.num_hidden_layers * layer
    layer = sum(a * b for a, b in shapes.values()) + 2 * hidden
    if config.model_type == "qwen2":  # it alone has biases
        layer += sum(shapes[name][1] for name in ("q_proj", "k_proj", "v_proj"))
    embeddings = config.vocab_size * hidden * (2 - config.tie_word_embeddings)
    return embeddings + config.num_hidden_layers * layer + hidden


def memory_budget(
    profile: Profile, config=None, gpu: bool | None = None, **changes
) -> dict[str, dict[str, float]]:
    """Return the bytes of each part at the four moments of a step that can be its peak.

    `prefill` (the prompts of a generation batch are read), `decoding` (its last token),
    `loss` (log-probs of a micro-batch), `backward` (through one layer): a moment's
    parts add up to what lives then. `changes` are settings by name (`r`, `dtype`,
    `max_completion_length` …); `config` is a transformers config in place of the
    profile's model; `gpu` tells whether TRL's GPU kernel makes the logits (by default
    if dtype is fp16). 16-bit weights are taken to run under autocast.
    """
    profile = override(profile, [f"{name}={x!r}" for name, x in changes.items()])
    config = config or architecture(profile.model)
    gpu = profile.dtype == "fp16" if gpu is None else gpu
    size = 2 if profile.dtype in ("fp16", "bf16") else 4  # bytes of a base weight
    lora, grpo, shapes = profile.lora, profile.grpo, linear_shapes(config)
    targets = lora["target_modules"]
    if unknown := sorted(set(targets) - set(shapes)):
        known = ", ".join(shapes)
        raise CourseError(f"target_modules: {unknown} is none of {known}")
    _, inner, layers, heads, _, vocabulary = (getattr(config, name) for name in NAMES)
    (hidden, query), key = shapes["q_proj"], shapes["k_proj"][1]
    prompt, new = profile.max_prompt_length, grpo["max_completion_length"]
    batch, length = grpo["per_device_train_batch_size"], prompt + new
    tokens, scored = batch * length, batch * (new if gpu else length - 1)
    # TRL generates for all micro-batches of an optimizer step at once.
    sequences = batch * grpo["gradient_accumulation_steps"]
    packed = profile.trainer == "fast" and not gpu
    prompts = sequences // grpo["num_generations"] if packed else sequences
    if packed:  # each prompt once, and all its completions behind it (fast.py)
        length = prompt + new * math.ceil(batch / prompts)
        tokens, scored = min(batch, prompts) * length, batch * new

    adapters = count_parameters(config, lora["r"], targets)
    fixed = {"weights": size * count_parameters(config), "adapters": 4 * adapters}
    fixed["optimizer"] = 8 * adapters  # AdamW's two averages in fp32
    training = fixed | {"gradients": 4 * adapters}

    # What autograd keeps of one layer, bytes a token: what both norms read, in fp32;
    # the attention's q, k, v (k and v repeated for each head), output and mask; three
    # tensors of the MLP; and what the adapters read. On a 16-bit base each of them has
    # a copy of its own, as PEFT casts it to fp32 and autocast back. Else they share.
    reads = {name: shapes[name][0] for name in targets}
    dropout = lora["lora_dropout"] > 0
    if size == 4 and not dropout:
        shared = {"q_proj": "qkv", "k_proj": "qkv", "v_proj": "qkv", "up_proj": "mlp"}
        shared |= {"gate_proj": "mlp", "down_proj": "down_proj"}  # o_proj's is kept
        reads = {shared[name]: reads[name] for name in targets if name != "o_proj"}
    layer = 8 * hidden + 4 * heads + 8
    layer += size * (4 * query + length + 3 * inner + lora["r"] * len(targets))
    layer += (size + dropout * (1 if gpu else 4)) * sum(reads.values())

    checkpointing = grpo["gradient_checkpointing"]  # a layer's input is kept, no more
    kept = tokens * layers * (size * hidden if checkpointing else layer)
    working = tokens * size * (3 * inner + hidden)  # gradients inside one MLP
    working += tokens * layer * checkpointing  # computed once more
    tile = min(scored, TILE_TOKENS) * size * TILE_WORDS
    if packed:  # a few tokens' logits, and three fp32 copies
        tile = TILE * vocabulary * (size + 3 * 4)
    elif not gpu:  # without the kernel: seven fp32 copies and a mask
        tile += min(scored, TILE_TOKENS) * 29 * min(vocabulary, TILE_WORDS)
    cache = 2 * size * key * layers * sequences  # of one token
    reading = size * prompts * prompt * (3 * inner + 4 * hidden)
    # The cache grows by copying, a tensor of one layer at a time. Logits of the last
    # token: as made, and six fp32 copies on the way to a sample.
    grown = cache * (prompt + new) * (1 + 1 / (2 * layers))
    sampling = sequences * vocabulary * (size + 6 * 4)
    read = cache * prompt * prompts / sequences
    norms = 6 * hidden  # the last norm's input, output and gradient
    return {
        "prefill": fixed | {"kv_cache": read, "activations": reading},
        "decoding": fixed | {"kv_cache": grown, "logits": sampling},
        "loss": training
        | {"activations": kept + norms * tokens, "logits": tile + norms * scored},
        "backward": training | {"activations": kept + working},
    }


def peak(budget: dict[str, dict[str, float]]) -> tuple[str, float]:
    """Return (moment, bytes) of a budget's highest moment."""
    totals = {moment: sum(parts.values()) for moment, parts in budget.items()}
    return max(totals.items(), key=lambda pair: pair[1])


def preflight(trainer: GRPOTrainer, profile: Profile) -> None:
    """Check dtypes, attention, memory, logits and one optimizer step before a run.

    Takes what `build_trainer` returned, and the first 8 of its problems. Weights and
    random numbers are afterwards as they were. Raises CourseError with the remedy.
    """
    model, args = trainer.model, trainer.args
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    if not trained:
        raise CourseError(f"nothing is trained: no weight has requires_grad. {AFRESH}")
    kinds = {
        "base weights": {p.dtype for p in model.parameters() if not p.requires_grad},
        "norms": {p.dtype for n, p in model.named_parameters() if "norm" in n},
        "adapters": {p.dtype for p in trained.values()},
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
    check_memory(trainer, profile)
    before = {name: p.detach().clone() for name, p in trained.items()}
    mode = model.training
    try:
        gpus = [args.device] if args.device.type == "cuda" else []
        with torch.random.fork_rng(gpus):
            try_step(trainer, trained, before)
    except torch.OutOfMemoryError as error:
        raise CourseError(f"the GPU's memory is full: {SMALLER}") from error
    finally:
        model.train(mode)
        for name, p in trained.items():
            p.grad = None
            p.data.copy_(before[name])


def check_memory(trainer: GRPOTrainer, profile: Profile) -> None:
    """Print what a step needs beside the weights; CourseError if more than is free."""
    args, model, gpu = trainer.args, trainer.model, trainer.args.device.type == "cuda"
    names = ("per_device_train_batch_size", "max_completion_length")
    names += ("gradient_checkpointing",)
    settings = {name: getattr(args, name) for name in names}
    settings["gradient_accumulation_steps"] = args.steps_per_generation
    settings["dtype"] = next(n for n, kind in DTYPES.items() if kind == model.dtype)
    budget = memory_budget(profile, model.config, gpu, **settings)
    moment, most = peak(budget)
    need = most - budget[moment]["weights"] - budget[moment]["adapters"]
    free = psutil.virtual_memory().available
    if gpu:  # what PyTorch holds and does not use is free too
        free = torch.cuda.mem_get_info()[0] + torch.cuda.memory_reserved()
        free -= torch.cuda.memory_allocated()
    line = f"memory: {need / GIB:.2f} GiB needed for {moment}, {free / GIB:.2f} free"
    print(line)
    if need > free:
        raise CourseError(f"{line}: {SMALLER}")


def try_step(trainer: GRPOTrainer, trained: dict, before: dict) -> None:
    """Do one optimizer step on 8 prompts as TRL would; CourseError if it is of no use.

    The prompts, said again, stand for completions of full length.
    """
    model, args, width = trainer.model, trainer.args, trainer.args.max_completion_length
    layout = {"padding": True, "padding_side": "left", "add_generation_prompt": True}
    layout |= {"return_tensors": "pt", "return_dict": True}
    chats = trainer.train_dataset["prompt"][:8]
    batch = trainer.processing_class.apply_chat_template(chats, **layout)
    ids, mask = (batch[x].to(args.device) for x in ("input_ids", "attention_mask"))
    model.eval()
    with torch.no_grad(), trainer.accelerator.autocast():
        logits = model(ids, attention_mask=mask, logits_to_keep=1).logits
    print(f"logits: {str(logits.dtype).removeprefix('torch.')}")
    if not torch.isfinite(logits).all():
        every = model.named_parameters()
        bad = next((n for n, p in every if not torch.isfinite(p).all()), None)
        why = f"nor is the weight {bad}. {AFRESH}"
        why = why if bad else f"the model overflows. {FP32}"
        raise CourseError(f"the logits are not finite: {why}")

    model.train()
    if args.gradient_checkpointing:
        model.gradient_checkpointing_enable(args.gradient_checkpointing_kwargs)
    said = ids.repeat(1, width // ids.shape[1] + 1)[:, :width]
    ids, mask = torch.cat([ids, said], 1), torch.cat([mask, torch.ones_like(said)], 1)
    weights = list(trained.values())
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
    changed = sum(not torch.equal(p, before[name]) for name, p in trained.items())
    if not changed:
        rate = f"learning_rate={args.learning_rate:g}"
        raise CourseError(f"a step with {rate} changes nothing: raise learning_rate")
    print(f"one step: gradient norm {norm:.3g}, {changed} of {len(trained)} adapter "
          "tensors changed, and put back")  # fmt: skip
    if gpu:
        most, left = torch.cuda.max_memory_allocated(), torch.cuda.mem_get_info()[0]
        print(f"GPU: {most / GIB:.2f} GiB at most, {left / GIB:.2f} GiB left")
