"""Token after token: the model says how likely each is, an object chooses, and the choice is appended."""

from collections.abc import Callable, Collection, Iterator

import torch
from jaxtyping import Int
from torch import Tensor

from transformer_lab import checks
from transformer_lab.generation.choosing import Choose, chances, greedy
from transformer_lab.generation.decoding import Decoding, check_peaks
from transformer_lab.generation.prompts import Rows


def generate(
    model: Callable[..., Tensor],
    prompt: Rows,
    max_new_tokens: int,
    *,
    source: Rows | None = None,
    choose: Choose = greedy,
    stop: Collection[int] = (),
    seed: int = 0,
) -> Int[Tensor, "batch new"]:
    """Continues each prompt, and returns the new tokens.

    The model drops nothing meanwhile, and is left as it was. One that has `new_caches` uses them; a
    plain function, `model.forward` too, is called with all tokens each time. `torch.compile(model)` serves too:
    it takes a minute and a C++ compiler, and then less time a token.

    Args:
        model: tokens -> logits, or an encoder-decoder.
        prompt: Token ids that the texts begin with: a list, a list of lists (which may differ in length)
            or a tensor (batch, seq). For an encoder-decoder, the beginning of the target, such as its
            start token; a single row serves all sources.
        max_new_tokens: Most tokens to add. Fewer come when all rows have ended.
        source: For an encoder-decoder, the token ids that it reads, in the same forms.
        choose: Picks the next tokens: `greedy`, `Sampling([...])`, or a function like them.
        stop: Tokens that end a row. A row that has ended repeats its stop token.
        seed: Decides what is drawn, with the number of the row and of the step.

    Raises: ValueError or TypeError if something doesn't fit, before the model is called; ValueError if
        the logits hold NaN.

    >>> count_on = lambda tokens: torch.nn.functional.one_hot((tokens + 1) % 5, 5).float()
    >>> generate(count_on, [1, 2], 4, stop=[0])
    tensor([[3, 4, 0]])
    """
    decoding, steps = _prepare(model, prompt, max_new_tokens, source, choose, stop, seed)
    with decoding.at_work():
        for _ in steps:
            pass
    return decoding.tokens[:, decoding.prompt_len : decoding.width].clone()


def stream(
    model: Callable[..., Tensor],
    prompt: Rows,
    max_new_tokens: int,
    *,
    source: Rows | None = None,
    choose: Choose = greedy,
    stop: Collection[int] = (),
    seed: int = 0,
) -> Iterator[Int[Tensor, " batch"]]:
    """The same as `generate`, but hands over each step's tokens as soon as they are chosen.

    Args:
        model: As for `generate`, like all that follows.
        prompt: What the texts begin with.
        max_new_tokens: Most tokens to add.
        source: What an encoder-decoder reads.
        choose: Picks the next tokens.
        stop: Tokens that end a row.
        seed: Decides what is drawn.

    Returns: An iterator over the new tokens, one for each row. Between two of them the model is as it
        was before.
    Raises: As `generate`, at once.

    >>> count_on = lambda tokens: torch.nn.functional.one_hot((tokens + 1) % 5, 5).float()
    >>> [int(token) for token in stream(count_on, [1, 2], 3)]
    [3, 4, 0]
    """
    decoding, steps = _prepare(model, prompt, max_new_tokens, source, choose, stop, seed)

    def each() -> Iterator[Tensor]:
        while True:
            with decoding.at_work():
                if next(steps, None) is None:
                    return
            yield decoding.tokens[:, decoding.width - 1].clone()

    return each()


def _prepare(
    model: Callable[..., Tensor],
    prompt: Rows,
    max_new_tokens: int,
    source: Rows | None,
    choose: Choose,
    stop: Collection[int],
    seed: int,
) -> tuple[Decoding, Iterator[int]]:
    checks.whole("seed", seed, 0)
    if isinstance(choose, type) or not callable(choose):
        raise TypeError(
            f"choose must be a function of logits, past tokens and chance, such as greedy or "
            f"Sampling([TopK(50)]); it is {choose!r}."
        )
    decoding = Decoding(model, prompt, max_new_tokens, source=source, stop=stop)
    return decoding, _steps(decoding, choose, max_new_tokens, seed)


def _steps(decoding: Decoding, choose: Choose, steps: int, seed: int) -> Iterator[int]:
    """Adds a token to each row at each step; yields the step's number."""
    tokens, stop = decoding.tokens, set(decoding.stop)
    drawn = chances(seed, tokens.shape[0], steps).to(tokens.device)
    ended = [False] * tokens.shape[0]
    for step in range(steps):
        logits = decoding.next_logits()
        chosen = choose(logits, tokens[:, : decoding.width], drawn[:, step])
        ids = _checked(chosen, logits)
        if any(ended):
            last = tokens[:, decoding.width - 1]
            chosen = torch.where(torch.tensor(ended, device=last.device), last, chosen)
        decoding.add(chosen)
        yield step
        if stop:
            ended = [was or each in stop for was, each in zip(ended, ids, strict=True)]
            if all(ended):
                return


def _checked(chosen: Tensor, logits: Tensor) -> list[int]:
    """The chosen tokens as numbers; the one time in a step that Python waits for the device."""
    batch, vocab = logits.shape
    if (
        not isinstance(chosen, Tensor)
        or chosen.shape != (batch,)
        or chosen.dtype not in (torch.int64, torch.int32)
    ):
        came = (
            f"{chosen.dtype} of shape {tuple(chosen.shape)}"
            if isinstance(chosen, Tensor)
            else f"a {type(chosen).__name__}"
        )
        raise ValueError(
            f"choose must return one token id for each of {batch} rows; it returned {came}."
        )
    # Logits that hold NaN, or nothing but -inf, have no largest one.
    peak = logits.amax(dim=-1)
    ids: list[int] = chosen.where(peak.isfinite(), -1).tolist()
    if min(ids) < 0 or max(ids) >= vocab:
        check_peaks(peak.tolist())
        raise ValueError(
            f"choose must return ids between 0 and {vocab - 1}; it returned {chosen.tolist()}. "
            "Do the filters leave a token?"
        )
    return ids
