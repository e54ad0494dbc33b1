"""Exercises of lesson 13: GELU, SwiGLU, the parameters of a block, a mixture of experts."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

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

LESSON = "13_feed_forward"

_HALF, _DOUBLE = torch.float16, torch.float64

# ---------------------------------------------------------------------------- gelu


def _gelu_in_double(x: Tensor) -> Tensor:
    wide = x.double()
    return (wide * torch.special.erfc(-wide / 2**0.5) / 2).to(x.dtype)


def _below(x: Tensor) -> Tensor:
    """Φ: the probability that a standard normal number is below x."""
    return (1 + torch.erf(x / 2**0.5)) / 2


def _density(x: Tensor) -> Tensor:
    return torch.exp(-x.square() / 2) / math.sqrt(2 * math.pi)


def _gelu_by_tanh(x: Tensor, a: float = 0.044715) -> Tensor:
    return x / 2 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + a * x**3)))


def _gelu_in_place(x: Tensor) -> Tensor:
    x *= _below(x)
    return x


def _gelu_in_place_and_new(x: Tensor) -> Tensor:
    below = _below(x)
    x /= 2**0.5
    return x * 2**0.5 * below


def _gelu_by_loop(x: Tensor) -> Tensor:
    found = [v * (1 + math.erf(v / math.sqrt(2))) / 2 for v in x.flatten().tolist()]
    return torch.tensor(found, dtype=x.dtype).reshape(x.shape)


def _gelu_math_erf(x: Tensor) -> Tensor:
    found: Tensor = x * (1 + math.erf(x / math.sqrt(2))) / 2
    return found


def _gelu_sqrt_of_number(x: Tensor) -> Tensor:
    return x * (1 + torch.erf(x / torch.sqrt(2))) / 2  # type: ignore[arg-type]


def _gelu_by_chance(x: Tensor) -> Tensor:
    return torch.where(torch.randn_like(x) <= x, x, torch.zeros_like(x))


def _gelu_by_normal(x: Tensor) -> Tensor:
    found: Tensor = x * torch.distributions.Normal(0.0, 1.0).cdf(x)
    return found


def _gelu_float32(x: Tensor) -> Tensor:
    return (x.float() * _below(x.float())).to(x.dtype)


_BRACKETS = "Mind the brackets: x times ½ times (1 + erf(x / √2))."

gelu = Exercise(
    name="gelu",
    lesson=LESSON,
    signature="gelu(x)",
    reference=_gelu_in_double,
    built_ins=(F.gelu,),
    probes=(
        Probe(
            "the example: 1, 0 and -1",
            (torch.tensor([1.0, 0.0, -1.0]),),
            explain="Below 1 lie 84.13 % of a normal distribution, below -1 the other 15.87 %: 0.8413, 0 and -0.1587.",
        ),
        Probe(
            "from -3 to 3",
            (torch.tensor([-3.0, -2.2, -0.75, -0.1, 0.1, 0.75, 2.2, 3.0]),),
            explain="GELU(z) + GELU(-z) isn't 0, but GELU(z) - GELU(-z) is z.",
        ),
        Probe("a table of three tokens and five features", (numbers(3, 5, seed=1),)),
        Probe("three axes", (numbers(2, 3, 4, seed=2),)),
        Probe("a single number, without any axis", (torch.tensor(0.5),)),
        Probe(
            "1,000 and -1,000",
            (torch.tensor([1000.0, -1000.0]),),
            explain="Far out the gate is open, or shut: 1000 and 0.",
        ),
        Probe(
            "numbers in float64",
            (numbers(3, 5, seed=3, dtype=_DOUBLE),),
            explain="It should keep the precision of float64: is √2 rounded, or something converted?",
        ),
        Probe(
            "numbers in half precision",
            (numbers(3, 5, seed=4, dtype=_HALF),),
            explain="The result should have the dtype of x.",
        ),
        Probe("a transposed, non-contiguous table", (numbers(5, 3, seed=5).T,)),
        gradient(numbers(3, 5, seed=6)),
        twice(numbers(3, 5, seed=1)),
        other_device(numbers(3, 5, seed=1)),
    ),
    wrong_answers=(
        Wrong(
            "tanh form",
            _gelu_by_tanh,
            "Your numbers are those of the tanh form (GPT-2's). It is near, up to 5e-4, but not the same: the exact "
            "form, BERT's, has erf: ½ · (1 + erf(x / √2)).",
        ),
        Wrong(
            "tanh form without the cube",
            lambda x: _gelu_by_tanh(x, 0.0),
            "Your numbers are those of a tanh without the term x³. The exact form has erf: ½ · (1 + erf(x / √2)).",
        ),
        Wrong(
            "sigmoid form",
            lambda x: x * torch.sigmoid(1.702 * x),
            "Your gate is sigmoid(1.702 x), a rough approximation, off by up to 0.02. The exact one has erf.",
        ),
        Wrong(
            "SiLU",
            F.silu,
            "Your numbers are those of SiLU: the gate is the sigmoid. GELU's gate is Φ, the normal distribution: "
            "½ · (1 + erf(x / √2)).",
        ),
        Wrong(
            "ReLU",
            F.relu,
            "Your numbers are those of ReLU. GELU's gate opens by degrees: x · Φ(x).",
        ),
        Wrong(
            "gate alone",
            _below,
            "You return Φ(x), the gate. Multiply x by it.",
        ),
        Wrong(
            "half forgotten",
            lambda x: x * (1 + torch.erf(x / 2**0.5)),
            "Your numbers are twice too large: 1 + erf runs from 0 to 2, so the ½ is missing.",
        ),
        Wrong(
            "root of 2 forgotten",
            lambda x: x * (1 + torch.erf(x)) / 2,
            "You take erf(x). A normal number's distribution is ½ · (1 + erf(x / √2)): divide by √2 first.",
        ),
        Wrong(
            "times root of 2",
            lambda x: x * (1 + torch.erf(x * 2**0.5)) / 2,
            "You multiply by √2 inside erf. Divide: erf(x / √2).",
        ),
        Wrong(
            "divided by 2 inside",
            lambda x: x * (1 + torch.erf(x / 2)) / 2,
            "You divide by 2 inside erf. It is the root of 2: erf(x / √2).",
        ),
        Wrong(
            "root outside",
            lambda x: x * (1 + torch.erf(x) / 2**0.5) / 2,
            "You divide the result of erf by √2. Divide what goes in: erf(x / √2).",
        ),
        Wrong(
            "root rounded to 1.41",
            lambda x: x * (1 + torch.erf(x / 1.41)) / 2,
            "Your √2 is rounded to 1.41. Take math.sqrt(2), or 2**0.5.",
        ),
        Wrong(
            "root in float32",
            lambda x: x * (1 + torch.erf(x / torch.tensor(2.0).sqrt())) / 2,
            "Right in float32, but torch.tensor(2.0) is float32 whatever x is, and so is its root: float64 loses "
            "half of its digits. A Python number has none of this: math.sqrt(2), or 2**0.5.",
        ),
        Wrong(
            "root rounded",
            lambda x: x * (1 + torch.erf(x / 1.414)) / 2,
            "Your √2 is rounded to 1.414. Take math.sqrt(2), or 2**0.5.",
        ),
        Wrong(
            "root rounded to 1.4142",
            lambda x: x * (1 + torch.erf(x / 1.4142)) / 2,
            "Your √2 is rounded to 1.4142, which float64 shows. Take math.sqrt(2), or 2**0.5.",
        ),
        Wrong(
            "without the 1",
            lambda x: x * torch.erf(x / 2**0.5) / 2,
            "Your gate runs from -½ to ½: the 1 is missing. Φ(x) = ½ · (1 + erf(x / √2)).",
        ),
        Wrong(
            "erf as the gate",
            lambda x: x * torch.erf(x / 2**0.5),
            "Your gate is erf itself, from -1 to 1. Φ runs from 0 to 1: ½ · (1 + erf(x / √2)).",
        ),
        Wrong(
            "the other tail",
            lambda x: x * (1 - torch.erf(x / 2**0.5)) / 2,
            "Your gate is the probability to lie *above* x: it shuts for large x. Take 1 + erf, not 1 - erf (erfc).",
        ),
        Wrong(
            "density",
            lambda x: x * _density(x),
            "You multiply by the density of the normal distribution. The gate is the area to the left, Φ.",
        ),
        Wrong(
            "derivative",
            lambda x: _below(x) + x * _density(x),
            "Your numbers are those of GELU's derivative, Φ(x) + x · φ(x). Asked for is x · Φ(x).",
        ),
        Wrong(
            "brackets around 1 + erf lost",
            lambda x: 0.5 * x * 1 + torch.erf(x / 2**0.5),
            f"Your erf isn't multiplied by x: you have ½ · x + erf(…). {_BRACKETS}",
        ),
        Wrong(
            "x added to erf",
            lambda x: 0.5 * (x + torch.erf(x / 2**0.5)),
            f"You have ½ · (x + erf(…)). {_BRACKETS}",
        ),
        Wrong(
            "half of 1 only",
            lambda x: x * (0.5 * 1 + torch.erf(x / 2**0.5)),
            f"Your ½ belongs to the 1 alone, not to erf. {_BRACKETS}",
        ),
        Wrong(
            "a gate by chance",
            _gelu_by_chance,
            "You draw random numbers. GELU is the expectation of such a gate: x · Φ(x), without any draw.",
        ),
        Wrong(
            "math.erf",
            _gelu_math_erf,
            "math.erf takes one number; x holds many. Take torch.erf.",
        ),
        Wrong(
            "torch.sqrt(2)",
            _gelu_sqrt_of_number,
            "torch.sqrt takes a tensor; for a number take math.sqrt(2), or 2**0.5.",
        ),
        Wrong(
            "a loop",
            _gelu_by_loop,
            "Your numbers are right, but the gradient is cut off: .tolist() and torch.tensor(...) leave the graph. "
            "torch.erf takes the whole tensor.",
        ),
        Wrong(
            "float32 throughout",
            _gelu_float32,
            "Your numbers go through float32: float64 loses its digits. Leave out .float().",
        ),
        Wrong(
            "in place",
            _gelu_in_place,
            "Your numbers are right, but `x *= ...` writes into the caller's tensor, of which a gradient needs the old "
            "values. Write x * ....",
        ),
        Wrong(
            "input scaled in place",
            _gelu_in_place_and_new,
            "Your numbers are right, but `x /= ...` changes the caller's tensor. Write x / ... into a new name.",
        ),
    ),
    correct_alternatives=(
        lambda x: x * _below(x),
        lambda x: 0.5 * x * (1 + torch.erf(x * 0.5**0.5)),
        lambda x: x * torch.special.ndtr(x),
        lambda x: x * torch.special.erfc(-x / math.sqrt(2)) / 2,
        lambda x: 0.5 * x + 0.5 * x * torch.erf(x / math.sqrt(2)),
    ),
    hints=(
        "The result is x times a gate. Which function of x runs from 0 to 1 and is ½ at 0?",
        "torch.erf runs from -1 to 1. Add 1 and halve; and what goes into it is divided by √2.",
        "x * (1 + torch.erf(x / math.sqrt(2))) / 2",
    ),
)

# ---------------------------------------------------------------------------- swiglu


def _swiglu_by_loops(x: Tensor, W_gate: Tensor, W_up: Tensor, W_down: Tensor) -> Tensor:
    """In float64, unit by unit: row i of gate and up, column i of down."""
    wide = x.double()
    out = torch.zeros_like(wide)
    for i in range(len(W_gate)):
        z = (wide * W_gate[i].double()).sum(dim=-1, keepdim=True)
        up = (wide * W_up[i].double()).sum(dim=-1, keepdim=True)
        out = out + z * (1 + torch.tanh(z / 2)) / 2 * up * W_down[:, i].double()
    return out.to(x.dtype)


def _gated(
    bend: Callable[[Tensor], Tensor] = F.silu,
    join: Callable[[Tensor, Tensor], Tensor] = torch.mul,
) -> Answer:
    """The network with another bend, or another way to join gate and up."""
    return lambda x, W_gate, W_up, W_down: join(bend(x @ W_gate.T), x @ W_up.T) @ W_down.T


_right = _gated()


def _swiglu_in_place(x: Tensor, W_gate: Tensor, W_up: Tensor, W_down: Tensor) -> Tensor:
    out: Tensor = _right(x, W_gate, W_up, W_down)
    x.copy_(out)
    return x


def _swiglu_by_split(x: Tensor, W_gate: Tensor, W_up: Tensor, W_down: Tensor) -> Tensor:
    gate, up = (x @ torch.cat([W_gate, W_up]).T).chunk(2, dim=-1)
    return F.linear(gate * torch.sigmoid(gate) * up, W_down)


def _swiglu_by_glu(x: Tensor, W_gate: Tensor, W_up: Tensor, W_down: Tensor) -> Tensor:
    both = torch.cat([x @ W_gate.T, x @ W_up.T], dim=-1)
    return F.glu(both, dim=-1) @ W_down.T


def _network(*lead: int, d: int, f: int, seed: int, dtype: torch.dtype = torch.float32) -> Any:
    return (
        numbers(*lead, d, seed=seed, dtype=dtype),
        numbers(f, d, seed=seed + 1, dtype=dtype),
        numbers(f, d, seed=seed + 2, dtype=dtype),
        numbers(d, f, seed=seed + 3, dtype=dtype),
    )


_EXAMPLE = (
    torch.tensor([2.0, 3.0]),
    torch.tensor([[0.0, 0.0], [50.0, 0.0]]),
    torch.tensor([[1.0, 1.0], [0.0, 1.0]]),
    torch.tensor([[1.0, 1.0], [1.0, 0.0]]),
)
_OUT_IN = "The weights are (out, in), as in nn.Linear: x @ W.T, or F.linear(x, W)."

swiglu = Exercise(
    name="swiglu",
    lesson=LESSON,
    signature="swiglu(x, W_gate, W_up, W_down)",
    reference=_swiglu_by_loops,
    probes=(
        Probe(
            "the example: one token (2, 3), two units",
            _EXAMPLE,
            explain="The gate is (0, 100) before and after silu, up is (5, 3), the product (0, 300).",
        ),
        Probe(
            "two tokens, d_model 3, d_ff 4",
            _network(2, d=3, f=4, seed=11),
            explain=f"Is silu taken once, of the gate alone? {_OUT_IN}",
        ),
        Probe(
            "three tokens, d_model 3, d_ff 3",
            _network(3, d=3, f=3, seed=15),
            explain=f"In squares a lost transpose goes unnoticed. {_OUT_IN}",
        ),
        Probe("2 texts of 3 tokens, d_model 4, d_ff 5", _network(2, 3, d=4, f=5, seed=19)),
        Probe("d_ff smaller than d_model", _network(2, d=5, f=2, seed=23)),
        Probe(
            "a gate of 200 and one of -200",
            (
                torch.tensor([[1.0], [-1.0]]),
                torch.tensor([[200.0]]),
                torch.tensor([[0.5]]),
                torch.tensor([[2.0]]),
            ),
            explain="exp(200) is infinity in float32. The right values are 200 and 0.",
        ),
        Probe("numbers in float64", _network(2, d=3, f=4, seed=27, dtype=_DOUBLE)),
        gradient(*_network(2, d=3, f=4, seed=31)),
        twice(*_network(2, d=3, f=4, seed=11)),
        other_device(*_network(2, d=3, f=4, seed=11)),
    ),
    wrong_answers=(
        Wrong(
            "gate and up exchanged",
            lambda x, W_gate, W_up, W_down: _right(x, W_up, W_gate, W_down),
            "You bend up and leave the gate as it is: the two are exchanged. A net trained so works, but no file of "
            "weights fits it. silu(x @ W_gate.T) * (x @ W_up.T).",
        ),
        Wrong(
            "gate twice",
            lambda x, W_gate, W_up, W_down: _right(x, W_gate, W_gate, W_down),
            "You multiply silu of the gate by the gate: W_up is never used.",
        ),
        Wrong(
            "up twice",
            lambda x, W_gate, W_up, W_down: _right(x, W_up, W_up, W_down),
            "You multiply silu of up by up: W_gate is never used.",
        ),
        Wrong(
            "sigmoid gate",
            _gated(torch.sigmoid),
            "Your gate is sigmoid(z): that is GLU. SwiGLU's is silu(z) = z · sigmoid(z).",
        ),
        Wrong(
            "F.glu",
            _swiglu_by_glu,
            "F.glu takes the sigmoid of the *second* half as the gate: that is GLU, and with gate and up exchanged. "
            "SwiGLU is silu(gate) * up.",
        ),
        Wrong(
            "minus sign lost",
            _gated(lambda z: z / (1 + z.exp())),
            "Your silu has lost its minus sign: z / (1 + exp(-z)), or z * sigmoid(z).",
        ),
        Wrong(
            "GELU gate",
            _gated(F.gelu),
            "Your gate goes through GELU: that is GEGLU. SwiGLU takes silu.",
        ),
        Wrong(
            "GELU gate, tanh form",
            _gated(lambda z: F.gelu(z, approximate="tanh")),
            "Your gate goes through GELU's tanh form: that is GEGLU as in T5 1.1. SwiGLU takes silu.",
        ),
        Wrong(
            "ReLU gate",
            _gated(F.relu),
            "Your gate goes through ReLU: that is ReGLU. SwiGLU takes silu.",
        ),
        Wrong(
            "no bend",
            _gated(lambda z: z),
            "Your gate isn't bent: a bilinear network. Put silu around x @ W_gate.T.",
        ),
        Wrong(
            "both bent",
            lambda x, W_gate, W_up, W_down: (F.silu(x @ W_gate.T) * F.silu(x @ W_up.T)) @ W_down.T,
            "You bend both projections. Only the gate goes through silu.",
        ),
        Wrong(
            "product bent",
            lambda x, W_gate, W_up, W_down: F.silu((x @ W_gate.T) * (x @ W_up.T)) @ W_down.T,
            "You bend the product of gate and up. Bend the gate, then multiply.",
        ),
        Wrong(
            "x bent",
            lambda x, W_gate, W_up, W_down: ((F.silu(x) @ W_gate.T) * (x @ W_up.T)) @ W_down.T,
            "You bend x before it is projected. Project first: silu(x @ W_gate.T).",
        ),
        Wrong(
            "result bent",
            lambda x, W_gate, W_up, W_down: F.silu(((x @ W_gate.T) * (x @ W_up.T)) @ W_down.T),
            "You bend at the very end. The bend belongs to the gate: silu(x @ W_gate.T).",
        ),
        Wrong(
            "sum",
            _gated(join=torch.add),
            "You add gate and up. The gate decides how much passes: multiply, number by number.",
        ),
        Wrong(
            "softmax gate",
            _gated(lambda z: z.softmax(dim=-1)),
            "Your gate is a softmax over the units, so that they compete. Each has a gate of its own: silu.",
        ),
        Wrong(
            "no gate",
            lambda x, W_gate, W_up, W_down: F.silu(x @ W_up.T) @ W_down.T,
            "Your network has no gate: silu of up, then down. Multiply up by silu(x @ W_gate.T).",
        ),
        Wrong(
            "no up",
            lambda x, W_gate, W_up, W_down: F.silu(x @ W_gate.T) @ W_down.T,
            "W_up is missing: the gate's silu is multiplied by x @ W_up.T before it goes down.",
        ),
        Wrong(
            "gate and up multiplied as matrices",
            _gated(join=torch.matmul),
            "You multiply gate and up as matrices (@). The gate acts on each unit by itself: *.",
        ),
        Wrong(
            "no brackets around up",
            lambda x, W_gate, W_up, W_down: F.silu(x @ W_gate.T) * x @ W_up.T @ W_down.T,
            "silu(...) * x @ W_up.T is (silu(...) * x) @ W_up.T for Python: * and @ have equal rank and go from left "
            "to right. Put brackets around x @ W_up.T.",
        ),
        Wrong(
            "no brackets around the product",
            lambda x, W_gate, W_up, W_down: F.silu(x @ W_gate.T) * (x @ W_up.T @ W_down.T),
            "You bring up down before it is multiplied. Brackets around the product: (silu(...) * (...)) @ W_down.T.",
        ),
        Wrong(
            "not brought down",
            lambda x, W_gate, W_up, W_down: F.silu(x @ W_gate.T) * (x @ W_up.T),
            "You return the product, of width d_ff. Bring it back to d_model: ... @ W_down.T.",
        ),
        Wrong(
            "residual added",
            lambda x, W_gate, W_up, W_down: x + _right(x, W_gate, W_up, W_down),
            "You add x. The residual connection belongs to the block around the network.",
        ),
        Wrong(
            "exp overflows",
            _gated(lambda z: z * z.exp() / (1 + z.exp())),
            "Your silu is right for small numbers, but exp(z) overflows for large ones, and infinity by infinity is "
            "NaN. Use F.silu, or z * torch.sigmoid(z).",
        ),
        Wrong(
            "nothing transposed",
            lambda x, W_gate, W_up, W_down: (F.silu(x @ W_gate) * (x @ W_up)) @ W_down,
            "The weights are (out, in): with x on the left multiply by the transpose, x @ W_gate.T and so on, or use "
            "F.linear(x, W_gate).",
        ),
        Wrong(
            "down not transposed",
            lambda x, W_gate, W_up, W_down: (F.silu(x @ W_gate.T) * (x @ W_up.T)) @ W_down,
            "W_down is (d_model, d_ff), (out, in), as the others: multiply by its transpose, ... @ W_down.T.",
        ),
        Wrong(
            "weights on the left",
            lambda x, W_gate, W_up, W_down: W_down @ (F.silu(W_gate @ x) * (W_up @ x)),
            "W @ x is right for a single vector; x has tokens in front of its features. Write x @ W.T, which works "
            "with any axes in front.",
        ),
        Wrong(
            "in place",
            _swiglu_in_place,
            "Your numbers are right, but you write them into the caller's x. Return a new tensor.",
        ),
    ),
    correct_alternatives=(
        _right,
        _swiglu_by_split,
        _gated(lambda z: z / (1 + torch.exp(-z))),
        lambda x, W_gate, W_up, W_down: F.linear(
            F.silu(F.linear(x, W_gate)) * F.linear(x, W_up), W_down
        ),
        lambda x, W_gate, W_up, W_down: torch.einsum(
            "...f,df->...d",
            F.silu(torch.einsum("...d,fd->...f", x, W_gate))
            * torch.einsum("...d,fd->...f", x, W_up),
            W_down,
        ),
    ),
    hints=(
        "Two projections go from d_model to d_ff. Only one of them is bent. Which?",
        "gate = x @ W_gate.T and up = x @ W_up.T. F.silu(gate) is multiplied by up, number by number.",
        "(F.silu(x @ W_gate.T) * (x @ W_up.T)) @ W_down.T",
    ),
)

# ---------------------------------------------------------------------------- block_parameters


def _block_by_building(
    d_model: int,
    d_ff: int,
    num_heads: int,
    num_kv_heads: int | None = None,
    *,
    gated: bool = False,
    bias: bool = True,
) -> int:
    """Makes the weights on the meta device, from torch's own modules, and counts their numbers."""
    d_head = d_model // num_heads
    queries = num_heads * d_head
    keys = queries if num_kv_heads is None else num_kv_heads * d_head
    with torch.device("meta"):
        parts: list[nn.Module] = [
            nn.Linear(d_model, queries, bias=bias),
            nn.Linear(d_model, keys, bias=bias),
            nn.Linear(d_model, keys, bias=bias),
            nn.Linear(queries, d_model, bias=bias),
            nn.LayerNorm(d_model, bias=bias),
            nn.LayerNorm(d_model, bias=bias),
            nn.Linear(d_ff, d_model, bias=bias),
        ]
        parts += [nn.Linear(d_model, d_ff, bias=bias) for _ in range(1 + gated)]
    return sum(weight.numel() for part in parts for weight in part.parameters())


