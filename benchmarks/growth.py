"""How time grows: attention with the length, generation with the length, training with parameters and tokens."""

import math
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import torch

from benchmarks import generation, peers
from benchmarks.measure import OURS, rate
from transformer_lab.attention import attention_weights, scaled_dot_product_attention
from transformer_lab.masks import causal_mask
from transformer_lab.training import Trainer, adamw


def exponent(sizes: Sequence[float], times: Sequence[float]) -> float:
    """The p of times ≈ c · sizes^p: the slope of the line through the logarithms, by least squares.

    Args:
        sizes: What was made larger.
        times: What it took.

    >>> round(exponent([1, 2, 4], [3, 12, 48]), 6)
    2.0
    """
    x, y = [math.log(s) for s in sizes], [math.log(t) for t in times]
    return statistics.linear_regression(x, y).slope


def measure(plot: Path) -> dict[str, Any]:
    """Times, fitted exponents, and one picture of both.

    Args:
        plot: Where the picture goes, a PNG.
    """
    curves = {
        "attention, fused": ("tokens", _attention(_fused, (512, 1024, 2048, 4096))),
        "attention, naive": ("tokens", _attention(_naive, (512, 1024, 2048))),
        "one token of a generation": ("tokens before it", generation.times_by_length()),
        "training step, by parameters": ("parameters", _by_parameters()),
        "training step, by tokens": ("tokens of a batch", _by_tokens()),
    }
    found = {
        name: {"axis": axis, "milliseconds": times, "exponent": exponent(list(times), list(times.values()))}
        for name, (axis, times) in curves.items()
    }  # fmt: skip
    _draw(found, plot)
    return found


def _fused(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    return scaled_dot_product_attention(q, k, v, causal_mask(q.shape[2]))


def _naive(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    return attention_weights(q, k, causal_mask(q.shape[2])) @ v


def _attention(form: Callable[..., torch.Tensor], lengths: Sequence[int]) -> dict[float, float]:
    times = {}
    for n in lengths:
        q, k, v = (torch.randn(1, 6, n, 64) for _ in range(3))
        with torch.inference_mode():
            form(q, k, v)
            times[float(n)] = 1e3 / max(rate(lambda: form(q, k, v), 1) for _ in range(5))  # noqa: B023
    return times


def _step_time(shape: peers.Shape, batch: int) -> tuple[int, float]:
    model = peers.gpt(shape)[OURS]()
    tokens = torch.randint(shape.vocab, (batch, shape.context))
    trainer = Trainer(model, lambda step: (tokens, tokens), optimizer=adamw(model, 1e-4))
    trainer.step()
    seconds = 1 / max(rate(trainer.step, 1) for _ in range(4))
    inner = sum(p.numel() for block in model.blocks for p in block.parameters())  # type: ignore[union-attr]
    return inner, seconds * 1e3


def _by_parameters() -> dict[float, float]:
    widths = ((128, 4), (256, 4), (384, 6), (512, 8))
    shapes = [peers.Shape(vocab=65, layers=4, width=w, heads=h, context=128) for w, h in widths]
    return {float(count): time for count, time in (_step_time(shape, 4) for shape in shapes)}


def _by_tokens() -> dict[float, float]:
    shape = peers.Shape(vocab=65, layers=4, width=256, heads=4, context=128)
    return {float(128 * batch): _step_time(shape, batch)[1] for batch in (2, 4, 8, 16)}


def _draw(found: dict[str, Any], path: Path) -> None:
    matplotlib.use("agg")
    from matplotlib import pyplot as plt
    from matplotlib.ticker import LogLocator, NullFormatter

    plt.style.use("transformer_lab.lab")
    figure, axes = plt.subplots(2, 2, figsize=(8, 6), layout="constrained")
    groups: dict[str, list[str]] = {}
    for name in found:
        groups.setdefault(name.split(",")[0] if "attention" in name else name, []).append(name)
    for ax, names in zip(axes.flat, groups.values(), strict=True):
        for name in names:
            sizes, times = zip(*found[name]["milliseconds"].items(), strict=True)
            label = f"{name}: exponent {found[name]['exponent']:.2f}"
            ax.plot([float(s) for s in sizes], times, marker="o", label=label)
        flat = found[names[0]]["exponent"] < 0.2  # a slope of 0 shows on an axis from 0
        ax.set(xscale="log", xlabel=found[names[0]]["axis"], ylabel="milliseconds")
        ax.set(ylim=(0, 1.5 * max(times))) if flat else ax.set_yscale("log")
        ticks = [float(size) for size in found[names[0]]["milliseconds"]]
        labels = [
            f"{t / 1e6:.1f}M" if t >= 1e6 or "para" in names[0] else f"{t:,.0f}" for t in ticks
        ]
        ax.set_xticks(ticks, labels)
        ax.tick_params(axis="x", which="minor", bottom=False, labelbottom=False)
        ax.yaxis.set_major_formatter("{x:,.0f}")
        if not flat:
            ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            ax.yaxis.set_minor_formatter(NullFormatter())
        ax.legend(fontsize=7.5)
    figure.suptitle("How time grows (two threads, the best of several runs)")
    figure.savefig(path)
    plt.close(figure)
