"""The checks of notebook 01, prompts and data."""

import time

from ...prompts import SYSTEM_PROMPT, extract_hash_answer, extract_xml_answer
from . import compare_texts, exercise, match


@exercise
def check_chat(answer):
    """1.1: what the chat template makes of the system prompt and a question."""

    def chat(question, end="<|im_end|>\n", last="<|im_start|>assistant\n"):
        turns = {"system": SYSTEM_PROMPT, "user": question}
        parts = [f"<|im_start|>{role}\n{text}{end}" for role, text in turns.items()]
        return "".join(parts) + last

    mistakes = [
        (lambda q: chat(q, last=""), "the generation prompt is missing"),
        (lambda q: chat(q)[:-1], "the line of the generation prompt is not ended"),
        (lambda q: chat(q, end="<|im_end|>"), "a line break follows each <|im_end|>"),
        (lambda q: chat(q) + "<|im_end|>\n", "the model closes its message itself"),
        (lambda q: SYSTEM_PROMPT + q, "this is a plain string, without any role"),
    ]
    return compare_texts(answer, chat, {"Why?": "compare line by line"}, mistakes)


@exercise
def check_hash_answer(answer):
    """1.2: the gold answer of a solution."""
    cases = {
        "6 * 7 = 42\n#### 42": "the marker is ####; a split at ### leaves a # behind",
        "#### 1\n#### 2": "the last marker counts",
        "#### $36": "the $ stays",
        "#### 1,250,000": "thousands commas stay",
        "#### 7.5": "the decimal point has to stay",
        "#### -6": "the sign has to stay",
        "#### 12.": "the closing full stop stays",
        "no marker, 42": "without a marker there is no answer",
    }
    return compare_texts(answer, extract_hash_answer, cases, [])


@exercise
def check_xml_answer(answer):
    """1.3: the text of the last complete answer pair."""
    cases = {
        "<answer>\n42\n</answer>\n": "the answer stands between the two tags",
        "<answer>\n4 or\n2\n</answer>": "an answer may have several lines",
        "<answer>1</answer> <answer>2</answer>": "the last pair counts",
        "<answer>1</answer> <answer>2": "a pair without closing tag is not complete",
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
    slow = f"64 KB of opening tags take {seconds:.1f} s, a megabyte 244 times that"
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
            return f"{gold!r} is not the right answer of {text!r}"
    for name, reader in broken.items():
        if all(reader(text) == gold for text, gold in answer.items()):
            return f"a reader that {name} passes all of your cases"
    return None


@exercise
def check_teaches(answer):
    """1.5: which groups of rewards can be learned from."""
    hints = {
        "A": "all are 0: who is better than the average of the group?",
        "B": "one tag is little, but it is more than the others have",
        "C": "all are perfect: which one should become likelier?",
        "D": "laid out well and all wrong: is one better than the others?",
    }
    return match(answer, {"A": False, "B": True, "C": False, "D": False}, hints)
