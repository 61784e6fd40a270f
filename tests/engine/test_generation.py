"""Completions: greedy ones are those of transformers, samples have its distribution."""

import io
import time

import numpy as np
import pytest
import torch
from peft import get_peft_model
from scipy.stats import chisquare

from helpers.generation import (
    LiveBar,
    draw,
    generate,
    generate_completions,
    shared_tokens,
)
from helpers.models import load_model_and_tokenizer
from helpers.profiles import PROFILES, lora_config
from tests.tiny import WORDS, draw_adapters, prompts_of, qwen2

VOCABULARY = 8


def greedy_by_generate(model, prompts, ends, length, fewest=0):
    """What transformers' own `generate` writes, one prompt at a time: no padding."""
    written = []
    for prompt in prompts:
        ids = torch.tensor([prompt])
        settings = {"max_new_tokens": length, "min_new_tokens": fewest or None}
        out = model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False,
            repetition_penalty=1.0, eos_token_id=ends, pad_token_id=0, **settings,
        )  # fmt: skip
        written.append(out[0, len(prompt) :].tolist())
    return written


@pytest.mark.parametrize("shared", [0, 3, 4])  # tokens that all prompts begin with
@pytest.mark.parametrize("fewest", [0, 6])
def test_greedy_tokens_are_those_of_generate(pair, fewest, shared):
    model = get_peft_model(pair[0], lora_config(PROFILES["smoke"]))
    prompts = prompts_of(shared=shared)
    draw_adapters(model.eval())
    # The random model never ends by itself: let a quarter of the vocabulary be ends.
    ends = list(range(0, WORDS, 4))
    known = greedy_by_generate(model, prompts, ends, 12, fewest)
    assert len(set(map(len, known))) > 1 and min(map(len, known)) > fewest
    given = generate(model, prompts, 1, 12, 0.0, ends, fewest)
    assert given == known
    thrice = generate(model, prompts, 3, 12, 0.0, ends, fewest)
    assert thrice == [row for row in known for _ in range(3)]


def test_a_bar_is_drawn_while_nothing_is_finished(monkeypatch):
    monkeypatch.setattr(LiveBar, "EVERY", 0.05)
    drawn = io.StringIO()
    with LiveBar(total=2, file=drawn, disable=False) as bar:
        time.sleep(0.5)
        assert bar.n == 0 and drawn.getvalue().count("0/2") > 4
    time.sleep(0.2)
    ended = drawn.getvalue()
    time.sleep(0.2)
    assert drawn.getvalue() == ended


def test_what_all_prompts_begin_with_is_counted_and_read_once(pair):
    assert shared_tokens(prompts_of(shared=0)) == 0
    assert shared_tokens(prompts_of(shared=4)) == 4
    assert shared_tokens([[1, 2, 3], [1, 2, 3]]) == 2  # each keeps one of its own
    assert shared_tokens([[1, 2], [1, 2, 3]]) == 1
    assert shared_tokens([[1, 2, 3]]) == 0
    seen, backbone = [], pair[0].base_model
    backbone.embed_tokens.register_forward_hook(lambda *x: seen.append(x[1][0].shape))
    prompts = [[5, 6, 7, 8], [5, 6, 7, 9, 3]]
    generate(pair[0], prompts, 1, 1, 0.0, [0])
    assert seen == [(1, 3), (2, 2)]


def joint_distribution(model, prompt, temperature):
    """The exact probability of each two-token completion, from plain forward passes."""
    first = torch.arange(VOCABULARY)
    ids = torch.cat([torch.tensor([prompt] * VOCABULARY), first[:, None]], 1)
    with torch.no_grad():
        shares = (model(ids).logits[:, -2:].double() / temperature).softmax(-1)
    return (shares[0, 0][:, None] * shares[:, 1]).flatten()


def test_sampled_tokens_have_the_models_distribution():
    model = qwen2(vocab_size=VOCABULARY, initializer_range=0.6).eval()
    other, prompt, n = [1, 2], [3, 1, 4, 1, 5], 20_000
    drawn = generate(model, [other, prompt], n, 2, 0.7, [VOCABULARY])[n:]
    counts = torch.zeros(VOCABULARY**2)
    for one, two in drawn:
        counts[one * VOCABULARY + two] += 1
    share = joint_distribution(model, prompt, 0.7)
    likely = share * n >= 5  # what a chi-square test needs of a cell

    def p_value(share):
        cells = [*counts[likely].tolist(), float(counts[~likely].sum())]
        wanted = [*(n * share[likely]).tolist(), float(n * share[~likely].sum())]
        return chisquare(cells, wanted, sum_check=False).pvalue

    assert likely.sum() > 15
    assert p_value(share) > 1e-3
    # The test would see a wrong temperature, and the other prompt's distribution.
    assert p_value(joint_distribution(model, prompt, 0.75)) < 1e-6
    assert p_value(joint_distribution(model, other, 0.7)) < 1e-6


