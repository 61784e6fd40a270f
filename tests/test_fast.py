"""The faster trainer: TRL's own numbers, the same tokens, the same distribution.

The stock GRPOTrainer is what each number is compared with; completions are injected.
"""

import copy
import itertools

import pytest
import torch
from peft import PeftModel, get_peft_model
from scipy.stats import chisquare
from test_recorded import RECORDED
from torch.nn.functional import linear
from transformers import Qwen2Config, Qwen2ForCausalLM
from trl import GRPOTrainer

from helpers import CourseError, fast
from helpers.data import get_arithmetic_questions
from helpers.models import load_model_and_tokenizer
from helpers.profiles import PROFILES, grpo_config, lora_config, override
from helpers.rewards import REWARD_FUNCS

LENGTH, GROUP, WORDS = 12, 4, 600
# Of the norm of what is compared: fp32 as the course promises; bf16 has 8 bits.
WITHIN = {"fp32": 1e-4, "bf16": 2e-2}


def adapters(model) -> dict[str, torch.Tensor]:
    return {n: p for n, p in model.named_parameters() if p.requires_grad}


def build(trainer_class, pair, folder, hindered=False, **settings):
    """A trainer on a copy of the model, its adapters drawn at random, B not 0.

    A faster one must be faster, else all would be compared with itself.
    """
    profile = override(PROFILES["smoke"], [f"max_completion_length={LENGTH}"])
    model, tokenizer = copy.deepcopy(pair[0]), pair[1]
    funcs = settings.pop("reward_funcs", list(REWARD_FUNCS))
    given = {"per_device_train_batch_size": 12, "num_generations": GROUP} | settings
    trainer = trainer_class(
        model=model,
        reward_funcs=funcs,
        args=grpo_config(profile, folder, temperature=0.7, **given),
        train_dataset=get_arithmetic_questions("train", 12, 0, 1),
        processing_class=tokenizer,
        peft_config=lora_config(profile),
    )
    generator = torch.Generator().manual_seed(1)
    for name, p in adapters(trainer.model).items():
        scale = 0.02 if "lora_B" in name else 0.1
        p.data = scale * torch.randn(p.shape, generator=generator)
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 1
    assert bool(getattr(trainer, "obstacle", None)) == hindered
    return trainer


@pytest.fixture(scope="session")
def small_model(tokenizer, tmp_path_factory):
    """A random Qwen2 with 600 words: on a CPU stock TRL takes its time for 49,152."""
    folder = tmp_path_factory.mktemp("models") / "small-qwen2"
    torch.manual_seed(0)
    config = Qwen2Config(hidden_size=32, intermediate_size=64, num_hidden_layers=2,
                         num_attention_heads=4, num_key_value_heads=2,
                         vocab_size=WORDS, initializer_range=0.05)  # fmt: skip
    Qwen2ForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def pair(small_model, request):
    """(model, tokenizer) of the small model, in the dtype that the test names."""
    return load_model_and_tokenizer(str(small_model), getattr(request, "param", "fp32"))


def prompts_of(count=5) -> list[list[int]]:
    """Prompts of 5 to 25 tokens, the second much shorter than the others."""
    rng = torch.Generator().manual_seed(9)
    sizes = [20 + n % 5 if n != 1 else 5 for n in range(count)]
    return [torch.randint(20, WORDS, (n,), generator=rng).tolist() for n in sizes]


