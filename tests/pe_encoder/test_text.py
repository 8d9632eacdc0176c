"""The text tower and the CLIP: cut batches, ends of texts, videos, and what is refused."""

import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import normalize

import pe_encoder
import plm_core
from pe_encoder.layers import run_block

START, END = 48, 49


def texts(*lengths, context=12):
    """Return random texts of so many tokens between start and end, zero padded."""
    ids = torch.zeros(len(lengths), context, dtype=torch.int64)
    generator = torch.Generator().manual_seed(0)
    for row, length in zip(ids, lengths, strict=True):
        row[0], row[length + 1] = START, END
        row[1 : length + 1] = torch.randint(1, 48, (length,), generator=generator)
    return ids


@torch.no_grad()
def embedded_whole(model, ids):
    """Run all blocks on all tokens, without any shortcut."""
    x = model.token_embedding(ids) + model.pos_embed[:, : ids.shape[1]]
    for block in model.blocks:
        x = run_block(block, x, None, False)
    return model.head(model.norm(x)[torch.arange(len(ids)), ids.argmax(-1)])


@pytest.mark.parametrize("lengths", [(1,), (0, 3, 5), (10, 2), (4, 4, 4), tuple(range(11)) * 3])
def test_shortcuts_give_the_same_embeddings(text_tower, lengths):
    model, ids = text_tower(), texts(*lengths)
    expected = embedded_whole(model, ids)
    torch.testing.assert_close(model(ids), expected, atol=1e-5, rtol=1e-5)  # with gradients
    with torch.no_grad():
        torch.testing.assert_close(model(ids), expected, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(model.train()(ids), expected, atol=1e-5, rtol=1e-5)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.lists(st.integers(1, 3), max_size=6), min_size=1, max_size=12))
def test_texts_that_share_beginnings_are_embedded_as_alone(one_text_tower, rows):
    model, ids = one_text_tower, torch.zeros(len(rows), 12, dtype=torch.int64)
    for row, tokens in zip(ids, rows, strict=True):
        row[: len(tokens) + 2] = torch.tensor([START, *tokens, END])
    ids[:, 9:] = torch.randint(END, (len(rows), 3))  # what is behind an end does not count
    with torch.no_grad():
        torch.testing.assert_close(model(ids), embedded_whole(model, ids), atol=1e-5, rtol=1e-5)


def test_shared_beginnings_are_computed_once(text_tower):
    model, ids, rows = text_tower(), texts(4, 4, 4), []
    ids[1, :3], ids[2] = ids[0, :3], ids[0]
    model.blocks[0].norm1.register_forward_hook(lambda norm, args, output: rows.append(output.shape[0]))
    with torch.no_grad():
        model(ids)
    assert rows == [6 + 3]  # a whole text, what the second has of its own, and nothing of the third


def test_many_texts_run_in_parts(text_tower, monkeypatch):
    model, ids = text_tower(), texts(*range(11), *range(10))
    with torch.no_grad():
        whole = model(ids)
        monkeypatch.setattr("pe_encoder.text.AT_ONCE", 4)
        torch.testing.assert_close(model(ids), whole, atol=1e-5, rtol=1e-5)


def test_a_batch_with_gradients_is_cut_behind_its_last_end(text_tower):
    model, ids, lengths = text_tower(), texts(2, 4), []
    model.blocks[0].register_forward_hook(lambda block, args, output: lengths.append(output.shape[1]))
    model(ids)
    assert lengths == [6]


def test_blocks_with_hooks_run_as_they_are(text_tower):
    model, ids, shapes = text_tower(), texts(2, 4), []
    with torch.no_grad():
        plain = model(ids)
        model.blocks[-1].register_forward_hook(lambda block, args, output: shapes.append(tuple(output.shape)))
        torch.testing.assert_close(model(ids), plain, atol=1e-5, rtol=1e-5)
    assert shapes == [(2, 6, 24)]


def test_the_first_of_several_ends_counts(text_tower):
    model, ids = text_tower(), texts(3)
    twice = ids.clone()
    twice[0, 9] = END
    torch.testing.assert_close(model(twice), model(ids), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "ids", [torch.zeros(2, 13, dtype=torch.int64), torch.zeros(12, dtype=torch.int64), torch.rand(2, 12)]
)
def test_wrong_ids_are_refused(text_tower, ids):
    with pytest.raises(plm_core.InputError, match="1 to 12"):
        text_tower()(ids)


