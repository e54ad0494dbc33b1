"""Random languages whose entropy is known exactly, so that a model can be held against the best possible.

A model's loss on real text says little by itself: nobody knows how much of it is chance. In these
languages the probability of each next token is known, and with it the lowest loss that any model can reach.
"""

import math
import random
from bisect import bisect
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from itertools import accumulate
from typing import NamedTuple, TypeAlias

import numpy as np
import torch
from jaxtyping import Float64, Int64, Integer
from torch import Tensor

from transformer_lab import checks

Ids: TypeAlias = Iterable[int] | Integer[Tensor, " tokens"] | Integer[np.ndarray, " tokens"]
Stack: TypeAlias = tuple[str, ...]
MAX_STATES = 4096  # the equations of the stationary distribution take states² numbers
ROUNDING = 1e-9


class Rule(NamedTuple):
    """What a symbol may be written as: a token, then other symbols.

    Attributes:
        probability: Of this rule among those of its symbol.
        token: The word that it begins with.
        then: Symbols that are written behind it, in this order.
    """

    probability: float
    token: str
    then: tuple[str, ...] = ()


class Grammar:
    """A probabilistic grammar in which every token tells the rule that it came from.

    A text is an endless row of sentences, each written from the start symbol. What is still to be written
    of a sentence is a stack of symbols: its first symbol gives the next token, and the token gives the
    symbols that replace it. As no two rules of a symbol begin with the same token, the text so far
    determines the stack s, and p(next token | text) = p(next token | s). So the stacks are the states of a
    Markov chain, and

        entropy rate = Σ_s π(s) H(next token | s),   π = the chain's stationary distribution.

    Args:
        rules: The rules of each symbol.
        start: The symbol of a whole sentence.

    Attributes:
        rules: What was given.
        start: What was given.
        vocabulary: The words in alphabetical order; a word's place is its token id.
        num_states: How many stacks can occur.

    Raises: TypeError if a rule has another form; ValueError if probabilities don't add up to 1, two rules
        of a symbol begin with the same token, a symbol has no rules, sentences may have no end, or more than
        4,096 stacks can occur.
    Source: Korenjak and Hopcroft 1966 (simple grammars); Shannon 1948, section 7 (entropy rate). Differs: the
        nesting is bounded, so the stacks are finite in number.

    >>> coin = Grammar({"toss": [Rule(0.5, "heads"), Rule(0.5, "tails")]}, start="toss")
    >>> round(coin.entropy_rate(), 4), coin.vocabulary
    (0.6931, ('heads', 'tails'))
    """

    def __init__(self, rules: Mapping[str, Sequence[Rule]], start: str) -> None:
        _check_rules(rules, start)
        self.rules = {symbol: tuple(each) for symbol, each in rules.items()}
        self.start = start
        self.vocabulary = tuple(sorted({rule.token for each in rules.values() for rule in each}))
        self._id_of = {token: number for number, token in enumerate(self.vocabulary)}
        # _edges[state][id] = (state after it, probability); state 0 is the begin of a sentence.
        self._edges = self._reach()
        self._check_ends()

    @property
    def vocab_size(self) -> int:
        """How many words there are."""
        return len(self.vocabulary)

    @property
    def num_states(self) -> int:
        """How many stacks can occur."""
        return len(self._edges)

    def encode(self, text: str) -> list[int]:
        """Turn words with spaces between them into token ids.

        Args:
            text: The words.

        Raises: ValueError if a word isn't in the vocabulary.
        """
        words = text.split()
        unknown = next((word for word in words if word not in self._id_of), None)
        if unknown is not None:
            raise ValueError(
                f"every word must be in the vocabulary, {_shortened(self.vocabulary)}; {unknown!r} isn't."
            )
        return [self._id_of[word] for word in words]

    def decode(self, ids: Ids) -> str:
        """Turn token ids into words with spaces between them.

        Args:
            ids: Token ids, from 0 to vocab_size - 1.

        Raises: ValueError if an id is outside of these.
        """
        return " ".join(self.vocabulary[token] for token in self._listed(ids))

    def sample(self, length: int, *, seed: int = 0) -> Int64[Tensor, " {length}"]:
        """Write a random text that begins with a sentence; it may stop inside one.

        Args:
            length: Number of tokens.
            seed: Another seed, another text.

        Raises: ValueError if length is below 1 or seed is negative.
        """
        checks.whole("length", length, 1)
        checks.whole("seed", seed, 0)
        uniform = random.Random(seed).random
        choices = []
        for edges in self._edges:
            ids = list(edges)
            bounds = list(accumulate(probability for _, probability in edges.values()))
            # The last bound is left out: rounding may put it below 1.
            choices.append((bounds[:-1], ids, [after for after, _ in edges.values()]))
        text, state = [], 0
        for _ in range(length):
            bounds, ids, afters = choices[state]
            chosen = bisect(bounds, uniform())
            text.append(ids[chosen])
            state = afters[chosen]
        return torch.tensor(text)

    def entropy_rate(self) -> float:
        """Mean surprise of a token when all before it are known: the lowest loss that a model can reach.

        Returns: Nats per token.
        """
        surprise = [_entropy(edges.values()) for edges in self._edges]
        return float(self.stationary @ torch.tensor(surprise, dtype=torch.float64))

    @cached_property
    def stationary(self) -> Float64[Tensor, " states"]:
        """How often each state occurs in a long text, as a share of its tokens."""
        size = self.num_states
        equations = -np.eye(size)
        for state, edges in enumerate(self._edges):
            for after, probability in edges.values():
                equations[after, state] += probability
        equations[0] = 1  # one of the equations follows from the others; the shares add up to 1
        return torch.from_numpy(np.linalg.solve(equations, np.eye(size)[0]))

    def log_probs(self, ids: Ids) -> Float64[Tensor, " length"]:
        """Log-probability of each token of a text after those before it.

        Args:
            ids: A text that begins with a sentence.

        Returns: Nats; -inf from the first token on that can't stand where it does.
        Raises: ValueError if an id isn't in the vocabulary.
        """
        listed = self._listed(ids)
        found: list[float] = []
        state = 0
        for token in listed:
            if token not in self._edges[state]:
                break
            state, probability = self._edges[state][token]
            found.append(math.log(probability))
        found += [-math.inf] * (len(listed) - len(found))
        return torch.tensor(found, dtype=torch.float64)

    def log_prob(self, ids: Ids) -> float:
        """Log-probability that a text begins with these tokens.

        Args:
            ids: The tokens, from the begin of a sentence.

        Returns: Nats; -inf if they can't stand so.
        Raises: ValueError if an id isn't in the vocabulary.
        """
        return math.fsum(self.log_probs(ids).tolist())

    def next_token(self, prefix: Ids) -> Float64[Tensor, " vocab"]:
        """Probability of each token after a prefix.

        Args:
            prefix: Tokens from the begin of a sentence; there may be none.

        Raises: ValueError if the prefix can't stand so.
        """
        state = 0
        for place, token in enumerate(self._listed(prefix)):
            if token not in self._edges[state]:
                raise ValueError(
                    f"prefix must be a possible text; {self.vocabulary[token]!r} can't stand at place {place}."
                )
            state, _ = self._edges[state][token]
        probabilities = torch.zeros(self.vocab_size, dtype=torch.float64)
        for token, (_, probability) in self._edges[state].items():
            probabilities[token] = probability
        return probabilities

    def window_log_probs(
        self, windows: Integer[Tensor, "batch length"]
    ) -> Float64[Tensor, "batch length"]:
        """Log-probability of each token after those before it in its window, cut from anywhere in a text.

        A window may begin inside a sentence, in a state that isn't known. Each state begins with its
        stationary probability, and each token rules some out. No model that sees the window alone does
        better on average; the longer the window, the nearer its last token comes to the entropy rate.

        Args:
            windows: Rows of token ids, such as `torch.cat([inputs, targets[:, -1:]], dim=1)`.

        Returns: Nats; -inf from the first token on that can't stand where it does.
        Raises: ValueError if windows aren't rows of ids of the vocabulary.
        """
        if not isinstance(windows, Tensor) or windows.dim() != 2 or windows.is_floating_point():
            raise ValueError("windows must be a tensor of token ids with axes (batch, length).")
        self._listed(windows.flatten())
        windows = windows.long().cpu()
        after, probability = self._tables()
        belief = self.stationary.repeat(len(windows), 1)
        found = torch.empty(windows.shape, dtype=torch.float64)
        for place, tokens in enumerate(windows.unbind(1)):
            moved = torch.zeros_like(belief)
            moved.scatter_add_(1, after[tokens], belief * probability[tokens])
            total = moved.sum(dim=1, keepdim=True)
            found[:, place] = total[:, 0].log()
            belief = torch.where(total > 0, moved / total, 0)
        return found

    def _reach(self) -> list[dict[int, tuple[int, float]]]:
        """All stacks that can occur, and where each token leads from each."""
        start: Stack = (self.start,)
        number_of, stacks = {start: 0}, [start]
        edges: list[dict[int, tuple[int, float]]] = []
        for stack in stacks:  # grows while it is gone through
            leaving = {}
            for rule in self.rules[stack[0]]:
                after = rule.then + stack[1:] or start
                if after not in number_of:
                    if len(stacks) == MAX_STATES:
                        raise ValueError(
                            f"at most {MAX_STATES} stacks of symbols may occur; there are more. Do the rules "
                            "nest without bound? Give each depth its own symbols, and the last no nesting."
                        )
                    number_of[after] = len(stacks)
                    stacks.append(after)
                leaving[self._id_of[rule.token]] = (number_of[after], rule.probability)
            edges.append(leaving)
        return edges

    def _check_ends(self) -> None:
        """Every state must lead back to the begin of a sentence: then there is one π."""
        before: list[list[int]] = [[] for _ in self._edges]
        for state, edges in enumerate(self._edges):
            for after, _ in edges.values():
                before[after].append(state)
        ending, todo = {0}, [0]
        while todo:
            new = set(before[todo.pop()]) - ending
            ending |= new
            todo.extend(new)
        if len(ending) < self.num_states:
            raise ValueError(
                "every sentence must be able to end; some symbol of these rules leads back to itself "
                "for ever. Give it a rule without it."
            )

    def _tables(self) -> tuple[Tensor, Tensor]:
        """State after each token in each state, and the token's probability there."""
        after = torch.zeros(self.vocab_size, self.num_states, dtype=torch.long)
        probability = torch.zeros(self.vocab_size, self.num_states, dtype=torch.float64)
        for state, edges in enumerate(self._edges):
            for token, (next_state, share) in edges.items():
                after[token, state], probability[token, state] = next_state, share
        return after, probability

    def _listed(self, ids: Ids) -> list[int]:
        listed = ids.tolist() if isinstance(ids, (Tensor, np.ndarray)) else list(ids)
        for token in listed:
            if isinstance(token, bool) or not isinstance(token, int):
                raise TypeError(f"ids must be a row of whole numbers; {token!r:.60} is in it.")
            if not 0 <= token < self.vocab_size:
                raise ValueError(
                    f"ids must lie between 0 and {self.vocab_size - 1}; {token} is among them."
                )
        return listed


