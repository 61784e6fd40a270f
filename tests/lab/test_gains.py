"""The figures of notebook 06: what they draw is what they were given."""

import numpy as np
import pandas as pd
import pytest

from helpers.lab.gains import plot_gains, plot_kinds, plot_needed, plot_tries
from helpers.scoring import wilson_interval


def lines(figure) -> dict:
    """The labelled lines of a figure: label to (x, y)."""
    drawn = figure.axes[0].lines
    return {
        line.get_label(): (list(line.get_xdata()), list(line.get_ydata()))
        for line in drawn
        if not line.get_label().startswith("_")
    }


def test_every_gain_is_in_the_histogram_in_points_between_its_ends():
    figure = plot_gains([0.1, 0.2, 0.2, 0.3], 0.1, 0.3, "strict")
    (axes,) = figure.axes
    assert sum(bar.get_height() for bar in axes.patches) == 4
    at = [line.get_xdata()[0] for line in axes.lines]
    assert at == pytest.approx([0, 10, 30])
    assert axes.get_xlabel() == "gain in strict, points"
    said = [text.get_text() for text in axes.get_legend().texts]
    assert said == ["no gain", "95% interval"]


def test_each_kind_has_two_rates_with_their_intervals():
    index = pd.MultiIndex.from_product(
        [["*", "+"], ["before", "after"]], names=["operation", "which"]
    )
    counts = pd.DataFrame({"right": [1, 3, 2, 4], "problems": [4, 4, 8, 8]}, index)
    figure = plot_kinds(counts)
    (axes,) = figure.axes
    bars, dots = axes.lines[::2], axes.lines[1::2]
    rates = [dot.get_xdata()[0] for dot in dots]
    assert rates == [25, 75, 25, 50]
    for bar, (right, problems) in zip(bars, counts.to_numpy(), strict=True):
        part = wilson_interval(right, problems)
        ends = [100 * part["low"], 100 * part["high"]]
        assert list(bar.get_xdata()) == pytest.approx(ends)
    below, above = (dot.get_ydata()[0] for dot in dots[:2])
    assert below < 0 < above and dots[2].get_ydata()[0] > 0.5
    assert [text.get_text() for text in axes.get_legend().texts] == ["before", "after"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["*", "+"]
    assert axes.get_ylabel() == "operation"


def test_needed_problems_are_drawn_over_gains_and_results_beside_them():
    gains = np.array([0.05, 0.1, 0.2])
    figure = plot_needed(gains, {"pairs": [1000, 250, np.nan]}, {"a result": 0.3}, 30)
    drawn = lines(figure)
    assert drawn["pairs"][0] == pytest.approx([5, 10, 20])
    assert drawn["pairs"][1][:2] == [1000, 250]
    (axes,) = figure.axes
    assert [text.get_text() for text in axes.texts] == ["30 problems", "a result"]
    diamond = axes.lines[-1]
    assert (diamond.get_xdata()[0], diamond.get_ydata()[0]) == (30, 30)


def test_tries_have_a_line_for_each_side_and_measure_in_percent():
    keys = [(side, what, k) for side in ("untrained", "trained")
            for what in ("pass", "majority") for k in (4, 1)]  # fmt: skip
    means = pd.Series(np.arange(8) / 10, pd.MultiIndex.from_tuples(keys))
    drawn = lines(plot_tries(means))
    assert drawn["untrained, pass@k"] == ([1, 4], pytest.approx([10, 0]))
    assert drawn["trained, majority@k"] == ([1, 4], pytest.approx([70, 60]))
    assert len(drawn) == 4
