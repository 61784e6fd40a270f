"""Writing completions: each prompt is read once, then one token a step for all rows.

Evaluation uses it on any device, the faster step of `fast` on a CPU. A model's own
sampling defaults (Qwen2.5: a repetition penalty) play no part.
"""

import threading

import torch
from peft import PeftModel
from torch.nn.functional import linear, pad
from tqdm.auto import tqdm
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from . import CourseError

BLOCK = 256  # words whose probabilities are summed before one of them is looked up


class LiveBar(tqdm):
    """A bar that is drawn every few seconds: a slow machine's batch takes minutes."""

    EVERY = 5  # seconds

    def __init__(self, *args, **kwargs):
        self.over = threading.Event()
        super().__init__(*args, **kwargs)
        if not self.disable:
            threading.Thread(target=self.tick, daemon=True).start()

    def tick(self) -> None:
        """Draw the bar until it is closed."""
        while not self.over.wait(self.EVERY):
            self.refresh()

    def close(self) -> None:
        """Draw it for the last time."""
        self.over.set()
        super().close()


def backbone_and_head(model) -> tuple:
    """Return (backbone, output layer) of a causal language model, adapters included."""
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    return base.base_model, base.get_output_embeddings()


def shared_tokens(prompts: list[list[int]]) -> int:
    """Return how many first tokens all prompts share; each keeps one of its own."""
    if len(prompts) == 1:
        return 0
    alike = [len(set(column)) == 1 for column in zip(*prompts, strict=False)]
    return (*alike[: min(map(len, prompts)) - 1], False).index(False)


def read_shared(backbone, tokens: list[int], copies: int, device) -> DynamicCache:
    """Return a cache of `copies` rows that have read the same tokens, read once."""
    cache = DynamicCache()
    if tokens:
        ids = torch.tensor([tokens], device=device)
        position = torch.arange(len(tokens), device=device)[None]
        # By position: Transformers 5.24 renamed past_key_values to cache.
        backbone(ids, torch.ones_like(ids), position, cache, use_cache=True)
        cache.batch_repeat_interleave(copies)
    return cache


class PreallocatedLayer(DynamicLayer):
    """One layer of a cache that writes into room made beforehand: nothing is copied."""

    def __init__(self, layer: DynamicLayer, copies: int, room: int):
        super().__init__()
        self.length = layer.keys.shape[-2]
        self.keys, self.values = (
            torch.cat([x, x.new_zeros(*x.shape[:2], room, x.shape[3])], dim=2)
            for x in (layer.keys, layer.values)
        )
        self.dtype, self.device = self.keys.dtype, self.keys.device
        self.is_initialized = True
        self.batch_repeat_interleave(copies)

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
    where the probabilities are not finite; where none are needed, CourseError.
    """
    if not temperature:
        most, token = logits.max(-1)
        if not torch.isfinite(most).all():  # else NaN is token 0, scored as a text
            raise CourseError(
                "the model's logits are not finite. Load it in fp32 (dtype=fp32, "
                "fp16=False), or with attn_implementation='eager'."
            )
        return token
    shares = (logits / temperature).softmax(-1)
    # A sum of each block of words first: to cumulate all of them takes five times as
    # long as the softmax.
    blocks = pad(shares, (0, -shares.shape[-1] % BLOCK)).unflatten(-1, (-1, BLOCK))
    sums = blocks.sum(-1).cumsum(-1, dtype=torch.float64)
    if not torch.isfinite(sums[:, -1]).all():
        raise RuntimeError("the probability tensor contains inf or nan")
    points = torch.rand(len(sums), 1, dtype=torch.float64, device=sums.device)
    points *= sums[:, -1:]
    block = torch.searchsorted(sums, points, right=True).clamp(max=sums.shape[1] - 1)
    points -= pad(sums, (1, 0)).gather(1, block)  # what the blocks before it hold
    inside = blocks.take_along_dim(block[..., None], 1)[:, 0]
    inside = inside.cumsum(-1, dtype=torch.float64)
    points = points.minimum(inside[:, -1:] * (1 - 1e-12))  # the two sums round apart
    found = torch.searchsorted(inside, points, right=True)
    return (block * BLOCK + found)[:, 0].clamp(max=shares.shape[-1] - 1)


@torch.no_grad()
def generate(
    model,
    prompts: list[list[int]],
    num_generations: int,
    max_new_tokens: int,
    temperature: float,
    ends: list[int],
    min_new_tokens: int = 0,
    room: int = 0,
) -> list[list[int]]:
    """Return the ids of `num_generations` completions of each prompt, prompt by prompt.

    A completion ends with one of the tokens `ends`, or after `max_new_tokens`. Each
    prompt is read once; completions that are finished leave the batch. The model's mode
    (train or eval) stays as it is. `room` makes the cache as large as for that many
    tokens: the preflight measures memory so, with few.
    """
    backbone, head = backbone_and_head(model)
    device, dtype = head.weight.device, head.weight.dtype
    width, total = max(map(len, prompts)), len(prompts) * num_generations
    shared = shared_tokens(prompts)
    ids = torch.zeros(len(prompts), width, dtype=torch.long, device=device)
    padding = torch.zeros(ids.shape, dtype=torch.bool, device=device)
    for row, prompt in enumerate(prompts):
        padding[row, shared : shared + width - len(prompt)] = True
        ids[row, ~padding[row]] = torch.tensor(prompt, device=device)
    position = ((~padding).cumsum(1) - 1).clamp(0)
    cache = read_shared(backbone, prompts[0][:shared], len(prompts), device)
    new = (ids[:, shared:], (~padding).long(), position[:, shared:])
    out = backbone(*new, cache, use_cache=True)
    hidden = out.last_hidden_state[:, -1]
    room = max(room, max_new_tokens)
    cache.layers = [
        PreallocatedLayer(layer, num_generations, room) for layer in cache.layers
    ]
    hidden, padding, position = (
        x.repeat_interleave(num_generations, 0)
        for x in (hidden, padding, position[:, -1:])
    )
    mask = torch.zeros(total, 1, 1, width + room, dtype=dtype, device=device)
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


def generate_completions(
    model,
    tokenizer,
    prompts: list,
    max_new_tokens: int,
    num_samples: int = 1,
    temperature: float = 0.0,
    batch_size: int = 32,
) -> list[list[tuple[str, bool]]]:
    """Return for each chat prompt `num_samples` pairs (text, whether it was cut off).

    `batch_size` prompts are answered at a time; temperature 0 is greedy.
    """
    chat = {"add_generation_prompt": True, "return_dict": True}
    ends = model.generation_config.eos_token_id
    ends = ends if isinstance(ends, list) else [ends]
    drawn = []
    model.eval()
    alone = len(prompts) <= batch_size  # one batch needs no bar
    with LiveBar(total=len(prompts), desc="answering", disable=alone or None) as bar:
        for start in range(0, len(prompts), batch_size):
            chats = prompts[start : start + batch_size]
            ids = tokenizer.apply_chat_template(chats, **chat)["input_ids"]
            drawn += generate(
                model, ids, num_samples, max_new_tokens, temperature, ends
            )
            bar.update(len(chats))
    texts = tokenizer.batch_decode(drawn, skip_special_tokens=True)
    cut_off = [row[-1] not in ends for row in drawn]
    pairs = list(zip(texts, cut_off, strict=True))
    return [pairs[at : at + num_samples] for at in range(0, len(pairs), num_samples)]
