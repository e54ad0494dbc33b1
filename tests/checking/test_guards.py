"""What a learner's answer may do: each is answered in words, and nothing is harmed."""

import signal
import sys
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
import torch

from transformer_lab.checking import CheckFailedError, Result, check, hint
from transformer_lab.checking.engine import examine
from transformer_lab.checking.exercise import Exercise
from transformer_lab.checking.limits import TimeLimitReached, call_within
from transformer_lab.checking.registry import find

total = 3.0  # what a notebook's global is to an answer


def endless(x, dim=-1):
    while True:
        pass


def endless_and_stubborn(x, dim=-1):
    while True:
        try:  # noqa: SIM105
            time.sleep(0.01)
        except:  # noqa: E722 - what a learner writes
            pass


def leaves(x, dim=-1):
    sys.exit()


def never_returns(x, dim=-1):
    never_returns(x, dim)


def raises(x, dim=-1):
    missing = x.no_such_thing
    return missing


class Strange(BaseException):
    pass


def raises_strangely(x, dim=-1):
    raise Strange("no Exception")


def returns_nothing(x, dim=-1):
    x.exp()


def returns_numpy(x, dim=-1):
    return np.exp(x.numpy())


def returns_a_list(x, dim=-1):
    return x.tolist()


def returns_a_number(x, dim=-1):
    return 0.5


def returns_values_and_indices(x, dim=-1):
    return x.max(dim=dim)


def returns_nan(x, dim=-1):
    return x * float("nan")


def wrong_shape(x, dim=-1):
    return x.sum(dim)


def wrong_dtype(x, dim=-1):
    return torch.softmax(x.double() + 0, -1)


def takes_a_global(x, dim=-1):
    return x.exp() / total


def half_written(x, dim=-1):
    if x.dim() > 1:
        raise NotImplementedError
    return (x - x.max()).exp() / (x - x.max()).exp().sum()


def remembers(x, dim=-1, seen=[]):  # noqa: B006 - what a learner writes
    seen.append(1)
    powers = (x - x.amax(dim, keepdim=True)).exp()
    return powers / powers.sum(dim, keepdim=True) * (1 if len(seen) < 14 else 2)


def on_cpu(x, dim=-1):
    powers = (x - x.amax(dim, keepdim=True) + torch.zeros(1, dtype=x.dtype)).exp()
    return powers / powers.sum(dim, keepdim=True)


def detached(x, dim=-1):
    x = x.detach()
    powers = (x - x.amax(dim, keepdim=True)).exp()
    return powers / powers.sum(dim, keepdim=True)


def prints(x, dim=-1):
    for number in range(20):
        print("step", number)
    return x


def other_parameters(scores, axis=-1):
    return scores


def built_in(x, dim=-1):
    return torch.nn.Softmax(dim=dim)(x)


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (leaves, "called exit()"),
        (never_returns, "calls itself without end"),
        (raises, "raised AttributeError: 'Tensor' object has no attribute 'no_such_thing'."),
        (raises, "stopped at line "),
        (raises, "missing = x.no_such_thing"),
        (raises_strangely, "raised Strange: no Exception."),
        (returns_nothing, "returns None: is a `return` missing?"),
        (returns_numpy, "returns a numpy.ndarray; it should be a torch.Tensor. Stay in torch"),
        (returns_a_list, "returns a list; it should be a torch.Tensor"),
        (returns_a_number, "returns a float; it should be a torch.Tensor. Leave out .item()"),
        (returns_values_and_indices, "returns a tuple; it should be a torch.Tensor. With dim"),
        (returns_nan, "has 2 of 2 numbers that are NaN"),
        (wrong_shape, "returns a tensor of shape (); the shape should be (2,)"),
        (wrong_dtype, "a tensor of dtype torch.float64; it should be torch.float32"),
        (takes_a_global, "It reads `total` from the notebook"),
        (half_written, "part of it is still to be written"),
        (remembers, "something is kept from one call to the next"),
        (on_cpu, "a tensor is made on the CPU"),
        (detached, "the gradient doesn't reach the inputs"),
        (prints, "it printed:\n    step 0\n"),
        (prints, "… and 14 lines more"),
        (other_parameters, "can't be called as softmax(x, dim=-1): got an unexpected keyword"),
        (built_in, "calls torch's own `softmax`"),
    ],
)
def test_answer_is_diagnosed(answer, says):
    result = check(answer, "softmax")
    assert result.status == "fail"
    assert says in result.diagnosis, str(result)


def impatient(exercise: Exercise) -> Exercise:
    """The same exercise with half a second for each probe."""
    probes = tuple(replace(probe, seconds=0.5) for probe in exercise.probes)
    return replace(exercise, probes=probes)


@pytest.mark.parametrize("answer", [endless, endless_and_stubborn])
def test_endless_loop_is_stopped_after_the_first_probe(answer):
    start = time.monotonic()
    result = examine(answer, impatient(find("softmax")))
    assert "It was still running after 0.5 seconds and was stopped" in result.diagnosis
    assert time.monotonic() - start < 4


