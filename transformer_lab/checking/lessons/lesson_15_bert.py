"""Exercises of lesson 15: BERT's inputs, its masking, its loss, and the mean of its vectors."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from transformer_lab.checking.exercise import (
    Answer,
    Exercise,
    Probe,
    Wrong,
    gradient,
    numbers,
    other_device,
    twice,
)

LESSON = "15_bert"

Ids = list[int]
Pair = tuple[Tensor, Tensor]

# ---------------------------------------------------------------------------- bert_inputs


def _inputs_by_loop(first: Ids, second: Ids | None, cls_id: int, sep_id: int) -> Pair:
    ids, segments = [cls_id], [0]
    for segment, text in enumerate([first] if second is None else [first, second]):
        for token in text:
            ids.append(token)
            segments.append(segment)
        ids.append(sep_id)
        segments.append(segment)
    return torch.tensor(ids), torch.tensor(segments)


def _inputs(first: Ids, second: Ids | None, cls_id: int, sep_id: int) -> Pair:
    tail = [] if second is None else [*second, sep_id]
    head = [cls_id, *first, sep_id]
    return torch.tensor(head + tail), torch.tensor([0] * len(head) + [1] * len(tail))


def _inputs_by_cat(first: Ids, second: Ids | None, cls_id: int, sep_id: int) -> Pair:
    head = torch.tensor([cls_id, *first, sep_id])
    if second is None:
        return head, torch.zeros_like(head)
    tail = torch.tensor([*second, sep_id])
    return torch.cat([head, tail]), torch.cat([torch.zeros_like(head), torch.ones_like(tail)])


def _inputs_by_comparison(first: Ids, second: Ids | None, cls_id: int, sep_id: int) -> Pair:
    ids = torch.tensor([cls_id, *first, sep_id] + ([] if second is None else [*second, sep_id]))
    return ids, (torch.arange(len(ids)) > len(first) + 1).long()


def _inputs_empty_is_none(first: Ids, second: Ids | None, cls_id: int, sep_id: int) -> Pair:
    return _inputs(first, second or None, cls_id, sep_id)


def _inputs_none_is_empty(first: Ids, second: Ids | None, cls_id: int, sep_id: int) -> Pair:
    return _inputs(first, second or [], cls_id, sep_id)


def _inputs_without_last_sep(first: Ids, second: Ids | None, cls_id: int, sep_id: int) -> Pair:
    ids, segments = _inputs(first, second, cls_id, sep_id)
    return (ids, segments) if second is None else (ids[:-1], segments[:-1])


def _inputs_without_first_sep(first: Ids, second: Ids | None, cls_id: int, sep_id: int) -> Pair:
    if second is None:
        return _inputs(first, None, cls_id, sep_id)
    segments = [0] * (len(first) + 1) + [1] * (len(second) + 1)
    return torch.tensor([cls_id, *first, *second, sep_id]), torch.tensor(segments)


def _inputs_two_cls(first: Ids, second: Ids | None, cls_id: int, sep_id: int) -> Pair:
    return _inputs(first, None if second is None else [cls_id, *second], cls_id, sep_id)


def _inputs_without_cls(first: Ids, second: Ids | None, cls_id: int, sep_id: int) -> Pair:
    ids, segments = _inputs(first, second, cls_id, sep_id)
    return ids[1:], segments[1:]


def _inputs_sep_is_second(first: Ids, second: Ids | None, cls_id: int, sep_id: int) -> Pair:
    ids, segments = _inputs(first, second, cls_id, sep_id)
    if second is not None:
        segments[len(first) + 1] = 1
    return ids, segments


def _inputs_all_zero(first: Ids, second: Ids | None, cls_id: int, sep_id: int) -> Pair:
    ids, segments = _inputs(first, second, cls_id, sep_id)
    return ids, torch.zeros_like(segments)


def _inputs_from_one(first: Ids, second: Ids | None, cls_id: int, sep_id: int) -> Pair:
    ids, segments = _inputs(first, second, cls_id, sep_id)
    return ids, segments + 1


def _inputs_words_alone(first: Ids, second: Ids | None, cls_id: int, sep_id: int) -> Pair:
    ids, _ = _inputs(first, second, cls_id, sep_id)
    return ids, torch.tensor([0] * len(first) + [1] * len(second or []))


def _inputs_last_sep_zero(first: Ids, second: Ids | None, cls_id: int, sep_id: int) -> Pair:
    ids, segments = _inputs(first, second, cls_id, sep_id)
    segments[-1] = 0
    return ids, segments


def _inputs_one_short(first: Ids, second: Ids | None, cls_id: int, sep_id: int) -> Pair:
    ids, segments = _inputs(first, second, cls_id, sep_id)
    return ids, segments if second is None else segments[:-1]


def _inputs_seps_counted(first: Ids, second: Ids | None, cls_id: int, sep_id: int) -> Pair:
    ids, _ = _inputs(first, second, cls_id, sep_id)
    return ids, (ids == sep_id).cumsum(0)


def _inputs_with_batch(first: Ids, second: Ids | None, cls_id: int, sep_id: int) -> Pair:
    ids, segments = _inputs(first, second, cls_id, sep_id)
    return ids[None], segments[None]


def _inputs_in_place(first: Ids, second: Ids | None, cls_id: int, sep_id: int) -> Pair:
    first.insert(0, cls_id)
    first.append(sep_id)
    segments = [0] * len(first)
    if second is not None:
        second.append(sep_id)
        segments += [1] * len(second)
    return torch.tensor(first + (second or [])), torch.tensor(segments)


def _inputs_swapped(first: Ids, second: Ids | None, cls_id: int, sep_id: int) -> Pair:
    ids, segments = _inputs(first, second, cls_id, sep_id)
    return segments, ids


def _inputs_length_of_none(first: Ids, second: Any, cls_id: int, sep_id: int) -> Pair:
    return torch.tensor([cls_id, *first, sep_id, *second, sep_id]), torch.tensor([0])


def _inputs_plus_none(first: Ids, second: Any, cls_id: int, sep_id: int) -> Pair:
    tail: Ids = [sep_id] + second + [sep_id]  # noqa: RUF005 - what a learner writes
    return torch.tensor([cls_id, *first, *tail]), torch.tensor([0])


_NONE = (
    "It uses `second` as a list where it is None. Ask first, `if second is not None:`, and add the second text "
    "only then."
)

bert_inputs = Exercise(
    name="bert_inputs",
    lesson=LESSON,
    signature="bert_inputs(first, second, cls_id, sep_id)",
    reference=_inputs_by_loop,
    parts=("ids", "segments"),
    probes=(
        Probe(
            "one text of two tokens",
            ([7, 8], None, 1, 2),
            explain="One text is [CLS] first [SEP], and all its segments are 0, those of [CLS] and [SEP] too.",
        ),
        Probe(
            "texts of two tokens and of three",
            ([7, 8], [9, 6, 5], 1, 2),
            explain="A pair is [CLS] first [SEP] second [SEP]; segments are 0 up to and with the first [SEP].",
        ),
        Probe(
            "a second text without tokens",
            ([7, 8, 9], [], 1, 2),
            explain="An empty list is a text, None is none.",
        ),
        Probe("a first text without tokens", ([], [5, 6], 3, 4)),
        Probe(
            "other ids for [CLS] and [SEP], as BERT has them",
            ([2023, 2003, 102], [101, 2054], 101, 102),
            explain="The texts may hold any ids, those of [CLS] and [SEP] too: the segments follow from lengths.",
        ),
        Probe("no text at all", ([], None, 1, 2)),
        twice([7, 8], [9], 1, 2),
    ),
    wrong_answers=(
        Wrong(
            "None unpacked",
            _inputs_length_of_none,
            _NONE + " (A * can't unpack None.)",
        ),
        Wrong("None added", _inputs_plus_none, _NONE + " (A list plus None is an error.)"),
        Wrong(
            "an empty text taken for none",
            _inputs_empty_is_none,
            "An empty second text loses its [SEP]: `if second:` is false for an empty list too. Ask "
            "`if second is not None:`.",
        ),
        Wrong(
            "none taken for an empty text",
            _inputs_none_is_empty,
            "Where there is no second text you still write its [SEP]: two in a row. With None the row ends "
            "with the first [SEP].",
        ),
        Wrong(
            "no [SEP] at the end of a pair",
            _inputs_without_last_sep,
            "Your pair doesn't end with [SEP]. Each of the two texts is closed by one.",
        ),
        Wrong(
            "no [SEP] between",
            _inputs_without_first_sep,
            "Nothing stands between your two texts. [SEP] closes the first one too, not only the second.",
        ),
        Wrong(
            "two [CLS]",
            _inputs_two_cls,
            "Your second text begins with a [CLS] of its own. There is one [CLS] for the whole row, at its "
            "begin.",
        ),
        Wrong(
            "no [CLS]",
            _inputs_without_cls,
            "Your row doesn't begin with [CLS]. Its output is what stands for the whole row.",
        ),
        Wrong(
            "first [SEP] counted as second text",
            _inputs_sep_is_second,
            "Your first [SEP] has segment 1. It closes the first text and belongs to it: segment 0.",
        ),
        Wrong(
            "last [SEP] counted as first text",
            _inputs_last_sep_zero,
            "Your last [SEP] has segment 0. It closes the second text and belongs to it: segment 1.",
        ),
        Wrong(
            "all segments 0",
            _inputs_all_zero,
            "All your segments are 0, for pairs too. The second text and its [SEP] have segment 1. A model "
            "would still run, and not know where the second text begins.",
        ),
        Wrong(
            "segments from 1",
            _inputs_from_one,
            "Your segments are counted from 1. They are row numbers of a table with two rows: 0 and 1.",
        ),
        Wrong(
            "segments of the words alone",
            _inputs_words_alone,
            "Your segments are too few: [CLS] and each [SEP] need one too. There is a segment for every id.",
        ),
        Wrong(
            "second segments one short",
            _inputs_one_short,
            "Your segments of the second text are one too few: its [SEP] needs one as well.",
        ),
        Wrong(
            "segments by counting [SEP]",
            _inputs_seps_counted,
            "Your segments count the [SEP]s so far, so that each [SEP] is one too far: the first has 1, the last 2. "
            "And a text may hold that id itself. Take the segments from the lengths.",
        ),
        Wrong(
            "with a batch axis",
            _inputs_with_batch,
            "Your tensors have a batch axis in front, (1, n). Rows of different lengths are put together "
            "later; here one axis is asked for, (n,).",
        ),
        Wrong(
            "segments first",
            _inputs_swapped,
            "You return the segments first. The order is (ids, segments).",
        ),
        Wrong(
            "lists changed",
            _inputs_in_place,
            "It writes into the caller's lists: insert, append and += change them. Build a new list, such as "
            "[cls_id, *first, sep_id].",
        ),
    ),
    correct_alternatives=(_inputs, _inputs_by_cat, _inputs_by_comparison),
    hints=(
        "Write the row for ([7, 8], [9]) on paper, and below each id its segment. How many zeros, how many ones?",
        "Build the first part, [cls_id, *first, sep_id], and a list of as many zeros. What has to be added if "
        "there is a second text?",
        "ids = [cls_id, *first, sep_id]; segments = [0] * len(ids); if second is not None: ids = [*ids, *second, "
        "sep_id] and segments += [1] * (len(second) + 1). Then torch.tensor of both.",
    ),
)

# ---------------------------------------------------------------------------- bert_mask

_FINE = "as it should be"


def _off(count: Tensor, number: Tensor | int, share: float) -> str:
    """ "too many" or "too few" where a count leaves its five standard deviations, else nothing."""
    distance = float(count) - float(number) * share
    if abs(distance) <= 5 * math.sqrt(float(number) * share * (1 - share)) + 1e-9:
        return ""
    return "too many" if distance > 0 else "too few"


def _too_equal(counts: Tensor, numbers: Tensor, share: float) -> bool:
    """Whether the counts of the rows lie nearer to their means than independent draws ever do.

    The sum of the squared distances, in standard deviations, has mean R and variance 2R for R rows.
    """
    distances = (counts - numbers * share) ** 2 / (numbers * share * (1 - share))
    return float(distances.sum()) < len(counts) - 5 * math.sqrt(2 * len(counts))


def _statistics(answer: Answer, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
    """What is wrong with the draws of an answer, by rules and by counts; the same words for the same fault."""
    ids, special, mask_id, vocab = args[:4]
    p = args[4] if len(args) > 4 else kwargs.get("p", 0.15)
    original = ids.clone()
    torch.manual_seed(0)
    read, labels = answer(*args, **kwargs)
    chosen = labels != -100
    if (chosen & special).any():
        return "special tokens have labels"
    if (read != original)[special].any():
        return "special tokens are changed"
    if not chosen.any():
        return "nothing has a label"
    if (labels[chosen] != original[chosen]).any():
        return "labels that aren't the original ids"
    if (read != original)[~chosen].any():
        return "tokens without a label are changed"
    if found := _off(chosen.sum(), (~special).sum(), p):
        return f"{found} tokens are chosen"
    if (chosen == chosen[0])[:, ~special[0]].all() and len(ids) > 1:
        return "the same places are chosen in every row"
    if _too_equal(chosen.sum(1), (~special).sum(1), p):
        return "nearly the same number is chosen in every row"
    masked, kept = chosen & (read == mask_id), chosen & (read == original)
    other = chosen & ~masked & ~kept
    if not other.any():
        return "none is random" if kept.any() else "every chosen token becomes [MASK]"
    total, same = chosen.sum(), 0.1 / vocab  # a random word may be the token itself, or [MASK]
    shares = {
        "become [MASK]": (masked, 0.8 + same),
        "are kept": (kept, 0.1 + same),
        "become another word": (other, 0.1 - 2 * same),
    }
    faults = [
        f"{off} of the chosen {what}"
        for what, (where, share) in shares.items()
        if (off := _off(where.sum(), total, share))
    ]
    if faults:
        return ", ".join(faults)
    return _random_words(original, read, chosen, mask_id, vocab)


def _random_words(ids: Tensor, read: Tensor, chosen: Tensor, mask_id: int, vocab: int) -> str:
    other = chosen & (read != mask_id) & (read != ids)
    values = read[other]
    if ((values < 0) | (values >= vocab)).any():
        return "random words outside of 0 to vocab - 1"
    if len(values.unique()) == 1:
        return "one random word for all"
    for value in set(range(vocab)) - {mask_id}:
        candidates = chosen & (ids != value)
        if found := _off((other & (read == value)).sum(), candidates.sum(), 0.1 / vocab):
            return f"{found} random words are {value}"
    # Places chosen in two rows, one below the other: their fates must be independent.
    both = chosen[1:] & chosen[:-1]
    alike = both & ((read == mask_id)[1:] == (read == mask_id)[:-1])
    share = 0.8 + 0.1 / vocab
    if _off(alike.sum(), both.sum(), share**2 + (1 - share) ** 2):
        return "what happens to a chosen token is the same in every row"
    return _FINE


def _what_is_chosen(answer: Answer, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
    """In words, so that two answers that draw in another order say the same."""
    original = args[0].clone()
    torch.manual_seed(0)
    read, labels = answer(*args, **kwargs)
    if (labels != -100).any():
        return "some tokens have a label"
    return "nothing is chosen" if torch.equal(read, original) else "some ids are changed"


def _labels_alone(answer: Answer, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor:
    labels: Tensor = answer(*args, **kwargs)[1]
    return labels


def _with_generators(answer: Answer, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
    """Whether all random numbers come from the generator that is given."""
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    one, two, other = (
        torch.stack(answer(*args, generator=torch.Generator().manual_seed(seed)))
        for seed in (5, 5, 6)
    )
    if not torch.equal(before, torch.random.get_rng_state()):
        return "it draws from torch's own generator though another is given"
    if not torch.equal(one, two):
        return "the same seed gives two results"
    return "another seed gives the same result" if torch.equal(one, other) else _FINE


def _without_generator(answer: Answer, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
    torch.manual_seed(0)
    one, two = (torch.stack(answer(*args)) for _ in range(2))
    return "two calls give the same result" if torch.equal(one, two) else _FINE


@dataclass(frozen=True)
class _Mask:
    """The right answer by single draws for each token, and the ways to get it wrong."""

    masked: float = 0.8
    swapped: float = 0.1
    lowest: int = 0
    highest: int = 0
    spare: bool = True
    invert: bool = False
    late_labels: bool = False
    label_kept: bool = True
    label_all: bool = False
    in_place: bool = False
    one_word: bool = False
    one_row: bool = False
    one_fate: bool = False
    ignore_p: bool = False
    lose_generator: bool = False
    fixed_seed: bool = False
    on_cpu: bool = False
    label_other: int = -100
    swap_results: bool = False

    def __call__(
        self,
        ids: Tensor,
        special: Tensor,
        mask_id: int,
        vocab: int,
        p: float = 0.15,
        generator: torch.Generator | None = None,
    ) -> Pair:
        generator = None if self.lose_generator else generator
        if self.fixed_seed:
            generator = torch.Generator().manual_seed(0)
        device = "cpu" if self.on_cpu else ids.device

        def draw(one_row: bool) -> Tensor:
            shape = ids.shape[1:] if one_row else ids.shape
            return torch.rand(shape, generator=generator, device=device).expand(ids.shape)

        chosen = draw(self.one_row) < (0.15 if self.ignore_p else p)
        if self.spare:
            chosen = chosen & (special if self.invert else ~special)
        fate = draw(self.one_fate)
        shape = (1, 1) if self.one_word else ids.shape
        words = torch.randint(
            self.lowest, vocab + self.highest, shape, generator=generator, device=device
        ).expand(ids.shape)
        read = torch.where(chosen & (fate < self.masked + self.swapped), words, ids)
        read = torch.where(chosen & (fate < self.masked), mask_id, read)
        asked = chosen if self.label_kept else read != ids
        asked = torch.ones_like(chosen) if self.label_all else asked
        labels = torch.where(asked, read if self.late_labels else ids, self.label_other)
        if self.in_place:
            ids.copy_(read)
        return (labels, read) if self.swap_results else (read, labels)


def _mask_by_one_draw(
    ids: Tensor,
    special: Tensor,
    mask_id: int,
    vocab: int,
    p: float = 0.15,
    generator: torch.Generator | None = None,
) -> Pair:
    """One uniform number decides all, as in the lesson."""
    u = torch.rand(ids.shape, generator=generator, device=ids.device).masked_fill(special, 2.0)
    words = torch.randint(vocab, ids.shape, generator=generator, device=ids.device)
    read = ids.masked_fill(u < 0.8 * p, mask_id)
    read = torch.where((u >= 0.8 * p) & (u < 0.9 * p), words, read)
    return read, ids.masked_fill(u >= p, -100)


def _mask_by_bernoulli(
    ids: Tensor,
    special: Tensor,
    mask_id: int,
    vocab: int,
    p: float = 0.15,
    generator: torch.Generator | None = None,
) -> Pair:
    """Three coins, the third for what the second leaves over."""

    def coin(q: float) -> Tensor:
        return torch.bernoulli(torch.full(ids.shape, q, device=ids.device), generator=generator)

    read, labels = ids.clone(), ids.clone()
    chosen = coin(p).bool() & ~special
    labels[~chosen] = -100
    masked = coin(0.8).bool() & chosen
    read[masked] = mask_id
    swapped = coin(0.5).bool() & chosen & ~masked
    words = torch.randint(vocab, ids.shape, generator=generator, device=ids.device)
    read[swapped] = words[swapped]
    return read, labels


def _mask_token_by_token(
    ids: Tensor,
    special: Tensor,
    mask_id: int,
    vocab: int,
    p: float = 0.15,
    generator: torch.Generator | None = None,
) -> Pair:
    read, labels = ids.clone(), torch.full_like(ids, -100)
    draws = torch.rand((*ids.shape, 2), generator=generator).tolist()
    words = torch.randint(vocab, ids.shape, generator=generator).tolist()
    stays = special.tolist()
    for i in range(ids.shape[0]):
        for j in range(ids.shape[1]):
            choice, fate = draws[i][j]
            if stays[i][j] or choice >= p:
                continue
            labels[i, j] = ids[i, j]
            if fate < 0.8:
                read[i, j] = mask_id
            elif fate < 0.9:
                read[i, j] = words[i][j]
    return read, labels


def _mask_with_pythons_and(
    ids: Tensor,
    special: Tensor,
    mask_id: int,
    vocab: int,
    p: float = 0.15,
    generator: torch.Generator | None = None,
) -> Pair:
    chosen: Any = torch.rand(ids.shape, generator=generator, device=ids.device) < p and not special
    return torch.where(chosen, mask_id, ids), torch.where(chosen, ids, -100)


def _mask_second_overwrites(
    ids: Tensor,
    special: Tensor,
    mask_id: int,
    vocab: int,
    p: float = 0.15,
    generator: torch.Generator | None = None,
) -> Pair:
    """The random words overwrite one tenth of the masks too: separate coins of 0.8 and 0.1."""
    chosen = (torch.rand(ids.shape, generator=generator, device=ids.device) < p) & ~special
    masked = torch.rand(ids.shape, generator=generator, device=ids.device) < 0.8
    swapped = torch.rand(ids.shape, generator=generator, device=ids.device) < 0.1
    words = torch.randint(vocab, ids.shape, generator=generator, device=ids.device)
    read = torch.where(chosen & masked, mask_id, ids)
    return torch.where(chosen & swapped, words, read), torch.where(chosen, ids, -100)


def _mask_fixed_number(
    ids: Tensor,
    special: Tensor,
    mask_id: int,
    vocab: int,
    p: float = 0.15,
    generator: torch.Generator | None = None,
) -> Pair:
    """Exactly the share p of each row, as in the code of BERT's authors."""
    draws = torch.rand(ids.shape, generator=generator, device=ids.device).masked_fill(special, 2.0)
    number = ((~special).sum(1, keepdim=True) * p).round()
    chosen = draws.argsort(dim=1).argsort(dim=1) < number
    fate = torch.rand(ids.shape, generator=generator, device=ids.device)
    words = torch.randint(vocab, ids.shape, generator=generator, device=ids.device)
    read = torch.where(chosen & (fate < 0.9), words, ids)
    return torch.where(chosen & (fate < 0.8), mask_id, read), torch.where(chosen, ids, -100)


