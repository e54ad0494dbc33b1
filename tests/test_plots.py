"""The pictures show the numbers that they are given, and refuse what they can't show."""

import base64
import io
import re

import matplotlib
import numpy as np
import pytest
import torch
from PIL import Image

matplotlib.use("Agg")
from matplotlib import pyplot as plt

from transformer_lab import plots


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def shown(ax):
    return np.asarray(ax.images[0].get_array())


def labels(axis):
    return [label.get_text() for label in axis.get_ticklabels()]


def test_heatmap_shows_table_labels_and_unit():
    table = torch.arange(6.0).reshape(2, 3)
    ax = plots.heatmap(
        table, rows="ab", columns="xyz", row_title="r", column_title="c", title="t", unit="nats",
        annotate=True,
    )  # fmt: skip
    np.testing.assert_array_equal(shown(ax), table.numpy())
    assert labels(ax.yaxis) == ["a", "b"]
    assert labels(ax.xaxis) == ["x", "y", "z"]
    assert (ax.get_ylabel(), ax.get_xlabel(), ax.get_title()) == ("r", "c", "t")
    assert [text.get_text() for text in ax.texts] == [f"{number:.2f}" for number in range(6)]
    assert ax.figure.axes[1].get_ylabel() == "nats"


def test_diverging_heatmap_has_zero_in_the_middle():
    ax = plots.heatmap([[-1.0, 3.0]], diverging=True)
    assert ax.images[0].get_clim() == (-3.0, 3.0)


def test_masked_scores_leave_the_scale_to_the_others():
    ax = plots.heatmap([[1.0, float("-inf"), 3.0]])
    assert ax.images[0].get_clim() == (1.0, 3.0)


def test_attention_map_has_the_scale_of_probabilities():
    ax = plots.attention_map(torch.tensor([[0.25, 0.75]]), ["q"], ["a", "b"])
    assert ax.images[0].get_clim() == (0.0, 1.0)
    assert [text.get_text() for text in ax.texts] == ["0.25", "0.75"]


def test_large_attention_map_is_not_written_over():
    ax = plots.attention_map(torch.eye(9), range(9), range(9))
    assert not ax.texts


def test_mask_grid_drops_axes_of_size_one():
    mask = torch.tensor([[True, False], [True, True]])
    ax = plots.mask_grid(mask[None, None])
    np.testing.assert_array_equal(shown(ax), mask.numpy())
    assert [text.get_text() for text in ax.get_legend().texts] == ["may attend", "blocked"]


def test_probability_bars_are_as_long_as_the_probabilities():
    ax = plots.probability_bars([0.7, 0.3], ["x", "y"])
    assert [bar.get_width() for bar in ax.patches] == [0.7, 0.3]
    assert labels(ax.yaxis) == ["x", "y"]


@pytest.mark.parametrize(
    ("draw", "says"),
    [
        (lambda: plots.heatmap(torch.ones(2, 3, 4)), r"shape is \(2, 3, 4\).*Pick one batch"),
        (lambda: plots.heatmap([[1.0, 2.0]], rows=["a", "b"]), "1 rows but 2 labels"),
        (lambda: plots.attention_map([[0.5, 0.5]], ["q"], ["k"]), "2 columns but 1 labels"),
        (lambda: plots.probability_bars([0.5, 0.5], ["a"]), "2 probs but 1 labels"),
        (lambda: plots.probability_bars([0.5, 2.0], ["a", "b"]), "they go from 0.5 to 2.0"),
        (lambda: plots.probability_bars([], []), r"probs must be a list of numbers.* \(0,\)"),
        (lambda: plots.heatmap([[1.0]], limits=(1.0, 0.0)), r"the smaller first; .* \(1.0, 0.0\)"),
        (lambda: plots.palette_png(b"x"), "png must be the bytes of a PNG file; it is b'x'"),
        (lambda: plots.palette_png(b"x", 257), "colours must be at most 256; it is 257"),
        (lambda: plots.heatmap([[1j]]), "values must hold real numbers"),
        (lambda: plots.slider(lambda value: plt.figure(), [], label="T", alt="x"), "one setting"),
    ],
)
def test_bad_input_is_answered_in_words(draw, says):
    with pytest.raises(ValueError, match=says):
        draw()


def draw_line(height):
    figure, ax = plt.subplots(figsize=(2, 1))
    ax.plot([0, height])
    return figure


