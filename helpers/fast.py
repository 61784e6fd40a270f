"""TRL's GRPO step on a CPU without its waste: the same numbers, several times faster.

Two things alone differ from the stock trainer: `generate` draws the completions, and
`packed_logps` scores them, all completions of a prompt in one sequence. Equal up to
rounding, for what `obstacle` lets through. Notebook 08 takes both apart.
"""

from contextlib import contextmanager, nullcontext

import torch
import trl
from peft import PeftModel
from peft.tuners.lora import Linear, LoraLayer
from torch.nn.functional import linear
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer
from trl import GRPOTrainer

from . import CourseError
from .profiles import Profile

CHECKED_TRL = ("1.16",)  # releases whose numbers tests/test_fast.py compares
CHECKED_MODELS = ("llama", "qwen2")
LONGEST = 4096  # completion tokens of a group
TILE = 64  # tokens whose logits exist at a time
# Settings of a model that TRL's scoring reads, and of its generation_config that say
# nothing about which token is drawn.
SCALES = ("final_logit_softcapping", "logit_scale", "output_multiplier")
SCALES += ("lm_head_multiplier", "logits_scaling")
WITHOUT_EFFECT = {"transformers_version", "_from_model_config", "max_length"}
WITHOUT_EFFECT |= {"do_sample", "use_cache", "output_attentions", "output_scores"}
WITHOUT_EFFECT |= {"output_hidden_states", "return_dict_in_generate"}


def backbone_and_head(model) -> tuple:
    """Return (backbone, output layer) of a causal language model, adapters included."""
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    return base.base_model, base.get_output_embeddings()


# --- drawing completions --------------------------------------------------------------


class PreallocatedLayer(DynamicLayer):
    """One layer of a cache that writes into room made beforehand: nothing is copied."""

    def __init__(self, layer: DynamicLayer, copies: int, room: int):
        super().__init__()
        self.length = layer.keys.shape[-2]
        self.keys, self.values = (
            self.widened(x, copies, room) for x in (layer.keys, layer.values)
        )
        self.dtype, self.device = self.keys.dtype, self.keys.device
        self.is_initialized = True

    def widened(self, x: torch.Tensor, copies: int, room: int) -> torch.Tensor:
        """Return each row of `x` in `copies` copies, with `room` for more tokens."""
        rows, heads, length, width = x.shape
        wide = x.new_zeros(rows, copies, heads, length + room, width)
        wide[:, :, :, :length] = x[:, None]
        return wide.flatten(0, 1)

    def update(self, key_states, value_states, *args, **kwargs):
        """Write new tokens; return keys and values of all tokens so far, as views."""
        start, self.length = self.length, self.length + key_states.shape[-2]
        self.keys[:, :, start : self.length] = key_states
        self.values[:, :, start : self.length] = value_states
        return self.keys[:, :, : self.length], self.values[:, :, : self.length]

    def get_seq_length(self) -> int:
        """Return the number of tokens so far."""
        return self.length


def draw(logits: torch.Tensor, temperature: float) -> torch.Tensor:
    """Return a token for each row of float `logits`; temperature 0 takes the likeliest.

    One uniform number a row, looked up in the cumulated probabilities: `multinomial`
    would draw one for each word of the vocabulary. Like it, this raises RuntimeError
    where the probabilities are not finite.
    """
    if not temperature:
        return logits.argmax(-1)
    shares = (logits / temperature).softmax(-1).cumsum(-1, dtype=torch.float64)
    if not torch.isfinite(shares[:, -1]).all():
        raise RuntimeError("the probability tensor contains inf or nan")
    points = torch.rand(len(shares), 1, dtype=torch.float64, device=shares.device)
    found = torch.searchsorted(shares, points * shares[:, -1:], right=True)
    return found[:, 0].clamp(max=shares.shape[-1] - 1)


