"""What an exercise consists of: probes, known wrong answers, correct alternatives, hints."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

Answer = Callable[..., Any]
Use = Callable[[Answer, tuple[Any, ...], Mapping[str, Any]], Any]


def call(answer: Answer, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """Use an answer by calling it once."""
    return answer(*args, **kwargs)


@dataclass(frozen=True)
class Probe:
    """One input to try an answer on.

    Attributes:
        title: What the input is, in words: "four scores, one of them 200".
        args: Arguments; tensors are cloned before every call.
        kwargs: Keyword arguments.
        explain: What to think of when an answer fails here in a way that no wrong answer of the bank does.
        use: How the answer is used on the input; its value is compared with the reference's.
        seconds: Time that it may take. The inputs are tiny: a right answer needs milliseconds.
    """

    title: str
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    explain: str = ""
    use: Use = call
    seconds: float = 4.0


@dataclass(frozen=True)
class Wrong:
    """A known wrong answer and what to tell a learner whose numbers are the same."""

    name: str
    answer: Answer
    says: str


@dataclass(frozen=True, kw_only=True)
class Exercise:
    """One exercise with all that is needed to answer for it.

    Attributes:
        name: Name of the function or class that the learner writes.
        lesson: Lesson it belongs to, such as "02_softmax".
        signature: How it is to be called, such as "softmax(x, dim=-1)".
        reference: An independent way to the right values: torch's own, a loop, float64.
        probes: Tried in order, the first ones computable by hand, each aimed at one kind of mistake.
        wrong_answers: The bank. Its order decides between two that give the same numbers.
        correct_alternatives: Other right ways to write it, which the tests hold to pass.
        hints: From a nudge to nearly all.
        built_ins: Functions that would be the whole answer, and so may not be called.
        parts: Names of what is returned, for messages; several for a tuple.
    """

    name: str
    lesson: str
    signature: str
    reference: Answer
    probes: tuple[Probe, ...]
    wrong_answers: tuple[Wrong, ...]
    correct_alternatives: tuple[Answer, ...]
    hints: tuple[str, str, str]
    built_ins: tuple[Answer, ...] = ()
    parts: tuple[str, ...] = ("result",)


def numbers(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    """Numbers of both signs with two decimals: easy to read in a diagnosis, the same in every run."""
    drawn = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return (drawn * 100).round().to(dtype) / 100


def twice(*args: Any, **kwargs: Any) -> Probe:
    """A probe that calls the answer two times and looks at the second value."""
    return Probe(
        "the same input a second time",
        args,
        kwargs,
        "The first call was right, the second isn't: something is kept from one call to the next, "
        "such as a global variable, a mutable default or a random draw.",
        _second_call,
    )


def gradient(*args: Any, **kwargs: Any) -> Probe:
    """A probe that compares the gradients with respect to all floating-point inputs."""
    return Probe(
        "the gradient of the result with respect to the inputs",
        args,
        kwargs,
        "The values are right, but the gradient doesn't reach the inputs as it should: look for .detach(), "
        ".item(), .numpy(), torch.tensor(...) or torch.no_grad(), which cut it off.",
        _gradients,
    )


def other_device(*args: Any, **kwargs: Any) -> Probe:
    """A probe on torch's "meta" device, which has shapes but no numbers, in place of a GPU."""
    return Probe(
        "inputs that live on another device than the CPU",
        args,
        kwargs,
        "On a GPU this would stop: a tensor is made on the CPU whatever the device of the input is. "
        "Write, for example, torch.arange(n, device=x.device).",
        _runs_elsewhere,
        seconds=60.0,  # torch loads its kernels for shapes at their first use, which takes a while
    )


def _second_call(answer: Answer, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    answer(*args, **kwargs)
    return answer(*args, **kwargs)


def _gradients(
    answer: Answer, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> Tensor | tuple[Tensor, ...]:
    inputs = [arg for arg in args if isinstance(arg, Tensor) and arg.is_floating_point()]
    for tensor in inputs:
        tensor.requires_grad_(True)
    outputs = answer(*args, **kwargs)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    # Weights that grow with the position: a plain sum would hide a transposition, and the gradient of
    # the sum of a softmax is zero.
    total = sum(
        (out * (torch.arange(out.numel()).reshape(out.shape) + 1.0)).sum() for out in outputs
    )
    found: tuple[Tensor | None, ...] = (None,) * len(inputs)
    if isinstance(total, Tensor) and total.requires_grad:
        found = torch.autograd.grad(total, inputs, allow_unused=True)
    gradients = tuple(
        torch.zeros_like(tensor) if gradient is None else gradient
        for tensor, gradient in zip(inputs, found, strict=True)
    )
    return gradients[0] if len(gradients) == 1 else gradients


def _runs_elsewhere(answer: Answer, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
    elsewhere = [arg.to("meta") if isinstance(arg, Tensor) else arg for arg in args]
    try:
        answer(*elsewhere, **kwargs)
    except (RuntimeError, NotImplementedError, ValueError) as error:
        # An answer that has to look at a number (a loop over lengths, say) can't run without numbers;
        # that is no mistake. Two devices in one operation are.
        if "same device" in str(error) or "expected device" in str(error):
            raise
    return "runs"
