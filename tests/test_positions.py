"""Positions against complex numbers, loops in float64 and whole-number arithmetic."""

import cmath
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from transformer_lab.positions import (
    RelativePositionBias,
    RotaryEmbedding,
    Turns,
    alibi_bias,
    alibi_slopes,
    interpolated,
    llama3_frequencies,
    ntk_aware,
    relative_position_bucket,
    rope_frequencies,
    rotate_half,
    rotate_interleaved,
    sinusoidal_positions,
    yarn,
    yarn_attention_factor,
)

LAYOUTS = [rotate_half, rotate_interleaved]


def randn(*shape, seed=0, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


# ── Sinusoidal ──


@pytest.mark.parametrize(("num_positions", "d_model"), [(0, 4), (1, 2), (40, 6), (7, 512)])
def test_sinusoidal_positions_equal_the_formula(num_positions, d_model):
    table = sinusoidal_positions(num_positions, d_model)
    assert table.dtype == torch.float32
    assert table.shape == (num_positions, d_model)
    for p in range(num_positions):
        for i in range(d_model // 2):
            angle = p / 10_000 ** (2 * i / d_model)
            assert table[p, 2 * i].item() == pytest.approx(math.sin(angle), abs=1e-5)
            assert table[p, 2 * i + 1].item() == pytest.approx(math.cos(angle), abs=1e-5)


# ── Rotary ──


def turned_by_hand(x, positions, frequencies, layout, factor=1.0):
    """One vector after another, each pair as a complex number."""
    pairs = len(frequencies)
    out = x.clone()
    for row, p in enumerate(positions):
        for i, frequency in enumerate(frequencies.tolist()):
            a, b = (i, i + pairs) if layout is rotate_half else (2 * i, 2 * i + 1)
            z = complex(x[row, a], x[row, b]) * cmath.exp(1j * p * frequency) * factor
            out[row, a], out[row, b] = z.real, z.imag
    return out


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("d_head", [6, 9])
@pytest.mark.parametrize("factor", [1.0, 1.5])
def test_rotary_equals_complex_numbers(layout, d_head, factor):
    frequencies, positions = torch.tensor([1.0, 0.3, 0.01]), [0, 3, 1, 200]
    rotary = RotaryEmbedding(frequencies, layout, factor)
    x = randn(2, 4, d_head, dtype=torch.float64)
    expected = torch.stack(
        [turned_by_hand(each, positions, frequencies, layout, factor) for each in x]
    )
    mine = rotary(x, torch.tensor(positions))
    assert mine.dtype == torch.float64
    torch.testing.assert_close(mine, expected, atol=1e-4, rtol=0)
    torch.testing.assert_close(mine[..., 6:], x[..., 6:], atol=0, rtol=0)


def test_rotary_s_default_layout_is_half_without_a_factor():
    frequencies, x = torch.tensor([1.0, 0.5]), randn(3, 4)
    expected = turned_by_hand(x, range(3), frequencies, rotate_half)
    torch.testing.assert_close(RotaryEmbedding(frequencies)(x), expected)


def test_each_row_may_have_its_own_positions():
    rotary = RotaryEmbedding(rope_frequencies(4))
    positions = torch.tensor([[0, 0, 1, 2], [0, 1, 2, 3]])  # the first row has padding on the left
    for axes in ((), (3,), (3, 2)):
        x = randn(2, *axes, 4, 6)
        expected = torch.stack([rotary(x[b], positions[b]) for b in range(2)])
        torch.testing.assert_close(rotary(x, positions), expected)
    x = randn(2, 3, 4, 6)
    torch.testing.assert_close(rotary(x, positions[:1]), rotary(x, positions[0]))
    assert not torch.equal(rotary(x, positions), rotary(x, positions[1]))


def test_a_number_is_the_position_of_the_first():
    rotary, x = RotaryEmbedding(rope_frequencies(4)), randn(2, 3, 4)
    torch.testing.assert_close(rotary(x, 5), rotary(x, torch.tensor([5, 6, 7])))
    torch.testing.assert_close(rotary(x), rotary(x, 0))


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(LAYOUTS),
    st.integers(0, 500),
    st.integers(0, 500),
    st.integers(0, 500),
    st.integers(0, 10_000),
)
def test_scores_depend_on_the_distance_alone(layout, n, m, shift, seed):
    rotary = RotaryEmbedding(rope_frequencies(8), layout)
    q, k = randn(1, 8, seed=seed), randn(1, 8, seed=seed + 1)
    score = (rotary(q, n) * rotary(k, m)).sum()
    shifted = (rotary(q, n + shift) * rotary(k, m + shift)).sum()
    torch.testing.assert_close(score, shifted, atol=2e-3, rtol=0)
    torch.testing.assert_close(rotary(q, n).norm(), q.norm())


@pytest.mark.parametrize("layout", LAYOUTS)
def test_gradient_is_turned_back(layout):
    rotary = RotaryEmbedding(rope_frequencies(6), layout)
    x = randn(2, 3, 8, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda each: rotary(each, 4), x)


def test_written_backward_pass_of_the_half_layout_is_autograds():
    x, angles = randn(2, 3, 5, 8, dtype=torch.float64), randn(5, 4, seed=1, dtype=torch.float64)
    grad = randn(2, 3, 5, 8, seed=2, dtype=torch.float64)
    mine = x.clone().requires_grad_()
    rotate_half(mine, angles.cos(), angles.sin()).backward(grad)
    plain = x.clone().requires_grad_()
    turned = torch.polar(torch.ones_like(angles), angles) * torch.complex(*plain.chunk(2, dim=-1))
    torch.cat([turned.real, turned.imag], dim=-1).backward(grad)
    torch.testing.assert_close(mine.grad, plain.grad)
    each = x[0, 0].clone().requires_grad_()

    def turn(x):
        return rotate_half(x, angles.cos(), angles.sin())

    assert torch.autograd.gradgradcheck(turn, each)
    torch.testing.assert_close(torch.vmap(torch.vmap(turn))(x), turn(x))


def test_cosines_that_want_a_gradient_get_one():
    x, angles = randn(3, 4, dtype=torch.float64), randn(3, 2, seed=1, dtype=torch.float64)

    def turn(x, angles):
        return rotate_half(x, angles.cos(), angles.sin())

    assert torch.autograd.gradcheck(turn, (x.requires_grad_(), angles.requires_grad_()))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_angles_are_float32_in_half_precision(dtype, layout):
    # 30,001 is no number of bfloat16, and is beyond the whole numbers that float16 tells apart.
    rotary = RotaryEmbedding(rope_frequencies(8), layout).to(dtype)
    assert rotary.frequencies.dtype == torch.float32
    assert torch.equal(rotary.frequencies, rope_frequencies(8))
    x = randn(4, 8).to(dtype)
    positions = torch.tensor([30_001, 70_001, 5, 4097])
    mine = rotary(x, positions)
    assert mine.dtype == dtype
    expected = turned_by_hand(x.double(), positions.tolist(), rope_frequencies(8), layout)
    torch.testing.assert_close(mine.double(), expected, atol=3e-2, rtol=0)


def test_frequencies_stay_out_of_checkpoints_and_outlive_an_empty_start():
    with torch.device("meta"):
        rotary = RotaryEmbedding(rope_frequencies(4))
    assert rotary.state_dict() == {}
    assert [name for name, _ in rotary.named_buffers()] == ["frequencies"]
    assert rotary.to_empty(device="cpu") is rotary
    assert torch.equal(rotary.frequencies, rope_frequencies(4))
    assert rotary.to("meta").frequencies.is_meta


def test_rotary_runs_where_its_input_is():
    rotary = RotaryEmbedding(rope_frequencies(4))
    x = torch.empty(2, 3, 4, 4, device="meta")
    for positions in (0, torch.empty(2, 4, dtype=torch.long, device="meta")):
        assert rotary(x, positions).device.type == "meta"


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("attention_factor", [1.0, 1.5])
def test_turns_made_beforehand_turn_the_same(layout, attention_factor):
    rotary = RotaryEmbedding(rope_frequencies(8), layout, attention_factor)
    x, rows = randn(2, 3, 4, 10), torch.tensor([[0, 1, 2, 3], [7, 7, 9, 40]])
    for positions, seen in ((rows[1], rows[1]), (rows, rows[:, None])):
        turns = rotary.turns(seen)
        for each in (x, x.bfloat16(), x[:, 0]):
            again = Turns(*(turn.squeeze(1) for turn in turns)) if each.dim() == 3 else turns
            assert torch.equal(rotary(each, again), rotary(each, positions))


@pytest.mark.usefixtures("as_a_user")
def test_turns_of_other_positions_or_pairs_are_refused():
    rotary, x = RotaryEmbedding(rope_frequencies(8)), randn(2, 3, 4, 8)
    for turns in (
        rotary.turns(torch.arange(3)),
        rotary.turns(torch.zeros(3, 1, 4, dtype=torch.long)),
        RotaryEmbedding(rope_frequencies(4)).turns(torch.arange(4)),
        rotary.turns(torch.arange(4, device="meta")),
    ):
        with pytest.raises(ValueError, match=r"cosine|cos"):
            rotary(x, turns)


# ── Schedules of frequencies ──


def default_by_hand(d_rotary, base):
    return [base ** (-2 * i / d_rotary) for i in range(d_rotary // 2)]


def assert_frequencies(mine, expected):
    assert mine.dtype == torch.float32
    torch.testing.assert_close(
        mine.double(), torch.tensor(expected, dtype=torch.float64), atol=0, rtol=2e-6
    )


@pytest.mark.parametrize("d_rotary", [2, 8, 128])
@pytest.mark.parametrize("base", [1.5, 10_000.0, 500_000.0])
def test_default_frequencies(d_rotary, base):
    assert_frequencies(rope_frequencies(d_rotary, base), default_by_hand(d_rotary, base))


def test_frequencies_hold_numbers_even_in_a_model_without():
    with torch.device("meta"):
        own = rope_frequencies(8)
        for schedule in (
            own,
            interpolated(own, 2.0),
            ntk_aware(8, 10_000.0, 2.0),
            yarn(8, 10_000.0, 4.0, 4096),
            llama3_frequencies(own),
        ):
            assert schedule.device.type == "cpu"


@pytest.fixture
def double_by_default():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.usefixtures("double_by_default")
def test_tables_are_float32_whatever_the_default_is():
    assert rope_frequencies(8).dtype == torch.float32
    assert yarn(8, 10_000.0, 4.0, 4096).dtype == torch.float32
    assert sinusoidal_positions(3, 4).dtype == torch.float32
    assert alibi_slopes(3).dtype == alibi_bias(3, 1, 1).dtype == torch.float32


def test_default_base():
    assert_frequencies(rope_frequencies(8), default_by_hand(8, 10_000))


def test_interpolated_positions_stand_closer():
    own = rope_frequencies(8)
    closer = RotaryEmbedding(interpolated(own, 4.0))
    x = randn(3, 8)
    torch.testing.assert_close(
        closer(x, torch.tensor([0, 4, 8])), RotaryEmbedding(own)(x, torch.tensor([0, 1, 2]))
    )
    assert_frequencies(interpolated(own, 1.0), default_by_hand(8, 10_000))


@pytest.mark.parametrize(("d_rotary", "base", "factor"), [(4, 100.0, 3.0), (128, 10_000.0, 8.0)])
def test_ntk_aware_keeps_one_end_and_interpolates_the_other(d_rotary, base, factor):
    own = default_by_hand(d_rotary, base)
    pairs = d_rotary // 2
    expected = [own[i] * factor ** (-i / (pairs - 1)) for i in range(pairs)]
    assert expected[0] == own[0]
    assert expected[-1] == pytest.approx(own[-1] / factor)
    assert_frequencies(ntk_aware(d_rotary, base, factor), expected)


def yarn_by_hand(d_rotary, base, factor, length, fast=32, slow=1):
    """By the turns of each pair: solved for the (fractional) pair that makes so many."""
    own = default_by_hand(d_rotary, base)

    def pair(turns):  # length · base^(-2 pair / d_rotary) / 2π = turns
        return d_rotary / 2 * math.log(length / (2 * math.pi * turns), base)

    low, high = max(math.floor(pair(fast)), 0), min(math.ceil(pair(slow)), d_rotary - 1)
    expected = []
    for i, frequency in enumerate(own):
        if i <= low:
            share = 0.0
        elif i >= high:
            share = 1.0
        else:
            share = (i - low) / (high - low)
        expected.append((1 - share) * frequency + share * frequency / factor)
    return expected


@pytest.mark.parametrize(
    "arguments",
    [
        (128, 10_000.0, 16.0, 4096),
        (64, 500_000.0, 4.0, 8192),
        (8, 10_000.0, 4.0, 64),  # even the fastest pair makes fewer than 32 turns
        (8, 10_000.0, 4.0, 7),
        (8, 10.0, 2.0, 640),  # even the slowest pair makes more than one
        (16, 10.0, 2.0, 100_000),  # and here more than 32: nothing is interpolated
        (8, 2.0, 2.0, 1),
        (16, 100.0, 2.0, 5000, 40.0, 3.0),
        (4, 2.0, 2.0, 64, 4.0, 3.0),
        (2, 10_000.0, 2.0, 4096),
        (128, 10_000.0, 1.0, 4096),
    ],
)
def test_yarn(arguments):
    assert_frequencies(yarn(*arguments), yarn_by_hand(*arguments))


def test_yarn_s_ramp_of_llama_2_goes_from_pair_20_to_46():
    ratio = yarn(128, 10_000.0, 16.0, 4096) / rope_frequencies(128)
    torch.testing.assert_close(ratio[:21], torch.ones(21))
    torch.testing.assert_close(ratio[46:], torch.full((18,), 1 / 16))
    assert 1 > ratio[21] > ratio[45] > 1 / 16


def test_yarn_with_a_ramp_of_no_width_steps():
    # Both ends are cut to pair 0: fewer than one turn even for the fastest.
    mine = yarn(8, 10_000.0, 4.0, 6)
    assert_frequencies(
        mine, [f / (1 if i == 0 else 4) for i, f in enumerate(default_by_hand(8, 10_000))]
    )


def test_yarn_attention_factor():
    assert yarn_attention_factor(1.0) == 1.0
    assert yarn_attention_factor(math.e**2) == pytest.approx(1.2)
    rotary = RotaryEmbedding(rope_frequencies(4), attention_factor=yarn_attention_factor(16.0))
    x = randn(3, 4)
    torch.testing.assert_close(rotary(x).norm(), x.norm() * (0.1 * math.log(16) + 1))


def llama3_by_hand(own, factor, low, high, length):
    expected = []
    for frequency in own:
        wave = 2 * math.pi / frequency
        if wave < length / high:
            expected.append(frequency)
        elif wave > length / low:
            expected.append(frequency / factor)
        else:
            smooth = (length / wave - low) / (high - low)
            expected.append((1 - smooth) * frequency / factor + smooth * frequency)
    return expected


@pytest.mark.parametrize(
    ("d_rotary", "base", "named"),
    [
        (128, 500_000.0, {}),
        (64, 500_000.0, {"factor": 32.0}),
        (32, 10_000.0, {"factor": 3.0, "low": 2.0, "high": 20.0, "original_length": 500}),
        (32, 10_000.0, {"factor": 1.0}),
        (32, 10_000.0, {"low": 0.5, "original_length": 1}),
    ],
)
def test_llama3_frequencies(d_rotary, base, named):
    settings_ = {"factor": 8.0, "low": 1.0, "high": 4.0, "length": 8192}
    settings_ |= {"length" if name == "original_length" else name: v for name, v in named.items()}
    expected = llama3_by_hand(default_by_hand(d_rotary, base), **settings_)
    assert_frequencies(llama3_frequencies(rope_frequencies(d_rotary, base), **named), expected)


# ── ALiBi ──


def test_alibi_slopes_of_the_paper():
    assert alibi_slopes(8).tolist() == [2**-i for i in range(1, 9)]
    twelve = [2**-i for i in range(1, 9)] + [2**-0.5, 2**-1.5, 2**-2.5, 2**-3.5]
    torch.testing.assert_close(alibi_slopes(12), torch.tensor(twelve))
    assert alibi_slopes(1).tolist() == [2**-8]
    assert alibi_slopes(2).tolist() == [2**-4, 2**-8]


def slopes_by_hand(n):
    """Press et al.'s rule, by recursion over whole powers of two."""
    if math.log2(n).is_integer():
        ratio = 2 ** (-(2 ** -(math.log2(n) - 3)))
        return [ratio ** (i + 1) for i in range(n)]
    whole = 2 ** math.floor(math.log2(n))
    return slopes_by_hand(whole) + slopes_by_hand(2 * whole)[0::2][: n - whole]


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 70))
def test_alibi_slopes_of_any_number(n):
    slopes = alibi_slopes(n)
    assert slopes.dtype == torch.float32
    torch.testing.assert_close(slopes, torch.tensor(slopes_by_hand(n)))
    assert len(set(slopes.tolist())) == n


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 5), st.integers(0, 5), st.integers(0, 4))
def test_alibi_bias_ends_in_the_corner(heads, queries, earlier):
    keys, slopes = queries + earlier, slopes_by_hand(heads)
    expected = [
        [[-slopes[h] * abs(i + earlier - j) for j in range(keys)] for i in range(queries)]
        for h in range(heads)
    ]
    bias = alibi_bias(heads, queries, keys)
    torch.testing.assert_close(bias, torch.tensor([expected]).reshape(1, heads, queries, keys))


