"""Generation equals the plainest loop, token for token: with caches, padding, stop tokens, in a stream."""

import gc

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests.generation.small import (
    BOTH,
    PROMPTS,
    SOURCES,
    VOCAB,
    WithoutCaches,
    by_hand,
    lively,
    sources_of,
)
from transformer_lab.generation import (
    RepetitionPenalty,
    Sampling,
    Temperature,
    TopK,
    TopP,
    generate,
    greedy,
    stream,
)
from transformer_lab.generation.choosing import chances

STEPS = 9
FILTERS = [RepetitionPenalty(1.3), Temperature(1.5), TopK(8), TopP(0.9)]


def drawn_by_hand(seed, row):
    """Picks as `Sampling(FILTERS)` does in that row of a batch, by a loop over the probabilities."""
    chance = chances(seed, row + 1, STEPS)[row]

    def pick(logits, past, step):
        logits = logits[None]
        for each in FILTERS:
            logits = each(logits, torch.tensor([past]))
        reached = 0.0
        for token, probability in enumerate(logits[0].softmax(-1).tolist()):
            reached += probability
            if reached > chance[step]:
                return token
        raise AssertionError("the probabilities sum to 1")

    return pick


def pair(name):
    sources = sources_of(name)
    return lively(name), sources, (None if sources[0] is None else sources)


@pytest.mark.parametrize("cached", [True, False], ids=["caches", "no caches"])
@pytest.mark.parametrize("name", BOTH)
def test_each_row_is_what_it_would_be_alone(name, cached):
    model, sources, source = pair(name)
    whole = model if cached else WithoutCaches(model)
    for choose, picks in (
        (greedy, [torch.argmax] * 3),
        (Sampling(FILTERS), [drawn_by_hand(7, row) for row in range(3)]),
    ):
        expected = [
            by_hand(model, prompt, STEPS, source=source_row, pick=pick)
            for prompt, source_row, pick in zip(PROMPTS, sources, picks, strict=True)
        ]
        assert len({tuple(row) for row in expected}) == 3  # otherwise the test would say little
        found = generate(whole, PROMPTS, STEPS, source=source, choose=choose, seed=7)
        assert found.tolist() == expected
        alone = generate(whole, PROMPTS[0], STEPS, source=source and source[:1], choose=choose,
                         seed=7)  # fmt: skip
        assert alone.tolist() == expected[:1]


@pytest.mark.parametrize("name", BOTH)
def test_stop_tokens_end_a_row(name):
    model, sources, source = pair(name)
    free = [
        by_hand(model, prompt, STEPS, source=row)
        for prompt, row in zip(PROMPTS, sources, strict=True)
    ]
    ends = {t: {row.index(t) if t in row else STEPS for row in free} for t in range(VOCAB)}
    stop = {max(ends, key=lambda token: len(ends[token])), free[1][-1]}
    expected = [
        by_hand(model, prompt, STEPS, source=row, stop=stop)
        for prompt, row in zip(PROMPTS, sources, strict=True)
    ]
    length = max(len(row) for row in expected)
    filled = [row + row[-1:] * (length - len(row)) for row in expected]
    assert min(len(row) for row in expected) < length
    assert generate(model, PROMPTS, STEPS, source=source, stop=stop).tolist() == filled


@pytest.mark.parametrize("name", BOTH)
def test_a_stream_hands_over_the_same_tokens(name):
    model, _, source = pair(name)
    options = {"source": source, "choose": Sampling(FILTERS), "seed": 3, "stop": [0]}
    rows = generate(model, PROMPTS, STEPS, **options)
    assert torch.equal(torch.stack(list(stream(model, PROMPTS, STEPS, **options)), 1), rows)


def test_forms_of_a_prompt():
    model = lively("gpt")
    rows = generate(model, [[1, 2], [3, 4]], 5)
    assert torch.equal(generate(model, torch.tensor([[1, 2], [3, 4]]), 5), rows)
    assert torch.equal(generate(model, torch.tensor([[1, 2], [3, 4]], dtype=torch.int32), 5), rows)
    assert torch.equal(generate(model, [1, 2], 5), rows[:1])
    assert torch.equal(generate(model, (1, 2), 5), rows[:1])


def test_one_start_serves_all_sources():
    model = lively("t5")
    rows = generate(model, [0], STEPS, source=SOURCES)
    assert torch.equal(generate(model, [[0]] * 3, STEPS, source=SOURCES), rows)


