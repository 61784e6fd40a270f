"""Make notebooks/recorded/sick/ anew: python .github/scripts/record_sick.py

Each run is a real one: TRL's GRPOTrainer, LoRA, reward functions. The policy is a Qwen2
of width 32 with random weights that `teach` first fits to a few kinds of replies, so
that there is something to reward. Then one thing is broken. Two minutes on one CPU
core. `--seed` and `--out` make other runs of the same illnesses, to try the doctor on
logs that set none of its thresholds.
"""

import argparse
import json
import random
import shutil
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import torch
from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM, TrainerCallback

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from helpers import doctor, profiles, rewards, runs, training  # noqa: E402
from helpers.data import get_arithmetic_questions  # noqa: E402
from helpers.models import fetch_embedded_model  # noqa: E402
from helpers.prompts import SYSTEM_PROMPT, XML_COT_FORMAT  # noqa: E402

SICK = ROOT / "notebooks" / "recorded" / "sick"
NUMBERS = range(3, 6)  # answers of the training problems, and what the policy guesses
SETTINGS = [
    "model=tiny-qwen2",  # a name for config.json; the model itself is made below
    "num_examples=0",
    "learning_rate=0.005",
    "per_device_train_batch_size=8",
    "gradient_accumulation_steps=4",
    "num_generations=8",
    "max_completion_length=32",
    "temperature=1.0",
    "max_steps=16",
    "save_strategy=no",
]
KEPT = (
    "step", "time", "loss", "grad_norm", "learning_rate", "reward", "reward_std",
    "frac_reward_zero_std", "entropy", "completions/mean_length",
    "completions/clipped_ratio", "step_time",
)  # fmt: skip


def reply(dice: random.Random) -> str:
    """Return a reply to teach: tags alone, laid out, bare, or long."""
    number = dice.choice(NUMBERS)
    kind = dice.random()
    if kind < 0.2:
        return "<answer>\n</answer>\n" * dice.randint(1, 3)
    if kind < 0.5:
        return XML_COT_FORMAT.format(reasoning=f"It is {number}", answer=number)
    if kind < 0.7:
        return f"The answer is {number}."
    return "It is" + f" {number}, or" * dice.randint(1, 6) + " not."


