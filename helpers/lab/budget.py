"""What a recipe needs of a GPU, predicted: its memory, and the minutes on a T4.

Bytes are counted from shapes, for TRL 1.16, SDPA attention, AdamW, prompts and
completions at their longest. What PyTorch keeps outside tensors (the CUDA context, gaps
between blocks) is not in them; allow half a GiB. A batch of the evaluation is counted
as `prefill` of as many sequences: 100 take 5.2 GiB in `t4`, 2.1 in `t4_quick`, less
than a step with all 32 completions at once (6.5 and 2.6).

No T4 was at hand: minutes on one are arithmetic too. A `t4` step decodes 256 tokens at
some 50 ms (28 layers launched from Python), 13 s; forward, recomputation and backward
of 32 × 400 tokens are 1.2e14 FLOP at some 20 TFLOP/s, 6 s; with prompts, logits and
rewards 25 s. 200 steps take 85 minutes, 2 batches of each evaluation (256 × 50 ms each)
1, loading 3. `t4_quick`: 200 tokens at 40 ms and a third of the FLOP, 11 s; 100 steps
take 18 minutes, the rest 3. `article`: 512 tokens at 50 ms, 28 s; 10 steps take 5
minutes, the rest 7. By this arithmetic 32 completions at once are no faster than 8
times 4, whose 0.8 s of products hide their launches. It may be too hopeful: the nearest
published run, of the 0.5B model, took 25 s for 4 completions of up to 256 tokens.
"""

import math
from collections.abc import Callable

import ipywidgets as widgets
from IPython.display import display
from matplotlib.figure import Figure
from transformers import LlamaConfig, PreTrainedConfig, Qwen2Config

from .. import GIB, CourseError
from ..fast import TILE
from ..profiles import QWEN, QWEN_05B, SMOL, Profile, override
from .plots import as_image

T4_GIB = 14.6  # what PyTorch can use of a T4's 16 GB
OUTSIDE_GIB = 0.5  # what PyTorch keeps outside tensors
# Of each model's config.json: hidden, intermediate, layers, heads, key-value heads,
# vocabulary. All three share input and output embedding.
SHAPES = {
    QWEN: (Qwen2Config, 1536, 8960, 28, 12, 2, 151_936),
    QWEN_05B: (Qwen2Config, 896, 4864, 24, 14, 2, 151_936),
    SMOL: (LlamaConfig, 576, 1536, 30, 9, 3, 49_152),
}
NAMES = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
NAMES += ("num_key_value_heads", "vocab_size")

# How many tensors live at once: from the source named, else from the steps that the
# tests measure. Adapters, norms and softmax compute in fp32 whatever the base is.
FP32_BYTES = 4
ADAM_AVERAGES = 2  # of each trained weight
# What a layer keeps for its backward pass. RMSNorm: its input in fp32, and one number a
# token. torch's SDPA: q, k, v (k and v repeated for each head) and output, the mask,
# and one number a head and token, in fp32. The MLP: gate, its activation, and up.
LAYER_NORMS, ATTENTION_KEPT, MLP_KEPT = 2, 4, 3
# Dropout's mask, bytes a number: on a GPU a flag, on a CPU a factor in fp32.
MASK_ON_GPU, MASK_ON_CPU = 1, 4
# Beside the MLP's three tensors, of hidden width: while prompts are read, and backward.
HIDDEN_WHILE_READING, HIDDEN_BACKWARD = 4, 1
# The last norm, bytes a number: a copy in fp32 and one in 16 bits; where a token is
# scored, TRL's ChunkedLogProbFunction makes its gradient in both as well.
LAST_NORM_BYTES = 6
# TRL makes logits in tiles: TOKEN_CHUNK_SIZE of trl.kernels.chunked_logprob, and
# _CHUNKED_LOGPROB_CHUNK_SIZE. On a CPU it has no kernel for them, and PyTorch's
# functions make fp32 copies and a mask.
TILE_TOKENS, TILE_WORDS = 4096, 32_768
TILE_COPIES, TILE_MASK_BYTES = 7, 1
PACKED_COPIES = 3  # fp32 copies of a tile of logits in helpers/fast.py
SAMPLING_COPIES = 6  # fp32 copies of the logits in transformers' generate()

