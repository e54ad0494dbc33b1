"""Batches against loops; the same step gives the same batch."""

import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from transformer_lab.data import Completions, Pairs, Passes, Windows, split

PAIRS = [([n + 10] * (n % 4 + 1), [n + 50] * (n % 3)) for n in range(7)]


def make_windows(**changes):
    return Windows(**{"ids": list(range(50)), "context": 4, "batch": 3, **changes})


def make_pairs(**changes):
    settings = {"pairs": PAIRS, "batch": 3, "start_id": 1, "end_id": 2, "pad_id": 0}
    return Pairs(**{**settings, **changes})


def make_completions(**changes):
    return Completions(**{"pairs": PAIRS, "batch": 3, "end_id": 2, "pad_id": 0, **changes})


MAKERS = [make_windows, make_pairs, make_completions]


def equal(one, other):
    return len(one) == len(other) and all(map(torch.equal, one, other))


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 60), st.floats(0.01, 0.99), st.integers(0, 5))
def test_split_is_contiguous_and_leaves_room_for_windows(length, train, context):
    ids = list(range(length))
    try:
        first, second = split(ids, train, context)
    except ValueError:
        assert min(round(train * length), length - round(train * length)) < context + 1
        return
    assert first + second == ids
    assert abs(len(first) - train * length) <= 0.5
    seen = []
    for part in (first, second):
        if context:
            windows = Windows(part, context=context, batch=8)
            seen.append(
                {int(token) for batch in windows.sequential() for token in batch[1].flatten()}
            )
            assert seen[-1] <= set(part)
    assert not seen or not seen[0] & seen[1]


def test_split_takes_every_kind_of_row():
    assert split("abcdefghij", 0.7) == ("abcdefg", "hij")
    assert split([1, 2, 3], 0.34, context=0) == ([1], [2, 3])
    assert equal(split(torch.arange(4), 0.5), (torch.tensor([0, 1]), torch.tensor([2, 3])))
    assert split(np.arange(4), 0.5)[1].tolist() == [2, 3]
    assert [len(part) for part in split(list(range(100)), 0.29)] == [29, 71]
    assert [len(part) for part in split(list(range(100)))] == [90, 10]


@pytest.mark.parametrize(
    "ids",
    [
        list(range(300)),
        range(300),
        torch.arange(300, dtype=torch.int32),
        np.arange(300, dtype=np.uint16),
        np.arange(300, dtype=np.uint64),
        np.arange(300)[::-1][::-1],
    ],
    ids=lambda ids: type(ids).__name__,
)
def test_windows_of_every_kind_of_row(ids):
    inputs, targets = Windows(ids, context=5, batch=8)(3)
    assert inputs.dtype == targets.dtype == torch.int64
    assert inputs.shape == targets.shape == (8, 5)
    for row, target in zip(inputs.tolist(), targets.tolist(), strict=True):
        assert row == list(range(row[0], row[0] + 5))
        assert target == [token + 1 for token in row]
    assert inputs.is_contiguous() and targets.is_contiguous()
    assert equal((inputs, targets), Windows(list(range(300)), context=5, batch=8)(3))


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 6), st.integers(0, 6))
def test_every_window_is_drawn_and_no_other(context, more):
    length = context + 1 + more
    windows = Windows(list(range(length)), context=context, batch=64)
    starts = {start for step in range(5) for start in windows(step)[0][:, 0].tolist()}
    assert starts == set(range(more + 1))


def test_windows_are_drawn_evenly():
    windows = Windows(list(range(14)), context=4, batch=1000)
    counts = torch.bincount(windows(0)[0][:, 0], minlength=10)
    assert counts.sum() == 1000
    assert ((counts - 100).abs() < 5 * 9.5).all()  # five standard deviations of a binomial


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 40), st.integers(1, 6), st.integers(1, 4))
def test_sequential_predicts_each_token_once(length, context, batch):
    if length < context + 1:
        return
    batches = list(Windows(list(range(length)), context=context, batch=batch).sequential())
    assert all(len(inputs) == batch for inputs, _ in batches[:-1])
    inputs, targets = (torch.cat(parts).flatten().tolist() for parts in zip(*batches, strict=True))
    whole = (length - 1) // context * context
    assert inputs == list(range(whole))
    assert targets == list(range(1, whole + 1))


