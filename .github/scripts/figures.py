"""The figures in the READMEs: python .github/scripts/figures.py [--check].

Each is written from the recorded files, between the comments `<!-- figures:… -->` and
`<!-- figures:end -->`. `--check` changes nothing and says which figure is another than
the files give. Minutes of `train` come from recorded/minutes.json, those of a notebook
from its first cell.
"""

import argparse
import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ZH = "notebooks/zh/README.md"
SEEDS = range(3)
# What stands between the marks of a part: its text with a {hole} for each figure; a
# space is any white space. A text that is worded anew is worded anew here too.
TEXTS = {
    "README.md": {
        "result": [
            "gets {before} right in the answer tag",
            "(intervals within {within})",
            "and {after} after: gains of {gains} points,",
            "each paired 95% interval from {above} up.",
            "the untrained model reaches {few_shot}. On 100 problems",
            "it goes from {moved_before} to between {moved_after}, and {zero} of the "
            "three intervals of that gain reach 0",
        ],
        "machines": [
            "| `cpu` | {cpu_minutes} | {cpu_strict} | {cpu_lenient} |",
            "| `cpu_quick` | {quick_minutes} | {quick_strict} | {quick_lenient} |",
        ],
        "profiles": ["built-in word problems | {cpu_about} measured |"],
        "notebooks": [],  # a row for each notebook: see `values`
        "control": [
            "gains {layout_gain} points of *strict* in ten steps, "
            "where all five rewards gain {all_gain}."
        ],
        "workshop": ["`python -m helpers train` took {train} minutes"],
        "gpu": ["*strict* went from {gpu_before} before to {gpu_after} after, "],
    },
    ZH: {  # the same figures, in Chinese: see `chinese`
        "result": [
            "训练前答案标签里答对 {before}（区间在 {within} 之内）",
            "训练后答对 {after}，提高 {gains} 个百分点，"
            "每个配对 95% 区间的下限都不低于 {above}。",
            "可达 {few_shot}。",
            "成绩从 {moved_before} 升到 {moved_range}，"
            "三个提升区间中有 {zero} 个包含 0",
        ],
        "machines": [
            "| `cpu` | {cpu_minutes} | {cpu_strict} | {cpu_lenient} |",
            "| `cpu_quick` | {quick_minutes} | {quick_strict} | {quick_lenient} |",
        ],
        "profiles": ["内置应用题 | {cpu_about} 实测 |"],
        "notebooks": [],
        "control": [
            "*strict* 提高 {layout_gain} 个百分点，"
            "而五个奖励一起用时提高 {all_gain} 个百分点。"
        ],
        "workshop": ["`python -m helpers train` 用了 {train} 分钟"],
        "gpu": ["*strict* 从 {gpu_before} 升到 {gpu_after}（共 200 题）"],
    },
    "notebooks/recorded/README.md": {
        "own_task": [
            "| 0 | {own_before} | {own_few_shot} | {own_after_0} | {own_gain_0} | "
            "{own_min_0} |",
            "| 1 | the same | the same | {own_after_1} | {own_gain_1} | {own_min_1} |",
            "| 2 | the same | the same | {own_after_2} | {own_gain_2} | {own_min_2} |",
        ]
    },
}


def evaluations(root: Path, recipe: str, split: str = "test") -> list[dict]:
    """Return what `evaluation.json` says of a split, for each recorded seed."""
    folder = root / "notebooks" / "recorded"
    paths = sorted(folder.glob(f"{recipe}-seed[0-9]/evaluation.json"))
    return [json.loads(path.read_text())["splits"][split] for path in paths]


def percent(value: float, digits: int = 0) -> str:
    """Return a share of 1 as a number of percent."""
    return f"{round(100 * value, 6):.{digits}f}"


def spread(values: list[float], digits: int = 1) -> str:
    """Return shares of 1 as `10.5 to 11.5`, as one number where they agree."""
    ends = [percent(value, digits) for value in (min(values), max(values))]
    return " to ".join(dict.fromkeys(ends))


def rates(parts: list[dict], which: str, score: str = "strict") -> list[float]:
    """Return a rate for each seed."""
    return [part[which][score]["rate"] for part in parts]


