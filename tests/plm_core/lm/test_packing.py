"""Samples as one row without padding: nothing is lost, and nothing is predicted across documents."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from plm_core.errors import InputError
from plm_core.lm.chat import IGNORE, ChatEncoder
from plm_core.lm.data import Sample, pack, pad

TOKENS = 2


@st.composite
def conversations(draw):
    """Return a sample with any targets and with the placeholders of up to 3 chunks."""
    chunks = draw(st.integers(0, 3))
    length = draw(st.integers(1, 9)) + TOKENS * chunks
    ids = torch.arange(length) + draw(st.integers(0, 1000))
    targets = torch.tensor(draw(st.lists(st.booleans(), min_size=length, max_size=length)))
    places = draw(st.permutations(range(length)))[: TOKENS * chunks]
    pixels = torch.rand(chunks, 3, 2, 2) if chunks else None
    return Sample(ids, torch.where(targets, ids, IGNORE), torch.tensor(sorted(places)).long(), pixels, "image")


def unpacked(batch):
    """Return the samples of a packed row."""
    samples, start, chunk = [], 0, 0
    for length in batch["lengths"].tolist():
        end = start + length
        media = batch["media_positions"]
        media = media[(media >= start) & (media < end)] - start
        count = len(media) // TOKENS
        chunks = batch["pixel_values"][chunk : chunk + count] if count else None
        row = (batch[name][0, start:end] for name in ("input_ids", "labels"))
        samples.append(Sample(*row, media, chunks, "image"))
        start, chunk = end, chunk + count
    assert start == batch["input_ids"].shape[1] == batch["labels"].shape[1]
    assert batch["pixel_values"] is None if not chunk else len(batch["pixel_values"]) == chunk
    return samples


@settings(deadline=None, max_examples=100)
@given(st.lists(conversations(), min_size=1, max_size=5))
def test_unpacked_samples_are_those_that_were_packed(samples):
    before = [sample.labels.clone() for sample in samples]
    batch = pack(samples)
    for sample, again, labels in zip(samples, unpacked(batch), before, strict=True):
        assert torch.equal(sample.input_ids, again.input_ids)
        assert torch.equal(sample.media_positions, again.media_positions)
        assert (sample.chunks is None) == (again.chunks is None)
        assert sample.chunks is None or torch.equal(sample.chunks, again.chunks)
        assert again.labels[0] == IGNORE, "the document before does not predict it"
        assert torch.equal(sample.labels[1:], again.labels[1:])
        assert torch.equal(sample.labels, labels), "the sample itself is unchanged"
    expected = torch.cat([torch.arange(len(sample.input_ids)) for sample in samples])
    assert torch.equal(batch["position_ids"], expected[None])


@settings(deadline=None, max_examples=50)
@given(st.lists(conversations(), min_size=1, max_size=4))
def test_a_packed_row_has_the_targets_of_the_padded_rows(samples):
    packed, padded = pack(samples), pad(samples, 20, pad_id=0)
    following = packed["labels"][0, 1:]
    assert torch.equal(following[following != IGNORE], padded["y"][padded["mask"]])
    for row, sample in enumerate(samples):
        places = padded["image_pos_index"][row]
        inside = sample.media_positions[sample.media_positions < len(sample.input_ids) - 1]
        assert torch.equal((places >= 0).nonzero()[:, 0], inside)
        assert torch.equal(places[places >= 0], torch.arange(len(inside)))


def test_padded_rows_are_those_of_the_original(chat_golden, byte_tokenizer):
    config = chat_golden["config"]
    cases = {case["input"]["name"]: case["input"] for case in chat_golden["chat_cases"]}
    samples = []
    for name in config["batch_cases"]:
        case = cases[name]
        encoder = ChatEncoder(byte_tokenizer, tokens=4)
        encoded = encoder.training(case["conversations"], case["chunks"], case["media_type"], case["seq_len"])
        fields = (torch.tensor(field).long() for field in (encoded.input_ids, encoded.labels, encoded.media))
        chunks = None if name == "text" else torch.zeros(case["chunks"], 3, 56, 56)
        samples.append(Sample(*fields, chunks, case["media_type"]))
    batch = pad(samples, config["batch_seq_len"], byte_tokenizer.convert_tokens_to_ids("<|end_of_text|>"))
    assert torch.equal(batch["x"], chat_golden["batch_x"])
    assert torch.equal(batch["y"], chat_golden["batch_y"])
    assert torch.equal(batch["mask"].to(torch.uint8), chat_golden["batch_mask"])
    assert torch.equal(batch["image_pos_index"], chat_golden["batch_image_pos_index"])
    assert batch["images"].shape == (5, 3, 56, 56)
    assert batch["num_chunks"] == [3, 2, 0]
    assert batch["media_type"] == ["image", "multi_image", "text"]


def sample(length, size=2):
    ids = torch.arange(length)
    return Sample(ids, ids, torch.tensor([0]), torch.zeros(1, 3, size, size), "image")


def test_what_cannot_be_one_batch(one_line):
    with one_line(InputError, "there are no samples to pack"):
        pack([])
    with one_line(InputError, "there are no samples to pad"):
        pad([], 3, 0)
    with one_line(InputError, "chunks of several sizes: (3, 2, 2), (3, 4, 4)"):
        pack([sample(3), sample(3, 4)])
    with one_line(InputError, "sample 1 has 5 tokens; rows of 3 hold at most 4"):
        pad([sample(4), sample(5)], 3, 0)


@pytest.mark.parametrize("kind", ["text", "image"])
def test_text_alone_has_no_chunks(kind):
    text = Sample(torch.arange(3), torch.arange(3), torch.tensor([]).long(), None, "text")
    assert pack([text])["pixel_values"] is None
    others = [text, sample(4)] if kind == "image" else [text]
    assert pad(others, 5, 0)["num_chunks"] == [0, 1][: len(others)]
