"""The Transformer (Vaswani et al. 2017): encoder and decoder with post-norm and sinusoidal positions."""

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

from transformer_lab import checks
from transformer_lab.attention import MultiHeadAttention
from transformer_lab.blocks import DecoderBlock, PostNorm, TransformerBlock
from transformer_lab.feedforward import FeedForward
from transformer_lab.models.common import Blocks, EncoderDecoder
from transformer_lab.models.settings import ModelConfig, Preset
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
        c = self.config = checks.kind("config", config, TransformerConfig, "a TransformerConfig")

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

    def _read(self, source: Tensor, positions: Tensor, blocks: Blocks) -> Tensor:
        checks.max_positions(positions, self.config.max_positions)
        x = self.token_embedding(source) * self.config.d_model**0.5
        x = self.dropout(x + self.positions[positions])
        for block in blocks:
            x = block(x)
        return x

    def _write(self, target: Tensor, positions: Tensor, blocks: Blocks, keys: int) -> Tensor:
        return F.linear(self._read(target, positions, blocks), self.token_embedding.weight)

    def _init_weights(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.normal_(self.token_embedding.weight, std=self.config.d_model**-0.5)
