"""Both languages against readers written for them, which share no code with the grammar."""

import pytest

from transformer_lab.data import agreement, brackets

CLOSES = {"(": ")", "[": "]", "{": "}", "<": ">"}
SINGULAR = {"dog", "cat", "bird", "sleeps", "runs", "sees", "likes", "every"}
PLURAL = {"dogs", "cats", "birds", "sleep", "run", "see", "like", "many"}
TRANSITIVE = {"sees", "likes", "see", "like"}


def words_of(grammar, length, seed=0):
    return grammar.decode(grammar.sample(length, seed=seed)).split()


@pytest.mark.parametrize(("depth", "kinds"), [(1, 1), (2, 4), (4, 2), (3, 3)])
def test_brackets_are_closed_by_their_own_kind(depth, kinds):
    language, open_, deepest, opened = brackets(depth, kinds), [], 0, set()
    for word in words_of(language, 20_000):
        if word in CLOSES:
            open_.append(CLOSES[word])
            opened.add(word)
        elif word != "x":
            assert word == open_.pop()
        else:
            assert open_
        deepest = max(deepest, len(open_))
    assert deepest == depth
    assert len(opened) == kinds
    assert language.vocab_size == 2 * kinds + 1
    # What is still to be closed, and nothing, before a sentence begins.
    assert language.num_states == sum(kinds**level for level in range(depth + 1))


def test_only_the_last_bracket_can_be_closed():
    language = brackets(4, 3)
    after = language.next_token(language.encode("( [ x { } x"))
    possible = {language.vocabulary[token] for token in after.nonzero()[:, 0]}
    assert possible == {"]", "x", "(", "[", "{"}
    full = language.next_token(language.encode("( [ ( {"))
    assert {language.vocabulary[token] for token in full.nonzero()[:, 0]} == {"}", "x"}


class Reader:
    """Reads sentences by descent, and notes numbers that don't agree and how deep clauses nest."""

    def __init__(self, words):
        self.words, self.place, self.deepest = words, 0, 0

    def take(self):
        self.place += 1
        return self.words[self.place - 1]

    def next(self):
        return self.words[self.place]

    @staticmethod
    def number(word):
        return "singular" if word in SINGULAR else "plural" if word in PLURAL else None

    def noun(self):
        determiner = self.take()
        assert determiner in {"the", "every", "many"}
        while self.next() in {"old", "small"}:
            self.take()
        noun = self.take()
        assert noun in {"dog", "cat", "bird", "dogs", "cats", "birds"}
        if determiner != "the":
            assert self.number(noun) == self.number(determiner)
        return self.number(noun)

    def subject(self, depth):
        number = self.noun()
        if self.next() == "near":
            self.take()
            self.noun()
        elif self.next() == "that":
            self.take()
            self.deepest = max(self.deepest, depth + 1)
            if self.next() in {"the", "every", "many"}:
                inner = self.subject(depth + 1)
                verb = self.take()
                assert verb in TRANSITIVE and self.number(verb) == inner
            else:
                self.predicate(number)
        return number

    def predicate(self, number):
        verb = self.take()
        assert self.number(verb) == number, self.words[max(0, self.place - 20) : self.place]
        if verb in TRANSITIVE:
            self.noun()

    def sentence(self):
        self.predicate(self.subject(0))
        assert self.take() == "."


@pytest.mark.parametrize("depth", [0, 1, 2, 3])
def test_verbs_agree_with_their_subjects(depth):
    language = agreement(depth)
    words = words_of(language, 20_000, seed=depth)
    end = len(words) - words[::-1].index(".")
    reader = Reader(words[:end])
    while reader.place < end:
        reader.sentence()
    assert reader.deepest == depth
    assert set(language.vocabulary) - {"that"} <= set(words)


def test_the_reader_sees_a_wrong_verb():
    for wrong in (
        "the dogs near the cat sleeps .",
        "the dog that the cats sees runs .",
        "many cat run .",
    ):
        with pytest.raises(AssertionError):
            Reader(wrong.split()).sentence()
    right = "the dogs near every cat sleep ."
    Reader(right.split()).sentence()


def test_the_verb_is_decided_by_its_subject_alone():
    language = agreement(2)

    def verbs_after(text):
        after = language.next_token(language.encode(text))
        return {language.vocabulary[token] for token in after.nonzero()[:, 0]}

    assert verbs_after("the dogs that the cats that every bird likes see") == {
        "sleep", "run", "see", "like",
    }  # fmt: skip
    assert verbs_after("the dog that the cats that every bird likes see") == {
        "sleeps", "runs", "sees", "likes",
    }  # fmt: skip
    assert verbs_after("the dogs that the cats that every bird likes") == {"see", "like"}


@pytest.mark.usefixtures("as_a_user")
@pytest.mark.parametrize(
    ("use", "error", "says"),
    [
        (lambda: brackets(0), ValueError, "depth must be at least 1; it is 0"),
        (lambda: brackets(2, 0), ValueError, "kinds must be at least 1; it is 0"),
        (lambda: brackets(2, 5), ValueError, "kinds must be at most 4; it is 5"),
        (lambda: brackets(2.0), TypeError, "depth must be a whole number; it is 2.0"),
        (lambda: brackets(20), ValueError, "at most 4096 stacks"),
        (lambda: agreement(-1), ValueError, "depth must be at least 0; it is -1"),
        (lambda: agreement("2"), TypeError, "depth must be a whole number; it is '2'"),
        (lambda: agreement(8), ValueError, "at most 4096 stacks"),
    ],
)
def test_bad_input_is_answered_in_words(use, error, says):
    with pytest.raises(error, match=says):
        use()
