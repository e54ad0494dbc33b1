"""What all models share: the kinds of their inputs, masks, caches, first weights."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeAlias

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from transformer_lab import checks
from transformer_lab.cache import KeysValues, KVCache
from transformer_lab.masks import causal_mask, token_mask

# `new`: the tokens of this call; `all`: with those in the caches. True = a token, False = padding.
Tokens: TypeAlias = Int[Tensor, "batch new"]
IsToken: TypeAlias = Bool[Tensor, "batch all"] | None
Logits: TypeAlias = Float[Tensor, "batch new vocab"]
Source: TypeAlias = Int[Tensor, "batch source"]
IsSource: TypeAlias = Bool[Tensor, "batch source"] | None
Memory: TypeAlias = Float[Tensor, "batch source d_model"]
Caches: TypeAlias = Sequence[KVCache] | None
Blocks: TypeAlias = Sequence[Callable[..., Tensor]]


class Decoder(nn.Module):
    """What models that are one stack of causal blocks share."""

    who_sees_whom = "causal mask"
    token_embedding: nn.Embedding
    blocks: Any  # an nn.ModuleList, of which nn.Module's own stubs say too little

    def new_caches(self, batch: int, max_len: int) -> list[KVCache]:
        """An empty cache for each layer, for so many sequences of at most max_len tokens, padding included."""
        return [_new_cache(block, batch, max_len) for block in self.blocks]

    def _inputs(
        self, tokens: Tensor, is_token: Tensor | None, caches: Caches
    ) -> tuple[Tensor | None, Tensor, Sequence[KVCache | None], int]:
        checks.ids("tokens", tokens, self.token_embedding)
        return _decoder_inputs(tokens, is_token, caches, len(self.blocks))


class EncoderDecoder(nn.Module):
    """What models that write a target while they look at a source share: all but the sums of their parts.

    A model has `token_embedding`, `encoder` and `decoder`, and defines `_read` and `_write`. These get the
    token ids, where the tokens stand, and the blocks of their stack, each ready to be called with x alone.
    """

    who_sees_whom = "causal mask"
    token_embedding: nn.Embedding
    encoder: nn.ModuleList
    decoder: nn.ModuleList

    def _read(self, source: Tensor, positions: Tensor, blocks: Blocks) -> Tensor:
        """One vector for each token of the source."""
        raise NotImplementedError

    def _write(self, target: Tensor, positions: Tensor, blocks: Blocks, keys: int) -> Tensor:
        """Logits of the token after each one of the target, from so many tokens with the cached ones."""
        raise NotImplementedError

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
        checks.ids("source", source, self.token_embedding)
        mask = encoder_mask(is_token, source, name="is_token of the source")
        _, positions, *_ = _decoder_inputs(source, is_token, None, len(self.encoder))
        return self._read(source, positions, [partial(block, mask=mask) for block in self.encoder])

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
        checks.ids("target", target, self.token_embedding)
        mask, positions, each, keys = _decoder_inputs(target, is_token, caches, len(self.decoder))
        if memory is not None:
            checks.memory(memory, target, self.token_embedding.embedding_dim)
        asked, memory_mask = _memory_inputs(memory, memory_is_token, caches, target, len(each))
        blocks = [
            partial(block, memory=seen, memory_mask=memory_mask, mask=mask, cache=cache)
            for block, seen, cache in zip(self.decoder, asked, each, strict=True)
        ]
        return self._write(target, positions, blocks, keys)

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


def encoder_mask(
    is_token: Tensor | None, tokens: Tensor, length: int | None = None, name: str = "is_token"
) -> Tensor | None:
    """Everyone sees all tokens of the own sequence; without padding there is nothing to mask."""
    if is_token is None:
        return None
    checks.is_token(name, is_token, tokens, tokens.shape[1] if length is None else length)
    return token_mask(is_token)


def _decoder_inputs(
    tokens: Tensor, is_token: Tensor | None, caches: Caches, num_layers: int
) -> tuple[Tensor | None, Tensor, Sequence[KVCache | None], int]:
    """Who sees whom in a decoder, where the new tokens stand, each layer's cache, and how many keys there are.

    The causal mask is left as it is where there is no padding, for the sake of the fused kernel; a single
    token is the last, and sees everything. Positions are counted from each sequence's first token.
    """
    if caches is not None:
        checks.caches(caches, KVCache, num_layers, tokens.shape[1])
    past = caches[0].length if caches else 0
    new, total = tokens.shape[1], past + tokens.shape[1]
    mask: Tensor | None = None if new == 1 else causal_mask(new, total, device=tokens.device)
    seen = encoder_mask(is_token, tokens, total)
    if seen is None or is_token is None:
        positions = torch.arange(past, total, device=tokens.device)
    else:
        mask = seen if mask is None else mask & seen
        positions = (is_token.cumsum(dim=1) - 1).clamp(min=0)[:, past:]
    return mask, positions, caches or [None] * num_layers, total


def _memory_inputs(
    memory: Tensor | None, is_token: Tensor | None, caches: Caches, tokens: Tensor, layers: int
) -> tuple[Sequence[Any], Tensor | None]:
    """For each layer what its cross-attention asks, and which tokens of the source it may see."""
    name = "memory_is_token"
    if memory is None and caches is not None:
        seen = [cache.memory for cache in caches]
        if seen[0] is None:
            raise ValueError("these caches hold no memory. Make them with new_caches(memory, …).")
        return seen, encoder_mask(is_token, tokens, seen[0].key.shape[2], name)
    if memory is None or caches is not None:
        raise ValueError(
            "a decoder needs either memory or caches, which hold what they need of the memory; "
            f"it got {'neither' if memory is None else 'both'}."
        )
    return [memory] * layers, encoder_mask(is_token, tokens, memory.shape[1], name)


def _new_cache(block: Any, batch: int, max_len: int, memory: KeysValues | None = None) -> KVCache:
    weight, d_head = block.attention.key_proj.weight, block.attention.d_head
    heads, where = weight.shape[0] // d_head, {"dtype": weight.dtype, "device": weight.device}
    return KVCache(batch, max_len, heads, d_head, memory=memory, **where)
