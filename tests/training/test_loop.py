"""The loop against steps written by hand; resumes to the last bit; what it says when it goes wrong."""

import math
import os
import signal
import struct
import sys
from functools import partial

import matplotlib
import pytest
import torch
from torch import nn

from tests.training.small import batches, by_hand, in_a_child, same, tiny
from transformer_lab.training import (
    BFLOAT16,
    FLOAT32,
    Bar,
    Checkpoints,
    Cosine,
    History,
    Lines,
    Noam,
    Precision,
    Silent,
    Trainer,
    adamw,
    automatic_precision,
    automatic_progress,
    latest,
    load,
    mean_loss,
    muon,
    next_token_loss,
)
from transformer_lab.training.loop import DivergenceError


def trainer(model, *, make=adamw, lr=0.01, **rest):
    rest = {"progress": Silent(), **rest}
    return Trainer(model, batches, optimizer=make(model, lr), **rest)


def validate(model):
    assert not model.training
    assert not torch.is_grad_enabled()
    torch.rand(1)  # whatever is drawn here must not change the training
    return mean_loss(model, [batches(100)], next_token_loss)


def test_steps_are_those_written_by_hand():
    model, expected = tiny(), tiny()
    history = trainer(model, schedule=Cosine(steps=9, warmup=3), clip=2.1).fit(6)
    optimizer, losses, rates, norms = adamw(expected, 0.01), [], [], []
    for step in range(6):
        rates.append(0.01 * Cosine(steps=9, warmup=3)(step))
        for group in optimizer.param_groups:
            group["lr"] = rates[-1]
        loss = by_hand(expected, batches(step))
        loss.backward()
        norms.append(float(nn.utils.clip_grad_norm_(expected.parameters(), 2.1)))
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    for ours, theirs in zip(model.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)
    assert history.losses == pytest.approx(losses, rel=1e-6)
    assert history.learning_rates == rates
    assert history.gradient_norms == pytest.approx(norms, rel=1e-5)
    assert max(norms) > 2.1 > min(norms)
    assert history.steps == [0, 1, 2, 3, 4, 5]
    counted = [int((batches(step)[1] != -100).sum()) for step in range(6)]
    assert history.tokens == [sum(counted[: step + 1]) for step in range(6)]


@pytest.mark.parametrize("parts", [2, 3, 4])
def test_accumulated_gradients_are_those_of_the_large_batch(parts):
    """In parts with different numbers of targets, in float64; a loss with label smoothing too."""
    whole, cut = tiny().double(), tiny().double()
    loss = partial(next_token_loss, label_smoothing=0.1)
    # Squared gradients make AdamW's first steps blind to their length: SGD isn't.
    for model, accumulate in ((whole, 1), (cut, parts)):
        sgd = torch.optim.SGD(model.parameters(), 0.5)
        one = Trainer(
            model, batches, optimizer=sgd, loss=loss, accumulate=accumulate, progress=Silent()
        )
        model.history = one.fit(4)
    for a, b in zip(whole.parameters(), cut.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6)
    assert cut.history.losses == pytest.approx(whole.history.losses, abs=1e-6)
    assert cut.history.tokens == whole.history.tokens


def test_the_same_seed_is_the_same_training_and_another_is_not():
    def train(seed):
        model = tiny(dropout=0.5)
        trainer(model, seed=seed).fit(3)
        return model

    torch.manual_seed(1)
    first = train(0)
    torch.manual_seed(2)
    assert same(first, train(0))
    assert not same(first, train(1))


def test_each_step_and_part_drops_others():
    seen = []

    class Watch(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(7))

        def forward(self, tokens):
            seen.append(torch.rand(3).tolist())
            return self.weight.expand(*tokens.shape, 7)

    model = Watch()
    clipped = [(b[0], b[1].clamp(max=6)) for b in map(batches, range(2))]
    sgd = torch.optim.SGD(model.parameters(), 0.1)
    once = Trainer(model, clipped.__getitem__, optimizer=sgd, accumulate=2, progress=Silent())
    once.fit(2)
    assert len({tuple(each) for each in seen}) == 4