def batch(seed=0) -> dict[str, torch.Tensor]:
    """Three groups of four in mixed order: prompts of different lengths, completions of
    1 to 12 tokens, three of them cut off, two with nothing to learn from."""
    rng = torch.Generator().manual_seed(seed)
    prompts = torch.zeros(3, 25, dtype=torch.long)
    seen = prompts.clone()
    for row, prompt in enumerate(prompts_of(3)):
        prompts[row, -len(prompt) :] = torch.tensor(prompt)
        seen[row, -len(prompt) :] = 1
    rows = torch.arange(3).repeat_interleave(GROUP)
    rows = rows[torch.randperm(12, generator=rng)]
    lengths = torch.randint(1, LENGTH, (12, 1), generator=rng)
    lengths[:3] = LENGTH
    ids = torch.randint(20, WORDS, (12, LENGTH), generator=rng)
    mask = (torch.arange(LENGTH) < lengths).long()
    ids = ids.scatter(1, (lengths - 1), 2)  # the end, token 2
    ids[:3, -1] = 77  # no end: cut off
    advantages = torch.randn(12, generator=rng)
    advantages[3:5] = 0
    return {
        "prompt_ids": prompts[rows],
        "prompt_mask": seen[rows],
        "completion_ids": ids.masked_fill(mask == 0, 0),
        "completion_mask": mask,
        "advantages": advantages,
        "num_items_in_batch": mask.sum(),
        "noise": 0.5 * torch.randn(12, LENGTH, generator=rng),
    }


def logps(trainer, inputs):
    """What the trainer's own method says of the completions."""
    ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], 1)
    mask = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], 1)
    scored = trainer._get_per_token_logps_and_entropies(
        trainer.model, ids, mask, LENGTH, compute_entropy=True
    )
    return scored[:2]


def step(trainer, inputs):
    """(loss, gradients, metrics) of one micro-batch of the trainer."""
    trainer.model.zero_grad()
    trainer._metrics["train"].clear()
    loss = trainer._compute_loss(trainer.model, inputs)
    loss.backward()
    grads = {n: p.grad.clone() for n, p in adapters(trainer.model).items()}
    return loss.detach(), grads, dict(trainer._metrics["train"])


def far(given: torch.Tensor, right: torch.Tensor) -> float:
    """The distance of two tensors, as a share of the norm of `right`."""
    given, right = given.detach().float(), right.detach().float()
    return float((given - right).norm() / right.norm())


def with_old_and_ref(stock, inputs):
    """The batch with old and reference log-probs some way off the stock trainer's."""
    with torch.no_grad():
        now, _ = logps(stock, inputs)
        with stock.model.disable_adapter():
            ref, _ = logps(stock, inputs)
    return inputs | {"old_per_token_logps": now + inputs["noise"],
                     "ref_per_token_logps": ref}  # fmt: skip


@pytest.mark.parametrize("pair", ["fp32", "bf16"], indirect=True)
def test_logps_and_entropies_are_stock_trls(pair, tmp_path, request):
    stock, quick = (build(c, pair, tmp_path) for c in (GRPOTrainer, FAST))
    inputs = batch()
    within = WITHIN[request.node.callspec.params["pair"]]
    (a, b), (c, d) = logps(quick, inputs), logps(stock, inputs)
    assert a.dtype == c.dtype and a.shape == c.shape
    assert far(a, c) < within and far(b, d) < within
    # Padding is 0 in both, and every real token has a number.
    assert torch.equal(a != 0, inputs["completion_mask"] == 1)
    assert torch.equal(c != 0, inputs["completion_mask"] == 1)
    if within < 1e-3:
        assert (a - c).abs().max() < 1e-4


FAST = fast.FastGRPOTrainer
GRID = [
    {"loss_type": loss, "beta": beta}
    for loss, beta in itertools.product(("dapo", "grpo", "bnpo", "dr_grpo"), (0.0, 0.1))
]


@pytest.mark.parametrize("pair", ["fp32", "bf16"], indirect=True)
@pytest.mark.parametrize(
    "settings", GRID, ids=lambda s: f"{s['loss_type']}-{s['beta']}"
)
def test_loss_gradients_and_metrics_are_stock_trls(settings, pair, tmp_path, request):
    stock, quick = (build(c, pair, tmp_path, **settings) for c in (GRPOTrainer, FAST))
    inputs = with_old_and_ref(stock, batch())
    within = WITHIN[request.node.callspec.params["pair"]]
    (loss, grads, metrics), (wanted, right, known) = (
        step(trainer, inputs) for trainer in (quick, stock)
    )
    assert abs(loss - wanted) <= within * abs(wanted)
    assert len(right) == 16  # A and B of q, k, v, o in two layers
    # In bf16 the gradient of a whole kind: single small ones are rounding alone.
    if within > 1e-3:
        grads, right = ({"all": torch.cat([g.flatten() for g in part.values()])}
                        for part in (grads, right))  # fmt: skip
    for name, grad in right.items():
        assert grad.norm() > 0
        assert far(grads[name], grad) < within, name
    assert metrics.keys() == known.keys() and ("kl" in known) == (settings["beta"] > 0)
    for name, (value,) in known.items():
        assert metrics[name][0] == pytest.approx(value, rel=within, abs=within), name


