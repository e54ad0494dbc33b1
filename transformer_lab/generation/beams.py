"""Beam search: several beginnings of a text are followed at once, and the best whole text wins."""

from collections.abc import Callable, Collection
from dataclasses import dataclass

import torch
from torch import Tensor

from transformer_lab import checks
from transformer_lab.generation.decoding import Decoding, check_peaks
from transformer_lab.generation.prompts import Rows


@dataclass(frozen=True)
class LengthPenalty:
    """What a log probability is divided by, so that longer texts aren't at a disadvantage.

    ((5 + length) / 6)^alpha.

    Args:
        alpha: 0 for none; Wu et al. found 0.6 to 0.7 best for translation.

    Source: Wu et al. 2016, equation 14. Differs: without the penalty for source words left out.

    >>> LengthPenalty(1.0)(7)
    2.0
    """

    alpha: float = 0.6

    def __call__(self, length: int) -> float:
        return ((5 + length) / 6) ** self.alpha


WU = LengthPenalty()


@dataclass(frozen=True)
class Hypothesis:
    """One continuation that beam search found.

    Args:
        tokens: The new tokens, the stop token included.
        log_prob: Sum of their log probabilities, in nats.
        score: log_prob divided by the length penalty.
    """

    tokens: list[int]
    log_prob: float
    score: float


def beam_search(
    model: Callable[..., Tensor],
    prompt: Rows,
    max_new_tokens: int,
    *,
    beams: int,
    source: Rows | None = None,
    stop: Collection[int] = (),
    length_penalty: Callable[[int], float] = WU,
) -> list[list[Hypothesis]]:
    """Looks for the likeliest continuation, following the best `beams` beginnings at each step.

    A beginning that ends in a stop token while it is among the best is kept as a hypothesis; those that
    haven't ended at max_new_tokens count too. The search stops when nothing that is still open can
    become better than the hypotheses kept. With a single beam it is greedy.

    Args:
        model: tokens -> logits, or an encoder-decoder, as for `generate`.
        prompt: What the texts begin with, as for `generate`.
        max_new_tokens: Most tokens to add.
        beams: Number of beginnings that are followed, and of hypotheses that are kept.
        source: What an encoder-decoder reads.
        stop: Tokens that end a text.
        length_penalty: What the log probability of so many new tokens is divided by; above 0.

    Returns: For each prompt its hypotheses, at most `beams`, the best first.
    Raises: ValueError or TypeError if something doesn't fit; ValueError if the logits hold NaN.
    Source: Wu et al. 2016, section 7. Differs: instead of pruning, the bound under which the search
        stops is exact.

    >>> count_on = lambda tokens: 9.0 * torch.nn.functional.one_hot((tokens + 1) % 5, 5)
    >>> beam_search(count_on, [1, 2], 4, beams=2, stop=[0])[0][0].tokens
    [3, 4, 0]
    """
    checks.whole("beams", beams)
    checks.whole("max_new_tokens", max_new_tokens)
    if not callable(length_penalty):
        raise TypeError(
            f"length_penalty must be a function of the length, such as LengthPenalty(0.6); "
            f"it is {length_penalty!r}."
        )
    penalties = [length_penalty(length) for length in range(1, max_new_tokens + 1)]
    if not min(penalties) > 0:
        raise ValueError(f"length_penalty must be above 0; it is {min(penalties)} for some length.")
    decoding = Decoding(model, prompt, max_new_tokens, source=source, stop=stop, copies=beams)
    with decoding.at_work():
        return _search(decoding, beams, penalties)


def _search(decoding: Decoding, beams: int, penalties: list[float]) -> list[list[Hypothesis]]:
    prompts = decoding.tokens.shape[0] // beams
    device, stop = decoding.tokens.device, decoding.stop
    # All beams of a prompt are alike at first: one of them is followed.
    live = torch.full((prompts, beams), -torch.inf, device=device)
    live[:, 0] = 0
    first = torch.arange(prompts, device=device)[:, None] * beams
    kept: list[list[Hypothesis]] = [[] for _ in range(prompts)]
    for step, penalty in enumerate(penalties):
        logits = decoding.next_logits()
        check_peaks(logits.amax(dim=-1).tolist())
        vocab = logits.shape[-1]
        live = live.to(logits.dtype)
        sums = (live.view(-1, 1) + logits.log_softmax(dim=-1)).view(prompts, -1)
        # A beam ends in len(stop) ways at most: enough are left for as many beams to go on.
        log_probs, index = sums.topk(min(beams * (len(stop) + 1), sums.shape[-1]))
        rows, tokens = first + index // vocab, index % vocab
        ends = torch.isin(tokens, torch.tensor(stop, dtype=tokens.dtype, device=device))
        if step == len(penalties) - 1:
            ends = torch.ones_like(ends)
        finished = ends[:, :beams] & log_probs[:, :beams].isfinite()
        for prompt, rank in finished.nonzero().tolist():
            begun = decoding.tokens[rows[prompt, rank], decoding.prompt_len : decoding.width]
            log_prob = log_probs[prompt, rank].item()
            whole = [*begun.tolist(), int(tokens[prompt, rank])]
            kept[prompt].append(Hypothesis(whole, log_prob, log_prob / penalty))
        kept = [sorted(each, key=lambda h: h.score, reverse=True)[:beams] for each in kept]
        if step == len(penalties) - 1:
            break
        order = ends.int().argsort(dim=-1, stable=True)[:, :beams]  # the best that go on
        live = log_probs.masked_fill(ends, -torch.inf).gather(1, order)
        # A log probability only falls: divided by the largest penalty to come, it bounds the score.
        best_left = (live.amax(dim=-1) / max(penalties[step + 1 :])).tolist()
        if all(
            bound == -torch.inf or (len(each) == beams and bound <= each[-1].score)
            for bound, each in zip(best_left, kept, strict=True)
        ):
            break
        decoding.select(rows.gather(1, order).flatten())
        decoding.add(tokens.gather(1, order).flatten())
    return kept
