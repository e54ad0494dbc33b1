"""The cache holds what it was given, and says so when it can't."""

import pytest
import torch

from transformer_lab.cache import KeysValues, KVCache


def new(*, length: int = 2, seed: int = 0, batch: int = 2):
    draw = torch.Generator().manual_seed(seed)
    return [torch.randn(batch, 3, length, 4, generator=draw) for _ in range(2)]


def test_what_was_appended_comes_back_in_order():
    cache = KVCache(2, 9, 3, 4)
    parts = [new(length=length, seed=length) for length in (4, 1, 2)]
    for key, value in parts:
        keys, values = cache.append(key, value)
    assert torch.equal(keys, torch.cat([key for key, _ in parts], dim=2))
    assert torch.equal(values, torch.cat([value for _, value in parts], dim=2))
    assert cache.length == 7
    assert cache.max_len == 9


def test_append_copies_nothing_of_the_past():
    cache = KVCache(2, 9, 3, 4)
    first, _ = cache.append(*new(length=4, seed=0))
    second, _ = cache.append(*new(length=1, seed=1))
    assert first.data_ptr() == second.data_ptr()


def test_select_takes_the_past_of_other_rows():
    cache = KVCache(2, 9, 3, 4)
    key, value = new(length=4, seed=0)
    cache.append(key, value)
    cache.select(torch.tensor([1, 1]))
    keys, values = cache.append(*new(length=1, seed=1))
    assert torch.equal(keys[:, :, :4], key[[1, 1]])
    assert torch.equal(values[:, :, :4], value[[1, 1]])


def test_rows_can_change_places():
    cache = KVCache(2, 9, 3, 4)
    key, value = new(length=4, seed=0)
    cache.append(key, value)
    cache.select(torch.tensor([1, 0]))
    keys, _ = cache.append(*new(length=1, seed=1))
    assert torch.equal(keys[:, :, :4], key.flip(0))


@pytest.mark.parametrize("rows", [[1, 0], [1, 1]], ids=str)
def test_rows_take_their_memory_along(rows):
    memory = KeysValues(*new(length=5, seed=2))
    cache = KVCache(2, 9, 3, 4, memory=memory)
    assert cache.memory is memory
    cache.select(torch.tensor(rows))
    assert torch.equal(cache.memory.key, torch.stack([memory.key[row] for row in rows]))
    assert torch.equal(cache.memory.value, torch.stack([memory.value[row] for row in rows]))


def test_rows_without_numbers_can_not_be_looked_at():
    cache = KVCache(2, 9, 3, 4, device="meta")
    cache.append(*(each.to("meta") for each in new(length=4, seed=0)))
    cache.select(torch.empty(2, dtype=torch.long, device="meta"))
    assert cache.length == 4


@pytest.mark.usefixtures("as_a_user")
@pytest.mark.parametrize("rows", [[0], [0, 2], [-1, 0], [[0, 1]], [0.0, 1.0], [True, False]])
def test_rows_that_are_not_there(rows):
    cache = KVCache(2, 9, 3, 4)
    with pytest.raises(ValueError, match="rows must"):
        cache.select(torch.tensor(rows))


@pytest.mark.usefixtures("as_a_user")
def test_rows_are_told_with_the_number_of_sequences():
    with pytest.raises(ValueError, match=r"one of the 2 sequences .*; it is tensor\(\[0, 2\]\)"):
        KVCache(2, 9, 3, 4).select(torch.tensor([0, 2]))
    with pytest.raises(TypeError, match=r"rows must be a torch\.Tensor; it is a list"):
        KVCache(2, 9, 3, 4).select([0, 1])


@pytest.mark.usefixtures("as_a_user")
def test_a_full_cache_takes_nothing_more():
    cache = KVCache(2, 6, 3, 4)
    cache.append(*new(length=4, seed=0))
    with pytest.raises(ValueError, match=r"holds 4 of 6 positions; 3 more don't fit"):
        cache.append(*new(length=3, seed=1))
    assert cache.length == 4
    cache.append(*new(length=2, seed=1))
    assert cache.length == 6


