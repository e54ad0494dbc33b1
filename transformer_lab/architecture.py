"""Draws a Transformer from the model itself: what it is made of, in which order, how large."""

import inspect
import itertools
import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import Circle, FancyBboxPatch
from torch import nn

# Lengths are inches of a figure of its own.
_BOX, _LEFT, _LANE, _COUNT = 2.15, 0.3, 0.42, 0.95
_COLUMN = _LEFT + _BOX + _LANE + _COUNT
_GAP, _LINE, _PAD = 0.17, 0.15, 0.07
_TINTS = {
    "embedding": "#cdeae0",
    "attention": "#cbe3f3",
    "feed-forward": "#fadbc8",
    "norm": "#e3e6ea",
    "head": "#f3dbe8",
}
_BLUE, _LIGHT = "#0072b2", "#666666"
_WIRINGS = ("PreNorm", "PostNorm", "SandwichNorm", "DeepNorm")


def draw_architecture(
    model: nn.Module, *, title: str | None = None, ax: Axes | None = None
) -> Axes:
    """Draw a Transformer from the model itself: data flows upwards through its parts.

    Beside each part stand its parameters: dark ones add up to the whole model, light ones are those of
    one block. "shared" is a weight that has been counted further down, or in the column to the left. The
    kind of mask and a head that uses the embedding's weight again are read off the names that the model's
    functions use; all else, from its modules.

    Args:
        model: A model whose blocks stand in an `nn.ModuleList` and hold pairs of a sublayer and its wiring:
            `attention` and `attention_residual`, `feed_forward` and `feed_forward_residual`. On any
            device; on the meta device it takes no memory.
        title: Title of the picture; the model's class and its number of parameters when None.
        ax: Where to draw; a figure of its own when None.

    Raises: TypeError if model is no module; ValueError if it has no such blocks, or a wiring that
        is none of PreNorm, PostNorm, SandwichNorm and DeepNorm.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be an nn.Module; it is a {type(model).__name__}.")
    columns = _plan(model)
    width = len(columns) * _COLUMN
    if ax is None:
        # The height is known only when everything has been drawn; it is set then.
        figure = plt.figure(figsize=(width, 4.0), layout="none")
        ax = figure.add_axes((0.0, 0.0, 1.0, 1.0))
        own = True
    else:
        own = False
    painters = [_Painter(ax, number * _COLUMN) for number in range(len(columns))]
    for painter, column in zip(painters, columns, strict=True):
        painter.column(column)
    if len(painters) > 1:
        painters[-1].take_memory_from(painters[0])
    height = max(painter.y for painter in painters) + 0.1
    ax.set_xlim(0, width)
    ax.set_ylim(0, height)
    ax.set_aspect("equal")
    ax.axis("off")
    if title is None:
        size = sum(weight.numel() for weight in model.parameters())
        title = f"{type(model).__name__}: {size:,} parameters"
    wrapped = textwrap.wrap(title, 39 * len(columns))
    ax.set_title("\n".join(wrapped))
    if own:
        above = 0.15 + 0.2 * len(wrapped)
        figure.set_size_inches(width, height + above)
        ax.set_position((0.02, 0.0, 0.96, height / (height + above)))
    return ax


@dataclass
class _Part:
    """A box: its title, lines of detail, and a count beside the title or beside each line."""

    kind: str
    title: str
    lines: list[str] = field(default_factory=list)
    counts: list[str] = field(default_factory=list)


@dataclass
class _Sublayer:
    """A sublayer with its wiring, from below: norms before, itself, norms after, the sum, norm after."""

    part: _Part
    before: list[_Part]
    after: list[_Part]
    behind: list[_Part]
    alpha: float | None
    takes_memory: bool


@dataclass
class _Frame:
    """Blocks that are all alike: how many, and what one of them is made of."""

    header: str
    total: str
    sublayers: list[_Sublayer]
    notes: list[tuple[str, str]] = field(default_factory=list)  # what all of them share


@dataclass
class _Plan:
    """A column from below; `tails` are the heads, side by side when there are several."""

    start: str
    body: list[_Part | _Frame]
    tails: list[list[_Part]]


class _Counter:
    """Counts each weight where it is met first."""

    def __init__(self) -> None:
        self.seen: set[int] = set()

    def of(self, *owners: nn.Module | torch.Tensor, keep: bool = True) -> str:
        weights: list[torch.Tensor] = []
        for owner in owners:
            weights += owner.parameters() if isinstance(owner, nn.Module) else [owner]
        new = {id(weight): weight.numel() for weight in weights if id(weight) not in self.seen}
        if keep:
            self.seen |= set(new)
        return "shared" if weights and not new else f"{sum(new.values()):,}"


def _plan(model: nn.Module) -> list[_Plan]:
    """What to draw: one column a stack of blocks, the encoder's first."""
    stacks = {
        path: module
        for path, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) and all(map(_sublayers, module))
    }
    if not stacks:
        raise ValueError(
            f"draw_architecture found no blocks in this {type(model).__name__}: it looks for an nn.ModuleList "
            "of modules that have `attention` and `attention_residual`, `feed_forward` and "
            "`feed_forward_residual`."
        )
    items = list(_items(model, "", set(stacks)))
    names = [path.split(".")[-1] for path in stacks]
    columns: list[list[tuple[str, Any]]] = [[] for _ in names]
    for path, thing in items:
        for number in _columns_of(path, thing, names):
            columns[number].append((path, thing))
    counter = _Counter()
    starts = ["tokens"] if len(names) == 1 else ["tokens of the source", "tokens of the target"]
    starts += ["tokens"] * (len(names) - len(starts))
    plans = []
    for number, (path, name) in enumerate(zip(stacks, names, strict=True)):
        frames = _frames(model, path, name if len(names) > 1 else "block", counter)
        plans.append(
            _column(
                starts[number], columns[number], frames, counter, number == len(names) - 1, model
            )
        )
    return plans


