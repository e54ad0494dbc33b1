"""Tokens a second of a training step: forward, backward, AdamW."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks import peers
from benchmarks.limits import products
from benchmarks.measure import OURS, Figure, in_turns, rate
from transformer_lab.training import (
    BFLOAT16,
    FLOAT32,
    Precision,
    Trainer,
    adamw,
    automatic_precision,
)

SMALL = peers.Shape(vocab=65, layers=4, width=128, heads=4, context=64)
GPT = peers.Shape(vocab=65, layers=6, width=384, heads=6, context=256)
LLAMA = peers.Shape(vocab=65, layers=6, width=384, heads=6, context=256, kv_heads=2, d_ff=1024)


def figures(rounds: int) -> list[Figure]:
    """Training steps of four models, two of them in bfloat16 too."""
    tasks = [
        ("GPT 6 × 384, context 256, batch 8", peers.gpt, GPT, 8, FLOAT32, True),
        ("GPT 6 × 384, bfloat16", peers.gpt, GPT, 8, BFLOAT16, True),
        ("GPT 4 × 128, context 64, batch 12", peers.gpt, SMALL, 12, FLOAT32, True),
        ("GPT 4 × 128, bfloat16", peers.gpt, SMALL, 12, BFLOAT16, True),
        ("LLaMA 6 × 384, 2 key-value heads", peers.llama, LLAMA, 8, FLOAT32, True),
        ("BERT 6 × 384, context 256, batch 8", peers.bert, GPT, 8, FLOAT32, False),
    ]
    quick = automatic_precision("cpu").dtype == torch.bfloat16
    return [
        _figure(*task, rounds=rounds) for task in tasks if quick or task[4].dtype == torch.float32
    ]


def _figure(
    name: str,
    builders: Callable[[peers.Shape], dict[str, Callable[[], nn.Module]]],
    shape: peers.Shape,
    batch: int,
    precision: Precision,
    is_causal: bool,
    rounds: int,
) -> Figure:
    tokens = torch.randint(shape.vocab, (batch, shape.context))
    amount, repeat = tokens.numel(), max(1, 8_000 // (tokens.numel() * shape.width // 128))

    def contestant(who: str, model: nn.Module) -> Callable[[], float]:
        step = (
            _our_step(model, tokens, precision) if who == OURS else _step(model, tokens, precision)
        )
        return lambda: rate(step, amount, repeat)

    runs = {who: contestant(who, make()) for who, make in builders(shape).items()}
    n, w, inner = amount, shape.width, shape.inner
    kv = w * (shape.kv_heads or shape.heads) // shape.heads
    wide = [(n, w, inner), (n, inner, w)] + ([(n, w, inner)] if shape.kv_heads else [])
    shapes = [(n, w, w), (n, w, kv), (n, w, kv), (n, w, w), *wide, (n, w, shape.vocab)]
    heads = (batch, shape.heads, shape.context, w // shape.heads)
    limit = products(shapes, heads, is_causal, precision.dtype, shape.layers) * n
    return Figure(
        f"training step, {name}", "tokens/s", in_turns(runs, rounds), aim=1.0,
        limit=(limit, "matrix products and fused attention alone"),
    )  # fmt: skip


def _our_step(model: nn.Module, tokens: Tensor, precision: Precision) -> Callable[[], object]:
    trainer = Trainer(
        model, lambda step: (tokens, tokens), optimizer=adamw(model, 1e-4), precision=precision
    )
    return trainer.step


def _step(model: nn.Module, tokens: Tensor, precision: Precision) -> Callable[[], object]:
    """What a careful user of another library writes: fused AdamW, clipping, autocast for bfloat16."""
    optimizer = torch.optim.AdamW(model.parameters(), 1e-4, fused=True)
    half = precision.dtype == torch.bfloat16

    def step() -> float:
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            logits = model(tokens)
        loss = F.cross_entropy(logits.flatten(0, 1).float(), tokens.flatten())
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.item()

    return step
