"""Zero-shot classification and retrieval by the official protocol."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import plm_core
from pe_encoder import retrieval, zeroshot

CLOSE = {"atol": 1e-6, "rtol": 1e-6}


def test_classifier_logits_and_scores_are_those_of_the_original(golden):
    case = golden("zeroshot")
    weight = zeroshot.classifier(case.inputs["text_emb"])
    torch.testing.assert_close(weight, case.outputs["classifier"], **CLOSE)
    logits = zeroshot.logits(case.inputs["image_emb"], weight)
    torch.testing.assert_close(logits, case.outputs["logits"], atol=1e-4, rtol=1e-5)
    for name, score in zeroshot.scores(logits, case.inputs["labels"]).items():
        assert score == pytest.approx(case.outputs[name].item(), abs=1e-6), name


def test_classes_may_have_different_numbers_of_texts():
    texts = torch.randn(3, 4, 8)
    assert torch.allclose(zeroshot.classifier(list(texts)), zeroshot.classifier(texts))
    assert zeroshot.classifier([texts[0], texts[1, :1]]).shape == (8, 2)


def test_scores_by_hand():
    logits = torch.tensor([[3.0, 1, 0], [0, 2, 1], [0, 2, 1], [9, 0, 0]])
    scores = zeroshot.scores(logits, torch.tensor([0, 1, 2, 1]))
    assert scores["acc1"] == 0.5
    assert math.isnan(scores["acc5"])
    assert scores["mean_per_class_recall"] == pytest.approx((1 + 0.5 + 0) / 3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: zeroshot.classifier(torch.rand(3, 8)), r"float32 \[3, 8\]; floats \[classes, texts, width\]"),
        (lambda: zeroshot.classifier([torch.rand(0, 8)]), "at least one"),
        (lambda: zeroshot.scores(torch.rand(3, 4), torch.tensor([0, 1])), "one class for each of 3"),
        (lambda: zeroshot.scores(torch.rand(2, 4), torch.tensor([0, 4])), "0 to 3 is allowed"),
        (lambda: zeroshot.scores(torch.full((2, 4), math.nan), torch.tensor([0, 3])), "logits has values that are not"),
        (
            lambda: zeroshot.classifier(torch.full((2, 1, 4), math.inf)),
            "text_embeddings has values that are not finite",
        ),
        (lambda: zeroshot.embed_classes(None, "cat"), "names is the text 'cat'; a sequence of names"),
    ],
)
def test_wrong_inputs_are_refused(call, message):
    with pytest.raises(plm_core.InputError, match=message):
        call()


@pytest.mark.parametrize(("name", "dsl"), [("plain_s1", None), ("dsl_s1", 1.0), ("dsl_s10", 10.0)])
def test_recalls_are_those_of_the_original(golden, name, dsl):
    case = golden("retrieval")
    ours = retrieval.recalls(
        case.inputs["text_emb"],
        case.inputs["image_emb"],
        owner=case.inputs["text_owner"],
        text_id=case.inputs["text_id"],
        ks=case.config["ks"],
        dsl=dsl,
    )
    expected = case.of(name)
    assert ours.keys() == expected.keys()
    for key, score in ours.items():
        assert score == pytest.approx(expected[key].item(), abs=1e-6), key


def recalled_slowly(text, media, owner, text_id, k):
    """Count, one query at a time, those with a positive among the first ``k``, for plain similarities."""
    similarity = (torch.nn.functional.normalize(text, dim=-1) @ torch.nn.functional.normalize(media, dim=-1).T).tolist()
    strings = {number: {owner[i] for i in range(len(owner)) if text_id[i] == number} for number in set(text_id)}
    positive = [strings[number] for number in text_id]
    image = sum(
        bool(set(sorted(range(len(media)), key=lambda m: -row[m])[:k]) & positive[t])
        for t, row in enumerate(similarity)
    )
    texts = 0
    for m in range(len(media)):
        first = sorted(range(len(text)), key=lambda t: -similarity[t][m])[:k]
        texts += any(m in positive[t] for t in first)
    return image / len(text), texts / len(media)


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 6), st.integers(0, 8), st.integers(0, 10**6), st.integers(1, 7))
def test_recalls_by_counting(media, extra, seed, k):
    generator = torch.Generator().manual_seed(seed)
    texts = media + extra
    owner = torch.cat([torch.arange(media), torch.randint(media, (extra,), generator=generator)])
    text_id = torch.randint(texts, (texts,), generator=generator)
    text, emb = torch.randn(texts, 5, generator=generator), torch.randn(media, 5, generator=generator)
    scores = retrieval.recalls(text, emb, owner=owner, text_id=text_id, ks=(k,), dsl=None)
    expected = recalled_slowly(text, emb, owner.tolist(), text_id.tolist(), k)
    assert list(scores.values()) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"owner": [0, 1]}, "the medium of each of 3 texts"),
        ({"owner": [0, 1, 2]}, "0 to 1, the media"),
        ({"owner": [0, 0, 0]}, "1 of 2 media have no text"),
        ({"text_id": [0]}, "a number for each of 3 texts"),
        ({"ks": (0,)}, "numbers from 1 on"),
        ({"media_emb": torch.rand(2, 5)}, "are expected"),
        ({"media_emb": torch.full((2, 4), math.inf)}, "media_emb has values that are not finite"),
        ({"text_emb": torch.full((3, 4), math.nan)}, "text_emb has values that are not finite"),
    ],
)
def test_wrong_inputs_of_recalls_are_refused(changes, message):
    arguments = {"text_emb": torch.rand(3, 4), "media_emb": torch.rand(2, 4), "owner": [0, 1, 1]} | changes
    with pytest.raises(plm_core.InputError, match=message):
        retrieval.recalls(**arguments)


def test_a_perfect_embedding_has_full_recall():
    embedding = torch.eye(6)
    for k, dsl in itertools.product((1, 5), (None, 1.0)):
        scores = retrieval.recalls(embedding, embedding, owner=torch.arange(6), ks=(k,), dsl=dsl)
        assert set(scores.values()) == {1.0}
