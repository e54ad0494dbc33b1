"""Exercises of lesson 17: the gated network and its width, Meta's row order, and a whole LLaMA block."""

import math
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from transformer_lab.checking.exercise import (
    Answer,
    Exercise,
    Probe,
    Use,
    Wrong,
    gradient,
    numbers,
    other_device,
    twice,
)

LESSON = "17_llama"

# ---------------------------------------------------------------------------- llama_ffn_width


def _width_by_counting(d_model: int, multiple_of: int = 256, multiplier: float = 1.0) -> int:
    least = math.floor(Fraction(multiplier) * math.floor(Fraction(8 * d_model, 3)))
    width = 0
    while width < least:
        width += multiple_of
    return width


Round = Callable[[float, int], Any]


def _up(width: float, multiple_of: int) -> int:
    return math.ceil(width / multiple_of) * multiple_of


def _width(
    start: Callable[[int], float] = lambda d: int(8 * d / 3),
    times: Callable[[float, float], float] = lambda width, multiplier: int(width * multiplier),
    finish: Round = _up,
) -> Answer:
    """The rule with one of its three steps replaced."""

    def llama_ffn_width(d_model: int, multiple_of: int = 256, multiplier: float = 1.0) -> Any:
        return finish(times(start(d_model), multiplier), multiple_of)

    return llama_ffn_width


def _multiplied_last(d_model: int, multiple_of: int = 256, multiplier: float = 1.0) -> int:
    return int(_up(int(8 * d_model / 3), multiple_of) * multiplier)