# ── T5's relative positions ──


def bucket_by_hand(distance, n, most, bidirectional):
    """In whole numbers: the logarithms are compared as powers, so that nothing is rounded."""
    first = 0
    if bidirectional:
        n //= 2
        first = n if distance > 0 else 0
        distance = abs(distance)
    else:
        distance = max(-distance, 0)
    single = n // 2
    if distance < single:
        return first + distance
    rest = n - single
    # the largest k with (most / single)^(k / rest) ≤ distance / single
    k = 0
    while k < rest - 1 and most ** (k + 1) * single**rest <= distance**rest * single ** (k + 1):
        k += 1
    return first + single + k


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize(("n", "most"), [(32, 128), (32, 100), (8, 20), (4, 3), (6, 50)])
def test_buckets_equal_whole_number_arithmetic(n, most, bidirectional):
    distances = torch.arange(-3 * most, 3 * most + 1)
    expected = [bucket_by_hand(d, n, most, bidirectional) for d in distances.tolist()]
    mine = relative_position_bucket(distances, n, most, bidirectional=bidirectional)
    assert mine.dtype == distances.dtype
    assert mine.tolist() == expected
    assert (mine.min(), mine.max()) == (0, n - 1)


def test_defaults_and_dtype_of_buckets():
    distances = torch.arange(-200, 200, dtype=torch.int32)
    mine = relative_position_bucket(distances, bidirectional=False)
    assert mine.dtype == torch.int32
    assert mine.tolist() == [bucket_by_hand(d, 32, 128, False) for d in distances.tolist()]
    assert relative_position_bucket(distances[:1], 2, 2, bidirectional=False).tolist() == [1]
    assert relative_position_bucket(distances[-1:], 4, 2, bidirectional=True).tolist() == [3]
    assert relative_position_bucket(distances[-1:], 3, 2, bidirectional=False).tolist() == [0]


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize(("queries", "keys"), [(4, 4), (2, 5), (1, 3), (0, 2)])
def test_relative_bias_looks_its_bucket_up(bidirectional, queries, keys):
    bias = RelativePositionBias(3, 8, 20, bidirectional=bidirectional)
    mine = bias(queries, keys)
    assert mine.shape == (1, 3, queries, keys)
    for h in range(3):
        for i in range(queries):
            for j in range(keys):
                bucket = bucket_by_hand(j - (i + keys - queries), 8, 20, bidirectional)
                assert mine[0, h, i, j] == bias.table.weight[bucket, h]