@torch.no_grad()
def generate(
    model,
    prompts: list[list[int]],
    num_generations: int,
    max_new_tokens: int,
    temperature: float,
    ends: list[int],
    min_new_tokens: int = 0,
) -> list[list[int]]:
    """Return the ids of `num_generations` completions of each prompt, prompt by prompt.

    A completion ends with one of the tokens `ends`, or after `max_new_tokens`. Each
    prompt is read once; completions that are finished leave the batch. The model's mode
    (train or eval) stays as it is.
    """
    backbone, head = backbone_and_head(model)
    device, dtype = head.weight.device, head.weight.dtype
    width, total = max(map(len, prompts)), len(prompts) * num_generations
    ids = torch.zeros(len(prompts), width, dtype=torch.long, device=device)
    padding = torch.ones(ids.shape, dtype=torch.bool, device=device)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :] = torch.tensor(prompt)
        padding[row, width - len(prompt) :] = False
    position = ((~padding).cumsum(1) - 1).clamp(0)
    cache = DynamicCache()
    # By position: Transformers 5.24 renamed past_key_values to cache.
    out = backbone(ids, (~padding).long(), position, cache, use_cache=True)
    hidden = out.last_hidden_state[:, -1]
    cache.layers = [
        PreallocatedLayer(layer, num_generations, max_new_tokens)
        for layer in cache.layers
    ]
    hidden, padding, position = (
        x.repeat_interleave(num_generations, 0)
        for x in (hidden, padding, position[:, -1:])
    )
    mask = torch.zeros(total, 1, 1, width + max_new_tokens, dtype=dtype, device=device)
    mask[:, 0, 0, :width].masked_fill_(padding, torch.finfo(dtype).min)
    stops = torch.tensor(ends, device=device)
    written = torch.full((total, max_new_tokens), -1, device=device)
    rows = torch.arange(total, device=device)  # which completion a row of the batch is
    going = torch.ones_like(rows, dtype=torch.bool)
    for step in range(max_new_tokens):
        logits = linear(hidden, head.weight, head.bias).float()
        if step < min_new_tokens:
            logits[:, stops] = -torch.inf
        token = draw(logits, temperature)
        written[rows[going], step] = token[going]
        going &= ~torch.isin(token, stops)
        left = int(going.sum())
        if not left or step + 1 == max_new_tokens:
            break
        if left <= 0.875 * len(rows):  # leaving costs a copy of the cache
            keep = going.nonzero()[:, 0]
            rows, mask, position = rows[keep], mask[keep], position[keep]
            token, going = token[keep], going[keep]
            cache.batch_select_indices(keep)
        position = position + 1
        seen = mask[..., : width + step + 1]
        out = backbone(token[:, None], seen, position, cache, use_cache=True)
        hidden = out.last_hidden_state[:, -1]
    return [row[row >= 0].tolist() for row in written]


@contextmanager
def merged(model: PeftModel):
    """Add the adapters to the base weights for a while; afterwards these are as before.

    The sum is made in float32 and rounded to the base weights' dtype.
    """
    layers = [m for m in model.modules() if isinstance(m, LoraLayer)]
    kept = [layer.get_base_layer().weight.data for layer in layers]
    try:
        for layer, weight in zip(layers, kept, strict=True):
            total = weight.to(torch.float32, copy=True)
            for name in layer.active_adapters:
                total += layer.get_delta_weight(name).float()
            layer.get_base_layer().weight.data = total.to(weight.dtype)
        with model.disable_adapter():
            yield
    finally:
        for layer, weight in zip(layers, kept, strict=True):
            layer.get_base_layer().weight.data = weight


# --- scoring completions --------------------------------------------------------------


class TokenLogps(torch.autograd.Function):
    """Log-probs and entropies of target tokens, from a few tokens' logits at a time.

    `hidden` (tokens, width), `weight` (vocabulary, width), `targets` (tokens,). The
    derivative of a log-prob with respect to `hidden`, (weight[target] − Σ p · weight) /
    temperature, is made in the forward pass, where the probabilities p are at hand: the
    backward pass then needs no vocabulary. Entropies have no gradient.
    """

    @staticmethod
    def forward(ctx, hidden, weight, targets, temperature):
        """Return (log-probs, entropies), both float32 (tokens,)."""
        logps, entropies = hidden.new_empty(2, len(hidden), dtype=torch.float32)
        slopes = torch.empty(hidden.shape) if ctx.needs_input_grad[0] else None
        for start in range(0, len(hidden), TILE):
            tile = slice(start, start + TILE)
            logits = (hidden[tile] @ weight.T).float().div_(temperature)
            logits -= logits.logsumexp(-1, keepdim=True)
            logps[tile] = logits.gather(1, targets[tile, None])[:, 0]
            p = logits.exp()
            entropies[tile] = -(p * logits).sum(-1)
            if slopes is not None:
                slopes[tile] = weight[targets[tile]].float()
                slopes[tile] -= (p.to(weight.dtype) @ weight).float()
        ctx.slopes, ctx.dtype, ctx.temperature = slopes, hidden.dtype, temperature
        ctx.mark_non_differentiable(entropies)
        return logps, entropies

    @staticmethod
    def backward(ctx, grad_logps, _):
        """Return the gradient of `hidden`."""
        grad = ctx.slopes * (grad_logps / ctx.temperature)[:, None]
        return grad.to(ctx.dtype), None, None, None


