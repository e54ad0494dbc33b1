"""The Transformer (Vaswani et al. 2017): encoder and decoder with post-norm and sinusoidal positions."""

from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from transformer_lab.attention import MultiHeadAttention
from transformer_lab.blocks import DecoderBlock, PostNorm, TransformerBlock
from transformer_lab.cache import KVCache
from transformer_lab.feedforward import FeedForward
from transformer_lab.models.common import (
    check_config,
    check_ids,
    check_length,
    check_memory,
    decoder_inputs,
    encoder_mask,
    new_caches,
)
from transformer_lab.positions import sinusoidal_positions


@dataclass(frozen=True, kw_only=True)
class TransformerConfig:
    """Settings of a Transformer; those that nothing is said about are the paper's base model's.

    Args:
        vocab_size: Number of different tokens, of both languages together.
        max_positions: Longest sequence, in tokens.
        d_model: Features of each position.
        num_layers: Number of blocks in the encoder, and again in the decoder.
        num_heads: Attention heads.
        d_ff: Width within the feed-forward networks.
        dropout: Probability of dropping a number of the embeddings and of each sublayer's output.
        norm_eps: Added to the variance before its root is taken.

    >>> TransformerConfig.big().d_model
    1024
    """

    vocab_size: int = 37_000
    max_positions: int = 512
    d_model: int = 512
    num_layers: int = 6
    num_heads: int = 8
    d_ff: int = 2048
    dropout: float = 0.1
    norm_eps: float = 1e-5

    def __post_init__(self) -> None:
        check_config(self)

    @classmethod
    def base(cls) -> "TransformerConfig":
        """The base model of table 3."""
        return cls()

    @classmethod
    def big(cls) -> "TransformerConfig":
        """The big model of table 3."""
        return cls(d_model=1024, num_heads=16, d_ff=4096, dropout=0.3)


class Transformer(nn.Module):
    """Writes the target token by token while it looks at the whole source.

    x = √d_model · embedding(tokens) + sinusoidal positions; blocks; logits = x embeddingᵀ. One embedding
    serves source, target and head.

    Args:
        config: The settings.

    Source:
        Vaswani et al. 2017, section 3.

    Differs from the paper:
        It states neither norm_eps nor the first weights: here torch's 1e-5, Xavier's uniform weights, and
        an embedding from N(0, 1/d_model), as in the authors' code.
    """

    positions: Tensor

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        c = self.config = config

        def attention() -> MultiHeadAttention:
            return MultiHeadAttention(c.d_model, c.num_heads)

        def feed_forward() -> FeedForward:
            return FeedForward(c.d_model, c.d_ff, F.relu, bias=True)

        def residual() -> PostNorm:
            return PostNorm(nn.LayerNorm(c.d_model, c.norm_eps), c.dropout)

        self.token_embedding = nn.Embedding(c.vocab_size, c.d_model)
        positions = sinusoidal_positions(c.max_positions, c.d_model)
        self.register_buffer("positions", positions, persistent=False)
        self.dropout = nn.Dropout(c.dropout)
        self.encoder = nn.ModuleList(
            TransformerBlock(attention(), feed_forward(), residual) for _ in range(c.num_layers)
        )
        self.decoder = nn.ModuleList(
            DecoderBlock(attention(), attention(), feed_forward(), residual)
            for _ in range(c.num_layers)
        )
        self._init_weights()

    def forward(
        self,
        source: Int[Tensor, "batch source"],
        target: Int[Tensor, "batch new"],
        *,
        source_is_token: Bool[Tensor, "batch source"] | None = None,
        is_token: Bool[Tensor, "batch all"] | None = None,
    ) -> Float[Tensor, "batch new vocab"]:
        """Logits of the token after each one of the target.

        Args:
            source: Token ids of the source.
            target: Token ids of the target so far, the start token first.
            source_is_token: True = a token of the source, False = padding.
            is_token: The same for the target.

        Raises:
            ValueError: Shapes, ids or lengths don't fit.
        """
        memory = self.encode(source, is_token=source_is_token)
        return self.decode(target, memory, memory_is_token=source_is_token, is_token=is_token)

    def encode(
        self,
        source: Int[Tensor, "batch source"],
        *,
        is_token: Bool[Tensor, "batch source"] | None = None,
    ) -> Float[Tensor, "batch source d_model"]:
        """One vector for each token of the source.

        Args:
            source: Token ids.
            is_token: True = a token, False = padding.
        """
        check_ids("source", source, self.config.vocab_size)
        mask = encoder_mask(is_token, *source.shape)
        _, positions, _ = decoder_inputs(source, is_token, None, len(self.encoder))
        x = self._embed(source, positions)
        for block in self.encoder:
            x = block(x, mask=mask)
        return x

    def decode(
        self,
        target: Int[Tensor, "batch new"],
        memory: Float[Tensor, "batch source d_model"],
        *,
        memory_is_token: Bool[Tensor, "batch source"] | None = None,
        is_token: Bool[Tensor, "batch all"] | None = None,
        caches: Sequence[KVCache] | None = None,
    ) -> Float[Tensor, "batch new vocab"]:
        """Logits of the token after each one of the target.

        Args:
            target: Token ids; with caches, those that are new.
            memory: What `encode` made of the source.
            memory_is_token: True = a token of the source, False = padding.
            is_token: The same for the target, the cached tokens included.
            caches: From `new_caches`; they take up the new tokens of the target.
        """
        check_ids("target", target, self.config.vocab_size)
        check_memory(memory, target, self.config.d_model)
        memory_mask = encoder_mask(memory_is_token, *memory.shape[:2])
        mask, positions, each = decoder_inputs(target, is_token, caches, len(self.decoder))
        x = self._embed(target, positions)
        for block, cache in zip(self.decoder, each, strict=True):
            x = block(x, memory, memory_mask=memory_mask, mask=mask, cache=cache)
        return F.linear(x, self.token_embedding.weight)

    def new_caches(self, batch: int, max_len: int) -> list[KVCache]:
        """An empty cache for each layer of the decoder.

        Args:
            batch: Number of sequences.
            max_len: Most tokens of the target, padding included.
        """
        return new_caches(self.decoder, batch, max_len)

    def _embed(self, tokens: Tensor, positions: Tensor) -> Tensor:
        check_length(positions, self.config.max_positions)
        scaled = self.token_embedding(tokens) * self.config.d_model**0.5
        return self.dropout(scaled + self.positions[positions])

    def _init_weights(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.normal_(self.token_embedding.weight, std=self.config.d_model**-0.5)