def test_bf16_is_as_near_to_fp32_as_stock_is(small_model, tmp_path):
    pairs = {d: load_model_and_tokenizer(str(small_model), d) for d in ("fp32", "bf16")}
    # The same weights, so that the difference is that of the arithmetic.
    pairs["fp32"][0].load_state_dict(pairs["bf16"][0].state_dict())
    truth = build(GRPOTrainer, pairs["fp32"], tmp_path)
    inputs = with_old_and_ref(truth, batch())
    _, right, _ = step(truth, inputs)
    errors = []
    for kind in (FAST, GRPOTrainer):
        _, grads, _ = step(build(kind, pairs["bf16"], tmp_path), inputs)
        errors.append([far(grads[name], right[name]) for name in right])
    quick, stock = (sum(e) / len(e) for e in errors)
    assert 0 < quick < 1.5 * stock < 0.1


def test_a_group_split_over_micro_batches_gives_the_same_gradient(pair, tmp_path):
    trainer = build(FAST, pair, tmp_path)
    inputs = batch()
    _, whole, _ = step(trainer, inputs)
    parts = [
        {n: x[rows] if x.dim() else x for n, x in inputs.items()}
        for rows in (torch.arange(0, 5), torch.arange(5, 12))
    ]
    grads = [step(trainer, part)[1] for part in parts]  # dapo: all by the same number
    for name, grad in whole.items():
        assert far(grads[0][name] + grads[1][name], grad) < 1e-5, name


def test_a_fully_masked_completion_scores_nothing(pair, tmp_path):
    stock, quick = (build(c, pair, tmp_path) for c in (GRPOTrainer, FAST))
    inputs = batch()
    inputs["completion_mask"][2] = 0  # as mask_truncated_completions does
    (a, _), (b, _) = logps(quick, inputs), logps(stock, inputs)
    assert far(a, b) < 1e-5 and not a[2].any()


def remainder(completions, **kwargs):
    """A reward that differs within a group, whatever a random model writes."""
    return [float(len(completion[0]["content"]) % 7) for completion in completions]


def test_steps_of_training_end_with_stock_trls_adapter(tiny_model, tmp_path):
    """The whole trainer, rewards and optimizer too; the same completions for both."""
    pair = load_model_and_tokenizer(str(tiny_model), "fp32")
    rng = torch.Generator().manual_seed(5)
    drawn = [torch.randint(20, 9000, (8, LENGTH), generator=rng) for _ in range(2)]
    drawn = [[row[: 3 + n].tolist() for n, row in enumerate(rows)] for rows in drawn]
    results = []
    for kind in (FAST, GRPOTrainer):
        settings = {"max_steps": 2, "beta": 0.05, "save_strategy": "no"}
        settings |= {"per_device_train_batch_size": 8, "reward_funcs": [remainder]}
        trainer = build(kind, pair, tmp_path / kind.__name__, **settings)
        todo = iter(drawn)
        trainer._generate_single_turn = lambda *args, todo=todo: (next(todo), None)
        begun = {n: p.detach().clone() for n, p in adapters(trainer.model).items()}
        trainer.train()
        moved = {n: p.detach() - begun[n] for n, p in adapters(trainer.model).items()}
        results.append((moved, trainer.state.log_history[:2]))
    (ours, log), (theirs, known) = results
    for name, change in theirs.items():
        assert change.norm() > 1e-3
        assert far(ours[name], change) < 1e-2, name  # Adam divides by small numbers
    for row, right in zip(log, known, strict=True):
        assert row.keys() == right.keys() and right["grad_norm"] > 0 < right["kl"]
        for key in row.keys() - {"step_time"}:
            assert row[key] == pytest.approx(right[key], rel=1e-3, abs=1e-5), key


