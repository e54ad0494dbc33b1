"""Exercises of lesson 16: batches, three filters of logits, and the loop that writes."""

import math
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from transformer_lab.checking.exercise import (
    Answer,
    Exercise,
    Probe,
    Wrong,
    numbers,
    other_device,
    twice,
)

LESSON = "16_gpt"

Args = tuple[Any, ...]
Kwargs = Mapping[str, Any]


def _keep(logits: Tensor, stays: Tensor) -> Tensor:
    return logits.masked_fill(~stays, -math.inf)


# ---------------------------------------------------------------------------- next_token_batches


class _Seed:
    """What stands for a generator in a probe: each call gets a new one, and it prints the same."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def __repr__(self) -> str:
        return f"torch.Generator().manual_seed({self.seed})"


_OVER_THE_END = "a window that runs over the end of the text"
_LISTS = "lists of windows"
_RAGGED = ("stack expects", "out of bounds", "out of range", "exceeds dimension size")


def _draw(answer: Answer, args: Args, generator: torch.Generator) -> Any:
    try:
        value = answer(*args[:3], generator)
        pair = tuple(value) if isinstance(value, list | tuple) else value
        if isinstance(pair, tuple) and pair and all(isinstance(part, list) for part in pair):
            return _LISTS
        return pair
    except (IndexError, RuntimeError) as error:
        # Which window it is, and so the message, depends on the draws.
        if not isinstance(error, NotImplementedError) and any(w in str(error) for w in _RAGGED):
            return _OVER_THE_END
        raise


def _one_batch(answer: Answer, args: Args, kwargs: Kwargs) -> Any:
    return _draw(answer, args, torch.Generator().manual_seed(args[3].seed))


def _described(answer: Answer, args: Args, kwargs: Kwargs) -> Any:
    """What kind of windows came, in words that don't depend on the draws."""
    value = _one_batch(answer, args, kwargs)
    ids, batch, context = args[:3]
    right = isinstance(value, tuple) and len(value) == 2
    if not right or any(not isinstance(v, Tensor) or v.shape != (batch, context) for v in value):
        return value if isinstance(value, str) else "not two tensors of shape (batch, context)"
    place = {token: number for number, token in enumerate(ids.tolist())}
    inputs, targets = (
        torch.tensor([[place.get(t, -99) for t in r] for r in v.tolist()]) for v in value
    )
    starts, ahead = inputs[:, 0], (targets - inputs).unique().tolist()
    runs = bool((inputs == starts[:, None] + torch.arange(context)).all())
    counts = torch.bincount(starts.clamp(min=0), minlength=len(ids) - context).double()
    mean = batch / (len(ids) - context)
    even = bool((counts - mean).abs().max() < 5 * mean**0.5)
    ordered = bool((starts.diff() % (len(ids) - context) == 1).all())
    return (
        f"inputs {'are' if runs else 'are not'} runs of the text, targets stand "
        f"{' or '.join(map(str, ahead))} later, starts from {int(starts.min())} to {int(starts.max())}, "
        f"{'equally often' if even else 'not equally often'}{', one after the other' if ordered else ''}"
    )


def _seeds(answer: Answer, args: Args, kwargs: Kwargs) -> str:
    drawn = []
    for global_seed, seed in ((1, 5), (2, 5), (3, 6)):
        torch.manual_seed(global_seed)
        drawn.append(_draw(answer, args, torch.Generator().manual_seed(seed)))
    same = ["the same" if _same(drawn[0], other) else "another" for other in drawn[1:]]
    return f"{same[0]} batch for the same seed, {same[1]} batch for another seed"


def _second_batch(answer: Answer, args: Args, kwargs: Kwargs) -> str:
    generator = torch.Generator().manual_seed(args[3].seed)
    first, second = (_draw(answer, args, generator) for _ in range(2))
    return f"{'the same' if _same(first, second) else 'another'} batch at the second call"


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, tuple) and isinstance(b, tuple) and len(a) == len(b):
        return all(map(_same, a, b))
    return isinstance(a, Tensor) and isinstance(b, Tensor) and torch.equal(a, b)


def _starts(
    ids: Tensor, batch: int, context: int, generator: torch.Generator | None, more: int = 0
) -> Tensor:
    return torch.randint(len(ids) - context + more, (batch,), generator=generator)


def _cut(ids: Tensor, starts: Tensor, length: int) -> Tensor:
    return ids[starts[:, None] + torch.arange(length)]