def asks_too_much_of_integers(x, dim=-1):
    return torch.rand_like(torch.arange(3))


def test_what_torch_cannot_do_is_no_unwritten_answer():
    result = check(asks_too_much_of_integers, "softmax")
    assert result.status == "fail"
    assert "It raised NotImplementedError" in result.diagnosis
    assert "'Long'" in result.diagnosis  # torch's own words
    assert "torch.rand_like(torch.arange(3))" in result.diagnosis  # and the learner's line


def unwritten(x, dim=-1):
    raise NotImplementedError  # your code here


def unwritten_pass(x, dim=-1):
    """A docstring is no code."""
    pass


def unwritten_dots(x, dim=-1): ...


@pytest.mark.parametrize("answer", [unwritten, unwritten_pass, unwritten_dots])
def test_unwritten_is_no_failure(answer):
    result = check(answer, "softmax")
    assert result.status == "todo"
    assert "hint('softmax')" in result.diagnosis


def test_interrupt_stays_with_the_learner():
    def interrupted(x, dim=-1):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        check(interrupted, "softmax")


def test_two_mistakes_are_named_one_after_the_other():
    def both(x, dim=-1):
        return x.exp() / x.exp().sum()

    assert "one softmax over the whole tensor" in check(both, "softmax").diagnosis

    def one(x, dim=-1):
        return x.exp() / x.exp().sum(dim, keepdim=True)

    assert "naive form" in check(one, "softmax").diagnosis


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: check(torch.ones(2)), "needs the function itself, as in check(softmax); it got a"),
        (lambda: check("softmax"), "it got a str"),
        (lambda: check(None), "it got a NoneType"),
        (lambda: check(lambda x: x), "no exercise called '<lambda>'"),
        (lambda: check(unwritten, "sofmax"), "Did you mean softmax or log_softmax"),
        (lambda: hint("sofmax"), "Did you mean softmax"),
        (lambda: hint(3), "no exercise called '3'"),
    ],
)
def test_wrong_use_is_answered_in_words(call, says):
    result = call()
    assert isinstance(result, Result)
    assert result.status == "fail"
    assert says in result.diagnosis, str(result)


def test_check_leaves_no_trace():
    state, tracer = torch.random.get_rng_state(), sys.gettrace()
    handler = signal.getsignal(signal.SIGALRM)

    def draws(x, dim=-1):
        return torch.rand_like(x)

    check(draws, "softmax")
    examine(endless_and_stubborn, impatient(find("softmax")))
    assert torch.equal(state, torch.random.get_rng_state())
    assert signal.getsignal(signal.SIGALRM) is handler
    assert sys.gettrace() is tracer
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_time_limit_holds_in_a_thread_too():
    """As on systems without an alarm signal."""
    caught = []

    def work():
        try:
            call_within(0.2, lambda: endless(None))
        except TimeLimitReached:
            caught.append(True)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(10)
    assert caught == [True]


def test_time_limit_gives_back_value_and_error():
    assert call_within(1.0, lambda: 3) == 3
    with pytest.raises(KeyError):
        call_within(1.0, lambda: {}["missing"])


def test_hints_come_one_by_one_and_the_last_stays():
    texts = [str(hint("entropy")) for _ in range(4)]
    assert [text[:11] for text in texts] == [
        "Hint 1 of 3",
        "Hint 2 of 3",
        "Hint 3 of 3",
        "Hint 3 of 3",
    ]
    assert "solutions/02_softmax.ipynb" in texts[2]
    assert texts[2] == texts[3]


def test_result_shows_itself_the_same_in_every_run():
    one, two = (check(returns_nan, "softmax")._repr_mimebundle_() for _ in range(2))
    assert one == two
    data, metadata = one
    assert set(data) == {"text/plain", "text/html"}
    assert data["text/plain"].startswith("✗ softmax: ")
    assert metadata["transformer_lab"]["status"] == "fail"


def test_html_is_escaped():
    data, _ = Result("02_softmax", "softmax", "fail", "a < b\n<script>")._repr_mimebundle_()
    assert "a &lt; b" in data["text/html"]
    assert "<script>" not in data["text/html"]


def test_graders_get_an_exception():
    for answer in (unwritten, returns_nan):
        with pytest.raises(CheckFailedError, match="softmax"):
            check(answer, "softmax").raise_for_fail()


def test_an_answer_that_is_a_class_is_guarded_like_a_function():
    class Unwritten(torch.nn.Module):
        def __init__(self, d_model, num_heads):
            raise NotImplementedError

    class Fails(torch.nn.Module):
        def __init__(self, d_model, num_heads):
            super().__init__()
            self.width = d_model * total + None

    exercise = find("MultiHeadAttention")
    assert examine(Unwritten, exercise).status == "todo"
    failed = examine(Fails, exercise)
    assert failed.status == "fail"
    assert "self.width = d_model * total + None" in failed.diagnosis
    assert "reads `total` from the notebook" in failed.diagnosis