# --- rollouts -------------------------------------------------------------------------


def real_prompts(tokenizer, count):
    chats = get_arithmetic_questions("train", count, 3, 1)["prompt"][:]
    chats[1] = chats[1][-1:]  # a much shorter one
    layout = {"add_generation_prompt": True, "return_dict": True}
    return tokenizer.apply_chat_template(chats, **layout)["input_ids"]


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


@pytest.mark.parametrize("fewest", [0, 6])
def test_greedy_tokens_are_those_of_generate(pair, tmp_path, fewest):
    model, prompts = build(FAST, pair, tmp_path).model.eval(), prompts_of()
    # The random model never ends by itself: let a quarter of the vocabulary be ends.
    ends = list(range(0, WORDS, 4))
    known = greedy_by_generate(model, prompts, ends, 12, fewest)
    assert len(set(map(len, known))) > 1 and min(map(len, known)) > fewest
    given = fast.generate(model, prompts, 1, 12, 0.0, ends, fewest)
    assert given == known
    thrice = fast.generate(model, prompts, 3, 12, 0.0, ends, fewest)
    assert thrice == [row for row in known for _ in range(3)]


@pytest.mark.slow
def test_greedy_tokens_of_the_real_model_are_those_of_generate():
    model, tokenizer = load_model_and_tokenizer("SmolLM2-135M-Instruct", "fp32")
    model = PeftModel.from_pretrained(model, RECORDED / "cpu-seed0" / "adapter").eval()
    prompts, ends = real_prompts(tokenizer, 6), [tokenizer.eos_token_id]
    known = greedy_by_generate(model, prompts, ends, 48)
    assert fast.generate(model, prompts, 1, 48, 0.0, ends) == known
    ended = [row[-1] == ends[0] for row in known]
    assert any(ended) and len(set(map(len, known))) > 1  # rows leave the batch early


VOCABULARY = 8


def joint_distribution(model, prompt, temperature):
    """The exact probability of each two-token completion, from plain forward passes."""
    first = torch.arange(VOCABULARY)
    ids = torch.cat([torch.tensor([prompt] * VOCABULARY), first[:, None]], 1)
    with torch.no_grad():
        shares = (model(ids).logits[:, -2:].double() / temperature).softmax(-1)
    return (shares[0, 0][:, None] * shares[:, 1]).flatten()


def test_sampled_tokens_have_the_models_distribution():
    torch.manual_seed(0)
    config = Qwen2Config(hidden_size=32, intermediate_size=64, num_hidden_layers=2,
                         num_attention_heads=4, num_key_value_heads=2,
                         vocab_size=VOCABULARY, initializer_range=0.6)  # fmt: skip
    model = Qwen2ForCausalLM(config).eval()
    other, prompt, n = [1, 2], [3, 1, 4, 1, 5], 20_000
    drawn = fast.generate(model, [other, prompt], n, 2, 0.7, [VOCABULARY])[n:]
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
    assert set(fast.draw(logits, 1.0).tolist()) == {1, 4}
    assert set(fast.draw(logits, 0).tolist()) == {4}
    logits[3, 2] = torch.nan
    with pytest.raises(RuntimeError, match="probability tensor"):
        fast.draw(logits, 1.0)


def test_merging_is_undone_to_the_bit(pair, tmp_path):
    model = build(FAST, pair, tmp_path).model
    before = {n: p.clone() for n, p in model.named_parameters()}
    ids = torch.arange(30, 60)[None]
    with torch.no_grad():
        wanted = model(ids).logits
        with fast.merged(model):
            given = model(ids).logits
        with model.disable_adapter():
            bare = model(ids).logits
    assert far(given, wanted) < 1e-5 < 1e-2 < far(bare, wanted)
    for name, p in model.named_parameters():
        assert torch.equal(p, before[name]), name


