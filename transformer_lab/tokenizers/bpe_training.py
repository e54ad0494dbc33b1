"""Byte-pair encoding, learned: which two neighbours become one token, again and again."""

import heapq
from collections import defaultdict
from collections.abc import Mapping
from itertools import pairwise

from transformer_lab import checks
from transformer_lab.tokenizers.words import BYTE_LETTERS


def learn_merges(words: Mapping[bytes, int], num_tokens: int) -> list[tuple[bytes, bytes]]:
    """Merge the most frequent pair of neighbours until there are num_tokens new tokens.

    A pair is counted at every place where it stands, overlaps included, times the count of the word; it is
    merged from left to right. Of equally frequent pairs the one that is older comes first: its left token,
    then its right one, by when they were made, and bytes in the order of GPT-2's ids. The words are
    counted once; after a merge only the words that had the pair are looked at.

    Args:
        words: How often each word is there, at least once. Nothing is merged across words.
        num_tokens: How many tokens to make beside the 256 bytes.

    Returns: The merges in their order.
    Raises: ValueError if nothing is left to merge before; TypeError if a word isn't bytes.
    Source: Sennrich et al. 2016, algorithm 1. Differs: bytes for characters (Radford et al. 2019, section 2.2),
        and no sign for the end of a word.

    >>> learn_merges({b"aab": 3, b"ab": 2}, 2)
    [(b'a', b'b'), (b'a', b'ab')]
    """
    checks.whole("num_tokens", num_tokens, 0)
    for word, count in words.items():
        if not isinstance(word, bytes):
            raise TypeError(f"each word must be bytes; one is {word!r}. Write word.encode().")
        checks.whole(f"the count of {word!r}", count, 1)
    tokens = [bytes([byte]) for byte in BYTE_LETTERS]
    numbers = {token: number for number, token in enumerate(tokens)}
    spellings = [[numbers[bytes([byte])] for byte in word] for word in words]
    times = list(words.values())

    counts: dict[tuple[int, int], int] = defaultdict(int)
    places: dict[tuple[int, int], set[int]] = defaultdict(set)
    for place, spelling in enumerate(spellings):
        for pair in pairwise(spelling):
            counts[pair] += times[place]
            places[pair].add(place)
    heap = [(-count, pair) for pair, count in counts.items()]
    heapq.heapify(heap)

    merges: list[tuple[int, int]] = []
    while len(tokens) < 256 + num_tokens:
        if not heap:
            raise ValueError(
                f"the text must have enough pairs for {num_tokens} new tokens; after "
                f"{len(tokens) - 256} nothing is left to merge. Take a smaller vocabulary "
                f"(bytes included, {len(tokens)} is the most) or more text."
            )
        count, pair = heapq.heappop(heap)
        if -count != counts[pair]:  # it has become rarer since it was put there
            if counts[pair] > 0:
                heapq.heappush(heap, (-counts[pair], pair))
            continue
        # It is new: where all of its bytes are covered by whole tokens, they were always merged alike.
        new = len(tokens)
        tokens.append(tokens[pair[0]] + tokens[pair[1]])
        merges.append(pair)

        grown = set()
        for place in places.pop(pair):
            before = spellings[place]
            after = _merged(before, pair, new)
            for each in pairwise(before):
                counts[each] -= times[place]
            for each in pairwise(after):
                counts[each] += times[place]
            # All pairs with the new token, since only they can have become more frequent.
            fresh = {each for each in pairwise(after) if new in each}
            for each in fresh:
                places[each].add(place)
            grown |= fresh
            spellings[place] = after
        for each in grown:
            heapq.heappush(heap, (-counts[each], each))
    return [(tokens[left], tokens[right]) for left, right in merges]


def _merged(spelling: list[int], pair: tuple[int, int], new: int) -> list[int]:
    merged, place = [], 0
    left, right = pair
    last = len(spelling) - 1
    while place <= last:
        if spelling[place] == left and place < last and spelling[place + 1] == right:
            merged.append(new)
            place += 2
        else:
            merged.append(spelling[place])
            place += 1
    return merged
