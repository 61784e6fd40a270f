"""The figures of notebook 08: what is drawn is what the numbers are."""

import torch

from helpers.lab import plots


def test_a_ladder_has_a_bar_a_state_its_parts_joined_and_its_sum_behind_it():
    ladder = {"stock": {"writing": 4.0, "forward": 1.0, "backward": 3.0}}
    ladder["packed"] = {"writing": 4.0, "forward": 0.5, "backward": 0.25}
    (axes,) = plots.plot_ladder(ladder).axes
    drawn = [(bar.get_x(), bar.get_width()) for bar in axes.patches]
    assert drawn == [(0, 4), (0, 4), (4, 1), (4, 0.5), (5, 3), (4.5, 0.25)]
    assert [text.get_text() for text in axes.texts] == [" 8.0", " 4.8"]
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert labels == ["stock", "packed"] and axes.yaxis_inverted()
    legend = [text.get_text() for text in axes.get_legend().get_texts()]
    assert legend == ["writing", "forward", "backward"]


def test_a_mask_has_the_colour_of_the_token_that_is_seen():
    sees = torch.tensor([[1, 0, 0], [1, 1, 0], [1, 0, 1]]).bool()
    (axes,) = plots.plot_mask([0, 1, 2], sees).axes
    (image,) = axes.images
    assert image.get_array().tolist() == [[1, 0, 0], [1, 2, 0], [1, 0, 3]]
    assert image.get_clim() == (0, 4)
