"""What a training makes small: the cross-entropy of the right token, in nats for each target.

A loss is any `loss(model, batch)` that gives the mean over the targets. Another label smoothing is
another loss: `partial(next_token_loss, label_smoothing=0.1)`. A target of -100 isn't counted.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

IGNORED = -100
Batch = tuple[Tensor, ...]
Loss = Callable[[Callable[..., Tensor], Any], Tensor]


def next_token_loss(
    model: Callable[..., Tensor], batch: Batch, *, label_smoothing: float = 0.0
) -> Float[Tensor, ""]:
    """How badly a decoder foresees each next token.

    Args:
        model: Called with the inputs, gives logits.
        batch: (inputs, targets), both (batch, seq).
        label_smoothing: Share of the right answer's probability that is spread over all tokens.

    Returns: Mean nats for each target.
    Raises: ValueError if the batch is no pair, or logits and targets don't fit.
    Source: Radford et al. 2018, equation 1; label smoothing: Szegedy et al. 2016, section 7.

    >>> indifferent = lambda tokens: torch.zeros(*tokens.shape, 8)
    >>> tokens = torch.tensor([[1, 2, 3]])
    >>> next_token_loss(indifferent, (tokens, tokens))  # log 8
    tensor(2.0794)
    """
    inputs, targets = _parts(batch, 2, "(inputs, targets)")
    return _cross_entropy(model(inputs), targets, label_smoothing)


def masked_token_loss(
    model: Callable[..., Tensor], batch: Batch, *, label_smoothing: float = 0.0
) -> Float[Tensor, ""]:
    """How badly an encoder guesses the tokens that were hidden from it.

    Args:
        model: Called with the inputs (and is_token, if the batch has it), gives logits.
        batch: (inputs, targets) or (inputs, is_token, targets); targets are -100 where nothing was hidden.
        label_smoothing: As in `next_token_loss`.

    Returns: Mean nats for each hidden token.
    Raises: ValueError if the batch is neither, or logits and targets don't fit.
    Source: Devlin et al. 2019, section 3.1.
    """
    if len(batch) == 2:
        inputs, targets = batch
        return _cross_entropy(model(inputs), targets, label_smoothing)
    inputs, is_token, targets = _parts(batch, 3, "(inputs, targets) or (inputs, is_token, targets)")
    return _cross_entropy(model(inputs, is_token=is_token), targets, label_smoothing)


def target_token_loss(
    model: Callable[..., Tensor], batch: Batch, *, label_smoothing: float = 0.0
) -> Float[Tensor, ""]:
    """How badly an encoder-decoder foresees each token of the target.

    Args:
        model: Called with (source, inputs, source_is_token=…, is_token=…), gives logits.
        batch: (source, inputs, targets), or these with source_is_token and is_token behind them.
            inputs is the target moved one place to the right, the start token first.
        label_smoothing: As in `next_token_loss`; 0.1 in the paper.

    Returns: Mean nats for each target.
    Raises: ValueError if the batch is neither, or logits and targets don't fit.
    Source: Vaswani et al. 2017, sections 3.1 and 5.4.
    """
    if len(batch) == 3:
        source, inputs, targets = batch
        return _cross_entropy(model(source, inputs), targets, label_smoothing)
    source, inputs, targets, source_is_token, is_token = _parts(
        batch, 5, "(source, inputs, targets), perhaps with source_is_token and is_token"
    )
    logits = model(source, inputs, source_is_token=source_is_token, is_token=is_token)
    return _cross_entropy(logits, targets, label_smoothing)


def counted_targets(batch: Batch) -> int:
    """How many targets of a batch count, that is, aren't -100.

    The targets are the part of that name, else the second of two parts and the third of more.

    Args:
        batch: As a loss takes it.

    Raises: ValueError if the batch has a single part.

    >>> counted_targets((torch.tensor([[5, 6]]), torch.tensor([[-100, 7]])))
    1
    """
    if not hasattr(batch, "targets") and len(batch) < 2:
        raise ValueError(
            "a batch must hold inputs and targets; it has a single part. Give the trainer "
            "count=…, a function that says how many targets a batch has."
        )
    if hasattr(batch, "targets"):
        targets: Tensor = batch.targets
    else:
        targets = batch[1] if len(batch) == 2 else batch[2]
    return int((targets != IGNORED).sum())


def mean_loss(
    model: nn.Module,
    batches: Iterable[Batch],
    loss: Loss,
    count: Callable[[Any], int] | None = None,
) -> float:
    """The loss over several batches, each target with the same weight; nothing is learned.

    Args:
        model: Put into `eval` for the time being.
        batches: For example those of a validation text, a list or a generator.
        loss: Gives the mean of one batch.
        count: How many targets a batch has; `counted_targets` when None.

    Returns: Mean nats for each target.
    Raises: ValueError if there is no target at all.
    """
    count = count or counted_targets
    device = device_of(model)
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    total, targets = torch.zeros((), dtype=torch.float64), 0
    try:
        with torch.no_grad():
            for batch in batches:
                number = count(batch)
                if number:
                    total += loss(model, on_device(batch, device)).double().cpu() * number
                    targets += number
    finally:
        for module, mode in modes:
            module.training = mode
    if not targets:
        raise ValueError("batches must hold at least one target that counts; they hold none.")
    return float(total / targets)


def device_of(model: nn.Module) -> torch.device:
    """Where a model's weights are; the CPU if it has none.

    Args:
        model: Any module.
    """
    return next((weight.device for weight in model.parameters()), torch.device("cpu"))


def on_device(batch: Batch, device: torch.device) -> Batch:
    """The same batch on a device, of the same type.

    Args:
        batch: A tuple of tensors, perhaps a named one.
        device: Where to.
    """
    return like(batch, [part.to(device, non_blocking=True) for part in batch])


def like(batch: Batch, parts: Iterable[Tensor]) -> Batch:
    """A batch of the same type with other parts.

    Args:
        batch: A tuple of tensors, perhaps a named one.
        parts: What goes in.
    """
    make: Callable[[Iterable[Tensor]], Batch] = getattr(type(batch), "_make", tuple)
    return make(parts)


def _cross_entropy(
    logits: Float[Tensor, "batch seq vocab"], targets: Int[Tensor, "batch seq"], smoothing: float
) -> Float[Tensor, ""]:
    if not 0 <= smoothing < 1:
        raise ValueError(
            f"label_smoothing is a probability, from 0 to below 1; it is {smoothing!r}."
        )
    if logits.shape[:-1] != targets.shape:
        raise ValueError(
            f"there must be a row of logits for each target; the shapes are {tuple(logits.shape)} and "
            f"{tuple(targets.shape)}."
        )
    total = F.cross_entropy(
        logits.flatten(0, -2).float(),  # in half precision the sum over the vocabulary is too rough
        targets.flatten(),
        ignore_index=IGNORED,
        label_smoothing=smoothing,
        reduction="sum",
    )
    # Where nothing counts: 0, not 0/0.
    return total / (targets != IGNORED).sum().clamp(min=1)


def _parts(batch: Batch, number: int, names: str) -> Batch:
    if not isinstance(batch, tuple | list) or len(batch) != number:
        came = f"{len(batch)} parts" if isinstance(batch, tuple | list) else type(batch).__name__
        raise ValueError(f"a batch must be {names}; it is {came}.")
    return batch