def test_a_plain_function_is_called_with_all_tokens():
    seen = []

    def count_on(tokens):
        seen.append(tokens.tolist())
        return F.one_hot((tokens + 1) % VOCAB, VOCAB).half()

    assert generate(count_on, [4, 5], 3).tolist() == [[6, 7, 8]]
    assert seen == [[[4, 5]], [[4, 5, 6]], [[4, 5, 6, 7]]]


@pytest.mark.parametrize("name", BOTH)
def test_after_the_prompt_the_model_gets_one_token_at_a_time(name, monkeypatch):
    model, _, source = pair(name)
    seen, room, where = [], set(), "decode" if source else "forward"
    real = getattr(model, where)

    def spy(tokens, *args, **rest):
        is_token = rest.get("is_token")
        seen.append((tokens.shape[1], None if is_token is None else is_token.shape[1]))
        room.add(rest["caches"][0].max_len)
        return real(tokens, *args, **rest)

    monkeypatch.setattr(model, where, spy)
    generate(model, PROMPTS, 4, source=source)
    generate(model, [[1, 2], [3, 4]], 4, source=source and source[:2])
    padded = [(5, 5), (1, 6), (1, 7), (1, 8)]
    assert seen == [*padded, (2, None), (1, None), (1, None), (1, None)]
    assert room == {5 + 4 - 1, 2 + 4 - 1}  # the last new token is never fed


def test_the_penalty_sees_prompt_and_new_tokens_but_no_padding():
    pasts = []

    def choose(logits, past, chance):
        pasts.append([set(row) for row in past.tolist()])
        return torch.tensor([9, 10])

    generate(lively("gpt"), [[1, 2, 3], [7]], 2, choose=choose)
    assert pasts == [[{1, 2, 3}, {7}], [{1, 2, 3, 9}, {7, 10}]]


def test_the_whole_context_can_be_used():
    model = lively("gpt")
    assert generate(model, [1] * 20, 4).shape == (1, 4)
    with pytest.raises(ValueError, match=r"24 positions \(max_positions\); there are 25 tokens"):
        generate(model, [1] * 20, 5)


class Mode(nn.Module):
    """Notes whether it and its part were in training mode; part of it is frozen."""

    def __init__(self):
        super().__init__()
        self.part, self.frozen = nn.Dropout(), nn.Dropout().eval()
        self.weight, self.seen = nn.Parameter(torch.zeros(VOCAB)), []

    def forward(self, tokens):
        self.seen += [self.training, self.part.training, torch.is_grad_enabled()]
        if len(self.seen) > 6:
            raise RuntimeError("enough")
        return self.weight.expand(*tokens.shape, VOCAB)

    def modes(self):
        return self.training, self.part.training, self.frozen.training


def test_the_model_drops_nothing_and_is_left_as_it_was():
    as_it_was = (True, True, False)
    model = Mode()
    generate(model, [1], 2)
    assert not any(model.seen) and model.modes() == as_it_was
    with pytest.raises(RuntimeError, match="enough"):
        generate(model, [1], 2)
    assert model.modes() == as_it_was
    model.seen.clear()
    tokens = stream(model, [1], 5)
    next(tokens)
    assert model.modes() == as_it_was  # between two tokens, and when nobody asks for more
    assert torch.is_grad_enabled() and not torch.is_inference_mode_enabled()
    next(tokens)
    with pytest.raises(RuntimeError, match="enough"):
        next(tokens)
    assert model.modes() == as_it_was
    model.seen.clear()
    del tokens
    gc.collect()
    generate(model.forward, [1], 1)  # its own method is still the model
    assert not any(model.seen) and model.modes() == as_it_was
    model.eval()
    generate(model, [1], 1)
    assert model.modes() == (False, False, False)


def test_what_comes_back_can_be_trained_on():
    model = lively("gpt")
    rows = generate(model, PROMPTS, 3)
    first = next(stream(model, PROMPTS, 3))
    assert not rows.is_inference() and not first.is_inference()
    model(rows).sum().backward()
    tokens = stream(model, PROMPTS, 3)
    next(tokens).fill_(7)  # what a reader does to it stays with the reader
    assert torch.equal(torch.stack(list(tokens), 1), rows[:, 1:])