@pytest.mark.parametrize("wrong", [-1, 50])
def test_ids_outside_the_vocabulary_are_refused(text_tower, wrong):
    ids = texts(3)
    ids[0, 2] = wrong
    with pytest.raises(plm_core.InputError, match=rf"ids from .*{wrong}.*; 0 to 49 is allowed"):
        text_tower()(ids)


def test_gradients_reach_every_parameter_with_checkpointing_too(clip):
    clip.set_grad_checkpointing()
    image, text, scale = clip.train()(torch.rand(2, 3, 32, 32), texts(2, 3))
    (scale * image @ text.T).diagonal().sum().backward()
    unused = {"text.token_embedding.weight"}
    assert not [n for n, p in clip.named_parameters() if p.grad is None or (n not in unused and not p.grad.any())]


def test_a_video_is_the_mean_of_its_frames(clip):
    video = torch.rand(2, 4, 3, 32, 32)
    frames = torch.stack([clip.encode_image(clip_of_frames) for clip_of_frames in video])
    torch.testing.assert_close(clip.encode_video(video), frames.mean(1), atol=1e-5, rtol=1e-5)
    lengths = clip.encode_video(video, normalize=True).norm(dim=-1)
    assert bool((lengths < 1).all()), "the mean is not normalised again, as in the original"
    torch.testing.assert_close(clip.encode_video(video, True), normalize(frames, dim=-1).mean(1), atol=1e-5, rtol=1e-5)
    with pytest.raises(plm_core.InputError, match=r"\[2, 0, 3, 32, 32\]; .* with one frame or more is expected"):
        clip.encode_video(video[:, :0])


@pytest.mark.parametrize(
    ("vision", "message"),
    [({"pool_type": "none"}, "a CLIP needs a vision tower that pools"), ({"output_dim": 8}, "8 and text has 10")],
)
def test_towers_that_do_not_share_a_space_are_refused(vision, message):
    text = {"width": 24, "heads": 2, "layers": 1, "output_dim": 10, "vocab_size": 50}
    small = {"patch_size": 8, "width": 48, "layers": 1, "heads": 3, "output_dim": 10, "attn_pooler_heads": 3}
    with pytest.raises(plm_core.InputError, match=message):
        pe_encoder.CLIP(vision=small | vision, text=text)


def test_a_clip_with_a_small_vocabulary_has_its_tokenizer():
    small = {"patch_size": 8, "width": 48, "layers": 1, "heads": 3, "output_dim": 10, "attn_pooler_heads": 3}
    text = {"width": 24, "heads": 2, "layers": 1, "output_dim": 10, "vocab_size": 6, "context_length": 5}
    model = pe_encoder.CLIP(vision=small, text=text, vocabulary=("red", "circle"))
    ids = model.tokenizer()(["red circle", "a blue circle"])
    assert ids.tolist() == [[1, 3, 4, 5, 0], [1, 2, 2, 4, 5]]
    assert model.encode_text(ids).shape == (2, 10)
    with pytest.raises(plm_core.InputError, match="vocab_size 6; vocabulary has 3 words, which make 7"):
        pe_encoder.CLIP(vision=small, text=text, vocabulary=("red", "circle", "blue"))


def test_the_embedding_of_a_clip_is_that_of_images(clip):
    images = torch.rand(2, 3, 32, 32)
    assert torch.equal(plm_core.embed(clip, images), clip.encode_image(images))


def test_a_clip_by_name_has_no_classifier():
    with pytest.raises(plm_core.InputError, match="name the classes in texts"), torch.device("meta"):
        timm.create_model("pe_clip_t16_384", num_classes=5)


def test_a_clip_says_why_a_file_of_pe_lang_does_not_fit(clip, tower):
    aligned = tower(pool_type="none", use_ln_post=False, output_dim=None, ls_init_value=0.1)
    for layout in ("official", "timm"):
        with pytest.raises(plm_core.WeightsError, match=r"PE-Lang and PE-Spatial have none, since their alignment"):
            plm_core.weights.load(clip, plm_core.weights.export(aligned, layout))


def test_a_clip_says_that_a_file_has_another_context(clip):
    state = plm_core.weights.export(clip, "official")
    state["positional_embedding"] = torch.zeros(20, 24)
    with pytest.raises(
        plm_core.WeightsError, match=r"the file's texts have 17 tokens|have 20 tokens and the model's 12"
    ):
        plm_core.weights.load(clip, state)
