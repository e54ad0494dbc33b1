"""The same models as other libraries build them: each is called with tokens and gives logits."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from transformer_lab.models.bert import BertConfig, BertForMaskedLM
from transformer_lab.models.gpt import GPT, GPTConfig
from transformer_lab.models.llama import Llama, LlamaConfig


@dataclass(frozen=True)
class Shape:
    """Sizes that all contestants have in common."""

    vocab: int
    layers: int
    width: int
    heads: int
    context: int
    kv_heads: int | None = None
    d_ff: int | None = None

    @property
    def inner(self) -> int:
        return self.d_ff or 4 * self.width


class Logits(nn.Module):
    """A model of transformers, which answers with an object that has logits."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor) -> Tensor:
        return self.model(tokens, use_cache=False).logits


def gpt(shape: Shape) -> dict[str, Callable[[], nn.Module]]:
    """Causal decoders with LayerNorm and GPT-2's GELU.

    Its tanh takes two to three times as long as the exact GELU, which the last two choose if not asked.
    """
    s = shape

    def ours() -> nn.Module:
        return GPT(
            GPTConfig(
                vocab_size=s.vocab, max_positions=s.context, d_model=s.width, num_layers=s.layers,
                num_heads=s.heads, d_ff=s.inner, dropout=0.0,
            )
        )  # fmt: skip

    def hugging_face() -> nn.Module:
        from transformers import GPT2Config, GPT2LMHeadModel

        config = GPT2Config(
            vocab_size=s.vocab, n_positions=s.context, n_embd=s.width, n_layer=s.layers,
            n_head=s.heads, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
            bos_token_id=None, eos_token_id=None,
        )  # fmt: skip
        return Logits(GPT2LMHeadModel(config))

    def x_transformers() -> nn.Module:
        from x_transformers import Decoder, TransformerWrapper

        return TransformerWrapper(
            num_tokens=s.vocab, max_seq_len=s.context,
            attn_layers=Decoder(
                dim=s.width, depth=s.layers, heads=s.heads, attn_flash=True,
                ff_custom_activation=nn.GELU("tanh"),
            ),
        )  # fmt: skip

    def lit_gpt() -> nn.Module:
        from litgpt import model as litgpt
        from litgpt.config import Config

        return litgpt.GPT(
            Config(
                block_size=s.context, vocab_size=s.vocab, padded_vocab_size=s.vocab,
                n_layer=s.layers, n_head=s.heads, n_embd=s.width, rotary_percentage=1.0,
                norm_class_name="LayerNorm", mlp_class_name="GptNeoxMLP", bias=True,
                parallel_residual=False, intermediate_size=s.inner, gelu_approximate="tanh",
            )
        )  # fmt: skip

    return {
        "transformer_lab": ours,
        "transformers": hugging_face,
        "x-transformers": x_transformers,
        "litgpt": lit_gpt,
    }


def llama(shape: Shape) -> dict[str, Callable[[], nn.Module]]:
    """Causal decoders with RMSNorm, SwiGLU, rotary positions and grouped keys and values."""
    s = shape
    kv_heads = s.kv_heads or s.heads

    def ours() -> nn.Module:
        return Llama(
            LlamaConfig(
                vocab_size=s.vocab, d_model=s.width, num_layers=s.layers, num_heads=s.heads,
                num_kv_heads=kv_heads, d_ff=s.inner,
            )
        )  # fmt: skip

    def hugging_face() -> nn.Module:
        from transformers import LlamaConfig as Config
        from transformers import LlamaForCausalLM

        config = Config(
            vocab_size=s.vocab, hidden_size=s.width, num_hidden_layers=s.layers,
            num_attention_heads=s.heads, num_key_value_heads=kv_heads, intermediate_size=s.inner,
            max_position_embeddings=s.context, bos_token_id=None, eos_token_id=None,
        )  # fmt: skip
        return Logits(LlamaForCausalLM(config))

    def x_transformers() -> nn.Module:
        from x_transformers import Decoder, TransformerWrapper

        return TransformerWrapper(
            num_tokens=s.vocab, max_seq_len=s.context, use_abs_pos_emb=False,
            attn_layers=Decoder(
                dim=s.width, depth=s.layers, heads=s.heads, attn_flash=True, attn_kv_heads=kv_heads,
                rotary_pos_emb=True, use_rmsnorm=True, ff_glu=True, ff_swish=True, ff_no_bias=True,
                ff_mult=s.inner / s.width,
            ),
        )  # fmt: skip

    def lit_gpt() -> nn.Module:
        from litgpt import model as litgpt
        from litgpt.config import Config

        return litgpt.GPT(
            Config(
                block_size=s.context, vocab_size=s.vocab, padded_vocab_size=s.vocab,
                n_layer=s.layers, n_head=s.heads, n_embd=s.width, n_query_groups=kv_heads,
                rotary_percentage=1.0, norm_class_name="RMSNorm", mlp_class_name="LLaMAMLP",
                bias=False, parallel_residual=False, intermediate_size=s.inner,
            )
        )  # fmt: skip

    return {
        "transformer_lab": ours,
        "transformers": hugging_face,
        "x-transformers": x_transformers,
        "litgpt": lit_gpt,
    }


def bert(shape: Shape) -> dict[str, Callable[[], nn.Module]]:
    """Encoders with a masked-token head."""
    s = shape

    def ours() -> nn.Module:
        return BertForMaskedLM(
            BertConfig(
                vocab_size=s.vocab, max_positions=s.context, d_model=s.width, num_layers=s.layers,
                num_heads=s.heads, d_ff=s.inner, dropout=0.0,
            )
        )  # fmt: skip

    def hugging_face() -> nn.Module:
        from transformers import BertConfig as Config
        from transformers import BertForMaskedLM as HuggingFaceBert

        class WithoutCache(Logits):
            def forward(self, tokens: Tensor) -> Tensor:
                return self.model(tokens).logits

        config = Config(
            vocab_size=s.vocab, max_position_embeddings=s.context, hidden_size=s.width,
            num_hidden_layers=s.layers, num_attention_heads=s.heads, intermediate_size=s.inner,
            hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
        )  # fmt: skip
        return WithoutCache(HuggingFaceBert(config))

    def torchs_own() -> nn.Module:
        class Encoder(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                layer = nn.TransformerEncoderLayer(
                    s.width, s.heads, s.inner, dropout=0.0, activation="gelu", batch_first=True
                )
                self.embedding = nn.Embedding(s.vocab, s.width)
                self.positions = nn.Embedding(s.context, s.width)
                self.encoder = nn.TransformerEncoder(layer, s.layers, enable_nested_tensor=False)
                self.dense = nn.Linear(s.width, s.width)
                self.head = nn.Linear(s.width, s.vocab)

            def forward(self, tokens: Tensor) -> Any:
                x = self.embedding(tokens) + self.positions(torch.arange(tokens.shape[1]))
                return self.head(nn.functional.gelu(self.dense(self.encoder(x))))

        return Encoder()

    return {"transformer_lab": ours, "transformers": hugging_face, "torch": torchs_own}
