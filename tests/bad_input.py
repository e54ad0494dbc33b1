"""Right calls whose arguments are changed, and an oracle that says which changes are still right.

A call is a function with a kind for each argument. A kind makes right values, changes them, and says of any
value whether the documentation allows it. Every call must then either give what is documented, or refuse with
a ValueError or TypeError that names a changed argument and shows what came.
"""

import importlib
import inspect
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any

import numpy as np
import torch
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from transformer_lab.cache import KeysValues, KVCache

INF, NAN, HUGE = float("inf"), float("nan"), 10**30
JUNK = (None, "four", True, 2.5, -1, 0, INF, NAN, [1.0], {}, np.ones(2), torch.ones(2), object)
DTYPES = {
    "float": (torch.float32, torch.float64, torch.float16),
    "int": (torch.int64, torch.int32),
    "bool": (torch.bool,),
    "complex": (torch.complex64,),
}
CPU = {"device": torch.device("cpu")}
WEIGHTS = {**CPU, "dtype": torch.float32}  # what a module's weights ask of its input

# Hypothesis gives seeds; the choices are Python's, for its own prefer small and equal values, which are right.
# Without shrinking: the arguments are small, and each failure tells them all.
SEEDS = st.randoms(use_true_random=True)
SETTINGS = settings(
    max_examples=30,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=list(HealthCheck),
)

Axes = dict[str, Any]  # size of each axis by its letter, and the dtype and device that all have


@dataclass(frozen=True)
class Numbers:
    """A tensor. Its axes are letters; with ? they may be of size 1, and * stands for any number in front."""

    axes: str
    kind: str = "float"
    none: bool = False
    within: tuple[int, int] = (0, 1)
    ids: bool = False  # whether only numbers within the bounds are right
    any_dtype: bool = False  # whether it needn't have the dtype of the others

    def make(self, random: Random, axes: Axes) -> Tensor | None:
        if self.none and random.random() < 0.5:
            return None
        shape: list[int] = []
        for name in self.axes.split():
            sizes = axes[name.rstrip("?")]
            sizes = sizes if isinstance(sizes, tuple) else (sizes,)
            one = name.endswith("?") and random.random() < 0.5
            shape += [1] * len(sizes) if one else sizes
        if self.kind == "float":
            return torch.randn(shape, dtype=axes.get("dtype", torch.float32))
        low, high = (0, 1) if self.kind == "bool" else self.within
        return torch.randint(low, high + 1, shape).to(DTYPES[self.kind][0])

    def change(self, random: Random, value: Tensor | None) -> Any:
        if not isinstance(value, Tensor):
            return random.choice(JUNK)
        ways = ["size"] * 3 + ["add", "drop", "dtype", "meta", "junk", "outside"]
        way = random.choice(ways) if value.dim() else "junk"
        axis = random.randint(0, max(value.dim() - 1, 0))
        if way == "add":
            return value.unsqueeze(axis).repeat_interleave(random.randint(1, 2), dim=axis)
        if way == "drop" and value.shape[axis]:
            return value.select(axis, 0)
        if way == "size":
            size = random.randint(0, 4)
            return torch.cat([value] + [torch.ones_like(value)] * 4, axis).narrow(axis, 0, size)
        if way == "outside" and self.kind == "int" and value.numel():
            return torch.full_like(value, random.choice([-1, 5, self.within[1] + 1, 10**9]))
        if way == "dtype":
            every = [dtype for dtypes in DTYPES.values() for dtype in dtypes]
            return value.to(random.choice(every))
        if way == "meta":
            return value.to("meta")
        return random.choice([*JUNK, value.tolist(), value.numpy()])

    def fits(self, value: Any, axes: Axes) -> bool:
        """Whether a value is right beside the axes known so far; takes up those that it is the first to have."""
        if value is None:
            return self.none
        if not isinstance(value, Tensor) or value.dtype not in DTYPES[self.kind]:
            return False
        same = axes.setdefault("device", value.device) == value.device
        if self.kind == "float" and not self.any_dtype:
            same &= axes.setdefault("dtype", value.dtype) == value.dtype
        if self.ids and not value.is_meta and value.numel():
            same &= self.within[0] <= int(value.min()) and int(value.max()) <= self.within[1]
        names, shape = self.axes.split(), tuple(value.shape)
        more = len(shape) - len(names) + 1
        if names[:1] in (["*"], ["*?"]):
            if more < 0:
                return False
            names, shape = [names[0], *names[1:]], (shape[:more], *shape[more:])
        return same and len(names) == len(shape) and all(map(_bind(axes), names, shape))


