"""What the model is asked and how its answer is read.

The names and the English prompt follow Will Brown's GRPO demo
(https://gist.github.com/willccbb/4676755236bb08cab5f4e54a0475d6fb) and the article
that this course starts from (https://k-a.in/grpo-1B).
"""

import re

from . import CourseError

SYSTEM_PROMPT = """
Respond in the following format:
<reasoning>
...
</reasoning>
<answer>
...
</answer>
"""

SYSTEM_PROMPT_ZH = SYSTEM_PROMPT.replace(
    "Respond in the following format:", "请按以下格式回答："
)

XML_COT_FORMAT = """\
<reasoning>
{reasoning}
</reasoning>
<answer>
{answer}
</answer>
"""

XML_TAGS = ("<reasoning>", "</reasoning>", "<answer>", "</answer>")

# (question, reasoning, answer). None of them occurs in a data set of helpers.data.
WORKED_EXAMPLES = (
    (
        "Ana picks 3 red and 4 green peppers. How many peppers does she pick?",
        "3 + 4 = 7",
        "7",
    ),
    ("A cook has 9 pans and sells 2. How many does she keep?", "9 - 2 = 7", "7"),
    ("A hotel has 5 floors of 8 rooms. How many rooms is that?", "5 * 8 = 40", "40"),
    ("Leo cuts 12 m of rope into 4 equal parts. How long is one?", "12 / 4 = 3", "3"),
)


def build_prompt(
    question: str, num_examples: int = 0, system_prompt: str = SYSTEM_PROMPT
) -> list[dict[str, str]]:
    """Return a question's chat messages, after 0 to 4 examples; else CourseError."""
    most = len(WORKED_EXAMPLES)
    if not 0 <= num_examples <= most:
        raise CourseError(f"num_examples is {num_examples}; use 0 to {most}")
    messages = [{"role": "system", "content": system_prompt}]
    for shown, reasoning, answer in WORKED_EXAMPLES[:num_examples]:
        reply = XML_COT_FORMAT.format(reasoning=reasoning, answer=answer)
        messages.append({"role": "user", "content": shown})
        messages.append({"role": "assistant", "content": reply})
    return [*messages, {"role": "user", "content": question}]


def extract_xml_answer(text: str) -> str:
    """Return the text of the last complete `<answer>…</answer>` pair, else `""`.

    A pair is an opening tag and the next closing tag with no other answer tag between.
    """
    answer, start = "", None
    for tag in re.finditer("</?answer>", text):
        if tag.group() == "<answer>":
            start = tag.end()
        elif start is not None:
            answer, start = text[start : tag.start()].strip(), None
    return answer


def extract_hash_answer(text: str) -> str:
    """Return GSM8K's gold answer: what follows the last `####`, else `""`.

    `$`, thousands commas and a closing full stop go; sign and decimals stay.
    """
    answer = text.rpartition("####")[2].strip() if "####" in text else ""
    answer = re.sub(r"(?<=[0-9]),(?=[0-9]{3}(?![0-9]))", "", answer.replace("$", ""))
    return answer.removesuffix(".").strip()