def test_relative_bias_defaults_and_gradient():
    assert RelativePositionBias(1, bidirectional=True)(2, 2).shape == (1, 1, 2, 2)
    bias = RelativePositionBias(2, bidirectional=False)
    assert bias.table.weight.shape == (32, 2)
    assert bias.max_distance == 128
    bias(3, 3).sum().backward()
    assert bias.table.weight.grad[:4].tolist() == [[6, 6], [2, 2], [1, 1], [0, 0]]


def test_made_where_asked():
    assert sinusoidal_positions(3, 4, device="meta").is_meta
    assert alibi_slopes(3, device="meta").is_meta
    assert alibi_bias(2, 3, 4, device="meta").is_meta
    assert RelativePositionBias(2, bidirectional=True).to("meta")(2, 3).is_meta


# ── Bad input ──

ROTARY, X = RotaryEmbedding(rope_frequencies(4)), randn(2, 3, 5, 4)
ROW = torch.ones(2)


@pytest.mark.usefixtures("as_a_user")
@pytest.mark.parametrize(
    ("make", "error", "says"),
    [
        (lambda: sinusoidal_positions(-1, 4), ValueError, "num_positions must be at least 0"),
        (lambda: sinusoidal_positions(2, 5), ValueError, "d_model must be even.*it is 5"),
        (lambda: sinusoidal_positions(2, 0), ValueError, "d_model must be at least 2; it is 0"),
        (lambda: sinusoidal_positions(2, 4.0), TypeError, r"d_model .* it is 4.0 \(float\)"),
        (lambda: sinusoidal_positions(True, 4), TypeError, "num_positions .* it is True"),
        (lambda: rope_frequencies(3), ValueError, "d_rotary must be even.*it is 3"),
        (lambda: rope_frequencies(4, 1.0), ValueError, "base must be above 1 and finite.*1.0"),
        (lambda: rope_frequencies(4, math.inf), ValueError, "base must be .* finite; it is inf"),
        (lambda: rope_frequencies(4, math.nan), ValueError, "base must be .* it is nan"),
        (lambda: rope_frequencies(4, "1"), TypeError, r"base must be a number; it is '1' \(str\)"),
        (lambda: rope_frequencies(4, True), TypeError, "base must be a number; it is True"),
        (lambda: RotaryEmbedding([1.0]), TypeError, "frequencies .* is a list"),
        (lambda: RotaryEmbedding(ROW.double()), ValueError, "row of float32.*torch.float64"),
        (lambda: RotaryEmbedding(ROW[None]), ValueError, r"row of float32.*\(1, 2\)"),
        (lambda: RotaryEmbedding(ROW[:0]), ValueError, r"row of float32.*\(0,\)"),
        (lambda: RotaryEmbedding(ROW, "half"), TypeError, "rotate must be a function .* is a str"),
        (lambda: RotaryEmbedding(ROW, attention_factor=0.0), ValueError, "attention_factor must"),
        (lambda: ROTARY([1.0]), TypeError, r"x must be a torch\.Tensor; it is a list"),
        (lambda: ROTARY(X.long()), ValueError, "x must hold floating-point.*torch.int64"),
        (lambda: ROTARY(X[..., :3]), ValueError, r"at least the 4 features.*\(2, 3, 5, 3\)"),
        (lambda: ROTARY(X[0, 0, 0]), ValueError, r"axes .* its shape is \(4,\)"),
        (lambda: ROTARY(X, -1), ValueError, "positions must be at least 0; it is -1"),
        (lambda: ROTARY(X, 1.0), TypeError, "positions must be a whole number; it is 1.0"),
        (lambda: ROTARY(X, torch.zeros(5)), ValueError, "positions must hold integers.*float32"),
        (lambda: ROTARY(X, torch.zeros(5).bool()), ValueError, "hold integers.*torch.bool"),
        (lambda: ROTARY(X, torch.zeros(5) + 0j), ValueError, "hold integers.*torch.complex64"),
        (lambda: ROTARY(X, torch.arange(4)), ValueError, r"\(2, 3, 5, 4\); its shape is \(4,\)"),
        (lambda: ROTARY(X, torch.arange(1)), ValueError, r"its shape is \(1,\)"),
        (lambda: ROTARY(X, torch.zeros(3, 5).long()), ValueError, r"its shape is \(3, 5\)"),
        (lambda: ROTARY(X, torch.zeros(2, 1).long()), ValueError, r"its shape is \(2, 1\)"),
        (lambda: ROTARY(X, torch.zeros(2, 3, 5).long()), ValueError, r"shape is \(2, 3, 5\)"),
        (lambda: ROTARY(X[0, 0], torch.zeros(5, 5).long()), ValueError, r"shape is \(5, 5\)"),
        (lambda: ROTARY(X[0, 0], torch.zeros(1, 5).long()), ValueError, r"shape is \(1, 5\)"),
        (lambda: ROTARY(X, torch.arange(5, device="meta")), ValueError, "positions is on meta"),
        (lambda: rotate_half(X, X, X), ValueError, "a cosine and a sine for each pair"),
        (lambda: rotate_half(X, X[..., :2], X[..., :1]), ValueError, "a cosine and a sine"),
        (lambda: rotate_interleaved(X, X, X), ValueError, "a cosine and a sine for each pair"),
        (lambda: rotate_interleaved(X[..., :3], X[..., :1], X[..., :1]), ValueError, "cosine"),
        (lambda: interpolated([1.0], 2.0), TypeError, "frequencies must be"),
        (lambda: interpolated(ROW, 0.5), ValueError, "at least 1; is 0.5 its inverse"),
        (lambda: interpolated(ROW, 0), ValueError, "factor must be above 0"),
        (lambda: interpolated(ROW, "2"), TypeError, "factor must be a number; it is '2'"),
        (lambda: ntk_aware(2, 10.0, 2.0), ValueError, "d_rotary must be at least 4.*it is 2"),
        (lambda: ntk_aware(5, 10.0, 2.0), ValueError, "d_rotary must be even"),
        (lambda: ntk_aware("4", 10.0, 2.0), TypeError, "d_rotary must be a whole number"),
        (lambda: ntk_aware(4, 1.0, 2.0), ValueError, "base must be above 1 and finite; it is 1.0"),
        (lambda: ntk_aware(4, 10.0, 0.5), ValueError, "factor is new length"),
        (lambda: yarn(5, 10.0, 2.0, 64), ValueError, "d_rotary must be even"),
        (lambda: yarn(4, 0.5, 2.0, 64), ValueError, "base must be above 1"),
        (lambda: yarn(4, 10.0, 0.5, 64), ValueError, "factor is new length"),
        (lambda: yarn(4, 10.0, 2.0, 0), ValueError, "original_length must be at least 1"),
        (
            lambda: yarn(4, 10.0, 2.0, 64, 1.0, 32.0),
            ValueError,
            "beta_fast must be above 32.0.*1.0",
        ),
        (lambda: yarn(4, 10.0, 2.0, 64, 1.0, 1.0), ValueError, "beta_fast must be above"),
        (lambda: yarn(4, 10.0, 2.0, 64, 2.0, 0.0), ValueError, "beta_slow must be above 0"),
        (lambda: yarn_attention_factor(0.5), ValueError, "factor is new length"),
        (lambda: llama3_frequencies([1.0]), TypeError, "frequencies must be"),
        (lambda: llama3_frequencies(ROW, 0.5), ValueError, "factor is new length"),
        (lambda: llama3_frequencies(ROW, 8.0, 4.0, 1.0), ValueError, "high must be above 4.0.*1.0"),
        (lambda: llama3_frequencies(ROW, 8.0, 4.0, 4.0), ValueError, "high must be above 4.0"),
        (lambda: llama3_frequencies(ROW, 8.0, 0.0), ValueError, "low must be above 0"),
        (lambda: llama3_frequencies(ROW, original_length=0), ValueError, "original_length must"),
        (lambda: alibi_slopes(0), ValueError, "num_heads must be at least 1; it is 0"),
        (lambda: alibi_bias(0, 1, 1), ValueError, "num_heads must be at least 1"),
        (lambda: alibi_bias(2, 3, 2), ValueError, "key_len must be at least 3; it is 2"),
        (lambda: alibi_bias(2, -1, 2), ValueError, "query_len must be at least 0; it is -1"),
        (lambda: alibi_bias(2, -2, -1), ValueError, "query_len must be at least 0; it is -2"),
        (lambda: alibi_bias(2, 0, -1), ValueError, "key_len must be at least 0; it is -1"),
        (lambda: relative_position_bucket(3, bidirectional=True), TypeError, "distance .* a int"),
        (lambda: relative_position_bucket(ROW, bidirectional=True), ValueError, "float32"),
        (
            lambda: relative_position_bucket(ROW.long(), 7, bidirectional=True),
            ValueError,
            "num_buckets must be even",
        ),
        (
            lambda: relative_position_bucket(ROW.long(), 32, 8, bidirectional=True),
            ValueError,
            "max_distance must be at least 9",
        ),
        (lambda: RelativePositionBias(0, bidirectional=True), ValueError, "num_heads must be"),
        (lambda: RelativePositionBias(2, 7, bidirectional=True), ValueError, "even.* it is 7"),
        (lambda: RelativePositionBias(2, 3, bidirectional=True), ValueError, "at least 4; it is 3"),
        (lambda: RelativePositionBias(2, 1, bidirectional=False), ValueError, "at least 2"),
        (
            lambda: RelativePositionBias(2, 32, 8, bidirectional=True),
            ValueError,
            "max_distance must be at least 9; it is 8",
        ),
        (
            lambda: RelativePositionBias(2, 32, 16, bidirectional=False),
            ValueError,
            "max_distance must be at least 17; it is 16",
        ),
        (lambda: RelativePositionBias(2, bidirectional=True)(3, 2), ValueError, "key_len must be"),
    ],
)
def test_bad_input_is_answered_in_words(make, error, says):
    with pytest.raises(error, match=says):
        make()