@pytest.mark.usefixtures("as_a_user")
@pytest.mark.parametrize("name", ["key", "value"])
def test_what_is_no_tensor_is_named(name):
    key, value = new(length=4, seed=0)
    with pytest.raises(TypeError, match=rf"{name} must be a torch\.Tensor; it is a list"):
        KVCache(2, 9, 3, 4).append(**({"key": key, "value": value} | {name: [1.0]}))


def test_lives_where_it_is_told():
    cache = KVCache(2, 9, 3, 4, dtype=torch.bfloat16, device="meta")
    keys, _ = cache.append(*(each.to("meta", torch.bfloat16) for each in new(length=4, seed=0)))
    assert keys.dtype == torch.bfloat16
    assert keys.is_meta


@pytest.mark.usefixtures("as_a_user")
@pytest.mark.parametrize(
    ("use", "says"),
    [
        (lambda: KVCache(0, 9, 3, 4), "batch must be at least 1; it is 0"),
        (lambda: KVCache(2, 9, 3, 0), "d_head must be at least 1; it is 0"),
        (lambda: KVCache(2, 3, 3, 4).append(*new(length=4, seed=0)), "holds 0 of 3 .* 4 more"),
        (
            lambda: KVCache(1, 9, 3, 4).append(*new(length=4, seed=0)),
            r"key must have shape .* \(1, 3, 4, 4\); its shape is \(2, 3, 4, 4\)",
        ),
        (
            lambda: KVCache(2, 9, 3, 4).append(new(length=4, seed=0)[0], new(length=3, seed=0)[0]),
            "value must have shape",
        ),
        (
            lambda: KVCache(2, 9, 3, 4).append(*(each.double() for each in new(length=4, seed=0))),
            "key has torch.float64, the cache torch.float32",
        ),
        (
            lambda: KVCache(2, 9, 3, 4).append(*(each[0] for each in new(length=4, seed=0))),
            r"key must have shape \(batch, kv_heads, new, d_head\) = \(2, 3, 'new', 4\); .* \(3, 4, 4\)",
        ),
        (
            lambda: KVCache(2, 9, 3, 4).append(*(each[0, 0] for each in new(length=4, seed=0))),
            r"= \(2, 3, 'new', 4\); its shape is \(4, 4\)",
        ),
        (
            lambda: KVCache(2, 9, 3, 4).append(
                new(length=4, seed=0)[0], new(length=4, seed=0)[1].double()
            ),
            "value has torch.float64, the cache torch.float32",
        ),
        (
            lambda: KVCache(2, 9, 3, 4).append(
                *(each.to("meta") for each in new(length=4, seed=0))
            ),
            "key is on meta, the cache on cpu",
        ),
    ],
)
def test_bad_input_is_answered_in_words(use, says):
    with pytest.raises(ValueError, match=says):
        use()


@pytest.mark.usefixtures("as_a_user")
@pytest.mark.parametrize(
    ("memory", "error", "says"),
    [
        (tuple(new(length=5)), TypeError, "memory must be a pair of KeysValues; it is a tuple"),
        (KeysValues(*new(batch=1)), ValueError, r"key must have shape .* = \(2, 3, 2, 4\)"),
        (
            KeysValues(*(each.double() for each in new())),
            ValueError,
            "key has torch.float64, the cache torch.float32",
        ),
    ],
)
def test_a_memory_that_does_not_fit_is_refused(memory, error, says):
    with pytest.raises(error, match=says):
        KVCache(2, 9, 3, 4, memory=memory)


def test_the_kind_of_a_cache_tells_the_length_of_its_memory():
    kinds = [
        KVCache(2, 9, 3, 4, memory=memory).kind[0]
        for memory in (None, KeysValues(*new(length=5)), KeysValues(*new(length=6)))
    ]
    assert kinds == [None, 5, 6]