def test_drawing_never_takes_what_has_no_probability():
    logits = torch.full((500, 6), -torch.inf)
    logits[:, [1, 4]] = torch.tensor([0.0, 1.0])
    torch.manual_seed(0)
    assert set(draw(logits, 1.0).tolist()) == {1, 4}
    assert set(draw(logits, 0).tolist()) == {4}
    logits[3, 2] = torch.nan
    with pytest.raises(RuntimeError, match="probability tensor"):
        draw(logits, 1.0)


@pytest.mark.parametrize("words", [5, 256, 257, 600, 5000])
def test_drawing_by_blocks_finds_what_the_cumulated_probabilities_say(words):
    torch.manual_seed(0)
    logits = 3 * torch.randn(400, words)
    logits[:, words // 3 : words // 2] = -torch.inf  # whole blocks of the last two
    torch.manual_seed(1)
    given = draw(logits, 0.7)
    torch.manual_seed(1)
    shares = (logits / 0.7).softmax(-1).cumsum(-1, dtype=torch.float64)
    points = torch.rand(400, 1, dtype=torch.float64) * shares[:, -1:]
    wanted = torch.searchsorted(shares, points, right=True)[:, 0]
    assert (given == wanted).float().mean() > 0.99  # a sum in float32 rounds elsewhere
    assert torch.isfinite(logits.gather(1, given[:, None])).all()


def test_greedy_answers_do_not_depend_on_the_batch(tiny_model, prompts):
    model, tokenizer = load_model_and_tokenizer(str(tiny_model))
    model.requires_grad_(False)
    one = generate_completions(model, tokenizer, prompts, 8, batch_size=1)
    four = generate_completions(model, tokenizer, prompts, 8, batch_size=4)
    assert one == four and len(one) == len(prompts) == 4
    assert all(cut_off for ((_, cut_off),) in one)
    assert not any(p.requires_grad for p in model.parameters())


def test_samples_at_temperature_0_are_the_greedy_ones(adapted, prompts):
    model, tokenizer = adapted
    chat = {"add_generation_prompt": True, "return_dict": True}
    ids = tokenizer.apply_chat_template(prompts, **chat)["input_ids"]
    known = greedy_by_generate(model, ids, [tokenizer.eos_token_id], 12)
    texts = tokenizer.batch_decode(known, skip_special_tokens=True)
    greedy = generate_completions(model, tokenizer, prompts, 12)
    assert greedy == [[(text, True)] for text in texts]
    samples = generate_completions(model, tokenizer, prompts, 12, 3, temperature=0)
    assert samples == [[(text, True)] * 3 for text in texts]


def test_completions_that_end_early_leave_the_others_as_they_are(adapted, prompts):
    model, tokenizer = adapted
    whole = [text for ((text, _),) in generate_completions(*adapted, prompts, 12)]
    # The third token of the first completion now ends a completion.
    ids = tokenizer(whole[0], add_special_tokens=False)["input_ids"]
    config = model.generation_config
    config.eos_token_id = [tokenizer.eos_token_id, ids[2]]
    greedy = [pair for (pair,) in generate_completions(*adapted, prompts, 12)]
    texts = [text for text, _ in greedy]
    assert len(texts[0]) < len(whole[0])
    same = [text == full for text, full in zip(texts, whole, strict=True)]
    assert [cut_off for _, cut_off in greedy] == same and any(same) and not same[0]
    samples = generate_completions(*adapted, prompts, 12, 2, temperature=0)
    assert samples == [[pair] * 2 for pair in greedy]


def test_samples_have_the_probabilities_of_the_model(adapted, prompts):
    model, tokenizer = adapted
    torch.manual_seed(0)
    n = 3000
    (pairs,) = generate_completions(model, tokenizer, prompts[:1], 1, n, 0.005)
    options = {"add_generation_prompt": True, "return_tensors": "pt"}
    batch = tokenizer.apply_chat_template(prompts[:1], return_dict=True, **options)
    with torch.inference_mode():
        likely = (model(**batch).logits[0, -1] / 0.005).softmax(-1)
    token = int(likely.argmax())
    share = np.mean([text == tokenizer.decode(token) for text, _ in pairs])
    assert len(pairs) == n and 0.05 < likely[token] < 0.95
    assert share == pytest.approx(float(likely[token]), abs=4 * 0.5 / n**0.5)
