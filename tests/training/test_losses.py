"""Losses against sums written out, and models called as they want to be."""

from functools import partial

import pytest
import torch
from torch import nn

from tests.training.small import VOCAB, batches, by_hand, tiny
from transformer_lab.data.batches import PairBatch
from transformer_lab.models.bert import BertConfig, BertForMaskedLM
from transformer_lab.models.t5 import T5, T5Config
from transformer_lab.models.transformer import Transformer, TransformerConfig
from transformer_lab.training import (
    counted_targets,
    masked_token_loss,
    mean_loss,
    next_token_loss,
    target_token_loss,
)

SIZES = {"vocab_size": 30, "d_model": 16, "num_layers": 1, "num_heads": 2, "d_ff": 24}


def smoothed(logits, targets, smoothing):
    """Cross-entropy with the smoothed distribution, row by row in float64."""
    total, number = 0.0, 0
    for row, target in zip(
        logits.detach().flatten(0, 1).double(), targets.flatten().tolist(), strict=True
    ):
        if target != -100:
            wanted = torch.full_like(row, smoothing / len(row))
            wanted[target] += 1 - smoothing
            total -= float(wanted @ (row - row.logsumexp(0)))
            number += 1
    return total / number


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_next_token_loss_is_the_mean_over_what_counts(smoothing):
    model, batch = tiny(), batches(1)
    loss = partial(next_token_loss, label_smoothing=smoothing)(model, batch)
    expected = smoothed(model(batch[0]), batch[1], smoothing)
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_an_indifferent_model_has_the_logarithm_of_the_vocabulary():
    loss = next_token_loss(lambda tokens: torch.zeros(*tokens.shape, VOCAB), batches(0))
    assert loss.item() == pytest.approx(torch.tensor(float(VOCAB)).log().item())


def test_nothing_to_learn_is_0_with_a_gradient_of_0():
    model = tiny()
    inputs, targets = batches(0)
    loss = next_token_loss(model, (inputs, torch.full_like(targets, -100)))
    loss.backward()
    assert loss == 0
    assert all(not w.grad.any() for w in model.parameters())


def test_half_precision_logits_are_summed_in_float32():
    logits = torch.randn(4, 6, 5000, generator=torch.Generator().manual_seed(0)).bfloat16()
    targets = torch.arange(24).view(4, 6)
    loss = next_token_loss(lambda tokens: logits, (targets, targets))
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(smoothed(logits, targets, 0.0), rel=1e-5)


def test_masked_token_loss_gives_the_model_its_padding():
    torch.manual_seed(0)
    model = BertForMaskedLM(BertConfig(**SIZES, max_positions=8)).eval()
    for weight in model.parameters():
        nn.init.normal_(weight)  # large, so that the padding makes a difference
    inputs = torch.randint(30, (3, 8))
    is_token = torch.arange(8) < torch.tensor([[8], [5], [3]])
    targets = inputs.masked_fill(torch.rand(3, 8) < 0.6, -100).masked_fill(~is_token, -100)
    with_padding = smoothed(model(inputs, is_token=is_token), targets, 0.0)
    loss = masked_token_loss(model, (inputs, is_token, targets))
    assert loss.item() == pytest.approx(with_padding, rel=1e-5)
    plain = masked_token_loss(model, (inputs, targets))
    assert plain.item() == pytest.approx(smoothed(model(inputs), targets, 0.0), rel=1e-5)
    assert plain.item() != pytest.approx(with_padding, rel=1e-3)


@pytest.mark.parametrize(
    "make",
    [
        lambda: T5(T5Config(**SIZES, d_head=8)),
        lambda: Transformer(TransformerConfig(**SIZES, max_positions=9)),
    ],
    ids=["T5", "Transformer"],
)
def test_target_token_loss_reads_source_and_target(make):
    torch.manual_seed(0)
    model = make().eval()
    source, inputs, targets = (torch.randint(30, (2, length)) for length in (7, 5, 5))
    source_is_token = torch.arange(7) < torch.tensor([[7], [4]])
    is_token = torch.arange(5) < torch.tensor([[3], [5]])
    targets = targets.masked_fill(~is_token, -100)
    batch = PairBatch(source, inputs, targets, source_is_token, is_token)
    logits = model(source, inputs, source_is_token=source_is_token, is_token=is_token)
    loss = target_token_loss(model, batch)
    assert loss.item() == pytest.approx(smoothed(logits, targets, 0.0), rel=1e-5)
    plain = target_token_loss(model, (source, inputs, targets))
    assert plain.item() == pytest.approx(smoothed(model(source, inputs), targets, 0.0), rel=1e-5)
    assert counted_targets(batch) == counted_targets((source, inputs, targets)) == 8


def test_targets_are_counted_where_they_stand():
    inputs, targets = batches(1)
    expected = sum(target != -100 for row in targets.tolist() for target in row)
    assert counted_targets((inputs, targets)) == expected
    assert counted_targets((inputs, inputs > 0, targets)) == expected


def test_mean_loss_weighs_each_target_alike():
    model = tiny(dropout=0.5)
    given = [batches(step) for step in range(3)]
    model.eval()
    total = sum(float(by_hand(model, batch)) * counted_targets(batch) for batch in given)
    model.train()
    expected = total / sum(map(counted_targets, given))
    assert mean_loss(model, given, next_token_loss) == pytest.approx(expected, rel=1e-5)
    assert all(module.training for module in model.modules())


def test_mean_loss_leaves_modes_as_they_were():
    model = tiny(dropout=0.5)
    model.blocks.eval()
    mean_loss(model, [batches(0)], next_token_loss)
    assert model.training
    assert not model.blocks.training


@pytest.mark.parametrize(
    ("use", "says"),
    [
        (
            lambda: next_token_loss(tiny(), batches(0)[:1]),
            r"must be \(inputs, targets\); .* 1 parts",
        ),
        (lambda: next_token_loss(tiny(), batches(0)[0]), "it is Tensor"),
        (lambda: masked_token_loss(tiny(), batches(0) * 2), "is_token, targets.; it is 4 parts"),
        (lambda: target_token_loss(tiny(), batches(0)), "source, inputs, targets.*2 parts"),
        (
            lambda: next_token_loss(tiny(), (batches(0)[0], batches(0)[1][:, 1:])),
            r"the shapes are \(4, 6, 11\) and \(4, 5\)",
        ),
        (lambda: next_token_loss(tiny(), batches(0), label_smoothing=1.0), "it is 1.0"),
        (lambda: counted_targets(batches(0)[:1]), "it has a single part"),
        (lambda: mean_loss(nn.Identity(), [], next_token_loss), "they hold none"),
    ],
)
@pytest.mark.usefixtures("as_a_user")
def test_bad_input_is_answered_in_words(use, says):
    with pytest.raises(ValueError, match=says):
        use()
