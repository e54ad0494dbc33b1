"""Questions that blocks and models ask of their arguments; each answers with what was expected and what came."""

import math
from collections.abc import Collection, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

Kind = TypeVar("Kind")


def whole(name: str, number: int, least: int = 1) -> None:
    """Refuse what is not a whole number from `least` on."""
    if isinstance(number, bool) or not isinstance(number, int):
        raise TypeError(
            f"{name} must be a whole number; it is {number!r} ({type(number).__name__})."
        )
    if number < least:
        raise ValueError(f"{name} must be at least {least}; it is {number}.")


def above(name: str, number: float, bound: float = 0) -> None:
    """Refuse what is not a finite number above `bound`."""
    if isinstance(number, bool) or not isinstance(number, int | float):
        raise TypeError(f"{name} must be a number; it is {number!r} ({type(number).__name__}).")
    if not bound < number < math.inf:
        raise ValueError(f"{name} must be above {bound} and finite; it is {number}.")


def even(name: str, number: int) -> None:
    """Refuse what is no positive even number."""
    whole(name, number, 2)
    if number % 2:
        raise ValueError(f"{name} must be even, for features go in pairs; it is {number}.")


def stretch(name: str, number: float) -> None:
    """Refuse what is no new length over an old one, from 1 on."""
    above(name, number)
    if number < 1:
        raise ValueError(f"{name} is new length over old, at least 1; is {number} its inverse?")


def heads(d_model: int, num_heads: int, num_kv_heads: int, d_head: int | None = None) -> None:
    """Refuse heads that don't share the keys and values, or the features, evenly among them."""
    whole("d_model", d_model)
    whole("num_heads", num_heads)
    whole("num_kv_heads", num_kv_heads)
    if d_head is not None:
        whole("d_head", d_head)
    elif d_model % num_heads:
        raise ValueError(
            f"d_model must be a multiple of num_heads; they are {d_model} and {num_heads}. "
            "Or give d_head, where it can be given."
        )
    if num_heads % num_kv_heads:
        raise ValueError(
            f"num_heads must be a multiple of num_kv_heads, so that each serves as many query heads; "
            f"they are {num_heads} and {num_kv_heads}."
        )