def test_slider_holds_a_picture_for_each_value_and_closes_its_figures():
    slider = plots.slider(draw_line, [1, 2, 3], label="height", alt="a <line>")
    assert plt.get_fignums() == []
    bundle = slider._repr_mimebundle_()
    pictures = re.findall(r"data:image/png;base64,([A-Za-z0-9+/=]+)", bundle["text/html"])
    assert len(set(pictures)) == 3
    assert bundle["text/html"].count("<img") == 1, "without scripts, one picture stands alone"
    with Image.open(io.BytesIO(base64.b64decode(pictures[0]))) as image:
        assert image.size == (200, 100)
    assert "a &lt;line&gt;" in bundle["text/html"]
    assert bundle["text/plain"] == "Slider: a <line> (height = 1 to height = 3, 3 pictures)"


def test_slider_is_the_same_in_every_run():
    one, two = (
        plots.slider(draw_line, [1, 2], label="height", alt="a line")._repr_mimebundle_()
        for _ in range(2)
    )
    assert one == two


def test_palette_png_keeps_the_picture():
    table = torch.softmax(4 * torch.randn(8, 8, generator=torch.Generator().manual_seed(0)), -1)
    raw = io.BytesIO()
    plots.attention_map(table, range(8), range(8)).figure.savefig(raw, format="png")
    packed = plots.palette_png(raw.getvalue())
    assert len(packed) < len(raw.getvalue())
    with Image.open(io.BytesIO(packed)) as small, Image.open(raw) as large:
        difference = np.abs(
            np.asarray(small.convert("RGB"), float) - np.asarray(large.convert("RGB"), float)
        )
    assert difference.max() <= 16  # of 255


def test_positions_are_drawn_around_zero():
    table = torch.tensor([[0.5, -2.0, 0.0], [1.0, 0.0, 1.0]])
    ax = plots.positions(table, title="t")
    np.testing.assert_array_equal(shown(ax), table.numpy())
    assert ax.images[0].get_clim() == (-2.0, 2.0)
    assert (ax.get_ylabel(), ax.get_xlabel(), ax.get_title()) == ("position", "feature", "t")
    assert (labels(ax.yaxis), labels(ax.xaxis)) == (["0", "1"], ["0", "1", "2"])


def test_large_table_of_positions_has_few_labels():
    ax = plots.positions(torch.zeros(50, 128))
    assert [int(label) for label in labels(ax.xaxis)] == list(ax.get_xticks())
    assert 4 <= len(ax.get_xticks()) <= 10
    assert max(ax.get_yticks()) < 50


def test_gradient_has_a_line_and_a_marker_for_each_wiring():
    ax = plots.gradient_by_layer([[1.0, 0.1, 1e-4], torch.tensor([1.0, 2.0])], ["post", "pre"])
    assert ax.get_yscale() == "log"
    post, pre = ax.lines
    assert (list(post.get_xdata()), list(post.get_ydata())) == ([1, 2, 3], [1.0, 0.1, 1e-4])
    assert (list(pre.get_xdata()), list(pre.get_ydata())) == ([1, 2], [1.0, 2.0])
    assert post.get_marker() != pre.get_marker()
    assert [text.get_text() for text in ax.get_legend().texts] == ["post", "pre"]


@pytest.mark.parametrize(
    ("draw", "says"),
    [
        (lambda: plots.gradient_by_layer([[1.0]], ["a", "b"]), "1 lines of norms but 2 labels"),
        (lambda: plots.gradient_by_layer([], []), r"at least one list of numbers; it is \[\]"),
        (lambda: plots.gradient_by_layer([[1.0, 0.0]], ["a"]), "'a' at layer 2 is 0.0"),
        (lambda: plots.gradient_by_layer([[float("nan")]], ["a"]), "'a' at layer 1 is nan"),
        (lambda: plots.gradient_by_layer([[float("inf")]], ["a"]), "'a' at layer 1 is inf"),
        (lambda: plots.gradient_by_layer([[[1.0]]], ["a"]), r"shape is \(1, 1\)"),
        (lambda: plots.positions(torch.zeros(3)), r"shape is \(3,\)"),
    ],
)
def test_new_pictures_answer_bad_input_in_words(draw, says):
    with pytest.raises(ValueError, match=says):
        draw()
