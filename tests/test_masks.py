"""Masks against loops over index pairs."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from transformer_lab.masks import (
    causal_mask,
    padding_mask,
    prefix_mask,
    sliding_window_mask,
    token_mask,
)

SIZES = st.integers(0, 7)


def by_loops(allowed, batch, queries, keys):
    return torch.tensor(
        [[[[allowed(b, i, j) for j in range(keys)] for i in range(queries)]] for b in range(batch)],
        dtype=torch.bool,
    ).reshape(batch, 1, queries, keys)


def assert_same(mask, expected):
    assert mask.dtype == torch.bool
    assert torch.equal(mask, expected)


@settings(max_examples=30, deadline=None)
@given(SIZES, SIZES)
def test_causal_ends_in_the_corner(queries, earlier):
    keys = queries + earlier
    expected = by_loops(lambda b, i, j: j <= i + earlier, 1, queries, keys)
    assert_same(causal_mask(queries, keys), expected)
    if earlier == 0:
        assert_same(causal_mask(queries), expected)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 6), min_size=1, max_size=4), st.integers(6, 8))
def test_padding(lengths, max_len):
    expected = by_loops(lambda b, i, j: j < lengths[b], len(lengths), 1, max_len)
    assert_same(padding_mask(torch.tensor(lengths), max_len), expected)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 4), st.integers(0, 6), st.integers(0, 10_000))
def test_tokens_wherever_they_stand(batch, length, seed):
    is_token = torch.rand(batch, length, generator=torch.Generator().manual_seed(seed)) > 0.4
    expected = by_loops(lambda b, i, j: bool(is_token[b, j]), batch, 1, length)
    assert_same(token_mask(is_token), expected)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 6), min_size=1, max_size=4), st.integers(6, 8))
def test_prefix(lengths, n):
    expected = by_loops(lambda b, i, j: j <= i or j < lengths[b], len(lengths), n, n)
    assert_same(prefix_mask(torch.tensor(lengths), n), expected)


@settings(max_examples=30, deadline=None)
@given(SIZES, st.integers(1, 9))
def test_sliding_window(n, window):
    expected = by_loops(lambda b, i, j: i - window < j <= i, 1, n, n)
    assert_same(sliding_window_mask(n, window), expected)


def test_masks_join():
    lengths = torch.tensor([2, 4])
    both = causal_mask(4) & padding_mask(lengths, 4)
    assert_same(both, by_loops(lambda b, i, j: j <= i and j < lengths[b], 2, 4, 4))


def test_a_causal_mask_in_numbers():
    expected = torch.tensor([[[[1.0, 1.0, 0.0], [1.0, 1.0, 1.0]]]])
    assert causal_mask(2, 3).float().dtype == torch.float32
    assert torch.equal(causal_mask(2, 3).float(), expected)
    by_row = causal_mask(2, 3).sum(dim=-1, dtype=torch.float64)
    assert torch.equal(by_row, torch.tensor([[[2.0, 3.0]]], dtype=torch.float64))


def test_masks_are_made_where_their_lengths_are():
    lengths = torch.tensor([2, 4], device="meta")
    assert padding_mask(lengths, 4).device.type == "meta"
    assert prefix_mask(lengths, 4).device.type == "meta"
    assert causal_mask(4, device="meta").device.type == "meta"
    assert sliding_window_mask(4, 2, device="meta").device.type == "meta"


def test_masks_are_made_where_torch_makes_its_tensors():
    with torch.device("meta"):
        here = torch.ones(2).device
        assert causal_mask(4).device == sliding_window_mask(4, 2).device == here


@pytest.mark.parametrize("force", [{}, {"force": False}, {"force": True}], ids=str)
def test_numpy_gets_at_the_numbers_as_torch_does(force):
    """Of a tensor elsewhere not without force: of one without numbers the two errors differ."""
    with pytest.raises((TypeError, NotImplementedError)) as theirs:
        torch.ones(3, device="meta").numpy(**force)
    with pytest.raises(theirs.type):
        causal_mask(3, device="meta").numpy(**force)


@pytest.mark.usefixtures("as_a_user")
@pytest.mark.parametrize(
    ("make", "error", "says"),
    [
        (lambda: causal_mask(-1), ValueError, "query_len must be at least 0; it is -1"),
        (lambda: causal_mask(3, -1), ValueError, "key_len must be at least 0; it is -1"),
        (lambda: causal_mask(4, 3), ValueError, "query_len=4, key_len=3.*swapped"),
        (lambda: causal_mask(2.0), TypeError, "query_len must be a whole number; it is 2.0"),
        (lambda: causal_mask(True), TypeError, "must be a whole number; it is True"),
        (lambda: padding_mask([1, 2], 3), TypeError, r"lengths must be a torch\.Tensor.* list"),
        (lambda: padding_mask(torch.tensor([[1]]), 3), ValueError, r"row of integers.*\(1, 1\)"),
        (
            lambda: padding_mask(torch.tensor([1.0]), 3),
            ValueError,
            "integers; it holds torch.float32",
        ),
        (lambda: padding_mask(torch.tensor([True]), 3), ValueError, "torch.bool"),
        (lambda: padding_mask(torch.tensor([1, 4]), 3), ValueError, "0 and 3.* from 1 to 4"),
        (lambda: padding_mask(torch.tensor([-1]), 3), ValueError, "from -1 to -1"),
        (lambda: padding_mask(torch.tensor([-1, 2]), 3), ValueError, "from -1 to 2"),
        (lambda: padding_mask(torch.tensor([1]), -1), ValueError, "max_len must be at least 0"),
        (lambda: prefix_mask(torch.tensor([5]), 4), ValueError, "prefix_lengths must lie between"),
        (lambda: prefix_mask(torch.tensor([5]), -4), ValueError, "^n must be at least 0"),
        (lambda: sliding_window_mask(4, 0), ValueError, "window must be at least 1; it is 0"),
        (lambda: sliding_window_mask(-4, 1), ValueError, "^n must be at least 0"),
        (lambda: token_mask([[True]]), TypeError, r"is_token must be a torch\.Tensor.* list"),
        (lambda: token_mask(torch.ones(2, 5)), ValueError, r"\(2, 5\) and holds torch.float32"),
    ],
)
def test_bad_input_is_answered_in_words(make, error, says):
    with pytest.raises(error, match=says):
        make()


def test_no_sequences_make_an_empty_mask():
    assert padding_mask(torch.zeros(0, dtype=torch.long), 3).shape == (0, 1, 1, 3)