def buckets(num_buckets: int, max_distance: int, bidirectional: bool) -> None:
    """Refuse buckets of distances that don't leave a half to single ones, in each direction."""
    directions = 2 if bidirectional else 1
    whole("num_buckets", num_buckets, 2 * directions)
    if num_buckets % directions:
        raise ValueError(f"num_buckets must be even, half for each side; it is {num_buckets}.")
    whole("max_distance", max_distance, num_buckets // directions // 2 + 1)


def probability(name: str, number: float) -> None:
    """Refuse what is no probability below 1: with 1 nothing would be left."""
    if isinstance(number, bool) or not isinstance(number, int | float):
        raise TypeError(f"{name} must be a number; it is {number!r} ({type(number).__name__}).")
    if not 0 <= number < 1:
        raise ValueError(f"{name} is a probability, from 0 to below 1; it is {number}.")


def kind(name: str, value: Kind, of: Any, what: str) -> Kind:
    """Refuse what is not of a class, and return what is."""
    if not isinstance(value, of):
        raise TypeError(f"{name} must be {what}; it is a {type(value).__name__}.")
    return value


def modules(**modules: nn.Module) -> None:
    """Refuse what are no modules, or one and the same."""
    for name, module in modules.items():
        kind(name, module, nn.Module, "an nn.Module")
    if len(set(modules.values())) < len(modules):
        raise ValueError(
            f"{', '.join(modules)} must be different modules; two of them are one and the same, so "
            "that they would share their weights. Make one for each."
        )


def maker(name: str, function: Any, what: str, example: str) -> None:
    """Refuse what is no function; a module can be called, but makes nothing new."""
    if isinstance(function, nn.Module) or not callable(function):
        raise TypeError(
            f"{name} must be a function that makes {what}, such as `{example}`; "
            f"it is a {type(function).__name__}."
        )


def layer_names(paths: Collection[str], known: set[str]) -> None:
    """Refuse paths of linear layers that end in other names, and no paths."""
    unknown = [path for path in paths if path.split(".")[-1] not in known]
    if unknown or not paths:
        raise ValueError(
            f"a block's linear layers must be named {', '.join(sorted(known))}; there "
            f"{'is ' + ', '.join(unknown) if unknown else 'are none'}. Nothing was changed."
        )


def tensor(name: str, x: Tensor) -> None:
    """Refuse what is no tensor."""
    if not isinstance(x, Tensor):
        raise TypeError(
            f"{name} must be a torch.Tensor; it is a {type(x).__name__}. "
            "torch.tensor(...) makes one of numbers."
        )


def floating(name: str, x: Tensor) -> None:
    """Refuse what is no tensor of floating-point numbers."""
    tensor(name, x)
    if not x.is_floating_point():
        raise ValueError(
            f"{name} must hold floating-point numbers; it holds {x.dtype}. "
            "Token ids have to be embedded first."
        )


def whole_tensor(name: str, x: Tensor) -> None:
    """Refuse what is no tensor of integers."""
    tensor(name, x)
    if x.is_floating_point() or x.is_complex() or x.dtype == torch.bool:
        raise ValueError(f"{name} must hold integers; it holds {x.dtype}.")


def features(name: str, x: Tensor, weight: Tensor) -> None:
    """Refuse vectors that don't go through a layer: its weight has as many features in its last axis."""
    floating(name, x)
    if not x.dim() or x.shape[-1] != weight.shape[-1]:
        raise ValueError(
            f"{name} must hold vectors of {weight.shape[-1]} features, along its last axis; "
            f"its shape is {tuple(x.shape)}."
        )
    device(name, x, "the weights", weight)


def projected(name: str, x: Tensor, weight: Tensor) -> None:
    """Refuse vectors that a linear layer doesn't take."""
    features(name, x, weight)
    if x.dtype != weight.dtype:
        alike(name, x, "the weights", weight)


def rows(name: str, x: Tensor, number: int, weight: Tensor) -> None:
    """Refuse what isn't so many vectors that a linear layer takes."""
    projected(name, x, weight)
    if x.shape[:-1] != (number,):
        raise ValueError(f"{name} must have {number} rows; its shape is {tuple(x.shape)}.")


def alike(name: str, x: Tensor, other_name: str, other: Tensor) -> None:
    """Refuse floating-point numbers that are kept in two places, or in two dtypes; autocast joins those."""
    floating(name, x)
    device(name, x, other_name, other)
    if x.dtype == other.dtype:
        return
    where = x.device.type
    if where == "meta" or not torch.is_autocast_enabled(where):
        dtypes = f"{name} has {x.dtype}, {other_name} {other.dtype}"
        raise ValueError(f"{name} and {other_name} must have one dtype: {dtypes}. Convert one.")


def device(name: str, x: Tensor, other_name: str, other: Tensor) -> None:
    """Refuse tensors that are kept in two places."""
    if x.device != other.device:
        raise ValueError(
            f"{name} and {other_name} must be on one device: {name} is on {x.device}, "
            f"{other_name} on {other.device}. Move one with `.to(...)`."
        )


def kept(who: str, result: Tensor, x: Tensor) -> None:
    """Refuse a result of another shape than x: to be added, it would be broadcast in silence."""
    if result.shape != x.shape:
        raise ValueError(
            f"{who} must keep the shape of x, {tuple(x.shape)}; it returned {tuple(result.shape)}."
        )


def sequences(name: str, x: Tensor, weight: Tensor) -> None:
    """Refuse what isn't a batch of sequences of vectors that a linear layer takes."""
    projected(name, x, weight)
    if x.dim() != 3:
        raise ValueError(
            f"{name} must have the axes (batch, seq, d_model); it is {tuple(x.shape)}."
        )


def attended(query: Tensor, key: Tensor, *values: Tensor) -> None:
    """Refuse queries, keys and values that attention can't bring together."""
    for name, x in zip(("query", "key", "value"), (query, key, *values), strict=False):
        alike(name, x, "query", query)
        if x.dim() < 2:
            raise ValueError(
                f"{name} needs at least two axes (…, positions, features); its shape is {tuple(x.shape)}."
            )
    if query.shape[-1] != key.shape[-1] or query.shape[-1] == 0:
        raise ValueError(
            f"query and key must have the same number of features, one at least: query has {query.shape[-1]} "
            f"(shape {tuple(query.shape)}), key has {key.shape[-1]} (shape {tuple(key.shape)})."
        )
    if query.shape[:-2] != key.shape[:-2]:
        raise ValueError(
            f"query and key must have the same leading axes: query has {tuple(query.shape)}, "
            f"key has {tuple(key.shape)}. Repeat or expand the smaller one on purpose; it is not done in silence."
        )
    if values and values[0].shape[:-1] != key.shape[:-1]:
        raise ValueError(
            f"there must be one value for each key: key has shape {tuple(key.shape)}, value {tuple(values[0].shape)}; "
            "all axes but the last must be equal."
        )


def mask_and_bias(query: Tensor, keys: int, mask: Tensor | None, score_bias: Tensor | None) -> None:
    """Refuse a mask or score bias that doesn't fit the scores of so many keys."""
    if mask is None and score_bias is None:
        return
    scores = (*query.shape[:-1], keys)
    if mask is not None:
        tensor("mask", mask)
        if mask.dtype != torch.bool:
            raise ValueError(
                f"mask must be boolean, True = may attend; it is {mask.dtype}. "
                "Compare to make it one, for example `mask != 0`."
            )
        device("mask", mask, "query", query)
        _broadcast("mask", mask, scores)
    if score_bias is not None:
        alike("score_bias", score_bias, "query", query)
        _broadcast("score_bias", score_bias, scores)


def _broadcast(name: str, x: Tensor, scores: tuple[int, ...]) -> None:
    # Ranks must be equal: a (batch, key) mask would otherwise pass for (query, key) whenever the
    # batch happens to be as large as the number of queries.
    if x.dim() != len(scores):
        raise ValueError(
            f"{name} must have as many axes as the scores {scores}: it has {x.dim()}, "
            f"{tuple(x.shape)}. Add axes of size 1 where it is the same for all, "
            "for example `mask[:, None, None, :]`."
        )
    if any(mine != 1 and mine != theirs for mine, theirs in zip(x.shape, scores, strict=True)):
        raise ValueError(
            f"{name} must fit the scores {scores} (…, query, key), with size 1 where it is the same "
            f"for all; its shape is {tuple(x.shape)}."
        )


def keys_values(
    key: Tensor, value: Tensor, sizes: tuple[int, int, int], other_name: str, other: Tensor
) -> None:
    """Refuse keys and values of other sizes than (batch, heads, d_head), or of another kind than other's."""
    batch, heads, d_head = sizes
    tensor("key", key)
    fits = (batch, heads, key.shape[2] if key.dim() == 4 else "new", d_head)
    for name, x in (("key", key), ("value", value)):
        alike(name, x, other_name, other)
        if x.shape != fits:
            raise ValueError(
                f"{name} must have shape (batch, kv_heads, new, d_head) = {fits}; "
                f"its shape is {tuple(x.shape)}."
            )


def frequencies(frequencies: Tensor) -> None:
    """Refuse what is no row of float32."""
    tensor("frequencies", frequencies)
    if frequencies.dim() != 1 or frequencies.dtype != torch.float32 or len(frequencies) == 0:
        raise ValueError(
            "frequencies must be a row of float32, one for each pair of features; it has shape "
            f"{tuple(frequencies.shape)} and holds {frequencies.dtype}."
        )


def positions(positions: Tensor, x: Tensor) -> None:
    """Refuse positions that aren't one for each vector of x, or of each of its rows."""
    whole_tensor("positions", positions)
    fitting = [x.shape[-2:-1], x.shape[:1] + x.shape[-2:-1], torch.Size([1, x.shape[-2]])]
    if positions.shape not in fitting[: 3 if x.dim() > 2 else 1]:
        raise ValueError(
            "positions must have the shape (seq,) or (batch, seq), to go with x of shape "
            f"{tuple(x.shape)}; its shape is {tuple(positions.shape)}."
        )
    device("positions", positions, "x", x)


def turnable(name: str, x: Tensor, features: int) -> None:
    """Refuse what has no positions, or not so many features to turn."""
    floating(name, x)
    if x.dim() < 2 or x.shape[-1] < features:
        raise ValueError(
            f"{name} must have the axes (…, positions, features), with at least the {features} features "
            f"that are turned; its shape is {tuple(x.shape)}."
        )


def pairs(x: Tensor, cos: Tensor, sin: Tensor) -> None:
    """Refuse cosines and sines that aren't one for each pair of features of x."""
    for name, each in (("x", x), ("cos", cos), ("sin", sin)):
        floating(name, each)
        device(name, each, "x", x)
    same = 0 < cos.dim() <= x.dim() and cos.shape == sin.shape and x.shape[-1] == 2 * cos.shape[-1]
    axes = zip(cos.shape[-2::-1], x.shape[-2::-1], strict=False)
    if not same or any(mine != 1 and mine != its for mine, its in axes):
        raise ValueError(
            "there must be a cosine and a sine for each pair of features, which add no axes: x has shape "
            f"{tuple(x.shape)}, cos {tuple(cos.shape)}, sin {tuple(sin.shape)}."
        )


def lengths(name: str, lengths: Tensor, most: int) -> None:
    """Refuse what is no row of whole numbers from 0 to `most`."""
    whole_tensor(name, lengths)
    if lengths.dim() != 1:
        raise ValueError(
            f"{name} must be a row of integers, one for each sequence; its shape is {tuple(lengths.shape)}."
        )
    if lengths.numel() == 0 or not _can_be_read(lengths):
        return
    smallest, largest = int(lengths.min()), int(lengths.max())
    if smallest < 0 or largest > most:
        raise ValueError(
            f"{name} must lie between 0 and {most}, the padded length; it goes from {smallest} to {largest}."
        )


def token_rows(name: str, x: Tensor) -> None:
    """Refuse what doesn't say of each token of each sequence whether it is one."""
    tensor(name, x)
    if x.dim() != 2 or x.dtype != torch.bool:
        raise ValueError(
            f"{name} must be boolean with axes (batch, key), True = a token; it has shape "
            f"{tuple(x.shape)} and holds {x.dtype}."
        )


def one_each(name: str, row: Tensor, tokens: Tensor) -> None:
    """Refuse a row that hasn't one number for each sequence."""
    device(name, row, "tokens", tokens)
    if len(row) != len(tokens):
        raise ValueError(
            f"{name} must hold one number for each of the {len(tokens)} sequences; it holds {len(row)}."
        )


def ids(name: str, ids: Tensor, embedding: nn.Embedding, like: Tensor | None = None) -> None:
    """Refuse what can't be looked up in an embedding, or doesn't go with other ids."""
    tensor(name, ids)
    if ids.dim() != 2 or ids.shape[1] == 0:
        raise ValueError(
            f"{name} must have the axes (batch, seq), with one token at least; "
            f"its shape is {tuple(ids.shape)}."
        )
    if ids.dtype not in (torch.int64, torch.int32):
        raise ValueError(f"{name} must hold int64 or int32; it holds {ids.dtype}.")
    if like is not None and (ids.shape, ids.device) != (like.shape, like.device):
        raise ValueError(
            f"{name} must go with the tokens, of shape {tuple(like.shape)} on {like.device}; "
            f"its shape is {tuple(ids.shape)}, on {ids.device}."
        )
    device(name, ids, "the embedding", embedding.weight)
    # CUDA's own kernels stop at an id that is too large, and asking would wait for them.
    if ids.numel() and _can_be_read(ids) and ids.device.type != "cuda":
        smallest, largest, limit = int(ids.min()), int(ids.max()), len(embedding.weight)
        if smallest < 0 or largest >= limit:
            raise ValueError(
                f"{name} must lie between 0 and {limit - 1}; it goes from {smallest} to {largest}."
            )


def max_positions(positions: Tensor, max_positions: int) -> None:
    """Refuse positions, counted from 0, that the model has no embedding for."""
    if not positions.numel() or not _can_be_read(positions) or positions.device.type == "cuda":
        return
    if int(positions.max()) >= max_positions:
        raise ValueError(
            f"a sequence may have {max_positions} tokens at most (max_positions); "
            f"one has {int(positions.max()) + 1}. Shorten it."
        )


def is_token(name: str, is_token: Tensor, tokens: Tensor, length: int) -> None:
    """Refuse what doesn't say of each of so many tokens of each sequence whether it is one."""
    tensor(name, is_token)
    device(name, is_token, "the tokens", tokens)
    fits = (len(tokens), length)
    if is_token.shape != fits or is_token.dtype != torch.bool:
        raise ValueError(
            f"{name} must be boolean and have the shape (batch, all tokens, cached ones included) = "
            f"{fits}; it holds {is_token.dtype}, and its shape is {tuple(is_token.shape)}."
        )


def memory(memory: Tensor, target: Tensor, d_model: int) -> None:
    """Refuse what is no output of an encoder that goes with these targets."""
    tensor("memory", memory)
    if memory.dim() != 3 or (memory.shape[0], memory.shape[2]) != (len(target), d_model):
        raise ValueError(
            f"memory must have the shape (batch, source, d_model) = ({len(target)}, source, {d_model}); "
            f"its shape is {tuple(memory.shape)}."
        )
    device("memory", memory, "target", target)


def room(length: int, max_len: int, new: int) -> None:
    """Refuse more new positions than a cache has room for."""
    if length + new > max_len:
        raise ValueError(
            f"the cache holds {length} of {max_len} positions; {new} more don't fit. "
            "Make it larger, or start anew."
        )


def rows_of(name: str, rows: Tensor, kept: Tensor) -> None:
    """Refuse what doesn't name, for each row of what is kept, one of them."""
    whole_tensor(name, rows)
    batch, where = kept.shape[0], kept.device
    right = rows.shape == (batch,) and rows.device == where
    if not right or (_can_be_read(rows) and not 0 <= rows.min() <= rows.max() < batch):
        raise ValueError(
            f"{name} must name one of the {batch} sequences for each of them, on {where}; it is {rows}."
        )


def caches(caches: Sequence[Any], of: Any, num_layers: int, new: int) -> None:
    """Refuse what isn't a cache for each layer, all alike, with room for so many new tokens."""
    kind("caches", caches, list | tuple, "a list of KVCache, which new_caches makes")
    if len(caches) != num_layers:
        raise ValueError(
            f"there must be one cache for each of the {num_layers} layers; there are {len(caches)}. "
            "The model's new_caches makes them."
        )
    for cache in caches:
        kind(f"each of the {num_layers} caches", cache, of, "a KVCache")
        room(cache.length, cache.max_len, new)
    kinds = [(cache.length, *cache.kind) for cache in caches]
    if len(set(caches)) < num_layers or any(each != kinds[0] for each in kinds):
        raise ValueError(f"each layer must have a cache of its own, all alike; they are {kinds}.")


def _can_be_read(x: Tensor) -> bool:
    # A meta tensor holds no numbers, and what torch.compile follows holds none yet.
    return not x.is_meta and not torch.compiler.is_compiling()
