"""python -m helpers train | evaluate | doctor: a whole run with one command."""

import argparse
import io
import os
import sys
import time
from pathlib import Path

from . import CourseError
from .processes import ProcessLost, ending_together, is_main, number


def main(arguments: list[str] | None = None) -> int:
    """Run one command; return 0, 1 (doctor: ill), 2 (error) or 130 (Ctrl-C)."""
    args = parser().parse_args(arguments)
    for stream in (sys.stdout, sys.stderr):  # Windows' own encoding has no arrow
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8")
    if not is_main():  # one process prints
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
        os.environ["TQDM_DISABLE"] = "1"
    try:
        return args.command(args)
    except ImportError as error:
        print(f"error: {error}; run pip install -r requirements.txt", file=sys.stderr)
        return 2
    except (CourseError, OSError) as error:
        if not is_main() and not isinstance(error, ProcessLost):
            time.sleep(3)  # where the main one has the same to say, it ends them all
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as interrupt:
        if is_main():
            print(f"Stopped. {interrupt}", file=sys.stderr)
        return 130


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    top = argparse.ArgumentParser(prog="python -m helpers", description=__doc__)
    commands = top.add_subparsers(required=True, metavar="train | evaluate | doctor")
    p = commands.add_parser("train", help="evaluate, train, evaluate again, report")
    p.set_defaults(command=train)
    p.add_argument("--profile", help="article, t4, t4_quick, cpu, cpu_quick or smoke")
    text = "your own problems and rewards, a Python file as helpers/task.py says"
    p.add_argument("--task", type=Path, metavar="FILE", help=text)
    p.add_argument("--seed", type=int, help="of training and its problems (default 0)")
    p.add_argument("--out", type=Path, metavar="FOLDER", help="the run's folder")
    p.add_argument("--resume", action="store_true", help="go on with --out's run")
    p.add_argument("--max-minutes", type=float, help="save and stop training then")
    text = "fast (for CPUs) or stock (TRL's own); the profile's by default"
    p.add_argument("--trainer", metavar="WHICH", help=text)
    p.add_argument("--report-to", default="none", help="wandb, tensorboard, trackio …")
    settings = {"action": "append", "default": [], "metavar": "NAME=VALUE"}
    text = "a setting of the profile, GRPOConfig or LoRA, such as learning_rate=1e-4"
    p.add_argument("--set", **settings, help=text)
    p = commands.add_parser(
        "evaluate", help="score a run on test and transfer problems"
    )
    p.set_defaults(command=evaluate)
    p.add_argument("run", type=Path, metavar="RUN", help="the run's folder")
    text = "also the untrained model with its best prompt of 0, 1, 2 or 4 examples"
    p.add_argument("--few-shot", action="store_true", help=text)
    text = "is this machine ready, or is a run alive"
    p = commands.add_parser("doctor", help=text)
    p.set_defaults(command=doctor)
    p.add_argument("run", nargs="?", type=Path, metavar="RUN", help="a run's folder")
    return top


