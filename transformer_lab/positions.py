"""Where a token stands: added to its embedding, turned into queries and keys, or added to the scores.

Learned absolute positions need nothing of this module: they are an `nn.Embedding` over 0, 1, 2, …
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from transformer_lab import checks

Device: TypeAlias = torch.device | str | None
Frequencies: TypeAlias = Float[Tensor, " pairs"]  # radians from one position to the next
Features: TypeAlias = Float[Tensor, "*batch seq d_rotary"]
OfPairs: TypeAlias = Float[Tensor, "*#batch #seq pairs"]  # a number for each pair of features
ScoreBias: TypeAlias = Float[Tensor, "1 heads {query_len} {key_len}"]
# Position of the key less that of the query, in tokens.
Distances: TypeAlias = Int[Tensor, "*shape"]
Rotation: TypeAlias = Callable[[Tensor, Tensor, Tensor], Tensor]


class Turns(NamedTuple):
    """Cosine and sine of each pair's angle at some positions, (*rows, seq, pairs) each."""

    cos: Tensor
    sin: Tensor


Positions: TypeAlias = Int[Tensor, "*rows seq"] | Turns | int


def sinusoidal_positions(
    num_positions: int, d_model: int, *, device: Device = None
) -> Float[Tensor, "{num_positions} {d_model}"]:
    """A fixed vector for each position: sines and cosines of ever slower waves.

    positions[p, 2i] = sin(p · 10000^(-2i/d_model)), positions[p, 2i + 1] = cos of the same angle.

    Args:
        num_positions: Number of positions, counted from 0.
        d_model: Width of the embeddings that the table is added to; even.
        device: Where the table is made.

    Raises: ValueError if num_positions is negative, or d_model is not a positive even number.
    Source: Vaswani et al. 2017, section 3.5.

    >>> sinusoidal_positions(2, 4)[1]
    tensor([0.8415, 0.5403, 0.0100, 0.9999])
    """
    checks.whole("num_positions", num_positions, 0)
    checks.even("d_model", d_model)
    positions = torch.arange(num_positions, device=device)
    angles = torch.outer(positions, rope_frequencies(d_model).to(positions.device))
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(-2)


def rotate_half(x: Features, cos: OfPairs, sin: OfPairs) -> Features:
    """Turns the plane of features i and i + d_rotary/2, for each i in the first half.

    (a, b) becomes (a cos - b sin, b cos + a sin).

    Args:
        x: The features to turn.
        cos: Cosine of each pair's angle.
        sin: Sine of each pair's angle.

    Raises: ValueError if there is not one cosine and one sine for each pair, or a device or dtype doesn't fit.
    Source: The layout of GPT-NeoX and Hugging Face's LLaMA. Differs: Su et al. 2021 pair neighbours.

    >>> rotate_half(torch.tensor([[1.0, 2.0, 3.0, 4.0]]), torch.zeros(1, 2), torch.ones(1, 2))
    tensor([[-3., -4.,  1.,  2.]])
    """
    checks.pairs(x, cos, sin)
    # The same for all of x at once: fewer passes over it.
    cos, sin = torch.cat([cos, cos], dim=-1), torch.cat([-sin, sin], dim=-1)
    plain = cos.requires_grad or sin.requires_grad or not torch.is_grad_enabled()
    turn: Rotation = _Turn.forward if plain else _Turn.apply
    return turn(x, cos, sin)