_FEW = torch.tensor([[1, 5, 6, 2], [1, 4, 2, 0]])  # [CLS] words [SEP] [PAD]
_FEW_SPECIAL = torch.tensor([[True, False, False, True], [True, False, True, True]])


def _many(rows: int, columns: int, vocab: int, seed: int) -> tuple[Tensor, Tensor]:
    """Rows [CLS] words … [SEP] [PAD], with 0, 1, 2 special and 3 for [MASK]."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(4, vocab, (rows, columns), generator=generator)
    ids[:, 0], ids[:, -2], ids[:, -1] = 1, 2, 0
    return ids, ids < 3


bert_mask = Exercise(
    name="bert_mask",
    lesson=LESSON,
    signature="bert_mask(ids, special, mask_id, vocab, p=0.15, generator=None)",
    reference=_mask_token_by_token,
    parts=("read", "labels"),
    probes=(
        Probe(
            "p = 1, but every token is special",
            (_FEW, torch.ones_like(_FEW_SPECIAL), 3, 8, 1.0),
            explain="Special tokens are never chosen: all ids stay, and all labels are -100.",
        ),
        Probe(
            "p = 0 and 1,000 tokens",
            (*_many(20, 50, 9, seed=5), 3, 9, 0.0),
            explain="With p = 0 nothing is chosen: all ids stay, and all labels are -100.",
            use=_what_is_chosen,
        ),
        Probe(
            "p = 1: all that isn't special is chosen (the labels alone)",
            (_FEW, _FEW_SPECIAL, 3, 8, 1.0),
            explain="A label is the original id where a token was chosen, and -100 elsewhere; special tokens are "
            "never chosen, kept ones have a label too.",
            use=_labels_alone,
        ),
        Probe(
            "24,000 tokens of 60 rows, counted",
            (*_many(60, 400, 9, seed=1), 3, 9),
            explain="On many tokens the counts must be those of the rule, within five standard deviations. 15 % "
            "are chosen; of these 80 % become [MASK], 10 % a random word, 10 % stay.",
            use=_statistics,
        ),
        Probe(
            "p = 0.5 and another vocabulary, counted",
            (*_many(40, 300, 21, seed=2), 3, 21, 0.5),
            explain="With p = 0.5 half of the tokens are chosen; of these, again 80 %, 10 % and 10 %.",
            use=_statistics,
        ),
        Probe(
            "generators with the seeds 5, 5 and 6",
            (*_many(10, 50, 9, seed=3), 3, 9),
            explain="Every random number must come from `generator` where one is given: pass it on to each "
            "torch.rand, torch.randint or torch.bernoulli.",
            use=_with_generators,
        ),
        Probe(
            "two calls without a generator",
            (*_many(10, 50, 9, seed=4), 3, 9),
            explain="Each call must draw anew. Is a seed set inside the function?",
            use=_without_generator,
        ),
        other_device(_FEW, _FEW_SPECIAL, 3, 8),
    ),
    wrong_answers=(
        Wrong(
            "Python's and",
            _mask_with_pythons_and,
            "`and` and `not` ask a whole tensor for a single yes or no. Place by place it is & and ~.",
        ),
        Wrong(
            "special tokens chosen",
            _Mask(spare=False),
            "Your function hides special tokens too. [CLS], [SEP] and padding can be told from their place: they "
            "would be free points. Choose only where `special` is False: & ~special.",
        ),
        Wrong(
            "only special tokens chosen",
            _Mask(invert=True),
            "Your function chooses the special tokens and leaves the words. `special` is True where a token is "
            "*never* chosen: & ~special.",
        ),
        Wrong(
            "labels everywhere",
            _Mask(label_all=True),
            "You give every position a label. Then the model is asked about words that it sees, and learns to "
            "copy. Only chosen positions have one; the others have -100.",
        ),
        Wrong(
            "labels from the masked row",
            _Mask(late_labels=True),
            "Your labels are what the model reads, not what stood there: they are taken after the masking. "
            "The label is the original id.",
        ),
        Wrong(
            "kept ones without a label",
            _Mask(label_kept=False),
            "You give a label only where the id has changed. The 10 % that are kept were chosen too: the model is "
            "asked about them, though it sees them.",
        ),
        Wrong(
            "0 in place of -100",
            _Mask(label_other=0),
            "Positions that weren't chosen have the label 0, which is the id of a token. The mark that the loss "
            "leaves out is -100.",
        ),
        Wrong(
            "-1 in place of -100",
            _Mask(label_other=-1),
            "Positions that weren't chosen have the label -1. The mark that torch's cross-entropy leaves out is "
            "-100.",
        ),
        Wrong(
            "labels first",
            _Mask(swap_results=True),
            "You return the labels first. The order is (what the model reads, labels).",
        ),
        Wrong(
            "only masks",
            _Mask(masked=1.0, swapped=0.0),
            "Every chosen token becomes [MASK]. That happens without the rule of the two tens, and also if one "
            "random number answers both questions: what is below 0.15 is below 0.8 too. Draw a second number "
            "for what happens to a chosen token.",
        ),
        Wrong(
            "10 % of the rest",
            _Mask(masked=0.8, swapped=0.02),
            "Too few random words, too many kept: your coin of 0.1 is thrown only for the 20 % that the masks leave "
            "over. Of these, half become random: 0.5 · 0.2 = 0.1.",
        ),
        Wrong(
            "cut at the lesson's places",
            _Mask(masked=0.12, swapped=0.015),
            "You cut a second draw at 0.12 and 0.135. Those places belong to *one* draw that answers both questions. "
            "If you draw again for the chosen ones, cut at 0.8 and 0.9.",
        ),
        Wrong(
            "the same number in each row",
            _mask_fixed_number,
            "Each of your rows has the same share of chosen tokens, to the token. BERT's authors did it so; here "
            "each position is chosen by itself, torch.rand(…) < p, and the numbers differ from row to row.",
        ),
        Wrong(
            "the tens swapped for the eighty",
            _Mask(masked=0.1, swapped=0.8),
            "Most of your chosen tokens become random words. 80 % become [MASK], 10 % random, 10 % stay.",
        ),
        Wrong(
            "nothing kept",
            _Mask(masked=0.8, swapped=0.2),
            "None of your chosen tokens stays as it is: 80 % are masked and 20 % random. The last ten percent are "
            "kept, with a label.",
        ),
        Wrong(
            "nothing random",
            _Mask(masked=0.8, swapped=0.0),
            "None of your chosen tokens becomes a random word: 80 % are masked and 20 % kept. Replace one half of "
            "that rest by random ids.",
        ),
        Wrong(
            "random words over the masks",
            _mask_second_overwrites,
            "Your coins of 0.8 and of 0.1 are independent, so that random words overwrite a tenth of the masks. Of "
            "the chosen ones 72 % are then [MASK]. Cut one random number at 0.8 and 0.9 instead.",
        ),
        Wrong(
            "one random word",
            _Mask(one_word=True),
            "All random words of a call are the same one: torch.randint is asked for a single number. Draw one for "
            "each position, of the shape of ids.",
        ),
        Wrong(
            "the last id left out",
            _Mask(highest=-1),
            "Your random words never are vocab - 1: torch.randint leaves out its upper end already, "
            "torch.randint(vocab, …) goes up to vocab - 1.",
        ),
        Wrong(
            "one id too many",
            _Mask(highest=1),
            "Your random words reach vocab, an id that doesn't exist: the look-up in the table would stop. "
            "torch.randint(vocab, …) goes up to vocab - 1.",
        ),
        Wrong(
            "the first id left out",
            _Mask(lowest=1),
            "Your random words never are 0. They may be any id, special ones too, as in BERT: begin at 0.",
        ),
        Wrong(
            "the same places in each row",
            _Mask(one_row=True),
            "You choose the same places in every row: the random numbers have the shape (n,) and are repeated. "
            "Draw ids.shape of them.",
        ),
        Wrong(
            "the same fate in each row",
            _Mask(one_fate=True),
            "Whether a chosen token is masked depends on its place alone, the same in each row: the second random "
            "numbers have the shape (n,). Draw ids.shape of them.",
        ),
        Wrong(
            "p not used",
            _Mask(ignore_p=True),
            "Your function chooses 15 % whatever `p` is. Compare with the parameter.",
        ),
        Wrong(
            "ids changed",
            _Mask(in_place=True),
            "It writes into the caller's `ids`, so that the original words are gone: the next pass would "
            "mask what is masked already. Work on a copy, ids.clone(), or build with torch.where.",
        ),
        Wrong(
            "generator not used",
            _Mask(lose_generator=True),
            "The generator isn't used: the same seed gives other results each time. Pass generator=generator to each "
            "function that draws.",
        ),
        Wrong(
            "own seed",
            _Mask(fixed_seed=True),
            "A seed is set inside the function: each call hides the same places. The model would see each "
            "text with the same blanks for ever. Leave the seed to the caller.",
        ),
        Wrong(
            "numbers made on the CPU",
            _Mask(on_cpu=True),
            "The results are right, but the random numbers are made on the CPU, so on a GPU this stops. Pass "
            "device=ids.device.",
        ),
    ),
    correct_alternatives=(_Mask(), _mask_by_one_draw, _mask_by_bernoulli),
    hints=(
        "Two questions for each position: is it chosen, and if so, what happens to it? Each needs random numbers of "
        "the shape of ids.",
        "chosen = (torch.rand(…) < p) & ~special. The labels need only this. For the second question draw again and "
        "cut at 0.8 and at 0.9.",
        "With `fate` the second draw and `words` from torch.randint(vocab, ids.shape, …): first torch.where(chosen & "
        "(fate < 0.9), words, ids), then mask_id over it where chosen & (fate < 0.8). Labels: "
        "torch.where(chosen, ids, -100). Pass generator and device=ids.device each time.",
    ),
)

# ---------------------------------------------------------------------------- masked_lm_loss


def _loss_by_loop(logits: Tensor, labels: Tensor) -> Tensor:
    total, count = (logits.double() * 0).sum(), 0
    for row, words in zip(logits.double(), labels.tolist(), strict=True):
        for scores, word in zip(row, words, strict=True):
            if word != -100:
                total = total + torch.logsumexp(scores, dim=0) - scores[word]
                count += 1
    return (total / max(count, 1)).to(logits.dtype)


def _flat(logits: Tensor, labels: Tensor, **settings: Any) -> Tensor:
    return F.cross_entropy(logits.flatten(0, 1), labels.flatten(), **settings)


def _loss(logits: Tensor, labels: Tensor) -> Tensor:
    return _flat(logits, labels, reduction="sum") / (labels != -100).sum().clamp(min=1)


def _loss_by_gather(logits: Tensor, labels: Tensor) -> Tensor:
    asked = labels != -100
    right = logits.log_softmax(-1).gather(2, labels.clamp(min=0)[..., None])[..., 0]
    return -(right * asked).sum() / asked.sum().clamp(min=1)


def _loss_if(logits: Tensor, labels: Tensor) -> Tensor:
    return _flat(logits, labels) if (labels != -100).any() else 0.0 * logits.sum()


def _loss_constant_zero(logits: Tensor, labels: Tensor) -> Tensor:
    return _flat(logits, labels) if (labels != -100).any() else torch.tensor(0.0)


def _loss_of_rows(logits: Tensor, labels: Tensor) -> Tensor:
    rows = [_loss(one[None], words[None]) for one, words in zip(logits, labels, strict=True)]
    return torch.stack(rows).mean()


def _loss_positive_labels(logits: Tensor, labels: Tensor) -> Tensor:
    return _loss(logits, torch.where(labels > 0, labels, -100))


def _loss_all_places(logits: Tensor, labels: Tensor) -> Tensor:
    return _flat(logits, labels.clamp(min=0))


def _loss_naive(logits: Tensor, labels: Tensor) -> Tensor:
    asked = labels != -100
    probs = logits.exp() / logits.exp().sum(-1, keepdim=True)
    right = probs.gather(2, labels.clamp(min=0)[..., None])[..., 0]
    return -(right.log() * asked).sum() / asked.sum().clamp(min=1)


def _loss_probabilities(logits: Tensor, labels: Tensor) -> Tensor:
    asked = labels != -100
    right = logits.softmax(-1).gather(2, labels.clamp(min=0)[..., None])[..., 0]
    return -(right * asked).sum() / asked.sum().clamp(min=1)


def _loss_softmax_twice(logits: Tensor, labels: Tensor) -> Tensor:
    return _loss(logits.softmax(-1), labels)


def _loss_over_places(logits: Tensor, labels: Tensor) -> Tensor:
    asked = labels != -100
    right = logits.log_softmax(1).gather(2, labels.clamp(min=0)[..., None])[..., 0]
    return -(right * asked).sum() / asked.sum().clamp(min=1)


def _after_backward(answer: Answer, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor:
    """The gradient that a training loop would get."""
    logits, labels = args
    logits.requires_grad_(True)
    answer(logits, labels).backward()
    return torch.full_like(logits, math.nan) if logits.grad is None else logits.grad


_ONE_ASKED = torch.tensor([[-100, 5, -100]])
_UNEVEN = torch.tensor([[3, -100, 0, 1], [-100, -100, 4, -100]])
_NONE_ASKED = torch.full((2, 3), -100)

masked_lm_loss = Exercise(
    name="masked_lm_loss",
    lesson=LESSON,
    signature="masked_lm_loss(logits, labels)",
    reference=_loss_by_loop,
    probes=(
        Probe(
            "three places, one of them asked, 8 words with logits 0",
            (torch.zeros(1, 3, 8), _ONE_ASKED),
            explain="All 8 words have probability 1/8, so the one place that is asked gives ln 8 = 2.0794.",
        ),
        Probe(
            "the right word has 3 of 4 parts of the probability",
            (torch.tensor([[[3.0, 1.0], [1.0, 1.0]]]).log(), torch.tensor([[0, -100]])),
            explain="The right word has probability 3/4: the loss is ln(4/3) = 0.2877. Word 0 is a word like others.",
        ),
        Probe(
            "two rows, three places asked in one and one in the other",
            (numbers(2, 4, 6, seed=1), _UNEVEN),
            explain="The mean is taken over the four places that are asked in the whole batch.",
        ),
        Probe(
            "nothing is asked",
            (numbers(2, 3, 5, seed=2), _NONE_ASKED),
            explain="Without a label the loss is 0, not 0/0.",
        ),
        Probe(
            "backward() where nothing is asked",
            (numbers(2, 3, 5, seed=2), _NONE_ASKED),
            explain="A training loop calls backward() on the loss whatever it is, and the gradient must be zeros. So "
            "even the 0 must come from the logits: divide a sum over no places by at least 1.",
            use=_after_backward,
        ),
        Probe(
            "logits of the size of 1,000",
            (numbers(2, 3, 5, seed=3) * 1000, torch.tensor([[1, -100, 2], [-100, 0, 4]])),
            explain="exp(1000) is inf. Use log_softmax or cross_entropy, which shift the logits first.",
        ),
        gradient(numbers(2, 4, 6, seed=4), _UNEVEN),
        twice(numbers(1, 3, 4, seed=5), torch.tensor([[2, -100, 0]])),
        other_device(numbers(2, 4, 6, seed=4), _UNEVEN),
    ),
    wrong_answers=(
        Wrong(
            "mean where nothing is asked",
            lambda logits, labels: _flat(logits, labels),
            "Right, but NaN where nothing is asked: the mean over no places is 0/0. Take reduction='sum' and divide "
            "by the number of asked places, at least 1.",
        ),
        Wrong(
            "a constant 0",
            _loss_constant_zero,
            "Your 0 for a batch without labels doesn't come from the logits, so backward() stops there. Divide a "
            "sum by at least 1, or return logits.sum() * 0.",
        ),
        Wrong(
            "sum",
            lambda logits, labels: _flat(logits, labels, reduction="sum"),
            "Your loss is the sum over the asked places. It would grow with the batch: divide by their number.",
        ),
        Wrong(
            "mean over all places",
            lambda logits, labels: _flat(logits, labels, reduction="sum") / labels.numel(),
            "You divide by all places, not by those that are asked. The loss then looks about seven times as good "
            "as it is.",
        ),
        Wrong(
            "loss at all places",
            _loss_all_places,
            "Places with the label -100 are counted as if their word were number 0. They aren't asked: leave them "
            "out of the sum and of the count.",
        ),
        Wrong(
            "mean of rows",
            _loss_of_rows,
            "You take the mean of each row and then the mean of the rows. A row with one label then weighs as much "
            "as one with three. Divide once, by the number of asked places in the batch.",
        ),
        Wrong(
            "labels above 0",
            _loss_positive_labels,
            "Word number 0 isn't counted: you ask labels > 0. The mark is -100 alone: labels != -100.",
        ),
        Wrong(
            "ignore_index=0",
            lambda logits, labels: _flat(logits, labels, ignore_index=0),
            "You leave out word number 0 in place of -100, so that -100 is taken for a word. cross_entropy leaves "
            "out -100 by itself.",
        ),
        Wrong(
            "probabilities",
            _loss_probabilities,
            "Your loss is made of probabilities. The surprise is minus their logarithm.",
        ),
        Wrong(
            "softmax twice",
            _loss_softmax_twice,
            "A softmax is applied twice: cross_entropy does it by itself. Give it the logits.",
        ),
        Wrong(
            "softmax over places",
            _loss_over_places,
            "Your softmax runs over the places, dim=1. The words compete at each place: the last axis.",
        ),
        Wrong(
            "sign",
            lambda logits, labels: -_loss(logits, labels),
            "The sign is wrong: a loss is the mean of -log p, never negative.",
        ),
        Wrong(
            "bits",
            lambda logits, labels: _loss(logits, labels) / math.log(2),
            "Your loss is in bits. The course, and torch, count in nats: the natural logarithm.",
        ),
        Wrong(
            "naive",
            _loss_naive,
            "Right for small logits, but exp(1000) is inf and log(0) is -inf. Use log_softmax or cross_entropy.",
        ),
        Wrong(
            "divided by the rows",
            lambda logits, labels: _flat(logits, labels, reduction="sum") / len(labels),
            "You divide by the number of rows. The mean is taken over the asked places: divide by their number.",
        ),
        Wrong(
            "-100 looked up",
            lambda logits, labels: -logits.log_softmax(-1).gather(2, labels[..., None]).mean(),
            "It looks up word number -100. Leave those places out first, logits[labels != -100], or put a 0 in "
            "their place and multiply their surprise by 0.",
        ),
        Wrong(
            "logits in place of log-probabilities",
            lambda logits, labels: F.nll_loss(logits.flatten(0, 1), labels.flatten()),
            "You take the logits for log-probabilities: nll_loss wants log_softmax before it. cross_entropy does both.",
        ),
        Wrong(
            "axes not flattened",
            lambda logits, labels: F.cross_entropy(logits, labels),
            "cross_entropy wants the words on the second axis; with (batch, n, vocab) it takes the places for words. "
            "Flatten both: logits.flatten(0, 1) and labels.flatten(), or pick the asked ones: logits[labels != -100].",
        ),
    ),
    correct_alternatives=(
        _loss,
        _loss_by_gather,
        _loss_if,
        lambda logits, labels: (
            F.cross_entropy(logits.transpose(1, 2), labels, reduction="sum")
            / max(int((labels != -100).sum()), 1)
        ),
    ),
    hints=(
        "Which places count? Make a boolean table of them. What would their mean be if there were none?",
        "F.cross_entropy(…, reduction='sum') adds up the surprise and leaves out -100. It wants (places, vocab) and "
        "(places,): flatten, or index with the boolean table.",
        "asked = labels != -100; total = F.cross_entropy(logits[asked], labels[asked], reduction='sum'); divide by "
        "asked.sum().clamp(min=1).",
    ),
)

# ---------------------------------------------------------------------------- mean_pool


def _pool_by_loop(x: Tensor, is_token: Tensor) -> Tensor:
    rows = []
    for vectors, keep in zip(x, is_token.tolist(), strict=True):
        total, count = torch.zeros_like(vectors[0], dtype=torch.float64), 0
        for vector, real in zip(vectors, keep, strict=True):
            if real:
                total, count = total + vector.double(), count + 1
        rows.append(total / max(count, 1))
    return torch.stack(rows).to(x.dtype)


def _kept(x: Tensor, is_token: Tensor) -> Tensor:
    return is_token[..., None].to(x.dtype)


def _pool(x: Tensor, is_token: Tensor) -> Tensor:
    kept = x.masked_fill(~is_token[..., None], 0)
    return kept.sum(1) / is_token.sum(1, keepdim=True).clamp(min=1)


def _pool_times_mask(x: Tensor, is_token: Tensor) -> Tensor:
    kept = _kept(x, is_token)
    return (x * kept).sum(1) / kept.sum(1).clamp(min=1)


def _pool_by_einsum(x: Tensor, is_token: Tensor) -> Tensor:
    cleaned = torch.where(is_token[..., None], x, 0.0)
    total = torch.einsum("bnd,bn->bd", cleaned, is_token.to(x.dtype))
    return total / is_token.sum(-1)[:, None].clamp(min=1)


def _pool_by_matmul(x: Tensor, is_token: Tensor) -> Tensor:
    weights = is_token.to(x.dtype)
    weights = weights / weights.sum(-1, keepdim=True).clamp(min=1)
    return (weights[:, None] @ x.nan_to_num())[:, 0]


def _pool_by_rows(x: Tensor, is_token: Tensor) -> Tensor:
    return torch.stack(
        [row[keep].sum(0) / keep.sum().clamp(min=1) for row, keep in zip(x, is_token, strict=True)]
    )


def _pool_float32(x: Tensor, is_token: Tensor) -> Tensor:
    kept = x.masked_fill(~is_token[..., None], 0).float()
    return kept.sum(1) / is_token.sum(1, keepdim=True).clamp(min=1)


def _pool_in_float32_and_back(x: Tensor, is_token: Tensor) -> Tensor:
    return _pool_float32(x, is_token).to(x.dtype)


def _pool_without_ends(x: Tensor, is_token: Tensor) -> Tensor:
    inner = is_token.clone()
    for row in inner:
        places = row.nonzero().flatten()
        row[places[:1]] = False
        row[places[-1:]] = False
    return _pool(x, inner)


def _pool_from_left(x: Tensor, is_token: Tensor) -> Tensor:
    rows = [row[: int(keep.sum())] for row, keep in zip(x, is_token, strict=True)]
    return torch.stack([row.sum(0) / max(len(row), 1) for row in rows])


def _pool_zeros_in_place(x: Tensor, is_token: Tensor) -> Tensor:
    x[~is_token] = 0
    return x.sum(1) / is_token.sum(1, keepdim=True).clamp(min=1)


def _pool_max(x: Tensor, is_token: Tensor) -> Tensor:
    return x.masked_fill(~is_token[..., None], -math.inf).amax(1)


_X, _REAL = (
    numbers(3, 5, 4, seed=1),
    torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1], [1, 0, 0, 0, 0]]).bool(),
)
_LEFT = torch.tensor([[0, 0, 1, 1], [0, 1, 1, 1]]).bool()
_WITH_NAN = numbers(2, 4, 3, seed=6).masked_fill(~_LEFT[..., None], math.nan)

mean_pool = Exercise(
    name="mean_pool",
    lesson=LESSON,
    signature="mean_pool(x, is_token)",
    reference=_pool_by_loop,
    probes=(
        Probe(
            "two tokens and one padding",
            (
                torch.tensor([[[1.0, 2.0], [3.0, 6.0], [9.0, 9.0]]]),
                torch.tensor([[1, 1, 0]]).bool(),
            ),
            explain="The mean of [1, 2] and [3, 6] is [2, 4]; [9, 9] is padding.",
        ),
        Probe("one text without padding", (numbers(1, 3, 2), torch.ones(1, 3).bool())),
        Probe(
            "three texts of 3, 5 and 1 tokens",
            (_X, _REAL),
            explain="Each text has its own number of tokens to divide by.",
        ),
        Probe(
            "as many texts as tokens and features",
            (numbers(3, 3, 3, seed=2), torch.tensor([[1, 1, 0], [1, 0, 0], [1, 1, 1]]).bool()),
            explain="Here all axes are equally long, so that axes in the wrong order broadcast without an error. "
            "is_token belongs to the first two axes of x: is_token[..., None].",
        ),
        Probe(
            "padding on the left",
            (numbers(2, 4, 3, seed=3), _LEFT),
            explain="The real tokens needn't stand first: ask is_token, don't count from the left.",
        ),
        Probe(
            "a text without tokens beside another",
            (numbers(2, 3, 2, seed=4), torch.tensor([[0, 0, 0], [1, 1, 0]]).bool()),
            explain="A row without tokens gives zeros: divide by at least 1.",
        ),
        Probe(
            "NaN at the padding",
            (_WITH_NAN, _LEFT),
            explain="What stands at padding may be anything. Replace it, x.masked_fill(~is_token[..., None], 0), "
            "or pick the real tokens.",
        ),
        Probe(
            "half precision",
            (numbers(2, 4, 3, seed=5, dtype=torch.float16), _LEFT),
            explain="The result has the dtype of x.",
        ),
        gradient(_X, _REAL),
        twice(_X, _REAL),
        other_device(_X, _REAL),
    ),
    wrong_answers=(
        Wrong(
            "mean over all",
            lambda x, is_token: x.mean(1),
            "Your mean takes the padding in. A text's vector then depends on how long its neighbours are. Leave "
            "padding out of the sum and of the count.",
        ),
        Wrong(
            "divided by the padded length",
            lambda x, is_token: (x * _kept(x, is_token)).mean(1),
            "Padding is out of your sum, but not out of the count: you divide by the padded length. Divide by the "
            "number of real tokens, is_token.sum(dim=1).",
        ),
        Wrong(
            "sum",
            lambda x, is_token: (x * _kept(x, is_token)).sum(1),
            "Your vectors are sums. Divide by the number of real tokens of each text.",
        ),
        Wrong(
            "padding alone",
            lambda x, is_token: _pool(x, ~is_token),
            "You take the mean of the padding: the mask is inverted. is_token is True where a token is.",
        ),
        Wrong(
            "padding in the sum",
            lambda x, is_token: x.sum(1) / is_token.sum(1, keepdim=True).clamp(min=1),
            "Padding is out of your count, but not out of the sum. Put zeros there first: "
            "x.masked_fill(~is_token[..., None], 0).",
        ),
        Wrong(
            "multiplied by the mask",
            _pool_times_mask,
            "Right, but for NaN at the padding: 0 · NaN is NaN. Don't multiply by the mask, fill: "
            "x.masked_fill(~is_token[..., None], 0), as lesson 06 does with scores.",
        ),
        Wrong(
            "NaN without tokens",
            lambda x, is_token: (
                x.masked_fill(~is_token[..., None], 0).sum(1) / is_token.sum(1, keepdim=True)
            ),
            "Right, but the mean over no tokens is 0/0, NaN. A row without tokens is to give zeros: take the sum, and "
            "divide by at least 1, .clamp(min=1).",
        ),
        Wrong(
            "one count for the batch",
            lambda x, is_token: (x * _kept(x, is_token)).sum(1) / is_token.sum().clamp(min=1),
            "You divide by the number of tokens of the whole batch. Each text has its own: is_token.sum(dim=1).",
        ),
        Wrong(
            "one vector for the batch",
            lambda x, is_token: x[is_token].mean(0),
            "You take one mean over all texts: x[is_token] puts the tokens of all rows into one list. One vector for "
            "each text is asked for.",
        ),
        Wrong(
            "the first token",
            lambda x, is_token: x[:, 0],
            "You return the first vector, that of [CLS]. The mean over all real tokens is asked for.",
        ),
        Wrong(
            "the largest",
            _pool_max,
            "You take the largest number of each feature (max pooling). The mean is asked for.",
        ),
        Wrong(
            "mean over features",
            lambda x, is_token: (x * _kept(x, is_token)).mean(2),
            "Your mean runs over the features, the last axis. It runs over the tokens, dim=1, and leaves (batch, d).",
        ),
        Wrong(
            "mask without a feature axis",
            lambda x, is_token: (x * is_token).sum(1) / is_token.sum(1, keepdim=True).clamp(min=1),
            "is_token, (batch, n), and x, (batch, n, d), don't line up from the right: its tokens would meet the "
            "features. Give it a last axis of size 1: is_token[..., None].",
        ),
        Wrong(
            "filled without a feature axis",
            lambda x, is_token: x.masked_fill(~is_token, 0).sum(1),
            "is_token, (batch, n), doesn't line up with x, (batch, n, d), in masked_fill. Give it a last axis of "
            "size 1: is_token[..., None].",
        ),
        Wrong(
            "count without a feature axis",
            lambda x, is_token: (x * _kept(x, is_token)).sum(1) / is_token.sum(1).clamp(min=1),
            "The counts, (batch,), and the sums, (batch, d), don't line up: a count would meet a feature. Keep the "
            "axis: .sum(dim=1, keepdim=True).",
        ),
        Wrong(
            "without [CLS] and [SEP]",
            _pool_without_ends,
            "You leave out the first and the last token of each text. [CLS] and [SEP] are tokens as far as is_token "
            "says, and MiniLM was trained with them in the mean.",
        ),
        Wrong(
            "counted from the left",
            _pool_from_left,
            "Your function takes the first tokens, as many as there are real ones. With padding on the left these are "
            "padding: use is_token itself.",
        ),
        Wrong(
            "float32",
            _pool_float32,
            "The values are right, and to sum in float32 is good. But the result is to have the dtype of x: "
            "go back at the end, .to(x.dtype).",
        ),
        Wrong(
            "x changed",
            _pool_zeros_in_place,
            "It writes zeros into the caller's `x`. masked_fill, without the underscore, makes a new tensor.",
        ),
        Wrong(
            "unit length",
            lambda x, is_token: F.normalize(_pool(x, is_token), dim=-1),
            "Your means are brought to length 1. That is a second step, for cosines; the mean itself is asked for.",
        ),
    ),
    correct_alternatives=(
        _pool,
        _pool_by_matmul,
        _pool_by_rows,
        _pool_by_einsum,
        _pool_in_float32_and_back,
    ),
    hints=(
        "A mean is a sum divided by a count. What does padding do to each of the two?",
        "Put zeros at the padding with masked_fill; is_token[..., None] lines up with x. Then sum over dim=1. By which "
        "number, of which shape, do you divide?",
        "x.masked_fill(~is_token[..., None], 0).sum(dim=1) / is_token.sum(dim=1, keepdim=True).clamp(min=1).",
    ),
)

EXERCISES = (bert_inputs, bert_mask, masked_lm_loss, mean_pool)
