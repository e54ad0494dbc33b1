"""A model at work on some rows of tokens: the logits of their next token, again and again."""

import inspect
import math
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from transformer_lab.generation.layout import RowsForReading, for_one_vector, is_half
from transformer_lab.generation.prompts import (
    Rows,
    check_request,
    check_vocabulary,
    left_padded,
    stop_ids,
)
from transformer_lab.generation.quick import quick


class Decoding:
    """The tokens so far, and what the model keeps of them from step to step.

    With a model that has `new_caches` each step computes the new tokens alone, otherwise all of them.

    Args:
        model: tokens -> logits, or an encoder-decoder.
        prompt: What the texts begin with.
        max_new_tokens: Most tokens to add.
        source: What an encoder-decoder reads.
        stop: Tokens that end a row.
        copies: How often each row is there, one copy after the other.

    Raises: ValueError or TypeError if something doesn't fit.
    """

    def __init__(
        self,
        model: Callable[..., Tensor],
        prompt: Rows,
        max_new_tokens: int,
        *,
        source: Rows | None = None,
        stop: Collection[int] = (),
        copies: int = 1,
    ) -> None:
        rows, self._source = check_request(prompt, source, model, max_new_tokens)
        self.stop = stop_ids(stop)
        vocab_size = getattr(getattr(model, "config", None), "vocab_size", None)
        check_vocabulary("stop", self.stop, vocab_size)
        # A model's own bound method, such as model.forward, is the model without its caches.
        owner = getattr(model, "__self__", model)
        self._modules = list(owner.modules()) if isinstance(owner, nn.Module) else []
        device = _device(self._modules, prompt)
        rows = [row for row in rows for _ in range(copies)]
        self.tokens, self._is_token = left_padded(rows, max_new_tokens, device)
        self.width = self.prompt_len = self.tokens.shape[1] - max_new_tokens
        if self._is_token is not None and source is None:
            _check_takes_padding(model)
        self._model, self._copies, self._seen = model, copies, 0
        self._step: Callable[..., Tensor] | None = None
        self._caches: Sequence[Any] | None = None
        # A copy of the weights pays after some tokens, and only where few rows share each reading.
        pays = hasattr(model, "new_caches") and max_new_tokens >= 32 and len(rows) <= 4
        self._layout = RowsForReading(self._modules if pays else [])
        self._is_half = any(is_half(p) for module in self._modules[:1] for p in module.parameters())

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Within it the model drops nothing and nothing is kept for gradients; then all is as before."""
        training = [module for module in self._modules if module.training]
        try:
            for module in training:
                module.training = False
            with self._layout.in_place(), quick(self._modules), torch.inference_mode():
                yield
        finally:
            for module in training:
                module.training = True

    def next_logits(self) -> Float[Tensor, "batch vocab"]:
        """Logits of the token after the last one.

        Raises: ValueError or TypeError if the model doesn't return logits, or returns NaN.
        """
        if self._step is None:
            self._step = self._begin()
        rest: dict[str, Any] = {}
        if self._is_token is not None:
            rest["is_token"] = self._is_token[:, : self.width]
        if self._caches is not None:
            rest["caches"] = self._caches
        new = self.tokens[:, self._seen : self.width]
        with for_one_vector() if self._is_half and new.numel() == 1 else nullcontext():
            logits = self._step(new, **rest)
        if self._caches is not None:
            self._seen = self.width
        return self._last(logits)

    def add(self, chosen: Int[Tensor, " batch"]) -> None:
        """Append a token to each row.

        Args:
            chosen: Token ids.
        """
        self.tokens[:, self.width] = chosen
        self.width += 1

    def select(self, rows: Int[Tensor, " batch"]) -> None:
        """Let each row go on from another one of the same length.

        Args:
            rows: For each row, number of the one whose tokens it takes.
        """
        self.tokens[:, : self.width] = self.tokens[rows, : self.width]
        for cache in self._caches or ():
            cache.select(rows)

    def _begin(self) -> Callable[..., Tensor]:
        model: Any = self._model
        batch, max_len = self.tokens.shape[0], self.tokens.shape[1] - 1  # the last is never fed
        has_caches = hasattr(model, "new_caches")
        if self._source is None:
            self._caches = model.new_caches(batch, max_len) if has_caches else None
            return model
        source, is_token = left_padded(self._source, 0, self.tokens.device)
        rest = {} if is_token is None else {"is_token": is_token}
        memory = model.encode(source, **rest).repeat_interleave(self._copies, dim=0)
        known: dict[str, Any] = {}
        if is_token is not None:
            known["memory_is_token"] = is_token.repeat_interleave(self._copies, dim=0)
        if has_caches:  # they hold what the decoder needs of the memory
            self._caches = model.new_caches(memory, max_len)
        else:
            known["memory"] = memory
        return partial(model.decode, **known)

    def _last(self, logits: Tensor) -> Tensor:
        if not isinstance(logits, Tensor):
            raise TypeError(
                f"model must return logits, a tensor; it returned a {type(logits).__name__}."
            )
        if (
            logits.dim() != 3
            or logits.shape[0] != self.tokens.shape[0]
            or not logits.is_floating_point()
        ):
            raise ValueError(
                f"model must return logits (batch, seq, vocab) = ({self.tokens.shape[0]}, seq, vocab); "
                f"it returned {logits.dtype} of shape {tuple(logits.shape)}."
            )
        if self.width == self.prompt_len:
            check_vocabulary("stop", self.stop, logits.shape[-1])
        last = logits[:, -1]
        return last if last.dtype == torch.float64 else last.float()


def check_peaks(peaks: Sequence[float]) -> None:
    """Refuse logits from which no token can be chosen.

    Args:
        peaks: The largest logit of each row, NaN where there is a NaN among them.

    Raises: ValueError if one isn't finite.
    """
    for row, peak in enumerate(peaks):
        if not math.isfinite(peak):
            raise ValueError(
                f"the model's logits must be numbers; the largest of row {row} is {peak}. "
                "Look for NaN or infinity in its weights."
            )


def _device(modules: Sequence[nn.Module], prompt: Rows) -> torch.device | None:
    for parameter in modules[0].parameters() if modules else ():
        return parameter.device
    return prompt.device if isinstance(prompt, Tensor) else None


def _check_takes_padding(model: Callable[..., Any]) -> None:
    function = model.forward if isinstance(model, nn.Module) else model
    parameters = inspect.signature(function).parameters
    if "is_token" not in parameters and not any(
        each.kind is each.VAR_KEYWORD for each in parameters.values()
    ):
        raise ValueError(
            "prompts of unequal length need a model that takes is_token, to leave out the padding; "
            "this one doesn't. Give prompts of one length."
        )