def starts_of(passes, steps):
    return [passes(step)[0][:, 0].tolist() for step in range(steps)]


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 7), st.integers(0, 60), st.integers(1, 5), st.integers(0, 3))
def test_a_pass_reads_each_token_once_whatever_the_batch(context, more, batch, seed):
    length = context + 1 + more
    passes = Passes(list(range(length)), context=context, batch=batch, seed=seed)
    windows = max((length - 1) // context - 1, 1)
    drawn = [start for step in starts_of(passes, 3 * windows) for start in step]
    begins = set()
    for number in range(3 * batch):  # so many passes are in so many steps
        one = sorted(drawn[number * windows : (number + 1) * windows])
        assert one == list(range(one[0], one[0] + windows * context, context))
        assert one[-1] + context + 1 <= length  # the last target is there
        begins.add(one[0])
    assert len(begins) <= length - windows * context


def test_passes_differ_in_place_and_order_and_by_the_seed():
    passes = Passes(list(range(1000)), context=10, batch=98)
    first, second = starts_of(passes, 2)  # a pass each
    assert first != sorted(first)
    assert {start % 10 for start in first} != {start % 10 for start in second}
    assert [s - min(first) for s in first] != [s - min(second) for s in second]
    assert first != starts_of(Passes(list(range(1000)), context=10, batch=98, seed=1), 1)[0]
    begins = {min(step) for step in starts_of(passes, 200)}
    assert begins == set(range(20))  # each place within reach comes first at some time


def test_a_batch_of_passes_is_a_function_of_its_step():
    ids = list(range(200))
    passes = Passes(ids, context=6, batch=7)
    forward = [passes(step) for step in range(30)]
    passes = Passes(ids, context=6, batch=7)
    for step in reversed(range(30)):
        assert equal(passes(step), forward[step])
    for inputs, targets in forward:
        assert equal(targets, inputs + 1)
    assert equal(next(passes.sequential()), next(Windows(ids, context=6, batch=7).sequential()))


@pytest.mark.parametrize(("step", "kind"), [(-1, ValueError), (0.5, TypeError), (True, TypeError)])
def test_passes_refuse_what_is_no_step(step, kind):
    with pytest.raises(kind, match="step"):
        Passes(list(range(50)), context=4, batch=3)(step)


@pytest.mark.parametrize("largest", [255, 256, 32767, 32768, 2**31 - 1, 2**31, 2**40])
def test_large_ids_survive(largest):
    inputs, targets = Windows([largest, 0, largest], context=2, batch=1)(0)
    assert (inputs.tolist(), targets.tolist()) == ([[largest, 0]], [[0, largest]])


def test_ids_are_kept_small_and_as_a_copy():
    for kind in (np.int64, np.uint8):
        ids = np.zeros(1000, dtype=kind)
        windows = Windows(ids, context=4, batch=2)
        ids[:] = 7
        assert windows(0)[0].eq(0).all()
    kept = sum(t.nbytes for t in vars(windows).values() if isinstance(t, torch.Tensor))
    assert kept == 1000


@pytest.mark.parametrize("make", MAKERS)
def test_batch_depends_on_seed_and_step_alone(make):
    one, other = make(), make()
    later = [one(step) for step in range(6)]
    random.seed(5)
    torch.manual_seed(5)
    for step in (4, 0, 4, 2):
        assert equal(other(step), later[step])
    assert equal(make(seed=0)(1), later[1])
    assert sum(equal(make(seed=1)(step), later[step]) for step in range(6)) <= 1


def test_neighbouring_seeds_and_steps_share_nothing():
    def drawn(seed, step):
        return tuple(make_windows(ids=list(range(10**5)), seed=seed)(step)[0][:, 0].tolist())

    asked = [(1, 23), (12, 3), (0, 1), (1, 0), (0, 0), (1, 1), (2, 1), (0, 2**32), (2**32, 0)]
    assert len({drawn(*each) for each in asked}) == len(asked)


@pytest.mark.usefixtures("as_a_user")  # the check of shapes draws itself
@pytest.mark.parametrize("make", MAKERS)
def test_global_generators_stay_as_they_are(make):
    before = random.getstate(), torch.get_rng_state(), np.random.get_state()[1].copy()
    make()(0)
    assert random.getstate() == before[0]
    assert torch.equal(torch.get_rng_state(), before[1])
    assert (np.random.get_state()[1] == before[2]).all()


def test_pairs_by_hand():
    batch = next(make_pairs(pairs=[([5, 0, 6], [7]), ([8], [0, 9])], batch=2).sequential())
    assert batch.source.tolist() == [[5, 0, 6], [8, 0, 0]]
    assert batch.source_is_token.tolist() == [[True] * 3, [True, False, False]]
    assert batch.inputs.tolist() == [[1, 7, 0], [1, 0, 9]]
    assert batch.targets.tolist() == [[7, 2, -100], [0, 9, 2]]
    assert batch.is_token.tolist() == [[True, True, False], [True, True, True]]
    assert [t.dtype for t in batch] == [torch.int64] * 3 + [torch.bool] * 2


rows = st.lists(st.integers(0, 9), max_size=5)
examples = st.lists(
    st.tuples(st.lists(st.integers(0, 9), min_size=1, max_size=5), rows), min_size=1
)


@settings(max_examples=40, deadline=None)
@given(examples, st.integers(1, 4), st.integers(0, 9))
def test_pairs_come_back_out_of_their_batches(pairs, batch, pad_id):
    found = []
    for each in make_pairs(pairs=pairs, batch=batch, pad_id=pad_id).sequential():
        for row in range(len(each.source)):
            read = each.source[row][each.source_is_token[row]].tolist()
            said = each.targets[row][each.targets[row] != -100].tolist()
            assert each.inputs[row][each.is_token[row]].tolist() == [1, *said[:-1]]
            assert said.pop() == 2
            assert each.source[row][~each.source_is_token[row]].eq(pad_id).all()
            assert each.inputs[row][~each.is_token[row]].eq(pad_id).all()
            found.append((read, said))
        assert (
            each.source_is_token.any(0).all() and each.is_token.any(0).all()
        )  # no padding too much
    assert found == pairs


@settings(max_examples=40, deadline=None)
@given(examples, st.integers(1, 4))
def test_completions_come_back_out_of_their_batches(pairs, batch):
    found = []
    for inputs, targets in make_completions(pairs=pairs, batch=batch, pad_id=3).sequential():
        assert inputs.shape == targets.shape
        for row, target in zip(inputs.tolist(), targets.tolist(), strict=True):
            learnt = [place for place, token in enumerate(target) if token != -100]
            assert learnt == list(range(learnt[0], learnt[-1] + 1))
            said = [target[place] for place in learnt]
            assert row[learnt[0] + 1 : learnt[-1] + 1] == said[:-1]
            assert row[learnt[-1] + 1 :] == [3] * (len(row) - learnt[-1] - 1)
            assert said.pop() == 2
            found.append((row[: learnt[0] + 1], said))
    assert found == pairs


@pytest.mark.parametrize("make", [make_pairs, make_completions])
def test_every_pair_is_drawn(make):
    first_tokens = set(make(batch=200)(0)[0][:, 0].tolist())
    assert first_tokens == {source[0] for source, _ in PAIRS}


def test_targets_of_padding_do_not_count():
    inputs, targets = make_completions()(0)
    logits = torch.randn(*inputs.shape, 60, generator=torch.Generator().manual_seed(0))
    loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten())
    log_probs = logits.log_softmax(-1)
    counted = [
        -log_probs[b, t, targets[b, t]]
        for b in range(targets.shape[0])
        for t in range(targets.shape[1])
        if targets[b, t] >= 0
    ]
    torch.testing.assert_close(loss, torch.stack(counted).mean())


