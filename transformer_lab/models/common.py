"""What all models share: the kinds of their inputs, settings, caches, first weights."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import partial
from typing import Any, TypeAlias, TypeVar

from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from transformer_lab.cache import KeysValues, KVCache
from transformer_lab.checks import check_above, check_kind, check_probability, check_whole

# `new`: the tokens of this call; `all`: with those in the caches. True = a token, False = padding.
Tokens: TypeAlias = Int[Tensor, "batch new"]
IsToken: TypeAlias = Bool[Tensor, "batch all"] | None
Logits: TypeAlias = Float[Tensor, "batch new vocab"]
Source: TypeAlias = Int[Tensor, "batch source"]
IsSource: TypeAlias = Bool[Tensor, "batch source"] | None
Memory: TypeAlias = Float[Tensor, "batch source d_model"]
Caches: TypeAlias = Sequence[KVCache] | None
AnyConfig = TypeVar("AnyConfig", bound="ModelConfig")


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Settings that every model has; each gives them the values of its paper.

    Args:
        vocab_size: Number of different tokens.
        d_model: Features of each position.
        num_layers: Number of blocks; of an encoder, and of its decoder again.
        num_heads: Attention heads.
        d_ff: Width within the feed-forward networks.
        norm_eps: Added to the variance or mean square before its root is taken.

    Raises: TypeError if a size is no whole number; ValueError if it is below 1, a probability isn't one,
        or the heads don't divide d_model.
    """

    vocab_size: int
    d_model: int
    num_layers: int
    num_heads: int
    d_ff: int
    norm_eps: float

    def __post_init__(self) -> None:
        names = {field.name: field for field in fields(self)}
        for name, field in names.items():
            value = getattr(self, name)
            if callable(field.default):
                check_kind(name, value, Callable, f"a function such as {field.default.__name__}")
            if field.type is int or (field.type == int | None and value is not None):
                check_whole(name, value)
        check_above("norm_eps", self.norm_eps)
        if "dropout" in names:
            check_probability("dropout", getattr(self, "dropout"))  # noqa: B009
        if "d_head" not in names and self.d_model % self.num_heads:
            raise ValueError(
                f"d_model must be a multiple of num_heads; they are {self.d_model} and {self.num_heads}."
            )


class Preset:
    """A size that was published: `llama_13b = Preset(…)` in its settings, `LlamaConfig.llama_13b()` to get it.

    Args:
        like: Another preset of the same settings, from which it takes what it doesn't say.
        settings: What differs from the values of the class.

    Raises: TypeError if like is no preset; where it is called, if the class has no such setting.
    """

    def __init__(self, like: "Preset | None" = None, **settings: Any) -> None:
        if like is not None:
            settings = check_kind("like", like, Preset, "another preset").settings | settings
        self.settings: dict[str, Any] = settings

    def __get__(self, _: None, config: type[AnyConfig]) -> Callable[[], AnyConfig]:
        return partial(config, **self.settings)


class Decoder(nn.Module):
    """What models that are one stack of causal blocks share."""

    blocks: nn.ModuleList

    def new_caches(self, batch: int, max_len: int) -> list[KVCache]:
        """An empty cache for each layer, for so many sequences of at most max_len tokens, padding included."""
        return [_new_cache(block, batch, max_len) for block in self.blocks]


class EncoderDecoder(nn.Module):
    """What models that write a target while they look at a source share."""

    decoder: nn.ModuleList

    def forward(
        self,
        source: Source,
        target: Tokens,
        *,
        source_is_token: IsSource = None,
        is_token: IsToken = None,
    ) -> Logits:
        """Logits of the token after each one of the target.

        Args:
            source: Token ids of the source.
            target: Token ids of the target so far, the start token first.
            source_is_token: True = a token of the source, False = padding.
            is_token: The same for the target.

        Raises: ValueError if shapes, ids or lengths don't fit.
        """
        memory = self.encode(source, is_token=source_is_token)
        return self.decode(target, memory, memory_is_token=source_is_token, is_token=is_token)

    def encode(self, source: Source, *, is_token: IsSource = None) -> Memory:
        """One vector for each token of the source, of which is_token tells which are not padding."""
        raise NotImplementedError

    def decode(
        self,
        target: Tokens,
        memory: Memory | None = None,
        *,
        memory_is_token: IsSource = None,
        is_token: IsToken = None,
        caches: Caches = None,
    ) -> Logits:
        """Logits of the token after each one of the target.

        Args:
            target: Token ids; with caches, those that are new.
            memory: What `encode` made of the source; None with caches, which hold its keys and values.
            memory_is_token: True = a token of the source, False = padding.
            is_token: The same for the target, the cached tokens included.
            caches: From `new_caches`; they take up the new tokens of the target.

        Raises: ValueError if shapes, ids or lengths don't fit.
        """
        raise NotImplementedError

    def new_caches(self, memory: Memory, max_len: int) -> list[KVCache]:
        """A cache for each layer, with the memory's keys and values and room for max_len target tokens."""
        blocks: list[Any] = list(self.decoder)
        seen = [block.cross_attention.keys_values(memory) for block in blocks]
        each = zip(blocks, seen, strict=True)
        return [_new_cache(block, len(memory), max_len, held) for block, held in each]


def init_normal_(model: nn.Module, std: float, num_layers: int | None = None) -> None:
    """Draws the weights of linear layers and embeddings from N(0, std²), in place; biases become 0.

    With num_layers, the projections that end a sublayer get std / √(2 · num_layers): so the sum over all
    sublayers starts out as large as a single one (Radford et al. 2019, section 2.3).
    """
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            ends = name.endswith(("out_proj", "down_proj"))
            depth = 2 * num_layers if ends and num_layers else 1
            nn.init.normal_(module.weight, std=std / depth**0.5)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)


def _new_cache(block: Any, batch: int, max_len: int, memory: KeysValues | None = None) -> KVCache:
    weight, d_head = block.attention.key_proj.weight, block.attention.d_head
    heads, where = weight.shape[0] // d_head, {"dtype": weight.dtype, "device": weight.device}
    return KVCache(batch, max_len, heads, d_head, memory=memory, **where)
