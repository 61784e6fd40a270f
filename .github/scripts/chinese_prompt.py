"""Record what a Chinese system prompt costs: python .github/scripts/chinese_prompt.py.

The untrained model and the three recorded runs of `cpu` answer the evaluation's 200
problems four times: with the system prompt in English and in Chinese, zero-shot and
one-shot. notebooks/recorded/chinese_prompt.json keeps a digit a problem and score, for
notebook 01. With --dry it writes nothing.
"""

import datetime
import json
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
OUT = ROOT / "notebooks" / "recorded" / "chinese_prompt.json"
MODELS = ("untrained", "cpu-seed0", "cpu-seed1", "cpu-seed2")
EXAMPLES = (0, 1)


def digits(column) -> str:
    """Return a digit for each problem: 1 where it has the score."""
    return "".join("1" if there else "0" for there in column)


def answered(profile, model, tokenizer) -> list[dict]:
    """Return what a model scores with each prompt, a case each."""
    from helpers.evaluation import EVALUATION_SEED, answer_questions, load_questions
    from helpers.prompts import SYSTEM_PROMPT, SYSTEM_PROMPT_ZH, XML_TAGS, build_prompt

    questions, cases = load_questions(profile, "test", EVALUATION_SEED), []
    for examples in EXAMPLES:
        for language, system in (("en", SYSTEM_PROMPT), ("zh", SYSTEM_PROMPT_ZH)):
            prompts = [build_prompt(q, examples, system) for q in questions["question"]]
            asked = questions.remove_columns("prompt").add_column("prompt", prompts)
            frame = answer_questions(profile, model, tokenizer, asked)
            tags = [any(t in text for t in XML_TAGS) for text in frame["completion"]]
            case = {"examples": examples, "language": language, "any tag": digits(tags)}
            case |= {s: digits(frame[s]) for s in ("format", "strict", "lenient")}
            cases.append(case)
    return cases


def main() -> None:
    """Ask every model, print each rate, and write the record."""
    from helpers.models import load_model_and_tokenizer, load_trained, settle_dtype
    from helpers.profiles import PROFILES
    from helpers.runs import machine, write_atomically

    profile, begun = settle_dtype(PROFILES["cpu"]), time.monotonic()
    cases = []
    for name in MODELS:
        if name == "untrained":
            where = (profile.model, profile.dtype, profile.device)
            model, tokenizer = load_model_and_tokenizer(*where)
        else:
            folder = ROOT / "notebooks" / "recorded" / name / "adapter"
            model, tokenizer = load_trained(profile, folder)
        for case in answered(profile, model, tokenizer):
            cases.append({"model": name} | case)
            right = case["strict"].count("1"), case["lenient"].count("1")
            print(name, case["examples"], case["language"], *right, flush=True)
    record = {"date": datetime.date.today().isoformat(), "machine": machine()}
    record |= {"dtype": profile.dtype, "n": profile.num_eval}
    record |= {"seconds": round(time.monotonic() - begun), "cases": cases}
    if sys.argv[1:] != ["--dry"]:
        write_atomically(OUT, json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main()
