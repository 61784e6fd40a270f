# my_task.py, part 1: what it needs, and the notes
import json
import random

from helpers.rewards import completion_text

NOTES = {
    "train": [
        "{name} is {age} years old and lives in {city}.",
        "We sent {count} {item} to {city}.",
        "{name} flies to {city} on {day}.",
        "In {city} I met {name}, who is {age}.",
        "The shop in {city} sold {count} {item}.",
        "On {day}, {name} gives a talk in {city}.",
    ],
    "test": [
        "Our new colleague from {city}, {name}, turned {age} last week.",
        "{city} has ordered {count} {item} from us.",
        "The train to {city} leaves on {day}, and {name} is on it.",
    ],
}


# my_task.py, part 2: the problems
ASK = "Write this note as JSON with the keys {}.\n{}"
WORDS = {
    "name": "Ana Bo Chen Dina Emil Fay Gus Hana Ivo Jun Kaya Lars Mia Otto",
    "item": "lamps mugs pens chairs books bikes kites bowls rugs clocks",
    "day": "Monday Tuesday Wednesday Thursday Friday Saturday Sunday",
    "city": "Oslo Lima Cairo Paris Quito Delhi Porto Turin Kyoto Accra",
}
VALUES = {key: words.split() for key, words in WORDS.items()}
VALUES |= {"age": range(20, 90), "count": range(2, 90)}


def questions(split):
    """900 notes to train on; 200 to test with, in other words, with other values."""
    train, rows, draw = split == "train", [], random.Random(split)
    for number in range(900 if train else 200):
        note = NOTES[split][number % len(NOTES[split])]
        keys = [key for key in VALUES if f"{{{key}}}" in note]
        gold = {key: draw.choice(VALUES[key][train::2]) for key in keys}
        asked = ", ".join(draw.sample(keys, len(keys)))
        question = ASK.format(asked, note.format(**gold))
        rows.append({"question": question, "answer": json.dumps(gold)})
    return rows


# my_task.py, part 3: what stands before a question
system_prompt = "Answer with one JSON object and nothing else."
examples = [
    (
        ASK.format("age, city, name", "Zoe from Bonn is 12."),
        '{"age": 12, "city": "Bonn", "name": "Zoe"}',
    ),
    (
        ASK.format("item, city, count", "Rome got 3 of our tents."),
        '{"item": "tents", "city": "Rome", "count": 3}',
    ),
    (
        ASK.format("name, day, city", "Next Sunday Max will be in Bern."),
        '{"name": "Max", "day": "Sunday", "city": "Bern"}',
    ),
    (
        ASK.format("city, count, item", "Pack 4 sofas for Nice."),
        '{"city": "Nice", "count": 4, "item": "sofas"}',
    ),
]


# my_task.py, part 4: reading an answer
def no_key_twice(pairs):
    """Refuse what json.loads would take: of two equal keys it keeps the last."""
    if len(dict(pairs)) < len(pairs):
        raise ValueError("a key stands twice")
    return dict(pairs)


def read(text):
    """Return the JSON object that a text is, else None."""
    try:
        found = json.loads(text, object_pairs_hook=no_key_twice)
    except (ValueError, RecursionError):  # "[" 20,000 times is too deep for Python
        return None
    return found if isinstance(found, dict) else None


def same(one, other):
    """Tell whether two values are the same JSON: 5, "5" and 5.0 are three."""
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


def pay(points, completions, answer):
    """Return points(object, right object) for each completion, 0 for no object."""
    pairs = zip(map(completion_text, completions), answer, strict=True)
    both = [(read(text), json.loads(gold)) for text, gold in pairs]
    return [0.0 if got is None else float(points(got, gold)) for got, gold in both]


# my_task.py, part 5: the rewards
def correct_reward(completions, answer, **kwargs):
    """2 for the right object: these keys, these values, in any order."""
    return pay(lambda got, gold: 2 * same(got, gold), completions, answer)


def value_reward(completions, answer, **kwargs):
    """1 in all, a part of it for each right value under its key."""

    def share(got, gold):
        right = [key for key in gold if key in got and same(got[key], gold[key])]
        return len(right) / len(gold)

    return pay(share, completions, answer)


def key_reward(completions, answer, **kwargs):
    """0.5 for an object with exactly the keys asked for."""
    return pay(lambda got, gold: (got.keys() == gold.keys()) / 2, completions, answer)


def json_reward(completions, answer, **kwargs):
    """0.5 for a JSON object, whatever it holds."""
    return pay(lambda got, gold: 0.5, completions, answer)


reward_funcs = [correct_reward, value_reward, key_reward, json_reward]


# my_task.py, part 6: what counts in the evaluation
def lenient_score(completions, answer, **kwargs):
    """1 where the right object stands in the text, numbers perhaps as texts."""
    texts = [completion_text(completion) for completion in completions]
    texts = [text[text.find("{") : text.rfind("}") + 1] for text in texts]

    def as_texts(found):
        return {key: str(value) for key, value in found.items()}

    return pay(lambda got, gold: as_texts(got) == as_texts(gold), texts, answer)


scores = {"format": key_reward, "strict": correct_reward, "lenient": lenient_score}