def experiment_gain(root: Path, name: str) -> str:
    """Return the points of *strict* that an experiment of 07 gains, over its seeds."""
    folder = root / "notebooks" / "recorded" / "experiments"

    def rate(path: str) -> float:
        text = (folder / path).read_text(encoding="utf-8")
        digits = json.loads(text)["splits"]["test"]["strict"]
        return digits.count("1") / len(digits)

    after = [rate(f"{name}-seed{seed}/evaluation.json") for seed in SEEDS]
    return percent(sum(after) / len(after) - rate("untrained/1_examples.json"))


def with_interval(part: dict, sign: str = "%") -> str:
    """Return a rate or a difference with its interval, such as `42% (33 to 52)`."""
    middle = percent(part["rate"] if "rate" in part else part["mean"])
    return f"{middle}{sign} ({percent(part['low'])} to {percent(part['high'])})"


def run_minutes(root: Path) -> dict[str, list[float]]:
    """Return the minutes of `train` for each recipe, as the runs took them."""
    path = root / "notebooks" / "recorded" / "minutes.json"
    return json.loads(path.read_text())["minutes"]


def stated_minutes(path: Path) -> float:
    """Return the minutes on 2 CPU cores that a notebook's first cell names."""
    text = "".join(json.loads(path.read_text(encoding="utf-8"))["cells"][0]["source"])
    row = re.search(
        r"^\| 2 CPU cores[^|]*\| ([\d.]+)(?: to run|, of which)", text, re.M
    )
    if not row:
        sys.exit(f"{path.name}: the first cell names no minutes on 2 CPU cores")
    return float(row[1])


def recipe_values(root: Path, recipe: str) -> dict[str, str]:
    """Return the figures of one row of the README's table of machines."""
    parts, minutes = evaluations(root, recipe), run_minutes(root)[recipe]
    name, n = recipe.removeprefix("cpu_"), parts[0]["n"]
    before = f"{spread(rates(parts, 'before'))}%"
    after = f"{spread(rates(parts, 'after'))}% of {n}"
    lenient = spread(rates(parts, "after", "lenient"))
    same = rates(parts, "after", "lenient") == rates(parts, "after")
    return {
        f"{name}_minutes": f"{min(minutes):.1f} to {max(minutes):.1f}",
        f"{name}_strict": f"{before} → {after}",
        f"{name}_lenient": f"{spread(rates(parts, 'before', 'lenient'))}% → "
        + ("as *strict*" if same else f"{lenient}%"),
    }


def values(root: Path) -> dict[str, str]:
    """Return every figure by the name of its hole."""
    parts, moved = evaluations(root, "cpu"), evaluations(root, "cpu", "transfer")
    *first, last = (percent(rate, 1) for rate in rates(parts, "after"))
    gains = [part["difference"]["strict"] for part in parts]
    zero = sum(part["difference"]["strict"]["low"] <= 0 for part in moved)
    few_shot = {with_interval(part["few_shot"]["strict"]) for part in parts}
    (few_shot,) = few_shot
    rate = percent(parts[0]["few_shot"]["strict"]["rate"], 1)
    lows = [part["before"]["strict"]["low"] for part in parts]
    highs = [part["before"]["strict"]["high"] for part in parts]
    ends = [percent(edge(rates(moved, "after"))) for edge in (min, max)]
    minutes = run_minutes(root)
    both = minutes["cpu"] + minutes["cpu_quick"]
    found = {
        "before": f"{spread(rates(parts, 'before'))}%",
        "within": f"{percent(min(lows))} to {percent(max(highs))}",
        "after": f"{', '.join(first)} and {last}%",
        "gains": spread([gain["mean"] for gain in gains]).replace(".0", ""),
        "above": percent(min(gain["low"] for gain in gains)),
        "few_shot": rate + few_shot[few_shot.index("%") :],
        "moved_before": f"{spread(rates(moved, 'before'), 0)}%",
        "moved_after": f"{ends[0]} and {ends[1]}%",
        "moved_range": f"{spread(rates(moved, 'after'), 0)}%",
        "zero": ["none", "one", "two", "all"][zero],
        "cpu_about": f"{(min(minutes['cpu']) + max(minutes['cpu'])) / 2:.0f}",
        "train": f"{min(both):.0f} to {max(both):.0f}",
        "layout_gain": experiment_gain(root, "layout"),
        "all_gain": experiment_gain(root, "base"),
    }
    found |= recipe_values(root, "cpu") | recipe_values(root, "cpu_quick")
    own, own_minutes = evaluations(root, "own_task"), minutes["own_task"]
    found["own_before"] = with_interval(own[0]["before"]["strict"])
    found["own_few_shot"] = with_interval(own[0]["few_shot"]["strict"])
    for seed, part in enumerate(own):
        gain = with_interval(part["difference"]["strict"], "")
        found[f"own_after_{seed}"] = with_interval(part["after"]["strict"])
        found[f"own_gain_{seed}"] = f"+{gain}"
        found[f"own_min_{seed}"] = f"{own_minutes[seed]:.1f}"
    on_gpu = evaluations(root, "gpu_fp16")
    found["gpu_before"] = f"{spread(rates(on_gpu, 'before'))}%"
    after = (percent(rate, 1) for rate in rates(on_gpu, "after"))
    found["gpu_after"] = " and ".join(after) + "%"
    for path in sorted((root / "notebooks").glob("[0-9]*.ipynb")):
        found[f"notebook_{path.name[:2]}"] = f"{stated_minutes(path):.0f}"
    return found


