"""LLaMA 1, 2, 3 and Mistral: a causal decoder with RMSNorm, SwiGLU, rotary positions and no biases."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from torch import nn
from torch.nn import functional as F

from transformer_lab import checks
from transformer_lab.attention import MultiHeadAttention
from transformer_lab.blocks import PreNorm, TransformerBlock
from transformer_lab.feedforward import GatedFeedForward
from transformer_lab.masks import sliding_window_mask
from transformer_lab.models.common import Caches, Decoder, IsToken, Logits, Tokens, init_normal_
from transformer_lab.models.settings import ModelConfig, Preset
from transformer_lab.norms import RMSNorm
from transformer_lab.positions import RotaryEmbedding, llama3_frequencies, rope_frequencies


def rope(d_head: int, base: float = 10_000.0) -> RotaryEmbedding:
    """Plain rotary positions over a whole head of d_head features."""
    return RotaryEmbedding(rope_frequencies(d_head, base))


def llama_3_2_rope(d_head: int) -> RotaryEmbedding:
    """The rotary positions of Llama 3.2, stretched 32 times over those of Llama 3."""
    return RotaryEmbedding(llama3_frequencies(rope_frequencies(d_head, 500_000.0), factor=32.0))


LLAMA_3_ROPE = partial(rope, base=500_000.0)


@dataclass(frozen=True, kw_only=True)
class LlamaConfig(ModelConfig):
    """Settings of a LLaMA; those that nothing is said about are the first 7B's.

    Args:
        num_kv_heads: Heads of keys and values; each serves num_heads / num_kv_heads query heads.
        rotary: Makes the rotary positions for heads of a given width.
        window: Keys that a query sees at most, itself among them; all when None.
        tied: Whether the head is the embedding.

    >>> LlamaConfig.llama_2_70b().num_kv_heads
    8
    """

    vocab_size: int = 32_000
    d_model: int = 4096
    num_layers: int = 32
    num_heads: int = 32
    num_kv_heads: int = 32
    d_ff: int = 11_008
    norm_eps: float = 1e-6
    rotary: Callable[[int], RotaryEmbedding] = rope
    window: int | None = None
    tied: bool = False

    @property
    def d_head(self) -> int:
        """Features of each head."""
        return self.d_model // self.num_heads

    llama_7b = Preset()
    llama_13b = Preset(d_model=5120, num_layers=40, num_heads=40, num_kv_heads=40, d_ff=13_824)
    llama_33b = Preset(d_model=6656, num_layers=60, num_heads=52, num_kv_heads=52, d_ff=17_920)
    llama_65b = Preset(d_model=8192, num_layers=80, num_heads=64, num_kv_heads=64, d_ff=22_016)
    llama_2_70b = Preset(llama_65b, num_kv_heads=8, d_ff=28_672, norm_eps=1e-5)
    mistral_7b = Preset(num_kv_heads=8, d_ff=14_336, norm_eps=1e-5, window=4096)  # version 0.1
    llama_3_8b = Preset(mistral_7b, vocab_size=128_256, window=None, rotary=LLAMA_3_ROPE)
    llama_3_70b = Preset(llama_2_70b, vocab_size=128_256, rotary=LLAMA_3_ROPE)
    llama_3_2_1b = Preset(
        llama_3_8b, d_model=2048, num_layers=16, d_ff=8192, rotary=llama_3_2_rope, tied=True
    )


class Llama(Decoder):
    """Predicts each next token from those before it.

    x = embedding(tokens); causal blocks with rotary positions; logits = head(norm(x)).

    Source: Touvron et al. 2023a, section 2.2; grouped queries: 2023b, section 2.2; the window: Jiang et al.
        2023. Differs: none of them states the first weights; here N(0, 0.02²), as in Hugging Face's code.
    """

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        c = self.config = checks.kind("config", config, LlamaConfig, "a LlamaConfig")
        if c.window is not None:
            self.who_sees_whom = f"window of {c.window:,}"
        rotary = checks.kind("rotary(…)", c.rotary(c.d_head), RotaryEmbedding, "a RotaryEmbedding")
        self.token_embedding = nn.Embedding(c.vocab_size, c.d_model)
        self.blocks = nn.ModuleList(
            TransformerBlock(
                MultiHeadAttention(
                    c.d_model, c.num_heads, num_kv_heads=c.num_kv_heads, rotary=rotary
                ),
                GatedFeedForward(c.d_model, c.d_ff, F.silu),
                residual=lambda: PreNorm(RMSNorm(c.d_model, c.norm_eps)),
            )
            for _ in range(c.num_layers)
        )
        self.final_norm = RMSNorm(c.d_model, c.norm_eps)
        if not c.tied:
            self.lm_head = nn.Linear(c.d_model, c.vocab_size, bias=False)
        init_normal_(self, std=0.02)

    def forward(self, tokens: Tokens, *, is_token: IsToken = None, caches: Caches = None) -> Logits:
        """Logits of the token after each of these; arguments and errors as in `GPT.forward`."""
        c = self.config
        mask, positions, each, total = self._inputs(tokens, is_token, caches)
        if c.window is not None and c.window < total:
            window = sliding_window_mask(total, c.window, device=tokens.device)
            window = window[:, :, total - tokens.shape[1] :]
            mask = window if mask is None else mask & window
        x = self.token_embedding(tokens)
        rotaries = {each.attention.rotary for each in self.blocks}  # one, but for changed models
        turns = {each: each.turns(positions[..., None, :]) for each in rotaries}
        for block, cache in zip(self.blocks, each, strict=True):
            x = block(x, mask=mask, positions=turns[block.attention.rotary], cache=cache)
        head = self.token_embedding if c.tied else self.lm_head
        return F.linear(self.final_norm(x), head.weight)