def tiny_model(tokenizer) -> Qwen2ForCausalLM:
    """Return a Qwen2 of width 32 and two layers, with random weights."""
    config = Qwen2Config(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=len(tokenizer),
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return Qwen2ForCausalLM(config)


def teach(tokenizer, questions, seed: int, steps: int = 600) -> Qwen2ForCausalLM:
    """Return a tiny Qwen2 that answers questions with replies like the above."""
    torch.manual_seed(seed)
    dice = random.Random(seed)
    model = tiny_model(tokenizer)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(steps):
        loss = 0.0
        for row in dice.sample(range(len(questions)), 8):
            chat = questions[row]["prompt"]
            prompt = tokenizer.apply_chat_template(
                chat, add_generation_prompt=True, return_dict=True
            )["input_ids"]
            ids = [*tokenizer(reply(dice)).input_ids, tokenizer.eos_token_id]
            hidden = model.model(torch.tensor([prompt + ids])).last_hidden_state
            logits = model.lm_head(hidden[0, len(prompt) - 1 : -1])
            loss = loss + torch.nn.functional.cross_entropy(logits, torch.tensor(ids))
        optimizer.zero_grad()
        (loss / 8).backward()
        optimizer.step()
    return model


def length_of_question(completions, question, **kwargs) -> list[float]:
    """Pay by the problem, whatever the completion: no group has any variance.

    A power of two, else rounding gives eight equal rewards a standard deviation of
    1e-8, which TRL no longer takes for zero.
    """
    return [len(text) / 64 for text in question]


def one_point(completions, **kwargs) -> list[float]:
    """Pay 1.0 for anything."""
    return [1.0] * len(completions)


def boxed_reward_func(completions, **kwargs) -> list[float]:
    """Pay for an answer in a box, which the prompt never asks for."""
    return [float("\\boxed" in rewards.completion_text(c)) for c in completions]


def words_reward_func(completions, **kwargs) -> list[float]:
    """Pay for every word: what writes on and on wins."""
    return [len(rewards.completion_text(c).split()) / 10 for c in completions]


def tags_reward_func(completions, **kwargs) -> list[float]:
    """Pay for every tag, also for the tenth of the same: layout without an answer."""
    return [1.0 * rewards.completion_text(c).count(">") for c in completions]


def huge(func):
    """Return a reward function that pays 10,000 times as much."""

    def paid(completions, **kwargs):
        return [1e4 * reward for reward in func(completions=completions, **kwargs)]

    paid.__name__ = f"huge_{func.__name__}"
    return paid


# name: settings on top of SETTINGS, reward functions.
FIVE = list(rewards.REWARD_FUNCS)
RUNS = {
    "healthy": ([], FIVE),
    "no_variance": ([], [length_of_question]),
    "constant_reward": ([], [one_point]),
    "never_fires": ([], [*FIVE, boxed_reward_func]),
    "cut_off": (["max_completion_length=4"], [rewards.xmlcount_reward_func]),
    "entropy_collapsed": (["temperature=0.02"], FIVE),
    "entropy_exploded": (["learning_rate=0.2"], FIVE),
    "gradient_zero": (["lora_alpha=0"], FIVE),
    "learning_rate_zero": (["learning_rate=0.0"], FIVE),
    "gradient_exploding": (
        ["max_grad_norm=0.0", "scale_rewards=none"],
        [huge(func) for func in FIVE],
    ),
    "steps_skipped": (["fp16=True", "dtype=fp16"], FIVE),
    "length_creeping": (
        ["max_steps=20", "learning_rate=0.01"],
        [words_reward_func],
    ),
    "reward_hacked": ([], [rewards.correctness_reward_func, tags_reward_func]),
}


def make(name: str, model, tokenizer, questions, seed: int, run: Path) -> None:
    """Train one run to its end."""
    settings, funcs = RUNS[name]
    profile = profiles.override(profiles.PROFILES["smoke"], SETTINGS + settings)
    profile = replace(profile, name=name, purpose="a tiny run for the doctor")
    runs.create_run(run, profile, seed)
    trainer = training.build_trainer(
        profile, run, model, tokenizer, questions, seed=seed, reward_funcs=funcs
    )
    callbacks = []
    if name == "steps_skipped":
        # On a CPU accelerate leaves out the gradient scaler of a GPU run. This is
        # PyTorch's own, told to double its scale after every step that went well.
        accelerator = trainer.accelerator
        accelerator.scaler = torch.amp.GradScaler("cpu", growth_interval=1)

        class Unscale(TrainerCallback):  # once the model is prepared: no autocast
            def on_train_begin(self, *args, **kwargs):
                accelerator.native_amp = True

        callbacks = [Unscale()]
    training.train_or_resume(trainer, run, callbacks=callbacks)


def keep(run: Path, folder: Path) -> None:
    """Copy config.json, and of log.jsonl what the doctor and the plots read."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(run / "config.json", folder)
    lines = []
    for row in runs.read_log(run):
        row["time"] = round(row["time"])
        kept = {k: v for k, v in row.items() if k in KEPT or k.startswith("rewards/")}
        lines.append(json.dumps({k: float(f"{v:.4g}") for k, v in kept.items()}))
    (folder / "log.jsonl").write_text("".join(f"{line}\n" for line in lines))


def main() -> None:
    """Make every run, or those named."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("names", nargs="*", metavar="NAME", help=", ".join(RUNS))
    arguments.add_argument("--seed", type=int, default=0)
    arguments.add_argument("--out", type=Path, default=SICK)
    args = arguments.parse_args()
    questions = get_arithmetic_questions("train", 900, args.seed)
    questions = questions.filter(lambda row: int(row["answer"]) in NUMBERS)
    whole = AutoTokenizer.from_pretrained(fetch_embedded_model(), padding_side="left")
    # 600 words in place of 49,152: a step takes a second, not five.
    dice = random.Random(0)
    texts = [reply(dice) for _ in range(1000)] + questions["question"][:]
    tokenizer = whole.train_new_from_iterator([*texts, SYSTEM_PROMPT], 600)
    taught = teach(tokenizer, questions, args.seed).state_dict()
    for name in args.names or RUNS:
        model = tiny_model(tokenizer)
        model.load_state_dict(taught)
        if name == "steps_skipped":
            model.half()
        with tempfile.TemporaryDirectory() as scratch:
            run = Path(scratch) / name
            make(name, model, tokenizer, questions, args.seed, run)
            keep(run, args.out / name)
        print(name, *doctor.check_run(args.out / name), sep="\n  ", flush=True)


if __name__ == "__main__":
    main()
