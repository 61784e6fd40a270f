"""TRL's GRPO step on a CPU without its waste: the same numbers, three times faster.

Two things alone differ from the stock trainer: `generate` draws the completions, and
`packed_logps` scores them, all completions of a prompt in one sequence. Equal up to
rounding, for what `obstacle` allows. Notebook 08 takes both apart.
"""

from contextlib import contextmanager
from functools import partial
from unittest.mock import patch

import torch
import trl
from peft import PeftModel
from peft.tuners.lora import Linear, LoraLayer
from torch.nn.functional import linear
from trl import GRPOTrainer

from . import CourseError
from .generation import backbone_and_head, generate, read_shared, shared_tokens
from .profiles import Profile

CHECKED_TRL = ("1.16",)  # releases whose numbers tests/engine/test_fast.py compares
TILE = 64  # tokens whose logits exist at a time
LONGEST = 4096  # completion tokens of a group: attention grows with their square
ADAPTER = (".lora_A.default.weight", ".lora_B.default.weight")
# Settings of a model that TRL's scoring reads, and of its generation_config that say
# nothing about which token is drawn.
SCALES = ("final_logit_softcapping", "logit_scale", "output_multiplier")
SCALES += ("lm_head_multiplier", "logits_scaling")
WITHOUT_EFFECT = {"transformers_version", "_from_model_config", "max_length"}
WITHOUT_EFFECT |= {"do_sample", "use_cache", "output_attentions", "output_scores"}
WITHOUT_EFFECT |= {"output_hidden_states", "return_dict_in_generate"}
AS_GIVEN = {"top_p": 1.0, "top_k": 0, "min_p": None, "repetition_penalty": 1.0}
AS_GIVEN |= dict.fromkeys(("use_vllm", "use_transformers_continuous_batching"), False)
AS_GIVEN |= dict.fromkeys(("cast_lm_head_to_fp32", "gradient_checkpointing"), False)


@contextmanager
def adapters(model: PeftModel, make):
    """Give each layer with adapters the forward pass `make(layer)`, for a while."""
    layers = [m for m in model.modules() if isinstance(m, LoraLayer)]
    try:
        for layer in layers:
            layer.forward = make(layer)
        yield
    finally:
        for layer in layers:
            vars(layer).pop("forward", None)


def merged(model: PeftModel):
    """Add the adapters to the base weights while this context lasts: one product each.

    The sum is made in float32 and rounded to the base weights' dtype.
    """

    def make(layer):
        base, names = layer.get_base_layer(), layer.active_adapters
        updates = (layer.get_delta_weight(name).float() for name in names)
        total = sum(updates, start=base.weight.data.float())
        return partial(linear, weight=total.to(base.weight.dtype), bias=base.bias)

    return adapters(model, make)


def fused(model: PeftModel):
    """Let each adapter, in the model's dtype, add to its layer's output in one product.

    PEFT goes over that output five times, in float32.
    """

    def forward(layer, x):
        out = layer.base_layer(x)
        if layer.disable_adapters:
            return out
        down, up = (part.default.weight for part in (layer.lora_A, layer.lora_B))
        down, up = down.to(x.dtype), (up * layer.scaling["default"]).to(x.dtype)
        flat = torch.addmm(out.flatten(0, -2), x.flatten(0, -2) @ down.T, up.T)
        return flat.view(out.shape)

    return adapters(model, lambda layer: partial(forward, layer))


class TokenLogps(torch.autograd.Function):
    """Log-probs and entropies of target tokens, from a few tokens' logits at a time.

    `hidden` (tokens, width), `weight` (vocabulary, width), `targets` (tokens,). The
    derivative of a log-prob with respect to `hidden`, (one-hot − p) · weight /
    temperature, is made in the forward pass, where the probabilities p are at hand: the
    backward pass then needs no vocabulary. Entropies have no gradient. one-hot − p is
    rounded as a whole: with each rounded for itself, a p near 1 in bf16 leaves nothing.
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
            target = targets[tile, None]
            logp = logits.gather(1, target)
            logps[tile], p = logp[:, 0], logits.exp()
            entropies[tile] = -(p * logits).sum(-1)
            if slopes is not None:
                p.neg_().scatter_(1, target, -logp.expm1())
                slopes[tile] = (p.to(weight.dtype) @ weight).float()
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
    begin where the prompt ends, so each number is that of the row alone. What all
    prompts begin with is read once for all sequences.
    """
    backbone, head = backbone_and_head(model)
    groups: dict[tuple, list] = {}
    start = input_ids.shape[1] - num_completion_tokens
    rows = zip(input_ids, attention_mask.bool(), strict=True)
    for row, (ids, real) in enumerate(rows):
        prompt, completion = ids[:start][real[:start]], ids[start:][real[start:]]
        groups.setdefault(tuple(prompt.tolist()), []).append((row, completion.tolist()))

    first, *_ = prompts = [list(prompt) for prompt in groups]
    shared = shared_tokens(prompts)
    packed = []  # of each group: (id, position, which completion) of its tokens
    wanted = []  # of each token to score: its group, who predicts it, it, its place
    for group, (prompt, completions) in enumerate(groups.items()):
        tokens = [(token, place, 0) for place, token in enumerate(prompt)][shared:]
        for number, (row, completion) in enumerate(completions, 1):
            before = len(prompt) - shared - 1  # its last token predicts the first
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
    mask = torch.zeros(len(sees), length, shared + length, dtype=dtype, device=device)
    mask[..., shared:].masked_fill_(~sees, torch.finfo(dtype).min)
    cache = read_shared(backbone, first[:shared], len(packed), device)
    new = (ids, mask[:, None], positions, cache)
    hidden = backbone(*new, use_cache=True).last_hidden_state
    wanted = torch.tensor(wanted, dtype=torch.long, device=device).reshape(-1, 5)
    group, before, token, row, place = wanted.T  # none, if all rows are masked
    results = TokenLogps.apply(hidden[group, before], head.weight, token, temperature)
    empty = torch.zeros(len(input_ids), num_completion_tokens, device=device)
    return tuple(empty.index_put((row, place), result) for result in results)


