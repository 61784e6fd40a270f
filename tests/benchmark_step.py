"""Seconds of a GRPO step, stock TRL against helpers/fast.py, in turn, in one run.

    python tests/benchmark_step.py --rounds 5 --json step.json

Each trainer lives in a process of its own, so that each has its own peak of memory; one
works at a time. Generation writes exactly `--tokens` tokens on both sides; forward and
backward take the same injected completions. Nothing else should run on the machine.
"""

import argparse
import json
import multiprocessing
import statistics
import sys
import tempfile
import time
from pathlib import Path

import psutil
import torch
from torch.utils.benchmark import Timer

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

PARTS = ("generation", "forward", "backward", "optimizer")
PROBLEMS, GROUP = 4, 8


def prepare(kind: str, batch: int, tokens: int):
    """Return (trainer, prompts as ids, micro-batches of injected completions)."""
    from helpers import evaluation, fast, models, profiles

    settings = [f"trainer={kind}", f"per_device_train_batch_size={batch}"]
    settings += [f"gradient_accumulation_steps={PROBLEMS * GROUP // batch}"]
    settings += [f"num_generations={GROUP}", f"max_completion_length={tokens}"]
    profile = profiles.override(profiles.PROFILES["cpu"], settings)
    profile = models.settle_dtype(profile)
    model, tokenizer = models.load_model_and_tokenizer(profile.model, profile.dtype)
    torch.manual_seed(0)
    trainer = fast.trainer_class(profile)(
        model=model,
        reward_funcs=profile.reward_funcs,
        args=profiles.grpo_config(
            profile, tempfile.mkdtemp(), generation_kwargs={"min_new_tokens": tokens}
        ),
        train_dataset=evaluation.load_questions(profile, "train", 0),
        processing_class=tokenizer,
        peft_config=profiles.lora_config(profile),
    )
    trainer.create_optimizer()
    trainer.current_gradient_accumulation_steps = PROBLEMS * GROUP // batch
    chats = trainer.train_dataset["prompt"][:PROBLEMS]
    chat = {"add_generation_prompt": True, "return_dict": True}
    prompts = tokenizer.apply_chat_template(chats, **chat)["input_ids"]
    prompts = [prompt for prompt in prompts for _ in range(GROUP)]
    width = max(map(len, prompts))
    rows = len(prompts)
    inputs = {"prompt_ids": torch.zeros(rows, width, dtype=torch.long)}
    inputs["prompt_mask"] = torch.zeros_like(inputs["prompt_ids"])
    for row, prompt in enumerate(prompts):
        inputs["prompt_ids"][row, width - len(prompt) :] = torch.tensor(prompt)
        inputs["prompt_mask"][row, width - len(prompt) :] = 1
    inputs["completion_ids"] = torch.randint(20, len(tokenizer), (rows, tokens))
    inputs["completion_mask"] = torch.ones_like(inputs["completion_ids"])
    inputs["advantages"] = torch.randn(rows)
    order = torch.randperm(rows)  # TRL shuffles before it cuts
    micro = [{name: x[at] for name, x in inputs.items()} for at in order.split(batch)]
    for each in micro:
        each["num_items_in_batch"] = inputs["completion_mask"].sum()
    return profile, trainer, prompts, micro


def worker(kind: str, batch: int, tokens: int, pipe) -> None:
    """Do a step whenever asked; answer with its seconds and this process's peak."""
    profile, trainer, prompts, micro = prepare(kind, batch, tokens)
    if getattr(trainer, "obstacle", None):
        pipe.send({"error": trainer.obstacle})
        return
    real = sum(map(len, prompts[::GROUP]))
    pipe.send({"dtype": profile.dtype, "prompt_tokens": real})
    while pipe.recv():
        seconds = dict.fromkeys(PARTS, 0.0)

        def spend(part: str, action, spent=seconds):
            begun = time.perf_counter()
            result = action()
            spent[part] += time.perf_counter() - begun
            return result

        trainer.model.train()
        written, _ = spend(
            "generation",
            lambda: trainer._generate_single_turn(prompts, None, {}, GROUP),
        )
        assert {len(row) for row in written} == {tokens}
        for inputs in micro:
            loss = spend(
                "forward", lambda x=inputs: trainer._compute_loss(trainer.model, x)
            )
            spend("backward", loss.backward)
        spend("optimizer", trainer.optimizer.step)
        trainer.model.zero_grad()
        peak = psutil.Process().memory_info()
        peak = getattr(peak, "peak_wset", None) or resource_peak()
        pipe.send({"seconds": seconds, "peak_gb": peak / 1e9})


def resource_peak() -> int:
    """Return the largest resident set of this process so far, in bytes."""
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def matrix_rate(dtype: str) -> float:
    """Return FLOP a second of this machine in a product as large as a step's."""
    from helpers.models import DTYPES

    a, b = (torch.ones(n, 576, dtype=DTYPES[dtype]) for n in (1760, 1536))
    clock = Timer("a @ b.T", globals={"a": a, "b": b},
                  num_threads=torch.get_num_threads())  # fmt: skip
    return 2 * 1760 * 576 * 1536 / clock.blocked_autorange(min_run_time=1).median


