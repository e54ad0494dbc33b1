"""One tiny model of each kind, and how it is called."""

import torch
from torch import Tensor, nn

from transformer_lab.models.bert import (
    Bert,
    BertConfig,
    BertEncoder,
    BertForClassification,
    BertForMaskedLM,
    BertForPreTraining,
)
from transformer_lab.models.glm import GLM, GLMConfig
from transformer_lab.models.gpt import GPT, GPTConfig
from transformer_lab.models.llama import Llama, LlamaConfig
from transformer_lab.models.t5 import T5, T5Config
from transformer_lab.models.transformer import Transformer, TransformerConfig

SIZES = {"vocab_size": 30, "d_model": 16, "num_layers": 2, "num_heads": 4, "d_ff": 24}
CONFIGS = {
    "transformer": TransformerConfig(**SIZES, max_positions=12),
    "bert": BertConfig(**SIZES, max_positions=12),
    "gpt": GPTConfig(**SIZES, max_positions=12),
    "llama": LlamaConfig(**SIZES, num_kv_heads=2),
    "t5": T5Config(**SIZES, d_head=4),
    "glm": GLMConfig(**SIZES, max_positions=12, max_span=4),
}
MODELS = {
    "transformer": lambda: Transformer(CONFIGS["transformer"]),
    "encoder": lambda: BertEncoder(CONFIGS["bert"]),
    "bert": lambda: Bert(CONFIGS["bert"]),
    "masked LM": lambda: BertForMaskedLM(CONFIGS["bert"]),
    "pre-training": lambda: BertForPreTraining(CONFIGS["bert"]),
    "classes": lambda: BertForClassification(CONFIGS["bert"], 3),
    "gpt": lambda: GPT(CONFIGS["gpt"]),
    "llama": lambda: Llama(CONFIGS["llama"]),
    "t5": lambda: T5(CONFIGS["t5"]),
    "glm": lambda: GLM(CONFIGS["glm"]),
}
DECODERS = ("gpt", "llama", "transformer", "t5", "glm")


def ids(batch: int = 2, length: int = 7) -> Tensor:
    return torch.arange(batch * length).view(batch, length) % 30


def call(name: str, model: nn.Module, tokens: Tensor, **rest) -> Tensor:
    """The model's output on these tokens (as source and target), as one tensor."""
    if name in ("transformer", "t5"):
        return model(tokens, tokens, **rest)
    if name == "glm":
        places = torch.arange(tokens.shape[1], device=tokens.device).expand(tokens.shape)
        prefix = torch.full((len(tokens),), 3, device=tokens.device)
        out = model(tokens, places, (places - 2).clamp(0, 4), prefix, **rest)
        return out
    out = model(tokens, **rest)
    return torch.cat([o.flatten() for o in out]) if isinstance(out, tuple) else out
