"""Tiny models that differ from row to row, and generation by the plainest loop."""

import inspect

import torch
from torch import nn

from transformer_lab.models.gpt import GPT, GPTConfig
from transformer_lab.models.llama import Llama, LlamaConfig
from transformer_lab.models.t5 import T5, T5Config
from transformer_lab.models.transformer import Transformer, TransformerConfig

VOCAB = 11
SIZES = {"vocab_size": VOCAB, "d_model": 16, "num_layers": 2, "num_heads": 4, "d_ff": 24}
DECODERS = {
    "gpt": lambda: GPT(GPTConfig(**SIZES, max_positions=24)),
    "llama": lambda: Llama(LlamaConfig(**SIZES, num_kv_heads=2)),
    "window": lambda: Llama(LlamaConfig(**SIZES, num_kv_heads=2, window=3)),
}
ENCODER_DECODERS = {
    "t5": lambda: T5(T5Config(**SIZES, d_head=4)),
    "transformer": lambda: Transformer(TransformerConfig(**SIZES, max_positions=24)),
}
BOTH = DECODERS | ENCODER_DECODERS
PROMPTS = [[3, 1, 4, 1, 5], [9, 2], [6, 5, 3, 5]]
SOURCES = [[2, 7, 1, 8], [2, 8], [1, 8, 2, 8, 4, 5]]


def lively(name, seed=0):
    """A model in training mode whose logits lie far apart: weights moved by noise."""
    torch.manual_seed(seed)
    model = BOTH[name]()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.4 * torch.randn(parameter.shape))
    if name in ENCODER_DECODERS and "memory" not in inspect.signature(model.new_caches).parameters:
        old = model.new_caches
        model.new_caches = lambda memory, max_len: old(len(memory), max_len)
    return model


class WithoutCaches(nn.Module):
    """The same model, which says nothing of caches."""

    def __init__(self, model):
        super().__init__()
        self.model = model
        if hasattr(model, "encode"):
            self.encode, self.decode = model.encode, model.decode

    def forward(self, tokens, is_token=None):
        return self.model(tokens, is_token=is_token)


def logits_of(model, row, source=None):
    """Logits of the next token of a single row, computed from the start without padding."""
    tokens = torch.tensor([row])
    if source is None:
        return model(tokens)[0, -1]
    return model(torch.tensor([source]), tokens)[0, -1]


@torch.no_grad()
def by_hand(model, prompt, steps, *, source=None, pick=torch.argmax, stop=()):
    """The new tokens of one row."""
    was, row = model.training, list(prompt)
    model.eval()
    for step in range(steps):
        logits = logits_of(model, row, source)
        row.append(int(pick(logits) if pick is torch.argmax else pick(logits, row, step)))
        if row[-1] in stop:
            break
    model.train(was)
    return row[len(prompt) :]