def train(args: argparse.Namespace) -> int:
    """Evaluate the untrained model, train it, evaluate it again, and report."""
    from accelerate.utils import broadcast_object_list, gather_object

    from . import data, evaluation, fast, models, preflight, profiles, runs, training
    from .pace import plan

    start, run = time.monotonic(), args.out
    if args.trainer:
        args.set.append(f"trainer={args.trainer}")
    if args.resume:
        given = args.profile or args.set or args.task
        if run is None or given or args.seed is not None:
            raise CourseError(
                "--resume wants --out FOLDER; it keeps the run's settings"
            )
        (profile, seed), reason = runs.load_run(run), "kept by the run"
    else:
        profile, reason = profiles.choose_profile(args.profile)
        profile, seed = profiles.override(profile, args.set), args.seed or 0
        profile = profiles.with_task(profile, args.task) if args.task else profile
        fast.trainer_class(profile)  # a wrong name is said at once
        run = run or Path("runs", time.strftime(f"%Y%m%d-%H%M%S-{profile.name}"))
        runs.check_new(run)
    print(f"profile {profile.name}: {profile.purpose} ({reason})")
    profiles.check_device(profile)
    settings = {"seed": seed, "report_to": args.report_to}
    profiles.grpo_config(profile, run, **settings)  # a bad setting is said at once
    settled = [models.settle_dtype(profile), run]
    profile, run = broadcast_object_list(settled)  # the main process's
    questions = evaluation.load_questions(profile, "train", seed)
    model, tokenizer = models.load_model_and_tokenizer(
        profile.model, profile.dtype, profile.device
    )
    questions = data.drop_long_prompts(questions, tokenizer, profile.max_prompt_length)
    if not args.resume and is_main():
        runs.create_run(run, profile, seed)
        profile, _ = runs.load_run(run)  # a task is read from the run's copy now
    print(f"run {run}: {profile.model} in {profile.dtype}, seed {seed}")
    if number() > 1:
        unmeasured = " (on GPUs: not measured)" * (profile.device == "gpu")
        print(f"{number()} processes share the completions of a step{unmeasured}")
    if not args.resume:
        print(plan(profile), flush=True)
    go_on = f"python -m helpers train --resume --out {run}"
    try:
        with ending_together(go_on), runs.holding(run):
            gather_object([None])  # the run's folder is there
            if not (run / "adapter" / "adapter_config.json").exists():
                trainer, profile = preflight.fit(
                    profile, run, model, tokenizer, questions, **settings
                )
                if is_main():
                    runs.update_profile(run, profile)
                with trainer.model.disable_adapter():
                    for which in ("before", "few_shot"):
                        evaluation.evaluate_part(
                            run, "test", which, trainer.model, tokenizer, compute=False
                        )
                stopped = training.train_or_resume(trainer, run, args.max_minutes)
                if stopped:
                    print(f"Stopped ({stopped}) and saved. Go on: {go_on}")
                    return 130 if stopped == "Ctrl-C" else 0
                del trainer
            del model
            training.free_memory()
            model, tokenizer = models.load_trained(profile, run / "adapter")
            evaluation.evaluate_part(run, "test", "after", model, tokenizer)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"Go on: {go_on}") from None
    report(run)
    print(f"{(time.monotonic() - start) / 60:.1f} minutes in all.")
    return 0


def evaluate(args: argparse.Namespace) -> int:
    """Score a run on every split where it was not yet, and report."""
    from . import evaluation, models, profiles, runs

    run, (profile, _) = args.run, runs.load_run(args.run)
    if number() > 1:
        raise CourseError("evaluate is made for one process: python -m helpers …")
    profiles.check_device(profile)
    with runs.holding(run):
        model, tokenizer = models.load_trained(profile, run / "adapter")
        for split in evaluation.SPLITS.get(profile.dataset, ("test",)):
            with model.disable_adapter():
                evaluation.evaluate_part(run, split, "before", model, tokenizer)
                evaluation.evaluate_part(
                    run, split, "few_shot", model, tokenizer, compute=args.few_shot
                )
            evaluation.evaluate_part(run, split, "after", model, tokenizer)
    report(run)
    return 0


def report(run: Path) -> None:
    """Print a run's comparison; write report.md and its figure."""
    from . import evaluation
    from .lab import plots

    if not is_main():
        return
    text = evaluation.report(run)
    plots.plot_rewards(run).savefig(run / "rewards.png", dpi=120)
    figure = "![Mean reward per step, in all and by function](rewards.png)"
    (run / "report.md").write_text(f"{text}\n{figure}\n", encoding="utf-8")
    print(f"\n{text}\nIn {run}: report.md, evaluation.json, log.jsonl, adapter/")


def doctor(args: argparse.Namespace) -> int:
    """Print how a run or this machine does; return 1 if anything is wrong with it."""
    from .doctor import check_machine, check_run

    if args.run:
        lines = check_run(args.run)
        print("\n".join(lines))
        return 0 if lines[0].startswith("alive") else 1
    found, remedies = check_machine()
    print("\n".join(found))
    print("\n".join(["", "Not ready:", *remedies]) if remedies else "\nReady.")
    return 1 if remedies else 0


if __name__ == "__main__":
    sys.exit(main())
