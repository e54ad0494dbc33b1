"""BERT (Devlin et al. 2019): an encoder that sees both ways, and the heads that it is trained with."""

from dataclasses import dataclass
from typing import TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from transformer_lab import checks
from transformer_lab.attention import MultiHeadAttention
from transformer_lab.blocks import PostNorm, TransformerBlock
from transformer_lab.feedforward import FeedForward
from transformer_lab.models.common import IsSource, Memory, Source, encoder_mask
from transformer_lab.models.settings import ModelConfig, Preset

Segments: TypeAlias = Source | None
TokenLogits: TypeAlias = Float[Tensor, "batch source vocab"]
Pooled: TypeAlias = Float[Tensor, "batch d_model"]


@dataclass(frozen=True, kw_only=True)
class BertConfig(ModelConfig):
    """Settings of a BERT; those that nothing is said about are BERT-base uncased's.

    Args:
        max_positions: Longest sequence, in tokens.
        num_segments: Number of kinds of segments (first and second sentence).
        dropout: Probability, everywhere that the paper drops.

    >>> BertConfig.large().num_layers
    24
    """

    vocab_size: int = 30_522
    max_positions: int = 512
    num_segments: int = 2
    d_model: int = 768
    num_layers: int = 12
    num_heads: int = 12
    d_ff: int = 3072
    dropout: float = 0.1
    norm_eps: float = 1e-12

    base = Preset()
    large = Preset(d_model=1024, num_layers=24, num_heads=16, d_ff=4096)


class BertEncoder(nn.Module):
    """One vector for each token, that knows of all the others.

    x = norm(embedding(tokens) + position_embedding + segment_embedding); blocks without a causal mask.

    Source: Devlin et al. 2019, section 3 and figure 2; the first weights and the norm's eps: the authors' code.
    """

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        c = self.config = checks.kind("config", config, BertConfig, "a BertConfig")
        self.token_embedding = nn.Embedding(c.vocab_size, c.d_model)
        self.position_embedding = nn.Embedding(c.max_positions, c.d_model)
        self.segment_embedding = nn.Embedding(c.num_segments, c.d_model)
        self.embedding_norm = nn.LayerNorm(c.d_model, c.norm_eps)
        self.dropout = nn.Dropout(c.dropout)
        self.blocks = nn.ModuleList(
            TransformerBlock(
                MultiHeadAttention(
                    c.d_model, c.num_heads, qkv_bias=True, out_bias=True, dropout=c.dropout
                ),
                FeedForward(c.d_model, c.d_ff, F.gelu, bias=True),
                residual=lambda: PostNorm(nn.LayerNorm(c.d_model, c.norm_eps), c.dropout),
            )
            for _ in range(c.num_layers)
        )
        self.apply(_init_weights)

    def forward(
        self, tokens: Source, *, segments: Segments = None, is_token: IsSource = None
    ) -> Memory:
        """The tokens' vectors.

        Args:
            tokens: Token ids.
            segments: Which segment each belongs to, counted from 0; all to the first when None.
            is_token: True = a token, False = padding; all are tokens when None.

        Raises: ValueError if shapes, ids or lengths don't fit.
        """
        checks.ids("tokens", tokens, self.token_embedding)
        segments = torch.zeros_like(tokens) if segments is None else segments
        checks.ids("segments", segments, self.segment_embedding, like=tokens)
        positions = torch.arange(tokens.shape[1], device=tokens.device)
        checks.max_positions(positions, self.config.max_positions)
        x = self.token_embedding(tokens) + self.position_embedding(positions)
        x = self.dropout(self.embedding_norm(x + self.segment_embedding(segments)))
        mask = encoder_mask(is_token, tokens)
        for block in self.blocks:
            x = block(x, mask=mask)
        return x


