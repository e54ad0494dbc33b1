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
    samples, limit = in_turns(runs, rounds), reading(ours)
    note = ""
    if dtype == torch.bfloat16:
        token, products = 1e3 / max(samples[OURS]), 1e3 / limit
        wide = 1e3 / reading(ours.float())
        note = (
            f"of a token's {token:.2f} ms, in the best round, torch's products of one row take {products:.2f}, "
            f"in float32 {wide:.2f}: where half the bytes aren't read in half the time, two bytes gain little. "
            "The rest is small operations and the calls to them from Python"
        )
    return Figure(
        f"greedy generation, {name} 6 × 384, {PROMPT} + {NEW} tokens, {kind}",
        "tokens/s",
        samples,
        aim=aim,
        limit=(limit, "reading the weights"),
        note=note,
    )


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
