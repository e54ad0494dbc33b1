"""GLM (Du et al. 2022): fills in blanks. A prefix seen both ways, spans left to right, two positions each."""

from dataclasses import dataclass

from jaxtyping import Int
from torch import Tensor, nn
from torch.nn import functional as F

from transformer_lab import checks
from transformer_lab.attention import MultiHeadAttention
from transformer_lab.blocks import PreNorm, TransformerBlock
from transformer_lab.feedforward import FeedForward
from transformer_lab.masks import prefix_mask, token_mask
from transformer_lab.models.common import Caches, Decoder, IsToken, Logits, Tokens, init_normal_
from transformer_lab.models.settings import ModelConfig, Preset


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

    # As large as those of BERT.
    base = Preset()
    large = Preset(d_model=1024, num_layers=24, num_heads=16, d_ff=4096)


class GLM(Decoder):
    """Predicts the tokens of spans, one after the other, from a text that it sees whole.

    x = embedding(tokens) + position_embedding + span_embedding; blocks under a prefix mask;
    logits = norm(x) embeddingᵀ.

    Source: Du et al. 2022, sections 2.1 to 2.3; weights scaled by depth: Shoeybi et al. 2019, section 3.
        Differs: the paper says GELU; here its tanh form, as in the authors' code.
    """

    who_sees_whom = "prefix mask"

    def __init__(self, config: GLMConfig) -> None:
        super().__init__()
        c = self.config = checks.kind("config", config, GLMConfig, "a GLMConfig")
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
        """Logits of the token after each of these; `data.blank_infilling` makes the arguments.

        Args:
            tokens: Token ids; with caches, those that are new. The first call has all of part A.
            positions: Place of each in part A, or of its blank.
            span_positions: 0 in part A, 1, 2, … within each span.
            prefix_lengths: Length of each part A, padding before it included.
            is_token: True = a token, False = padding, over all tokens, the cached ones included.
            caches: From `new_caches`; they take up the new tokens.

        Raises: ValueError if shapes, ids or lengths don't fit.
        """
        _, _, each, total = self._inputs(tokens, is_token, caches)
        checks.ids("positions", positions, self.position_embedding, like=tokens)
        checks.ids("span_positions", span_positions, self.span_embedding, like=tokens)
        mask = prefix_mask(prefix_lengths, total)[:, :, total - tokens.shape[1] :]
        checks.one_each("prefix_lengths", prefix_lengths, tokens)
        if is_token is not None:
            mask = mask & token_mask(is_token)
        x = self.token_embedding(tokens) + self.position_embedding(positions)
        x = self.dropout(x + self.span_embedding(span_positions))
        for block, cache in zip(self.blocks, each, strict=True):
            x = block(x, mask=mask, cache=cache)
        return F.linear(self.final_norm(x), self.token_embedding.weight)