def chinese(value: str) -> str:
    """Return a figure as the Chinese README writes it."""
    value = re.sub(r" \((.+?)\)", r"（\1）", value)
    value = re.sub(r"% of (\d+)$", r"%（共 \1 题）", value)
    words = {" to ": "～", ", ": "、", " and ": " 和 ", "as *strict*": "同 *strict*"}
    words |= {"none": "0", "one": "1", "two": "2", "all": "3"}
    for english, other in words.items():
        value = value.replace(english, other)
    return value


def holes(text: str) -> re.Pattern:
    """Return the pattern of a text with holes."""
    parts = re.split(r"\{(\w+)\}", text)
    fixed = [r"\s+".join(map(re.escape, part.split(" "))) for part in parts[::2]]
    names = [rf"(?P<{name}>[^|\n]*?(?:\n[^|\n]*?)?)" for name in parts[1::2]]
    return re.compile("".join(a + b for a, b in zip(fixed, [*names, ""], strict=True)))


def rows(root: Path, name: str) -> list[str]:
    """Return the text of each notebook's row in a README."""
    paths = sorted((root / "notebooks").glob("[0-9]*.ipynb"))
    says = "分钟（2 核 CPU" if name == ZH else "on 2 CPU cores"
    return [f"| {{notebook_{path.name[:2]}}} {says}" for path in paths]


def written(text: str, part: str, fill: list[str], known: dict[str, str]) -> tuple:
    """Return a file's text with the figures of one part, and what was wrong there."""
    marks = rf"(<!-- figures:{part} -->)(.*?)(<!-- figures:end -->)"
    found = re.search(marks, text, re.DOTALL)
    if not found:
        return text, [f"the marks <!-- figures:{part} --> … are gone"]
    inside, problems, start = found[2], [], 0
    for sentence in fill:
        match = holes(sentence).search(inside, start)
        if not match:
            problems.append(f"figures:{part} does not say {sentence!r} any more")
            continue
        for name in reversed(match.groupdict()):
            old, new = " ".join(match[name].split()), known[name]
            if old != new:
                problems.append(f"figures:{part} says {old!r} for {name}, not {new!r}")
                a, b = match.span(name)
                inside = inside[:a] + new + inside[b:]
        start = match.start() + 1
    return text[: found.start(2)] + inside + text[found.end(2) :], problems


def figures(root: Path, write: bool) -> list[str]:
    """Write every figure, or with `write` False only return what is wrong."""
    known, problems = values(root), []
    for name, parts in TEXTS.items():
        path = root / name
        text = path.read_text(encoding="utf-8")
        here = {hole: chinese(value) for hole, value in known.items()}
        here = here if name == ZH else known
        for part, fill in parts.items():
            text, wrong = written(text, part, fill or rows(root, name), here)
            problems += [f"{name}: {line}" for line in wrong]
        if write:
            path.write_text(text, encoding="utf-8")
    return problems


def main() -> int:
    """Write or check; return 1 where a check finds something."""
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--check", action="store_true", help="change nothing")
    check = p.parse_args().check
    problems = figures(ROOT, write=not check)
    print("\n".join(problems) or "nothing found")
    gone = [line for line in problems if "any more" in line or "are gone" in line]
    return int(bool(problems if check else gone))


if __name__ == "__main__":
    sys.exit(main())