def test_batches_come_out_where_told():
    assert all(t.is_meta for t in make_windows(device="meta")(0))
    assert all(t.is_meta for t in make_pairs(device="meta")(0))
    assert all(t.is_meta for t in make_completions(device="meta")(0))


def test_pairs_may_be_tensors_or_a_generator():
    pairs = ((torch.tensor(source), np.array(target, dtype=int)) for source, target in PAIRS)
    assert equal(make_pairs(pairs=pairs)(0), make_pairs()(0))


@pytest.mark.usefixtures("as_a_user")
@pytest.mark.parametrize(
    ("use", "error", "says"),
    [
        (lambda: split([1, 2], 0.0), ValueError, "train must lie between 0 and 1.* 0.0"),
        (lambda: split([1, 2], 1), ValueError, "between 0 and 1, both left out; it is 1"),
        (lambda: split([1, 2], float("nan")), ValueError, "it is nan"),
        (lambda: split([1, 2], "half"), TypeError, "train must be a number .* 'half'"),
        (lambda: split([1, 2], True), TypeError, "train must be a number .* True"),
        (lambda: split([1, 2], 0.5, -1), ValueError, "context must be at least 0"),
        (lambda: split("", 0.5), ValueError, "training part .* 1 tokens; it has 0 of 0"),
        (
            lambda: split(list(range(10)), 0.9, 1),
            ValueError,
            r"validation part must hold at least one window, context \+ 1 = 2 tokens; it has 1 of 10",
        ),
        (lambda: split(list(range(10)), 0.1, 1), ValueError, "the training part .* has 1 of 10"),
        (
            lambda: make_windows(ids=[1, 2, 3, 4]),
            ValueError,
            r"one window, .* = 5 tokens; they are 4",
        ),
        (lambda: make_windows(ids=[]), ValueError, "at least one token; they are empty"),
        (
            lambda: make_windows(ids="some text"),
            ValueError,
            "one row of token ids.*Encode the text",
        ),
        (lambda: make_windows(ids=[[1, 2], [3]]), ValueError, "rows of several lengths"),
        (
            lambda: make_windows(ids=torch.ones(9)),
            TypeError,
            "whole numbers; they hold torch.float32",
        ),
        (lambda: make_windows(ids=np.ones(9)), TypeError, "whole numbers; they hold float64"),
        (lambda: make_windows(ids=[True] * 9), TypeError, "whole numbers; they hold bool"),
        (lambda: make_windows(ids=["a"] * 9), TypeError, "whole numbers; they hold <U1"),
        (lambda: make_windows(ids=torch.ones(2, 9).long()), ValueError, r"axes \(2, 9\)"),
        (lambda: make_windows(ids=[0] * 9 + [-1]), ValueError, "0 or more; the smallest is -1"),
        (
            lambda: make_windows(ids=np.full(9, 2**63, np.uint64)),
            ValueError,
            r"below 2\*\*63; the largest",
        ),
        (lambda: make_windows(context=0), ValueError, "context must be at least 1; it is 0"),
        (lambda: make_windows(context=2.0), TypeError, "context must be a whole number; it is 2.0"),
        (lambda: make_windows(batch=0), ValueError, "batch must be at least 1"),
        (lambda: make_windows(seed=-1), ValueError, "seed must be at least 0"),
        (lambda: make_windows()(-1), ValueError, "step must be at least 0; it is -1"),
        (lambda: make_windows()(True), TypeError, "step must be a whole number; it is True"),
        (lambda: make_pairs(pairs=[]), ValueError, "at least one pair; there is none"),
        (lambda: make_pairs(pairs=[([], [1])]), ValueError, "first row of pair 0 .* is empty"),
        (
            lambda: make_pairs(pairs=[([1], [2]), [3]]),
            TypeError,
            r"pair 1 must be two rows.* \[3\]",
        ),
        (lambda: make_pairs(pairs=[("ab", [1])]), TypeError, "pair 0 .* 'a' is in it. Encode"),
        (lambda: make_pairs(pairs=[([1], [True])]), TypeError, "pair 0 .* True is in it"),
        (lambda: make_pairs(pairs=[([1], 2)]), TypeError, "pair 0 must be two rows .* 2 is no row"),
        (lambda: make_pairs(pairs=[([1], [-1])]), ValueError, "pair 0 .* 0 or more; -1 is in it"),
        (lambda: make_pairs(batch=0), ValueError, "batch must be at least 1"),
        (lambda: make_pairs(seed=-2), ValueError, "seed must be at least 0; it is -2"),
        (lambda: make_pairs(start_id=-1), ValueError, "start_id must be at least 0"),
        (lambda: make_pairs(end_id=-1), ValueError, "end_id must be at least 0"),
        (lambda: make_pairs(pad_id=-100), ValueError, "pad_id must be at least 0"),
        (lambda: make_pairs()(1.0), TypeError, "step must be a whole number; it is 1.0"),
        (lambda: make_completions(pairs=[]), ValueError, "at least one pair; there is none"),
        (lambda: make_completions(pairs=[([], [1])]), ValueError, "pair 0 .* is empty"),
        (lambda: make_completions(end_id=-1), ValueError, "end_id must be at least 0"),
        (lambda: make_completions(pad_id=None), TypeError, "pad_id must be a whole number"),
    ],
)
def test_bad_input_is_answered_in_words(use, error, says):
    with pytest.raises(error, match=says):
        use()