def _items(module: nn.Module, prefix: str, stacks: set[str]) -> Iterator[tuple[str, Any]]:
    """The parts outside the stacks, in the order in which the model holds them."""
    for name, weight in module.named_parameters(prefix, recurse=False, remove_duplicate=False):
        yield name, weight
    for name, buffer in module.named_buffers(prefix, recurse=False):
        if "position" in name.split(".")[-1]:
            yield name, buffer
    for name, child in module.named_children():
        path = f"{prefix}.{name}" if prefix else name
        if path in stacks:
            continue
        holds_embeddings = not isinstance(child, nn.Embedding) and "embed" in name
        holds_embeddings &= any(isinstance(part, nn.Embedding) for part in child.modules())
        if any(stack.startswith(path + ".") for stack in stacks) or holds_embeddings:
            yield from _items(child, path, stacks)
        elif any(True for _ in child.parameters()):
            yield path, child


def _columns_of(path: str, thing: Any, names: list[str]) -> list[int]:
    if len(names) == 1:
        return [0]
    for number, words in enumerate((("encoder", "source"), ("decoder", "target"))):
        if any(word in path for word in (*words, names[number])):
            return [number]
    # What belongs to no side: embeddings to every one, heads to the last.
    return list(range(len(names))) if _role(path, thing) == "embedding" else [len(names) - 1]


def _role(path: str, thing: Any) -> str:
    name, kind = path.split(".")[-1], type(thing).__name__
    if "PositionBias" in kind:
        return "bias"
    if kind.endswith("Norm"):
        return "embedding norm" if "embed" in name else "norm"
    if isinstance(thing, nn.Embedding) or re.search("embed|position", name):
        return "embedding"
    return "head"


def _column(
    start: str,
    items: list[tuple[str, Any]],
    frames: list[_Frame],
    counter: _Counter,
    last: bool,
    model: nn.Module,
) -> _Plan:
    by_role: dict[str, list[tuple[str, Any]]] = {}
    for path, thing in items:
        by_role.setdefault(_role(path, thing), []).append((path, thing))
    body: list[_Part | _Frame] = []
    embeddings = by_role.get("embedding", [])
    embeddings.sort(key=lambda item: not isinstance(item[1], nn.Embedding))
    if embeddings:
        part = _Part("embedding", "embeddings, added up" if len(embeddings) > 1 else "embedding")
        for path, thing in embeddings:
            table = thing.weight if isinstance(thing, nn.Embedding) else thing
            part.lines.append(f"{_words(path)}  {_sizes(*table.shape)}")
            fixed = not isinstance(table, nn.Parameter)
            part.counts.append("not trained" if fixed else counter.of(table))
        body.append(part)
    body += [_norm(thing, counter) for _, thing in by_role.get("embedding norm", [])]
    for _, thing in by_role.get("bias", []):
        buckets, heads = thing.table.weight.shape
        note = f"position bias {_sizes(buckets, heads)}"
        frames[0].notes.append((note, counter.of(thing)))
    body += frames
    body += [_norm(thing, counter, "final") for _, thing in by_role.get("norm", [])]
    language: list[_Part] = []
    others: list[_Part] = []
    for path, thing in by_role.get("head", []):
        is_language = path.endswith("lm_head")
        part = _Part("head", _words(path), _linear_sizes(thing), [counter.of(thing)])
        if "embedding" in inspect.signature(thing.forward).parameters:
            part.lines.append("× embeddingᵀ")
        (language if is_language else others).append(part)
    if last and not language and hasattr(model, "who_sees_whom"):
        # A model that generates, without a head of its own.
        language.append(_Part("head", "head", ["the token embedding again"], ["shared"]))
    return _Plan(start, body, [tail for tail in (others, language) if tail])