def _batches_by_slices(
    ids: Tensor, batch: int, context: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    inputs, targets = [], []
    for _ in range(batch):
        start = int(torch.rand(1, dtype=torch.float64, generator=generator) * (len(ids) - context))
        inputs.append(ids[start : start + context])
        targets.append(ids[start + 1 : start + context + 1])
    return torch.stack(inputs), torch.stack(targets)


def _batches_with(make: Callable[[Tensor], Any]) -> Answer:
    """An answer that draws windows of context + 1 tokens rightly and makes something of them."""

    def answer(ids: Tensor, batch: int, context: int, generator: torch.Generator) -> Any:
        return make(_cut(ids, _starts(ids, batch, context, generator), context + 1))

    return answer


_batches = _batches_with(lambda w: (w[:, :-1], w[:, 1:]))


def _batches_from(starts: Callable[[int, int, int, torch.Generator], Tensor]) -> Answer:
    """An answer that shifts rightly, with windows from these starts."""

    def answer(ids: Tensor, batch: int, context: int, generator: torch.Generator) -> Any:
        windows = _cut(ids, starts(len(ids), batch, context, generator), context + 1)
        return windows[:, :-1], windows[:, 1:]

    return answer


def _batches_two_later(ids: Tensor, batch: int, context: int, generator: torch.Generator) -> Any:
    windows = _cut(ids, _starts(ids, batch, context, generator, -1), context + 2)
    return windows[:, :-2], windows[:, 2:]


def _batches_too_short(ids: Tensor, batch: int, context: int, generator: torch.Generator) -> Any:
    windows = _cut(ids, _starts(ids, batch, context, generator), context)
    return windows[:, :-1], windows[:, 1:]


def _batches_of_floats(ids: Tensor, batch: int, context: int, generator: torch.Generator) -> Any:
    inputs, targets = torch.zeros(batch, context), torch.zeros(batch, context)
    for row, start in enumerate(_starts(ids, batch, context, generator).tolist()):
        inputs[row] = ids[start : start + context]
        targets[row] = ids[start + 1 : start + context + 1]
    return inputs, targets


def _batches_sliced_by_tensor(
    ids: Tensor, batch: int, context: int, generator: torch.Generator
) -> Any:
    starts: Any = _starts(ids, batch, context, generator)
    return ids[starts : starts + context], ids[starts + 1 : starts + context + 1]


def _batches_over_the_end(ids: Tensor, batch: int, context: int, generator: torch.Generator) -> Any:
    windows = _cut(ids, _starts(ids, batch, context, generator, 1), context + 1)
    return windows[:, :-1], windows[:, 1:]


def _batches_reseeded(ids: Tensor, batch: int, context: int, generator: torch.Generator) -> Any:
    return _batches(ids, batch, context, generator.manual_seed(0))


def _batches_by_unfold(ids: Tensor, batch: int, context: int, generator: torch.Generator) -> Any:
    windows = ids.unfold(0, context + 1, 1)
    chosen = windows[torch.randint(len(windows), (batch,), generator=generator)]
    return chosen[:, :-1], chosen[:, 1:]


def _batches_listed(ids: Tensor, batch: int, context: int, generator: torch.Generator) -> Any:
    starts = _starts(ids, batch, context, generator).tolist()
    inputs = torch.stack([ids[s : s + context] for s in starts])
    return inputs, torch.stack([ids[s + 1 : s + 1 + context] for s in starts])


def _batches_by_multinomial(
    ids: Tensor, batch: int, context: int, generator: torch.Generator
) -> Any:
    even = torch.ones(len(ids) - context)
    starts = torch.multinomial(even, batch, replacement=True, generator=generator)
    return _cut(ids, starts, context), _cut(ids, starts + 1, context)


_TEXT = torch.tensor([31, 12, 25, 8, 40, 17, 3, 22, 36, 5, 29])

next_token_batches = Exercise(
    name="next_token_batches",
    lesson=LESSON,
    signature="next_token_batches(ids, batch, context, generator)",
    reference=_batches_by_slices,
    parts=("inputs", "targets"),
    probes=(
        Probe(
            "five tokens and a context of four, so that there is one window",
            (torch.tensor([7, 2, 9, 4, 1]), 6, 4, _Seed(0)),
            explain="Two int64 tensors are asked for, (inputs, targets), both (batch, context). Here each row of "
            "inputs is the text's first four tokens, each row of targets its last four: the token after each input. A "
            "window needs context + 1 tokens, so len(ids) - context starts are possible, counted from 0.",
            use=_one_batch,
        ),
        Probe(
            "eleven different tokens, a context of four",
            (_TEXT, 1400, 4, _Seed(1)),
            explain="There are 11 - 4 = 7 windows, with the starts 0 to 6, each equally likely; the targets "
            "stand one place later in the text than the inputs. In 1400 draws each start should come about 200 times.",
            use=_described,
        ),
        Probe(
            "a context of one",
            (_TEXT, 2000, 1, _Seed(2)),
            explain="With a context of 1 each input is one token and its target the next: 10 windows.",
            use=_described,
        ),
        Probe(
            "generators with the same seed and with another one",
            (_TEXT, 30, 3, _Seed(5)),
            explain="The batch must depend on the generator that is passed, and on nothing else: give it to every "
            "random draw, generator=generator.",
            use=_seeds,
        ),
        Probe(
            "two calls with one generator",
            (_TEXT, 30, 3, _Seed(5)),
            explain="The generator goes on from where it was: the second call has to give another batch. Don't "
            "seed or copy it.",
            use=_second_batch,
        ),
    ),
    wrong_answers=(
        Wrong(
            "not shifted",
            _batches_with(lambda w: (w[:, :-1], w[:, :-1])),
            "Your targets are the inputs themselves. A model learns to copy from that, and its loss falls to 0. "
            "The target of a place is the token after it: take the same window one place later in the text.",
        ),
        Wrong(
            "moved back",
            _batches_with(lambda w: (w[:, 1:], w[:, :-1])),
            "Your targets are the tokens before the inputs: the two are swapped. Inputs are ids[s : s + context], "
            "targets ids[s + 1 : s + context + 1].",
        ),
        Wrong(
            "rolled",
            _batches_with(lambda w: (w[:, :-1], w[:, :-1].roll(-1, 1))),
            "Your targets are the inputs rolled round: the last target is the first input again. The token "
            "after the last input stands in the text, one place behind the window: cut context + 1 tokens.",
        ),
        Wrong(
            "two later",
            _batches_two_later,
            "Your targets stand two places later than the inputs. One window of context + 1 tokens holds both: "
            "all but its last token, and all but its first.",
        ),
        Wrong(
            "last token alone",
            _batches_with(lambda w: (w[:, :-1], w[:, -1])),
            "Your targets are one token for each window. Every position is a training example: for each of the "
            "inputs the next token is wanted, (batch, context) targets.",
        ),
        Wrong(
            "last token alone, as a column",
            _batches_with(lambda w: (w[:, :-1], w[:, -1:])),
            "Your targets are one token for each window, as a column. Every position is a training example: for "
            "each of the inputs the next token is wanted, (batch, context) targets.",
        ),
        Wrong(
            "one token short",
            _batches_too_short,
            "Your windows hold `context` tokens, of which context - 1 inputs and as many targets are left. Cut "
            "context + 1 tokens.",
        ),
        Wrong(
            "lists of windows",
            lambda ids, batch, context, generator: ([ids[:context]], [ids[1 : context + 1]]),
            "You return lists of windows. Make one tensor of each, (batch, context): torch.stack(list).",
        ),
        Wrong(
            "float",
            _batches_of_floats,
            "Your windows are float32. Token numbers are whole, and an embedding takes no others: "
            "torch.zeros(…, dtype=ids.dtype), or stack slices of ids.",
        ),
        Wrong(
            "slice by a tensor",
            _batches_sliced_by_tensor,
            "ids[starts : …] with a tensor of starts: a slice takes one number, and you have one for each window. "
            "Make a table of places, starts[:, None] + torch.arange(context), or loop over starts.tolist() and stack.",
        ),
        Wrong(
            "nothing returned",
            _batches_with(lambda w: None),
            "It returns nothing. The last line should be return inputs, targets.",
        ),
        Wrong(
            "inputs alone",
            _batches_with(lambda w: w[:, :-1]),
            "You return the inputs alone. The targets are asked for too: return inputs, targets.",
        ),
        Wrong(
            "not split",
            _batches_with(lambda w: w),
            "You return the windows of context + 1 tokens as they are. Split them: inputs are all but the last "
            "token of each, targets all but the first.",
        ),
        Wrong(
            "transposed",
            _batches_with(lambda w: (w[:, :-1].T, w[:, 1:].T)),
            "Your tensors are (context, batch). The batch comes first, one window a row: (batch, context).",
        ),
        Wrong(
            "last window left out",
            _batches_from(
                lambda n, batch, context, g: torch.randint(n - context - 1, (batch,), generator=g)
            ),
            "Your last window is never drawn. randint leaves out its upper end, so randint(len(ids) - context) "
            "gives the starts 0 to len(ids) - context - 1, and the last of them still has room for its target. "
            "With one window in all, nothing was left to draw from.",
        ),
        Wrong(
            "first window left out",
            _batches_from(
                lambda n, batch, context, g: torch.randint(1, n - context, (batch,), generator=g)
            ),
            "Your first window is never drawn: starts are counted from 0. With one window in all, nothing was "
            "left to draw from.",
        ),
        Wrong(
            "over the end",
            _batches_over_the_end,
            "Some windows run over the end of the text. The last target stands at place start + context, and the last "
            "place is len(ids) - 1: draw starts below len(ids) - context, and shift by one place.",
        ),
        Wrong(
            "one start for all",
            _batches_from(
                lambda n, batch, context, g: torch.randint(n - context, (1,), generator=g).expand(
                    batch
                )
            ),
            "All rows of your batch are one and the same window. Draw a start for each row: randint(…, (batch,)).",
        ),
        Wrong(
            "one after the other",
            _batches_from(lambda n, batch, context, g: torch.arange(batch) % (n - context)),
            "Your windows come one after the other, without chance. Neighbouring windows say nearly the same, and "
            "every batch would be the same. Draw the starts with torch.randint and the generator.",
        ),
        Wrong(
            "multiples of the context",
            _batches_from(
                lambda n, batch, context, g: (
                    torch.randint((n - 1) // context, (batch,), generator=g) * context
                )
            ),
            "Your windows start at multiples of the context only, so the model sees each text cut in one way. Any "
            "start from 0 to len(ids) - context - 1 should come.",
        ),
        Wrong(
            "without replacement",
            _batches_from(
                lambda n, batch, context, g: torch.randperm(n - context, generator=g)[:batch]
            ),
            "Your windows are drawn without replacement (randperm), so a batch can't hold more windows than there "
            "are, and comes out short. Draw each independently: torch.randint.",
        ),
        Wrong(
            "global random numbers",
            _batches_from(lambda n, batch, context, g: torch.randint(n - context, (batch,))),
            "Your starts come from torch's global random numbers, not from the generator: the same seed gives "
            "another batch. Pass generator=generator to randint.",
        ),
        Wrong(
            "seeded anew",
            _batches_reseeded,
            "You seed the generator inside, so every call draws the same windows, and a training would see one "
            "batch again and again. Use it as it is passed.",
        ),
    ),
    correct_alternatives=(
        _batches,
        _batches_by_slices,
        _batches_by_unfold,
        _batches_listed,
        _batches_by_multinomial,
    ),
    hints=(
        "How many tokens does one window need for its inputs and its targets together? At how many places can it "
        "start?",
        "Draw `batch` starts with torch.randint(number_of_starts, (batch,), generator=generator). A column of "
        "starts plus a row torch.arange(context) is a table of places, (batch, context).",
        "starts = torch.randint(len(ids) - context, (batch,), generator=generator); places = starts[:, None] + "
        "torch.arange(context); the inputs are ids[places]. And the targets?",
    ),
)

# ---------------------------------------------------------------------------- what both filters may do

_NOT_LOGITS = (
    "The right tokens stay, but you return probabilities. Logits are asked for, so that filters can follow one "
    "another: set those that go to -inf in a copy of `logits`, and leave the softmax to whoever draws."
)


def _wrong_fills(stays: Callable[[Tensor, Any], Tensor]) -> tuple[Wrong, ...]:
    """What goes wrong with what stands in the places of the tokens that were ruled out."""
    return (
        Wrong(
            "filled with 0",
            lambda logits, k: logits.masked_fill(~stays(logits, k), 0.0),
            "The right tokens stay, but the others have a logit of 0, filled in or multiplied by a mask. exp(0) = 1, "
            "so they keep a probability, and more than tokens with negative logits. Fill with -inf: "
            "logits.masked_fill(…, -math.inf).",
        ),
        Wrong(
            "filled with -1e9",
            lambda logits, k: logits.masked_fill(~stays(logits, k), -1e9),
            "The right tokens stay, and the others have a logit of -1e9. That is nearly the same, but half "
            "precision has no such number, and a later filter can't tell it from a logit. Fill with -math.inf.",
        ),
        Wrong(
            "filled with the smallest number",
            lambda logits, k: logits.masked_fill(~stays(logits, k), torch.finfo(logits.dtype).min),
            "The right tokens stay, and the others have the smallest number of their dtype, torch.finfo(…).min. That "
            "is nearly the same, but divided by a temperature it becomes -inf or another number, which a later filter "
            "takes for a logit. Fill with -math.inf.",
        ),
        Wrong(
            "kept and dropped swapped",
            lambda logits, k: _keep(logits, ~stays(logits, k)),
            "You rule out the very tokens that should stay. masked_fill fills where the mask is True: give it the "
            "mask of the tokens that go.",
        ),
        Wrong(
            "probabilities",
            lambda logits, k: _keep(logits, stays(logits, k)).softmax(dim=-1),
            _NOT_LOGITS,
        ),
        Wrong(
            "probabilities, not normalised",
            lambda logits, k: logits.softmax(dim=-1) * stays(logits, k),
            _NOT_LOGITS
            + " Besides, yours don't sum to 1: what was cut off has to be shared out, which a softmax over the kept "
            "logits does by itself.",
        ),
        Wrong(
            "log-probabilities",
            lambda logits, k: _keep(logits, stays(logits, k)).log_softmax(dim=-1),
            "The right tokens stay, but their logits were normalised to log-probabilities. They give the same "
            "softmax; still, a filter should leave the logits that stay as they are.",
        ),
        Wrong(
            "a mask",
            lambda logits, k: stays(logits, k),
            "You return the mask of the tokens that stay. The logits are asked for: "
            "logits.masked_fill(~mask, -math.inf).",
        ),
    )


def _in_place(stays: Callable[[Tensor, Any], Tensor]) -> Answer:
    def answer(logits: Tensor, k: Any) -> Tensor:
        logits[~stays(logits, k)] = -math.inf
        return logits

    return answer


_CHANGED = (
    "The result is right, but the caller's `logits` are changed along with it: logits[…] = …, and methods with an "
    "underscore at the end, write into them. Use logits.masked_fill(mask, -math.inf), which makes a copy."
)

# ---------------------------------------------------------------------------- top_k_filter


def _top_k_by_sorting(logits: Tensor, k: int) -> Tensor:
    rows = logits.reshape(-1, logits.shape[-1]).tolist()
    kept = []
    for row in rows:
        best = sorted(range(len(row)), key=lambda token, row=row: row[token], reverse=True)[:k]  # type: ignore[misc]
        kept.append([row[token] if token in best else -math.inf for token in range(len(row))])
    return torch.tensor(kept, dtype=logits.dtype).reshape(logits.shape)


def _last_kept(logits: Tensor, k: int) -> Tensor:
    return logits.topk(min(k, logits.shape[-1])).values[..., -1:]


def _top_k_stays(logits: Tensor, k: int) -> Tensor:
    return logits >= _last_kept(logits, k)


def _top_k(logits: Tensor, k: int) -> Tensor:
    return _keep(logits, _top_k_stays(logits, k))


def _top_k_of_all(logits: Tensor, k: int) -> Tensor:
    return _keep(logits, logits >= logits.flatten().topk(min(k, logits.numel())).values[-1])


def _top_k_of_first_row(logits: Tensor, k: int) -> Tensor:
    first = logits.reshape(-1, logits.shape[-1])[0]
    return _keep(logits, logits >= _last_kept(first, k))


def _top_k_over_batch(logits: Tensor, k: int) -> Tensor:
    return _keep(logits, logits >= logits.topk(min(k, logits.shape[0]), dim=0).values[-1:])


def _top_k_smallest(logits: Tensor, k: int) -> Tensor:
    size = min(k, logits.shape[-1])
    return _keep(logits, logits <= logits.topk(size, largest=False).values[..., -1:])


def _top_k_by_scatter(logits: Tensor, k: int) -> Tensor:
    values, tokens = logits.topk(min(k, logits.shape[-1]))
    return torch.full_like(logits, -math.inf).scatter(-1, tokens, values)


def _top_k_by_rank(logits: Tensor, k: int) -> Tensor:
    rank = logits.argsort(dim=-1, descending=True).argsort(dim=-1)
    return logits.where(rank < k, torch.full_like(logits, -math.inf))


def _top_k_by_kthvalue(logits: Tensor, k: int) -> Tensor:
    vocab = logits.shape[-1]
    return _keep(logits, logits >= logits.kthvalue(vocab - min(k, vocab) + 1, keepdim=True).values)


top_k_filter = Exercise(
    name="top_k_filter",
    lesson=LESSON,
    signature="top_k_filter(logits, k)",
    reference=_top_k_by_sorting,
    probes=(
        Probe(
            "four logits, two of them to stay",
            (torch.tensor([1.0, 4.0, 2.0, 3.0]), 2),
            explain="4 and 3 are the largest two. They stay in their places; the others become -inf.",
        ),
        Probe(
            "one to stay",
            (torch.tensor([[0.5, -1.5, 2.5], [-3.0, -1.0, -2.0]]), 1),
            explain="With k = 1 the largest logit of each row stays, also where all are negative.",
        ),
        Probe(
            "two rows of different size",
            (torch.tensor([[9.0, 8.0, 7.0, 6.0, 5.0], [1.0, -2.0, 3.0, -4.0, 0.0]]), 3),
            explain="Each row keeps its own three, however large the logits of the other row are.",
        ),
        Probe(
            "a vocabulary of three, and k = 5",
            (torch.tensor([[0.5, -1.0, 2.0]]), 5),
            explain="Where the vocabulary is smaller than k, all logits stay.",
        ),
        Probe(
            "three axes, k = 5",
            (numbers(2, 3, 7, seed=4), 5),
            explain="The vocabulary is the last axis, whatever stands in front.",
        ),
        Probe(
            "k as large as the vocabulary",
            (numbers(2, 4, seed=5), 4),
            explain="Then all logits stay.",
        ),
        Probe(
            "logits of which some are ruled out already",
            (torch.tensor([[1.0, -math.inf, 3.0, 2.0, -math.inf]]), 2),
            explain="A filter before this one may have put in -inf. They stay -inf and count as the smallest.",
        ),
        twice(torch.tensor([[1.0, 4.0, 2.0, 3.0]]), 3),
        other_device(torch.tensor([[1.0, 4.0, 2.0, 3.0]]), 2),
    ),
    wrong_answers=(
        Wrong(
            "the kept alone",
            lambda logits, k: logits.topk(min(k, logits.shape[-1])).values,
            "You return the largest logits alone, sorted. Which tokens they belong to is lost then. Return all "
            "places, with -inf where a token was ruled out.",
        ),
        Wrong(
            "values and indices",
            lambda logits, k: tuple(logits.topk(min(k, logits.shape[-1]))),
            "You return what topk gives, values and indices. Return logits of the whole vocabulary, with -inf "
            "where a token was ruled out: compare with the smallest of the values, or scatter them back.",
        ),
        Wrong(
            "one too few",
            lambda logits, k: _keep(logits, logits > _last_kept(logits, k)),
            "One token too few stays: the k-th itself is dropped. Rule out what is smaller than it (<), not what "
            "is smaller or equal (<=).",
        ),
        Wrong(
            "one too many",
            lambda logits, k: _top_k(logits, k + 1),
            "One token too many stays. The last of the k largest is values[..., -1], and it is the smallest that "
            "stays.",
        ),
        Wrong(
            "k smallest",
            _top_k_smallest,
            "You keep the k smallest logits. The largest are the likeliest: topk gives them by default, sort with "
            "descending=True.",
        ),
        Wrong(
            "largest alone",
            lambda logits, k: _top_k(logits, 1),
            "Only the largest logit stays, whatever k is. topk sorts from the largest down: the smallest that "
            "stays is values[..., -1:], not values[..., :1].",
        ),
        Wrong(
            "over all rows together",
            _top_k_of_all,
            "You look for the k largest of all rows together, so that a row with small logits keeps none. Each "
            "row has its own: topk along the last axis, and the threshold with keepdim, values[..., -1:].",
        ),
        Wrong(
            "smallest of all thresholds",
            lambda logits, k: _keep(
                logits, logits >= logits.topk(min(k, logits.shape[-1])).values.min()
            ),
            "You compare every row with one number: values.min() looks over all rows. Each row has its own threshold, "
            "the last of its k largest: values[..., -1:].",
        ),
        Wrong(
            "all k values compared",
            lambda logits, k: logits.masked_fill(
                logits < logits.topk(min(k, logits.shape[-1])).values, -math.inf
            ),
            "You compare the vocabulary with all k values at once. Compare with the last of them, the smallest that "
            "stays, as a column: values[..., -1:].",
        ),
        Wrong(
            "threshold of the first row",
            _top_k_of_first_row,
            "You compare every row with the threshold of the first one. Each row has its own: "
            "values[..., -1:], a column.",
        ),
        Wrong(
            "along the batch",
            _top_k_over_batch,
            "You look along the first axis, for the k largest of each token over the batch. The vocabulary is the "
            "last axis: dim=-1.",
        ),
        Wrong(
            "two axes expected",
            lambda logits, k: _keep(
                logits, logits >= logits.topk(min(k, logits.shape[-1])).values[:, [-1]]
            ),
            "It works with two axes only: [:, …] asks for a batch axis, and a row of logits alone has none. Write "
            "values[..., -1:], where ... stands for any number of axes.",
        ),
        Wrong(
            "thresholds of the last row",
            lambda logits, k: _keep(
                logits, logits >= logits.topk(min(k, logits.shape[-1])).values[-1]
            ),
            "values[-1] is the last of a single row, but with two axes it is the last row. The last of each row, as "
            "a column, is values[..., -1:].",
        ),
        Wrong(
            "threshold without an axis",
            lambda logits, k: _keep(
                logits, logits >= logits.topk(min(k, logits.shape[-1])).values[..., -1]
            ),
            "The thresholds, one for each row, lie on the last axis when they are compared, so they meet the tokens "
            "in place of the rows. Keep them a column: values[..., -1:], with the colon.",
        ),
        Wrong(
            "dim 1",
            lambda logits, k: _keep(
                logits, logits >= logits.topk(min(k, logits.shape[-1]), dim=1).values[..., -1:]
            ),
            "It asks for dim 1, but a row of logits alone has no such axis, and with three axes it is another one. "
            "The vocabulary is always the last: dim=-1.",
        ),
        Wrong(
            "k beyond the vocabulary",
            lambda logits, k: _keep(logits, logits >= logits.topk(k).values[..., -1:]),
            "topk refuses a k above the size of the vocabulary. Then all logits are to stay: "
            "topk(min(k, logits.shape[-1])).",
        ),
        *_wrong_fills(_top_k_stays),
        Wrong("in place", _in_place(_top_k_stays), _CHANGED),
    ),
    correct_alternatives=(
        _top_k,
        _top_k_by_scatter,
        _top_k_by_rank,
        _top_k_by_kthvalue,
        lambda logits, k: torch.where(_top_k_stays(logits, k), logits, -math.inf),
    ),
    hints=(
        "If you knew the smallest logit that stays, a comparison would do the rest.",
        "logits.topk(k).values has the k largest of each row, the largest first. Keep its last one as a column, so "
        "that it broadcasts: values[..., -1:]. What if k is larger than the vocabulary?",
        "last_kept = logits.topk(min(k, logits.shape[-1])).values[..., -1:]; then masked_fill with -math.inf "
        "where a logit is smaller.",
    ),
)

# ---------------------------------------------------------------------------- top_p_filter


def _top_p_by_loop(logits: Tensor, p: float) -> Tensor:
    rows = logits.double().reshape(-1, logits.shape[-1])
    kept = torch.full_like(rows, -math.inf)
    for row, out in zip(rows, kept, strict=True):
        weights = [math.exp(z - float(row.max())) for z in row.tolist()]
        total = 0.0
        for token in sorted(range(len(weights)), key=lambda t, weights=weights: -weights[t]):  # type: ignore[misc]
            if total >= p * sum(weights):
                break
            out[token] = row[token]
            total += weights[token]
    return kept.to(logits.dtype).reshape(logits.shape)


def _sorted(logits: Tensor) -> tuple[Tensor, Tensor]:
    probs, order = logits.softmax(dim=-1).sort(dim=-1, descending=True)
    return probs, order


def _back(flags: Tensor, order: Tensor) -> Tensor:
    return torch.zeros_like(flags).scatter(-1, order, flags)


def _below(probs: Tensor, p: float) -> Tensor:
    """Which of the sorted tokens stay; with p = 1 all of them, though the sum may round to 1 before the last."""
    return (probs.cumsum(dim=-1) - probs < p) | (p >= 1)


def _top_p_stays(logits: Tensor, p: float) -> Tensor:
    probs, order = _sorted(logits)
    return _back(_below(probs, p), order)


def _top_p(logits: Tensor, p: float) -> Tensor:
    return _keep(logits, _top_p_stays(logits, p))


def _top_p_rounded_at_1(logits: Tensor, p: float) -> Tensor:
    probs, order = _sorted(logits)
    return _keep(logits, _back(probs.cumsum(dim=-1) - probs < p, order))


def _top_p_order_for_rows(logits: Tensor, p: float) -> Tensor:
    probs, order = _sorted(logits)
    out = logits.clone()
    out[order[~_below(probs, p)]] = -math.inf
    return out


def _top_p_scattered_into_floats(logits: Tensor, p: float) -> Tensor:
    probs, order = _sorted(logits)
    go = torch.zeros_like(logits).scatter(-1, order, ~_below(probs, p))
    return logits.masked_fill(go.bool(), -math.inf)


def _top_p_without_crossing(logits: Tensor, p: float) -> Tensor:
    probs, order = _sorted(logits)
    return _keep(logits, _back(probs.cumsum(dim=-1) <= p, order))


def _top_p_without_crossing_but_first(logits: Tensor, p: float) -> Tensor:
    probs, order = _sorted(logits)
    stays = probs.cumsum(dim=-1) <= p
    stays[..., 0] = True
    return _keep(logits, _back(stays, order))


def _top_p_not_put_back(logits: Tensor, p: float) -> Tensor:
    probs, _ = _sorted(logits)
    return _keep(logits, probs.cumsum(dim=-1) - probs < p)


def _top_p_gathered(logits: Tensor, p: float) -> Tensor:
    probs, order = _sorted(logits)
    return _keep(logits, (probs.cumsum(dim=-1) - probs < p).gather(-1, order))


def _top_p_sorted(logits: Tensor, p: float) -> Tensor:
    probs, order = _sorted(logits)
    return _keep(logits.gather(-1, order), probs.cumsum(dim=-1) - probs < p)


def _top_p_ascending(logits: Tensor, p: float) -> Tensor:
    probs, order = logits.softmax(dim=-1).sort(dim=-1)
    return _keep(logits, _back(probs.cumsum(dim=-1) - probs < p, order))


def _top_p_unsorted(logits: Tensor, p: float) -> Tensor:
    probs = logits.softmax(dim=-1)
    return _keep(logits, probs.cumsum(dim=-1) - probs < p)


def _top_p_of_logits(logits: Tensor, p: float) -> Tensor:
    values, order = logits.sort(dim=-1, descending=True)
    return _keep(logits, _back(values.cumsum(dim=-1) - values < p, order))


def _top_p_of_all(logits: Tensor, p: float) -> Tensor:
    return _top_p(logits.flatten(), p).reshape(logits.shape)


def _top_p_one_number(logits: Tensor, p: float) -> Tensor:
    probs, _ = _sorted(logits)
    number = int((probs.cumsum(dim=-1) < p).sum()) + 1
    return _top_k(logits, number)


def _top_p_of_powers(logits: Tensor, p: float) -> Tensor:
    powers, order = logits.exp().sort(dim=-1, descending=True)
    return _keep(logits, _back(powers.cumsum(dim=-1) - powers < p, order))


def _top_p_over_batch(logits: Tensor, p: float) -> Tensor:
    return _top_p(logits.movedim(0, -1), p).movedim(-1, 0)


def _top_p_softmax_of_all(logits: Tensor, p: float) -> Tensor:
    probs, order = logits.flatten().softmax(dim=0).view_as(logits).sort(dim=-1, descending=True)
    return _keep(logits, _back(probs.cumsum(dim=-1) - probs < p, order))


def _top_p_softmax_after_sort(logits: Tensor, p: float) -> Tensor:
    values, order = logits.sort(dim=-1, descending=True)
    go = values.softmax(dim=-1).cumsum(dim=-1) >= (p if p < 1 else math.inf)
    go = torch.cat([torch.zeros_like(go[..., :1]), go[..., :-1]], dim=-1)
    return logits.masked_fill(_back(go, order), -math.inf)


def _top_p_overlapping(logits: Tensor, p: float) -> Tensor:
    probs, order = _sorted(logits)
    go = probs.cumsum(dim=-1) > p
    go[..., 1:] = go[..., :-1]
    go[..., 0] = False
    return logits.masked_fill(_back(go, order), -math.inf)


def _top_p_from_below(logits: Tensor, p: float) -> Tensor:
    # What is dropped, from the least likely on, has at most 1 - p together.
    probs, order = logits.softmax(dim=-1).sort(dim=-1)
    go = probs.cumsum(dim=-1) <= 1 - p
    go[..., -1] = False
    return logits.masked_fill(_back(go, order), -math.inf)


def _top_p_row_by_row(logits: Tensor, p: float) -> Tensor:
    rows = logits.reshape(-1, logits.shape[-1])
    out = torch.full_like(rows, -math.inf)
    for i, row in enumerate(rows):
        probs, order = row.softmax(dim=-1).sort(descending=True)
        number = int((probs.cumsum(dim=-1) < p).sum()) + 1 if p < 1 else len(row)
        out[i, order[:number]] = row[order[:number]]
    return out.reshape(logits.shape)


def _number_kept(answer: Answer, args: Args, kwargs: Kwargs) -> Any:
    value = answer(*args, **kwargs)
    return int(value.isfinite().sum()) if isinstance(value, Tensor) else value


top_p_filter = Exercise(
    name="top_p_filter",
    lesson=LESSON,
    signature="top_p_filter(logits, p)",
    reference=_top_p_by_loop,
    probes=(
        Probe(
            "the probabilities 0.1, 0.6, 0.05, 0.25 and p = 0.7",
            (torch.tensor([0.1, 0.6, 0.05, 0.25]).log(), 0.7),
            explain="From the likeliest on: 0.6 doesn't reach 0.7; with 0.25 it is 0.85, which does. Tokens 1 and 3 "
            "stay, in their places, with their logits.",
        ),
        Probe(
            "the same with p = 0.5",
            (torch.tensor([0.1, 0.6, 0.05, 0.25]).log(), 0.5),
            explain="0.6 reaches 0.5 by itself: token 1 stays alone. The token that reaches p stays.",
        ),
        Probe(
            "a small p",
            (torch.tensor([[2.0, 3.0, 1.0]]), 0.01),
            explain="At least one token stays, the likeliest.",
        ),
        Probe(
            "a peaked row beside a flat one, p = 0.8",
            (
                torch.tensor([[0.9, 0.05, 0.03, 0.01, 0.01], [0.16, 0.24, 0.2, 0.18, 0.22]]).log(),
                0.8,
            ),
            explain="Each row has a nucleus of its own: one token of the first, four of the second.",
        ),
        Probe(
            "logits that aren't logarithms of probabilities",
            (torch.tensor([[4.0, 7.0, 5.5, 6.0], [-3.0, -8.0, -2.5, -5.0]]), 0.75),
            explain="Take the softmax of the logits first. What stays are the logits themselves.",
        ),
        Probe(
            "p = 1",
            (torch.tensor([[1.0, -2.0, 0.5, 3.0]]), 1.0),
            explain="With p = 1 all tokens stay.",
        ),
        Probe(
            "p = 1, and a token that has nearly all",
            (torch.tensor([[20.0, 0.0, -3.0]]), 1.0),
            explain="With p = 1 all tokens stay, also where the first probability rounds to 1.",
        ),
        Probe(
            "three axes, p = 0.6",
            (numbers(2, 3, 6, seed=6) * 2, 0.6),
            explain="The vocabulary is the last axis, whatever stands in front.",
        ),
        Probe(
            "four equally likely tokens and p = 0.5, of which any two should stay",
            (torch.zeros(1, 4), 0.5),
            explain="Two tokens reach 0.5 exactly, and that is enough: the smallest set. A token stays while what "
            "stands before it has less than p (<), and goes when that has reached p (>=, not >).",
            use=_number_kept,
        ),
        twice(torch.tensor([[0.1, 0.6, 0.05, 0.25]]).log(), 0.7),
        other_device(torch.tensor([[0.1, 0.6, 0.05, 0.25]]), 0.7),
    ),
    wrong_answers=(
        Wrong(
            "without the token that reaches p",
            _top_p_without_crossing,
            "The token that reaches p is dropped: you keep those whose sum, themselves included, is at most p. "
            "Where the first alone has more than p, nothing stays at all. Ask for the sum before each token: "
            "cumsum - probs < p.",
        ),
        Wrong(
            "without the token that reaches p, the first one saved",
            _top_p_without_crossing_but_first,
            "The token that reaches p is dropped, but for the first one, which you save by hand. So what stays has "
            "less than p. Ask for the sum before each token: cumsum - probs < p. Then the first stays by itself.",
        ),
        Wrong(
            "p = 1 by rounding",
            _top_p_rounded_at_1,
            "Right for all p below 1. With p = 1 all tokens should stay, but in float32 the sum may reach 1 before the "
            "last token, and the rest is cut off. Switch the filter off there: if p >= 1: return logits.",
        ),
        Wrong(
            "order taken for rows",
            _top_p_order_for_rows,
            "order[…] holds token numbers, but out[…] takes them for rows: right with one axis, wrong with two. Put "
            "the mask into the tokens' order with scatter along dim -1, then masked_fill.",
        ),
        Wrong(
            "scattered into floats",
            _top_p_scattered_into_floats,
            "scatter wants one dtype for what it writes and what it writes into: your target holds numbers, your "
            "mask True and False. Make the target torch.zeros_like(mask).",
        ),
        Wrong(
            "dim 1",
            lambda logits, p: _keep(logits, logits.softmax(dim=1) >= p),
            "It asks for dim 1, but a row of logits alone has no such axis, and with three axes it is another one. "
            "The vocabulary is always the last: dim=-1, in softmax, cumsum and scatter.",
        ),
        Wrong(
            "moved by one onto itself",
            _top_p_overlapping,
            "You move the mask by one place, writing it into itself: source and target overlap. Copy it first, "
            "mask[..., :-1].clone(); or do without moving, by asking for the sum before each token, cumsum - probs.",
        ),
        Wrong(
            "not put back",
            _top_p_not_put_back,
            "Your mask is in sorted order, but you use it on logits in their own order. Put it back first: "
            "torch.zeros_like(mask).scatter(-1, order, mask).",
        ),
        Wrong(
            "gather in place of scatter",
            _top_p_gathered,
            "You put the mask back with gather. gather takes from place order[i] to i, which sorts once more; "
            "scatter writes i to place order[i], which undoes the sorting.",
        ),
        Wrong(
            "left sorted",
            _top_p_sorted,
            "The right logits stay, but sorted: which tokens they belong to is lost. Put them back into their "
            "places with scatter(-1, order, …).",
        ),
        Wrong(
            "from the least likely on",
            _top_p_ascending,
            "You add up from the least likely token on, and keep those. sort needs descending=True.",
        ),
        Wrong(
            "without sorting",
            _top_p_unsorted,
            "You add up in the order of the vocabulary. The set is the smallest only if the likeliest tokens come "
            "first: sort with descending=True, and put the mask back.",
        ),
        Wrong(
            "sums of logits",
            _top_p_of_logits,
            "You add up logits. Only probabilities sum to 1: take the softmax first.",
        ),
        Wrong(
            "each token against p",
            lambda logits, p: _keep(logits, logits.softmax(dim=-1) >= p),
            "You compare each token's own probability with p. It is the sum, from the likeliest token on, that has "
            "to reach p: sort, then cumsum.",
        ),
        Wrong(
            "each token against 1 - p",
            lambda logits, p: _keep(logits, logits.softmax(dim=-1) >= 1 - p),
            "You compare each token's own probability with 1 - p. It is the sum, from the likeliest token on, that "
            "has to reach p: sort, then cumsum.",
        ),
        Wrong(
            "1 - p in place of p",
            lambda logits, p: _top_p(logits, 1 - p),
            "Your nucleus reaches 1 - p, not p. From the likeliest token on, sums are compared with p itself.",
        ),
        Wrong(
            "share of the largest",
            lambda logits, p: _keep(
                logits, (probs := logits.softmax(dim=-1)) >= p * probs.amax(dim=-1, keepdim=True)
            ),
            "You keep the tokens that are at least p times as likely as the likeliest. That is min-p, another "
            "filter. Here the probabilities are added up from the likeliest on, until they reach p.",
        ),
        Wrong(
            "one number for all rows",
            _top_p_one_number,
            "You count how many tokens stay over all rows together. Each row has a number of its own: keep the "
            "comparison as a mask of the logits' shape, without sum().",
        ),
        Wrong(
            "powers in place of probabilities",
            _top_p_of_powers,
            "You add up exp(logits), which sums to 1 only if the logits are logarithms of probabilities. Take the "
            "softmax.",
        ),
        Wrong(
            "all rows together",
            _top_p_of_all,
            "You take one nucleus for all rows together. Each row is a distribution of its own: softmax, sort and "
            "cumsum along the last axis.",
        ),
        Wrong(
            "softmax over all rows",
            _top_p_softmax_of_all,
            "Your softmax is over all rows together, so a row's probabilities don't sum to 1. Take it along the "
            "last axis, dim=-1.",
        ),
        Wrong(
            "along the first axis",
            _top_p_over_batch,
            "You work along the first axis. The vocabulary is the last one: dim=-1 for softmax, sort, cumsum and "
            "scatter.",
        ),
        *_wrong_fills(_top_p_stays),
        Wrong("in place", _in_place(_top_p_stays), _CHANGED),
    ),
    correct_alternatives=(
        _top_p,
        _top_p_softmax_after_sort,
        _top_p_from_below,
        _top_p_row_by_row,
        lambda logits, p: torch.where(_top_p_stays(logits, p), logits, -math.inf),
    ),
    hints=(
        "Sort the probabilities, the likeliest first. Which question about the tokens *before* a token decides "
        "whether it stays?",
        "With probs sorted, probs.cumsum(dim=-1) - probs is what the likelier tokens have together. A token "
        "stays while that is below p. `sort` also gives the order, with which scatter puts the answer back.",
        "Where p >= 1, return logits. Else probs, order = logits.softmax(dim=-1).sort(descending=True); before = "
        "probs.cumsum(dim=-1) - probs; the tokens that go, in their places, are torch.zeros_like(before, "
        "dtype=torch.bool).scatter(-1, order, before >= p).",
    ),
)

# ---------------------------------------------------------------------------- repetition_penalty


def _penalty_by_loop(logits: Tensor, tokens: Tensor, penalty: float) -> Tensor:
    rows = [[float(z) for z in row] for row in logits]
    for row, seen in zip(rows, tokens.tolist(), strict=True):
        for token in dict.fromkeys(seen):
            row[token] = row[token] / penalty if row[token] > 0 else row[token] * penalty
    return torch.tensor(rows, dtype=logits.dtype)


def _seen(logits: Tensor, tokens: Tensor) -> Tensor:
    return torch.zeros_like(logits, dtype=torch.bool).scatter(1, tokens, True)


def _by_sign(logits: Tensor, penalty: Any) -> Tensor:
    return torch.where(logits > 0, logits / penalty, logits * penalty)


def _penalty(logits: Tensor, tokens: Tensor, penalty: float) -> Tensor:
    return torch.where(_seen(logits, tokens), _by_sign(logits, penalty), logits)


def _penalty_with(change: Callable[[Tensor, float], Tensor]) -> Answer:
    """An answer that changes the right tokens in some way."""
    return lambda logits, tokens, penalty: torch.where(
        _seen(logits, tokens), change(logits, penalty), logits
    )


def _penalty_each_time(logits: Tensor, tokens: Tensor, penalty: float) -> Tensor:
    times = torch.zeros_like(logits).scatter_add(
        1, tokens, torch.ones_like(tokens, dtype=logits.dtype)
    )
    return _by_sign(logits, penalty**times)


def _penalty_for_all_rows(logits: Tensor, tokens: Tensor, penalty: float) -> Tensor:
    seen = torch.zeros(logits.shape[1], dtype=torch.bool)
    seen[tokens.flatten()] = True
    return torch.where(seen, _by_sign(logits, penalty), logits)


def _penalty_first_row(logits: Tensor, tokens: Tensor, penalty: float) -> Tensor:
    return _penalty(logits, tokens[:1].expand(len(logits), -1), penalty)


def _penalty_last_token(logits: Tensor, tokens: Tensor, penalty: float) -> Tensor:
    return _penalty(logits, tokens[:, -1:], penalty)


def _penalty_seen_alone(logits: Tensor, tokens: Tensor, penalty: float) -> Tensor:
    return _by_sign(logits.gather(1, tokens), penalty)


def _penalty_rows_picked(logits: Tensor, tokens: Tensor, penalty: float) -> Tensor:
    return logits.scatter(1, tokens, _by_sign(logits[tokens], penalty)[..., 0])


def _penalty_ruled_out(logits: Tensor, tokens: Tensor, penalty: float) -> Tensor:
    return logits.masked_fill(_seen(logits, tokens), -math.inf)


def _penalty_in_place(logits: Tensor, tokens: Tensor, penalty: float) -> Tensor:
    return logits.scatter_(1, tokens, _by_sign(logits.gather(1, tokens), penalty))


def _penalty_by_rows(logits: Tensor, tokens: Tensor, penalty: float) -> Tensor:
    out = logits.clone()
    for row, seen in zip(out, tokens, strict=True):
        row[seen] = _by_sign(row[seen], penalty)
    return out


def _penalty_by_clamps(logits: Tensor, tokens: Tensor, penalty: float) -> Tensor:
    found = logits.gather(1, tokens)
    return logits.scatter(1, tokens, found.clamp(min=0) / penalty + found.clamp(max=0) * penalty)


_AS_SAID = "Positive logits of seen tokens are divided by the penalty, negative ones multiplied; all others stay."

repetition_penalty = Exercise(
    name="repetition_penalty",
    lesson=LESSON,
    signature="repetition_penalty(logits, tokens, penalty)",
    reference=_penalty_by_loop,
    probes=(
        Probe(
            "tokens 0 and 1 seen, of three",
            (torch.tensor([[2.0, -1.0, 0.5]]), torch.tensor([[0, 1, 0]]), 2.0),
            explain="Token 0: 2 / 2 = 1, once, though it occurred twice. Token 1: -1 · 2 = -2. Token 2 wasn't seen.",
        ),
        Probe(
            "a positive logit, seen once",
            (torch.tensor([[3.0, 6.0, -1.0, 1.0]]), torch.tensor([[1]]), 1.5),
            explain="6 / 1.5 = 4; the others stay.",
        ),
        Probe(
            "two rows with tokens of their own",
            (
                torch.tensor([[1.0, -2.0, 3.0, -4.0, 0.5], [-0.5, 2.0, 0.25, -1.0, 4.0]]),
                torch.tensor([[4, 3, 4], [0, 2, 1]]),
                1.25,
            ),
            explain="Row 0 has seen the tokens 3 and 4, row 1 the tokens 0, 1 and 2. " + _AS_SAID,
        ),
        Probe(
            "a zero, and logits that were ruled out before",
            (torch.tensor([[0.0, -math.inf, 2.0, -math.inf]]), torch.tensor([[0, 1]]), 4.0),
            explain="0 stays 0, and -inf stays -inf.",
        ),
        Probe(
            "a penalty of 1",
            (torch.tensor([[1.0, -1.0]]), torch.tensor([[0, 1]]), 1.0),
            explain="A penalty of 1 changes nothing.",
        ),
        Probe(
            "a penalty below 1, which rewards",
            (torch.tensor([[1.0, -1.0, 3.0]]), torch.tensor([[0, 1]]), 0.5),
            explain="By the same rule: 1 / 0.5 = 2, and -1 · 0.5 = -0.5. Decide by the logit's sign, not by which "
            "result is smaller.",
        ),
        Probe(
            "three rows of seven tokens",
            (numbers(3, 7, seed=7), torch.tensor([[6, 0], [2, 2], [5, 1]]), 1.3),
            explain=_AS_SAID,
        ),
        twice(torch.tensor([[2.0, -1.0, 0.5]]), torch.tensor([[0, 1, 0]]), 2.0),
        other_device(torch.tensor([[2.0, -1.0, 0.5]]), torch.tensor([[0, 1, 0]]), 2.0),
    ),
    wrong_answers=(
        Wrong(
            "all divided",
            _penalty_with(lambda z, penalty: z / penalty),
            "You divide negative logits too, as the paper's formula does. -1 / 2 = -0.5 is larger than -1: such a "
            "token becomes likelier. Multiply negative logits.",
        ),
        Wrong(
            "all multiplied",
            _penalty_with(lambda z, penalty: z * penalty),
            "You multiply positive logits too, which makes their tokens likelier. Divide them; multiply the "
            "negative ones alone.",
        ),
        Wrong(
            "signs swapped",
            _penalty_with(lambda z, penalty: torch.where(z > 0, z * penalty, z / penalty)),
            "You multiply the positive logits and divide the negative ones: both become larger. It is the other "
            "way round.",
        ),
        Wrong(
            "subtracted",
            _penalty_with(lambda z, penalty: z - penalty),
            "You subtract the penalty. That is another rule (a presence penalty). Here positive logits are divided "
            "by it and negative ones multiplied.",
        ),
        Wrong(
            "logarithm subtracted",
            _penalty_with(lambda z, penalty: z - math.log(penalty)),
            "You subtract the penalty's logarithm, which divides the probability. Here the logit itself is divided, "
            "or multiplied where it is negative.",
        ),
        Wrong(
            "once for each time",
            _penalty_each_time,
            "A token that occurred twice is penalised twice. Once is enough, however often it occurred: compute the "
            "new values from the old logits and write them with scatter, or go through set(row.tolist()). (A set of "
            "tensors keeps equal ones apart.)",
        ),
        Wrong(
            "every row for all rows",
            _penalty_for_all_rows,
            "Tokens that one row has seen are penalised in all rows: logits[:, tokens] takes all rows. A row's "
            "tokens count for that row alone: gather and scatter along dim 1.",
        ),
        Wrong(
            "rows picked",
            _penalty_rows_picked,
            "logits[tokens] takes token numbers for rows of the batch. To pick along the vocabulary: "
            "logits.gather(1, tokens).",
        ),
        Wrong(
            "the first row's tokens",
            _penalty_first_row,
            "The tokens of the first row are used for all rows. Each row has its own: gather and scatter along dim 1.",
        ),
        Wrong(
            "last token alone",
            _penalty_last_token,
            "Only the last token is penalised. All tokens so far count.",
        ),
        Wrong(
            "unseen tokens",
            lambda logits, tokens, penalty: torch.where(
                _seen(logits, tokens), logits, _by_sign(logits, penalty)
            ),
            "You penalise the tokens that have not occurred, and leave the others: the two are swapped.",
        ),
        Wrong(
            "all tokens",
            lambda logits, tokens, penalty: _by_sign(logits, penalty),
            "You penalise every token, seen or not. That is a temperature. Only the tokens in `tokens` count.",
        ),
        Wrong(
            "seen logits alone",
            _penalty_seen_alone,
            "You return the new logits of the tokens seen, alone. Write them back into the whole row: "
            "logits.scatter(1, tokens, new).",
        ),
        Wrong(
            "ruled out",
            _penalty_ruled_out,
            "You rule out what has occurred. Then no word could come twice. Divide or multiply the logit instead.",
        ),
        Wrong(
            "probabilities",
            lambda logits, tokens, penalty: torch.where(
                _seen(logits, tokens), (probs := logits.softmax(dim=-1)) / penalty, probs
            ),
            "You return probabilities. The rule is about logits: no softmax here.",
        ),
        Wrong(
            "the smaller of the two",
            _penalty_with(lambda z, penalty: torch.minimum(z / penalty, z * penalty)),
            "You take the smaller of z / penalty and z · penalty. With a penalty above 1 that is right, below 1 it "
            "isn't: decide by the sign of the logit.",
        ),
        Wrong(
            "in place",
            _penalty_in_place,
            "The result is right, but the caller's `logits` are changed along with it. Use scatter, without the "
            "underscore, or work on logits.clone().",
        ),
    ),
    correct_alternatives=(
        _penalty,
        _penalty_by_rows,
        _penalty_by_clamps,
        lambda logits, tokens, penalty: logits.scatter(
            1, tokens, _by_sign(logits.gather(1, tokens), penalty)
        ),
    ),
    hints=(
        "First find the logits of the seen tokens, then their new values, then put these into a copy. What would "
        "happen to a token that stands in `tokens` twice?",
        "logits.gather(1, tokens) has the logit of each seen token, (batch, seen). logits.scatter(1, tokens, new) "
        "writes new values to the same places, into a copy.",
        "seen = logits.gather(1, tokens); new = torch.where(seen > 0, seen / penalty, seen * penalty); a token that "
        "stands there twice gets the same value twice, so scatter is safe.",
    ),
)

# ---------------------------------------------------------------------------- generate


class Model(nn.Module):
    """A stand-in for a GPT whose next token can be computed by hand.

    The logits at a place are 3 for one token and 1 / 2^distance for the others: the token is the last one
    plus 1, or the sum of all tokens in sight plus their number, modulo the vocabulary.
    """

    def __init__(
        self, vocab: int, context: int, *, sums: bool = True, odd_in_training: bool = False
    ) -> None:
        super().__init__()
        self.config = SimpleNamespace(max_positions=context)
        self.vocab, self.sums, self.odd = vocab, sums, odd_in_training
        self.weight = nn.Parameter(torch.ones(()))
        self.seen: list[str] = []

    def forward(self, tokens: Tensor) -> Tensor:
        if tokens.shape[1] > self.config.max_positions:
            raise ValueError(
                f"the model has {self.config.max_positions} positions; {tokens.shape[1]} tokens came"
            )
        mode = "training" if self.training else "eval"
        self.seen.append(f"{mode} mode, gradients {'on' if torch.is_grad_enabled() else 'off'}")
        count = torch.arange(1, tokens.shape[1] + 1)
        likeliest = tokens.cumsum(dim=1) + count if self.sums else tokens + 1
        if self.odd and self.training:
            likeliest = likeliest + 2
        away = (torch.arange(self.vocab) - likeliest[..., None]) % self.vocab
        return self.weight * torch.where(away == 0, 3.0, 0.5**away)


def _check_axes(logits: Tensor) -> None:
    if logits.dim() != 2:
        raise ValueError(
            f"choose wants logits (batch, vocab); it got the shape {tuple(logits.shape)}"
        )


def likeliest(logits: Tensor) -> Tensor:
    """What the probes choose with: greedily."""
    _check_axes(logits)
    return logits.argmax(dim=-1)


def large_logits(logits: Tensor) -> Tensor:
    """What one probe chooses with: the number of logits above 0.2, which aren't probabilities."""
    _check_axes(logits)
    return (logits > 0.2).sum(dim=-1)


def _fresh(args: Args, training: bool) -> Model:
    given: Model = args[0]
    model = Model(
        given.vocab, given.config.max_positions, sums=given.sums, odd_in_training=given.odd
    )
    return model.train(training)


def _in_training(answer: Answer, args: Args, kwargs: Kwargs) -> Any:
    return answer(_fresh(args, True), *args[1:])


def _modes(answer: Answer, args: Args, kwargs: Kwargs) -> str:
    said = []
    for training in (True, False):
        model = _fresh(args, training)
        answer(model, *args[1:])
        said.append("training" if model.training else "eval")
    return f"a model in training is left in {said[0]} mode, a model in eval mode is left in {said[1]} mode"


def _how_it_ran(answer: Answer, args: Args, kwargs: Kwargs) -> str:
    model = _fresh(args, True)
    answer(model, *args[1:])
    return ", then ".join(dict.fromkeys(model.seen))


def _generate_by_loop(model: Any, prompt: Tensor, max_new_tokens: int, choose: Answer) -> Tensor:
    was, rows = model.training, [row.tolist() for row in prompt]
    model.eval()
    try:
        for _ in range(max_new_tokens):
            with torch.inference_mode():
                shown = torch.tensor([row[-model.config.max_positions :] for row in rows])
                chosen = choose(model(shown)[:, -1, :])
            for row, token in zip(rows, chosen.tolist(), strict=True):
                row.append(token)
    finally:
        model.train(was)
    return torch.tensor([row[prompt.shape[1] :] for row in rows])


def _generating(
    *,
    show: Callable[[Tensor, int], Tensor] = lambda tokens, context: tokens[:, -context:],
    pick: Callable[[Answer, Tensor], Tensor] = lambda choose, logits: choose(logits[:, -1]),
    give: Callable[[Tensor, int], Any] = lambda tokens, n: tokens[:, n:],
    crop: Callable[[Tensor, int], Tensor] = lambda tokens, context: tokens,
    steps: int = 0,
    before: Callable[[Any], Any] = lambda model: model.eval(),
    after: Callable[[Any, bool], Any] = lambda model, was: model.train(was),
    gradients: bool = False,
) -> Answer:
    """An answer whose steps can each be replaced by a wrong one."""

    def answer(model: Any, prompt: Tensor, max_new_tokens: int, choose: Answer) -> Any:
        context, was = model.config.max_positions, model.training
        before(model)
        tokens = crop(prompt, context)
        start = tokens.shape[1]
        with torch.set_grad_enabled(gradients):
            for _ in range(max_new_tokens + steps):
                new = pick(choose, model(show(tokens, context)))
                tokens = torch.cat([tokens, new[:, None]], dim=1)
        after(model, was)
        return give(tokens, start)

    return answer


def _appends_a_row(model: Any, prompt: Tensor, max_new_tokens: int, choose: Answer) -> Tensor:
    model.eval()
    return torch.cat([prompt, choose(model(prompt)[:, -1])], dim=1)


def _appends_below(model: Any, prompt: Tensor, max_new_tokens: int, choose: Answer) -> Tensor:
    model.eval()
    with torch.no_grad():
        new = choose(model(prompt[:, -model.config.max_positions :])[:, -1])
    return torch.cat([prompt, new[:, None]])


def _forgets_to_append(model: Any, prompt: Tensor, max_new_tokens: int, choose: Answer) -> Tensor:
    was = model.training
    model.eval()
    with torch.no_grad():
        new = [
            choose(model(prompt[:, -model.config.max_positions :])[:, -1])
            for _ in range(max_new_tokens)
        ]
    model.train(was)
    return torch.stack(new, dim=1)


def _all_at_once(model: Any, prompt: Tensor, max_new_tokens: int, choose: Answer) -> Tensor:
    """Replaces the window by what the model said at every place of it."""
    was, tokens, new = model.training, prompt[:, -model.config.max_positions :], []
    model.eval()
    with torch.no_grad():
        for _ in range(max_new_tokens):
            tokens = model(tokens).argmax(dim=-1)
            new.append(tokens[:, -1])
    model.train(was)
    return torch.stack(new, dim=1)


def _generate_collecting(model: Any, prompt: Tensor, max_new_tokens: int, choose: Answer) -> Tensor:
    was, tokens, new = model.training, prompt.clone(), []
    model.eval()
    for _ in range(max_new_tokens):
        with torch.no_grad():
            chosen = choose(model(tokens)[:, -1]) if tokens.shape[1] <= model.config.max_positions else choose(
                model(tokens[:, tokens.shape[1] - model.config.max_positions :])[:, -1]
            )  # fmt: skip
        new.append(chosen)
        tokens = torch.cat((tokens, chosen.unsqueeze(1)), 1)
    model.train(was)
    return torch.stack(new, dim=1)


def _generate_sliding(model: Any, prompt: Tensor, max_new_tokens: int, choose: Answer) -> Tensor:
    was, context = model.training, model.config.max_positions
    model.train(False)
    out = torch.empty(len(prompt), max_new_tokens, dtype=torch.long)
    window = prompt[:, -context:]
    with torch.inference_mode():
        for step in range(max_new_tokens):
            out[:, step] = choose(model(window)[:, -1])
            window = torch.cat([window, out[:, step : step + 1]], dim=1)[:, -context:]
    model.train(was)
    return out


_NEXT = Model(10, 8, sums=False)
_SUMS = Model(11, 8)
_SHORT = Model(11, 4)

generate = Exercise(
    name="generate",
    lesson=LESSON,
    signature="generate(model, prompt, max_new_tokens, choose)",
    reference=_generate_by_loop,
    probes=(
        Probe(
            "a model that always goes on with the last token plus 1",
            (_NEXT, torch.tensor([[1, 2]]), 3, likeliest),
            explain="After 1, 2 come 3, 4 and 5; return these three, as (batch, max_new_tokens).",
        ),
        Probe(
            "three rows, and a model whose next token depends on all tokens in sight",
            (_SUMS, torch.tensor([[1, 2], [0, 5], [7, 7]]), 4, likeliest),
            explain="Each step needs the whole text so far, the tokens just chosen included, and the logits of its "
            "last place.",
        ),
        Probe(
            "a single new token",
            (_SUMS, torch.tensor([[3, 1, 4]]), 1, likeliest),
            explain="One new token is asked for: a tensor (1, 1).",
        ),
        Probe(
            "a text that outgrows the model's four positions",
            (_SHORT, torch.tensor([[1, 2, 3], [4, 0, 9]]), 5, likeliest),
            explain="From the second step on the text has more than 4 tokens: show the model the last "
            "model.config.max_positions of them.",
        ),
        Probe(
            "a prompt that is longer than the model's four positions",
            (_SHORT, torch.tensor([[1, 2, 3, 4, 5, 6]]), 3, likeliest),
            explain="The prompt itself has more than 4 tokens: show the model the last 4 of it. The new tokens "
            "come back, no others.",
        ),
        Probe(
            "a way to choose that looks at the size of the logits",
            (_SUMS, torch.tensor([[1, 2], [0, 5]]), 3, large_logits),
            explain="`choose` gets the logits as the model gave them, those of the last place, (batch, vocab).",
        ),
        Probe(
            "a model that says other things in training mode, and comes in it",
            (Model(11, 8, odd_in_training=True), torch.tensor([[1, 2], [3, 0]]), 3, likeliest),
            explain="In training mode a model drops things by chance. Put it into eval mode first: model.eval().",
            use=_in_training,
        ),
        Probe(
            "the mode of the model afterwards",
            (_SUMS, torch.tensor([[1, 2]]), 2, likeliest),
            explain="Leave the model in the mode in which it came: note model.training at the start, and end with "
            "model.train(that).",
            use=_modes,
        ),
        Probe(
            "whether gradients are recorded meanwhile",
            (_SUMS, torch.tensor([[1, 2]]), 2, likeliest),
            explain="Nothing is learned here: run the model within torch.no_grad(), or it keeps all that a backward "
            "pass would need.",
            use=_how_it_ran,
        ),
        twice(_SUMS, torch.tensor([[1, 2], [0, 5]]), 3, likeliest),
    ),
    wrong_answers=(
        Wrong(
            "prompt and all",
            _generating(give=lambda tokens, n: tokens),
            "You return the prompt along with the new tokens. The new ones alone are asked for: "
            "tokens[:, prompt.shape[1]:].",
        ),
        Wrong(
            "last token alone",
            _generating(give=lambda tokens, n: tokens[:, -1]),
            "You return the last token only. All new ones are asked for, (batch, max_new_tokens).",
        ),
        Wrong(
            "transposed",
            _generating(give=lambda tokens, n: tokens[:, n:].T),
            "Your tokens are (max_new_tokens, batch). Stack them along dim 1, or append them to the text with "
            "torch.cat(…, dim=1).",
        ),
        Wrong(
            "list of lists",
            _generating(give=lambda tokens, n: tokens[:, n:].tolist()),
            "You return lists. A tensor (batch, max_new_tokens) is asked for.",
        ),
        Wrong(
            "one too many",
            _generating(steps=1),
            "There is one new token too many: the loop runs max_new_tokens times.",
        ),
        Wrong(
            "one too few",
            _generating(steps=-1),
            "There is one new token too few: the loop runs max_new_tokens times.",
        ),
        Wrong(
            "never appended",
            _forgets_to_append,
            "Each step asks about the prompt alone, so all new tokens are the same: what was chosen isn't appended. "
            "tokens = torch.cat([tokens, new[:, None]], dim=1).",
        ),
        Wrong(
            "last token shown alone",
            _generating(show=lambda tokens, context: tokens[:, -1:]),
            "The model is shown the last token alone. Without a cache it needs the whole text each time.",
        ),
        Wrong(
            "prompt forgotten",
            _generating(
                show=lambda tokens, context: (
                    tokens[:, -1:] if tokens.shape[1] > 3 else tokens[:, -context:]
                )
            ),
            "After some steps the model is shown too little of the text. Give it all tokens so far, the last "
            "max_positions of them.",
        ),
        Wrong(
            "new tokens not a column",
            _appends_a_row,
            "torch.cat joins tensors with as many axes as each other: the text has two, the chosen tokens one. Make "
            "them a column, new[:, None], and join along dim 1.",
        ),
        Wrong(
            "appended below",
            _appends_below,
            "torch.cat joins along dim 0 unless told otherwise: the new tokens go below the text. A text grows to the "
            "right: torch.cat([tokens, new[:, None]], dim=1).",
        ),
        Wrong(
            "logits of the first place",
            _generating(pick=lambda choose, logits: choose(logits[:, 0])),
            "You take the logits of the first place. The next token's stand at the last one: logits[:, -1].",
        ),
        Wrong(
            "logits of all places",
            _generating(pick=lambda choose, logits: choose(logits)),
            "You give `choose` the logits of all places, (batch, n, vocab). It wants those of the last one: "
            "logits[:, -1].",
        ),
        Wrong(
            "axis of places kept",
            _generating(pick=lambda choose, logits: choose(logits[:, -1:])),
            "You give `choose` logits of shape (batch, 1, vocab): logits[:, -1:] keeps the axis of places. Write "
            "logits[:, -1].",
        ),
        Wrong(
            "mean over the places",
            _generating(pick=lambda choose, logits: choose(logits.mean(dim=1))),
            "You average the logits over the places. The next token's stand at the last one: logits[:, -1].",
        ),
        Wrong(
            "all places replaced",
            _all_at_once,
            "You go on with what the model says at every place, so the prompt is lost. Only the last place's token is "
            "new: append it to the text.",
        ),
        Wrong(
            "argmax",
            _generating(pick=lambda choose, logits: logits[:, -1].argmax(dim=-1)),
            "You always take the likeliest token. What comes next is for `choose` to say: new = choose(logits[:, -1]).",
        ),
        Wrong(
            "probabilities",
            _generating(pick=lambda choose, logits: choose(logits[:, -1].softmax(dim=-1))),
            "You give `choose` probabilities. It wants logits: a function that takes the softmax itself would take "
            "it twice, and draw nearly at random.",
        ),
        Wrong(
            "log-probabilities",
            _generating(pick=lambda choose, logits: choose(logits[:, -1].log_softmax(dim=-1))),
            "You give `choose` log-probabilities. Hand on the logits as the model gave them.",
        ),
        Wrong(
            "not cropped",
            _generating(show=lambda tokens, context: tokens),
            "The text outgrows the model's positions. Show it the last model.config.max_positions tokens: "
            "tokens[:, -context:].",
        ),
        Wrong(
            "prompt cropped, text not",
            _generating(
                show=lambda tokens, context: tokens,
                crop=lambda tokens, context: tokens[:, -context:],
            ),
            "You crop the prompt once, but the text grows on and outgrows the model's positions. Crop at each step: "
            "model(tokens[:, -context:]).",
        ),
        Wrong(
            "first tokens shown",
            _generating(show=lambda tokens, context: tokens[:, :context]),
            "When the text is longer than the model's positions, you show it the first tokens, so it says the same "
            "from then on. The last ones matter: tokens[:, -context:].",
        ),
        Wrong(
            "cropped by one too many",
            _generating(show=lambda tokens, context: tokens[:, -(context - 1) :]),
            "You show the model one token less than it has positions for: max_positions tokens fit.",
        ),
        Wrong(
            "cropped at max_new_tokens",
            lambda model, prompt, max_new_tokens, choose: _generating(
                show=lambda tokens, context: tokens[:, -min(context, max_new_tokens) :]
            )(model, prompt, max_new_tokens, choose),
            "You crop the text by max_new_tokens. How much the model can see is model.config.max_positions.",
        ),
        Wrong(
            "stays in training mode",
            _generating(before=lambda model: None),
            "The model runs in the mode in which it came. In training mode it drops things by chance: model.eval() "
            "before the loop.",
        ),
        Wrong(
            "left in eval mode",
            _generating(after=lambda model, was: None),
            "The model is left in eval mode. A training that generates now and then would go on without dropout. "
            "Note model.training at the start, and end with model.train(that).",
        ),
        Wrong(
            "left in training mode",
            _generating(after=lambda model, was: model.train()),
            "The model is left in training mode, whatever it came in. Note model.training at the start, and end "
            "with model.train(that).",
        ),
        Wrong(
            "gradients recorded",
            _generating(gradients=True),
            "Gradients are recorded while it generates, which takes memory for a backward pass that never comes. Put "
            "the loop within torch.no_grad().",
        ),
    ),
    correct_alternatives=(
        _generating(),
        _generate_collecting,
        _generate_sliding,
        _generating(crop=lambda tokens, context: tokens[:, -context:]),
    ),
    hints=(
        "One step: show the model the text, take what it says at the last place, choose, append. What has to be "
        "done before the first step and after the last one?",
        "logits = model(tokens[:, -context:]) has the shape (batch, n, vocab); the next token's logits are "
        "logits[:, -1]. new = choose(…) is (batch,); to append it with torch.cat along dim 1 it must be a column.",
        "was = model.training; model.eval(); tokens = prompt; within torch.no_grad(), max_new_tokens times: new = "
        "choose(model(tokens[:, -context:])[:, -1]); tokens = torch.cat([tokens, new[:, None]], dim=1). Then "
        "model.train(was).",
    ),
)

EXERCISES = (next_token_batches, top_k_filter, top_p_filter, repetition_penalty, generate)