def _bind(axes: Axes) -> Callable[[str, Any], bool]:
    def fits(name: str, size: Any) -> bool:
        if not name.endswith("?"):
            return bool(axes.setdefault(name, size) == size)
        wanted = axes[name.rstrip("?")]
        if not isinstance(size, tuple):
            return size in (1, wanted)
        return len(size) == len(wanted) and all(
            a in (1, b) for a, b in zip(size, wanted, strict=True)
        )

    return fits


@dataclass(frozen=True)
class One:
    """One of some right values. Of others, `allows` says whether they are right too."""

    values: tuple[Any, ...]
    allows: Callable[[Any], bool]
    others: tuple[Any, ...] = JUNK

    def make(self, random: Random, axes: Axes) -> Any:
        return random.choice(self.values)

    def change(self, random: Random, value: Any) -> Any:
        return random.choice(self.others)

    def fits(self, value: Any, axes: Axes) -> bool:
        return self.allows(value)


@dataclass(frozen=True)
class Size:
    """A whole number that is the size of an axis."""

    axis: str
    least: int = 0
    none: bool = False

    def make(self, random: Random, axes: Axes) -> int:
        return int(axes[self.axis])

    def change(self, random: Random, value: Any) -> Any:
        return random.choice((*JUNK, 1, 2, 3, 7))

    def fits(self, value: Any, axes: Axes) -> bool:
        if value is None and self.none:
            return True
        return is_whole(value, self.least) and bool(axes.setdefault(self.axis, value) == value)


def only(*values: Any, wrong: tuple[Any, ...] = JUNK) -> One:
    """Just these objects, and none of the wrong ones."""
    return One(values, lambda v: any(v is each for each in values), wrong)