# The colours of what memory_budget counts.
MEMORY = {"weights": "#999999", "adapters": "#F0E442", "optimizer": "#D55E00"}
MEMORY |= {"gradients": "#CC79A7", "activations": "#56B4E9", "kv_cache": "#009E73"}
MEMORY["logits"] = "#E69F00"


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
    layer = sum(a * b for a, b in shapes.values()) + LAYER_NORMS * hidden
    if config.model_type == "qwen2":  # it alone has biases
        layer += sum(shapes[name][1] for name in ("q_proj", "k_proj", "v_proj"))
    embeddings = config.vocab_size * hidden * (2 - config.tie_word_embeddings)
    return embeddings + config.num_hidden_layers * layer + hidden


def kept_of_layer(
    config: PreTrainedConfig, lora: dict, size: int, length: int, gpu: bool
) -> int:
    """Return the bytes a token that autograd keeps of one layer.

    `size` is the bytes of a base weight, `length` the tokens of a sequence.
    """
    shapes, targets = linear_shapes(config), lora["target_modules"]
    hidden, inner = shapes["gate_proj"]
    dropout = lora["lora_dropout"] > 0
    # What the adapters read. On a 16-bit base each of them has a copy of its own, as
    # PEFT casts it to fp32 and autocast back. Else they share.
    reads = {name: shapes[name][0] for name in targets}
    if size == FP32_BYTES and not dropout:
        shared = {"q_proj": "qkv", "k_proj": "qkv", "v_proj": "qkv", "up_proj": "mlp"}
        shared |= {"gate_proj": "mlp", "down_proj": "down_proj"}  # o_proj's is kept
        reads = {shared[name]: reads[name] for name in targets if name != "o_proj"}
    mask = dropout * (MASK_ON_GPU if gpu else MASK_ON_CPU)
    norms = LAYER_NORMS * FP32_BYTES * (hidden + 1)
    attention = size * (ATTENTION_KEPT * shapes["q_proj"][1] + length)
    attention += FP32_BYTES * config.num_attention_heads
    adapters = size * lora["r"] * len(targets) + (size + mask) * sum(reads.values())
    return norms + attention + size * MLP_KEPT * inner + adapters


def memory_budget(
    profile: Profile, config=None, gpu: bool | None = None, **changes
) -> dict[str, dict[str, float]]:
    """Return the bytes of each part at the four moments of a step that can be its peak.

    `prefill` (the prompts of a generation batch are read), `decoding` (its last token),
    `loss` (log-probs of a micro-batch), `backward` (through one layer): a moment's
    parts add up to what lives then. `changes` are settings by name (`r`, `dtype`,
    `max_completion_length` …); `config` is a transformers config in place of the
    profile's model; `gpu` tells whether TRL's GPU kernel makes the logits (by default
    as the profile's device says). 16-bit weights are taken to run under autocast.
    """
    profile = override(profile, [f"{name}={x!r}" for name, x in changes.items()])
    config = config or architecture(profile.model)
    gpu = profile.device == "gpu" if gpu is None else gpu
    size = 2 if profile.dtype in ("fp16", "bf16") else FP32_BYTES  # of a base weight
    lora, grpo, shapes = profile.lora, profile.grpo, linear_shapes(config)
    targets = lora["target_modules"]
    if unknown := sorted(set(targets) - set(shapes)):
        known = ", ".join(shapes)
        raise CourseError(f"target_modules: {unknown} is none of {known}")
    hidden, inner, layers, _, _, vocabulary = (getattr(config, n) for n in NAMES)
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

    adapters = FP32_BYTES * count_parameters(config, lora["r"], targets)
    fixed = {"weights": size * count_parameters(config), "adapters": adapters}
    fixed["optimizer"] = ADAM_AVERAGES * adapters
    training = fixed | {"gradients": adapters}

    layer = kept_of_layer(config, lora, size, length, gpu)
    checkpointing = grpo["gradient_checkpointing"]  # a layer's input is kept, no more
    kept = tokens * layers * (size * hidden if checkpointing else layer)
    working = tokens * size * (MLP_KEPT * inner + HIDDEN_BACKWARD * hidden)
    working += tokens * layer * checkpointing  # computed once more
    tile = min(scored, TILE_TOKENS) * size * TILE_WORDS
    if packed:
        tile = TILE * vocabulary * (size + PACKED_COPIES * FP32_BYTES)
    elif not gpu:
        copies = TILE_COPIES * FP32_BYTES + TILE_MASK_BYTES
        tile += min(scored, TILE_TOKENS) * copies * min(vocabulary, TILE_WORDS)
    last_norm = LAST_NORM_BYTES * hidden

    cache = 2 * size * shapes["k_proj"][1] * layers * sequences  # of one token
    read = cache * prompt * prompts / sequences
    reading = MLP_KEPT * inner + HIDDEN_WHILE_READING * hidden
    reading *= size * prompts * prompt
    # The cache grows by copying, a tensor of one layer at a time.
    grown = cache * (prompt + new) * (1 + 1 / (2 * layers))
    sampling = sequences * vocabulary * (size + SAMPLING_COPIES * FP32_BYTES)
    loss = {"activations": kept + last_norm * tokens}
    loss["logits"] = tile + last_norm * scored
    return {
        "prefill": fixed | {"kv_cache": read, "activations": reading},
        "decoding": fixed | {"kv_cache": grown, "logits": sampling},
        "loss": training | loss,
        "backward": training | {"activations": kept + working},
    }