def test_dtypes_and_seeds():
    model = lively("gpt")
    expected = generate(model, PROMPTS, STEPS)
    assert torch.equal(generate(model.double(), PROMPTS, STEPS), expected)
    assert generate(model.bfloat16(), PROMPTS, STEPS, choose=Sampling()).shape == expected.shape
    model.float()
    one, other = (generate(model, PROMPTS, STEPS, choose=Sampling(), seed=s) for s in (0, 1))
    assert not torch.equal(one, other)
    assert torch.equal(generate(model, PROMPTS, STEPS, choose=Sampling()), one)
    assert torch.equal(generate(model, PROMPTS, 4, choose=Sampling()), one[:, :4])


@pytest.mark.skipif(not torch.accelerator.is_available(), reason="no cuda or mps device here")
@pytest.mark.parametrize("name", BOTH)
def test_an_accelerator(name):
    model, _, source = pair(name)
    expected = generate(model, PROMPTS, STEPS, source=source, choose=Sampling(FILTERS), seed=7)
    model.to(torch.accelerator.current_accelerator())
    found = generate(model, PROMPTS, STEPS, source=source, choose=Sampling(FILTERS), seed=7)
    assert torch.equal(found.cpu(), expected)


def flat(tokens, value=0.0):
    return torch.full((*tokens.shape, VOCAB), value)


def nan_in_one(tokens):
    logits = flat(tokens)
    logits[-1, -1, 4] = torch.nan
    return logits


def no_token(logits, past):
    return torch.full_like(logits, -torch.inf)