def _count(d: int, f: int, h: int, kv: int, g: int, b: int, **change: Any) -> Any:
    """The formula in pieces that a wrong answer may change. g: gated, b: bias, each 0 or 1."""
    d_kv = kv * (d // h)
    piece: dict[str, Any] = {
        "projections": 2 * d * d + 2 * d * d_kv,
        "attention_biases": b * (2 * d + 2 * d_kv),
        "ffn": (2 + g) * d * f,
        "ffn_biases": b * ((1 + g) * f + d),
        "norms": 2 * d * (1 + b),
    }
    for name, make in change.items():
        piece[name] = make(d, f, h, kv, g, b)
    return sum(piece.values())


def _block(**change: Callable[[int, int, int, int, int, int], Any]) -> Answer:
    """The formula with some pieces changed, as an answer with the exercise's parameters."""

    def answer(
        d_model: int,
        d_ff: int,
        num_heads: int,
        num_kv_heads: int | None = None,
        *,
        gated: bool = False,
        bias: bool = True,
    ) -> Any:
        kv = num_heads if num_kv_heads is None else num_kv_heads
        return _count(d_model, d_ff, num_heads, kv, int(gated), int(bias), **change)

    return answer


def _block_fixed(**fixed: Any) -> Answer:
    """The right formula for parameters of which some are set, whatever is passed."""

    def answer(
        d_model: int,
        d_ff: int,
        num_heads: int,
        num_kv_heads: int | None = None,
        *,
        gated: bool = False,
        bias: bool = True,
    ) -> Any:
        given: dict[str, Any] = {"d_ff": d_ff, "kv": num_kv_heads, "gated": gated, "bias": bias}
        given |= {name: value(d_model, num_heads) for name, value in fixed.items()}
        kv = num_heads if given["kv"] is None else int(given["kv"])
        return _count(
            d_model, int(given["d_ff"]), num_heads, kv, int(given["gated"]), int(given["bias"])
        )

    return answer


def _block_none_fails(
    d_model: int,
    d_ff: int,
    num_heads: int,
    num_kv_heads: int | None = None,
    *,
    gated: bool = False,
    bias: bool = True,
) -> Any:
    d_kv = num_kv_heads * (d_model // num_heads)  # type: ignore[operator]
    return _count(d_model, d_ff, 1, d_kv // d_model, int(gated), int(bias))


def _block_float(*args: Any, **kwargs: Any) -> Any:
    return float(_block()(*args, **kwargs))


def _block_tensor(*args: Any, **kwargs: Any) -> Any:
    return torch.tensor(_block()(*args, **kwargs))


def _block_by_linear(
    d_model: int,
    d_ff: int,
    num_heads: int,
    num_kv_heads: int | None = None,
    *,
    gated: bool = False,
    bias: bool = True,
) -> int:
    def linear(inputs: int, outputs: int) -> int:
        return (inputs + bias) * outputs

    width = d_model * (num_kv_heads or num_heads) // num_heads
    attention = 2 * linear(d_model, d_model) + 2 * linear(d_model, width)
    ffn = (1 + gated) * linear(d_model, d_ff) + linear(d_ff, d_model)
    return attention + ffn + 2 * (d_model + d_model * bias)


block_parameters = Exercise(
    name="block_parameters",
    lesson=LESSON,
    signature=(
        "block_parameters(d_model, d_ff, num_heads, num_kv_heads=None, *, gated=False, bias=True)"
    ),
    reference=_block_by_building,
    probes=(
        Probe(
            "the example: d_model 4, d_ff 6, two heads",
            (4, 6, 2),
            explain="By hand: attention 80, FFN 58, norms 16; together 154.",
        ),
        Probe(
            "the second example: one head of keys and values, gated, no bias",
            (4, 6, 2, 1),
            {"gated": True, "bias": False},
            "By hand: attention 48, FFN 72, norms 8; together 128.",
        ),
        Probe(
            "d_model 6, d_ff 7, three heads, no bias",
            (6, 7, 3),
            {"bias": False},
            "Attention 4 · 36, FFN 2 · 42, two gains of 6; together 240.",
        ),
        Probe(
            "the same, gated, with biases",
            (6, 7, 3),
            {"gated": True},
            "A third matrix, 6 → 7, has a bias of 7.",
        ),
        Probe(
            "d_model 12, d_ff 5, six heads, two of keys and values",
            (12, 5, 6, 2),
            explain="A head is 12 / 6 = 2 wide, so keys and values are 4 wide, and so are their biases.",
        ),
        Probe(
            "one head of keys and values, gated, with biases",
            (12, 20, 4, 1),
            {"gated": True},
            "A head is 3 wide, so keys and values are 3 wide.",
        ),
        Probe("as many heads of keys and values as of queries, given", (6, 7, 3, 3)),
        Probe("BERT-base and GPT-2 small", (768, 3072, 12), explain="This is known: 7,087,872."),
        Probe("LLaMA 7B", (4096, 11_008, 32), {"gated": True, "bias": False}),
        Probe("Llama 3 8B", (4096, 14_336, 32, 8), {"gated": True, "bias": False}),
        Probe("heads of keys and values by name", (6, 7, 3), {"num_kv_heads": 1}),
        twice(6, 7, 3),
    ),
    wrong_answers=(
        Wrong(
            "matrices only",
            _block(attention_biases=lambda *_: 0, ffn_biases=lambda *_: 0, norms=lambda *_: 0),
            "You count the matrices only. The two norms are missing, and with bias=True all biases.",
        ),
        Wrong(
            "matrices of a plain block only",
            _block(
                projections=lambda d, *_: 4 * d * d,
                ffn=lambda d, f, *_: 2 * d * f,
                attention_biases=lambda *_: 0,
                ffn_biases=lambda *_: 0,
                norms=lambda *_: 0,
            ),
            "You count 4 · d_model² + 2 · d_model · d_ff, the matrices of a plain block. The norms and biases "
            "are missing, and gated and num_kv_heads have no effect.",
        ),
        Wrong(
            "12 d²",
            _block(
                projections=lambda d, *_: 12 * d * d,
                ffn=lambda *_: 0,
                attention_biases=lambda *_: 0,
                ffn_biases=lambda *_: 0,
                norms=lambda *_: 0,
            ),
            "12 · d_model² is the rule of thumb, for matrices alone and d_ff = 4 · d_model. Count with the d_ff that "
            "is passed, and add biases and norms.",
        ),
        Wrong(
            "no biases",
            _block_fixed(bias=lambda d, h: False),
            "Your number has no bias at all. With bias=True each matrix has one, as long as its output, and each norm "
            "one beside its gain.",
        ),
        Wrong(
            "bias always",
            _block_fixed(bias=lambda d, h: True),
            "Your number always has biases. With bias=False there is none, in matrices or norms.",
        ),
        Wrong(
            "no norms",
            _block(norms=lambda *_: 0),
            "The norms are missing: two, each with a gain of d_model and, with bias=True, a bias.",
        ),
        Wrong(
            "one norm",
            _block(norms=lambda d, f, h, kv, g, b: d * (1 + b)),
            "Your block has one norm. There are two, one for attention and one for the FFN.",
        ),
        Wrong(
            "norms without bias",
            _block(norms=lambda d, *_: 2 * d),
            "Your norms have gains only. With bias=True each has a bias of d_model as well.",
        ),
        Wrong(
            "norms always with bias",
            _block(norms=lambda d, *_: 4 * d),
            "Your norms always have a bias. With bias=False a norm has its gain alone.",
        ),
        Wrong(
            "no biases in the matrices",
            _block(attention_biases=lambda *_: 0, ffn_biases=lambda *_: 0),
            "The biases of the matrices are missing; each is as long as its matrix's output.",
        ),
        Wrong(
            "no biases in attention",
            _block(attention_biases=lambda *_: 0),
            "The biases of attention are missing: d_model for queries and output, the keys' width for keys and values.",
        ),
        Wrong(
            "no biases in the FFN",
            _block(ffn_biases=lambda *_: 0),
            "The biases of the FFN are missing: d_ff for each matrix that goes up, d_model for the one that goes down.",
        ),
        Wrong(
            "no output bias in attention",
            _block(attention_biases=lambda d, f, h, kv, g, b: b * (d + 2 * kv * (d // h))),
            "One bias of d_model numbers is missing: that of attention's output projection, or that of the FFN's way "
            "down.",
        ),
        Wrong(
            "biases of inputs",
            _block(
                attention_biases=lambda d, f, h, kv, g, b: b * 4 * d,
                ffn_biases=lambda d, f, h, kv, g, b: b * ((1 + g) * d + f),
            ),
            "Your biases, or the gate's alone, are as long as the *inputs* of the matrices. A bias is added to the "
            "output.",
        ),
        Wrong(
            "all biases d_model",
            _block(
                attention_biases=lambda d, f, h, kv, g, b: b * 4 * d,
                ffn_biases=lambda d, f, h, kv, g, b: b * (2 + g) * d,
            ),
            "All your biases have d_model numbers. A bias is as long as its matrix's output: d_ff on the way up.",
        ),
        Wrong(
            "keys' biases of full width",
            _block(attention_biases=lambda d, f, h, kv, g, b: b * 4 * d),
            "The biases of keys and values are d_model long in yours; they are as long as keys and values are wide: "
            "num_kv_heads · (d_model // num_heads).",
        ),
        Wrong(
            "no bias at the gate",
            _block(ffn_biases=lambda d, f, h, kv, g, b: b * (f + d)),
            "The gate's matrix has a bias too, of d_ff numbers.",
        ),
        Wrong(
            "no output projection",
            _block(
                projections=lambda d, f, h, kv, g, b: d * d + 2 * d * kv * (d // h),
                attention_biases=lambda d, f, h, kv, g, b: b * (d + 2 * kv * (d // h)),
            ),
            "Your attention has three projections. There are four: query, key, value and output.",
        ),
        Wrong(
            "one attention matrix",
            _block(
                projections=lambda d, *_: d * d, attention_biases=lambda d, f, h, kv, g, b: b * d
            ),
            "Your attention has one matrix. There are four: query, key, value and output.",
        ),
        Wrong(
            "attention times heads",
            _block(
                projections=lambda d, f, h, kv, g, b: h * (2 * d * d + 2 * d * kv * (d // h)),
            ),
            "You multiply attention by the number of heads. The heads share d_model among them: the number of query "
            "heads isn't in the count.",
        ),
        Wrong(
            "kv heads ignored",
            _block_fixed(kv=lambda d, h: None),
            "num_kv_heads is ignored. Keys and values are num_kv_heads · (d_model // num_heads) wide.",
        ),
        Wrong(
            "kv heads for the output too",
            _block(
                projections=lambda d, f, h, kv, g, b: d * d + 3 * d * kv * (d // h),
                attention_biases=lambda d, f, h, kv, g, b: b * (2 * d + 2 * kv * (d // h)),
            ),
            "Your output projection is narrow, like keys and values. It takes what all *query* heads bring: "
            "d_model × d_model.",
        ),
        Wrong(
            "only keys narrow",
            _block(
                projections=lambda d, f, h, kv, g, b: 3 * d * d + d * kv * (d // h),
                attention_biases=lambda d, f, h, kv, g, b: b * (3 * d + kv * (d // h)),
            ),
            "Only one of keys and values is narrow in yours. Both have num_kv_heads heads.",
        ),
        Wrong(
            "kv heads of another width",
            _block(
                projections=lambda d, f, h, kv, g, b: 2 * d * d + 2 * d * kv,
                attention_biases=lambda d, f, h, kv, g, b: b * (2 * d + 2 * kv),
            ),
            "You take the number of heads for the width of keys and values. Each head is d_model // num_heads wide.",
        ),
        Wrong(
            "None not handled",
            _block_none_fails,
            "num_kv_heads is None unless it is given: then take num_heads.",
        ),
        Wrong(
            "gated ignored",
            _block_fixed(gated=lambda d, h: False),
            "gated is ignored. A gated FFN has three matrices.",
        ),
        Wrong(
            "always gated",
            _block_fixed(gated=lambda d, h: True),
            "Your FFN always has three matrices. Without gated it has two.",
        ),
        Wrong(
            "gated with two thirds",
            _block(
                ffn=lambda d, f, h, kv, g, b: (2 + g) * d * (2 * f // 3 if g else f),
                ffn_biases=lambda d, f, h, kv, g, b: b * ((1 + g) * (2 * f // 3 if g else f) + d),
            ),
            "You shrink d_ff to two thirds for a gated FFN. d_ff is the width as it is: whoever calls has chosen it.",
        ),
        Wrong(
            "gate of d_model squared",
            _block(ffn=lambda d, f, h, kv, g, b: 2 * d * f + g * d * d),
            "Your gate is d_model × d_model. It goes from d_model to d_ff, like up.",
        ),
        Wrong(
            "4 d for d_ff",
            _block_fixed(d_ff=lambda d, h: 4 * d),
            "You take 4 · d_model for d_ff. Use the d_ff that is passed.",
        ),
        Wrong(
            "one FFN matrix",
            _block(ffn=lambda d, f, h, kv, g, b: (1 + g) * d * f),
            "A matrix of the FFN is missing: one goes up to d_ff and one comes down again.",
        ),
        Wrong(
            "a float",
            _block_float,
            "Your number is right, but it is a float; an int is asked for. Take // in place of /.",
        ),
        Wrong(
            "a tensor",
            _block_tensor,
            "Your number is right, but it is a tensor; an int is asked for. No tensor is needed here.",
        ),
    ),
    correct_alternatives=(_block(), _block_by_linear, _block_by_building),
    hints=(
        "List the matrices with their inputs and outputs: four in attention, two or three in the FFN. What has a norm?",
        "A matrix has inputs · outputs weights and, with bias, as many biases as outputs. Keys and values have "
        "num_kv_heads * (d_model // num_heads) outputs.",
        "d_kv = num_kv_heads * (d_model // num_heads); attention 2·d·d + 2·d·d_kv, biases 2·d + 2·d_kv; FFN "
        "(2 or 3)·d·d_ff, biases (1 or 2)·d_ff + d; norms 2·d, with biases 4·d.",
    ),
)

# ---------------------------------------------------------------------------- moe

Experts = list[Callable[[Tensor], Tensor]]


def _times_ten(x: Tensor) -> Tensor:
    return 10 * x


def _double(x: Tensor) -> Tensor:
    return 2 * x


def _nothing(x: Tensor) -> Tensor:
    return 0 * x


def _square(x: Tensor) -> Tensor:
    return x * x


def _bend(x: Tensor) -> Tensor:
    return torch.tanh(x) - 1


def _roll(x: Tensor) -> Tensor:
    return x.roll(1, dims=-1)


def _moe_by_tokens(x: Tensor, router: Tensor, experts: Experts, k: int) -> Tensor:
    """Token by token, score by score, with plain sums."""
    rows = []
    for token in x:
        scores = [(row * token).sum() for row in router]
        order = sorted(range(len(scores)), key=lambda i: -float(scores[i].detach()))[:k]
        powers = [torch.exp(scores[i] - scores[order[0]]) for i in order]
        rows.append(
            torch.stack(
                [w * experts[i](token[None])[0] for w, i in zip(powers, order, strict=True)]
            )
            .sum(0)
            .div(torch.stack(powers).sum())
        )
    return torch.stack(rows)


def _softmax_of_chosen(best: Tensor, chosen: Tensor, scores: Tensor) -> Tensor:
    return best.softmax(-1)


def _highest(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    found = scores.topk(k, dim=-1)
    return found.values, found.indices


def _shares(best: Tensor, chosen: Tensor, scores: Tensor) -> Tensor:
    return scores.softmax(-1).gather(-1, chosen)


def _lowest(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    found = scores.topk(k, dim=-1, largest=False)
    return found.values, found.indices


def _best_only(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    found = scores.topk(1, dim=-1)
    return found.values, found.indices


def _moe_with(
    *,
    weigh: Callable[[Tensor, Tensor, Tensor], Tensor] = _softmax_of_chosen,
    score: Callable[[Tensor, Tensor], Tensor] = lambda x, router: x @ router.T,
    choose: Callable[[Tensor, int], tuple[Tensor, Tensor]] = _highest,
    add: bool = True,
    weigh_input: bool = False,
    start: Callable[[Tensor], Tensor] = torch.zeros_like,
) -> Answer:
    def answer(x: Tensor, router: Tensor, experts: Experts, k: int) -> Tensor:
        scores = score(x, router)
        best, chosen = choose(scores, k)
        weights = weigh(best, chosen, scores)
        out = start(x)
        for i, expert in enumerate(experts):
            token, place = (chosen == i).nonzero(as_tuple=True)
            w = weights[token, place, None]
            y = expert(w * x[token]) if weigh_input else w * expert(x[token])
            out = out.index_add(0, token, y) if add else out.index_copy(0, token, y)
        return out

    return answer


def _moe_dense(x: Tensor, router: Tensor, experts: Experts, k: int) -> Tensor:
    scores = x @ router.T
    best, chosen = scores.topk(k, dim=-1)
    gates = torch.zeros_like(scores).scatter(-1, chosen, best.softmax(-1))
    every = torch.stack([expert(x) for expert in experts], dim=1)
    return (gates[:, :, None] * every).sum(dim=1)


def _moe_all(x: Tensor, router: Tensor, experts: Experts, k: int) -> Tensor:
    return _moe_dense(x, router, experts, len(experts))


def _moe_weights_by_expert(x: Tensor, router: Tensor, experts: Experts, k: int) -> Tensor:
    best, chosen = (x @ router.T).topk(k, dim=-1)
    weights = best.softmax(-1)
    out = torch.zeros_like(x)
    for place in range(k):
        for i, expert in enumerate(experts):
            token = (chosen[:, place] == i).nonzero()[:, 0]
            out = out.index_add(0, token, weights[token, i, None] * expert(x[token]))
    return out


def _moe_one_choice_for_all(x: Tensor, router: Tensor, experts: Experts, k: int) -> Tensor:
    best, chosen = (x @ router.T).mean(dim=0).topk(k)
    return torch.stack(
        [w * experts[int(i)](x) for w, i in zip(best.softmax(0), chosen, strict=True)]
    ).sum(0)


def _moe_first_token_chooses(x: Tensor, router: Tensor, experts: Experts, k: int) -> Tensor:
    scores = x @ router.T
    chosen = scores[0].topk(k).indices
    weights = scores[:, chosen].softmax(dim=-1)
    return torch.stack(
        [weights[:, j, None] * experts[int(i)](x) for j, i in enumerate(chosen)]
    ).sum(0)


def _moe_in_place(x: Tensor, router: Tensor, experts: Experts, k: int) -> Tensor:
    out: Tensor = _moe_right(x, router, experts, k)
    x.copy_(out)
    return x


def _moe_detached(x: Tensor, router: Tensor, experts: Experts, k: int) -> Tensor:
    found: Tensor = _moe_with(weigh=lambda best, chosen, scores: best.softmax(-1).detach())(
        x, router, experts, k
    )
    return found


def _moe_float32(x: Tensor, router: Tensor, experts: Experts, k: int) -> Tensor:
    best, chosen = (x @ router.T).topk(k, dim=-1)
    weights = best.softmax(-1)
    out = torch.zeros(x.shape, device=x.device)
    for i, expert in enumerate(experts):
        token, place = (chosen == i).nonzero(as_tuple=True)
        out[token] += weights[token, place, None] * expert(x[token])
    return out


def _moe_weight_without_axis(x: Tensor, router: Tensor, experts: Experts, k: int) -> Tensor:
    best, chosen = (x @ router.T).topk(k, dim=-1)
    weights = best.softmax(-1)
    out = torch.zeros_like(x)
    for i, expert in enumerate(experts):
        token, place = (chosen == i).nonzero(as_tuple=True)
        out[token] += weights[token, place] * expert(x[token])
    return out


def _moe_list_by_tensor(x: Tensor, router: Tensor, experts: Experts, k: int) -> Any:
    best, chosen = (x @ router.T).topk(k, dim=-1)
    weights = best.softmax(-1)
    return sum(weights[:, j, None] * experts[chosen[:, j]](x) for j in range(k))


def _moe_loop(x: Tensor, router: Tensor, experts: Experts, k: int) -> Tensor:
    rows = []
    for token in x:
        best, chosen = (router @ token).topk(k)
        weights = best.softmax(dim=0)
        rows.append(
            sum(w * experts[i](token) for w, i in zip(weights, chosen.tolist(), strict=True))
        )
    return torch.stack(rows)


def _moe_by_mask(x: Tensor, router: Tensor, experts: Experts, k: int) -> Tensor:
    scores = x @ router.T
    kept = torch.zeros_like(scores, dtype=torch.bool).scatter(1, scores.topk(k).indices, True)
    gates = scores.masked_fill(~kept, -math.inf).softmax(dim=1)
    out = torch.zeros_like(x)
    for i, expert in enumerate(experts):
        rows = kept[:, i]
        if rows.any():
            out[rows] = out[rows] + gates[rows, i].unsqueeze(1) * expert(x[rows])
    return out


_moe_right = _moe_with()


def _tokens_seen(answer: Answer, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
    """How many tokens each expert was called on."""
    x, router, experts, k = args
    seen = [0] * len(experts)

    def watched(i: int) -> Callable[[Tensor], Tensor]:
        def expert(tokens: Tensor) -> Tensor:
            seen[i] += tokens.numel() // x.shape[-1]
            found: Tensor = experts[i](tokens)
            return found

        return expert

    answer(x, router, [watched(i) for i in range(len(experts))], k, **kwargs)
    return f"experts called on {', '.join(map(str, seen))} tokens"


_LOG3 = (
    torch.tensor([[1.0, 4.0]]),
    torch.tensor([[math.log(3), 0.0], [0.0, 0.0], [-9.0, 0.0]]),
    [_times_ten, _double, _nothing],
    2,
)
_FOUR = [_square, _bend, _roll, _times_ten]


def _mixture(n: int, d: int, k: int, seed: int, dtype: torch.dtype = torch.float32) -> Any:
    return (
        numbers(n, d, seed=seed, dtype=dtype),
        numbers(4, d, seed=seed + 1, dtype=dtype),
        _FOUR,
        k,
    )


moe = Exercise(
    name="moe",
    lesson=LESSON,
    signature="moe(x, router, experts, k)",
    reference=_moe_by_tokens,
    probes=(
        Probe(
            "the example: one token, three experts that multiply by 10, 2 and 0, two of them used",
            _LOG3,
            explain="The scores are log 3, 0 and -9. Of the first two the softmax is ¾ and ¼: 8 times the token.",
        ),
        Probe(
            "the same with k = 1: the first expert alone",
            (*_LOG3[:3], 1),
            explain="The softmax over a single score is 1: ten times the token.",
        ),
        Probe(
            "five tokens of three features, four experts, two used",
            _mixture(5, 3, 2, seed=41),
            explain="Each token has its own choice and its own weights.",
        ),
        Probe("six tokens, three experts used", _mixture(6, 3, 3, seed=43)),
        Probe("all four experts used", _mixture(5, 3, 4, seed=45)),
        Probe("four tokens of four features", _mixture(4, 4, 2, seed=47)),
        Probe(
            "a single expert: the dense network",
            (numbers(3, 5, seed=49), numbers(1, 5, seed=50), [_square], 1),
            explain="With one expert the weight is 1, whatever the router says.",
        ),
        Probe(
            "how many tokens each expert is called on",
            _mixture(7, 3, 2, seed=51),
            explain="An expert is called on tokens that didn't choose it (or too few): n · k calls are the whole "
            "saving. Pick its tokens first, x[token].",
            use=_tokens_seen,
        ),
        Probe(
            "numbers in float64",
            _mixture(5, 3, 2, seed=53, dtype=_DOUBLE),
            explain="It should keep the dtype of x: zeros_like(x), not zeros(...).",
        ),
        gradient(*_mixture(5, 3, 2, seed=55)),
        twice(*_mixture(5, 3, 2, seed=41)),
        other_device(*_mixture(5, 3, 2, seed=41)),
    ),
    wrong_answers=(
        Wrong(
            "softmax over all",
            _moe_with(weigh=_shares),
            "Your weights are a softmax over all experts, so those of the chosen don't sum to 1 (the Switch "
            "Transformer does so). Take the softmax over the k chosen scores.",
        ),
        Wrong(
            "no weights",
            _moe_with(weigh=lambda best, chosen, scores: torch.ones_like(best)),
            "You add the chosen experts without weights. Weigh them by the softmax over their scores.",
        ),
        Wrong(
            "plain mean",
            _moe_with(weigh=lambda best, chosen, scores: torch.ones_like(best) / best.shape[-1]),
            "You take the plain mean of the chosen experts. Weigh them by the softmax over their scores, which is also "
            "how the router learns.",
        ),
        Wrong(
            "scores as weights",
            _moe_with(weigh=lambda best, chosen, scores: best),
            "Your weights are the scores themselves. Take their softmax: positive, with the sum 1.",
        ),
        Wrong(
            "scores divided by their sum",
            _moe_with(weigh=lambda best, chosen, scores: best / best.sum(-1, keepdim=True)),
            "You divide the scores by their sum. Scores may be negative: take the softmax.",
        ),
        Wrong(
            "sigmoid",
            _moe_with(weigh=lambda best, chosen, scores: best.sigmoid()),
            "Your weights are sigmoids. Here they are a softmax over the k chosen scores.",
        ),
        Wrong(
            "softmax over the tokens",
            _moe_with(weigh=lambda best, chosen, scores: best.softmax(0)),
            "Your softmax runs over the tokens. Each token's weights sum to 1: dim=-1.",
        ),
        Wrong(
            "softmax twice",
            _moe_with(weigh=lambda best, chosen, scores: _shares(best, chosen, scores).softmax(-1)),
            "You take a softmax of probabilities: one too many. Take the softmax of the k chosen scores.",
        ),
        Wrong(
            "weights in reverse",
            _moe_with(weigh=lambda best, chosen, scores: best.softmax(-1).flip(-1)),
            "The best expert has the smallest weight in yours: weights and choices are in opposite order.",
        ),
        Wrong(
            "weights by expert number",
            _moe_weights_by_expert,
            "You look up the weight by the expert's number. The weights stand in the order of the choices, (n, k): the "
            "column is the place at which the token chose the expert.",
        ),
        Wrong(
            "lowest scores",
            _moe_with(choose=_lowest),
            "You choose the k experts with the *smallest* scores.",
        ),
        Wrong(
            "best only",
            _moe_with(choose=_best_only),
            "You use the best expert alone, whatever k is.",
        ),
        Wrong(
            "all experts",
            _moe_all,
            "You use all experts, whatever k is. Choose the k with the largest scores: topk(k).",
        ),
        Wrong(
            "overwritten",
            _moe_with(add=False),
            "A later expert overwrites what an earlier one gave for the same token. Add: out[token] += ....",
        ),
        Wrong(
            "input weighted",
            _moe_with(weigh_input=True),
            "You multiply the expert's *input* by the weight. An expert isn't linear: weigh its output.",
        ),
        Wrong(
            "one choice for all",
            _moe_one_choice_for_all,
            "You choose experts once for the whole batch, by the mean scores. Each token chooses for itself.",
        ),
        Wrong(
            "first token chooses",
            _moe_first_token_chooses,
            "The first token chooses for all. Each token chooses for itself.",
        ),
        Wrong(
            "residual added",
            _moe_with(start=lambda x: x.clone()),
            "Your sum starts from x. Start from zeros; the residual connection belongs to the block.",
        ),
        Wrong(
            "router not transposed",
            _moe_with(score=lambda x, router: x @ router),
            "router has one row for each expert, (E, d): the scores are x @ router.T, of shape (n, E).",
        ),
        Wrong(
            "every expert on every token",
            _moe_dense,
            "Your numbers are right, but every expert computes all tokens, n · E in place of n · k: the saving is "
            "gone. Pick the tokens that chose it first: expert(x[token]).",
        ),
        Wrong(
            "weights detached",
            _moe_detached,
            "Your numbers are right, but the weights are cut off from the gradient (.detach(), .item(), .tolist()): "
            "the router would never learn.",
        ),
        Wrong(
            "weight without an axis",
            _moe_weight_without_axis,
            "weights[token, place] has one axis, (m,), and the expert's output two, (m, d): they aren't multiplied row "
            "by row. Give the weights a second axis: weights[token, place, None].",
        ),
        Wrong(
            "list indexed by a tensor",
            _moe_list_by_tensor,
            "experts is a list: a tensor of several choices can't be its index. Go through the experts, or through the "
            "tokens one by one.",
        ),
        Wrong(
            "zeros in float32",
            _moe_float32,
            "torch.zeros(...) is float32 whatever x is. Take torch.zeros_like(x).",
        ),
        Wrong(
            "in place",
            _moe_in_place,
            "Your numbers are right, but you write them into the caller's x. Start from torch.zeros_like(x).",
        ),
    ),
    correct_alternatives=(
        _moe_right,
        _moe_loop,
        _moe_by_mask,
        _moe_with(
            weigh=lambda best, chosen, scores: (
                _shares(best, chosen, scores)
                / _shares(best, chosen, scores).sum(dim=-1, keepdim=True)
            )
        ),
    ),
    hints=(
        "scores = x @ router.T has the shape (n, E). topk(k) gives the k largest of each row and where they are. What "
        "is the softmax taken over?",
        "Go through the experts, not the tokens: (chosen == i).nonzero(as_tuple=True) says which tokens chose expert "
        "i, and as which choice.",
        "best, chosen = (x @ router.T).topk(k); weights = best.softmax(dim=-1); out = torch.zeros_like(x); then for "
        "each expert: out[token] += weights[token, place, None] * expert(x[token]).",
    ),
)

EXERCISES = (gelu, swiglu, block_parameters, moe)