class Bert(nn.Module):
    """The encoder, and a pooler that makes one vector of a sequence from that of its first token.

    Source: Devlin et al. 2019, section 3; the pooler's tanh layer is in the authors' code.
    """

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = BertEncoder(config)
        self.pooler = nn.Linear(config.d_model, config.d_model)
        self.pooler.apply(_init_weights)

    def forward(
        self, tokens: Source, *, segments: Segments = None, is_token: IsSource = None
    ) -> tuple[Memory, Pooled]:
        """The tokens' vectors and the sequences'; arguments as in `BertEncoder.forward`."""
        x = self.encoder(tokens, segments=segments, is_token=is_token)
        return x, self.pooler(x[:, 0]).tanh()


class MaskedLMHead(nn.Module):
    """Logits of the token at each position: norm(gelu(x W + b)) embeddingᵀ + bias.

    Source: Devlin et al. 2019, section 3.1; the layer before the embedding is in the authors' code.
    """

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        checks.kind("config", config, BertConfig, "a BertConfig")
        self.dense = nn.Linear(config.d_model, config.d_model)
        self.norm = nn.LayerNorm(config.d_model, config.norm_eps)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))
        self.apply(_init_weights)

    def forward(self, x: Memory, embedding: Float[Tensor, "vocab d_model"]) -> TokenLogits:
        """Logits from the tokens' vectors; the token embedding's weight serves as the last layer's."""
        checks.projected("x", x, self.dense.weight)
        checks.rows("embedding", embedding, len(self.bias), self.dense.weight)
        return F.linear(self.norm(F.gelu(self.dense(x))), embedding, self.bias)


class BertForMaskedLM(nn.Module):
    """Guesses tokens that were masked: the encoder and its masked-language-model head.

    Source: Devlin et al. 2019, section 3.1, task 1.
    """

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = BertEncoder(config)
        self.masked_lm_head = MaskedLMHead(config)

    def forward(
        self, tokens: Source, *, segments: Segments = None, is_token: IsSource = None
    ) -> TokenLogits:
        """Logits of the token at each position; arguments as in `BertEncoder.forward`."""
        x = self.encoder(tokens, segments=segments, is_token=is_token)
        return self.masked_lm_head(x, self.encoder.token_embedding.weight)


class BertForPreTraining(nn.Module):
    """Both tasks of the pre-training: masked tokens, and whether the second segment follows the first.

    Source: Devlin et al. 2019, section 3.1.
    """

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.config = config
        self.bert = Bert(config)
        self.masked_lm_head = MaskedLMHead(config)
        self.next_sentence_head = nn.Linear(config.d_model, 2)
        self.next_sentence_head.apply(_init_weights)

    def forward(
        self, tokens: Source, *, segments: Segments = None, is_token: IsSource = None
    ) -> tuple[TokenLogits, Float[Tensor, "batch 2"]]:
        """Logits of the tokens, and of (follows, doesn't); arguments as in `BertEncoder.forward`."""
        x, pooled = self.bert(tokens, segments=segments, is_token=is_token)
        embedding = self.bert.encoder.token_embedding.weight
        return self.masked_lm_head(x, embedding), self.next_sentence_head(pooled)


class BertForClassification(nn.Module):
    """Sorts whole sequences into num_classes classes.

    Source: Devlin et al. 2019, section 3.2 and figure 4 (a), (b).
    """

    def __init__(self, config: BertConfig, num_classes: int) -> None:
        super().__init__()
        checks.whole("num_classes", num_classes)
        self.config = config
        self.bert = Bert(config)
        self.dropout = nn.Dropout(config.dropout)
        self.classifier = nn.Linear(config.d_model, num_classes)
        self.classifier.apply(_init_weights)

    def forward(
        self, tokens: Source, *, segments: Segments = None, is_token: IsSource = None
    ) -> Float[Tensor, "batch classes"]:
        """Logits of the classes; arguments as in `BertEncoder.forward`."""
        _, pooled = self.bert(tokens, segments=segments, is_token=is_token)
        return self.classifier(self.dropout(pooled))


def _init_weights(module: nn.Module) -> None:
    if isinstance(module, nn.Linear | nn.Embedding):  # cut off at two standard deviations
        nn.init.trunc_normal_(module.weight, std=0.02, a=-0.04, b=0.04)
    if isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)
