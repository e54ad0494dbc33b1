"""GPT (Radford et al. 2018, 2019): a causal decoder with learned positions and the embedding as its head."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn
from torch.nn import functional as F

from transformer_lab import checks
from transformer_lab.attention import MultiHeadAttention
from transformer_lab.blocks import PostNorm, PreNorm, TransformerBlock
from transformer_lab.feedforward import FeedForward
from transformer_lab.models.common import Caches, Decoder, IsToken, Logits, Tokens, init_normal_
from transformer_lab.models.settings import ModelConfig, Preset


@dataclass(frozen=True, kw_only=True)
class GPTConfig(ModelConfig):
    """Settings of a GPT; those that nothing is said about are GPT-2 small's.

    Args:
        max_positions: Longest sequence, in tokens.
        dropout: Probability, everywhere that the papers drop.
        residual: The wrapper around each sublayer, made from a norm and the dropout.
        final_norm: The norm before the head, made from d_model and norm_eps.

    >>> GPTConfig.gpt2_xl().d_model
    1600
    """

    vocab_size: int = 50_257
    max_positions: int = 1024
    d_model: int = 768
    num_layers: int = 12
    num_heads: int = 12
    d_ff: int = 3072
    dropout: float = 0.1
    norm_eps: float = 1e-5
    residual: Callable[..., nn.Module] = PreNorm
    final_norm: Callable[..., nn.Module] = nn.LayerNorm

    # GPT-1, of 117M, is post-norm: its last norm is within the last block.
    gpt_1 = Preset(vocab_size=40_478, max_positions=512, residual=PostNorm, final_norm=nn.Identity)
    gpt2_small = Preset()  # 124M
    gpt2_medium = Preset(d_model=1024, num_layers=24, num_heads=16, d_ff=4096)  # 355M
    gpt2_large = Preset(d_model=1280, num_layers=36, num_heads=20, d_ff=5120)  # 774M
    gpt2_xl = Preset(d_model=1600, num_layers=48, num_heads=25, d_ff=6400)  # 1.6B


class GPT(Decoder):
    """Predicts each next token from those before it.

    x = embedding(tokens) + position_embedding; causal blocks; logits = norm(x) embeddingᵀ.

    Source: Radford et al. 2019, section 2.3; 2018, section 3.1 and 4.1 (its base, and the weights' scale).
    """

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        c = self.config = checks.kind("config", config, GPTConfig, "a GPTConfig")
        self.token_embedding = nn.Embedding(c.vocab_size, c.d_model)
        self.position_embedding = nn.Embedding(c.max_positions, c.d_model)
        self.dropout = nn.Dropout(c.dropout)
        self.blocks = nn.ModuleList(
            TransformerBlock(
                MultiHeadAttention(
                    c.d_model, c.num_heads, qkv_bias=True, out_bias=True, dropout=c.dropout
                ),
                FeedForward(c.d_model, c.d_ff, nn.GELU("tanh"), bias=True),
                residual=lambda: c.residual(nn.LayerNorm(c.d_model, c.norm_eps), c.dropout),
            )
            for _ in range(c.num_layers)
        )
        self.final_norm = c.final_norm(c.d_model, c.norm_eps)
        init_normal_(self, std=0.02, num_layers=c.num_layers)

    def forward(self, tokens: Tokens, *, is_token: IsToken = None, caches: Caches = None) -> Logits:
        """Logits of the token after each of these.

        Args:
            tokens: Token ids; with caches, those that are new.
            is_token: True = a token, False = padding, over all tokens, the cached ones included.
            caches: From `new_caches`; they take up the new tokens.

        Raises: ValueError if shapes, ids or lengths don't fit.
        """
        mask, positions, each, _ = self._inputs(tokens, is_token, caches)
        checks.max_positions(positions, self.config.max_positions)
        x = self.dropout(self.token_embedding(tokens) + self.position_embedding(positions))
        for block, cache in zip(self.blocks, each, strict=True):
            x = block(x, mask=mask, cache=cache)
        return F.linear(self.final_norm(x), self.token_embedding.weight)