def _entropy(edges: Iterable[tuple[int, float]]) -> float:
    return -math.fsum(probability * math.log(probability) for _, probability in edges)


def _check_rules(rules: Mapping[str, Sequence[Rule]], start: str) -> None:
    if start not in rules:
        raise ValueError(f"start must be a symbol with rules; {start!r} has none.")
    for symbol, each in rules.items():
        if not each:
            raise ValueError(f"every symbol needs a rule; {symbol!r} has none.")
        for rule in each:
            _check_rule(symbol, rule, rules)
        tokens = [rule.token for rule in each]
        double = next((token for token in tokens if tokens.count(token) > 1), None)
        if double is not None:
            raise ValueError(
                f"the rules of a symbol must begin with different tokens; two of {symbol!r} begin with "
                f"{double!r}. Join them into one, and move the choice behind the token."
            )
        total = math.fsum(rule.probability for rule in each)
        if abs(total - 1) > ROUNDING:
            raise ValueError(
                f"the probabilities of a symbol's rules must add up to 1; those of {symbol!r} give {total:.6g}."
            )


def _check_rule(symbol: str, rule: Rule, rules: Mapping[str, Sequence[Rule]]) -> None:
    if not isinstance(rule, Rule):
        raise TypeError(
            f"a rule must be a Rule(probability, token, then); {symbol!r} has {rule!r:.60}."
        )
    if not isinstance(rule.token, str) or rule.token.split() != [rule.token]:
        raise ValueError(
            f"a token must be one word without spaces; {rule.token!r} of {symbol!r} isn't."
        )
    if not 0 < rule.probability <= 1:
        raise ValueError(
            f"a probability must be above 0 and at most 1; {rule.token!r} of {symbol!r} has "
            f"{rule.probability}. Leave out what never happens."
        )
    if not isinstance(rule.then, tuple):
        raise TypeError(
            f"the symbols after a token must be a tuple, such as ('verb',); after {rule.token!r} of "
            f"{symbol!r} stands {rule.then!r:.60}."
        )
    unknown = next((each for each in rule.then if each not in rules), None)
    if unknown is not None:
        raise ValueError(
            f"every symbol needs rules; {unknown!r}, after {rule.token!r} of {symbol!r}, has none."
        )


def _shortened(words: Sequence[str]) -> str:
    return ", ".join(words[:8]) + (", …" if len(words) > 8 else "")
