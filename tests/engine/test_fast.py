"""The faster trainer: TRL's own numbers, the same tokens, the same distribution.

The stock GRPOTrainer is what each number is compared with; completions are injected.
"""

import copy
import itertools

import pytest
import torch
from peft import get_peft_model
from trl import GRPOTrainer
from trl.kernels import ChunkedLogProbFunction

from helpers import CourseError, fast
from helpers.data import get_arithmetic_questions
from helpers.models import load_model_and_tokenizer
from helpers.profiles import PROFILES, grpo_config, lora_config, override
from helpers.rewards import REWARD_FUNCS
from tests.tiny import WORDS, adapters, draw_adapters, prompts_of

FAST = fast.FastGRPOTrainer
LENGTH, GROUP = 12, 4
# Of the norm of what is compared: fp32 as the course promises; bf16 has 8 bits.
WITHIN = {"fp32": 1e-4, "bf16": 2e-2}


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
    draw_adapters(trainer.model)
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 1
    assert bool(getattr(trainer, "obstacle", None)) == hindered
    return trainer


def batch(seed=0, shared=3) -> dict[str, torch.Tensor]:
    """Three groups of four in mixed order: prompts of different lengths, completions of
    1 to 12 tokens, three of them cut off, two with nothing to learn from."""
    rng = torch.Generator().manual_seed(seed)
    prompts = torch.zeros(3, 25, dtype=torch.long)
    seen = prompts.clone()
    for row, prompt in enumerate(prompts_of(3, shared)):
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


@pytest.mark.parametrize("shared", [0, 3])  # tokens that all prompts begin with
@pytest.mark.parametrize("pair", ["fp32", "bf16"], indirect=True)
def test_logps_and_entropies_are_stock_trls(pair, shared, tmp_path, request):
    stock, quick = (build(c, pair, tmp_path) for c in (GRPOTrainer, FAST))
    inputs = batch(shared=shared)
    within = WITHIN[request.node.callspec.params["pair"]]
    (a, b), (c, d) = logps(quick, inputs), logps(stock, inputs)
    assert a.dtype == c.dtype and a.shape == c.shape
    assert far(a, c) < within and far(b, d) < within
    # Padding is 0 in both, and every real token has a number.
    assert torch.equal(a != 0, inputs["completion_mask"] == 1)
    assert torch.equal(c != 0, inputs["completion_mask"] == 1)
    if within < 1e-3:
        assert (a - c).abs().max() < 1e-4