def floor_flops(prompt_tokens: int, tokens: int) -> dict[str, float]:
    """Return the FLOP that a step cannot do without, by part.

    Twice the weights for each token that goes through the layers (each prompt once),
    and the output layer for each completion token. The backward pass needs no gradients
    of the frozen weights: it costs as much as the forward pass.
    """
    from helpers.lab.budget import architecture, count_parameters
    from helpers.profiles import EMBEDDED_MODEL

    config = architecture(EMBEDDED_MODEL)
    vocabulary = config.vocab_size * config.hidden_size
    layers = count_parameters(config) - vocabulary
    written = PROBLEMS * GROUP * tokens
    once = 2 * layers * (prompt_tokens + written) + 2 * vocabulary * written
    return {"generation": once, "forward": once, "backward": once}


def main() -> None:
    """Measure and print."""
    top = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    top.add_argument("--rounds", type=int, default=3, help="steps of each (default 3)")
    top.add_argument("--tokens", type=int, default=48, help="of a completion")
    text = "completions that stock TRL takes at once (default 8; the fast one: all)"
    top.add_argument("--stock-batch", type=int, default=8, help=text)
    top.add_argument("--json", type=Path, metavar="FILE", help="write all of it there")
    args = top.parse_args()

    from helpers.runs import machine

    context = multiprocessing.get_context("spawn")
    ends, processes, facts = {}, [], {}
    for kind, batch in (("stock", args.stock_batch), ("fast", PROBLEMS * GROUP)):
        ends[kind], far_end = context.Pipe()
        process = context.Process(
            target=worker, args=(kind, batch, args.tokens, far_end)
        )
        process.start()
        processes.append(process)
        facts = ends[kind].recv()
        if "error" in facts:
            sys.exit(f"the faster step does not apply: {facts['error']}")
    rows = {kind: [] for kind in ends}
    for turn in range(args.rounds + 1):  # the first warms up
        for kind, end in ends.items():
            end.send(True)
            row = end.recv()
            if turn:
                rows[kind].append(row)
    for end in ends.values():
        end.send(False)
    for process in processes:
        process.join()

    rate, flops = (
        matrix_rate(facts["dtype"]),
        floor_flops(facts["prompt_tokens"], args.tokens),
    )
    written = PROBLEMS * GROUP * args.tokens
    result = {"machine": machine(), "threads": torch.get_num_threads(), **facts,
              "rounds": args.rounds, "completions": PROBLEMS * GROUP, "group": GROUP,
              "tokens": args.tokens, "stock_batch": args.stock_batch,
              "matrix_flop_per_second": rate,
              "floor_seconds": sum(flops.values()) / rate}  # fmt: skip
    for kind, steps in rows.items():
        whole = [sum(step["seconds"].values()) for step in steps]
        middle = {
            part: statistics.median(step["seconds"][part] for step in steps)
            for part in PARTS
        }
        share = {part: flops[part] / rate / middle[part] for part in flops}
        total = statistics.median(whole)
        result[kind] = {"seconds": middle, "step": total, "steps": whole,
                        "tokens_per_second": written / total, "rate_share": share,
                        "peak_gb": max(step["peak_gb"] for step in steps)}  # fmt: skip
    result["ratio"] = result["stock"]["step"] / result["fast"]["step"]
    if args.json:
        args.json.write_text(json.dumps(result, indent=1), encoding="utf-8")

    print(f"{result['completions']} completions in groups of {GROUP}, {args.tokens} "
          f"tokens, {facts['dtype']}; medians of {args.rounds} steps")  # fmt: skip
    print(f"{'':22}{'stock':>9}{'fast':>9}{'ratio':>8}")
    for part in PARTS:
        pair = [result[kind]["seconds"][part] for kind in rows]
        print(f"{part + ', seconds':22}{pair[0]:9.2f}{pair[1]:9.2f}"
              f"{pair[0] / pair[1]:8.1f}")  # fmt: skip
    pair = [result[kind]["step"] for kind in rows]
    print(f"{'in all, seconds':22}{pair[0]:9.2f}{pair[1]:9.2f}{result['ratio']:8.1f}")
    for key, name in (
        ("tokens_per_second", "tokens a second"),
        ("peak_gb", "peak, GB"),
    ):
        pair = [result[kind][key] for kind in rows]
        print(f"{name:22}{pair[0]:9.2f}{pair[1]:9.2f}")
    for part in flops:
        pair = [100 * result[kind]["rate_share"][part] for kind in rows]
        print(f"{'% of rate, ' + part:22}{pair[0]:9.1f}{pair[1]:9.1f}")
    print(f"matrix rate {rate / 1e9:.0f} GFLOP/s; at it a step takes "
          f"{result['floor_seconds']:.2f} s, the floor")  # fmt: skip


if __name__ == "__main__":
    main()
