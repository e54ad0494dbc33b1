"""Beam search finds what a search of all texts finds, and what Hugging Face's finds."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.generation.small import (
    BOTH,
    PROMPTS,
    VOCAB,
    WithoutCaches,
    by_hand,
    lively,
    sources_of,
)
from transformer_lab.generation import Hypothesis, LengthPenalty, beam_search


class Table:
    """A language model over few tokens, each text with probabilities of its own."""

    def __init__(self, vocab, seed, spread=2.0):
        self.vocab, self.seed, self.spread = vocab, seed, spread

    def logits(self, row):
        draw = torch.Generator().manual_seed(hash((self.seed, *row)) % 2**31)
        return self.spread * torch.randn(self.vocab, generator=draw, dtype=torch.float64)

    def __call__(self, tokens):
        last = torch.stack([self.logits(row) for row in tokens.tolist()])
        return last[:, None].expand(-1, tokens.shape[1], -1)


def all_texts(vocab, steps, stop):
    """All texts that end in a stop token, or go on to the last step without one."""
    for length in range(1, steps + 1):
        for text in itertools.product(range(vocab), repeat=length):
            inner, last = text[:-1], text[-1]
            if not stop & set(inner) and (last in stop or length == steps):
                yield list(text)


def by_search(model, prompt, steps, stop, penalty):
    """Every text with its score, the best first."""
    found = []
    for text in all_texts(model.vocab, steps, stop):
        log_prob, row = 0.0, list(prompt)
        for token in text:
            sizes = [math.exp(logit) for logit in model.logits(row).tolist()]
            log_prob += math.log(sizes[token] / sum(sizes))
            row.append(token)
        found.append((text, log_prob, log_prob / penalty(len(text))))
    return sorted(found, key=lambda each: -each[2])


@settings(max_examples=15, deadline=None)
@given(
    st.integers(0, 10**6),
    st.sampled_from([-1.0, 0.0, 0.6, 1.0, 3.0]),
    st.sampled_from([set(), {0}, {0, 2}, {0, 1, 2}]),
    st.integers(1, 4),
)
def test_a_wide_beam_finds_the_best_of_all_texts(seed, alpha, stop, steps):
    model, penalty = Table(3, seed), LengthPenalty(alpha)
    prompts = [[1, 2], [2, 0]]
    beams = 3**steps
    found = beam_search(model, prompts, steps, beams=beams, stop=stop, length_penalty=penalty)
    for prompt, mine in zip(prompts, found, strict=True):
        expected = by_search(model, prompt, steps, stop, penalty)
        assert [each.tokens for each in mine] == [text for text, _, _ in expected]
        assert [each.log_prob for each in mine] == pytest.approx([e[1] for e in expected])
        assert [each.score for each in mine] == pytest.approx([e[2] for e in expected])


def narrow(model, prompt, steps, stop, penalty, beams):
    """Beam search by lists, which goes on to the last step whatever it has found."""
    live, kept = [([], 0.0)], []
    for step in range(1, steps + 1):
        ways = []
        for text, log_prob in live:
            logs = model.logits(prompt + text).log_softmax(-1).tolist()
            ways += [([*text, token], log_prob + log) for token, log in enumerate(logs)]
        ways.sort(key=lambda each: -each[1])
        over = [way for way in ways[:beams] if way[0][-1] in stop or step == steps]
        kept += [(text, log_prob / penalty(len(text))) for text, log_prob in over]
        live = [way for way in ways if way[0][-1] not in stop][:beams]
    return [text for text, _ in sorted(kept, key=lambda each: -each[1])][:beams]


@settings(max_examples=15, deadline=None)
@given(
    st.integers(0, 10**6),
    st.sampled_from([-1.0, 0.0, 0.6, 2.0]),
    st.sampled_from([set(), {0}, {0, 3}]),
    st.integers(1, 4),
)
def test_a_narrow_beam_and_its_early_end(seed, alpha, stop, beams):
    model, penalty = Table(5, seed, spread=1.0), LengthPenalty(alpha)
    prompts = [[1, 2], [2, 0]]
    found = beam_search(model, prompts, 6, beams=beams, stop=stop, length_penalty=penalty)
    for prompt, mine in zip(prompts, found, strict=True):
        assert [h.tokens for h in mine] == narrow(model, prompt, 6, stop, penalty, beams)


def test_it_stops_when_nothing_better_can_come():
    calls = []

    def sure(tokens):
        calls.append(tokens.shape[1])
        logits = torch.full((*tokens.shape, 3), -20.0)
        logits[:, :, 0] = 0.0
        return logits

    found = beam_search(sure, [1], 50, beams=1, stop=[0])
    assert found[0][0].tokens == [0]
    assert calls == [1]


@pytest.mark.parametrize("cached", [True, False], ids=["caches", "no caches"])
@pytest.mark.parametrize("name", BOTH)
@torch.no_grad()
def test_models_batches_and_caches(name, cached):
    """Each prompt as if alone; the probabilities are those of the text found; one beam is greedy."""
    model = lively(name).eval()
    sources = sources_of(name)
    whole = model if cached else WithoutCaches(model)
    source = sources if sources[0] else None
    for beams in (1, 3):
        found = beam_search(whole, PROMPTS, 7, beams=beams, source=source, stop=[0, 5])
        for prompt, row_source, mine in zip(PROMPTS, sources, found, strict=True):
            alone = beam_search(whole, prompt, 7, beams=beams, source=row_source, stop=[0, 5])
            assert [h.tokens for h in mine] == [h.tokens for h in alone[0]]
            assert len(mine) == beams
            for each in mine:
                row = torch.tensor([prompt + each.tokens])
                asked = (row,) if row_source is None else (torch.tensor([row_source]), row)
                logs = model(*asked)[0, len(prompt) - 1 : -1].log_softmax(-1)
                total = sum(log[token].item() for log, token in zip(logs, each.tokens, strict=True))
                assert each.log_prob == pytest.approx(total, abs=1e-4)
                assert each.score == pytest.approx(
                    total / ((5 + len(each.tokens)) / 6) ** 0.6, abs=1e-4
                )
            if beams == 1:
                expected = by_hand(model, prompt, 7, source=row_source, stop={0, 5})
                assert mine[0].tokens == expected


@pytest.mark.parametrize("alpha", [0.0, 1.0])
@pytest.mark.parametrize("beams", [2, 4])
def test_hugging_faces_beam_search(beams, alpha):
    transformers = pytest.importorskip("transformers")
    from transformer_lab.convert import to_hugging_face

    config = transformers.GPT2Config(
        vocab_size=VOCAB, n_positions=24, n_embd=16, n_layer=2, n_head=4, n_inner=24,
        bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    theirs = transformers.GPT2LMHeadModel(config)
    prompt = torch.tensor([[3, 1, 4], [1, 5, 9], [2, 6, 5]])
    lengths = set()
    for seed in range(3):
        model = lively("gpt", seed, noise=0.3)
        theirs.load_state_dict(to_hugging_face(model))
        out = theirs.eval().generate(
            prompt, max_new_tokens=8, num_beams=beams, num_return_sequences=beams, do_sample=False,
            early_stopping="never", length_penalty=alpha, pad_token_id=0, output_scores=True,
            return_dict_in_generate=True, eos_token_id=[2, 5],
        )  # fmt: skip
        found = beam_search(
            model, prompt, 8, beams=beams, stop=[2, 5], length_penalty=lambda n: float(n**alpha)
        )
        mine = [each for hypotheses in found for each in hypotheses]
        lengths |= {len(each.tokens) for each in mine}
        for each, row, score in zip(
            mine, out.sequences[:, 3:].tolist(), out.sequences_scores.tolist(), strict=True
        ):
            assert row[: len(each.tokens)] == each.tokens
            assert set(row[len(each.tokens) :]) <= {2}  # it fills up with the first stop token
            assert each.score == pytest.approx(score, abs=1e-4)
    assert len(lengths) > 2


def test_wus_length_penalty():
    assert [LengthPenalty(0.0)(n) for n in (1, 9)] == [1, 1]
    assert LengthPenalty(0.7)(13) == pytest.approx((5 + 13) ** 0.7 / (5 + 1) ** 0.7)


def test_hypotheses_can_be_shown():
    best = beam_search(lively("llama"), [1], 2, beams=2)[0][0]
    assert isinstance(best, Hypothesis)
    assert repr(best).startswith("Hypothesis(tokens=[")
    assert all(type(token) is int for token in best.tokens)


def test_the_model_is_left_as_it_was():
    model = lively("gpt")
    beam_search(model, PROMPTS, 3, beams=2)
    assert model.training and torch.is_grad_enabled()


GPT_MODEL = lively("gpt")


def nan(tokens):
    return torch.full((*tokens.shape, VOCAB), torch.nan)


@pytest.mark.usefixtures("as_a_user")
@pytest.mark.parametrize(
    ("use", "error", "says"),
    [
        (lambda: beam_search(GPT_MODEL, [1], 3, beams=0), ValueError, "beams must be at least 1"),
        (lambda: beam_search(GPT_MODEL, [1], 3, beams=2.0), TypeError, "beams must be a whole"),
        (lambda: beam_search(GPT_MODEL, [1], 0, beams=2), ValueError, "max_new_tokens must be at"),
        (lambda: beam_search(GPT_MODEL, [], 3, beams=2), ValueError, "prompt is empty"),
        (lambda: beam_search(GPT_MODEL, [1], 25, beams=2), ValueError, "there are 26 tokens"),
        (lambda: beam_search(GPT_MODEL, [1], 3, beams=2, stop=[11]), ValueError, "stop must hold"),
        (lambda: beam_search(nan, [1], 3, beams=2), ValueError, "the largest of row 0 is nan"),
        (
            lambda: beam_search(GPT_MODEL, [1], 3, beams=2, length_penalty=0.6),
            TypeError,
            "length_penalty must be a function of the length, .* it is 0.6",
        ),
        (
            lambda: beam_search(GPT_MODEL, [1], 3, beams=2, length_penalty=lambda n: n - 2),
            ValueError,
            "length_penalty must be above 0; it is -1 for some length",
        ),
    ],
)
def test_bad_input_is_answered_in_words(use, error, says):
    with pytest.raises(error, match=says):
        use()
