"""The checks of notebook 01, prompts and data."""

import statistics
import time

from ...prompts import SYSTEM_PROMPT, extract_hash_answer, extract_xml_answer
from . import compare_texts, exercise, near


@exercise
def check_chat(answer):
    """1.1: what the chat template makes of the system prompt and a question."""

    def chat(question, end="<|im_end|>\n", last="<|im_start|>assistant\n"):
        turns = {"system": SYSTEM_PROMPT, "user": question}
        parts = [f"<|im_start|>{role}\n{text}{end}" for role, text in turns.items()]
        return "".join(parts) + last

    mistakes = [
        (lambda q: chat(q, last=""), "the generation prompt is missing"),
        (lambda q: chat(q)[:-1], "a line break ends the generation prompt"),
        (lambda q: chat(q, end="<|im_end|>"), "a line break follows each <|im_end|>"),
        (
            lambda q: chat(q) + "<|im_end|>\n",
            "do not close the last message: the model writes there",
        ),
        (lambda q: SYSTEM_PROMPT + q, "this is a plain string without roles"),
    ]
    return compare_texts(answer, chat, {"Why?": "compare line by line"}, mistakes)


@exercise
def check_hash_answer(answer):
    """1.2: the gold answer of a solution."""
    cases = {
        "6 * 7 = 42\n#### 42": "the marker is ####; splitting at ### leaves a # behind",
        "#### 1\n#### 2": "the last marker counts",
        "#### $36": "take out the $",
        "#### 1,250,000": "take out commas between thousands",
        "#### 7.5": "keep the decimal point",
        "#### -6": "keep the sign",
        "#### 12.": "take off the full stop at the end",
        "no marker, 42": "without the marker there is no answer",
    }
    return compare_texts(answer, extract_hash_answer, cases, [])


@exercise
def check_xml_answer(answer):
    """1.3: the text of the last complete answer pair."""
    cases = {
        "<answer>\n42\n</answer>\n": "the answer stands between the two tags",
        "<answer>\n4 or\n2\n</answer>": "an answer may have several lines",
        "<answer>1</answer> <answer>2</answer>": "the last pair counts",
        "<answer>1</answer> <answer>2": "a pair without its closing tag does not count",
        "<answer>5</answer></answer>": "the pair ends at the first closing tag",
        "It is 42.": "without tags there is no answer",
        "<answer><answer>6</answer></answer>": "the innermost pair counts",
        "I use <answer>. <answer>7</answer>": "the pair begins at the last opening tag",
    }
    if wrong := compare_texts(answer, extract_xml_answer, cases, []):
        return wrong
    began = time.process_time()
    answer("<answer>" * 8000)
    seconds = time.process_time() - began
    slow = f"64 KB of opening tags take {seconds:.1f} s; 0.2 s is the limit"
    return slow if seconds > 0.2 else None


@exercise
def check_gold_cases(answer):
    """1.4: cases that let no broken reader of gold answers through."""

    def last(text):
        return text.rpartition("####")[2].strip()

    broken = {
        "splits at ###": lambda t: t.partition("###")[2].strip(),
        "takes the first ####": lambda t: t.partition("####")[2].split("\n")[0].strip(),
        "leaves the $": lambda t: last(t).replace(",", ""),
        "leaves the commas": lambda t: last(t).replace("$", ""),
        "drops every dot": lambda t: extract_hash_answer(t).replace(".", ""),
    }
    for text, gold in answer.items():
        if gold != extract_hash_answer(text):
            return f"{gold!r} is not the gold answer in {text!r}"
    for name, reader in broken.items():
        if all(reader(text) == gold for text, gold in answer.items()):
            return f"a reader that {name} passes all of your cases"
    return None


@exercise
def check_teaches(answer):
    """1.5: the advantage of the best completion of each of five groups."""
    groups = {"A": [0, 0, 0, 2.75], "B": [0, 0, 0, 0.125], "C": [4] * 4, "D": [2] * 4}
    groups["E"] = [2, 4, 4, 4]
    if not isinstance(answer, dict) or answer.keys() != groups.keys():
        return f"expected a dict with the keys {', '.join(groups)}"
    for name, rewards in groups.items():
        above = max(rewards) - statistics.mean(rewards)
        right = above / (statistics.stdev(rewards) + 1e-4)
        mistakes = {
            max(rewards): "that is the reward; how far is it above the group's mean?",
            above: "divide by the standard deviation of the group",
            above / (statistics.pstdev(rewards) + 1e-4): "torch's std divides by n − 1",
        }
        mistakes = {x: said for x, said in mistakes.items() if abs(x - right) > 0.02}
        hint = "expected (reward − mean) / (standard deviation + 0.0001)"
        if wrong := near(answer[name], right, mistakes, hint, 0.02):
            return f"{name}: {wrong}"
    return None