def _by_steps(d_model: int, multiple_of: int = 256, multiplier: float = 1.0) -> int:
    width = int(2 * (4 * d_model) / 3)
    if multiplier != 1:
        width = int(multiplier * width)
    return multiple_of * ((width + multiple_of - 1) // multiple_of)


def _by_remainder(d_model: int, multiple_of: int = 256, multiplier: float | None = None) -> int:
    width = int((multiplier or 1) * (8 * d_model // 3))
    rest = width % multiple_of
    return width if rest == 0 else width + multiple_of - rest


llama_ffn_width = Exercise(
    name="llama_ffn_width",
    lesson=LESSON,
    signature="llama_ffn_width(d_model, multiple_of=256, multiplier=1.0)",
    reference=_width_by_counting,
    probes=(
        Probe(
            "LLaMA 7B: d_model 4,096",
            (4096,),
            explain="⅔ · 4 · 4096 = 10,922.67, cut to 10,922; the next multiple of 256 is 43 · 256.",
        ),
        Probe("LLaMA 13B: d_model 5,120", (5120,)),
        Probe(
            "d_model 96: two thirds of 384 are 256, a multiple already",
            (96,),
            explain="256 is a multiple of 256: it stays.",
        ),
        Probe(
            "d_model 100, to a multiple of 1",
            (100, 1),
            explain="⅔ · 400 = 266.67. Cut it, as int() does; don't round it.",
        ),
        Probe("d_model 101, to a multiple of 1", (101, 1)),
        Probe(
            "Llama 2 70B: d_model 8,192, multiple of 4,096, multiplier 1.3",
            (8192, 4096, 1.3),
            explain="21,845 · 1.3 = 28,398.5, cut to 28,398; the next multiple of 4,096 is 7 · 4096.",
        ),
        Probe("Llama 3 8B: d_model 4,096, multiple of 1,024, multiplier 1.3", (4096, 1024, 1.3)),
        Probe(
            "d_model 100, multiple of 1, multiplier 1.3",
            (100, 1, 1.3),
            explain="First cut 266.67 to 266, then 266 · 1.3 = 345.8, cut to 345. The order of the steps shows.",
        ),
        Probe(
            "d_model 97, multiple of 1, multiplier 1.3",
            (97, 1, 1.3),
            explain="258.67 is cut to 258, and 258 · 1.3 = 335.4 to 335.",
        ),
        Probe(
            "d_model 99, multiple of 1, multiplier 1.3",
            (99, 1, 1.3),
            explain="264 · 1.3 = 343.2 is cut to 343.",
        ),
        Probe("d_model 48, multiple of 32, multiplier 0.5", (48, 32, 0.5)),
        Probe("the parameters by name", (1024,), {"multiplier": 1.5, "multiple_of": 64}),
    ),
    wrong_answers=(
        Wrong(
            "rounded down",
            _width(finish=lambda width, m: int(width // m) * m),
            "Your width is rounded down to the multiple. It must be rounded up, so that the network isn't "
            "smaller than the one it replaces.",
        ),
        Wrong(
            "rounded to the nearest",
            _width(finish=lambda width, m: round(width / m) * m),
            "Your width is the nearest multiple. Round up: the next multiple that isn't smaller.",
        ),
        Wrong(
            "not rounded",
            _width(finish=lambda width, m: width),
            "Your width isn't rounded to a multiple of multiple_of. Step 3 is missing.",
        ),
        Wrong(
            "one multiple too many",
            _width(finish=lambda width, m: (int(width) // m + 1) * m),
            "A width that is a multiple already gets one more: // m + 1 always goes on. Add m - 1 before you "
            "divide: (width + m - 1) // m * m.",
        ),
        Wrong(
            "number of multiples",
            _width(finish=lambda width, m: math.ceil(width / m)),
            "You return how many multiples it takes. Multiply by multiple_of again.",
        ),
        Wrong(
            "two thirds forgotten",
            _width(start=lambda d: 4 * d),
            "Your width starts from 4 · d_model. A gated network has three matrices in place of two: take two "
            "thirds of it.",
        ),
        Wrong(
            "two thirds of d_model",
            _width(start=lambda d: int(2 * d / 3)),
            "Your width starts from two thirds of d_model. It is two thirds of 4 · d_model.",
        ),
        Wrong(
            "a third of 4 d",
            _width(start=lambda d: int(4 * d / 3)),
            "Your width starts from 4 · d_model / 3. The factor is two thirds: 2 · 4 · d_model / 3.",
        ),
        Wrong(
            "not cut at first",
            _width(start=lambda d: 8 * d / 3),
            "You don't cut ⅔ · 4 · d_model to a whole number before you go on; with a multiplier, the result "
            "differs. int() comes after each of the first two steps.",
        ),
        Wrong(
            "ceil at first",
            _width(start=lambda d: math.ceil(8 * d / 3)),
            "You round ⅔ · 4 · d_model up. Meta's code cuts it: int(...).",
        ),
        Wrong(
            "rounded at first",
            _width(start=lambda d: round(8 * d / 3)),
            "You round ⅔ · 4 · d_model to the nearest whole number. Meta's code cuts it: int(...).",
        ),
        Wrong(
            "multiplied last",
            _multiplied_last,
            "You multiply after rounding, so the result is no multiple of multiple_of. The multiplier comes "
            "before the rounding.",
        ),
        Wrong(
            "multiplier ignored",
            _width(times=lambda width, multiplier: width),
            "Your function takes no notice of multiplier. Multiply by it before you round.",
        ),
        Wrong(
            "not cut after the multiplier",
            _width(times=lambda width, multiplier: width * multiplier),
            "You don't cut after the multiplier: 345.8 is to become 345 before it is rounded up to a multiple.",
        ),
        Wrong(
            "rounded after the multiplier",
            _width(times=lambda width, multiplier: round(width * multiplier)),
            "After the multiplier you round to the nearest whole number. Meta's code cuts there too: int(...).",
        ),
        Wrong(
            "a float",
            _width(finish=lambda width, m: float(_up(width, m))),
            "The number is right, but it is a float. A width is a whole number: return an int.",
        ),
    ),
    correct_alternatives=(
        _width(),
        _by_steps,
        _by_remainder,
        _width(start=lambda d: 2 * 4 * d // 3),
    ),
    hints=(
        "Do the three steps one after the other for d_model = 4096 on paper: 10,922.67, then what?",
        "int(2 * 4 * d_model / 3), then int(multiplier * width). For rounding up: how "
        "many multiples does the width touch?",
        "-(-width // multiple_of) * multiple_of rounds up, and so does (width + multiple_of - 1) // "
        "multiple_of * multiple_of.",
    ),
)

# ---------------------------------------------------------------------------- permute_rope_weights


def _permuted_by_loop(weight: Tensor, num_heads: int) -> Tensor:
    d_head, rows = len(weight) // num_heads, []
    for head in range(num_heads):
        for first in (0, 1):
            rows += [weight[head * d_head + row] for row in range(first, d_head, 2)]
    return torch.stack(rows)


def _by_order(order: Callable[[int], list[int]]) -> Answer:
    """Each head's rows in an order that depends on its width."""

    def permute_rope_weights(weight: Tensor, num_heads: int) -> Tensor:
        d_head = len(weight) // num_heads
        rows = [head * d_head + row for head in range(num_heads) for row in order(d_head)]
        return weight[rows]

    return permute_rope_weights


def _evens(d: int) -> list[int]:
    return list(range(0, d, 2))


def _odds(d: int) -> list[int]:
    return list(range(1, d, 2))


def _back(d: int) -> list[int]:
    return [row for i in range(d // 2) for row in (i, i + d // 2)]


def _permuted_by_view(weight: Tensor, num_heads: int) -> Tensor:
    return weight.reshape(num_heads, -1, 2, weight.shape[1]).transpose(1, 2).reshape(weight.shape)


def _permuted_by_slices(weight: Tensor, num_heads: int) -> Tensor:
    heads = weight.unflatten(0, (num_heads, -1))
    return torch.cat([heads[:, 0::2], heads[:, 1::2]], dim=1).flatten(0, 1)


def _width_of_columns(weight: Tensor, num_heads: int) -> Tensor:
    d = weight.shape[1]
    return weight.view(num_heads, d // num_heads // 2, 2, d).transpose(1, 2).reshape(d, d)


def _changed_in_place(weight: Tensor, num_heads: int) -> Tensor:
    weight.copy_(_permuted_by_view(weight, num_heads))
    return weight


_SIX_ROWS = torch.arange(6.0)[:, None] + torch.tensor([0.0, 0.5])

permute_rope_weights = Exercise(
    name="permute_rope_weights",
    lesson=LESSON,
    signature="permute_rope_weights(weight, num_heads)",
    reference=_permuted_by_loop,
    probes=(
        Probe(
            "one head of width 6, its rows numbered, d_model 2",
            (_SIX_ROWS, 1),
            explain="The rows 0, 2, 4 come first, then 1, 3, 5.",
        ),
        Probe(
            "two heads of width 6, d_model 1",
            (torch.arange(12.0)[:, None], 2),
            explain="Each head keeps its own rows: 0 to 5 stay among the first six.",
        ),
        Probe("three heads of width 8, d_model 5", (numbers(24, 5, seed=21), 3)),
        Probe(
            "keys of two heads of width 6, d_model 24, as with four query heads",
            (numbers(12, 24, seed=22), 2),
            explain="d_head is the number of rows divided by num_heads; d_model says nothing about it.",
        ),
        Probe("a square weight: two heads of width 8, d_model 16", (numbers(16, 16, seed=23), 2)),
        Probe("heads of width 2: nothing moves", (numbers(6, 3, seed=24), 3)),
        Probe("float64", (numbers(12, 4, seed=25, dtype=torch.float64), 2)),
        Probe("a weight that doesn't lie in one piece in memory", (numbers(4, 12, seed=26).T, 2)),
        twice(numbers(12, 4, seed=27), 2),
        gradient(numbers(12, 4, seed=28), 2),
        other_device(numbers(12, 4, seed=27), 2),
    ),
    wrong_answers=(
        Wrong(
            "the way back",
            _by_order(_back),
            "Your order leads the other way, from the half layout to the interleaved one. Row 2i of a head "
            "goes to row i, and row 2i + 1 to row i + d_head/2: split as (pairs, 2), then swap.",
        ),
        Wrong(
            "heads ignored",
            lambda weight, num_heads: torch.cat([weight[0::2], weight[1::2]]),
            "You take the even rows of the whole weight, across heads. Each head has to keep its own rows: "
            "cut the rows into num_heads groups first.",
        ),
        Wrong(
            "odd rows first",
            _by_order(lambda d: _odds(d) + _evens(d)),
            "Your odd rows come first. The even ones do: they are the first of each pair.",
        ),
        Wrong(
            "nothing moved",
            lambda weight, num_heads: weight.clone(),
            "Your rows are where they were. A reshape there and back moves nothing: between the two the axis "
            "of pairs and the axis of two have to change places.",
        ),
        Wrong(
            "columns",
            lambda weight, num_heads: torch.cat([weight[:, 0::2], weight[:, 1::2]], dim=1),
            "You reorder the columns. They belong to the model's features, which stay. The rows are the "
            "features of the heads, which RoPE turns.",
        ),
        Wrong(
            "halves swapped",
            _by_order(lambda d: [*range(d // 2, d), *range(d // 2)]),
            "You swap the two halves of each head. Take every second row: 0, 2, 4, …, then 1, 3, 5, …",
        ),
        Wrong(
            "neighbours swapped",
            _by_order(lambda d: [row for i in range(0, d, 2) for row in (i + 1, i)]),
            "You swap the two rows of each pair. The even rows are to come first as a block, then the odd "
            "ones.",
        ),
        Wrong(
            "with the minus sign of the rotation",
            lambda weight, num_heads: (
                _by_order(lambda d: _evens(d) + _odds(d))(weight, num_heads)
                * torch.cat(
                    [
                        torch.ones(len(weight) // num_heads // 2),
                        -torch.ones(len(weight) // num_heads // 2),
                    ]
                ).repeat(num_heads)[:, None]
            ),
            "Your rows stand right, but the odd ones have changed sign. The minus belongs to the rotation, "
            "not to the layout: only the order changes.",
        ),
        Wrong(
            "heads mixed",
            lambda weight, num_heads: (
                weight.reshape(-1, num_heads, 2, weight.shape[1])
                .transpose(1, 2)
                .reshape(weight.shape)
            ),
            "The axes of your split are in another order: the head comes first, since its rows lie together. "
            "(num_heads, pairs, 2, d_model), and then swap the middle two.",
        ),
        Wrong(
            "columns swapped with the pairs",
            lambda weight, num_heads: (
                weight.reshape(num_heads, -1, 2, weight.shape[1])
                .transpose(2, 3)
                .reshape(weight.shape)
            ),
            "You swap the axis of two with that of the columns, so that numbers of different rows mix. After "
            "the split, (num_heads, pairs, 2, d_model), the middle two change places: transpose(1, 2).",
        ),
        Wrong(
            "four axes",
            lambda weight, num_heads: weight.reshape(num_heads, -1, 2, weight.shape[1]).transpose(
                1, 2
            ),
            "Your rows are sorted, but the result has four axes. Put them together again: "
            ".reshape(weight.shape).",
        ),
        Wrong(
            "width from the columns",
            _width_of_columns,
            "You compute d_head from the number of columns, d_model. With grouped keys the weight isn't "
            "square: take the number of rows, weight.shape[0] // num_heads.",
        ),
        Wrong(
            "view after the transpose",
            lambda weight, num_heads: (
                weight.view(num_heads, -1, 2, weight.shape[1]).transpose(1, 2).view(weight.shape)
            ),
            "After a transpose the numbers no longer lie in order in memory, and view() refuses. Use "
            "reshape(), which copies where it must.",
        ),
        Wrong(
            "in place",
            _changed_in_place,
            "Your rows are right, but you have changed the caller's weight. Make a new tensor.",
        ),
        Wrong(
            "detached",
            lambda weight, num_heads: _permuted_by_view(weight.detach(), num_heads),
            "Your rows are right, but .detach() or .data cuts off the gradient. Index or reshape the weight "
            "itself.",
        ),
    ),
    correct_alternatives=(
        _permuted_by_view,
        _permuted_by_slices,
        _by_order(lambda d: _evens(d) + _odds(d)),
        lambda weight, num_heads: torch.cat(
            [part for head in weight.chunk(num_heads) for part in (head[::2], head[1::2])]
        ),
        lambda weight, num_heads: weight[
            torch.arange(len(weight)).view(num_heads, -1, 2).transpose(1, 2).flatten()
        ],
    ),
    hints=(
        "Write down the order for one head of width 6: 0, 2, 4, 1, 3, 5. What stands where if you write the "
        "numbers 0 to 5 as a table of pairs, three rows by two columns, and read it by columns?",
        "Reading a table by columns is a transpose. Split the rows into (num_heads, pairs, 2), with d_model "
        "behind, and swap two of the axes.",
        "weight.reshape(num_heads, d_head // 2, 2, d_model).transpose(1, 2).reshape(weight.shape), with "
        "d_head = weight.shape[0] // num_heads.",
    ),
)

# ---------------------------------------------------------------------------- LlamaBlock


def _swiglu_by_einsum(x: Tensor, w_gate: Tensor, w_up: Tensor, w_down: Tensor) -> Tensor:
    """In float64, with the sigmoid from tanh, feature by feature."""
    wide, gate_rows, up_rows = x.double(), w_gate.double(), w_up.double()
    inner = []
    for row_g, row_u in zip(gate_rows, up_rows, strict=True):
        z, content = (wide * row_g).sum(dim=-1), (wide * row_u).sum(dim=-1)
        inner.append(z * (1 + torch.tanh(z / 2)) / 2 * content)
    out = torch.einsum("f...,df->...d", torch.stack(inner), w_down.double())
    return out.to(x.dtype)


_NORMS = ("attention_norm", "ffn_norm")
_PROJECTIONS = (
    "query_proj", "key_proj", "value_proj", "out_proj", "gate_proj", "up_proj", "down_proj",
)  # fmt: skip


class _Gain(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))


def _give_parts(block: Any, d_model: int, num_heads: int, num_kv_heads: int, d_ff: int) -> None:
    """Put the nine parts into a block."""
    keys = num_kv_heads * (d_model // num_heads)
    sizes = {
        "query_proj": (d_model, d_model), "key_proj": (d_model, keys), "value_proj": (d_model, keys),
        "out_proj": (d_model, d_model), "gate_proj": (d_model, d_ff), "up_proj": (d_model, d_ff),
        "down_proj": (d_ff, d_model),
    }  # fmt: skip
    for name in _NORMS:
        setattr(block, name, _Gain(d_model))
    for name, (into, out) in sizes.items():
        setattr(block, name, nn.Linear(into, out, bias=False))


class _ByLoops(nn.Module):
    """The whole block in float64: position by position, head by head, turned as complex numbers."""

    def __init__(
        self, d_model: int, num_heads: int, num_kv_heads: int, d_ff: int, eps: float = 1e-6
    ) -> None:
        super().__init__()
        _give_parts(self, d_model, num_heads, num_kv_heads, d_ff)
        self.heads, self.serves, self.eps = num_heads, num_heads // num_kv_heads, eps

    def forward(self, x: Tensor, positions: Tensor | None = None) -> Tensor:
        places = range(x.shape[1]) if positions is None else positions.tolist()
        texts = [self._text(text.double(), list(places)) for text in x]
        return torch.stack(texts).to(x.dtype)

    def _of(self, name: str) -> Tensor:
        weight: Tensor = getattr(self, name).weight
        return weight.double()

    def _norm(self, rows: Tensor, name: str) -> Tensor:
        return torch.stack(
            [row / (row.pow(2).mean() + self.eps) ** 0.5 * self._of(name) for row in rows]
        )

    def _text(self, x: Tensor, places: list[int]) -> Tensor:
        normed, d_head = self._norm(x, "attention_norm"), x.shape[1] // self.heads
        half = d_head // 2
        speeds = torch.tensor(
            [10_000.0 ** (-i / half) for i in range(half)], dtype=torch.float64, device=x.device
        )

        def turned(vector: Tensor, place: int) -> Tensor:
            pairs = torch.complex(vector[:half], vector[half:])
            pairs = pairs * torch.polar(torch.ones_like(speeds), place * speeds)
            return torch.cat([pairs.real, pairs.imag])

        query, key, value = (normed @ self._of(name).T for name in _PROJECTIONS[:3])
        rows = []
        for i in range(len(x)):
            heads = []
            for head in range(self.heads):
                own = slice(head * d_head, (head + 1) * d_head)
                group = head // self.serves
                kept = slice(group * d_head, (group + 1) * d_head)
                asked = turned(query[i, own], places[i])
                scores = torch.stack(
                    [asked @ turned(key[j, kept], places[j]) / d_head**0.5 for j in range(i + 1)]
                )
                heads.append(scores.softmax(dim=0) @ value[: i + 1, kept])
            rows.append(torch.cat(heads))
        h = x + torch.stack(rows) @ self._of("out_proj").T
        normed = self._norm(h, "ffn_norm")
        return h + _swiglu_by_einsum(normed, *(self._of(name) for name in _PROJECTIONS[4:]))


class _Steps:
    """The steps of a block as a learner may write them; each can be replaced by name."""

    def __init__(self, block: Any) -> None:
        self.block = block

    def norm(self, x: Tensor, name: str) -> Tensor:
        eps = self.block.eps
        return (
            x
            * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps)
            * getattr(self.block, name).weight
        )

    def heads(self, x: Tensor, name: str) -> Tensor:
        """(batch, heads, seq, d_head)."""
        out: Tensor = getattr(self.block, name)(x)
        return out.unflatten(2, (-1, self.block.d_head)).transpose(1, 2)

    def turn(self, x: Tensor, places: Tensor) -> Tensor:
        half = x.shape[-1] // 2
        angles = places.float()[:, None] * 10_000.0 ** (-torch.arange(half, device=x.device) / half)
        cos, sin = torch.cat([angles.cos()] * 2, -1), torch.cat([angles.sin()] * 2, -1)
        return x * cos + torch.cat([-x[..., half:], x[..., :half]], -1) * sin

    def turned(
        self, query: Tensor, key: Tensor, value: Tensor, places: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        return self.turn(query, places), self.turn(key, places), value

    def repeat(self, x: Tensor) -> Tensor:
        return x.repeat_interleave(self.block.group, dim=1)

    def scaled(self, scores: Tensor) -> Tensor:
        return scores / self.block.d_head**0.5

    def masked(self, scores: Tensor) -> Tensor:
        seen = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
        return scores.masked_fill(~seen, -math.inf)

    def weighed(self, scores: Tensor) -> Tensor:
        return scores.softmax(dim=-1)

    def merge(self, heads: Tensor) -> Tensor:
        return heads.transpose(1, 2).flatten(2)

    def attention(self, x: Tensor, places: Tensor) -> Tensor:
        query, key, value = (self.heads(x, name) for name in _PROJECTIONS[:3])
        query, key, value = self.turned(query, key, value, places)
        key, value = self.repeat(key), self.repeat(value)
        weights = self.weighed(self.masked(self.scaled(query @ key.mT)))
        out: Tensor = self.block.out_proj(self.merge(weights @ value))
        return out

    def network(self, x: Tensor) -> Tensor:
        out: Tensor = self.block.down_proj(F.silu(self.block.gate_proj(x)) * self.block.up_proj(x))
        return out

    def whole(self, x: Tensor, places: Tensor) -> Tensor:
        h = x + self.attention(self.norm(x, "attention_norm"), places)
        return h + self.network(self.norm(h, "ffn_norm"))


def _block(
    steps: type[_Steps] = _Steps,
    make: Callable[[Any, int, int, int, int], None] = _give_parts,
) -> Answer:
    """A block made of other steps, or of other parts."""

    class LlamaBlock(nn.Module):
        def __init__(
            self, d_model: int, num_heads: int, num_kv_heads: int, d_ff: int, eps: float = 1e-6
        ) -> None:
            super().__init__()
            make(self, d_model, num_heads, num_kv_heads, d_ff)
            self.d_head, self.group, self.eps = d_model // num_heads, num_heads // num_kv_heads, eps

        def forward(self, x: Tensor, positions: Tensor | None = None) -> Any:
            if positions is None:
                positions = torch.arange(x.shape[1], device=x.device)
            return steps(self).whole(x, positions)

    return LlamaBlock


class _NoResidual(_Steps):
    def whole(self, x: Tensor, places: Tensor) -> Tensor:
        h = self.attention(self.norm(x, "attention_norm"), places)
        return self.network(self.norm(h, "ffn_norm"))


class _NoAttention(_Steps):
    def whole(self, x: Tensor, places: Tensor) -> Tensor:
        return x + self.network(self.norm(x, "ffn_norm"))


class _FirstResidualMissing(_Steps):
    def whole(self, x: Tensor, places: Tensor) -> Tensor:
        h = self.attention(self.norm(x, "attention_norm"), places)
        return h + self.network(self.norm(h, "ffn_norm"))


class _SecondResidualMissing(_Steps):
    def whole(self, x: Tensor, places: Tensor) -> Tensor:
        h = x + self.attention(self.norm(x, "attention_norm"), places)
        return self.network(self.norm(h, "ffn_norm"))


class _NormedResidual(_Steps):
    def whole(self, x: Tensor, places: Tensor) -> Tensor:
        x = self.norm(x, "attention_norm")
        x = x + self.attention(x, places)
        x = self.norm(x, "ffn_norm")
        return x + self.network(x)


class _SecondFromX(_Steps):
    def whole(self, x: Tensor, places: Tensor) -> Tensor:
        h = x + self.attention(self.norm(x, "attention_norm"), places)
        return x + self.network(self.norm(h, "ffn_norm"))


class _PostNorm(_Steps):
    def whole(self, x: Tensor, places: Tensor) -> Tensor:
        h = self.norm(x + self.attention(x, places), "attention_norm")
        return self.norm(h + self.network(h), "ffn_norm")


class _NormsBehind(_Steps):
    def whole(self, x: Tensor, places: Tensor) -> Tensor:
        h = x + self.norm(self.attention(x, places), "attention_norm")
        return h + self.norm(self.network(h), "ffn_norm")


class _Parallel(_Steps):
    def whole(self, x: Tensor, places: Tensor) -> Tensor:
        attended = self.attention(self.norm(x, "attention_norm"), places)
        return x + attended + self.network(self.norm(x, "ffn_norm"))


class _OneNorm(_Steps):
    def norm(self, x: Tensor, name: str) -> Tensor:
        return super().norm(x, "attention_norm")


class _SecondNormMissing(_Steps):
    def norm(self, x: Tensor, name: str) -> Tensor:
        return x if name == "ffn_norm" else super().norm(x, name)


class _FirstNormMissing(_Steps):
    def norm(self, x: Tensor, name: str) -> Tensor:
        return x if name == "attention_norm" else super().norm(x, name)


class _Centred(_Steps):
    def norm(self, x: Tensor, name: str) -> Tensor:
        return super().norm(x - x.mean(-1, keepdim=True), name)


class _DefaultEps(_Steps):
    def norm(self, x: Tensor, name: str) -> Tensor:
        weight: Tensor = getattr(self.block, name).weight
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * weight


class _NotCausal(_Steps):
    def masked(self, scores: Tensor) -> Tensor:
        return scores


class _FutureOnly(_Steps):
    def masked(self, scores: Tensor) -> Tensor:
        ahead = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
        return scores.masked_fill(~ahead, -1e9)


class _Multiplied(_Steps):
    def masked(self, scores: Tensor) -> Tensor:
        return scores.tril()


class _MaskedByPosition(_Steps):
    def masked(self, scores: Tensor) -> Tensor:
        seen = self.places[None, :] <= self.places[:, None]
        return scores.masked_fill(~seen, -math.inf)

    def whole(self, x: Tensor, places: Tensor) -> Tensor:
        self.places = places
        return super().whole(x, places)


class _NoTurn(_Steps):
    def turned(
        self, query: Tensor, key: Tensor, value: Tensor, places: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        return query, key, value


class _QueriesOnly(_Steps):
    def turned(
        self, query: Tensor, key: Tensor, value: Tensor, places: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        return self.turn(query, places), key, value


class _ValuesToo(_Steps):
    def turned(
        self, query: Tensor, key: Tensor, value: Tensor, places: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        return self.turn(query, places), self.turn(key, places), self.turn(value, places)


class _KeysTurnedBack(_Steps):
    def turned(
        self, query: Tensor, key: Tensor, value: Tensor, places: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        return self.turn(query, places), self.turn(key, -places), value


class _Interleaved(_Steps):
    def turn(self, x: Tensor, places: Tensor) -> Tensor:
        half = x.shape[-1] // 2
        angles = places.float()[:, None] * 10_000.0 ** (-torch.arange(half, device=x.device) / half)
        cos, sin, a, b = angles.cos(), angles.sin(), x[..., 0::2], x[..., 1::2]
        return torch.stack([a * cos - b * sin, b * cos + a * sin], dim=-1).flatten(-2)


class _TurnedByHead(_Steps):
    def turn(self, x: Tensor, places: Tensor) -> Tensor:
        heads = torch.arange(x.shape[1], device=x.device)
        return super().turn(x.transpose(1, 2), heads).transpose(1, 2)


class _WholeVectorTurned(_Steps):
    def heads(self, x: Tensor, name: str) -> Tensor:
        whole: Tensor = getattr(self.block, name)(x)
        if name != "value_proj":
            whole = self.turn(whole, self.places)
        return whole.unflatten(2, (-1, self.block.d_head)).transpose(1, 2)

    def turned(
        self, query: Tensor, key: Tensor, value: Tensor, places: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        return query, key, value

    def whole(self, x: Tensor, places: Tensor) -> Tensor:
        self.places = places
        return super().whole(x, places)


class _PlacesIgnored(_Steps):
    def turn(self, x: Tensor, places: Tensor) -> Tensor:
        return super().turn(x, torch.arange(len(places), device=x.device))


class _Tiled(_Steps):
    def repeat(self, x: Tensor) -> Tensor:
        return x.repeat(1, self.block.group, 1, 1)


class _NotRepeated(_Steps):
    def repeat(self, x: Tensor) -> Tensor:
        return x


class _Unscaled(_Steps):
    def scaled(self, scores: Tensor) -> Tensor:
        return scores


class _ScaledByWidth(_Steps):
    def scaled(self, scores: Tensor) -> Tensor:
        return scores / (self.block.d_head * scores.shape[1]) ** 0.5


class _ScaledByHeadWidth(_Steps):
    def scaled(self, scores: Tensor) -> Tensor:
        return scores / self.block.d_head


class _TransposeLost(_Steps):
    def merge(self, heads: Tensor) -> Tensor:
        batch, count, seq, width = heads.shape
        return heads.reshape(batch, seq, count * width)


class _CutLost(_Steps):
    def heads(self, x: Tensor, name: str) -> Tensor:
        out: Tensor = getattr(self.block, name)(x)
        batch, seq, width = out.shape
        return out.reshape(batch, width // self.block.d_head, seq, self.block.d_head)


class _OverQueries(_Steps):
    def weighed(self, scores: Tensor) -> Tensor:
        return scores.softmax(dim=-2)


class _SpeedsOfTheWidth(_Steps):
    """As with the package's rotary, which refuses heads that are narrower than what it turns."""

    def turn(self, x: Tensor, places: Tensor) -> Tensor:
        d_model = self.block.query_proj.weight.shape[1]
        raise ValueError(
            f"x must have the axes (…, positions, features), with at least the {d_model} features "
            f"that are turned; its shape is {tuple(x.shape)}."
        )


class _NotProjected(_Steps):
    def attention(self, x: Tensor, places: Tensor) -> Tensor:
        query, key, value = (self.heads(x, name) for name in _PROJECTIONS[:3])
        query, key, value = self.turned(query, key, value, places)
        weights = self.masked(self.scaled(query @ self.repeat(key).mT)).softmax(dim=-1)
        return self.merge(weights @ self.repeat(value))


class _GateSwapped(_Steps):
    def network(self, x: Tensor) -> Tensor:
        out: Tensor = self.block.down_proj(self.block.gate_proj(x) * F.silu(self.block.up_proj(x)))
        return out


class _Gelu(_Steps):
    def network(self, x: Tensor) -> Tensor:
        out: Tensor = self.block.down_proj(F.gelu(self.block.gate_proj(x)) * self.block.up_proj(x))
        return out


class _InPlace(_Steps):
    def whole(self, x: Tensor, places: Tensor) -> Tensor:
        x += self.attention(self.norm(x, "attention_norm"), places)
        x += self.network(self.norm(x, "ffn_norm"))
        return x


class _Detached(_Steps):
    def whole(self, x: Tensor, places: Tensor) -> Tensor:
        return super().whole(x, places).detach()


class _ByTorch(_Steps):
    """Right: torch's norm and attention."""

    def norm(self, x: Tensor, name: str) -> Tensor:
        weight: Tensor = getattr(self.block, name).weight
        return F.rms_norm(x, weight.shape, weight, self.block.eps)

    def attention(self, x: Tensor, places: Tensor) -> Tensor:
        query, key, value = (self.heads(x, name) for name in _PROJECTIONS[:3])
        query, key, value = self.turned(query, key, value, places)
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True)
        out: Tensor = self.block.out_proj(self.merge(mixed))
        return out


class _ByGroups(_Steps):
    """Right: the queries of a group as an axis of their own, nothing repeated."""

    def attention(self, x: Tensor, places: Tensor) -> Tensor:
        query, key, value = (self.heads(x, name) for name in _PROJECTIONS[:3])
        query, key, value = self.turned(query, key, value, places)
        grouped = query.unflatten(1, (-1, self.block.group))
        scores = self.scaled(torch.einsum("bgrnd,bgmd->bgrnm", grouped, key))
        mixed = torch.einsum("bgrnm,bgmd->bgrnd", self.masked(scores).softmax(-1), value)
        out: Tensor = self.block.out_proj(self.merge(mixed.flatten(1, 2)))
        return out


def _with(
    bias: bool = False, all_heads: bool = False, rename: Mapping[str, str] | None = None
) -> Callable[[Any, int, int, int, int], None]:
    """Makes the parts with a mistake."""

    def make(block: Any, d_model: int, num_heads: int, num_kv_heads: int, d_ff: int) -> None:
        _give_parts(block, d_model, num_heads, num_heads if all_heads else num_kv_heads, d_ff)
        for name in _PROJECTIONS if bias else ():
            linear = getattr(block, name)
            setattr(block, name, nn.Linear(linear.in_features, linear.out_features))
        for old, new in (rename or {}).items():
            setattr(block, new, getattr(block, old))
            delattr(block, old)

    return make


def _layer_norms(block: Any, d_model: int, num_heads: int, num_kv_heads: int, d_ff: int) -> None:
    _give_parts(block, d_model, num_heads, num_kv_heads, d_ff)
    for name in _NORMS:
        setattr(block, name, nn.LayerNorm(d_model))


def _one_width(block: Any, d_model: int, num_heads: int, num_kv_heads: int, d_ff: int) -> None:
    _give_parts(block, d_model, num_heads, num_kv_heads, 4 * d_model)


def _shared_norms(block: Any, d_model: int, num_heads: int, num_kv_heads: int, d_ff: int) -> None:
    _give_parts(block, d_model, num_heads, num_kv_heads, d_ff)
    block.ffn_norm = block.attention_norm


def _parts_in_words(answer: Answer, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
    """What stands in the nine attributes."""
    block = answer(*args, **kwargs)
    said = []
    for name in (*_NORMS, *_PROJECTIONS):
        part = getattr(block, name, None)
        weight, bias = getattr(part, "weight", None), getattr(part, "bias", None)
        if part is None:
            said.append(f"{name} missing")
        elif not isinstance(weight, Tensor):
            said.append(f"{name} without a weight")
        elif name in _NORMS:
            said.append(f"{name} {'×'.join(map(str, weight.shape))}")
        else:
            said.append(f"{name} {weight.shape[-1]} to {weight.shape[0]}")
        said[-1] += " with bias" if isinstance(bias, Tensor) else ""
    return "; ".join(said)


def _filled(block: Any, scales: Mapping[str, float], seed: int) -> Any:
    """Put weights into a block that are the same in every run; a scale of 0 switches a part off."""
    with torch.no_grad():
        for place, name in enumerate((*_NORMS, *_PROJECTIONS)):
            weight = getattr(block, name).weight
            drawn = numbers(*weight.shape, seed=seed + place).to(weight.dtype)
            if name in _NORMS:
                weight.copy_(1 + 0.3 * drawn)
            else:
                weight.copy_(drawn * scales.get(name, 0.5))
    return block


def _applied(
    *shape: int,
    seed: int,
    off: tuple[str, ...] = (),
    positions: Tensor | None = None,
    size: float = 1.0,
    calls: int = 1,
    give: Callable[[Any, Tensor, Any], Any] = lambda block, x, out: out,
    after: Callable[[Tensor], Any] = lambda x: x,
) -> Use:
    """Use a block with drawn weights on drawn numbers x of a shape."""

    def use(answer: Answer, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        block = _filled(answer(*args, **kwargs), dict.fromkeys(off, 0.0), seed)
        x = size * numbers(*shape, seed=seed + 20)
        x = after(x)
        for _ in range(calls):
            out = block(x) if positions is None else block(x, positions=positions.clone())
        return give(block, x, out)

    return use


def _of_ones(answer: Answer, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """The example: gains of 1, unit matrices, and one position of ones."""
    block = answer(*args, **kwargs)
    with torch.no_grad():
        for name in _NORMS:
            getattr(block, name).weight.fill_(1)
        for name in _PROJECTIONS:
            weight = getattr(block, name).weight
            weight.copy_(torch.eye(*weight.shape))
    return block(torch.ones(1, 1, args[0]))


def _slopes(block: Any, x: Tensor, out: Any) -> Tensor:
    wanted = [x, *(getattr(block, name).weight for name in (*_NORMS, *_PROJECTIONS))]
    steps = torch.arange(out.numel()).reshape(out.shape) / out.numel()
    found: tuple[Tensor | None, ...] = (None,) * len(wanted)
    if out.requires_grad:
        found = torch.autograd.grad((out * steps).sum(), wanted, allow_unused=True)
    sizes = [
        torch.zeros(())
        if grad is None
        else (grad * (torch.arange(grad.numel()).view(grad.shape) % 7 - 2)).sum()
        for grad in found
    ]
    return torch.stack(sizes)


def _untouched(block: Any, x: Tensor, out: Any) -> str:
    same = torch.equal(x, numbers(*x.shape, seed=_SEED_UNTOUCHED + 20))
    return "x is as it was" if same else "x was changed"


_SEED_UNTOUCHED = 150


def _elsewhere(answer: Answer, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
    """Run on torch's meta device, in place of a GPU."""
    block = answer(*args, **kwargs).to("meta")
    try:
        block(torch.empty(2, 3, args[0], device="meta"))
    except (RuntimeError, NotImplementedError, ValueError) as error:
        if "device" in str(error):
            raise
    return "runs"


def _count(block: Any, x: Tensor, out: Any) -> int:
    return sum(each.numel() for each in block.parameters())


_NETWORK_OFF, _ATTENTION_OFF = ("down_proj",), ("out_proj",)
_FIVE = torch.tensor([3, 4, 6, 9, 20])
_TWO_TEXTS = torch.tensor([0, 1, 2, 0, 1])

llama_block = Exercise(
    name="LlamaBlock",
    lesson=LESSON,
    signature="LlamaBlock(d_model, num_heads, num_kv_heads, d_ff, eps=1e-6)",
    reference=_ByLoops,
    probes=(
        Probe(
            "the nine parts of a block",
            (16, 4, 2, 10),
            explain="d_head = 16 / 4 = 4, so keys and values have 2 · 4 = 8 features. No projection has a bias.",
            use=_parts_in_words,
        ),
        Probe(
            "the example: unit matrices, one position of ones",
            (4, 2, 2, 4),
            explain="h is 2 everywhere, its norm 1, and silu(1) = 0.7311 is added.",
            use=_of_ones,
        ),
        Probe(
            "out_proj and down_proj all 0: x passes through",
            (4, 2, 2, 3),
            explain="With both sublayers giving 0, the residual connections leave x as it is.",
            use=_applied(1, 2, 4, seed=30, off=("out_proj", "down_proj")),
        ),
        Probe(
            "the feed-forward network alone (out_proj is 0), one position",
            (4, 2, 2, 3),
            use=_applied(1, 1, 4, seed=40, off=_ATTENTION_OFF),
        ),
        Probe(
            "attention alone (down_proj is 0), one position",
            (4, 2, 2, 3),
            explain="One position sees itself with weight 1: its value comes out.",
            use=_applied(1, 1, 4, seed=50, off=_NETWORK_OFF),
        ),
        Probe(
            "attention alone, 3 positions, one head of width 4",
            (4, 1, 1, 3),
            explain="Look at the mask, the softmax (over the keys), the scale 1/√d_head and RoPE.",
            use=_applied(1, 3, 4, seed=60, off=_NETWORK_OFF),
        ),
        Probe(
            "attention alone, 3 positions, two heads of width 4",
            (8, 2, 2, 3),
            explain="The heads are cut from the features, and put together again in the same order.",
            use=_applied(1, 3, 8, seed=70, off=_NETWORK_OFF),
        ),
        Probe(
            "attention alone, four heads, two of keys and values",
            (16, 4, 2, 3),
            explain="Query heads 0 and 1 use head 0 of keys and values, 2 and 3 use head 1.",
            use=_applied(1, 3, 16, seed=80, off=_NETWORK_OFF),
        ),
        Probe(
            "a whole block: 2 texts of 5 positions, six heads, two of keys and values",
            (24, 6, 2, 10),
            use=_applied(2, 5, 24, seed=90),
        ),
        Probe(
            "positions 3, 4, 6, 9, 20",
            (8, 2, 1, 6),
            explain="RoPE has to turn by these positions, not by 0, 1, 2, …",
            use=_applied(1, 5, 8, seed=100, positions=_FIVE),
        ),
        Probe(
            "positions 0, 1, 2, 0, 1, as when two texts share a row",
            (8, 2, 1, 6),
            explain="The mask goes by the places in the row: each sees itself and those before it.",
            use=_applied(1, 5, 8, seed=170, positions=_TWO_TEXTS),
        ),
        Probe(
            "eps = 0.5",
            (8, 2, 1, 6, 0.5),
            explain="Both norms take the eps that is given.",
            use=_applied(1, 3, 8, seed=110),
        ),
        Probe(
            "very small numbers, eps left out",
            (8, 2, 1, 6),
            explain="x is about 0.001 here, so that the default eps = 1e-6 shows.",
            use=_applied(1, 3, 8, seed=120, size=1e-3),
        ),
        Probe(
            "number of learned numbers",
            (16, 4, 2, 10),
            explain="Nine weights and nothing else: RoPE learns nothing, and no layer has a bias.",
            use=_applied(1, 3, 16, seed=130, give=_count),
        ),
        Probe(
            "the same input a second time",
            (8, 2, 1, 6),
            explain="Something is kept from one call to the next.",
            use=_applied(1, 3, 8, seed=140, calls=2),
        ),
        Probe(
            "the caller's x, looked at after the call",
            (8, 2, 1, 6),
            explain="x += … changes the caller's tensor. Write x = x + …",
            use=_applied(1, 3, 8, seed=_SEED_UNTOUCHED, give=_untouched),
        ),
        Probe(
            "the gradients of x and of all weights",
            (8, 2, 1, 6),
            explain="The values are right, but the gradient doesn't reach x or a weight.",
            use=_applied(2, 3, 8, seed=160, give=_slopes, after=lambda x: x.requires_grad_()),
        ),
        Probe(
            "a block on another device than the CPU",
            (8, 2, 1, 6),
            explain="On a GPU this would stop: a tensor is made on the CPU. Write device=x.device.",
            use=_elsewhere,
            seconds=60.0,
        ),
    ),
    wrong_answers=(
        Wrong(
            "with biases",
            _block(make=_with(bias=True)),
            "Your projections have biases. LLaMA has none: nn.Linear(..., bias=False).",
        ),
        Wrong(
            "keys with all heads",
            _block(make=_with(all_heads=True)),
            "Your key_proj and value_proj make num_heads heads. They make num_kv_heads: their width is "
            "num_kv_heads * d_head.",
        ),
        Wrong(
            "Hugging Face's names",
            _block(
                make=_with(
                    rename={
                        "query_proj": "q_proj",
                        "key_proj": "k_proj",
                        "value_proj": "v_proj",
                        "out_proj": "o_proj",
                    }
                )
            ),
            "The parts have other names than those asked for: query_proj, key_proj, value_proj, out_proj. The "
            "check looks for them to put its weights in.",
        ),
        Wrong(
            "LayerNorm",
            _block(_Centred, _layer_norms),
            "Your norms are LayerNorms: they have a bias and subtract the mean. LLaMA's are RMSNorms.",
        ),
        Wrong(
            "width fixed",
            _block(make=_one_width),
            "Your feed-forward network has the width 4 · d_model whatever d_ff says. Use d_ff.",
        ),
        Wrong(
            "attention missing",
            _block(_NoAttention),
            "Your feed-forward network is right, but attention is missing: h is still x. It is x + attention("
            "attention_norm(x)).",
        ),
        Wrong(
            "no residual",
            _block(_NoResidual),
            "Your block has no residual connections: each sublayer's result replaces x. Add it to x.",
        ),
        Wrong(
            "first residual missing",
            _block(_FirstResidualMissing),
            "The first residual connection is missing: h = x + attention(...).",
        ),
        Wrong(
            "second residual missing",
            _block(_SecondResidualMissing),
            "The second residual connection is missing: return h + network(...).",
        ),
        Wrong(
            "residual of the normed x",
            _block(_NormedResidual),
            "You overwrite x by its norm, so that the normed x goes on. What is added to is the x from before "
            "the norm: x + attention(norm(x)).",
        ),
        Wrong(
            "second residual from x",
            _block(_SecondFromX),
            "Your second sum starts from x again, and what attention added is lost. It starts from h.",
        ),
        Wrong(
            "post-norm",
            _block(_PostNorm),
            "Your norms stand behind the sums (post-norm, as in 2017). LLaMA normalises what goes into a "
            "sublayer: x + attention(norm(x)).",
        ),
        Wrong(
            "norms behind the sublayers",
            _block(_NormsBehind),
            "You normalise what comes out of the sublayers. Normalise what goes in: x + attention(norm(x)).",
        ),
        Wrong(
            "parallel",
            _block(_Parallel),
            "Attention and network both read x, side by side (as in GPT-J). In LLaMA the network reads h, "
            "which has attention's result in it.",
        ),
        Wrong(
            "one norm for both",
            _block(_OneNorm),
            "Both sublayers use attention_norm. The network has a norm of its own, ffn_norm.",
        ),
        Wrong(
            "norms shared",
            _block(make=_shared_norms),
            "attention_norm and ffn_norm are one and the same module, so they share their gains. Make two.",
        ),
        Wrong(
            "first norm missing",
            _block(_FirstNormMissing),
            "Attention reads x as it is. It reads attention_norm(x).",
        ),
        Wrong(
            "second norm missing",
            _block(_SecondNormMissing),
            "The network reads h as it is. It reads ffn_norm(h).",
        ),
        Wrong(
            "mean subtracted",
            _block(_Centred),
            "Your norms subtract the mean, as LayerNorm does. RMSNorm divides by the root mean square and "
            "leaves the mean in.",
        ),
        Wrong(
            "not causal",
            _block(_NotCausal),
            "Your attention sees the future: there is no causal mask. Position i may see 0 to i.",
        ),
        Wrong(
            "inverted mask",
            _block(_FutureOnly),
            "Your mask is inverted: each position sees what comes after it. In this course True means may "
            "attend.",
        ),
        Wrong(
            "multiplied mask",
            _block(_Multiplied),
            "You multiply the scores by the mask. A score of 0 still has the weight exp(0) = 1: fill with -inf "
            "before the softmax.",
        ),
        Wrong(
            "masked by position",
            _block(_MaskedByPosition),
            "Your mask compares `positions`. They are for RoPE alone: the mask goes by the places in the row, "
            "causal_mask(seq).",
        ),
        Wrong(
            "no RoPE",
            _block(_NoTurn),
            "Nothing is turned: your attention knows no order. Apply RoPE to queries and keys after they are "
            "cut into heads.",
        ),
        Wrong(
            "queries alone turned",
            _block(_QueriesOnly),
            "You turn the queries and not the keys. Then the score depends on the query's position, not on the "
            "distance. Turn both.",
        ),
        Wrong(
            "values turned",
            _block(_ValuesToo),
            "You turn the values too. RoPE belongs to the scores: queries and keys only.",
        ),
        Wrong(
            "keys turned back",
            _block(_KeysTurnedBack),
            "You turn keys the opposite way, so that the score depends on the sum of the positions. Both turn "
            "the same way; the dot product takes the difference.",
        ),
        Wrong(
            "interleaved",
            _block(_Interleaved),
            "Your RoPE pairs neighbours, 2i and 2i + 1 (Meta's interleaved layout). Here features i and i + "
            "d_head/2 are a pair: rotate_half, which is RotaryEmbedding's own choice.",
        ),
        Wrong(
            "turned by the head's number",
            _block(_TurnedByHead),
            "You turn by the number of the head instead of the position: RoPE got (batch, seq, heads, "
            "d_head). Its last two axes must be positions and features: transpose first.",
        ),
        Wrong(
            "whole vector turned",
            _block(_WholeVectorTurned),
            "You turn the whole vector before it is cut into heads, so that the heads get different speeds and "
            "pairs reach across them. Cut first, then turn each head.",
        ),
        Wrong(
            "speeds for the whole width",
            _block(_SpeedsOfTheWidth),
            "Your RoPE is made for d_model features. It turns one head: rope_frequencies(d_head).",
        ),
        Wrong(
            "positions ignored",
            _block(_PlacesIgnored),
            "Your RoPE counts 0, 1, 2, … (or on from the first position) whatever positions says. There may be "
            "gaps: hand over every one of them when they are given.",
        ),
        Wrong(
            "heads tiled",
            _block(_Tiled),
            "Your heads of keys and values are repeated as 0, 1, 0, 1; it must be 0, 0, 1, 1. Use "
            "repeat_interleave, not repeat.",
        ),
        Wrong(
            "not repeated",
            _block(_NotRepeated),
            "There are fewer heads of keys than of queries, and they don't line up. Repeat each for its group: "
            "repeat_interleave(num_heads // num_kv_heads, dim=1).",
        ),
        Wrong(
            "softmax over the queries",
            _block(_OverQueries),
            "Your softmax runs over the queries. The weights of each query have to sum to 1: softmax(dim=-1).",
        ),
        Wrong(
            "unscaled",
            _block(_Unscaled),
            "Your scores aren't scaled. Divide them by √d_head.",
        ),
        Wrong(
            "scaled by d_model",
            _block(_ScaledByWidth),
            "Your scores are divided by √d_model. The width that counts is that of a head: √d_head.",
        ),
        Wrong(
            "scaled by d_head",
            _block(_ScaledByHeadWidth),
            "Your scores are divided by d_head, not by its root.",
        ),
        Wrong(
            "heads put together wrongly",
            _block(_TransposeLost),
            "You put the heads together without moving the positions in front: (batch, heads, seq, d_head) "
            "needs transpose(1, 2) before the heads are joined.",
        ),
        Wrong(
            "heads cut wrongly",
            _block(_CutLost),
            "You cut (batch, seq, features) straight into (batch, heads, seq, d_head), which mixes positions. "
            "Cut into (batch, seq, heads, d_head), then transpose(1, 2).",
        ),
        Wrong(
            "out_proj forgotten",
            _block(_NotProjected),
            "out_proj isn't used: the joined heads go through it before they are added to x.",
        ),
        Wrong(
            "gate and up swapped",
            _block(_GateSwapped),
            "You bend up and not the gate. silu(gate_proj(...)) * up_proj(...).",
        ),
        Wrong(
            "GELU",
            _block(_Gelu),
            "Your gate goes through GELU. LLaMA's is silu.",
        ),
        Wrong(
            "eps fixed",
            _block(_DefaultEps),
            "Your norms use 1e-6 whatever eps says. Hand eps on: RMSNorm(d_model, eps).",
        ),
        Wrong(
            "x changed in place",
            _block(_InPlace),
            "The values are right, but x += … changes the caller's tensor. Write x = x + …",
        ),
        Wrong(
            "detached",
            _block(_Detached),
            "The values are right, but the result is cut off from the gradient, by .detach() or no_grad().",
        ),
    ),
    correct_alternatives=(_ByLoops, _block(), _block(_ByTorch), _block(_ByGroups)),
    hints=(
        "Two lines hold it all: h = x + attention(attention_norm(x)), and h + swiglu(ffn_norm(h)). Write "
        "attention in five steps: project, cut into heads, turn, attend, join and project.",
        "Cut: .unflatten(2, (-1, d_head)).transpose(1, 2), for queries and keys alike. Turn queries and keys: "
        "rotary(query, positions). Then .repeat_interleave(num_heads // num_kv_heads, dim=1) for keys and "
        "values.",
        "heads = scaled_dot_product_attention(query, key, value, causal_mask(seq, device=x.device)); h = x + "
        "out_proj(heads.transpose(1, 2).flatten(2)); normed = ffn_norm(h); return h + "
        "down_proj(F.silu(gate_proj(normed)) * up_proj(normed)).",
    ),
)

EXERCISES = (llama_ffn_width, permute_rope_weights, llama_block)
