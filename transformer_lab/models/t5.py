"""T5 (Raffel et al. 2020): encoder and decoder with RMSNorm, relative positions and unscaled scores."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from torch import Tensor, nn
from torch.nn import functional as F

from transformer_lab import checks
from transformer_lab.attention import MultiHeadAttention
from transformer_lab.blocks import DecoderBlock, PreNorm, TransformerBlock
from transformer_lab.feedforward import FeedForward, GatedFeedForward
from transformer_lab.models.common import Blocks, EncoderDecoder
from transformer_lab.models.settings import ModelConfig, Preset
from transformer_lab.norms import RMSNorm
from transformer_lab.positions import RelativePositionBias

GELU_TANH = partial(nn.GELU, "tanh")


@dataclass(frozen=True, kw_only=True)
class T5Config(ModelConfig):
    """Settings of a T5; those that nothing is said about are T5-small's.

    Args:
        d_head: Features of each head; num_heads · d_head need not be d_model.
        dropout: Probability, everywhere that the paper drops.
        feed_forward: The feed-forward network, made from d_model, d_ff and an activation.
        activation: Makes the activation.
        tied: Whether the head is the embedding; its input is then divided by √d_model.

    >>> T5Config.v1_1_base().tied
    False
    """

    vocab_size: int = 32_128
    d_model: int = 512
    d_head: int = 64
    num_layers: int = 6
    num_heads: int = 8
    d_ff: int = 2048
    dropout: float = 0.1
    norm_eps: float = 1e-6
    feed_forward: Callable[..., nn.Module] = FeedForward
    activation: Callable[[], nn.Module] = nn.ReLU
    tied: bool = True

    small = Preset()
    base = Preset(d_model=768, num_layers=12, num_heads=12, d_ff=3072)
    v1_1_base = Preset(
        base, feed_forward=GatedFeedForward, activation=GELU_TANH, d_ff=2048, tied=False
    )
    v1_1_small = Preset(v1_1_base, d_model=512, num_layers=8, num_heads=6, d_ff=1024)


class T5(EncoderDecoder):
    """Writes the target token by token while it looks at the whole source.

    Source: Raffel et al. 2020, section 2.1; version 1.1 (gated, untied): Shazeer 2020 and the authors' code.
        Differs: the untied head starts with d_model^(-1/2), which the published code leaves to its library.
    """

    def __init__(self, config: T5Config) -> None:
        super().__init__()
        c = self.config = checks.kind("config", config, T5Config, "a T5Config")

        def attention() -> MultiHeadAttention:
            return MultiHeadAttention(
                c.d_model, c.num_heads, d_head=c.d_head, scale=1.0, dropout=c.dropout
            )

        def feed_forward() -> nn.Module:
            activation = nn.Sequential(c.activation(), nn.Dropout(c.dropout))
            return c.feed_forward(c.d_model, c.d_ff, activation)

        def residual() -> PreNorm:
            return PreNorm(RMSNorm(c.d_model, c.norm_eps), c.dropout)

        self.token_embedding = nn.Embedding(c.vocab_size, c.d_model)
        self.dropout = nn.Dropout(c.dropout)
        self.encoder_bias = RelativePositionBias(c.num_heads, bidirectional=True)
        self.decoder_bias = RelativePositionBias(c.num_heads, bidirectional=False)
        self.encoder = nn.ModuleList(
            TransformerBlock(attention(), feed_forward(), residual) for _ in range(c.num_layers)
        )
        self.decoder = nn.ModuleList(
            DecoderBlock(attention(), attention(), feed_forward(), residual)
            for _ in range(c.num_layers)
        )
        self.encoder_norm = RMSNorm(c.d_model, c.norm_eps)
        self.decoder_norm = RMSNorm(c.d_model, c.norm_eps)
        if not c.tied:
            self.lm_head = nn.Linear(c.d_model, c.vocab_size, bias=False)
        self._init_weights()

    def _read(self, source: Tensor, positions: Tensor, blocks: Blocks) -> Tensor:
        bias = self.encoder_bias(source.shape[1], source.shape[1])
        x = self.dropout(self.token_embedding(source))
        for block in blocks:
            x = block(x, score_bias=bias)
        return self.dropout(self.encoder_norm(x))

    def _write(self, target: Tensor, positions: Tensor, blocks: Blocks, keys: int) -> Tensor:
        bias = self.decoder_bias(target.shape[1], keys)
        x = self.dropout(self.token_embedding(target))
        for block in blocks:
            x = block(x, score_bias=bias)
        x = self.dropout(self.decoder_norm(x))
        if self.config.tied:
            return F.linear(x * self.config.d_model**-0.5, self.token_embedding.weight)
        return self.lm_head(x)

    def _init_weights(self) -> None:
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear):  # 1/√fan_in keeps the size of what passes
                fan_in = module.in_features
                # Scores aren't divided by √d_head: the queries are made smaller from the start.
                fan_in *= self.config.d_head if name.endswith("query_proj") else 1
                nn.init.normal_(module.weight, std=fan_in**-0.5)
        nn.init.normal_(self.token_embedding.weight)
        for bias in (self.encoder_bias, self.decoder_bias):
            nn.init.normal_(bias.table.weight, std=self.config.d_model**-0.5)