class FastGRPOTrainer(GRPOTrainer):
    """TRL's trainer with the `generate` and `packed_logps` of this module.

    Where they do not apply it says so in one line, and TRL's own step runs; `obstacle`
    is the reason, or None. Where they do, completions that nothing pulls at (advantage
    0, no KL term) are scored without a backward pass.
    """

    still = None  # of a batch: which completions have advantage 0

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
        # Rounded to bf16, merged weights drift from the trained policy, by the KL that
        # tests/endtoend/test_embedded_model.py measures.
        with (merged if model.dtype == torch.float32 else fused)(model):
            how = (self.max_completion_length, self.temperature, self.eos_token_ids)
            drawn = generate(model, list(map(list, rows)), number, *how, fewest)
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
        wrapped, still, model = model, self.still, self.accelerator.unwrap_model(model)

        def score(rows):
            some = (input_ids[rows], attention_mask[rows], logits_to_keep)
            scored = partial(packed_logps, model, *some, self.temperature)
            # DistributedDataParallel adds up the gradients of what it calls itself.
            with fused(model), patch.object(model, "forward", scored):
                return (wrapped if torch.is_grad_enabled() else model)()

        if still is None:
            return *score(slice(None)), None
        empty = torch.zeros(len(input_ids), logits_to_keep, device=input_ids.device)
        moving = [empty.index_put((~still,), part) for part in score(~still)]
        with torch.no_grad():
            pairs = zip(moving, score(still), strict=True)
        return *(part.index_put((still,), rest) for part, rest in pairs), None

    def _compute_loss(self, model, inputs):
        still = (
            (inputs["advantages"] == 0).reshape(len(inputs["advantages"]), -1).all(1)
        )
        some = still.any() and not still.all() and not self.beta
        self.still = still if some and torch.is_grad_enabled() else None
        try:
            return super()._compute_loss(model, inputs)
        finally:
            self.still = None


def obstacle(trainer: GRPOTrainer) -> str | None:
    """Return what rules the faster step out for a trainer, None where nothing does.

    The table is what it allows: tests/engine/test_fast.py compares it with TRL's there.
    """
    if trl.__version__.rpartition(".")[0] not in CHECKED_TRL:
        return f"checked with TRL {', '.join(CHECKED_TRL)}, this is {trl.__version__}"
    args, model, config = trainer.args, trainer.model, trainer.model.config
    lora = [m for m in model.modules() if isinstance(m, LoraLayer)]
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    plain = all(name.endswith(ADAPTER) for name in trained) and bool(lora)
    plain &= all(type(m) is Linear and not m.lora_variant for m in lora)
    dropout = [m.p for m in model.modules() if isinstance(m, torch.nn.Dropout)]
    own = set(model.generation_config.to_diff_dict()) - set(trainer.generation_kwargs)
    own = sorted((own | set(args.generation_kwargs or {})) - WITHOUT_EFFECT)
    rope = (getattr(config, "rope_parameters", None) or {}).get("rope_type", "default")
    layers = set(getattr(config, "layer_types", None) or [])
    other = trainer._is_vlm or trainer.tools or trainer.rollout_func
    tokens = args.num_generations * args.max_completion_length
    allowed = {
        "device": (args.device.type, ["cpu"]),
        "mixed precision": (trainer.accelerator.mixed_precision, ["no"]),
        "model_type": (config.model_type, ["llama", "qwen2"]),
        "attention": (config._attn_implementation, ["sdpa", "eager"]),
        "layer_types": (layers, [set(), {"full_attention"}]),
        "rope_type": (rope, ["default", "linear", "llama3", "yarn"]),
        "plain LoRA": (plain, [True]),
        "dropout": (max([getattr(config, "attention_dropout", 0), *dropout]), [0]),
        "bias of the head": (backbone_and_head(model)[1].bias is not None, [False]),
        "scales of logits": ([n for n in SCALES if getattr(config, n, None)], [[]]),
        "generation settings": (own, [[], ["min_new_tokens"]]),
        "images, tools, rollout_func": (bool(other), [False]),
        "entropy bonus": (trainer._entropy_bonus_enabled, [False]),
        "temperature above 0": (args.temperature > 0, [True]),
        "tokens of a group": (tokens, range(LONGEST + 1)),
    }
    for name in AS_GIVEN:
        allowed[name] = (getattr(args, name), [AS_GIVEN[name]])
    for name, (value, known) in allowed.items():
        if value not in known:
            return f"{name}: {value}, checked with {known}"
    return None


def trainer_class(profile: Profile) -> type[GRPOTrainer]:
    """Return the trainer that a profile names: TRL's (stock) or the one here (fast)."""
    known = {"fast": FastGRPOTrainer, "stock": GRPOTrainer}
    if profile.trainer not in known:
        raise CourseError(f"trainer is {profile.trainer!r}; use 'fast' or 'stock'")
    return known[profile.trainer]
