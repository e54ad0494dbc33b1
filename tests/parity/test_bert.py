"""Bert and its heads against Hugging Face's."""

import pytest
import torch

from tests.parity.tools import (
    VOCAB,
    close,
    left_padded,
    perturbed,
    right_padded,
    round_trip,
    same_gradients,
    tokens,
)
from transformer_lab.convert import bert_config, from_hugging_face, minilm, minilm_folder
from transformer_lab.models.bert import (
    Bert,
    BertConfig,
    BertEncoder,
    BertForClassification,
    BertForMaskedLM,
    BertForPreTraining,
)

IDS, SEGMENTS = tokens(3, 11), tokens(3, 11, seed=1, most=2)
PADDINGS = {"no": None, "right": right_padded(3, 11), "left": left_padded(3, 11)}


# Ours, theirs, and what of their output goes with ours.
KINDS = {
    "encoder": (BertEncoder, "BertModel", lambda out: (out.last_hidden_state,)),
    "pooler": (Bert, "BertModel", lambda out: (out.last_hidden_state, out.pooler_output)),
    "masked LM": (BertForMaskedLM, "BertForMaskedLM", lambda out: (out.logits,)),
    "pre-training": (
        BertForPreTraining,
        "BertForPreTraining",
        lambda out: (out.prediction_logits, out.seq_relationship_logits),
    ),
    "classes": (
        lambda config: BertForClassification(config, 3),
        "BertForSequenceClassification",
        lambda out: (out.logits,),
    ),
}


def pair(kind):
    import transformers

    config = transformers.BertConfig(
        vocab_size=VOCAB, hidden_size=24, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=40, max_position_embeddings=16, num_labels=3, layer_norm_eps=1e-4,
    )  # fmt: skip
    make, name, select = KINDS[kind]
    extra = {"add_pooling_layer": False} if kind == "encoder" else {}
    theirs = perturbed(getattr(transformers, name)(config, **extra))
    mine = from_hugging_face(make(bert_config(config.to_dict())), theirs.state_dict())
    return mine.eval(), theirs, select


def flat(outs, is_token):
    """All outputs in a row; of those that there is one of for each token, the tokens'."""
    outs = outs if isinstance(outs, tuple) else (outs,)
    kept = [o[is_token] if is_token is not None and o.dim() == 3 else o for o in outs]
    return torch.cat([o.flatten() for o in kept])


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("kind", KINDS)
def test_outputs_and_gradients(kind, padding):
    mine, theirs, select = pair(kind)
    is_token = PADDINGS[padding]
    mask = torch.ones_like(IDS) if is_token is None else is_token.long()
    out = mine(IDS, segments=SEGMENTS, is_token=is_token)
    expected = select(theirs(IDS, token_type_ids=SEGMENTS, attention_mask=mask))
    close(flat(out, is_token), flat(expected, is_token))
    same_gradients(mine, theirs, flat(out, is_token), flat(expected, is_token))


def test_without_segments():
    mine, theirs, select = pair("encoder")
    close(mine(IDS), select(theirs(IDS))[0])


def test_settings_are_theirs_where_nothing_is_said():
    from transformers import BertConfig as Theirs

    assert BertConfig() == bert_config(Theirs().to_dict())


@pytest.mark.parametrize("kind", KINDS)
def test_round_trip(kind):
    mine, theirs, _ = pair(kind)
    round_trip(mine, theirs)


SENTENCES = [
    "A transformer reads all words at once.",
    "Attention compares each word with every other.",
    "The cat sleeps.",
]


@torch.no_grad()
def test_minilm_makes_the_same_sentence_embeddings():
    try:
        folder = minilm_folder()
    except ModuleNotFoundError as error:
        pytest.skip(str(error))
    from transformers import AutoTokenizer, BertModel

    batch = AutoTokenizer.from_pretrained(folder)(SENTENCES, padding=True, return_tensors="pt")
    is_token = batch.attention_mask.bool()

    def embeddings(vectors):
        kept = vectors * is_token[..., None]
        return torch.nn.functional.normalize(kept.sum(1) / is_token.sum(1, keepdim=True))

    theirs = BertModel.from_pretrained(folder).eval()(**batch).last_hidden_state
    vectors, _ = minilm()(batch.input_ids, is_token=is_token)
    mine = embeddings(vectors)
    close(mine, embeddings(theirs))
    assert is_token.logical_not().any()  # there was padding
    alike = mine @ mine.T
    assert alike[0, 1] > alike[0, 2] + 0.1  # the two about attention are closer
