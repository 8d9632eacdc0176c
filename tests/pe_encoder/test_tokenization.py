"""Ids of texts: those of the original, cut texts, and a tokenizer of whole words."""

import logging

import pytest
import torch

import pe_encoder
import plm_core
from pe_encoder.tokenization import vocab_size, word_tokenizer


@pytest.mark.parametrize("length", [32, 72])
def test_ids_are_those_of_the_original(golden, length):
    case = golden(f"tokenizer_L{length}")
    ids = pe_encoder.tokenizer(case.config["context_length"])(case.config["texts"])
    assert ids.dtype == torch.int64
    assert torch.equal(ids, case.outputs["ids"])


def test_long_texts_are_cut_counted_and_said(caplog):
    tokenize = pe_encoder.tokenizer(6)
    with caplog.at_level(logging.WARNING, "pe_encoder"):
        ids = tokenize(["a b c d e f g h", "a b", "a b c d e"])
    assert ids[0].tolist()[-1] == ids[2].tolist()[-1] == 49407
    assert tokenize.num_cut == 2
    assert "2 of 3 texts have more than 6 tokens and were cut" in caplog.text


def test_one_text_is_a_batch_of_one():
    assert pe_encoder.tokenizer()("a dog").tolist()[0][:4] == [49406, 320, 1929, 49407]
    assert pe_encoder.tokenizer()([]).shape == (0, 32)


@pytest.mark.parametrize("length", [1, 0, 2.5, True])
def test_a_context_that_cannot_be_is_refused(length):
    with pytest.raises(plm_core.InputError, match="context_length is"):
        pe_encoder.tokenizer(length)


def test_what_is_no_text_is_refused():
    with pytest.raises(plm_core.InputError, match="texts has a int"):
        pe_encoder.tokenizer()(["a", 3])


def test_a_missing_vocabulary_names_the_extra(monkeypatch):
    from pe_encoder import tokenization

    tokenization._byte_pairs.cache_clear()
    monkeypatch.setattr(tokenization.PathFinder, "find_spec", lambda name: None)
    with pytest.raises(plm_core.MissingDependency, match=r"pe-encoder\[text\]"):
        pe_encoder.tokenizer()
    tokenization._byte_pairs.cache_clear()


def test_words_of_a_small_vocabulary():
    words = ("red", "circle", "a")
    tokenize = word_tokenizer(words, 7)
    assert vocab_size(words) == 7
    assert tokenize("A red, round CIRCLE").tolist() == [[1, 5, 3, 2, 4, 6, 0]]
    assert tokenize("").tolist() == [[1, 6, 0, 0, 0, 0, 0]]
