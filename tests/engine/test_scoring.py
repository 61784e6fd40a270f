"""Scores of single texts, and how sure a rate or a difference of two is."""

import pandas as pd
import pytest

from helpers.prompts import XML_COT_FORMAT
from helpers.scoring import (
    SCORES,
    extract_last_number,
    paired_difference,
    score,
    summarize,
    wilson_interval,
)

RIGHT = XML_COT_FORMAT.format(reasoning="3 * 6 = 18", answer="18")


def rows(values):
    """Rows of an evaluation in which every score is that of `values`."""
    frame = pd.DataFrame({name: values for name in SCORES})
    return frame.assign(cut_off=[not value for value in values], completion="x")


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("so 3 + 4 = 18.", "18"),
        ("it costs $1,018.50!", "1,018.50"),
        ("19-7", "7"),
        ("x = -5", "-5"),
        ("(3)-5", "5"),
        ("none", ""),
        ("１８", ""),
    ],
)
def test_the_last_number_of_a_text(text, number):
    assert extract_last_number(text) == number


def test_the_three_scores_differ_as_they_should():
    texts = [RIGHT, "Sure. " + RIGHT, "It is 18", RIGHT.replace("18", "17"), ""]
    frame = score(texts, ["18"] * 5)
    assert frame["format"].tolist() == [True, False, False, True, False]
    assert frame["strict"].tolist() == [True, True, False, False, False]
    assert frame["lenient"].tolist() == [True, True, True, False, False]


def test_wilson_interval_against_published_numbers():
    # Newcombe, Statistics in Medicine 17 (1998), table I, method 3.
    for successes, n, low, high in [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ]:
        interval = wilson_interval(successes, n)
        assert interval["rate"] == successes / n
        assert interval["low"] == pytest.approx(low, abs=5e-5)
        assert interval["high"] == pytest.approx(high, abs=5e-5)


def test_paired_difference_uses_the_pairs():
    before, after = [1, 0] * 50, [1, 1] * 50
    change = paired_difference(before, after)
    assert change["mean"] == 0.5
    # 1.96 standard errors of a rate of one half over 100 pairs are 0.098.
    assert change["low"] == pytest.approx(0.40, abs=0.02)
    assert change["high"] == pytest.approx(0.60, abs=0.02)
    same = paired_difference(before, before)
    assert same == {"mean": 0.0, "low": 0.0, "high": 0.0}


def test_differences_are_taken_problem_by_problem():
    before, after = rows([True, False]), rows([False, True])
    frame = pd.concat(
        [
            before.assign(which="before", index=[0, 1]),
            after.assign(which="after", index=[0, 1]).iloc[::-1],
        ]
    )
    change = summarize(frame)["difference"]["strict"]
    assert (change["mean"], change["low"], change["high"]) == (0.0, -1.0, 1.0)
