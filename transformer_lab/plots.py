"""The course's recurring pictures, each drawn in one call."""

import base64
import hashlib
import html
import io
import itertools
import json
import textwrap
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Patch
from matplotlib.ticker import MaxNLocator
from PIL import Image

from transformer_lab import checks

Table = torch.Tensor | np.ndarray | Sequence[Sequence[float]]
Labels = Sequence[str] | Sequence[int]

_CELL = 0.42  # inches a cell of a table takes in a figure of its own
_MOST_LABELS = 32  # more would overlap: then every second, fourth … is shown
_BLOCKED, _ALLOWED = "#e3e6ea", "#0072b2"


def heatmap(
    values: Table,
    *,
    rows: Labels | None = None,
    columns: Labels | None = None,
    row_title: str = "",
    column_title: str = "",
    title: str = "",
    unit: str = "",
    annotate: bool = False,
    diverging: bool = False,
    limits: tuple[float, float] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw a table of numbers as colours.

    Args:
        values: The table, rows × columns.
        rows: Label of each row; numbered from 0 when None.
        columns: Label of each column; numbered from 0 when None.
        row_title: What the rows are.
        column_title: What the columns are.
        title: Title of the picture.
        unit: What the colours mean, written beside the colour bar.
        annotate: Write each number into its cell.
        diverging: Colours around zero, for signed numbers.
        limits: Smallest and largest number of the colour scale; those of the table when None.
        ax: Where to draw; a figure of its own when None.

    Raises: ValueError if the table hasn't two axes, or the labels don't fit it, or limits are no two
        finite numbers, the smaller first.
    """
    table = _as_table("values", values)
    known = np.ma.masked_invalid(table)  # -inf, as in masked scores, is no end of a scale
    own = float(known.min()), float(known.max())
    low, high = own if limits is None else _as_limits(limits)
    ax = _own_axes(table) if ax is None else ax
    if diverging:
        high = max(abs(low), abs(high))
        low = -high
    image = ax.imshow(
        table, cmap="RdBu_r" if diverging else "cividis", vmin=low, vmax=high, aspect="auto"
    )
    _label_axes(ax, table.shape, rows, columns, row_title, column_title, title)
    if annotate:
        _write_numbers(ax, table, image)
    _figure_of(ax).colorbar(image, ax=ax, label=unit, shrink=0.9)
    return ax


def attention_map(
    weights: Table,
    queries: Labels,
    keys: Labels,
    *,
    title: str = "",
    annotate: bool | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw attention weights: one row a query, one column a key, each row adding up to 1.

    Args:
        weights: Attention weights, queries × keys.
        queries: Label of each query.
        keys: Label of each key.
        title: Title of the picture.
        annotate: Write the weights into the cells; None does so for tables of up to 8 × 8.
        ax: Where to draw; a figure of its own when None.

    Raises: ValueError if the table hasn't two axes, or the labels don't fit it.
    """
    table = _as_table("weights", weights)
    return heatmap(
        table,
        rows=queries,
        columns=keys,
        row_title="query",
        column_title="key",
        title=title,
        unit="attention weight",
        annotate=max(table.shape) <= 8 if annotate is None else annotate,
        limits=(0.0, 1.0),
        ax=ax,
    )


def mask_grid(
    mask: Table,
    *,
    queries: Labels | None = None,
    keys: Labels | None = None,
    title: str = "",
    legend: bool = True,
    ax: Axes | None = None,
) -> Axes:
    """Draw a mask: one row a query, one column a key, dark where the query may attend to the key.

    Args:
        mask: Queries × keys, True = may attend; leading axes of size 1 are dropped.
        queries: Label of each query; numbered from 0 when None.
        keys: Label of each key; numbered from 0 when None.
        title: Title of the picture.
        legend: Say below the picture what the colours mean.
        ax: Where to draw; a figure of its own when None.

    Raises: ValueError if the mask hasn't two axes after that, or the labels don't fit it.
    """
    table = _as_table("mask", mask) != 0
    ax = _own_axes(table) if ax is None else ax
    ax.imshow(table, cmap=ListedColormap([_BLOCKED, _ALLOWED]), vmin=0, vmax=1)
    _label_axes(ax, table.shape, queries, keys, "query", "key", title)
    for line in range(1, table.shape[0]):
        ax.axhline(line - 0.5, color="white", linewidth=1)
    for line in range(1, table.shape[1]):
        ax.axvline(line - 0.5, color="white", linewidth=1)
    if legend:
        patches = [
            Patch(color=_ALLOWED, label="may attend"),
            Patch(color=_BLOCKED, label="blocked"),
        ]
        ax.legend(handles=patches, loc="upper left", bbox_to_anchor=(1.02, 1.0), borderaxespad=0)
    return ax


def probability_bars(
    probs: Sequence[float] | torch.Tensor | np.ndarray,
    labels: Labels,
    *,
    title: str = "",
    ax: Axes | None = None,
) -> Axes:
    """Draw a distribution as horizontal bars, the first at the top, each with its number.

    Args:
        probs: Probabilities.
        labels: What each is the probability of.
        title: Title of the picture.
        ax: Where to draw; a figure of its own when None.

    Raises: ValueError if probs is no row of probabilities, or there isn't one label for each.
    """
    heights = _as_row("probs", probs)
    if not ((heights >= 0) & (heights <= 1 + 1e-6)).all():
        raise ValueError(
            f"probs must hold probabilities, from 0 to 1; they go from {heights.min()} to {heights.max()}."
        )
    words = _as_labels("probs", labels, len(heights))
    if ax is None:
        _, ax = plt.subplots(figsize=(5.0, 0.8 + 0.26 * len(heights)))
    places = np.arange(len(heights))
    bars = ax.barh(places, heights, height=0.75)
    ax.bar_label(bars, labels=[f"{height:.2f}" for height in heights], padding=3, fontsize=9)
    ax.set_yticks(places, words)
    ax.invert_yaxis()
    ax.set_xlim(0, min(1.0, float(heights.max()) * 1.1) + 0.08)
    ax.set_xlabel("probability")
    ax.set_title(title)
    return ax


def course_map(
    parts: Mapping[str, Sequence[str]], here: Collection[str], *, ax: Axes | None = None
) -> Axes:
    """Draw the lessons of a course: one row a part, one box a lesson, numbered from 00.

    Args:
        parts: Titles of the lessons of each part, in order.
        here: Two-digit numbers of the lessons that exist; their boxes are filled.
        ax: Where to draw; a figure of its own when None.

    Raises: ValueError if there are no parts; TypeError if here holds nothing that can be listed.
    """
    titles = [*parts.values()] if isinstance(parts, Mapping) else []
    if not titles or not all(isinstance(each, Sequence) for each in titles):
        raise ValueError(f"parts must give each part a list of titles; it is {parts!r}.")
    here = _as_list("here", here)
    widest = max(map(len, titles))
    if ax is None:
        _, ax = plt.subplots(figsize=(8.0, 0.78 * len(parts)))
    number = 0
    for row, (part, lessons) in enumerate(parts.items()):
        ax.text(-0.08, row, part, ha="right", va="center", fontsize=10, fontweight="bold")
        for column, lesson in enumerate(lessons):
            name = f"{number:02d}"
            filled = name in here
            box = FancyBboxPatch(
                (column + 0.06, row - 0.32), 0.88, 0.64, boxstyle="round,pad=0,rounding_size=0.08",
                facecolor=_ALLOWED if filled else "white", edgecolor=_ALLOWED,
            )  # fmt: skip
            ax.add_patch(box)
            words = "\n".join(textwrap.wrap(lesson, 14, break_long_words=False))
            ax.text(
                column + 0.5, row, f"{name}\n{words}", ha="center", va="center", fontsize=7.5,
                color="white" if filled else "black", linespacing=1.1,
            )  # fmt: skip
            number += 1
    ax.set_xlim(-1.7, widest)
    ax.set_ylim(len(parts) - 0.5, -0.5)
    ax.axis("off")
    return ax


class Slider:
    """Pictures of one figure at several settings, with a slider to go through them.

    Shows itself in a notebook. The pictures are drawn beforehand and stored in the page, so it works
    without a kernel and without a network; where scripts don't run, the first picture stands alone.
    """

    def __init__(self, frames: Sequence[bytes], captions: Sequence[str], alt: str) -> None:
        self.frames, self.captions, self.alt = tuple(frames), tuple(captions), alt

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        return {"text/plain": repr(self), "text/html": self._html()}

    def __repr__(self) -> str:
        return f"Slider: {self.alt} ({self.captions[0]} to {self.captions[-1]}, {len(self.frames)} pictures)"

    def _html(self) -> str:
        pictures = [
            "data:image/png;base64," + base64.b64encode(frame).decode() for frame in self.frames
        ]
        # The id has to be the same in every run: it is made from the words, not drawn at random.
        name = (
            "slider-"
            + hashlib.sha256("".join((self.alt, *self.captions)).encode()).hexdigest()[:12]
        )
        alt = html.escape(self.alt)
        # JupyterLab runs no scripts in a notebook that hasn't been run yet, and drops `hidden`: what
        # stands in the page itself is one picture and a line of text. The script makes the rest.
        return (
            f'<div id="{name}"><img src="{pictures[0]}" alt="{alt}">'
            f"<p>{html.escape(self.captions[0])}. Run this cell for a slider.</p><script>(()=>{{"
            f"const pictures={json.dumps(pictures)},captions={json.dumps(self.captions)};"
            f'const box=document.getElementById("{name}"),picture=box.querySelector("img");'
            'const range=document.createElement("input"),caption=document.createElement("output");'
            f'Object.assign(range,{{type:"range",min:0,max:{len(pictures) - 1},step:1,value:0}});'
            f'range.setAttribute("aria-label",{json.dumps(self.alt)});'
            'range.style.cssText="width:18em;vertical-align:middle;margin-right:1em";'
            "const show=()=>{picture.src=pictures[range.value];"
            "caption.textContent=captions[range.value]};"
            "range.oninput=show;show();"
            'box.querySelector("p").replaceChildren(range,caption);'
            "})()</script></div>"
        )


def slider(
    draw: Callable[[Any], Figure | None], values: Sequence[Any], *, label: str, alt: str
) -> Slider:
    """Draw a figure at each of several settings and put a slider below it.

    Args:
        draw: Makes the figure for one value; returns it, or leaves it as the current one.
        values: The settings, in the order of the slider.
        label: Name of the setting, written beside its value.
        alt: What the picture shows, in words, for readers who can't see it.

    Raises: TypeError if draw is no function, or values no list; ValueError if there are no values.
    """
    checks.kind("draw", draw, Callable, "a function of one setting")
    values, frames = _as_list("values", values), []
    if not values:
        raise ValueError("values must hold at least one setting to draw; it is [].")
    for value in values:
        figure = draw(value) or plt.gcf()
        frames.append(_png(figure))
        plt.close(figure)
    return Slider(frames, [f"{label} = {value}" for value in values], alt)


def palette_png(png: bytes, colours: int = 256) -> bytes:
    """Store a PNG with a palette of a few colours: a third of the size, the same to the eye.

    Args:
        png: The picture, as the bytes of a PNG file.
        colours: Size of the palette, 256 at most.

    Raises: ValueError if png is no picture, or colours too many; TypeError if colours is no whole number.
    """
    checks.whole("colours", colours)
    if colours > 256:
        raise ValueError(f"colours must be at most 256; it is {colours}.")
    try:
        with Image.open(io.BytesIO(png)) as image:
            flat = Image.new("RGB", image.size, "white")
            flat.paste(image, mask=image.convert("RGBA").getchannel("A"))
    except (TypeError, OSError) as error:
        raise ValueError(f"png must be the bytes of a PNG file; it is {png!r:.40}.") from error
    packed = io.BytesIO()
    # Maximum coverage keeps rare colours, such as the bright end of a colour bar.
    small = flat.quantize(colours, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    small.save(packed, "PNG", optimize=True)
    return packed.getvalue()


def positions(table: Table, *, title: str = "", ax: Axes | None = None) -> Axes:
    """Draw encodings of positions: one row a position, one column a feature, colours around zero.

    Args:
        table: Encodings, positions × features.
        title: Title of the picture.
        ax: Where to draw; a figure of its own when None.

    Raises: ValueError if the table hasn't two axes.
    """
    numbers = _as_table("table", table)
    if ax is None:
        _, ax = plt.subplots(figsize=(6.4, 3.8))
    ax = heatmap(
        numbers, row_title="position", column_title="feature", title=title, unit="value",
        diverging=True, ax=ax,
    )  # fmt: skip
    for axis, size in ((ax.yaxis, numbers.shape[0]), (ax.xaxis, numbers.shape[1])):
        ticks = MaxNLocator(nbins=9, integer=True).tick_values(0, size - 1)
        shown = [int(tick) for tick in ticks if 0 <= tick < size]
        axis.set_ticks(shown, [str(tick) for tick in shown])
    return ax


def gradient_by_layer(
    norms: Sequence[Sequence[float]],
    labels: Sequence[str],
    *,
    title: str = "",
    ax: Axes | None = None,
) -> Axes:
    """Draw how large the gradient is at each layer, a line for each wiring, on a logarithmic scale.

    Args:
        norms: For each wiring the norm of the gradient at each layer, that nearest to the input first.
        labels: Name of each wiring.
        title: Title of the picture.
        ax: Where to draw; a figure of its own when None.

    Raises: ValueError if there isn't one label for each line, or a norm is no positive number,
        which a logarithmic scale can't show.
    """
    lines = [_as_row("each list in norms", line) for line in _as_list("norms", norms)]
    if not lines:
        raise ValueError(f"norms must hold at least one list of numbers; it is {norms!r}.")
    words = _as_labels("lines of norms", labels, len(lines))
    for word, line in zip(words, lines, strict=True):
        right = np.isfinite(line) & (line > 0)
        if not right.all():
            layer = int(np.argmin(right))
            raise ValueError(
                "norms must list positive numbers, which alone a logarithmic scale shows; that of "
                f"{word!r} at layer {layer + 1} is {line[layer]}."
            )
    if ax is None:
        _, ax = plt.subplots(figsize=(6.4, 3.8))
    for line, label, marker in zip(lines, words, itertools.cycle("os^DvPX"), strict=False):
        ax.plot(range(1, len(line) + 1), line, marker=marker, markersize=5, label=label)
    ax.set_yscale("log")
    ax.set_xlim(0.5, max(map(len, lines)) + 0.5)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set_xlabel("layer, counted from the input")
    ax.set_ylabel("norm of the gradient")
    ax.set_title(title)
    if len(lines) > 1:
        ax.legend()
    return ax


def _png(figure: Figure) -> bytes:
    raw = io.BytesIO()
    # No bbox_inches="tight": every frame must have the same size, or the page jumps.
    figure.savefig(raw, format="png")
    return palette_png(raw.getvalue())


def _numbers(name: str, values: Any) -> np.ndarray:
    # Of a list torch would make float32, and write 0.69999999 for 0.7.
    dtype = None if hasattr(values, "dtype") else torch.float64
    try:
        tensor = torch.as_tensor(values, dtype=dtype).detach().cpu()
        if tensor.is_complex():
            raise TypeError(f"of {tensor.dtype}")
        return tensor.double().numpy()
    except (TypeError, ValueError, RuntimeError) as error:
        kind = type(values).__name__
        raise ValueError(f"{name} must hold real numbers; it is a {kind} ({error}).") from error


def _as_limits(limits: Any) -> tuple[float, float]:
    ends = _numbers("limits", limits)
    if ends.shape != (2,) or not -np.inf < ends[0] < ends[1] < np.inf:
        raise ValueError(
            f"limits must be two finite numbers, the smaller first; they are {limits!r}."
        )
    return float(ends[0]), float(ends[1])


def _as_row(name: str, values: Any) -> np.ndarray:
    row = _numbers(name, values)
    if row.ndim != 1 or row.size == 0:
        raise ValueError(
            f"{name} must be a list of numbers; it is a {type(values).__name__}, whose shape is {row.shape}."
        )
    return row


def _as_table(name: str, values: Any) -> np.ndarray:
    given = table = _numbers(name, values)
    while table.ndim > 2 and table.shape[0] == 1:
        table = table[0]
    if table.ndim != 2 or table.size == 0:
        raise ValueError(
            f"{name} must be a table of rows × columns; it is a {type(values).__name__}, whose shape is "
            f"{given.shape}. Pick one batch entry and one head, for example `weights[0, 0]`."
        )
    return table


def _as_list(name: str, values: Any) -> list[Any]:
    try:
        return list(values)
    except TypeError:
        raise TypeError(f"{name} must be a list; it is {values!r}.") from None


def _as_labels(things: str, labels: Any, size: int) -> list[str]:
    words = [str(label) for label in _as_list(f"labels of {things}", labels)]
    if len(words) != size:
        raise ValueError(f"there are {size} {things} but {len(words)} labels for them.")
    return words


def _own_axes(table: np.ndarray) -> Axes:
    rows, columns = table.shape
    width = min(8.0, max(3.2, 2.2 + _CELL * columns))
    height = min(7.0, max(2.2, 1.2 + _CELL * rows))
    return plt.subplots(figsize=(width, height))[1]


def _label_axes(
    ax: Axes,
    shape: tuple[int, ...],
    rows: Labels | None,
    columns: Labels | None,
    row_title: str,
    column_title: str,
    title: str,
) -> None:
    words = [
        _as_labels(things, range(size) if labels is None else labels, size)
        for things, labels, size in zip(("rows", "columns"), (rows, columns), shape, strict=True)
    ]
    for axis, texts in zip((ax.yaxis, ax.xaxis), words, strict=True):
        shown = range(0, len(texts), -(-len(texts) // _MOST_LABELS))
        axis.set_ticks(shown, [texts[i] for i in shown])
    ax.tick_params(length=0)
    if columns is not None and max(map(len, words[1])) > 3 and shape[1] > 4:
        ax.tick_params(axis="x", labelrotation=90 if shape[1] > 12 else 45)
    ax.spines[:].set_visible(False)
    ax.set_xlabel(column_title)
    ax.set_ylabel(row_title)
    ax.set_title(title)


def _write_numbers(ax: Axes, table: np.ndarray, image: Any) -> None:
    for (row, column), number in np.ndenumerate(table):
        red, green, blue, _ = image.cmap(image.norm(number))
        dark = 0.299 * red + 0.587 * green + 0.114 * blue < 0.55
        ax.text(
            column, row, f"{number:.2f}", ha="center", va="center", fontsize=8,
            color="white" if dark else "black",
        )  # fmt: skip


def _figure_of(ax: Axes) -> Figure:
    figure = ax.get_figure(root=True)
    assert figure is not None
    return figure
