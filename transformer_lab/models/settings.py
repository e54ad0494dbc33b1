"""Settings of models, and the sizes that were published."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import partial
from typing import Any, TypeVar

from transformer_lab import checks

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
        own = {field.name: getattr(self, field.name) for field in fields(self)}
        for field in fields(self):
            name, value = field.name, own[field.name]
            if callable(field.default):
                checks.kind(name, value, Callable, f"a function such as {field.default.__name__}")
            if field.type is int or (field.type == int | None and value is not None):
                checks.whole(name, value)
        checks.above("norm_eps", self.norm_eps)
        checks.probability("dropout", own.get("dropout", 0.0))
        kv_heads = own.get("num_kv_heads", self.num_heads)
        checks.heads(self.d_model, self.num_heads, kv_heads, own.get("d_head"))


class Preset:
    """A size that was published: `llama_13b = Preset(…)` in its settings, `LlamaConfig.llama_13b()` to get it.

    Args:
        like: Another preset of the same settings, from which it takes what it doesn't say.
        settings: What differs from the values of the class.

    Raises: TypeError if like is no preset; where it is called, if the class has no such setting.
    """

    def __init__(self, like: "Preset | None" = None, **settings: Any) -> None:
        if like is not None:
            settings = checks.kind("like", like, Preset, "another preset").settings | settings
        self.settings: dict[str, Any] = settings

    def __get__(self, _: None, config: type[AnyConfig]) -> Callable[[], AnyConfig]:
        return partial(config, **self.settings)