def is_whole(value: Any, least: float = -INF) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def is_number(value: Any) -> bool:
    """Whether it is a finite number, and no bool."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def whole(*values: int | None, least: int = 1, huge: bool = False) -> One:
    """A whole number from `least` on; a huge one too, where nothing of its size is set aside."""
    return One(
        values,
        lambda v: is_whole(v, least) or (v is None and None in values),
        (*JUNK, 1, 2, 3, 7, *([HUGE] if huge else [])),
    )


def above(*values: float | None, bound: float = 0) -> One:
    allows = lambda v: (is_number(v) and v > bound) or (v is None and None in values)  # noqa: E731
    return One(values, allows, (*JUNK, 1, 3, 0.5))


def finite(*values: float | None) -> One:
    return above(*values, bound=-INF)


PROBABILITY = One((0.0, 0.25, 0), lambda v: is_number(v) and 0 <= v < 1, (*JUNK, 1, 1.0, 0.5, -0.1))
DEVICE = One((None, "cpu", torch.device("meta")), lambda v: True, (None, "meta"))
FLAG = One((True, False), lambda v: True, (True, False))


def is_function(value: Any) -> bool:
    return callable(value) and not isinstance(value, type)


def module(*values: nn.Module) -> One:
    return One(values, lambda v: isinstance(v, nn.Module), (*JUNK, nn.Module, lambda: values[0]))


def function(*values: Any) -> One:
    return One(values, is_function, tuple(each for each in JUNK if each is not object))


@dataclass(frozen=True, eq=False)
class Room:
    """What a cache is made of; a new one is made for each call."""

    batch: int
    held: int
    max_len: int
    heads: int
    d_head: int
    dtype: torch.dtype = torch.float32
    source: int | None = None  # positions of the encoder's output, None without one
    source_batch: int | None = None

    def build(self) -> KVCache:
        memory = None
        if self.source is not None:
            shape = (self.source_batch or self.batch, self.heads, self.source, self.d_head)
            memory = KeysValues(*torch.randn(2, *shape, dtype=self.dtype))
        cache = KVCache(
            self.batch, self.max_len, self.heads, self.d_head, memory=memory, dtype=self.dtype
        )
        if self.held:
            cache.append(
                *torch.randn(2, self.batch, self.heads, self.held, self.d_head, dtype=self.dtype)
            )
        return cache

    def other(self, random: Random) -> "Room":
        """The same with one thing changed."""
        names = ["batch", "held", "max_len", "heads", "d_head", "dtype"]
        names += [] if self.source is None else ["source", "source_batch", "no source"]
        name = random.choice(names)
        if name == "no source":
            return replace(self, source=None)
        if name == "dtype":
            return replace(self, dtype=torch.float64)
        sizes = {"held": (0, self.max_len), "max_len": (max(self.held, 1), 5)}.get(name, (1, 3))
        return replace(self, **{name: random.randint(*sizes)})


@dataclass(frozen=True)
class Caches:
    """A cache, or one for each layer, with room for the new tokens (axis q); t is what there is then in all."""

    heads: int
    d_head: int
    layers: int | None = None
    source: bool = False  # whether they hold the keys and values of an encoder's output (axis s)
    none: bool = True

    def make(self, random: Random, axes: Axes) -> Any:
        axes["t"] = axes["q"]
        if self.none and random.random() < 0.5:
            return None
        axes["t"] += (held := random.randint(0, 2))
        most = axes["t"] + random.randint(0, 1)
        room = Room(
            axes["b"],
            held,
            most,
            self.heads,
            self.d_head,
            source=axes["s"] if self.source else None,
        )
        return room if self.layers is None else [replace(room) for _ in range(self.layers)]

    def change(self, random: Random, value: Any) -> Any:
        if value is None:
            return random.choice(JUNK)
        if self.layers is None:
            return random.choice([value.other(random), value.other(random), *JUNK])
        other = value[0].other(random)
        ways = [
            [other, *value[1:]], [*value[:-1], other], [other, replace(other)], value[:-1], [*value, other],
            value[:1] * self.layers, tuple(value), [None] * self.layers, [],
        ]  # fmt: skip
        return random.choice([*ways, *ways, *JUNK])

    def fits(self, value: Any, axes: Axes) -> bool:
        if value is None:
            axes["t"] = axes["q"]
            return self.none
        rooms = [value] if self.layers is None else value
        if not isinstance(rooms, list | tuple) or not all(isinstance(room, Room) for room in rooms):
            return False
        if len(rooms) != (self.layers or 1) or len({id(room) for room in rooms}) < len(rooms):
            return False
        first = rooms[0]
        axes["t"] = axes["q"] + first.held
        wanted = (axes["b"], first.held, self.heads, self.d_head, torch.float32)
        for room in rooms:
            if (room.batch, room.held, room.heads, room.d_head, room.dtype) != wanted:
                return False
            if self.source and room.source is None:
                return False
            source = room.source_batch in (None, axes["b"]) and axes.setdefault("s", room.source)
            if room.max_len < axes["t"] or (self.source and source != room.source):
                return False
        return True


@dataclass(frozen=True)
class Call:
    """A function, its arguments' kinds, and what a right call gives."""

    function: Callable[..., Any]
    kinds: Mapping[str, Any]
    result: str | Callable[..., Any] = ""  # axes of the tensor, or what computes the right answer
    known: Axes = field(default_factory=dict)  # axes that aren't free
    rule: Callable[..., bool] = lambda **_: True  # what arguments must be to each other, documented
    words: Mapping[str, str] = field(default_factory=dict)  # other words that name an argument
    sizes: Callable[[Axes], Axes] = lambda axes: {}  # axes that follow from others
    examples: int = 30

    def is_right(self, arguments: Mapping[str, Any], axes: Axes) -> bool:
        """Whether the documentation allows these arguments."""
        fitting = all(kind.fits(arguments[name], axes) for name, kind in self.kinds.items())
        return fitting and self.rule(**arguments)

    def check(self, random: Random) -> None:
        """Change up to two arguments of a right call, and hold the function to the oracle."""
        axes = {letter: random.randint(1, 3) for letter in "abcdefghijklmnopqrstuvwxyz"}
        axes |= {"*": tuple(random.choices([1, 2, 3], k=random.randint(0, 2)))} | dict(self.known)
        axes |= self.sizes(axes)
        torch.manual_seed(0)
        arguments = {name: kind.make(random, axes) for name, kind in self.kinds.items()}
        number = min(random.choice([0, 1, 1, 1, 2]), len(self.kinds))
        changed = random.sample([*self.kinds], number)
        for name in changed:
            arguments[name] = self.kinds[name].change(random, arguments[name])
        found: Axes = dict(self.known)
        changed = changed or [*self.kinds]
        right = self.is_right(arguments, found)
        self.hold(arguments, right, changed, found)

    def hold(self, arguments: dict[str, Any], right: bool, changed: list[str], axes: Axes) -> None:
        built: dict[int, KVCache] = {}
        before: list[tuple[KVCache, int]] = []
        told = ", ".join(f"{name}={_told(value)}" for name, value in arguments.items())
        try:  # a cache whose memory doesn't fit it is refused when it is made
            given = {name: _build(value, built) for name, value in arguments.items()}
            before = [(cache, cache.length) for cache in built.values()]
            result = self.function(**given)
        except (ValueError, TypeError) as error:
            assert not right, f"refused, though it is right: {told}: {error!r}"
            self.check_message(str(error), arguments, changed, told)
            assert all(cache.length == length for cache, length in before), (
                f"refused, but a cache has been written to: {told}: {error}"
            )
        except Exception as error:
            raise AssertionError(f"{error!r} instead of an error in words: {told}") from error
        else:
            assert right, f"an answer in silence, though it is wrong: {told}"
            self.check_result(result, arguments, axes, told)

    def check_message(
        self, message: str, arguments: dict[str, Any], changed: list[str], told: str
    ) -> None:
        assert len(message) > 20, f"no sentence: {message!r} for {told}"
        names = [name for name in changed if re.search(rf"\b{name}\b", message)]
        names += [n for n in changed if n in self.words and re.search(self.words[n], message)]
        assert names, f"none of {changed} is named: {message!r} for {told}"
        shown = set().union(*(_shown(arguments[name]) for name in changed))
        assert any(each in message for each in shown), f"not shown what came: {message!r}, {told}"

    def check_result(
        self, result: Any, arguments: Mapping[str, Any], axes: Axes, told: str
    ) -> None:
        for tensor in _tensors(result):
            assert tensor.is_meta or bool(tensor.isfinite().all()), f"not finite: {told}"
        meta = any(isinstance(each, Tensor) and each.is_meta for each in arguments.values())
        if callable(self.result) and not meta:
            expected = self.result(**arguments)
            if isinstance(expected, Tensor):
                expected = expected.to(result.dtype)
                close = {"rtol": 2e-3, "atol": 2e-3}
                torch.testing.assert_close(result, expected, **close, msg=lambda m: told + m)
            else:
                assert result == expected, told
        elif isinstance(self.result, str) and self.result:
            first = result[0] if isinstance(result, tuple) else result
            numbers = Numbers(self.result, any_dtype=True)
            kinds = [replace(numbers, kind=kind) for kind in ("float", "int", "bool")]
            assert any(kind.fits(first, dict(axes)) for kind in kinds), (
                f"{tuple(first.shape)} {first.dtype} instead of {self.result}: {told}"
            )


