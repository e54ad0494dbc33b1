"""The Transformer (Vaswani et al. 2017): encoder and decoder with post-norm and sinusoidal positions."""

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

from transformer_lab.attention import MultiHeadAttention
from transformer_lab.blocks import DecoderBlock, PostNorm, TransformerBlock
from transformer_lab.checks import check_kind
from transformer_lab.feedforward import FeedForward
from transformer_lab.models.common import (
    Caches,
    EncoderDecoder,
    IsSource,
    IsToken,
    Logits,
    Memory,
    ModelConfig,
    Preset,
    Source,
    Tokens,
)
from transformer_lab.models.inputs import (
    check_ids,
    check_length,
    decoder_inputs,
    encoder_mask,
    memory_inputs,
)
from transformer_lab.positions import sinusoidal_positions


@dataclass(frozen=True, kw_only=True)
class TransformerConfig(ModelConfig):
    """Settings of a Transformer; those that nothing is said about are the paper's base model's.

    Args:
        max_positions: Longest sequence, in tokens.
        dropout: Probability of dropping a number of the embeddings and of each sublayer's output.

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

    # The models of table 3.
    base = Preset()
    big = Preset(d_model=1024, num_heads=16, d_ff=4096, dropout=0.3)


class Transformer(EncoderDecoder):
    """Writes the target token by token while it looks at the whole source.

    x = √d_model · embedding(tokens) + sinusoidal positions; blocks; logits = x embeddingᵀ. One embedding
    serves source, target and head.

    Source: Vaswani et al. 2017, section 3. Differs: it states neither norm_eps nor the first weights. Here
        torch's 1e-5, Xavier's uniform weights, and an embedding from N(0, 1/d_model), as in the authors' code.
    """

    positions: Tensor

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        c = self.config = check_kind("config", config, TransformerConfig, "a TransformerConfig")

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

    def encode(self, source: Source, *, is_token: IsSource = None) -> Memory:
        """See `EncoderDecoder.encode`."""
        check_ids("source", source, self.token_embedding)
        mask = encoder_mask(is_token, source, name="is_token of the source")
        _, positions, _ = decoder_inputs(source, is_token, None, len(self.encoder))
        x = self._embed(source, positions)
        for block in self.encoder:
            x = block(x, mask=mask)
        return x

    def decode(
        self,
        target: Tokens,
        memory: Memory | None = None,
        *,
        memory_is_token: IsSource = None,
        is_token: IsToken = None,
        caches: Caches = None,
    ) -> Logits:
        """See `EncoderDecoder.decode`."""
        c = self.config
        check_ids("target", target, self.token_embedding)
        mask, positions, each = decoder_inputs(target, is_token, caches, c.num_layers)
        asked, memory_mask = memory_inputs(memory, memory_is_token, caches, target, c)
        x = self._embed(target, positions)
        for block, seen, cache in zip(self.decoder, asked, each, strict=True):
            x = block(x, seen, memory_mask=memory_mask, mask=mask, cache=cache)
        return F.linear(x, self.token_embedding.weight)

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