def _frames(model: nn.Module, path: str, name: str, counter: _Counter) -> list[_Frame]:
    """The blocks of a stack; neighbours that are alike are drawn once."""
    frames = []
    mask = _mask_kind(model, path)
    blocks: Any = model.get_submodule(path)
    for _, group in itertools.groupby(blocks, key=_signature):
        alike = list(group)
        sublayers = [_sublayer(*each, mask) for each in _sublayers(alike[0])]
        frames.append(_Frame(f"{name} × {len(alike)}", counter.of(*alike), sublayers))
    return frames


def _signature(block: nn.Module) -> Any:
    kinds = [(path, type(module).__name__) for path, module in block.named_modules()]
    return kinds, [(path, weight.shape) for path, weight in block.named_parameters()]


def _sublayers(block: nn.Module) -> list[tuple[str, nn.Module, nn.Module]]:
    return [
        (name, child, getattr(block, f"{name}_residual"))
        for name, child in block.named_children()
        if hasattr(block, f"{name}_residual")
    ]


def _sublayer(name: str, module: nn.Module, residual: Any, mask: str) -> _Sublayer:
    kinds = [kind.__name__ for kind in type(residual).__mro__]
    wiring = next((kind for kind in kinds if kind in _WIRINGS), None)
    if wiring is None:
        raise ValueError(
            f"architecture knows the wirings {', '.join(_WIRINGS)}; {name}_residual is a {kinds[0]}."
        )
    crosses = "cross" in name
    norm = [_norm(residual.norm)]
    return _Sublayer(
        _sublayer_part(name, module, "" if crosses else mask),
        before=norm if wiring in ("PreNorm", "SandwichNorm") else [],
        after=[_norm(residual.norm_out)] if wiring == "SandwichNorm" else [],
        behind=norm if wiring in ("PostNorm", "DeepNorm") else [],
        alpha=residual.alpha if wiring == "DeepNorm" else None,
        takes_memory=crosses,
    )


def _sublayer_part(name: str, module: Any, mask: str) -> _Part:
    counts = [_Counter().of(module)]
    if hasattr(module, "query_proj") and hasattr(module, "d_head"):
        heads, kv_heads = (
            proj.out_features // module.d_head for proj in (module.query_proj, module.key_proj)
        )
        lines = [f"{heads} heads of {module.d_head}"]
        if kv_heads != heads:
            lines += [
                f"keys and values: {kv_heads} heads" if kv_heads > 1 else "keys and values: 1 head"
            ]
        details = [mask] if mask else []
        details += ["rotary positions"] if getattr(module, "rotary", None) is not None else []
        lines += [", ".join(details)] if details else []
        return _Part(
            "attention", "cross-attention" if "cross" in name else "self-attention", lines, counts
        )
    if hasattr(module, "up_proj") and hasattr(module, "down_proj"):
        title = "gated feed-forward" if hasattr(module, "gate_proj") else "feed-forward"
        inner, outer = module.up_proj, module.down_proj
        sizes = " → ".join(
            f"{n:,}" for n in (inner.in_features, inner.out_features, outer.out_features)
        )
        return _Part("feed-forward", title, [sizes, _activation(module.activation)], counts)
    kind = "attention" if "attention" in name else "feed-forward"
    return _Part(kind, name.replace("_", " "), [type(module).__name__], counts)


def _norm(module: nn.Module, counter: _Counter | None = None, which: str = "") -> _Part:
    return _Part(
        "norm", f"{which} {type(module).__name__}".strip(), [], [(counter or _Counter()).of(module)]
    )


def _activation(function: Any) -> str:
    if isinstance(function, nn.Sequential):
        function = function[0]
    name = getattr(function, "__name__", type(function).__name__)
    name = {"gelu": "GELU", "relu": "ReLU", "silu": "SiLU"}.get(name, name)
    return f"{name} (tanh form)" if getattr(function, "approximate", "") == "tanh" else name