GPT_MODEL = lively("gpt")
T5_MODEL = lively("t5")
BAD = [
    (lambda: generate(GPT_MODEL, [], 3), ValueError, "prompt is empty; each row needs one token"),
    (lambda: generate(GPT_MODEL, [[1], []], 3), ValueError, "prompt is empty"),
    (
        lambda: generate(GPT_MODEL, torch.zeros(2, 0, dtype=torch.int64), 3),
        ValueError,
        "prompt is empty",
    ),
    (
        lambda: generate(GPT_MODEL, torch.zeros(0, 2, dtype=torch.int64), 3),
        ValueError,
        "prompt is empty",
    ),
    (
        lambda: generate(GPT_MODEL, torch.ones(1, 2), 3),
        ValueError,
        r"prompt must hold int64 or int32; it holds torch\.float32",
    ),
    (
        lambda: generate(GPT_MODEL, torch.ones(2, dtype=torch.int64), 3),
        ValueError,
        r"prompt must have the axes \(batch, seq\); its shape is \(2,\)",
    ),
    (lambda: generate(GPT_MODEL, "Hello", 3), TypeError, "prompt must be token ids.* is a str"),
    (lambda: generate(GPT_MODEL, 5, 3), TypeError, "prompt must be token ids.* is a int"),
    (lambda: generate(GPT_MODEL, [1.0], 3), TypeError, r"whole numbers; a row is \[1\.0\]"),
    (lambda: generate(GPT_MODEL, [[1], 2], 3), TypeError, "whole numbers; a row is 2"),
    (lambda: generate(GPT_MODEL, [True], 3), TypeError, r"whole numbers; a row is \[True\]"),
    (lambda: generate(GPT_MODEL, [VOCAB], 3), ValueError, "prompt must hold ids between 0 and 10; one is 11"),
    (lambda: generate(GPT_MODEL, [-1], 3), ValueError, "prompt must hold ids between 0 and 10; one is -1"),
    (lambda: generate(flat, [-1], 3), ValueError, "prompt must hold ids from 0; one is -1"),
    (lambda: generate(GPT_MODEL, [1] * 25, 3), ValueError, "24 positions .* there are 28 tokens"),
    (lambda: generate(GPT_MODEL, [1], 0), ValueError, "max_new_tokens must be at least 1; it is 0"),
    (lambda: generate(GPT_MODEL, [1], 2.0), TypeError, "max_new_tokens must be a whole number"),
    (lambda: generate(GPT_MODEL, [1], 2, seed=-1), ValueError, "seed must be at least 0"),
    (lambda: generate(GPT_MODEL, [1], 2, stop=0), TypeError, r"stop must be a list .* it is 0"),
    (lambda: generate(GPT_MODEL, [1], 2, stop="."), TypeError, "stop must be a list"),
    (lambda: generate(GPT_MODEL, [1], 2, stop=["."]), TypeError, "stop must hold token ids"),
    (lambda: generate(GPT_MODEL, [1], 2, stop=[11]), ValueError, "stop must hold ids between 0 and 10"),
    (lambda: generate(flat, [1], 2, stop=[11]), ValueError, "stop must hold ids between 0 and 10"),
    (lambda: generate(GPT_MODEL, [1], 2, source=[1]), TypeError, "must be an encoder-decoder.* is a GPT"),
    (lambda: generate(T5_MODEL, [1], 2), ValueError, "an encoder-decoder needs a source"),
    (lambda: generate(T5_MODEL, [1], 2, source=[]), ValueError, "source is empty"),
    (lambda: generate(T5_MODEL, [1], 2, source=[99]), ValueError, "source must hold ids between"),
    (
        lambda: generate(T5_MODEL, [[1]] * 2, 2, source=[[1]] * 3),
        ValueError,
        "one prompt for all sources, or one for each; there are 2 for 3",
    ),
    (
        lambda: generate(lively("transformer"), [1], 2, source=[1] * 25),
        ValueError,
        "the source must fit the model's 24 positions",
    ),
    (lambda: generate(None, [1], 2), TypeError, "model must be a function; it is a NoneType"),
    (lambda: generate(flat, [[1], [1, 2]], 2), ValueError, "unequal length need a model that takes is_token"),
    (lambda: generate(GPT_MODEL, [1], 2, choose="greedy"), TypeError, "choose must be a function"),
    (lambda: generate(GPT_MODEL, [1], 2, choose=Sampling), TypeError, "choose must be a function"),
    (lambda: stream(GPT_MODEL, [], 3), ValueError, "prompt is empty"),  # at once, not at the first token
    (lambda: generate(lambda t: t, [1], 2), ValueError, r"must return logits \(batch, seq, vocab\)"),
    (lambda: generate(lambda t: flat(t)[0], [1], 2), ValueError, "must return logits"),
    (lambda: generate(lambda t: flat(t).int(), [1], 2), ValueError, "must return logits"),
    (lambda: generate(lambda t: (flat(t),), [1], 2), TypeError, "must return logits.* a tuple"),
    (lambda: generate(nan_in_one, [[1], [2]], 2), ValueError, "the largest of row 1 is nan"),
    (
        lambda: generate(nan_in_one, [1], 2, choose=Sampling()),
        ValueError,
        "the largest of row 0 is nan",
    ),
    (lambda: generate(lambda t: flat(t, torch.inf), [1], 2), ValueError, "largest of row 0 is inf"),
    (lambda: generate(lambda t: flat(t, -torch.inf), [1], 2), ValueError, "is -inf"),
    (
        lambda: generate(flat, [1], 2, choose=Sampling([no_token])),
        ValueError,
        r"ids between 0 and 10; it returned \[11\]. Do the filters leave a token",
    ),
    (
        lambda: generate(flat, [1], 2, choose=lambda logits, past, chance: logits),
        ValueError,
        r"one token id for each of 1 rows; it returned torch.float32 of shape \(1, 11\)",
    ),
    (
        lambda: generate(flat, [1], 2, choose=lambda logits, past, chance: 3),
        ValueError,
        "one token id for each of 1 rows; it returned a int",
    ),
]  # fmt: skip


@pytest.mark.usefixtures("as_a_user")
@pytest.mark.parametrize(("use", "error", "says"), BAD)
def test_bad_input_is_answered_in_words(use, error, says):
    with pytest.raises(error, match=says):
        use()


def test_greedy_is_hugging_faces():
    """By hand above; here by another's loop, on the same weights."""
    transformers = pytest.importorskip("transformers")
    from transformer_lab.convert import to_hugging_face

    model = lively("gpt")
    theirs = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(vocab_size=VOCAB, n_positions=24, n_embd=16, n_layer=2, n_head=4,
                                n_inner=24, bos_token_id=None, eos_token_id=None)
    )  # fmt: skip
    theirs.load_state_dict(to_hugging_face(model))
    prompt = torch.tensor([[3, 1, 4], [1, 5, 9]])
    out = theirs.eval().generate(prompt, max_new_tokens=STEPS, do_sample=False, pad_token_id=0,
                          repetition_penalty=1.3)  # fmt: skip
    mine = generate(model, prompt, STEPS, choose=Sampling([RepetitionPenalty(1.3), TopK(1)]))
    assert torch.equal(out[:, 3:], mine)
