"""Tokens a second of greedy generation with a cache, at batch 1."""

import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks import peers
from benchmarks.limits import reading
from benchmarks.measure import OURS, Figure, in_turns, rate
from transformer_lab.generation import generate, stream

PROMPT, NEW = 32, 256
CONTEXT = 1_100  # room for the longest text of `growth`
GPT = peers.Shape(vocab=65, layers=6, width=384, heads=6, context=CONTEXT)
LLAMA = peers.Shape(vocab=65, layers=6, width=384, heads=6, context=CONTEXT, kv_heads=2, d_ff=1024)
# In bfloat16, with two threads: found by leaving the products out.
SHARE_OF_PRODUCTS = {"GPT": 0.72, "LLaMA": 0.58}


def figures(rounds: int) -> list[Figure]:
    """GPT and LLaMA, in float32 and with weights in bfloat16."""
    made = []
    for name, builders, shape in (("GPT", peers.gpt, GPT), ("LLaMA", peers.llama, LLAMA)):
        for dtype, aim in ((torch.float32, 1.2), (torch.bfloat16, 2.2)):
            made.append(_figure(name, builders(shape), shape, dtype, aim, rounds))
    return made


def _figure(
    name: str,
    builders: dict[str, Callable[[], nn.Module]],
    shape: peers.Shape,
    dtype: torch.dtype,
    aim: float,
    rounds: int,
) -> Figure:
    prompt = torch.randint(shape.vocab, (1, PROMPT))
    ours = builders[OURS]().eval().to(dtype)
    # Ours in bfloat16 is held against the best of the others, in whichever kind of numbers.
    runs: dict[str, Callable[[], float]] = {
        OURS: lambda: rate(lambda: generate(ours, prompt, NEW), NEW)
    }
    for half in (False, True) if dtype == torch.bfloat16 else (False,):
        theirs: Any = builders["transformers"]().eval()
        theirs = theirs.model.bfloat16() if half else theirs.model
        runs["transformers" + (", bfloat16" if half else "")] = partial(_theirs, theirs, prompt)
    kind = "bfloat16" if dtype == torch.bfloat16 else "float32"
    return Figure(
        f"greedy generation, {name} 6 × 384, {PROMPT} + {NEW} tokens, {kind}", "tokens/s",
        in_turns(runs, rounds), aim=aim, limit=(reading(ours), "reading the weights"),
        note=f"torch's products of one row take {SHARE_OF_PRODUCTS[name]:.0%} of a token, and 0.7 to 0.9 of their "
        "time in float32 instead of half; the rest is calls" if kind == "bfloat16" else "",
    )  # fmt: skip


def _theirs(model: Any, prompt: Tensor) -> float:
    settings = {"do_sample": False, "max_new_tokens": NEW, "min_new_tokens": NEW, "pad_token_id": 0}
    return rate(lambda: model.generate(prompt, **settings), NEW)


def times_by_length(
    lengths: tuple[int, ...] = (64, 128, 256, 512, 1024), rounds: int = 3
) -> dict[int, float]:
    """Milliseconds of a token when so many stand before it."""
    model = peers.gpt(GPT)[OURS]().eval()
    measured: dict[int, list[float]] = {length: [] for length in lengths}
    for _ in range(rounds):
        moments = []
        for _token in stream(model, [0], max(lengths) + 8):
            moments.append(time.perf_counter())
        for length in lengths:
            around = [moments[i + 1] - moments[i] for i in range(length - 8, length + 6)]
            measured[length].append(statistics.median(around) * 1e3)
    return {length: statistics.median(values) for length, values in measured.items()}
