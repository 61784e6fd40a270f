"""The figures of notebooks 01 and 02: what is drawn is what the numbers are."""

import numpy as np
import pandas as pd

from helpers.lab import plots
from helpers.scoring import wilson_interval


def test_rates_carry_their_intervals():
    frames = {"a": pd.DataFrame({"strict": [True, False, True, True]})}
    frames["b"] = pd.DataFrame({"strict": [False] * 4})
    (axes,) = plots.plot_rates(frames, ["strict"]).axes
    part = wilson_interval(3, 4)
    bar, dot = axes.lines[:2]
    assert list(bar.get_xdata()) == [100 * part["low"], 100 * part["high"]]
    assert (*dot.get_xdata(), *dot.get_ydata()) == (75, 0)
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert labels == ["a", "b"] and axes.yaxis_inverted()


def test_small_groups_show_their_points_and_large_ones_do_not():
    small, large = np.array([[0.0, 2.0], [0.125, 4.0]]), np.zeros((16, 8))
    figure = plots.plot_groups({"few": small, "many": large}, most=[4.0, 0.5])
    few, many = figure.axes
    assert [text.get_text() for text in few.texts] == ["0", "2", "0.125", "4"]
    assert not many.texts
    assert few.get_title() == "few\nmean 1.53 of 4"
    assert few.images[0].get_clim() == (0, 4) and many.images[0].get_clim() == (0, 0.5)


def test_groups_that_teach_lie_where_they_were_counted():
    block = np.array([[True, False], [False, False], [True, True], [False, True]])
    figure = plots.plot_teaching(lambda p, size: p * size, {"int": block}, (2, 4, 8))
    (axes,) = figure.axes
    assert [line.get_ydata()[-1] for line in axes.lines[:3]] == [2, 4, 8]
    point = axes.lines[3]
    assert (*point.get_xdata(), *point.get_ydata()) == (0.5, 0.5)