LOSSES = ("dapo", "grpo", "bnpo", "dr_grpo", "cispo", "sapo", "vespo", "luspo")
GRID = [
    {"loss_type": loss, "beta": beta}
    | ({"importance_sampling_level": "sequence"} if loss == "luspo" else {})
    for loss, beta in itertools.product(LOSSES, (0.0, 0.1))
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


def test_a_confident_tokens_gradient_is_as_exact_as_trls():
    """Token by token: a norm over all hides that those with p near 1 have none left."""
    torch.manual_seed(0)
    weight, targets = torch.randn(2000, 64) / 8, torch.randint(2000, (1200,))
    margin = torch.linspace(7.5, 20, len(targets))[:, None]  # p from 0.5 to 0.99999
    direction = weight[targets] / weight[targets].pow(2).sum(-1, keepdim=True)
    hidden = (direction * margin + 0.3 * torch.randn(len(targets), 64)).bfloat16()
    weight = weight.bfloat16()

    def slopes(score, kind):
        x = hidden.to(kind, copy=True).requires_grad_()
        logps = score(x, weight.to(kind))
        logps.sum().backward()
        return logps.detach().exp(), x.grad.double()

    p, exact = slopes(
        lambda x, w: (x @ w.T).log_softmax(-1).gather(1, targets[:, None]), torch.double
    )
    scores = {
        "ours": lambda x, w: fast.TokenLogps.apply(x, w, targets, 1.0)[0],
        "TRL's": lambda x, w: ChunkedLogProbFunction.apply(
            x, w, None, targets, 1.0, 32_768, None, 1.0, ()
        )[0],
    }
    errors = {}
    for name, score in scores.items():
        _, slope = slopes(score, torch.bfloat16)
        errors[name] = (slope - exact).norm(dim=-1) / exact.norm(dim=-1)
    for low, high in [(0.5, 0.9), (0.9, 0.98), (0.98, 0.998), (0.998, 0.99999)]:
        some = (p[:, 0] > low) & (p[:, 0] <= high)
        assert some.sum() > 50
        for share in (0.5, 0.95):
            ours, trls = (errors[name][some].quantile(share) for name in scores)
            assert ours <= 1.1 * trls, (low, share, ours, trls)


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


@pytest.mark.parametrize("beta", [0.0, 0.1])
def test_groups_without_spread_cost_no_backward_pass(beta, pair, tmp_path, monkeypatch):
    stock, quick = (build(c, pair, tmp_path, beta=beta) for c in (GRPOTrainer, FAST))
    inputs = with_old_and_ref(stock, batch())
    prompts = [row.tolist() for row in inputs["prompt_ids"]]
    alike = torch.tensor([prompt == prompts[0] for prompt in prompts])
    assert alike.sum() == GROUP
    inputs["advantages"] = inputs["advantages"].clone().masked_fill(alike, 0.0)
    scored, packed = [], fast.packed_logps

    def watched(model, ids, *args):
        scored.append((len(ids), torch.is_grad_enabled()))
        return packed(model, ids, *args)

    monkeypatch.setattr(fast, "packed_logps", watched)
    (loss, grads, metrics), (wanted, right, known) = (
        step(trainer, inputs) for trainer in (quick, stock)
    )
    moving = int((inputs["advantages"] != 0).sum())
    assert moving <= 12 - GROUP
    still = [(moving, True), (12 - moving, False)]
    assert scored == (still if beta == 0 else [(12, True)])
    assert abs(loss - wanted) <= 1e-4 * abs(wanted)
    for name, grad in right.items():
        assert far(grads[name], grad) < 1e-4, name
    for name, (value,) in known.items():
        assert metrics[name][0] == pytest.approx(value, rel=1e-4, abs=1e-4), name


def test_where_no_completion_moves_the_gradient_is_zero(pair, tmp_path):
    quick, inputs = build(FAST, pair, tmp_path), batch()
    loss, grads, _ = step(quick, inputs | {"advantages": torch.zeros(12)})
    assert loss == 0 and not any(grad.any() for grad in grads.values())


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
    layers = [m for m in model.modules() if isinstance(m, fast.LoraLayer)]
    assert not any("forward" in vars(layer) for layer in layers)
    for name, p in model.named_parameters():
        assert torch.equal(p, before[name]), name


@pytest.mark.parametrize("pair", ["fp32", "bf16"], indirect=True)
def test_a_fused_adapter_is_the_adapter_and_may_be_off(pair, tmp_path):
    """Output and gradient of one layer, against PEFT's in float64."""
    model = build(FAST, pair, tmp_path).model
    layer = next(m for m in model.modules() if isinstance(m, fast.LoraLayer))
    x = torch.randn(2, 5, layer.in_features).to(model.dtype)
    weights = [part.default.weight for part in (layer.lora_A, layer.lora_B)]

    def grads(out):
        return torch.autograd.grad(out.double().square().sum(), weights)

    exact = copy.deepcopy(layer).double()
    ours = [part.default.weight for part in (exact.lora_A, exact.lora_B)]
    out = exact(x.double())
    wanted = [out, *torch.autograd.grad(out.square().sum(), ours)]
    theirs = layer(x)
    theirs = [theirs, *grads(theirs)]
    with fast.fused(model):
        assert "forward" in vars(layer)
        mine = layer(x)
        mine = [mine, *grads(mine)]
        with model.disable_adapter():
            assert torch.equal(layer(x), layer.base_layer(x))
    assert "forward" not in vars(layer)
    least = 1e-6 if model.dtype == torch.float32 else 0
    for got, peft, right in zip(mine, theirs, wanted, strict=True):
        assert far(got, right) < max(3 * far(peft, right), least)


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


def ruled_out(trainer) -> str | None:
    """What rules the faster step out, without what it was checked with."""
    reason = fast.obstacle(trainer)
    return reason and reason.partition(", checked with ")[0]


@pytest.mark.parametrize(
    "settings,reason",
    [
        ({"top_p": 0.9}, "top_p: 0.9, checked with [1.0]"),
        ({"generation_kwargs": {"num_beams": 2}}, "generation settings: ['num_beams']"),
        ({"bf16": True}, "mixed precision: bf16, checked with ['no']"),
        ({"cast_lm_head_to_fp32": True}, "cast_lm_head_to_fp32: True, checked with"),
        ({"max_completion_length": 1025}, "tokens of a group: 4100, checked with ran"),
        ({"entropy_coef": 0.01}, "entropy bonus: True, checked with [False]"),
        ({"gradient_checkpointing": True}, "gradient_checkpointing: True, checked"),
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
    assert (
        "TRL's own step, not the faster one: checked with TRL"
        in capsys.readouterr().out
    )
    monkeypatch.setattr(fast.trl, "__version__", "1.160.0")
    build(FAST, pair, tmp_path, hindered=True)


@pytest.mark.parametrize(
    "changes,reason",
    [
        ({"lora_dropout": 0.05}, "dropout: 0.05"),
        ({"use_dora": True}, "plain LoRA: False"),
        ({"modules_to_save": ["norm"]}, "plain LoRA: False"),
        ({"lora_bias": True}, "plain LoRA: False"),
        ({"target_modules": ["q_proj", "embed_tokens"]}, "plain LoRA: False"),
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
    assert ruled_out(trainer) == reason


@pytest.mark.parametrize(
    "name,value,reason",
    [
        ("attention_dropout", 0.1, "dropout: 0.1"),
        ("layer_types", ["sliding_attention"], "layer_types: {'sliding_attention'}"),
        ("rope_parameters", {"rope_type": "dynamic"}, "rope_type: dynamic"),
        (
            "final_logit_softcapping",
            30.0,
            "scales of logits: ['final_logit_softcapping']",
        ),
        ("model_type", "gemma", "model_type: gemma"),
    ],
)
def test_a_model_that_computes_otherwise_is_an_obstacle(
    name, value, reason, pair, tmp_path
):
    trainer = build(FAST, pair, tmp_path)
    setattr(trainer.model.config, name, value)
    assert ruled_out(trainer) == reason


def test_a_biased_head_and_settings_of_the_models_own_are_obstacles(pair, tmp_path):
    trainer = build(FAST, pair, tmp_path)
    trainer.model.generation_config.suppress_tokens = [5]
    assert ruled_out(trainer) == "generation settings: ['suppress_tokens']"
    head = trainer.model.get_output_embeddings()
    head.bias = torch.nn.Parameter(torch.zeros(WORDS), requires_grad=False)
    assert ruled_out(trainer) == "bias of the head: True"


def test_a_micro_batch_that_is_masked_whole_pulls_nowhere(pair, tmp_path):
    nothing = batch()
    nothing["completion_mask"] = torch.zeros_like(nothing["completion_mask"])
    for kind in (GRPOTrainer, FAST):
        loss, grads, _ = step(build(kind, pair, tmp_path), nothing)
        assert loss == 0 and not any(grad.any() for grad in grads.values())


def test_a_model_without_adapters_is_an_obstacle(pair, tmp_path):
    trainer = build(FAST, pair, tmp_path)
    trainer.model = copy.deepcopy(pair[0])
    assert ruled_out(trainer) == "plain LoRA: False"


def test_profiles_choose_their_trainer():
    kinds = {name: fast.trainer_class(p) for name, p in PROFILES.items()}
    assert kinds == {"article": GRPOTrainer, "t4": GRPOTrainer, "t4_quick": GRPOTrainer,
                     "cpu": FAST, "cpu_quick": FAST, "smoke": FAST}  # fmt: skip
    with pytest.raises(CourseError, match="trainer is 'quick'; use 'fast' or 'stock'"):
        fast.trainer_class(override(PROFILES["cpu"], ["trainer=quick"]))