class _Turn(torch.autograd.Function):
    """The backward pass of a turn is the turn back: half the time of what autograd makes of its parts."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, dims=-1), sin)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[1:])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        return _Turn.apply(grad, cos, -sin), None, None  # type: ignore[no-untyped-call]


def rotate_interleaved(x: Features, cos: OfPairs, sin: OfPairs) -> Features:
    """Turns the plane of features 2i and 2i + 1, for each i; otherwise as `rotate_half`.

    Args:
        x: The features to turn.
        cos: Cosine of each pair's angle.
        sin: Sine of each pair's angle.

    Source: Su et al. 2021, equation 34; the layout of Meta's LLaMA code and of GLM.

    >>> rotate_interleaved(torch.tensor([[1.0, 2.0, 3.0, 4.0]]), torch.zeros(1, 2), torch.ones(1, 2))
    tensor([[-2.,  1., -4.,  3.]])
    """
    checks.pairs(x, cos, sin)
    a, b = x[..., 0::2], x[..., 1::2]
    return torch.stack([a * cos - b * sin, b * cos + a * sin], dim=-1).flatten(-2)


class RotaryEmbedding(nn.Module):
    """Turns queries and keys by angles that grow with their position (RoPE).

    Pair i of the features at position p turns by p · frequencies[i], so that query · key depends on how
    far the two are apart, not on where they stand. Features beyond the pairs are left as they are (partial
    rotary). It holds no parameters: one instance serves all layers.

    Args:
        frequencies: Radians from one position to the next, of each pair: `rope_frequencies`, `yarn`, …
        rotate: Which features form a pair: `rotate_half` or `rotate_interleaved`.
        attention_factor: Length of a turned vector over its length before; 1 but for YaRN.

    Raises: ValueError if frequencies is not a row of float32, or attention_factor is not positive.
    Source: Su et al. 2021, section 3.2.2. Differs: there all features are turned.

    >>> RotaryEmbedding(torch.tensor([math.pi / 2]))(torch.tensor([[1.0, 2.0]]), 1).round()
    tensor([[-2.,  1.]])
    """

    frequencies: Tensor

    def __init__(
        self, frequencies: Frequencies, rotate: Rotation = rotate_half, attention_factor: float = 1
    ) -> None:
        super().__init__()
        checks.frequencies(frequencies)
        checks.above("attention_factor", attention_factor)
        checks.kind("rotate", rotate, Callable, "a function such as rotate_half")
        self.rotate, self.attention_factor = rotate, attention_factor
        self.d_rotary = 2 * len(frequencies)
        self.register_buffer("frequencies", frequencies, persistent=False)

    def forward(
        self, x: Float[Tensor, "*batch seq d_head"], positions: Positions = 0
    ) -> Float[Tensor, "*batch seq d_head"]:
        """Queries or keys x, turned by the angles of their positions.

        positions is (seq,) where all rows have the same ones, (batch, seq) where each has its own: the batch
        is the first axis of x. A number is the first one's. What `turns` makes of them serves many calls.

        Raises: ValueError if shapes, dtypes or devices don't fit together.
        """
        checks.turnable("x", x, self.d_rotary)
        if isinstance(positions, Tensor):
            checks.positions(positions, x)
            if positions.dim() == 2:  # (batch, seq) → (batch, 1 for each axis between, seq)
                positions = positions[(slice(None),) + (None,) * (x.dim() - 3)]
        elif not isinstance(positions, Turns):
            checks.whole("positions", positions, 0)
            positions = torch.arange(positions, positions + x.shape[-2], device=x.device)
        turns = positions if isinstance(positions, Turns) else self.turns(positions)
        part = x if x.shape[-1] == self.d_rotary else x[..., : self.d_rotary]
        turned = self.rotate(part, turns.cos.to(x.dtype), turns.sin.to(x.dtype))
        return turned if part is x else torch.cat([turned, x[..., self.d_rotary :]], dim=-1)

    def turns(self, positions: Int[Tensor, "*rows seq"]) -> Turns:
        """What these positions turn by; rows are as many as the axes of x before seq, or of size 1."""
        checks.whole_tensor("positions", positions)
        # In float32 whatever x is: in half precision neither position 4,097 nor its angle exists.
        angles = positions[..., None] * self.frequencies.to(positions.device)
        return Turns(angles.cos() * self.attention_factor, angles.sin() * self.attention_factor)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "RotaryEmbedding":
        # What `.half()`, `.to(...)` and `.to_empty(...)` go through. The frequencies follow to the new
        # device, but keep their numbers and their precision: rounded ones are other frequencies.
        frequencies = self.frequencies
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.frequencies = frequencies.to(self.frequencies.device)
        return self


def rope_frequencies(d_rotary: int, base: float = 10_000.0) -> Frequencies:
    """The frequencies of rotary positions: pair i turns by base^(-2i/d_rotary) radians a position.

    Args:
        d_rotary: Number of features that are turned, two a pair; even.
        base: How much slower the last pair turns than the first, nearly; above 1 (500,000 in Llama 3).

    Returns: Float32 on the CPU, even under `torch.device("meta")`: no checkpoint brings them later.
    Raises: ValueError if d_rotary is not a positive even number, or base is not above 1.
    Source: Su et al. 2021, section 3.2.2; the larger base: Xiong et al. 2023, section 2.1.

    >>> rope_frequencies(4)
    tensor([1.0000, 0.0100])
    """
    checks.even("d_rotary", d_rotary)
    checks.above("base", base, 1)
    exponents = torch.arange(0, d_rotary, 2, dtype=torch.float32, device="cpu") / d_rotary
    # Division last, as in the code that LLaMA was trained with: the same bits, not only the same formula.
    return 1.0 / base**exponents


def interpolated(frequencies: Frequencies, factor: float) -> Frequencies:
    """Position interpolation: everything turns factor times slower, as if positions stood closer.

    frequencies / factor; position p then has the angles that p / factor had before.

    Args:
        frequencies: The model's own frequencies, radians per position.
        factor: New context length over the one of training, at least 1.

    Raises: ValueError if frequencies is not a row of float32, or factor is below 1.
    Source: Chen et al. 2023, section 2.3.

    >>> interpolated(rope_frequencies(4), 2.0)
    tensor([0.5000, 0.0050])
    """
    checks.frequencies(frequencies)
    checks.stretch("factor", factor)
    return frequencies / factor


def ntk_aware(d_rotary: int, base: float, factor: float) -> Frequencies:
    """A larger base, so chosen that the slowest pair is interpolated in full and the fastest not at all.

    rope_frequencies with base · factor^(d_rotary / (d_rotary - 2)).

    Args:
        d_rotary: Number of features that are turned; even, at least 4, as one pair can't be both ends.
        base: The base of training.
        factor: New context length over the one of training, at least 1.

    Raises: ValueError if d_rotary is no even number from 4 on, base is not above 1, or factor is below 1.
    Source: Peng et al. 2023, section 3.1.

    >>> ntk_aware(4, 10_000.0, 2.0)
    tensor([1.0000, 0.0050])
    """
    checks.whole("d_rotary", d_rotary, 4)
    checks.above("base", base, 1)
    checks.stretch("factor", factor)
    return rope_frequencies(d_rotary, base * factor ** (d_rotary / (d_rotary - 2)))


def yarn(
    d_rotary: int,
    base: float,
    factor: float,
    original_length: int,
    beta_fast: float = 32.0,
    beta_slow: float = 1.0,
) -> Frequencies:
    """Pairs that turn often within the context are kept, those that turn less than once are interpolated.

    frequencies · ((1 - ramp) + ramp / factor): ramp is 0 up to the pair that makes beta_fast turns over
    original_length, 1 from the pair that makes beta_slow turns, and a straight line between.

    Args:
        d_rotary: Number of features that are turned; even.
        base: The base of training.
        factor: New context length over the one of training, at least 1.
        original_length: Context length of training, in tokens.
        beta_fast: Turns over the original length from which on a pair is kept.
        beta_slow: Turns over the original length below which a pair is interpolated in full.

    Raises: ValueError if a size is odd or not positive, factor is below 1, or beta_fast not above beta_slow.
    Source: Peng et al. 2023, sections 3.2 and 3.4; its other half is `yarn_attention_factor`. Differs: the
        ramp is linear in the pair's number, between whole ones, as in the authors' code; in the text in turns.

    >>> yarn(8, 10_000.0, 4.0, 1024) / rope_frequencies(8)
    tensor([1.0000, 0.7500, 0.5000, 0.2500])
    """
    frequencies = rope_frequencies(d_rotary, base)
    checks.stretch("factor", factor)
    checks.whole("original_length", original_length)
    checks.above("beta_slow", beta_slow)
    checks.above("beta_fast", beta_fast, beta_slow)

    def pair_with(turns: float) -> float:  # the pair, with fractions, that makes so many turns
        return d_rotary * math.log(original_length / (turns * math.tau)) / (2 * math.log(base))

    kept = max(math.floor(pair_with(beta_fast)), 0)
    full = min(math.ceil(pair_with(beta_slow)), d_rotary - 1)
    pairs = torch.arange(len(frequencies), dtype=torch.float32, device="cpu")
    # The authors' 0.001 makes a step where both ends fall on one number. It stands in for a negative width
    # too, which would turn the ramp around: all pairs make more turns than beta_fast, or all too few.
    ramp = ((pairs - kept) / max(full - kept, 0.001)).clamp(0, 1)
    return frequencies * (1 - ramp) + frequencies / factor * ramp


def yarn_attention_factor(factor: float) -> float:
    """How much longer YaRN makes queries and keys, so that attention over more keys stays as sharp.

    0.1 · ln(factor) + 1. The scores grow by its square. Given to `RotaryEmbedding` as attention_factor.

    Args:
        factor: New context length over the one of training, at least 1.

    Raises: ValueError if factor is below 1.
    Source: Peng et al. 2023, section 3.4.

    >>> round(yarn_attention_factor(8.0), 4)
    1.2079
    """
    checks.stretch("factor", factor)
    return 0.1 * math.log(factor) + 1.0


def llama3_frequencies(
    frequencies: Frequencies,
    factor: float = 8.0,
    low: float = 1.0,
    high: float = 4.0,
    original_length: int = 8192,
) -> Frequencies:
    """Llama 3.1's longer context: fast pairs are kept, slow ones interpolated, those between mixed.

    frequencies · (kept + (1 - kept) / factor) with kept = (turns - low) / (high - low), held between 0 and
    1, where turns = original_length · frequency / 2π is how often a pair turns over the original length.

    Args:
        frequencies: The model's own frequencies, radians per position.
        factor: New context length over the one of training, at least 1 (8 in Llama 3.1, 32 in 3.2).
        low: Turns up to which a pair is interpolated in full.
        high: Turns from which on a pair is kept.
        original_length: Context length of training, in tokens.

    Raises: ValueError if a number is not positive, factor is below 1, or high is not above low.
    Source: Meta's code of Llama 3.1 (llama-models, `apply_scaling`); no paper states it.

    >>> llama3_frequencies(torch.tensor([1.0, 0.002, 0.0001])) / torch.tensor([1.0, 0.002, 0.0001])
    tensor([1.0000, 0.5939, 0.1250])
    """
    checks.frequencies(frequencies)
    checks.stretch("factor", factor)
    checks.whole("original_length", original_length)
    checks.above("low", low)
    checks.above("high", high, low)
    turns = original_length * frequencies / math.tau
    kept = ((turns - low) / (high - low)).clamp(0, 1)
    return (1 - kept) * frequencies / factor + kept * frequencies


def alibi_slopes(num_heads: int, *, device: Device = None) -> Float[Tensor, " {num_heads}"]:
    """How fast each head's scores fall with distance: from steep to nearly flat.

    Head h of n has 2^(-8h/n), h = 1 … n, when n is a power of two. Otherwise the largest power of two
    below n gives its slopes, and the rest are every second one of twice as many heads.

    Args:
        num_heads: Number of heads.
        device: Where the slopes are made.

    Raises: ValueError if num_heads is below 1.
    Source: Press et al. 2022, section 3; for other numbers the authors' code.

    >>> alibi_slopes(3)
    tensor([0.0625, 0.0039, 0.2500])
    """
    checks.whole("num_heads", num_heads)
    whole = 2 ** (num_heads.bit_length() - 1)
    steps = [8 * head / whole for head in range(1, whole + 1)]
    steps += [4 * head / whole for head in range(1, 2 * (num_heads - whole), 2)]
    return 2.0 ** -torch.tensor(steps, dtype=torch.float32, device=device)


def alibi_bias(num_heads: int, query_len: int, key_len: int, *, device: Device = None) -> ScoreBias:
    """A penalty on the scores that grows with the distance: attention's `score_bias`, in float32.

    bias[0, h, i, j] = -slopes[h] · |i + key_len - query_len - j|. With fewer queries than keys, as when
    earlier keys come from a cache, the queries are the last positions.

    Args:
        num_heads: Number of heads.
        query_len: Number of queries.
        key_len: Number of keys, at least query_len.
        device: Where the bias is made.

    Raises: ValueError if num_heads is below 1, a length is negative, or there are fewer keys than queries.
    Source: Press et al. 2022, section 3. Differs: keys behind the query count too, by their distance; a
        causal mask hides them, as the paper does.

    >>> alibi_bias(1, 1, 3)
    tensor([[[[-0.0078, -0.0039,  0.0000]]]])
    """
    slopes = alibi_slopes(num_heads, device=device)
    distance = _distances(query_len, key_len, device)
    return (slopes[:, None, None] * -distance.abs())[None]


def relative_position_bucket(
    distance: Distances, num_buckets: int = 32, max_distance: int = 128, *, bidirectional: bool
) -> Distances:
    """Sorts distances into buckets: the near ones each have their own, far ones share, ever more of them.

    Of n buckets the first n/2 hold one distance each; from there to max_distance a distance d goes to
    n/2 + ⌊n/2 · ln(d / (n/2)) / ln(max_distance / (n/2))⌋, and all beyond to the last.

    Args:
        distance: Position of the key less that of the query, in tokens.
        num_buckets: Number of buckets.
        max_distance: Distance from which on all share the last bucket, in tokens.
        bidirectional: Whether keys behind the query have a half of the buckets to themselves (an
            encoder), or all share the bucket of distance 0 (a decoder, whose mask hides them).

    Raises: ValueError if distance doesn't hold integers, there are too few buckets, an odd number of them
        for two directions, or max_distance is not beyond the buckets of single distances.
    Source: Raffel et al. 2020, section 2.1; the formula is that of the authors' code.

    >>> relative_position_bucket(torch.tensor([-128, -20, -3, 0, 3]), bidirectional=True)
    tensor([15, 10,  3,  0, 19])
    """
    checks.buckets(num_buckets, max_distance, bidirectional)
    checks.whole_tensor("distance", distance)
    first: Tensor | int = 0
    if bidirectional:
        num_buckets //= 2
        first, distance = (distance > 0) * num_buckets, distance.abs()
    else:
        distance = (-distance).clamp(min=0)
    single = num_buckets // 2
    # The clamp keeps log(0) away from distances that have a bucket of their own anyway.
    times = distance.clamp(min=single).float() / single
    share = torch.log(times) / math.log(max_distance / single)
    far = single + (share * (num_buckets - single)).to(distance.dtype)
    return first + torch.where(distance < single, distance, far.clamp(max=num_buckets - 1))


class RelativePositionBias(nn.Module):
    """A learned number for each head and bucket of distances, added to the scores (T5).

    bias[0, h, i, j] = table[bucket(j - (i + key_len - query_len)), h]. All layers of a stack share one.

    Args:
        num_heads: Number of heads.
        num_buckets, max_distance, bidirectional: As for `relative_position_bucket`.

    Raises: ValueError if num_heads is below 1, or the buckets don't fit; see `relative_position_bucket`.
    Source: Raffel et al. 2020, section 2.1.

    >>> RelativePositionBias(num_heads=8, bidirectional=True)(2, 3).shape
    torch.Size([1, 8, 2, 3])
    """

    def __init__(
        self, num_heads: int, num_buckets: int = 32, max_distance: int = 128, *, bidirectional: bool
    ) -> None:
        super().__init__()
        checks.whole("num_heads", num_heads)
        checks.buckets(num_buckets, max_distance, bidirectional)
        self.table = nn.Embedding(num_buckets, num_heads)
        self.num_buckets, self.max_distance = num_buckets, max_distance
        self.bidirectional = bidirectional

    def forward(self, query_len: int, key_len: int) -> ScoreBias:
        """The bias for so many queries and keys; lengths and errors as for `alibi_bias`."""
        distance = _distances(query_len, key_len, self.table.weight.device)
        sizes = self.num_buckets, self.max_distance
        buckets = relative_position_bucket(distance, *sizes, bidirectional=self.bidirectional)
        return self.table(buckets).permute(2, 0, 1)[None]  # (query, key, heads) → (1, heads, …)


def _distances(query_len: int, key_len: int, device: Device) -> Tensor:
    """Position of each key less that of each query, the queries being the last positions."""
    checks.whole("query_len", query_len, 0)
    checks.whole("key_len", key_len, query_len)
    keys = torch.arange(key_len, device=device)
    return keys - keys[key_len - query_len :, None]
