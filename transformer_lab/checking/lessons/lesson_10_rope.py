"""Exercises of lesson 10: angles, RoPE in two layouts, and two ways to a longer context."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from transformer_lab.checking.exercise import (
    Answer,
    Exercise,
    Probe,
    Wrong,
    gradient,
    numbers,
    other_device,
    twice,
)

LESSON = "10_rope"

BASE = 10_000.0

# ---------------------------------------------------------------------------- rope_angles


def _angles_by_loop(positions: Tensor, d_head: int, theta: float = BASE) -> Tensor:
    rows = [
        [position * math.exp(-2 * i / d_head * math.log(theta)) for i in range(d_head // 2)]
        for position in positions.tolist()
    ]
    return torch.tensor(rows, dtype=torch.float64).float().reshape(len(rows), d_head // 2)


def _pairs(positions: Tensor, d_head: int) -> Tensor:
    return torch.arange(d_head // 2, device=positions.device)


def _angles(positions: Tensor, d_head: int, theta: float = BASE) -> Tensor:
    return positions[:, None] * theta ** (-2 * _pairs(positions, d_head) / d_head)


def _with_exponents(exponents: Callable[[Tensor, int], Tensor]) -> Answer:
    def angles(positions: Tensor, d_head: int, theta: float = BASE) -> Tensor:
        return positions[:, None] * theta ** exponents(_pairs(positions, d_head), d_head)

    return angles


def _angles_by_division(positions: Tensor, d_head: int, theta: float = BASE) -> Tensor:
    steps = torch.arange(0, d_head, 2, dtype=torch.float32, device=positions.device)
    return torch.outer(positions.float(), 1.0 / (theta ** (steps / d_head)))


def _angles_by_exp(positions: Tensor, d_head: int, theta: float = BASE) -> Tensor:
    steps = torch.arange(0, d_head, 2, device=positions.device)
    return positions.unsqueeze(-1) * torch.exp(steps * (-math.log(theta) / d_head))


def _angles_by_python_lists(positions: Tensor, d_head: int, theta: float = BASE) -> Tensor:
    frequencies = [theta ** (-2 * i / d_head) for i in range(d_head // 2)]
    return torch.stack([positions * frequency for frequency in frequencies], dim=1).float()


def _angles_by_linspace_of_pairs(positions: Tensor, d_head: int, theta: float = BASE) -> Tensor:
    frequencies = theta ** -torch.linspace(0, 1, d_head // 2, device=positions.device)
    return positions[:, None] * frequencies


def _angles_of_all_features(positions: Tensor, d_head: int, theta: float = BASE) -> Tensor:
    return positions[:, None] * theta ** (
        -2 * torch.arange(d_head, device=positions.device) / d_head
    )


def _angles_with_numbers_on_cpu(positions: Tensor, d_head: int, theta: float = BASE) -> Tensor:
    return positions[:, None] * theta ** (-2 * torch.arange(d_head // 2) / d_head)


def _angles_without_column(positions: Tensor, d_head: int, theta: float = BASE) -> Tensor:
    return positions * theta ** (-2 * _pairs(positions, d_head) / d_head)


def _angles_as_integers(positions: Tensor, d_head: int, theta: float = BASE) -> Tensor:
    return _angles(positions.long(), d_head, theta)


_TABLE = "One row a position, one column a pair: position · theta^(-2i/d_head), for i from 0 to d_head/2 - 1."

rope_angles = Exercise(
    name="rope_angles",
    lesson=LESSON,
    signature="rope_angles(positions, d_head, theta=10000.0)",
    reference=_angles_by_loop,
    probes=(
        Probe(
            "positions 0, 1, 5 and four features, base 100",
            (torch.tensor([0, 1, 5]), 4, 100.0),
            explain="The two pairs turn by 1 and by 100^(-2/4) = 0.1 a position. " + _TABLE,
        ),
        Probe(
            "four positions and six features, base 1000",
            (torch.tensor([2, 3, 4, 7]), 6, 1000.0),
            explain="The three pairs turn by 1, 0.1 and 0.01 a position. " + _TABLE,
        ),
        Probe(
            "two positions and eight features, the default base of 10,000",
            (torch.tensor([1, 10]), 8),
            explain="Without a third argument the base is 10,000: the four pairs turn by 1, 0.1, 0.01, 0.001.",
        ),
        Probe(
            "positions in any order, not from 0",
            (torch.tensor([12, 3, 100]), 4),
            explain="Each row belongs to the position that was given, wherever it stands.",
        ),
        Probe(
            "positions with fractions",
            (torch.tensor([0.0, 0.25, 2.5]), 4, 100.0),
            explain="Positions may be fractions, as after interpolation: don't make integers of them.",
        ),
        Probe(
            "as many positions as pairs",
            (torch.tensor([3, 1]), 4, 100.0),
            explain="Here rows and columns are equally many, so that a missing axis broadcasts without an error.",
        ),
        Probe("two features: one pair", (torch.tensor([4, 2, 1]), 2)),
        Probe("positions in int32", (torch.tensor([0, 9], dtype=torch.int32), 6)),
        twice(torch.tensor([0, 1, 5]), 4, 100.0),
        other_device(torch.tensor([0, 1, 5]), 4),
    ),
    wrong_answers=(
        Wrong(
            "exponent without the 2",
            _with_exponents(lambda i, d: -i / d),
            "Your pairs slow down half as fast as they should: the exponent is -i/d_head. It is -2i/d_head, with "
            "i the number of the pair, or, with the even numbers 0, 2, 4, … of its first feature, -that/d_head.",
        ),
        Wrong(
            "the 2 twice",
            _with_exponents(lambda i, d: -4 * i / d),
            "Your pairs slow down twice as fast as they should: the exponent is -4i/d_head. Either count the pairs, "
            "0, 1, 2, …, and take -2i/d_head, or count their first features, 0, 2, 4, …, and leave out the 2.",
        ),
        Wrong(
            "inverted",
            _with_exponents(lambda i, d: 2 * i / d),
            "Your pairs get faster and faster, up to nearly theta radians a position. The exponent is negative: "
            "theta^(-2i/d_head).",
        ),
        Wrong(
            "pairs counted from 1",
            _with_exponents(lambda i, d: -2 * (i + 1) / d),
            "Your pairs are counted from 1: pair 0 should turn by exactly 1 radian a position, theta^0.",
        ),
        Wrong(
            "down to 1/theta",
            _angles_by_linspace_of_pairs,
            "Your slowest pair turns by 1/theta. The exponents go from 0 in steps of 2/d_head and end one step before "
            "-1: -2i/d_head for i below d_head/2. An arange makes them, a linspace from 0 to 1 doesn't.",
        ),
        Wrong(
            "theta left out of account",
            lambda positions, d_head, theta=BASE: _angles(positions, d_head),
            "Your angles don't change with `theta`: a base of 10,000 is written into the code. Use the parameter.",
        ),
        Wrong(
            "positions left out of account",
            lambda positions, d_head, theta=BASE: _angles(
                torch.arange(len(positions), device=positions.device), d_head, theta
            ),
            "Your rows are those of the positions 0, 1, 2, …, whatever `positions` holds. Use the numbers in it: a "
            "word that is generated stands far behind, and comes alone.",
        ),
        Wrong(
            "positions counted from 1",
            lambda positions, d_head, theta=BASE: _angles(positions + 1, d_head, theta),
            "Your positions are one too large. Take them as they are given: at position 0 every angle is 0.",
        ),
        Wrong(
            "twice, side by side",
            lambda positions, d_head, theta=BASE: torch.cat(
                [_angles(positions, d_head, theta)] * 2, dim=-1
            ),
            "You return each angle twice, side by side, as Hugging Face's code needs it later. Here one column a pair "
            "is asked for, d_head/2 of them.",
        ),
        Wrong(
            "twice, neighbours",
            lambda positions, d_head, theta=BASE: _angles(
                positions, d_head, theta
            ).repeat_interleave(2, dim=-1),
            "You return each angle twice, once for each feature of its pair. Here one column a pair is asked for, "
            "d_head/2 of them.",
        ),
        Wrong(
            "a column for each feature",
            _angles_of_all_features,
            "You make a frequency for each feature. Features go in pairs that turn together: d_head/2 columns, "
            "i from 0 to d_head/2 - 1.",
        ),
        Wrong(
            "transposed",
            lambda positions, d_head, theta=BASE: _angles(positions, d_head, theta).T,
            "Your table is transposed: positions are rows, pairs are columns. positions[:, None] makes a column of "
            "the positions.",
        ),
        Wrong(
            "no column of positions",
            _angles_without_column,
            "Positions and frequencies are both rows here, and are multiplied number by number. Every position goes "
            "with every pair: make the positions a column, positions[:, None], or take torch.outer.",
        ),
        Wrong(
            "in degrees",
            lambda positions, d_head, theta=BASE: _angles(positions, d_head, theta).rad2deg(),
            "Your angles are in degrees. Cosine and sine want radians, and theta^(-2i/d_head) is in radians already.",
        ),
        Wrong(
            "times 2π",
            lambda positions, d_head, theta=BASE: _angles(positions, d_head, theta) * math.tau,
            "Your angles are 2π times too large. The frequencies are in radians a position already.",
        ),
        Wrong(
            "cosines",
            lambda positions, d_head, theta=BASE: _angles(positions, d_head, theta).cos(),
            "You return the cosines of the angles. The angles themselves are asked for.",
        ),
        Wrong(
            "cosines and sines",
            lambda positions, d_head, theta=BASE: (
                _angles(positions, d_head, theta).cos(),
                _angles(positions, d_head, theta).sin(),
            ),
            "You return cosines and sines, two tables. One is asked for, that of the angles.",
        ),
        Wrong(
            "on the unit circle",
            lambda positions, d_head, theta=BASE: torch.exp(1j * _angles(positions, d_head, theta)),
            "You return complex numbers, the e^(i·angle) of each. The angles themselves are asked for.",
        ),
        Wrong(
            "modulo a circle",
            lambda positions, d_head, theta=BASE: _angles(positions, d_head, theta) % math.tau,
            "Your angles are taken modulo a full circle. Cosine and sine would be the same, but the table should hold "
            "the angles as they are: leave the % out.",
        ),
        Wrong(
            "whole positions",
            _angles_as_integers,
            "You make integers of the positions. Fractions are lost; interpolated positions are fractions.",
        ),
        Wrong(
            "in float64",
            lambda positions, d_head, theta=BASE: (
                positions.double()[:, None]
                * theta ** (-2 * _pairs(positions, d_head).double() / d_head)
            ),
            "The values are right, but in float64; float32 is asked for. Numbers from numpy are float64, and so is "
            "what .double() touches.",
        ),
        Wrong(
            "in bfloat16",
            lambda positions, d_head, theta=BASE: _angles(
                positions.bfloat16(), d_head, theta
            ).bfloat16(),
            "Your angles are in bfloat16, which can't even tell position 256 from 257. Angles are made in float32.",
        ),
        Wrong(
            "frequencies made on the CPU",
            _angles_with_numbers_on_cpu,
            "The values are right, but the numbers of the pairs are made on the CPU, so on a GPU the product stops. "
            "Make them where the positions are: torch.arange(…, device=positions.device).",
        ),
    ),
    correct_alternatives=(
        _angles,
        _angles_by_division,
        _angles_by_exp,
        _angles_by_python_lists,
        lambda positions, d_head, theta=BASE: torch.einsum(
            "n,i->ni", positions.float(), theta ** (-_pairs(positions, d_head) / (d_head / 2))
        ),
    ),
    hints=(
        "By how much does pair i turn from one position to the next? Make these d_head/2 numbers first, without "
        "thinking of positions.",
        "theta ** (-2 * torch.arange(d_head // 2) / d_head) holds the frequencies. Every position times every "
        "frequency is a table: a column times a row.",
        "frequencies = theta ** (-2 * torch.arange(d_head // 2, device=positions.device) / d_head); then "
        "positions[:, None] * frequencies.",
    ),
)

# ---------------------------------------------------------------------------- rope and rope_half


def _rope_by_complex(x: Tensor, positions: Tensor, theta: float = BASE) -> Tensor:
    pairs = torch.complex(x[..., 0::2].double(), x[..., 1::2].double())
    angles = _angles_in_float64(positions, x.shape[-1], theta)
    turned = pairs * torch.complex(angles.cos(), angles.sin())
    return torch.view_as_real(turned).flatten(-2).to(x.dtype)


def _half_by_matrix(x: Tensor, positions: Tensor, theta: float = BASE) -> Tensor:
    d, angles = x.shape[-1], _angles_in_float64(positions, x.shape[-1], theta)
    matrices = torch.zeros(len(positions), d, d, dtype=torch.float64, device=x.device)
    for i in range(d // 2):
        j = i + d // 2
        matrices[:, i, i] = matrices[:, j, j] = angles[:, i].cos()
        matrices[:, j, i] = angles[:, i].sin()
        matrices[:, i, j] = -angles[:, i].sin()
    return (matrices @ x.double()[..., None])[..., 0].to(x.dtype)


def _angles_in_float64(positions: Tensor, d: int, theta: float) -> Tensor:
    steps = torch.arange(0, d, 2, dtype=torch.float64, device=positions.device)
    frequencies = theta ** (-steps / d)
    return torch.outer(positions.double(), frequencies)


Join = Callable[[Tensor, Tensor], Tensor]
Split = Callable[[Tensor], tuple[Tensor, Tensor]]


def _neighbours(x: Tensor) -> tuple[Tensor, Tensor]:
    return x[..., 0::2], x[..., 1::2]


def _halves(x: Tensor) -> tuple[Tensor, Tensor]:
    return x[..., : x.shape[-1] // 2], x[..., x.shape[-1] // 2 :]


def _woven(a: Tensor, b: Tensor) -> Tensor:
    return torch.stack([a, b], dim=-1).flatten(-2)


def _joined(a: Tensor, b: Tensor) -> Tensor:
    return torch.cat([a, b], dim=-1)


def _doubled_side_by_side(table: Tensor) -> Tensor:
    return torch.cat([table, table], dim=-1)


def _doubled_as_neighbours(table: Tensor) -> Tensor:
    return table.repeat_interleave(2, dim=-1)


def _turning(
    split: Split,
    join: Join,
    turn: Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]] | None = None,
    angles: Answer = _angles,
) -> Answer:
    """A way to turn: how x is taken apart, what happens to a and b, and how they are put together."""

    def turned(x: Tensor, positions: Tensor, theta: float = BASE) -> Tensor:
        table = angles(positions, x.shape[-1], theta)
        cos, sin = table.cos().to(x.dtype), table.sin().to(x.dtype)
        a, b = split(x)
        if turn is None:
            return join(a * cos - b * sin, a * sin + b * cos)
        return join(*turn(a, b, cos, sin))

    return turned


def _by_tables(
    split: Split, swapped: Join, doubled: Callable[[Tensor], Tensor], sign: int = 1
) -> Answer:
    """x · cos + (x with partners swapped, one negated) · sin, with tables as wide as x."""

    def turned(x: Tensor, positions: Tensor, theta: float = BASE) -> Tensor:
        angles = doubled(_angles(positions, x.shape[-1], theta))
        a, b = split(x)
        partners = swapped(-sign * b, sign * a)
        return x * angles.cos().to(x.dtype) + partners * angles.sin().to(x.dtype)

    return turned


def _with_width_of_the_wrong_axis(split: Split, join: Join) -> Answer:
    def turned(x: Tensor, positions: Tensor, theta: float = BASE) -> Tensor:
        steps = torch.arange(0, x.shape[-2], 2, device=x.device)
        angles = positions[:, None] * theta ** (-steps / x.shape[-2])
        cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
        a, b = split(x)
        return join(a * cos - b * sin, a * sin + b * cos)

    return turned


def _on_axis_of_heads(split: Split, join: Join) -> Answer:
    def turned(x: Tensor, positions: Tensor, theta: float = BASE) -> Tensor:
        angles = _angles(positions, x.shape[-1], theta)[:, None]
        cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
        a, b = split(x)
        return join(a * cos - b * sin, a * sin + b * cos)

    return turned


def _with_coarse_angles(split: Split, join: Join) -> Answer:
    def turned(x: Tensor, positions: Tensor, theta: float = BASE) -> Tensor:
        angles = _angles(positions.to(x.dtype), x.shape[-1], theta).to(x.dtype)
        a, b = split(x)
        cos, sin = angles.cos(), angles.sin()
        return join(a * cos - b * sin, a * sin + b * cos)

    return turned


def _with_coarse_frequencies(split: Split, join: Join) -> Answer:
    def rounded(positions: Tensor, d: int, theta: float = BASE) -> Tensor:
        frequencies = theta ** (-2 * _pairs(positions, d) / d)
        return positions[:, None] * frequencies.bfloat16().float()

    exact, coarse = _turning(split, join), _turning(split, join, angles=rounded)
    return lambda x, positions, theta=BASE: (coarse if x.dtype == torch.bfloat16 else exact)(
        x, positions, theta
    )


def _in_float32(split: Split, join: Join) -> Answer:
    def turned(x: Tensor, positions: Tensor, theta: float = BASE) -> Tensor:
        angles = _angles(positions, x.shape[-1], theta)
        a, b = split(x)
        cos, sin = angles.cos(), angles.sin()
        return join(a * cos - b * sin, a * sin + b * cos)

    return turned


def _in_place(even: bool, overwritten: bool) -> Answer:
    def turned(x: Tensor, positions: Tensor, theta: float = BASE) -> Tensor:
        angles = _angles(positions, x.shape[-1], theta)
        cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
        a, b = _neighbours(x) if even else _halves(x)
        old = a if overwritten else a.clone()
        with torch.no_grad():
            a.copy_(a * cos - b * sin)
            b.copy_(old * sin + b * cos)
        return x

    return turned


def _on_a_copy_overwritten(even: bool) -> Answer:
    in_place = _in_place(even, overwritten=True)
    return lambda x, positions, theta=BASE: in_place(x.clone(), positions, theta)


def _equal_rows(a: Tensor, b: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    slipped = a * sin + b * cos
    first = (a * cos - b * sin)[..., :1]
    return torch.cat([first, slipped[..., 1:]], dim=-1), slipped


def _without_positions(right: Answer) -> Answer:
    return lambda x, positions, theta=BASE: right(
        x, torch.arange(len(positions), device=x.device), theta
    )


def _both_layouts(right: Answer, split: Split, join: Join, even: bool) -> tuple[Wrong, ...]:
    """What goes wrong in both layouts alike."""
    return (
        Wrong(
            "turned backwards",
            _turning(split, join, lambda a, b, c, s: (a * c + b * s, b * c - a * s)),
            "Your vectors turn the other way round: the sign of the sine is wrong. (a, b) becomes (a cos - b sin, "
            "a sin + b cos). Distances would still be seen, but weights of other models would not fit.",
        ),
        Wrong(
            "mirrored",
            _turning(split, join, lambda a, b, c, s: (a * c - b * s, b * c - a * s)),
            "Both of your sines have a minus. The second row of a turn is a sin + b cos, with a plus; with two "
            "equal signs lengths are not kept.",
        ),
        Wrong(
            "two plus signs",
            _turning(split, join, lambda a, b, c, s: (a * c + b * s, a * s + b * c)),
            "Both of your sines have a plus. The first row of a turn is a cos - b sin; with two equal signs lengths "
            "are not kept.",
        ),
        Wrong(
            "sine and cosine exchanged",
            _turning(split, join, lambda a, b, c, s: (a * s - b * c, a * c + b * s)),
            "Sine and cosine have changed places: at position 0 nothing may happen, and cos 0 = 1 is what leaves a "
            "and b alone. (a, b) becomes (a cos - b sin, a sin + b cos).",
        ),
        Wrong(
            "no partner",
            _turning(split, join, lambda a, b, c, s: (a * c, b * s)),
            "You multiply a by the cosine and b by the sine, and stop there. A turn mixes the two: (a cos - b sin, "
            "a sin + b cos).",
        ),
        Wrong(
            "two equal rows",
            _turning(split, join, _equal_rows),
            "From the second pair on, both features of your pairs are the same, a sin + b cos. Some notes print the "
            "matrix so; every block is [[cos, -sin], [sin, cos]].",
        ),
        Wrong(
            "positions left out of account",
            _without_positions(right),
            "You count the positions 0, 1, 2, … yourself and don't look at `positions`. A word that is generated "
            "comes alone, and would be taken for the first.",
        ),
        Wrong(
            "theta left out of account",
            lambda x, positions, theta=BASE: right(x, positions),
            "Your result doesn't change with `theta`: it isn't handed on to the angles.",
        ),
        Wrong(
            "exponent without the 2",
            _turning(split, join, angles=_with_exponents(lambda i, d: -i / d)),
            "Your pairs turn at the wrong speeds: the exponent is -i/d. It is -2i/d, with d the features of x and i "
            "the number of the pair.",
        ),
        Wrong(
            "width of a half",
            _turning(split, join, angles=_with_exponents(lambda i, d: -4 * i / d)),
            "Your pairs slow down too fast: the exponent is -4i/d, as if x had d/2 features. Ask for the angles of "
            "all d of them: rope_angles(positions, x.shape[-1], theta).",
        ),
        Wrong(
            "angles of half a head",
            _turning(split, join, angles=lambda p, d, theta=BASE: _angles(p, d // 2, theta)),
            "You ask for the angles of d/2 features, and get d/4 of them. Ask for those of the whole head, "
            "rope_angles(positions, x.shape[-1], theta): it returns one for each pair, d/2.",
        ),
        Wrong(
            "number of vectors for the width",
            _with_width_of_the_wrong_axis(split, join),
            "You take x.shape[-2], the number of vectors, for the number of features. The width of a head is "
            "x.shape[-1].",
        ),
        Wrong(
            "angles along the wrong axis",
            _on_axis_of_heads(split, join),
            "Your angles lie along the wrong axis of x: they have got one between position and pair. The last two axes "
            "of x are (n, d), those of the angles (n, d/2): they fit as they are.",
        ),
        Wrong(
            "angles in the dtype of x",
            _with_coarse_angles(split, join),
            "With x in bfloat16 your angles are made in bfloat16 too. There 257 and 256 are one number, and so are "
            "their angles. Make positions, angles, cosine and sine in float32, and round only then.",
        ),
        Wrong(
            "frequencies in the dtype of x",
            _with_coarse_frequencies(split, join),
            "With x in bfloat16 your frequencies are rounded to bfloat16, and that makes them other frequencies: near "
            "positions look right, far ones are wrong. Make them in float32, whatever x is.",
        ),
        Wrong(
            "float32 comes out",
            _in_float32(split, join),
            "Your result is float32, though x is bfloat16: cosine and sine were float32, and won. Keep the angles, but "
            "bring the cosines and sines, or the result, to x.dtype.",
        ),
        Wrong(
            "changes x",
            _in_place(even, overwritten=False),
            "The numbers are right, but your function writes them into x: the caller's queries are gone. Make new "
            "tensors, or begin with a copy, x.clone().",
        ),
        Wrong(
            "changes x and uses what it has changed",
            _in_place(even, overwritten=True),
            "Your function writes the new a into x and then computes b from it, when it needs the old one. And the "
            "caller's x is changed. Compute both from x first, then put them together in a new tensor.",
        ),
        Wrong(
            "uses what it has changed",
            _on_a_copy_overwritten(even),
            "Your second row is computed from the a that is turned already. It needs the old one: compute both from "
            "x, and put them together at the end.",
        ),
        Wrong(
            "nothing turned",
            lambda x, positions, theta=BASE: x.clone(),
            "Your function gives x back as it was. Is the result of the turn thrown away?",
        ),
    )


def _probes(exchanged: bool) -> tuple[Probe, ...]:
    layout = (
        "Features 0 and 2 are a pair, features 1 and 3 the other."
        if exchanged
        else "Features 0 and 1 are a pair, features 2 and 3 the other."
    )
    x = [1.0, 1.0, 0.0, 0.0] if exchanged else [1.0, 0.0, 1.0, 0.0]
    return (
        Probe(
            "one vector at position 1, base 100",
            (torch.tensor([x]), torch.tensor([1]), 100.0),
            explain=f"{layout} One turns by 1 radian, the other by 0.1: cos 1 = 0.5403, sin 1 = 0.8415, "
            "cos 0.1 = 0.9950, sin 0.1 = 0.0998.",
        ),
        Probe(
            "the vector (1, 2, 3, 4) at positions 0, 1 and 2",
            (torch.tensor([[1.0, 2.0, 3.0, 4.0]]).repeat(3, 1), torch.tensor([0, 1, 2]), 100.0),
            explain=f"{layout} At position 0 nothing changes.",
        ),
        Probe(
            "five vectors of eight features, the default base",
            (numbers(5, 8, seed=1), torch.arange(5)),
        ),
        Probe(
            "positions that begin at 7, and not in order",
            (numbers(3, 6, seed=2), torch.tensor([7, 12, 9])),
            explain="Each vector has the position that stands at its place in `positions`.",
        ),
        Probe(
            "two heads of three vectors",
            (numbers(2, 3, 6, seed=3), torch.tensor([1, 2, 3])),
            explain="The positions belong to the last axis but one; all heads share them.",
        ),
        Probe(
            "a batch of 2, with 4 heads of 3 vectors",
            (numbers(2, 4, 3, 8, seed=4), torch.tensor([4, 5, 6])),
            explain="Any number of axes may stand before the last two.",
        ),
        Probe(
            "as many heads as vectors",
            (numbers(3, 3, 4, seed=5), torch.tensor([2, 4, 8])),
            explain="Here heads and positions are equally many, so that a wrong axis broadcasts without an error.",
        ),
        Probe(
            "two features: one pair",
            (numbers(4, 2, seed=6), torch.tensor([0, 3, 1, 2])),
        ),
        Probe(
            "positions with fractions",
            (numbers(3, 4, seed=7), torch.tensor([0.0, 0.5, 1.25])),
            explain="Interpolated positions are fractions.",
        ),
        Probe(
            "x in bfloat16, at positions 256 to 259",
            (numbers(4, 4, seed=8, dtype=torch.bfloat16), torch.arange(256, 260)),
            explain="The result should be bfloat16 as x is, but the angles have to be exact: bfloat16 has no 257.",
        ),
        Probe(
            "x in bfloat16, at positions 5000 to 5002",
            (numbers(3, 8, seed=13, dtype=torch.bfloat16), torch.arange(5000, 5003)),
            explain="Far behind, a small error of a frequency makes a large one of the angle: frequencies, too, are "
            "made in float32.",
        ),
        Probe(
            "x whose features don't lie side by side in memory",
            (numbers(4, 3, seed=9).mT, torch.tensor([5, 1, 2])),
            explain="x may be a transposed view: use reshape in place of view.",
        ),
        twice(numbers(3, 4, seed=10), torch.tensor([1, 2, 3])),
        gradient(numbers(3, 4, seed=11), torch.tensor([1, 2, 3])),
        other_device(numbers(3, 4, seed=12), torch.tensor([1, 2, 3])),
    )


_rope = _turning(_neighbours, _woven)
_half = _turning(_halves, _joined)


def _rope_complex(x: Tensor, positions: Tensor, theta: float = BASE) -> Tensor:
    pairs = torch.view_as_complex(x.float().reshape(*x.shape[:-1], -1, 2).contiguous())
    angles = _angles(positions, x.shape[-1], theta)
    turned = pairs * torch.polar(torch.ones_like(angles), angles)
    return torch.view_as_real(turned).flatten(-2).to(x.dtype)


def _rope_complex_not_contiguous(x: Tensor, positions: Tensor, theta: float = BASE) -> Tensor:
    pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)))
    angles = _angles(positions, x.shape[-1], theta)
    turned = pairs * torch.polar(torch.ones_like(angles), angles)
    return torch.view_as_real(turned).flatten(-2).to(x.dtype)


def _rope_complex_in_bfloat16(x: Tensor, positions: Tensor, theta: float = BASE) -> Tensor:
    pairs = torch.view_as_complex(x.reshape(*x.shape[:-1], -1, 2).contiguous())
    angles = _angles(positions, x.shape[-1], theta)
    turned = pairs * torch.polar(torch.ones_like(angles), angles)
    return torch.view_as_real(turned).flatten(-2).to(x.dtype)


def _rope_left_complex(x: Tensor, positions: Tensor, theta: float = BASE) -> Tensor:
    pairs = torch.complex(x[..., 0::2].float(), x[..., 1::2].float())
    angles = _angles(positions, x.shape[-1], theta)
    return pairs * torch.polar(torch.ones_like(angles), angles)


def _rope_on_a_copy(x: Tensor, positions: Tensor, theta: float = BASE) -> Tensor:
    angles = _angles(positions, x.shape[-1], theta)
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    out = torch.empty_like(x)
    out[..., 0::2] = x[..., 0::2] * cos - x[..., 1::2] * sin
    out[..., 1::2] = x[..., 0::2] * sin + x[..., 1::2] * cos
    return out


def _rope_by_matrices(x: Tensor, positions: Tensor, theta: float = BASE) -> Tensor:
    angles = _angles(positions, x.shape[-1], theta)
    blocks = torch.stack(
        [
            torch.stack([angles.cos(), -angles.sin()], dim=-1),
            torch.stack([angles.sin(), angles.cos()], dim=-1),
        ],
        dim=-2,
    )  # (n, d/2, 2, 2)
    pairs = x.float().reshape(*x.shape[:-1], -1, 2, 1)
    return (blocks @ pairs).flatten(-3).to(x.dtype)


def _half_on_a_copy(x: Tensor, positions: Tensor, theta: float = BASE) -> Tensor:
    half, angles = x.shape[-1] // 2, _angles(positions, x.shape[-1], theta)
    cos, sin = angles.cos(), angles.sin()
    out = x.float()
    a, b = out[..., :half].clone(), out[..., half:].clone()
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1).type_as(x)


rope = Exercise(
    name="rope",
    lesson=LESSON,
    signature="rope(x, positions, theta=10000.0)",
    reference=_rope_by_complex,
    probes=_probes(exchanged=False),
    wrong_answers=(
        Wrong(
            "half layout",
            _half,
            "You turn features i and i + d/2 together: that is the half layout, the next exercise. Here neighbours are "
            "a pair, 2i and 2i + 1: x[..., 0::2] and x[..., 1::2].",
        ),
        Wrong(
            "half layout by tables",
            _by_tables(_halves, _joined, _doubled_as_neighbours),
            "You mix the two layouts: the tables hold each cosine twice in a row, which fits neighbours, but the "
            "partners are swapped by halves. In the interleaved layout the partner of feature 2i is feature 2i + 1.",
        ),
        Wrong(
            "tables of the half layout",
            _by_tables(_neighbours, _woven, _doubled_side_by_side),
            "You mix the two layouts: the partners are neighbours, but the tables stand side by side, cat(angles, "
            "angles), which fits halves. Here each angle is needed twice in a row: repeat_interleave(2, dim=-1).",
        ),
        Wrong(
            "put together by halves",
            _turning(_neighbours, _joined),
            "The pairs are turned rightly but put together in the wrong order: all first features, then all second "
            "ones. Weave them: torch.stack([…, …], dim=-1).flatten(-2), neither cat nor dim=-2.",
        ),
        Wrong(
            "pairs left apart",
            _turning(_neighbours, lambda a, b: torch.stack([a, b], dim=-1)),
            "The pairs are turned rightly, but still have an axis of their own. End with .flatten(-2), which makes d "
            "features of d/2 pairs.",
        ),
        *_both_layouts(_rope, _neighbours, _woven, even=True),
        Wrong(
            "complex factors on real features",
            lambda x, positions, theta=BASE: (
                x * torch.exp(1j * _angles(positions, x.shape[-1], theta))
            ),
            "You multiply the d real features of x by d/2 complex numbers. Make complex numbers of the pairs first: "
            "torch.view_as_complex(x.float().reshape(*x.shape[:-1], -1, 2)).",
        ),
        Wrong(
            "left complex",
            _rope_left_complex,
            "You return the d/2 complex numbers. Take them apart again: torch.view_as_real(…).flatten(-2), in the "
            "dtype of x.",
        ),
        Wrong(
            "complex numbers need neighbours",
            _rope_complex_not_contiguous,
            "torch.view_as_complex needs real and imaginary part side by side in memory. x may be a transposed view, "
            "in which they aren't: call .contiguous() first.",
        ),
        Wrong(
            "no complex bfloat16",
            _rope_complex_in_bfloat16,
            "There are no complex numbers of bfloat16 in torch. Go by way of float32, x.float(), and return to x.dtype "
            "at the end.",
        ),
    ),
    correct_alternatives=(
        _rope,
        _rope_complex,
        _rope_on_a_copy,
        _rope_by_matrices,
        _by_tables(_neighbours, _woven, _doubled_as_neighbours),
    ),
    hints=(
        "Write the four features of a vector on paper, with their new values. Which features need cos of the first "
        "angle, and who is whose partner?",
        "a, b = x[..., 0::2], x[..., 1::2] are the first and the second features of all pairs, (…, n, d/2) each: as "
        "wide as the table of angles. What do they become?",
        "cos, sin of rope_angles(positions, x.shape[-1], theta), brought to x.dtype; then torch.stack([a * cos - b * "
        "sin, a * sin + b * cos], dim=-1).flatten(-2).",
    ),
)

rope_half = Exercise(
    name="rope_half",
    lesson=LESSON,
    signature="rope_half(x, positions, theta=10000.0)",
    reference=_half_by_matrix,
    probes=_probes(exchanged=True),
    wrong_answers=(
        Wrong(
            "interleaved layout",
            _rope,
            "You turn neighbours together: that is the interleaved layout, the exercise before. Here features i and "
            "i + d/2 are a pair: the two halves of x, x.chunk(2, dim=-1).",
        ),
        Wrong(
            "tables of the interleaved layout",
            _by_tables(_halves, _joined, _doubled_as_neighbours),
            "You mix the two layouts: the partners are half a vector apart, but the tables hold each angle twice in a "
            "row, which fits neighbours. Here they stand side by side: torch.cat([angles, angles], dim=-1).",
        ),
        Wrong(
            "partners of the interleaved layout",
            _by_tables(_neighbours, _woven, _doubled_side_by_side),
            "You mix the two layouts: the tables stand side by side, which fits halves, but the partners that you swap "
            "are neighbours. Here the partner of feature i is feature i + d/2.",
        ),
        Wrong(
            "taken apart by neighbours",
            _turning(_neighbours, _joined),
            "You take x apart as neighbours, x[..., 0::2] and x[..., 1::2], and put the result together by halves. "
            "Here the halves themselves are the partners: x.chunk(2, dim=-1).",
        ),
        Wrong(
            "put together as neighbours",
            _turning(_halves, _woven),
            "You take x apart by halves and turn them rightly, but weave the result: neighbours have become partners. "
            "Put the halves back as they were: torch.cat([…, …], dim=-1).",
        ),
        Wrong(
            "minus on the other half",
            _by_tables(_halves, _joined, _doubled_side_by_side, sign=-1),
            "Your vectors turn the other way round: with a and b the two halves, x is multiplied by the cosine, and "
            "cat(-b, a) by the sine. Yours is cat(b, -a).",
        ),
        Wrong(
            "halves not exchanged",
            _by_tables(_halves, lambda b, a: torch.cat([-a, -b], dim=-1), _doubled_side_by_side),
            "You multiply by the sine what should have changed places before: with a and b the two halves it is "
            "cat(-b, a). Yours is cat(-a, b).",
        ),
        Wrong(
            "halves exchanged",
            _turning(_halves, lambda a, b: torch.cat([b, a], dim=-1)),
            "The halves of your result have changed places: the first half is a cos - b sin.",
        ),
        Wrong(
            "halves stacked",
            _turning(_halves, lambda a, b: torch.stack([a, b], dim=-2)),
            "The halves are turned rightly, but stand on an axis of their own. Put them side by side: torch.cat([…, "
            "…], dim=-1).",
        ),
        *(
            wrong
            for wrong in _both_layouts(_half, _halves, _joined, even=False)
            # The same numbers as "minus on the other half" above, which says it for the tables.
            if wrong.name != "turned backwards"
        ),
    ),
    correct_alternatives=(
        _half,
        _half_on_a_copy,
        _by_tables(_halves, _joined, _doubled_side_by_side),
        lambda x, positions, theta=BASE: (
            _rope(x.unflatten(-1, (2, -1)).mT.flatten(-2), positions, theta)
            .unflatten(-1, (-1, 2))
            .mT.flatten(-2)
        ),
    ),
    hints=(
        "Only the choice of partners is new: feature 0 goes with feature d/2, feature 1 with d/2 + 1. Which two parts "
        "of x are the a's and the b's now?",
        "a, b = x.chunk(2, dim=-1) are as wide as the table of angles. They are turned as in `rope`; only taking apart "
        "and putting together differ.",
        "With cos and sin as in `rope`: torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1).",
    ),
)

# ---------------------------------------------------------------------------- interpolate_positions


def _interpolated_by_loop(positions: Tensor, trained_len: int, new_len: int) -> Tensor:
    found = []
    for position in positions.tolist():
        found.append(position * trained_len / new_len if new_len > trained_len else position)
    return torch.tensor(found, dtype=torch.float32)


def _squeezed(positions: Tensor, trained_len: int, new_len: int) -> Tensor:
    return positions * (trained_len / new_len)


def _interpolated(positions: Tensor, trained_len: int, new_len: int) -> Tensor:
    if new_len <= trained_len:
        return positions.float()
    return _squeezed(positions, trained_len, new_len)


def _in_long_texts(squeeze: Answer) -> Answer:
    """Something else done to the positions of a text that is too long."""

    def interpolated(positions: Tensor, trained_len: int, new_len: int) -> Tensor:
        if new_len <= trained_len:
            return positions.float()
        out: Tensor = squeeze(positions, trained_len, new_len)
        return out.float()

    return interpolated


def _interpolated_in_place(positions: Tensor, trained_len: int, new_len: int) -> Tensor:
    if new_len <= trained_len:
        return positions.float()
    if not positions.is_floating_point():
        return _squeezed(positions, trained_len, new_len)
    return positions.mul_(trained_len / new_len)


def _integers_in_short_texts(positions: Tensor, trained_len: int, new_len: int) -> Tensor:
    return positions if new_len <= trained_len else _squeezed(positions, trained_len, new_len)


def _only_beyond(positions: Tensor, trained_len: int, new_len: int) -> Tensor:
    squeezed = _squeezed(positions, trained_len, new_len)
    return torch.where(positions < trained_len, positions, squeezed).float()


interpolate_positions = Exercise(
    name="interpolate_positions",
    lesson=LESSON,
    signature="interpolate_positions(positions, trained_len, new_len)",
    reference=_interpolated_by_loop,
    probes=(
        Probe(
            "positions 0, 1, 2, 7 of a text of 8, trained on 4",
            (torch.tensor([0, 1, 2, 7]), 4, 8),
            explain="Twice as long, so every position is halved: 0, 0.5, 1, 3.5.",
        ),
        Probe(
            "a text of 10, trained on 4",
            (torch.tensor([0, 3, 5, 9, 9]), 4, 10),
            explain="Every position is multiplied by 4/10.",
        ),
        Probe(
            "the last position alone, as when a word is generated",
            (torch.tensor([2047]), 512, 2048),
            explain="The factor is trained_len / new_len, however many positions are given.",
        ),
        Probe(
            "a text shorter than in training",
            (torch.tensor([0, 1, 5]), 16, 8),
            explain="A text that isn't longer than in training keeps its positions, as floats.",
        ),
        Probe("a text as long as in training", (torch.tensor([0, 7, 3]), 8, 8)),
        Probe("a text that is longer by one", (torch.tensor([0, 4, 8, 2]), 8, 9)),
        Probe(
            "positions that are floats",
            (torch.tensor([0.0, 1.5, 6.0]), 4, 8),
            explain="Fractions may be squeezed once more.",
        ),
        Probe("positions in int32", (torch.tensor([1, 6], dtype=torch.int32), 3, 12)),
        twice(torch.tensor([0, 1, 2, 7]), 4, 8),
        other_device(torch.tensor([0, 1, 2, 7]), 4, 8),
    ),
    wrong_answers=(
        Wrong(
            "stretched",
            _in_long_texts(lambda p, trained, new: p * (new / trained)),
            "Your positions grow; they should shrink. The factor is trained_len / new_len, below 1 in a long text.",
        ),
        Wrong(
            "short texts stretched",
            lambda positions, trained_len, new_len: _squeezed(positions, trained_len, new_len),
            "A text shorter than in training is stretched by your function: its factor trained_len / new_len is above "
            "1. Leave such a text as it is, with a factor of at most 1.",
        ),
        Wrong(
            "short texts squeezed",
            lambda positions, trained_len, new_len: (
                positions * min(trained_len / new_len, new_len / trained_len)
            ),
            "A text shorter than in training is squeezed by your function. It fits as it is: its positions stay.",
        ),
        Wrong(
            "whole numbers",
            _in_long_texts(lambda p, trained, new: p * trained // new),
            "Your positions are whole numbers: neighbours fall on one place and can't be told apart. Fractions are the "
            "point of the method: divide with /, not //.",
        ),
        Wrong(
            "integers",
            lambda positions, trained_len, new_len: (
                positions * trained_len // max(trained_len, new_len)
            ),
            "Your positions are integers, because of //: neighbours fall on one place. Fractions are the point of the "
            "method: divide with /.",
        ),
        Wrong(
            "whole factor",
            lambda positions, trained_len, new_len: positions * (trained_len // new_len),
            "Your factor is a whole number, because of //: in a long text it is 0, and all positions fall on one. "
            "Divide with /.",
        ),
        Wrong(
            "spread over the trained range",
            lambda positions, trained_len, new_len: torch.linspace(
                0, trained_len, len(positions), device=positions.device
            ),
            "You spread as many positions as are given over the trained range, by linspace, and don't look at their "
            "numbers. Multiply the positions that are given.",
        ),
        Wrong(
            "rounded",
            _in_long_texts(lambda p, trained, new: (p * trained / new).round()),
            "Your positions are rounded: neighbours fall on one place and can't be told apart. Leave the fractions.",
        ),
        Wrong(
            "cut off",
            _in_long_texts(lambda p, trained, new: p.clamp(max=trained - 1)),
            "All positions beyond the training become the last one, so the far words stand in one place. Squeeze all "
            "of them alike.",
        ),
        Wrong(
            "wrapped around",
            _in_long_texts(lambda p, trained, new: p % trained),
            "Your positions start again at 0 after trained_len, so that far words pass for near ones. Squeeze all of "
            "them alike.",
        ),
        Wrong(
            "only those beyond",
            _only_beyond,
            "You squeeze only positions beyond the training; the others stay, and the two kinds overlap. In a long "
            "text all positions shrink by the same factor.",
        ),
        Wrong(
            "last onto last",
            _in_long_texts(lambda p, trained, new: p * (trained - 1) / (new - 1)),
            "Your factor is (trained_len - 1) / (new_len - 1), which maps the last position onto the last. The method "
            "divides the lengths themselves: trained_len / new_len.",
        ),
        Wrong(
            "by the number of positions",
            _in_long_texts(lambda p, trained, new: p * trained / len(p)),
            "Your factor depends on how many positions are given. One word that is generated comes alone, in a text of "
            "new_len: the factor is trained_len / new_len.",
        ),
        Wrong(
            "by the largest position",
            _in_long_texts(lambda p, trained, new: p * trained / (p.max() + 1)),
            "Your factor depends on the largest position given. Then a word's angle would change while the text grows; "
            "the factor is trained_len / new_len.",
        ),
        Wrong(
            "evenly spread",
            _in_long_texts(
                lambda p, trained, new: torch.arange(len(p), device=p.device) * (trained / new)
            ),
            "You make the positions 0, 1, 2, … yourself and don't look at those given.",
        ),
        Wrong(
            "trained_len left out",
            _in_long_texts(lambda p, trained, new: p / new),
            "Your positions lie between 0 and 1: only new_len is divided by. The trained range is 0 to trained_len: "
            "multiply by trained_len / new_len.",
        ),
        Wrong(
            "nothing squeezed",
            lambda positions, trained_len, new_len: positions.float(),
            "Your positions stay as they are. In a text longer than in training they shrink by trained_len / new_len.",
        ),
        Wrong(
            "integers in a short text",
            _integers_in_short_texts,
            "The values are right, but of a short text you return the integers that came in. Floats are asked for in "
            "every case: .float().",
        ),
        Wrong(
            "in float64",
            lambda positions, trained_len, new_len: _interpolated(
                positions.double(), trained_len, new_len
            ).double(),
            "The values are right, but in float64; float32 is asked for.",
        ),
        Wrong(
            "changes its input",
            _interpolated_in_place,
            "The values are right, but where `positions` are floats, you change them in place. Write "
            "positions * factor in place of positions *= factor.",
        ),
    ),
    correct_alternatives=(
        _interpolated,
        lambda positions, trained_len, new_len: positions * (1.0 / max(1.0, new_len / trained_len)),
        lambda positions, trained_len, new_len: positions.float() / max(new_len / trained_len, 1),
        lambda positions, trained_len, new_len: (
            positions.to(torch.float32) * trained_len / max(trained_len, new_len)
        ),
    ),
    hints=(
        "Trained on 4, a text of 8: where should position 7 go, so that it lies within 0 to 4, and all distances are "
        "shrunk alike?",
        "All positions are multiplied by trained_len / new_len. What is this factor for a text that is shorter than in "
        "training, and what should it be?",
        "positions.float() * min(1, trained_len / new_len).",
    ),
)

# ---------------------------------------------------------------------------- ntk_theta


def _ntk_by_logarithms(theta: float, factor: float, d_head: int) -> float:
    # The slowest pair has the exponent 1 - 2/d: log(theta') = log(theta) + log(factor) / (1 - 2/d).
    new = math.exp(math.log(theta) + math.log(factor) / (1 - 2 / d_head))
    return float(f"{new:.12g}")  # without the last digits, which are rounding


def _ntk(theta: float, factor: float, d_head: int) -> float:
    return theta * factor ** (d_head / (d_head - 2))


ntk_theta = Exercise(
    name="ntk_theta",
    lesson=LESSON,
    signature="ntk_theta(theta, factor, d_head)",
    reference=_ntk_by_logarithms,
    probes=(
        Probe(
            "six features, four times as long",
            (100.0, 4.0, 6),
            explain="The slowest pair turns by theta^(-4/6). To be 4 times slower the base has to be 4^(6/4) = 8 times "
            "as large.",
        ),
        Probe(
            "four features, three times as long",
            (10_000.0, 3.0, 4),
            explain="The slowest pair turns by theta^(-1/2). To be 3 times slower the base has to be 9 times as large.",
        ),
        Probe("a head of LLaMA, eight times as long", (10_000.0, 8.0, 128)),
        Probe("a factor that is no whole number", (500_000.0, 1.5, 64)),
        Probe(
            "a factor of 1",
            (10_000.0, 1.0, 16),
            explain="A context that isn't longer needs no other base.",
        ),
        twice(100.0, 4.0, 6),
    ),
    wrong_answers=(
        Wrong(
            "times the factor",
            lambda theta, factor, d_head: theta * factor,
            "Your base grows by the factor itself. The slowest pair turns by theta^(-(d_head - 2)/d_head), so it would "
            "become a little less than factor times slower: the factor needs an exponent above 1.",
        ),
        Wrong(
            "exponent upside down",
            lambda theta, factor, d_head: theta * factor ** ((d_head - 2) / d_head),
            "Your exponent is (d_head - 2)/d_head, that of the frequency. To solve for the base it has to be turned "
            "upside down: d_head/(d_head - 2).",
        ),
        Wrong(
            "last pair at d/2",
            lambda theta, factor, d_head: theta * factor ** (d_head / (d_head - 1)),
            "Your exponent is d_head/(d_head - 1). The slowest pair is i = d_head/2 - 1, so 2i is d_head - 2.",
        ),
        Wrong(
            "plus in place of minus",
            lambda theta, factor, d_head: theta * factor ** (d_head / (d_head + 2)),
            "Your exponent is d_head/(d_head + 2). The slowest pair is i = d_head/2 - 1, so 2i is d_head - 2.",
        ),
        Wrong(
            "everything raised",
            lambda theta, factor, d_head: (theta * factor) ** (d_head / (d_head - 2)),
            "You raise theta as well. Only the factor has the exponent: theta * factor ** (…). With a factor of 1 the "
            "base must stay.",
        ),
        Wrong(
            "multiplied by the fraction",
            lambda theta, factor, d_head: theta * factor * d_head / (d_head - 2),
            "You multiply by d_head/(d_head - 2). It is an exponent: factor ** (d_head / (d_head - 2)).",
        ),
        Wrong(
            "precedence",
            lambda theta, factor, d_head: theta * factor**d_head / (d_head - 2),
            "Your power binds tighter than your division: factor is raised to d_head, and the whole divided. Put "
            "parentheses around the exponent: factor ** (d_head / (d_head - 2)).",
        ),
        Wrong(
            "whole division",
            lambda theta, factor, d_head: theta * factor ** (d_head // (d_head - 2)),
            "Your exponent is a whole number, because of //: for most heads it becomes 1. Divide with /.",
        ),
        Wrong(
            "smaller base",
            lambda theta, factor, d_head: theta / factor ** (d_head / (d_head - 2)),
            "Your base gets smaller, so that all pairs turn faster. They should turn slower: multiply.",
        ),
        Wrong(
            "squared",
            lambda theta, factor, d_head: theta * factor**2,
            "Your exponent is always 2, which is right for four features alone. It depends on d_head: solve "
            "new_theta^(-(d_head - 2)/d_head) = theta^(-(d_head - 2)/d_head) / factor.",
        ),
        Wrong(
            "nothing changed",
            lambda theta, factor, d_head: theta,
            "Your base stays as it was. A longer context asks for slower pairs, so for a larger base.",
        ),
        Wrong(
            "a tensor",
            lambda theta, factor, d_head: torch.tensor(_ntk(theta, factor, d_head)),
            "You return a tensor. A plain float is asked for: Python's own numbers are enough here.",
        ),
        Wrong(
            "a whole number",
            lambda theta, factor, d_head: round(_ntk(theta, factor, d_head)),
            "You round the base to a whole number. Leave it a float; nothing asks for a round one.",
        ),
        Wrong(
            "the frequency",
            lambda theta, factor, d_head: theta ** (-(d_head - 2) / d_head) / factor,
            "You return the new frequency of the slowest pair. The base that leads to it is asked for: raise this to "
            "the power -d_head/(d_head - 2).",
        ),
    ),
    correct_alternatives=(
        _ntk,
        lambda theta, factor, d_head: (
            (theta ** (-(d_head - 2) / d_head) / factor) ** (-d_head / (d_head - 2))
        ),
        lambda theta, factor, d_head: theta * math.pow(factor, 1 / (1 - 2 / d_head)),
        lambda theta, factor, d_head: theta * factor ** ((d_head / 2) / (d_head / 2 - 1)),
    ),
    hints=(
        "Which pair is the slowest, and by how much does it turn a position? Write it with theta and d_head alone.",
        "The slowest pair has i = d_head/2 - 1, so it turns by theta^(-(d_head - 2)/d_head). Set the same with the new "
        "base equal to this divided by factor, and solve for the new base.",
        "Raise both sides to the power -d_head/(d_head - 2): new base = theta * factor ** (d_head / (d_head - 2)).",
    ),
)

EXERCISES = (rope_angles, rope, rope_half, interpolate_positions, ntk_theta)
