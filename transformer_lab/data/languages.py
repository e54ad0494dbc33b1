"""Two small languages with long dependencies: nested brackets, and English with verbs that agree."""

from transformer_lab import checks
from transformer_lab.data.grammar import Grammar, Rule

BRACKETS = (("(", ")"), ("[", "]"), ("{", "}"), ("<", ">"))
NOUNS = {"singular": ("dog", "cat", "bird"), "plural": ("dogs", "cats", "birds")}
INTRANSITIVE = {"singular": ("sleeps", "runs"), "plural": ("sleep", "run")}
TRANSITIVE = {"singular": ("sees", "likes"), "plural": ("see", "like")}
ADJECTIVES = ("old", "small")
# A determiner and the number that it leaves to its noun.
DETERMINERS = (("the", "any", 0.6), ("every", "singular", 0.2), ("many", "plural", 0.2))


def brackets(depth: int = 4, kinds: int = 2) -> Grammar:
    """Make a language of nested brackets: each is closed by its own kind, in reverse order.

    A sentence is one bracket with what is in it, such as `( x [ x ] ( ) )`. To know which bracket may be
    closed, a model has to keep a stack.

    Args:
        depth: How many brackets may be open at once.
        kinds: Kinds of brackets, from 1 to 4.

    Raises: ValueError if depth is below 1, kinds isn't from 1 to 4, or there would be too many stacks.

    >>> language = brackets(depth=2)
    >>> language.decode(language.sample(10, seed=10))
    '[ x x ] [ ( x ) x ]'
    """
    checks.whole("depth", depth, 1)
    checks.whole("kinds", kinds, 1)
    if kinds > len(BRACKETS):
        raise ValueError(f"kinds must be at most {len(BRACKETS)}; it is {kinds}.")
    used = BRACKETS[:kinds]
    rules = {"group": [Rule(1 / kinds, opened, (f"{closed} 1",)) for opened, closed in used]}
    for level in range(1, depth + 1):
        for _, closing in used:
            here = f"{closing} {level}"  # what is left to write up to this bracket's end
            if level == depth:
                rules[here] = [Rule(0.5, closing), Rule(0.5, "x", (here,))]
                continue
            rules[here] = [Rule(0.4, closing), Rule(0.3, "x", (here,))] + [
                Rule(0.3 / kinds, opened, (f"{closed} {level + 1}", here))
                for opened, closed in used
            ]
    return Grammar(rules, start="group")


def agreement(depth: int = 2) -> Grammar:
    """Make a small English whose verbs agree in number with their subjects, however far away these are.

    Relative clauses stand between the two: `the dog that the cats see sleeps .` Nested, they call for
    the verbs in reverse order of their subjects.

    Args:
        depth: How many relative clauses may be nested.

    Raises: ValueError if depth is negative, or there would be too many stacks.

    >>> language = agreement(depth=1)
    >>> after = language.next_token(language.encode("the dogs that every cat near many birds"))
    >>> [language.vocabulary[token] for token in after.nonzero()[:, 0]]
    ['likes', 'sees']
    """
    checks.whole("depth", depth, 0)
    rules = {
        "sentence": _determiners("subject 0", "end"),
        "end": [Rule(1.0, ".")],
        "object": _determiners("object"),
        "object any": _noun("object any", ("singular", "plural")),
    }
    for number in NOUNS:
        rules[f"object {number}"] = _noun(f"object {number}", (number,))
        seen = [Rule(0.5, verb) for verb in TRANSITIVE[number]]
        # In `the dog that the cats see` the verb's object stands before it: none may follow.
        rules[f"verb without object {number}"] = seen
        rules[f"verb {number}"] = [
            *_share(0.5, [Rule(0.5, verb) for verb in INTRANSITIVE[number]]),
            *_share(0.5, [rule._replace(then=("object",)) for rule in seen]),
        ]
    # A subject of level 0 is the sentence's; one of level n is that of the n-th clause inside the others.
    for level in range(depth + 1):
        verb = "verb" if level == 0 else "verb without object"
        any_subject = f"subject {level} any"
        rules[any_subject] = _noun(any_subject, ("singular", "plural"), f"after {level}")
        for number in NOUNS:
            subject, clause = f"subject {level} {number}", f"clause {level + 1} {number}"
            rules[subject] = _noun(subject, (number,), f"after {level}")
            near = Rule(0.1, "near", ("object", f"{verb} {number}"))
            that = [Rule(0.4, "that", (clause, f"{verb} {number}"))] if level < depth else []
            rest = 0.5 if that else 0.9
            rules[f"after {level} {number}"] = [
                near,
                *that,
                *_share(rest, rules[f"{verb} {number}"]),
            ]
            if that:
                rules[clause] = [
                    *_share(0.5, rules[f"verb {number}"]),
                    *_share(0.5, _determiners(f"subject {level + 1}")),
                ]
    return Grammar(rules, start="sentence")


def _determiners(noun: str, *then: str) -> list[Rule]:
    return [Rule(share, word, (f"{noun} {number}", *then)) for word, number, share in DETERMINERS]


def _noun(here: str, numbers: tuple[str, ...], after: str = "") -> list[Rule]:
    """An adjective and then the same again, or a noun, whose number goes on to what follows."""
    nouns = [
        Rule(1 / len(NOUNS[number]), noun, (f"{after} {number}",) if after else ())
        for number in numbers
        for noun in NOUNS[number]
    ]
    adjectives = [Rule(1 / len(ADJECTIVES), word, (here,)) for word in ADJECTIVES]
    return [*_share(0.2, adjectives), *_share(0.8 / len(numbers), nouns)]


def _share(share: float, rules: list[Rule]) -> list[Rule]:
    return [rule._replace(probability=share * rule.probability) for rule in rules]