def _build(value: Any, built: dict[int, KVCache]) -> Any:
    if isinstance(value, Room):
        return built.setdefault(id(value), value.build())
    if type(value) in (list, tuple) and any(isinstance(each, Room) for each in value):
        return [_build(each, built) for each in value]
    return value


def _tensors(result: Any) -> list[Tensor]:
    if isinstance(result, Tensor):
        return [result]
    return [t for each in result for t in _tensors(each)] if type(result) in (tuple, list) else []


def _told(value: Any) -> str:
    if isinstance(value, Tensor):
        small = f" {value.tolist()}" if value.numel() < 9 and not value.is_meta else ""
        return f"<{tuple(value.shape)} {value.dtype} {value.device}{small}>"
    return repr(value)


def _shown(value: Any) -> set[str]:
    """What a message may show of a value: any of these will do."""
    rooms = [value] if isinstance(value, Room) else value
    if isinstance(rooms, list | tuple) and any(isinstance(each, Room) for each in rooms):
        numbers = [n for each in rooms for n in getattr(each, "__dict__", {}).values()]
        return {str(n) for n in (*numbers, len(rooms), "both", "no memory") if n is not None}
    if value is None:
        return {"None", "neither", "both", "lack", "the scores", "cached"}
    if callable(value):  # what it returns is shown
        return {""}
    if not isinstance(value, Tensor):
        sized = isinstance(value, str | list | tuple | dict)
        length = {str(len(value))} if sized else set()
        return {
            repr(value),
            type(value).__name__,
            str(value),
            "shape is ()",
            "both",
            "none",
        } | length
    ends = (
        [value.min(), value.max()]
        if value.numel() and not (value.is_meta or value.is_complex())
        else []
    )
    numbers = {*value.shape, value.dim(), *(end.item() for end in ends)}
    every = [] if value.is_meta else [str(value.tolist())]
    return {
        str(value.dtype),
        str(value.device),
        str(tuple(value.shape)),
        *map(str, numbers),
        *every,
        "Tensor",
        "both",
    }


def public(house: str) -> Iterator[str]:
    """Functions, classes and methods of a module of the package that take arguments."""
    module = importlib.import_module(f"transformer_lab.{house}")
    for name, thing in vars(module).items():
        if name.startswith("_") or getattr(thing, "__module__", "") != module.__name__:
            continue
        if inspect.isfunction(thing) or inspect.isclass(thing):
            yield f"{house}.{name}"
        methods = vars(thing).items() if inspect.isclass(thing) else ()
        for method, function in methods:
            taking = (
                inspect.isfunction(function)
                and function.__qualname__ == f"{name}.{method}"
                and len(inspect.signature(function).parameters) > 1
            )
            if taking and not method.startswith("_"):
                yield f"{house}.{name}.{method}"