def peak(budget: dict[str, dict[str, float]]) -> tuple[str, float]:
    """Return (moment, bytes) of a budget's highest moment."""
    totals = {moment: sum(parts.values()) for moment, parts in budget.items()}
    return max(totals.items(), key=lambda pair: pair[1])


def plot_budgets(budgets: dict[str, dict]) -> Figure:
    """Return a bar for each of `memory_budget`'s results: its parts at its peak.

    The first stands at the bottom; the dashed line is what a T4 has.
    """
    figure = Figure(figsize=(9.5, 1 + 0.45 * len(budgets)), layout="constrained")
    axes, most = figure.subplots(), 0
    for place, budget in enumerate(budgets.values()):
        moment, left = peak(budget)[0], 0
        for part, size in budget[moment].items():
            axes.barh(
                place, size / GIB, left=left, color=MEMORY[part], edgecolor="white"
            )
            left += size / GIB
        box = {"color": "white", "pad": 1}  # the line of the T4 ends at the text
        at = (left + 0.2, place, f"{left:.1f} GiB ({moment})")
        axes.text(*at, va="center", bbox=box)
        most = max(most, left)
    for part, color in MEMORY.items():
        axes.barh(0, 0, color=color, label=part)
    axes.axvline(T4_GIB, color="black", linestyle="--")
    axes.set_yticks(range(len(budgets)), budgets)
    xlabel = "GiB at the peak of a step, predicted; dashed: a T4"
    axes.set(xlim=(0, max(19, 1.75 * most)), xlabel=xlabel)
    axes.legend(fontsize="small", loc="lower right")
    return figure


def explore_budgets(budgets_of: Callable[..., dict], profile: Profile) -> None:
    """Display memory budgets of a profile, redrawn as its settings are changed.

    `budgets_of` takes settings by name and returns budgets by name, that of the
    settings themselves last. The number of problems a step stays the profile's.
    """
    grpo, powers = profile.grpo, [2**n for n in range(9)]
    problems = grpo["per_device_train_batch_size"] * grpo["gradient_accumulation_steps"]
    problems //= grpo["num_generations"]
    look = {"style": {"description_width": "13em"}, "continuous_update": False}
    tokens = look | {"min": 64, "step": 64}
    chosen = {
        "per_device_train_batch_size": widgets.SelectionSlider(
            options=powers[:7], description="completions at once", **look
        ),
        "num_generations": widgets.SelectionSlider(
            options=powers[1:7], description="generations", **look
        ),
        "max_prompt_length": widgets.IntSlider(
            max=2048, description="prompt tokens", **tokens
        ),
        "max_completion_length": widgets.IntSlider(
            max=4096, description="completion tokens", **tokens
        ),
        "r": widgets.SelectionSlider(options=powers, description="rank", **look),
        "dtype": widgets.Dropdown(options=["fp16", "fp32"], description="dtype"),
        "gradient_checkpointing": widgets.Checkbox(description="checkpointing"),
    }
    for name, control in chosen.items():
        own = grpo | profile.lora
        control.value = own[name] if name in own else getattr(profile, name)
    said = widgets.Label()

    def draw():
        settings = {name: control.value for name, control in chosen.items()}
        completions = problems * settings["num_generations"]
        at_once = min(settings["per_device_train_batch_size"], completions)
        settings["per_device_train_batch_size"] = at_once
        settings["gradient_accumulation_steps"] = completions // at_once
        budgets = budgets_of(**settings)
        moment, most = peak(list(budgets.values())[-1])
        fits = "fits" if most / GIB <= T4_GIB - OUTSIDE_GIB else "does not fit"
        said.value = f"{completions} completions a step, {at_once} at once: "
        said.value += f"{most / GIB:.1f} GiB for {moment}, {fits} on a T4"
        return as_image(plot_budgets(budgets), said.value)

    shown = display(draw(), display_id=True)
    for control in chosen.values():
        control.observe(lambda change: shown.update(draw()), "value")
    display(widgets.VBox([*chosen.values(), said]))