def test_merging_that_is_interrupted_is_undone_too(pair, tmp_path, monkeypatch):
    model = build(FAST, pair, tmp_path).model
    before = {n: p.clone() for n, p in model.named_parameters()}
    *_, last = (m for m in model.modules() if isinstance(m, fast.LoraLayer))

    def interrupted(name):
        raise KeyboardInterrupt

    monkeypatch.setattr(last, "get_delta_weight", interrupted)
    with pytest.raises(KeyboardInterrupt), fast.merged(model):
        pass
    for name, p in model.named_parameters():
        assert torch.equal(p, before[name]), name


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_merged_weights_are_the_trained_policy_in_fp32_and_not_quite_in_bf16(dtype):
    """Mean KL of rollout and trained policy: nothing in fp32, rounding in bf16."""
    model, tokenizer = load_model_and_tokenizer("SmolLM2-135M-Instruct", dtype)
    folder = RECORDED / "cpu-seed1" / "adapter"
    model = PeftModel.from_pretrained(model, folder).eval()
    prompts, temperature = real_prompts(tokenizer, 4), 1.0
    torch.manual_seed(0)

    def shares(prompt, completion):
        backbone, head = fast.backbone_and_head(model)
        hidden = backbone(torch.tensor([prompt + completion])).last_hidden_state
        logits = linear(hidden[0, len(prompt) - 1 : -1], head.weight).float()
        return (logits / temperature).log_softmax(-1)

    with torch.no_grad():
        settings = (4, 48, temperature, [tokenizer.eos_token_id])
        with fast.merged(model):
            drawn = fast.generate(model, prompts, *settings)
        pairs = [(prompts[i // 4], row) for i, row in enumerate(drawn)]
        trained = torch.cat([shares(*each) for each in pairs])
        with fast.merged(model):
            rollout = torch.cat([shares(*each) for each in pairs])
    kl = (rollout.exp() * (rollout - trained)).sum(-1).mean()
    assert len(trained) > 300
    assert kl < 1e-6 if dtype == "fp32" else 1e-5 < kl < 1e-2


@pytest.mark.parametrize("pair", ["fp32", "bf16"], indirect=True)
def test_rollouts_merge_in_fp32_alone(pair, tmp_path, monkeypatch, request):
    times = []

    def watched(model, merged=fast.merged):
        times.append(model)
        return merged(model)

    monkeypatch.setattr(fast, "merged", watched)
    trainer = build(FAST, pair, tmp_path)
    written, _ = trainer._generate_single_turn(prompts_of(2) * 2, None, {}, 2)
    assert [len(row) > 0 for row in written] == [True] * 4
    assert len(times) == (request.node.callspec.params["pair"] == "fp32")


# --- where it does not apply ----------------------------------------------------------


@pytest.mark.parametrize(
    "settings,reason",
    [
        ({"top_p": 0.9}, "it cannot do top_p"),
        ({"generation_kwargs": {"num_beams": 2}}, "it cannot do num_beams"),
        ({"bf16": True}, "autocast"),
        ({"cast_lm_head_to_fp32": True}, "cast_lm_head_to_fp32 is set"),
        ({"max_completion_length": 1025}, "4100 tokens a group; beyond 4096"),
        ({"entropy_coef": 0.01}, "the entropy is part of the loss"),
        ({"gradient_checkpointing": True}, "gradient checkpointing is on"),
    ],
)
def test_where_it_does_not_apply_stock_runs_and_a_line_says_so(
    settings, reason, pair, tmp_path, capsys
):
    quick = build(FAST, pair, tmp_path, hindered=True, **settings)
    said = [x for x in capsys.readouterr().out.splitlines() if "TRL's own step" in x]
    assert len(said) == 1 and reason in said[0]
    stock = build(GRPOTrainer, pair, tmp_path, **settings)
    inputs = batch()
    assert torch.equal(logps(quick, inputs)[0], logps(stock, inputs)[0])


def test_an_unknown_trl_gets_its_own_trainer(pair, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(fast.trl, "__version__", "1.17.0")
    trainer = build(FAST, pair, tmp_path, hindered=True)
    assert trainer.obstacle == "checked with TRL 1.16, this is 1.17.0"
    assert "TRL's own step, not the faster one: checked" in capsys.readouterr().out
    monkeypatch.setattr(fast.trl, "__version__", "1.160.0")
    build(FAST, pair, tmp_path, hindered=True)


@pytest.mark.parametrize(
    "changes,reason",
    [
        ({"lora_dropout": 0.05}, "dropout is active"),
        ({"use_dora": True}, "it is made for plain LoRA"),
        ({"modules_to_save": ["norm"]}, "it is made for plain LoRA"),
        ({"lora_bias": True}, "it is made for plain LoRA"),
        ({"target_modules": ["q_proj", "embed_tokens"]}, "it is made for plain LoRA"),
        ({"use_rslora": True}, None),
        ({"target_modules": "all-linear"}, None),
    ],
)
def test_only_plain_lora_gets_the_faster_step(changes, reason, pair, tmp_path):
    trainer = build(FAST, pair, tmp_path)
    config = lora_config(PROFILES["smoke"])
    for name, value in changes.items():
        setattr(config, name, value)
    trainer.model = get_peft_model(copy.deepcopy(pair[0]), config)
    assert fast.obstacle(trainer) == reason


@pytest.mark.parametrize(
    "name,value,reason",
    [
        ("attention_dropout", 0.1, "dropout is active"),
        ("layer_types", ["sliding_attention"], "some attention has a window"),
        ("rope_parameters", {"rope_type": "dynamic"}, "RoPE is dynamic"),
        ("final_logit_softcapping", 30.0, "the model sets final_logit_softcapping"),
        ("model_type", "gemma", "not checked with gemma models"),
    ],
)
def test_a_model_that_computes_otherwise_is_an_obstacle(
    name, value, reason, pair, tmp_path
):
    trainer = build(FAST, pair, tmp_path)
    setattr(trainer.model.config, name, value)
    assert fast.obstacle(trainer) == reason


def test_a_biased_head_and_settings_of_the_models_own_are_obstacles(pair, tmp_path):
    trainer = build(FAST, pair, tmp_path)
    trainer.model.generation_config.suppress_tokens = [5]
    assert fast.obstacle(trainer) == "it cannot do suppress_tokens"
    head = trainer.model.get_output_embeddings()
    head.bias = torch.nn.Parameter(torch.zeros(WORDS), requires_grad=False)
    assert fast.obstacle(trainer) == "the output layer has a bias"


def test_a_micro_batch_that_is_masked_whole_pulls_nowhere(pair, tmp_path):
    nothing = batch()
    nothing["completion_mask"] = torch.zeros_like(nothing["completion_mask"])
    for kind in (GRPOTrainer, FAST):
        loss, grads, _ = step(build(kind, pair, tmp_path), nothing)
        assert loss == 0 and not any(grad.any() for grad in grads.values())


def test_a_model_without_adapters_is_an_obstacle(pair, tmp_path):
    trainer = build(FAST, pair, tmp_path)
    trainer.model = copy.deepcopy(pair[0])
    assert fast.obstacle(trainer) == "it is made for plain LoRA"


def test_profiles_choose_their_trainer():
    kinds = {name: fast.trainer_class(p) for name, p in PROFILES.items()}
    assert kinds == {"article": GRPOTrainer, "t4": GRPOTrainer, "t4_quick": GRPOTrainer,
                     "cpu": FAST, "smoke": FAST}  # fmt: skip
    with pytest.raises(CourseError, match="trainer is 'quick'; use 'fast' or 'stock'"):
        fast.trainer_class(override(PROFILES["cpu"], ["trainer=quick"]))