def _linear_sizes(module: Any) -> list[str]:
    layers = [part for part in module.modules() if isinstance(part, nn.Linear)]
    if not layers:
        return []
    sizes = [layers[0].in_features, *(layer.out_features for layer in layers)]
    return [" → ".join(f"{size:,}" for size in sizes)]


def _words(path: str) -> str:
    name = path.split(".")[-1].replace("_", " ").removesuffix(" embedding")
    return re.sub(r"\blm\b", "LM", name)


def _sizes(*sizes: int) -> str:
    return " × ".join(f"{size:,}" for size in sizes)


def _mask_kind(model: nn.Module, path: str) -> str:
    """Who sees whom in a stack: an encoder's blocks see all, others what their owner says."""
    above, _, name = path.rpartition(".")
    owner = model.get_submodule(above)
    if "encoder" in name or "Encoder" in type(owner).__name__:
        return "sees both ways"
    return getattr(owner, "who_sees_whom", "")


class _Painter:
    """Draws one column from below; y is where it has come to."""

    def __init__(self, ax: Axes, left: float) -> None:
        self.ax, self.y = ax, 0.02
        self.left, self.right = left + _LEFT, left + _LEFT + _BOX
        self.centre = (self.left + self.right) / 2
        self.lane = self.right + _LANE - 0.2
        self.memory_x, self.counts_x = left + 0.08, left + _COLUMN - 0.06
        self.top_of_body = 0.0
        self.memory_inputs: list[float] = []

    def column(self, plan: _Plan) -> None:
        self.words(plan.start)
        for part in plan.body:
            if isinstance(part, _Frame):
                self.frame(part)
            else:
                self.arrow()
                self.box(part, top=True)
        self.top_of_body = self.y
        if len(plan.tails) > 1:
            self.side_by_side(plan.tails)
        else:
            for part in plan.tails[0] if plan.tails else []:
                self.arrow()
                self.box(part, top=True)
            self.arrow()

    def words(self, text: str) -> None:
        self.ax.text(self.centre, self.y + 0.06, text, ha="center", va="center", fontsize=8.5)
        self.ax.text(
            self.counts_x, self.y + 0.06, "parameters", ha="right", va="center", fontsize=7.8,
            color=_LIGHT,
        )  # fmt: skip
        self.y += 0.15

    def arrow(self, length: float = _GAP) -> None:
        self.line((self.centre, self.y), (self.centre, self.y + length), head=True)
        self.y += length

    def line(self, *points: tuple[float, float], head: bool = False, colour: str = "black") -> None:
        x, y = zip(*points, strict=True)
        if len(points) > 2 or not head:
            end = -1 if head else None
            self.ax.plot(x[:end], y[:end], color=colour, linewidth=1.0, solid_joinstyle="round")
        if head:
            self.ax.annotate(
                "", points[-1], points[-2], annotation_clip=False,
                arrowprops={"arrowstyle": "-|>", "color": colour, "linewidth": 1.0, "shrinkA": 0,
                            "shrinkB": 0, "mutation_scale": 7},
            )  # fmt: skip

    def box(
        self, part: _Part, *, top: bool, left: float | None = None, right: float | None = None
    ) -> None:
        """A box at the present height; `top` says that its count is of the whole model."""
        narrow = left is not None
        left, right = self.left if left is None else left, self.right if right is None else right
        titles = textwrap.wrap(part.title, 12) if narrow else [part.title]
        lines = [*part.lines, *(f"{count}" for count in part.counts if narrow)]
        height = 2 * _PAD + _LINE * (len(titles) + len(lines))
        self.ax.add_patch(
            FancyBboxPatch(
                (left, self.y), right - left, height, boxstyle="round,pad=0,rounding_size=0.06",
                facecolor=_TINTS[part.kind], edgecolor="#444444", linewidth=0.8,
            )
        )  # fmt: skip
        y = self.y + height - _PAD - _LINE / 2
        for number, text in enumerate((*titles, *lines)):
            is_title = number < len(titles)
            is_count = narrow and number == len(titles) + len(lines) - 1
            self.ax.text(
                (left + right) / 2, y - number * _LINE, text, ha="center", va="center_baseline",
                fontsize=8.5 if is_title else 7.8, fontweight="bold" if is_title else "normal",
                gid="total" if is_count else None,
            )  # fmt: skip
        if not narrow and len(part.counts) > 1:
            for number, count in enumerate(part.counts):
                self.count(y - (number + 1) * _LINE, count, top)
        elif not narrow:
            self.count(self.y + height / 2, part.counts[0], top)
        self.y += height

    def count(self, y: float, text: str, top: bool) -> None:
        self.ax.text(
            self.counts_x, y, text, ha="right", va="center_baseline", fontsize=7.8,
            color="black" if top else _LIGHT, gid="total" if top else "each",
        )  # fmt: skip

    def frame(self, frame: _Frame) -> None:
        self.line((self.centre, self.y), (self.centre, self.y + 0.1))
        self.y += 0.1
        bottom = self.y
        for sublayer in frame.sublayers:
            self.sublayer(sublayer)
        self.line((self.centre, self.y), (self.centre, self.y + 0.1))
        self.y += 0.1
        # What is said about all blocks: at the left of the line that goes through, notes at its right.
        start, above = self.y, list(reversed([(frame.header, frame.total), *frame.notes]))
        for number, (text, count) in enumerate(above):
            is_header = number == len(above) - 1
            self.ax.text(
                self.left if is_header else self.centre + 0.08, self.y + _LINE / 2, text,
                va="center_baseline", fontsize=8.5 if is_header else 7.8,
                fontweight="bold" if is_header else "normal",
            )  # fmt: skip
            self.count(self.y + _LINE / 2, count, True)
            self.y += _LINE
        self.y += 0.05
        self.line((self.centre, start), (self.centre, self.y))
        self.ax.add_patch(
            FancyBboxPatch(
                (self.left - 0.1, bottom), self.lane + 0.1 - self.left + 0.1, self.y - bottom,
                boxstyle="round,pad=0,rounding_size=0.08", facecolor="none", edgecolor="#888888",
                linestyle=(0, (4, 2)), linewidth=1.0,
            )
        )  # fmt: skip

    def sublayer(self, sublayer: _Sublayer) -> None:
        start = self.y + 0.1
        self.line((self.centre, self.y), (self.centre, start))
        self.y = start
        for part in sublayer.before:
            self.arrow()
            self.box(part, top=False)
        self.arrow()
        bottom = self.y
        self.box(sublayer.part, top=False)
        if sublayer.takes_memory:
            self.memory_inputs.append((bottom + self.y) / 2)
        for part in sublayer.after:
            self.arrow()
            self.box(part, top=False)
        self.arrow(0.13)
        radius = 0.085
        plus = self.y + radius
        self.line((self.centre, start), (self.lane, start), (self.lane, plus),
                  (self.centre + radius, plus), head=True)  # fmt: skip
        self.ax.add_patch(Circle((self.centre, plus), radius, facecolor="white", edgecolor="black"))
        for dx, dy in ((0.05, 0.0), (0.0, 0.05)):
            self.line((self.centre - dx, plus - dy), (self.centre + dx, plus + dy))
        if sublayer.alpha is not None:
            self.ax.text(
                self.right,
                plus + 0.08,
                f"× {sublayer.alpha:.2f}",
                ha="right",
                va="center",
                fontsize=7.8,
            )
        self.y = plus + radius
        for part in sublayer.behind:
            self.arrow(0.13)
            self.box(part, top=False)

    def side_by_side(self, tails: list[list[_Part]]) -> None:
        gap = 0.15
        width = (self.right - self.left - gap * (len(tails) - 1)) / len(tails)
        fork, top = self.y + 0.08, self.y
        self.line((self.centre, self.y), (self.centre, fork))
        centre = self.centre
        for number, tail in enumerate(tails):
            left = self.left + number * (width + gap)
            self.y, self.centre = fork, left + width / 2
            self.line((centre, fork), (self.centre, fork))
            for part in tail:
                self.arrow()
                self.box(part, top=True, left=left, right=left + width)
            self.arrow()
            top = max(top, self.y)
        self.y = top

    def take_memory_from(self, encoder: "_Painter") -> None:
        """Arrows from the top of the encoder to each cross-attention drawn here."""
        for y in self.memory_inputs:
            up = encoder.top_of_body + _GAP
            self.line(
                (encoder.centre, up), (self.memory_x, up), (self.memory_x, y), (self.left, y),
                head=True, colour=_BLUE,
            )  # fmt: skip
            self.ax.text(
                self.memory_x - 0.08, up + 0.05, "the encoder's output", ha="right", fontsize=7.8,
                color=_BLUE,
            )  # fmt: skip