def test_the_callers_random_numbers_stay_as_they_were():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    trainer(tiny(dropout=0.5)).fit(2, validate=validate)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("make", [adamw, muon])
@pytest.mark.parametrize("stop", [1, 2, 4])
def test_a_resume_is_exact(tmp_path, make, stop):
    def new():
        return trainer(
            tiny(dropout=0.3),
            make=make,
            accumulate=2,
            schedule=Cosine(steps=6, warmup=2),
            seed=3,
        )

    whole = new()
    whole.fit(6, validate=validate, every=2)
    first = new()
    first.fit(stop, checkpoints=Checkpoints(folder=tmp_path, every=1))
    second = new()
    with torch.no_grad():
        for weight in second.model.parameters():
            weight.normal_()
    second.resume(latest(tmp_path))
    assert second.history.next_step == stop
    second.fit(6)
    assert same(second.model, whole.model)
    assert second.history.losses == whole.history.losses
    assert second.history.learning_rates == whole.history.learning_rates
    assert second.history.tokens == whole.history.tokens


def test_a_training_killed_twice_ends_alike(tmp_path):
    """By kill -9, when it asks for a batch."""

    def train(last):
        def killing(step):
            if step == last:
                os.kill(os.getpid(), signal.SIGKILL)
            return batches(step)

        model = tiny(dropout=0.3)
        one = Trainer(model, killing, optimizer=muon(model, 0.01), accumulate=2, progress=Silent())
        if latest(tmp_path):
            one.resume(latest(tmp_path))
        one.fit(8, checkpoints=Checkpoints(folder=tmp_path, every=3))

    assert [in_a_child(train, last) for last in (2, 7, 99)] == [-9, -9, 0]
    whole = trainer(tiny(dropout=0.3), make=muon, accumulate=2)
    whole.fit(8)
    checkpoint = load(latest(tmp_path))
    for name, weight in whole.model.state_dict().items():
        assert torch.equal(checkpoint.weights[name], weight)
    assert History.from_json(checkpoint.rest["history"]).losses == whole.history.losses


def test_an_interrupted_step_leaves_nothing_behind():
    def interrupted(model, batch):
        calls.append(1)
        if len(calls) == 6:  # the second part of step 2
            raise KeyboardInterrupt
        return next_token_loss(model, batch)

    calls, model, whole = [], tiny(dropout=0.5), tiny(dropout=0.5)
    one = trainer(model, loss=interrupted, accumulate=2)
    with pytest.raises(KeyboardInterrupt):
        one.fit(4)
    assert one.history.steps == [0, 1]
    one.fit(4)
    trainer(whole, accumulate=2).fit(4)
    assert same(model, whole)


def test_fit_goes_on_to_the_number_of_steps_in_all():
    model, whole = tiny(), tiny()
    one = trainer(model)
    one.fit(2)
    one.fit(2)
    one.fit(5)
    trainer(whole).fit(5)
    assert same(model, whole)
    assert one.history.steps == [0, 1, 2, 3, 4]


def test_validation_comes_at_its_time_and_changes_nothing():
    model, other = tiny(dropout=0.5), tiny(dropout=0.5)
    model.blocks[0].eval()
    history = trainer(model).fit(5, validate=validate, every=2)
    assert history.validation_steps == [2, 4, 5]
    model.eval()
    assert history.validation_losses[-1] == validate_now(model)
    trainer(other).fit(5)
    assert same(model, other)


def validate_now(model):
    with torch.no_grad():
        return mean_loss(model, [batches(100)], next_token_loss)


