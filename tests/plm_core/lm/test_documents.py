"""Packed rows: documents that do not see one another, with the losses and gradients of each one alone."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from plm_core import InputError, NotSupported, lm
from plm_core.lm.blocks import example
from plm_core.lm.chat import IGNORE
from plm_core.lm.documents import Learner, attend_within_documents, packed_logits
from plm_core.lm.model import next_token_loss

LENGTHS = [11, 1, 7, 20]
SMALL = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 64,
}


def row(lengths=LENGTHS, targets=0.5, chunks=(1, 0, 0, 2), tokens=4, seed=0):
    """A packed row. Documents with chunks begin with places for their visual tokens."""
    g = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, 60, (1, sum(lengths)), generator=g)
    labels = torch.where(torch.rand(ids.shape, generator=g) < targets, ids, IGNORE)
    starts = [sum(lengths[:i]) for i in range(len(lengths))]
    labels[0, starts] = IGNORE
    media = [start + 1 + i for start, n in zip(starts, chunks, strict=True) for i in range(n * tokens)]
    return {
        "input_ids": ids,
        "labels": labels,
        "position_ids": torch.cat([torch.arange(n) for n in lengths])[None],
        "lengths": torch.tensor(lengths),
        "media_positions": torch.tensor(media, dtype=torch.long),
        "pixel_values": torch.rand(sum(chunks), 3, 64, 64, generator=g) if any(chunks) else None,
    }


def alone(batch):
    """The documents of a row, each with its labels and chunks."""
    pixels = batch["pixel_values"]
    start = used = 0
    for length in batch["lengths"].tolist():
        own = (batch["media_positions"] >= start) & (batch["media_positions"] < start + length)
        number = int(own.sum()) // 4
        yield {
            "ids": batch["input_ids"][:, start : start + length],
            "labels": batch["labels"][:, start : start + length],
            "places": batch["media_positions"][own] - start,
            "pixels": pixels[used : used + number] if number else None,
        }
        start, used = start + length, used + number


def loss_alone(model, document):
    """The summed loss of a document on its own, by the plain forward pass of the decoder."""
    embeddings = model.decoder.get_input_embeddings()(document["ids"])
    if document["pixels"] is not None:
        tokens = model.image_features(document["pixels"]).flatten(0, 1)
        embeddings = embeddings.clone()
        embeddings[0, document["places"]] = tokens
    logits = model.decoder(inputs_embeds=embeddings).logits[0, :-1]
    targets = document["labels"][0, 1:]
    return next_token_loss(logits, targets) * (targets != IGNORE).sum()


@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3", "mistral", "smollm3"])
def test_documents_of_a_row_have_the_losses_and_gradients_of_their_own(kind):
    torch.manual_seed(0)
    model = example()
    options = {"head_dim": 8} if kind == "qwen3" else {}
    config = AutoConfig.for_model(kind, **SMALL, **options, pad_token_id=0, attn_implementation="sdpa")
    model = lm.PerceptionLM(model.vision.tower, AutoModelForCausalLM.from_config(config), image_token_id=62).double()
    batch = row()
    batch["pixel_values"] = batch["pixel_values"].double()
    targets = int((batch["labels"] != IGNORE).sum())
    expected = torch.stack([loss_alone(model, document) for document in alone(batch)]).sum() / targets
    expected.backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    loss = Learner(model)(batch)
    loss.backward()
    assert float(loss - expected) == pytest.approx(0, abs=1e-9)
    for name, gradient in gradients.items():
        assert torch.allclose(dict(model.named_parameters())[name].grad, gradient, atol=1e-9), name


def test_activation_checkpointing_changes_nothing():
    torch.manual_seed(0)
    model = example().double()
    batch = row()
    batch["pixel_values"] = batch["pixel_values"].double()
    learner = Learner(model).train()
    learner(batch).backward()
    plain = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    model.set_grad_checkpointing()
    learner(batch).backward()
    assert all(torch.allclose(p.grad, plain[name], atol=1e-12) for name, p in model.named_parameters())


def test_a_row_without_targets_has_a_loss_and_gradients_of_zero():
    model = example()
    loss = Learner(model)(row(targets=0))
    loss.backward()
    assert loss == 0
    assert not any(p.grad is not None and p.grad.any() for p in model.parameters())


def test_a_row_of_texts_needs_no_pixels():
    model = example()
    assert Learner(model)(row(chunks=(0, 0, 0, 0))).isfinite()
    assert model.vision.projector.linear_1.weight.grad is None


@pytest.mark.parametrize("learns", ["everything", "the projector"])
def test_an_idle_chunk_gives_a_row_of_texts_gradients_and_changes_nothing(learns):
    torch.manual_seed(0)
    model = example()
    model.requires_grad_(learns == "everything")
    model.vision.projector.requires_grad_(True)
    batch = row(chunks=(0, 0, 0, 0))
    loss = Learner(model, 64)(batch)
    assert float(loss) == pytest.approx(float(Learner(model)(batch)), abs=1e-7)
    loss.backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
    assert not model.vision.projector.linear_1.weight.grad.any()


def test_logits_for_the_targets_in_place_of_their_loss():
    learner, batch = Learner(example()).eval(), row()
    targets = batch["labels"][batch["labels"] != IGNORE]
    logits = learner(batch, logits=True)
    assert torch.allclose(torch.nn.functional.cross_entropy(logits, targets), learner(batch), atol=1e-6)


def test_the_attention_without_documents_is_that_of_torch():
    model = example().eval()
    ids, mask = torch.randint(0, 60, (2, 9)), torch.tensor([[0] * 4 + [1] * 5, [1] * 9])
    with torch.no_grad():
        before = model(ids, mask).logits
        answers = model.generate(ids, mask, max_new_tokens=5, do_sample=False)
        attend_within_documents(model.decoder)
        assert torch.equal(model(ids, mask).logits, before)
        assert torch.equal(model.generate(ids, mask, max_new_tokens=5, do_sample=False), answers)


def test_logits_at_places_are_those_of_the_whole_row():
    model = example().eval()
    attend_within_documents(model.decoder)
    batch = row(chunks=(0, 0, 0, 0))
    with torch.no_grad():
        whole = packed_logits(model, batch, torch.arange(1, sum(LENGTHS)))
        some = packed_logits(model, batch, torch.tensor([3, 17]))
    assert torch.allclose(some, whole[[2, 16]], atol=1e-6)


# --- bad input -------------------------------------------------------------------------------------------------------


def test_chunks_must_fill_the_places():
    batch = row()
    batch["media_positions"] = batch["media_positions"][1:]
    with pytest.raises(InputError, match="11 places for visual tokens, and its 3 chunks give 12"):
        Learner(example())(batch)


def test_decoders_that_cannot_attend_within_documents_are_refused():
    config = AutoConfig.for_model("mistral", **SMALL, sliding_window=8)
    model = lm.PerceptionLM(example().vision.tower, AutoModelForCausalLM.from_config(config))
    with pytest.raises(NotSupported, match="20 tokens, and the decoder attends in windows of 8"):
        Learner(model)(row())
    for kind, reason in (("gemma2", "caps the logits"), ("mamba", "no other attention than its own")):
        config = AutoConfig.for_model(kind, **SMALL, pad_token_id=0)
        model = lm.PerceptionLM(example().vision.tower, AutoModelForCausalLM.from_config(config))
        with pytest.raises(NotSupported, match=reason):
            Learner(model)(row())
