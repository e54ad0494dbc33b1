"""GLM (Du et al. 2022): fills in blanks. A prefix seen both ways, spans left to right, two positions each."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor, nn
from torch.nn import functional as F

from transformer_lab.attention import MultiHeadAttention
from transformer_lab.blocks import PreNorm, TransformerBlock
from transformer_lab.feedforward import FeedForward
from transformer_lab.masks import prefix_mask, token_mask
from transformer_lab.models.common import (
    Caches,
    Decoder,
    IsToken,
    Logits,
    ModelConfig,
    Tokens,
    check_ids,
    decoder_inputs,
    init_normal_,
)


class BlankInfilling(NamedTuple):
    """A text with blanks, and what to write into them: part A, then part B.

    Args:
        tokens: What the model reads.
        targets: The next token within a span of part B; -100 in part A, where nothing is to be told.
        positions: Place in part A; all of a span have that of their blank.
        span_positions: 0 in part A, 1, 2, … within each span.
        prefix_length: Length of part A, in tokens.
    """

    tokens: Int[Tensor, " seq"]
    targets: Int[Tensor, " seq"]
    positions: Int[Tensor, " seq"]
    span_positions: Int[Tensor, " seq"]
    prefix_length: int


def blank_infilling(
    tokens: Int[Tensor, " text"],
    spans: Sequence[tuple[int, int]],
    *,
    mask_id: int,
    start_id: int,
    end_id: int,
) -> BlankInfilling:
    """Cuts spans out of a text, puts a single mask in the place of each, and sets them behind it.

    Args:
        tokens: Token ids of the text.
        spans: First place of each span and the one after its last, in the order in which they are to
            be written; the paper shuffles them.
        mask_id: Stands for a blank in part A.
        start_id: Read before the first token of a span.
        end_id: Told after its last.

    Raises: ValueError if a span is empty, overlaps another or leaves the text.
    Source: Du et al. 2022, section 2.1 and figure 2; positions are counted from 0 here.

    >>> filled = blank_infilling(torch.arange(6), [(4, 6), (2, 3)], mask_id=90, start_id=91, end_id=92)
    >>> filled.tokens.tolist(), filled.positions.tolist()
    ([0, 1, 90, 3, 90, 91, 4, 5, 91, 2], [0, 1, 2, 3, 4, 4, 4, 4, 2, 2])
    """
    if tokens.dim() != 1 or tokens.dtype not in (torch.int64, torch.int32):
        raise ValueError(
            f"tokens must be a row of integers; it has shape {tuple(tokens.shape)} and holds {tokens.dtype}."
        )
    text, part_a, blank, reached = tokens.tolist(), [], {}, 0
    for start, end in sorted(spans):
        if not reached <= start < end <= len(text):
            raise ValueError(
                f"spans must lie within the {len(text)} tokens, hold one each and not overlap; "
                f"({start}, {end}) doesn't, after those up to {reached}."
            )
        part_a += text[reached:start]
        blank[start], reached = len(part_a), end
        part_a.append(mask_id)
    part_a += text[reached:]
    read, told = list(part_a), [-100] * len(part_a)
    positions, span_positions = list(range(len(part_a))), [0] * len(part_a)
    for start, end in spans:
        read += [start_id, *text[start:end]]
        told += [*text[start:end], end_id]
        positions += [blank[start]] * (end - start + 1)
        span_positions += range(1, end - start + 2)
    row = tokens.new_tensor
    return BlankInfilling(
        row(read), row(told), row(positions), row(span_positions), prefix_length=len(part_a)
    )


@dataclass(frozen=True, kw_only=True)
class GLMConfig(ModelConfig):
    """Settings of a GLM; those that nothing is said about are GLM-base's.

    Args:
        max_positions: Longest part A, in tokens.
        max_span: Longest span, its start token included.
        dropout: Probability, everywhere that the paper drops.

    >>> GLMConfig.large().num_layers
    24
    """

    vocab_size: int = 30_522
    max_positions: int = 512
    max_span: int = 512
    d_model: int = 768
    num_layers: int = 12
    num_heads: int = 12
    d_ff: int = 3072
    dropout: float = 0.1
    norm_eps: float = 1e-5

    @classmethod
    def base(cls) -> "GLMConfig":
        """GLM-base, as large as BERT-base."""
        return cls()

    @classmethod
    def large(cls) -> "GLMConfig":
        """GLM-large, as large as BERT-large."""
        return cls(d_model=1024, num_layers=24, num_heads=16, d_ff=4096)


class GLM(Decoder):
    """Predicts the tokens of spans, one after the other, from a text that it sees whole.

    x = embedding(tokens) + position_embedding + span_embedding; blocks under a prefix mask;
    logits = norm(x) embeddingᵀ.

    Source: Du et al. 2022, sections 2.1 to 2.3; weights scaled by depth: Shoeybi et al. 2019,
        section 3.
    Differs: The paper says GELU; here its tanh form, as in the authors' code.
    """

    def __init__(self, config: GLMConfig) -> None:
        super().__init__()
        c = self.config = config
        self.token_embedding = nn.Embedding(c.vocab_size, c.d_model)
        self.position_embedding = nn.Embedding(c.max_positions, c.d_model)
        self.span_embedding = nn.Embedding(c.max_span + 1, c.d_model)  # 0 is for part A
        self.dropout = nn.Dropout(c.dropout)
        self.blocks = nn.ModuleList(
            TransformerBlock(
                MultiHeadAttention(
                    c.d_model, c.num_heads, qkv_bias=True, out_bias=True, dropout=c.dropout
                ),
                FeedForward(c.d_model, c.d_ff, nn.GELU("tanh"), bias=True),
                residual=lambda: PreNorm(nn.LayerNorm(c.d_model, c.norm_eps), c.dropout),
            )
            for _ in range(c.num_layers)
        )
        self.final_norm = nn.LayerNorm(c.d_model, c.norm_eps)
        init_normal_(self, std=0.02, num_layers=c.num_layers)

    def forward(
        self,
        tokens: Tokens,
        positions: Tokens,
        span_positions: Tokens,
        prefix_lengths: Int[Tensor, " batch"],
        *,
        is_token: IsToken = None,
        caches: Caches = None,
    ) -> Logits:
        """Logits of the token after each of these; `blank_infilling` makes the arguments.

        Args:
            tokens: Token ids; with caches, those that are new. The first call has all of part A.
            positions: Place of each in part A, or of its blank.
            span_positions: 0 in part A, 1, 2, … within each span.
            prefix_lengths: Length of each part A, padding before it included.
            is_token: True = a token, False = padding, over all tokens, the cached ones included.
            caches: From `new_caches`; they take up the new tokens.

        Raises: ValueError if shapes, ids or lengths don't fit.
        """
        c = self.config
        check_ids("tokens", tokens, c.vocab_size)
        check_ids("positions", positions, c.max_positions, like=tokens)
        check_ids("span_positions", span_positions, c.max_span + 1, like=tokens)
        causal, _, each = decoder_inputs(tokens, is_token, caches, len(self.blocks))
        new, total = causal.shape[-2:]
        mask = prefix_mask(prefix_lengths, total)[:, :, total - new :]
        if len(prefix_lengths) != len(tokens):
            raise ValueError(
                f"there must be one prefix length for each of the {len(tokens)} sequences; "
                f"there are {len(prefix_lengths)}."
            )
        if is_token is not None:
            mask = mask & token_mask(is_token)
        x = self.token_embedding(tokens) + self.position_embedding(positions)
        x = self.dropout(x + self.span_embedding(span_positions))
        for block, cache in zip(self.blocks, each, strict=True):
            x = block(x, mask=mask, cache=cache)
        return F.linear(self.final_norm(x), self.token_embedding.weight)