def test_modes_are_left_as_they_were():
    model = tiny()
    model.eval()
    model.blocks[1].train()
    trainer(model).fit(1)
    assert [model.training, model.blocks[0].training, model.blocks[1].training] == [0, 0, 1]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_no_number_stops_before_the_step(tmp_path, bad):
    def breaking(model, batch):
        return next_token_loss(model, batch) * (bad if one.history.next_step == 3 else 1)

    one = trainer(tiny(), loss=breaking)
    says = rf"the loss is {bad} at step 3, with the learning rate 0.01; .*lower\s+learning rate"
    with pytest.raises(DivergenceError, match=says):
        one.fit(9, checkpoints=Checkpoints(folder=tmp_path, every=1))
    good = tiny()
    trainer(good).fit(3)
    assert same(one.model, good)
    assert all(w.grad is None for w in one.model.parameters())
    again = trainer(tiny(seed=1))
    again.resume(latest(tmp_path))
    assert same(again.model, good)
    assert again.history.steps == [0, 1, 2]


def test_a_gradient_that_is_no_number_stops_before_the_step():
    class Root(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x

        @staticmethod
        def backward(ctx, gradient):
            return gradient * math.inf

    model = tiny()
    one = trainer(model, loss=lambda m, b: Root.apply(next_token_loss(m, b)), clip=math.inf)
    with pytest.raises(DivergenceError, match=r"the gradient's norm is (inf|nan) at step 0"):
        one.fit(1)
    assert same(model, tiny())


def test_noam_gives_the_learning_rate_itself():
    history = trainer(tiny(), lr=1.0, schedule=Noam(d_model=8, warmup=4)).fit(3)
    assert history.learning_rates == [Noam(d_model=8, warmup=4)(step) for step in range(3)]


def test_a_longer_training_in_the_folder_is_not_touched(tmp_path):
    where = Checkpoints(folder=tmp_path)
    trainer(tiny()).fit(3, checkpoints=where)
    with pytest.raises(
        ValueError, match=r"holds a training of 3 steps, and this one has done 0. Go on"
    ):
        trainer(tiny()).fit(3, checkpoints=where)


def test_checkpoints_come_at_their_time_and_at_the_end(tmp_path):
    trainer(tiny()).fit(5, checkpoints=Checkpoints(folder=tmp_path, every=2, keep=9))
    assert sorted(path.name[-1] for path in tmp_path.iterdir()) == ["2", "4", "5"]


def test_bfloat16_trains_nearly_alike_and_keeps_its_weights():
    model, other = tiny(), tiny()
    low = trainer(model, precision=BFLOAT16).fit(5).losses
    full = trainer(other, precision=FLOAT32).fit(5).losses
    assert low == pytest.approx(full, rel=0.02)
    assert low != full
    assert {w.dtype for w in model.parameters()} == {torch.float32}


def test_automatic_precision_follows_the_device(monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    assert automatic_precision("cpu") is BFLOAT16
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": True})
    assert automatic_precision(torch.device("cpu")) is BFLOAT16
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": False, "avx2": True})
    assert automatic_precision("cpu") is FLOAT32
    assert automatic_precision("mps") is FLOAT32


def test_a_compiled_model_is_saved_under_its_own_names(tmp_path):
    model = tiny()
    compiled = torch.compile(model, backend="eager")
    Trainer(compiled, batches, optimizer=adamw(compiled, 0.01), progress=Silent()).fit(
        1, checkpoints=Checkpoints(folder=tmp_path)
    )
    other = trainer(tiny(seed=1))
    other.resume(latest(tmp_path))
    assert same(other.model, model)


def resumed(tmp_path, other):
    trainer(tiny()).fit(1, checkpoints=Checkpoints(folder=tmp_path))
    other.resume(latest(tmp_path))


@pytest.mark.parametrize(
    ("use", "error", "says"),
    [
        (lambda _: trainer(tiny(), accumulate=0), ValueError, "accumulate must be at least 1"),
        (lambda _: trainer(tiny(), seed=-1), ValueError, "seed must be at least 0; it is -1"),
        (lambda _: trainer(tiny(), clip=0), ValueError, "clip must be above 0; it is 0. math.inf"),
        (lambda _: trainer(tiny()).fit(-1), ValueError, "steps must be at least 0"),
        (lambda _: trainer(tiny()).fit(1.0), TypeError, "steps must be a whole number"),
        (lambda _: trainer(tiny()).fit(1, every=0), ValueError, "every must be at least 1"),
        (
            lambda _: Trainer(tiny(), batches, optimizer=adamw(tiny(), 1.0)),
            ValueError,
            "trains weights that aren't the model's",
        ),
        (
            lambda _: trainer(tiny(), accumulate=5).fit(1),
            ValueError,
            "an example for each of its 5 parts .* it holds 4",
        ),
        (
            lambda _: trainer(tiny(), count=lambda batch: 0).fit(1),
            ValueError,
            "the batch of step 0 must hold at least one target",
        ),
        (
            lambda tmp: resumed(tmp, trainer(tiny(), seed=1)),
            ValueError,
            "begun with seed=0; .* seed=1",
        ),
        (
            lambda tmp: resumed(tmp, trainer(nn.Sequential(nn.Linear(2, 2)))),
            ValueError,
            "doesn't fit this model or optimizer",
        ),
        (lambda tmp: resumed(tmp, trainer(tiny(), make=muon)), ValueError, "model or optimizer"),
        (lambda _: Precision(torch.float16), ValueError, "it is torch.float16"),
        (lambda _: Lines(0), ValueError, "lines must be at least 1"),
        (lambda _: History.from_json("{"), ValueError, "a history must be JSON"),
        (lambda _: History.from_json('{"steps": []}'), ValueError, "with gradient_norms, .* it is"),
    ],
)
def test_bad_input_is_answered_in_words(tmp_path, use, error, says):
    with pytest.raises(error, match=says):
        use(tmp_path)


def test_history_goes_through_json_bit_for_bit():
    history = trainer(tiny()).fit(3, validate=validate)
    again = History.from_json(history.to_json())
    assert again == history
    assert again.next_step == 3


def test_history_draws_its_curves():
    matplotlib.use("Agg")
    history = trainer(tiny()).fit(4, validate=validate, every=2)
    ax = history.plot()
    training, validation = ax.lines
    assert training.get_ydata().tolist() == history.losses
    assert validation.get_xdata().tolist() == [2, 4]
    assert history.plot(ax) is ax
    matplotlib.pyplot.close("all")


def test_lines_come_now_and_then_on_standard_output(capsys):
    trainer(tiny(), progress=Lines(2)).fit(20, validate=validate, every=15)
    out, err = capsys.readouterr()
    assert [line[:13] for line in out.splitlines()] == [
        "step 10 of 20",
        "step 15 of 20",
        "step 20 of 20",
    ]
    assert ", validation " in out.splitlines()[1]
    assert err == ""


def test_lines_go_on_where_a_resumed_training_is(capsys):
    lines = Lines(4)
    lines.start(9, 12)
    for done in (10, 11, 12):
        lines.step(done, 1.0, None)
    assert capsys.readouterr().out == "step 12 of 12: loss 1.00\n"


def test_a_pipe_gets_lines_and_a_terminal_a_bar(monkeypatch):
    monkeypatch.setattr(sys, "stderr", open(os.devnull, "w"))  # noqa: PTH123, SIM115
    assert isinstance(automatic_progress(), Lines)
    fcntl, pty, termios = (pytest.importorskip(name) for name in ("fcntl", "pty", "termios"))
    own, other = pty.openpty()
    fcntl.ioctl(other, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 120, 0, 0))
    with os.fdopen(other, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        bar = automatic_progress()
        assert isinstance(bar, Bar)
        bar.start(1, 3)
        bar.step(2, 1.5, 0.25)
        bar.end()
    shown = b""
    try:
        while more := os.read(own, 10_000):
            shown += more
    except OSError:  # how Linux says that the other end is closed
        pass
    shown = shown.decode()
    assert "2/3" in shown
    assert "loss 1.500, validation 0.250" in shown
    os.close(own)