def packed_logps(
    model,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor,
    num_completion_tokens: int,
    temperature: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return log-probs and entropies of completion tokens, float32 (batch, completion).

    Takes what TRL scores: `input_ids` and `attention_mask` (batch, prompt + completion
    tokens), prompts padded on the left and completions on the right; the last
    `num_completion_tokens` columns are the completions. Padding gets 0.

    Rows with the same prompt become one sequence: the prompt once, then each
    completion. A completion sees the prompt and itself (4-D mask), and its positions
    begin where the prompt ends, so each number is that of the row alone.
    """
    backbone, head = backbone_and_head(model)
    groups: dict[tuple, list] = {}
    start = input_ids.shape[1] - num_completion_tokens
    rows = zip(input_ids, attention_mask.bool(), strict=True)
    for row, (ids, real) in enumerate(rows):
        prompt, completion = ids[:start][real[:start]], ids[start:][real[start:]]
        groups.setdefault(tuple(prompt.tolist()), []).append((row, completion.tolist()))

    packed = []  # of each group: (id, position, which completion) of its tokens
    wanted = []  # of each token to score: its group, who predicts it, it, its place
    for group, (prompt, completions) in enumerate(groups.items()):
        tokens = [(token, place, 0) for place, token in enumerate(prompt)]
        for number, (row, completion) in enumerate(completions, 1):
            before = len(prompt) - 1  # the prompt's last token predicts the first
            for place, token in enumerate(completion):
                wanted.append((group, before, token, row, place))
                before = len(tokens)
                tokens.append((token, len(prompt) + place, number))
        packed.append(tokens)
    length = max(map(len, packed))
    device, dtype = input_ids.device, head.weight.dtype
    padded = [tokens + [(0, 0, -1)] * (length - len(tokens)) for tokens in packed]
    ids, positions, owner = torch.tensor(padded, device=device).unbind(-1)
    sees = (owner[:, None, :] == 0) | (owner[:, None, :] == owner[:, :, None])
    sees &= torch.ones(length, length, dtype=torch.bool, device=device).tril()
    mask = torch.zeros(sees.shape, dtype=dtype, device=device)
    mask.masked_fill_(~sees, torch.finfo(dtype).min)
    state = {"attention_mask": mask[:, None], "position_ids": positions}
    hidden = backbone(ids, **state, use_cache=False).last_hidden_state
    wanted = torch.tensor(wanted, dtype=torch.long, device=device).reshape(-1, 5)
    group, before, token, row, place = wanted.T  # none, if all rows are masked
    results = TokenLogps.apply(hidden[group, before], head.weight, token, temperature)
    empty = torch.zeros(len(input_ids), num_completion_tokens, device=device)
    return tuple(empty.index_put((row, place), result) for result in results)


# --- the trainer ----------------------------------------------------------------------


class FastGRPOTrainer(GRPOTrainer):
    """TRL's trainer with the `generate` and `packed_logps` of this module.

    Where they do not apply it says so in one line, and TRL's own step runs; `obstacle`
    is the reason, or None.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.obstacle = obstacle(self)
        if self.obstacle:
            print(f"TRL's own step, not the faster one: {self.obstacle}")

    def _generate_single_turn(self, prompt_ids, *args, **kwargs):
        if self.obstacle:
            return super()._generate_single_turn(prompt_ids, *args, **kwargs)
        rows: dict[tuple, list[int]] = {}
        for row, prompt in enumerate(prompt_ids):
            rows.setdefault(tuple(prompt), []).append(row)
        fewest = (self.args.generation_kwargs or {}).get("min_new_tokens") or 0
        number = max(map(len, rows.values()))
        model = self.accelerator.unwrap_model(self.model)
        settings = (number, self.max_completion_length, self.temperature)
        settings = (*settings, self.eos_token_ids, fewest)
        # Rounded to bf16, merged weights drift from the trained policy, the more the
        # smaller the updates: a mean KL of up to 1.04e-3 nats a token was measured.
        with merged(model) if model.dtype == torch.float32 else nullcontext():
            drawn = generate(model, [list(prompt) for prompt in rows], *settings)
        completions = [[]] * len(prompt_ids)
        for group, places in enumerate(rows.values()):
            for place, row in enumerate(places):
                completions[row] = drawn[group * number + place]
        return completions, None

    def _get_per_token_logps_and_entropies(
        self, model, input_ids, attention_mask, logits_to_keep, *args, **kwargs
    ):
        if self.obstacle:
            return super()._get_per_token_logps_and_entropies(
                model, input_ids, attention_mask, logits_to_keep, *args, **kwargs
            )
        model = self.accelerator.unwrap_model(model)
        both = packed_logps(
            model, input_ids, attention_mask, logits_to_keep, self.temperature
        )
        return *both, None


def obstacle(trainer: GRPOTrainer) -> str | None:
    """Return what rules the faster step out for a trainer, None where nothing does."""
    if not trl.__version__.startswith(tuple(f"{release}." for release in CHECKED_TRL)):
        return f"checked with TRL {', '.join(CHECKED_TRL)}, this is {trl.__version__}"
    args, model, config = trainer.args, trainer.model, trainer.model.config
    tokens = args.num_generations * args.max_completion_length
    plain = {"top_p": 1.0, "top_k": 0, "min_p": None, "repetition_penalty": 1.0}
    other = [name for name, value in plain.items() if getattr(args, name) != value]
    other += set(args.generation_kwargs or {}) - {"min_new_tokens"}
    own = set(model.generation_config.to_diff_dict()) - set(trainer.generation_kwargs)
    other += sorted(own - WITHOUT_EFFECT)
    vllm = trainer.use_vllm or trainer.use_transformers_continuous_batching
    more = trainer._is_vlm or trainer.tools or trainer.rollout_func
    lora = [m for m in model.modules() if isinstance(m, LoraLayer)]
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    ends = (".lora_A.default.weight", ".lora_B.default.weight")
    plain_lora = all(type(m) is Linear and not m.lora_variant for m in lora)
    plain_lora &= bool(lora) and all(name.endswith(ends) for name in trained)
    dropout = [m.p for m in model.modules() if isinstance(m, torch.nn.Dropout)]
    kind, attention = config.model_type, config._attn_implementation
    window = set(getattr(config, "layer_types", None) or ()) - {"full_attention"}
    rope = (getattr(config, "rope_parameters", None) or {}).get("rope_type")
    scaled = [name for name in SCALES if getattr(config, name, None)]
    why = {
        "it is made for CPUs": args.device.type != "cpu",
        "it is made for one process": trainer.accelerator.num_processes > 1,
        "vLLM or continuous batching generates": vllm,
        "images, tools or a rollout function": more,
        f"not checked with {kind} models": kind not in CHECKED_MODELS,
        f"attention is {attention}": attention not in ("sdpa", "eager"),
        "some attention has a window": window,
        f"RoPE is {rope}": rope in ("dynamic", "longrope"),
        "it is made for plain LoRA": not plain_lora,
        f"the model sets {', '.join(scaled)}": scaled,
        "autocast (mixed precision)": trainer.accelerator.mixed_precision != "no",
        "gradient checkpointing is on": args.gradient_checkpointing,
        "dropout is active": any(dropout) or getattr(config, "attention_dropout", 0),
        "the entropy is part of the loss": trainer._entropy_bonus_enabled,
        "cast_lm_head_to_fp32 is set": args.cast_lm_head_to_fp32,
        "the output layer has a bias": backbone_and_head(model)[1].bias is not None,
        "the temperature is 0": args.temperature <= 0,
        f"it cannot do {', '.join(other)}": other,
        f"{tokens} tokens a group; beyond {LONGEST} packing costs": tokens > LONGEST,
    }
    return next((reason for reason, there in why.items() if there), None)


def trainer_class(profile: Profile) -> type[GRPOTrainer]:
    """Return the trainer that a profile names: TRL's (stock) or the one here (fast)."""
    known = {"fast": FastGRPOTrainer, "stock": GRPOTrainer}
    if profile.trainer not in known:
        raise CourseError(f"trainer is {profile.trainer!r}; use 'fast' or 'stock'")
    return known[profile.trainer]
