"""Prompts with media as inputs, and answers: alone, in batches, in a stream, in a conversation."""

import json

import numpy as np
import pytest
import torch

from plm_core import InputError, UnknownName, WeightsError
from plm_core.lm.assistant import Assistant, Chat
from plm_core.lm.media import MediaSettings
from plm_core.lm.pretrained import save_transformers
from plm_core.lm.processor import Processor, media_settings
from plm_core.lm.prompts import Prompt, VideoClip, marked


def clip(write_video, folder):
    """A video of four seconds, at 25 frames a second."""
    path = folder / "clip.mp4"
    write_video(path, np.random.default_rng(0).integers(0, 255, (100, 32, 48, 3), dtype=np.uint8))
    return path


# --- words -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    ["is it in [041,100,300,400]?", "what: (a) red. (a) blue", "in [0,3]: a star. in [3,7]: a blue", "7 in 12"],
)
def test_a_text_of_words_comes_back(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text


def test_unknown_words_are_one_token(tokenizer):
    ids = tokenizer.encode("Is it a ZEBRA?", add_special_tokens=False)
    assert [tokenizer.unk_token_id == number for number in ids] == [False, False, False, True, False]


# --- prompts -----------------------------------------------------------------------------------------------------


def test_a_question_about_an_image(processor, picture):
    inputs = processor("what is it?", [picture()])
    chunks = len(inputs["pixel_values"])
    assert chunks == 5, "a thumbnail and two by two tiles"
    assert inputs["pixel_values"].shape[1:] == (3, 28, 28)
    assert (inputs["input_ids"] == processor.encoder.image_id).sum() == chunks * processor.settings.tokens
    assert inputs["attention_mask"].all()
    text = processor.tokenizer.decode(inputs["input_ids"][0])
    assert text.startswith("<|begin_of_text|>")
    assert (
        text.rstrip().endswith("<|start_header_id|> assistant<|end_header_id|>".replace(" ", "")) or "assistant" in text
    )


def test_prompts_of_different_lengths_are_padded_on_the_left(processor, picture):
    prompts = [Prompt(text="is it red?"), Prompt(text="what is it?", media=[picture()]), Prompt(text="is it?")]
    prepared = processor.prepare(prompts)
    ids, mask = prepared.inputs["input_ids"], prepared.inputs["attention_mask"]
    assert prepared.lengths == mask.sum(1).tolist()
    assert prepared.chunks == [0, 5, 0]
    assert prepared.tokens == [0, 5, 0]
    for row, own, prompt in zip(ids, mask, prompts, strict=True):
        assert row[own == 0].eq(processor.encoder.pad_id).all()
        alone = processor(prompt)["input_ids"][0]
        assert torch.equal(row[own == 1], alone)


def test_several_images_are_one_chunk_each_in_their_places(processor, picture):
    inputs = processor("is <image> red in <image>?", [picture(), picture(seed=1)])
    places = torch.nonzero(inputs["input_ids"][0] == processor.encoder.image_id)[:, 0]
    assert len(inputs["pixel_values"]) == 2
    assert places.diff().tolist() == [3], "words stand between the two"


def test_a_budget_of_visual_tokens(processor, picture):
    whole = processor("what?", [picture(280, 280)])["pixel_values"]
    small = processor.with_settings(max_tokens=3)("what?", [picture(280, 280)])["pixel_values"]
    assert len(whole) == 5
    assert len(small) <= 3


def test_a_region_becomes_its_coordinates(processor, picture):
    inputs = processor("what is in <|bbox0|>?", [picture(100, 200)], boxes=[(10, 20, 40, 60)])
    assert "[100,100,400,300]" in processor.tokenizer.decode(inputs["input_ids"][0])
    with pytest.raises(InputError, match=r"no <\|bbox0\|>"):
        processor("what is it?", [picture()], boxes=[(1, 2, 3, 4)])
    with pytest.raises(InputError, match="regions of one image"):
        Prompt(text="what is in <|bbox0|>?", boxes=[(1, 2, 3, 4)])


def test_a_part_of_a_video_has_times(processor, write_video, tmp_path):
    path = clip(write_video, tmp_path)
    prepared = processor.prepare([Prompt(text="what?", media=[VideoClip(source=path, start=1, end=3)])])
    (times,) = prepared.times
    assert prepared.chunks == [len(times)]
    assert len(times) <= 4
    assert times.seconds[0] == pytest.approx(1, abs=0.05)
    assert times.seconds[-1] == pytest.approx(3, abs=0.05)
    by_name = processor.prepare([Prompt(text="what?", media=[path])])
    assert by_name.times[0].seconds[0] == 0


def test_a_box_is_drawn_on_the_frames(processor):
    frames = np.full((3, 56, 56, 3), 128, np.uint8)
    plain, boxed = (
        processor("what?", [VideoClip(source=frames, box=box)])["pixel_values"] for box in (None, (10, 10, 50, 50))
    )
    assert (plain[:, 0] - boxed[:, 0]).abs().amax((1, 2)).gt(0.5).all(), "red shows on each frame"


@pytest.mark.parametrize(
    ("text", "media", "message"),
    [
        ("is <image> a <image>?", ["a picture"], "has 2 <image> or <video> for 1 images or videos"),
        ("is <image> red?", [], "there is no image"),
        ("what?", ["nowhere.jpg"], "nowhere.jpg"),
        ("what? " * 60, [], "the prompt has .* tokens, 0 of them visual, and the model takes 100"),
    ],
)
def test_prompts_that_are_not_allowed(processor, text, media, message, picture):
    with pytest.raises(InputError, match=message):
        processor(text, [picture() if medium == "a picture" else medium for medium in media])


def test_a_broken_file_in_a_batch_is_named(processor, tmp_path):
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff no")
    prompts = [Prompt(text="what?"), Prompt(text="what?", media=[tmp_path / "broken.jpg"])]
    with pytest.raises(InputError, match=r"prompt 1: .*broken.jpg"):
        processor.prepare(prompts)
    with pytest.raises(InputError, match="there is no prompt"):
        processor.prepare([])


# --- files -------------------------------------------------------------------------------------------------------


def test_a_processor_comes_back_from_a_folder(processor, tmp_path):
    changed = processor.with_settings(max_tiles=2, mean=(0.1, 0.2, 0.3))
    changed.save_pretrained(tmp_path)
    again = Processor.from_pretrained(tmp_path)
    assert again.settings == changed.settings
    assert again.max_length == 100
    assert again("is it red?")["input_ids"].equal(processor("is it red?")["input_ids"])
    assert Processor.from_pretrained(tmp_path, max_tokens=2).settings.max_tokens == 2


def test_settings_follow_from_the_configuration(tiny_config, processor, tmp_path):
    assert media_settings(tiny_config) == MediaSettings(size=28, tokens=1)
    published = {
        "vision_config": {"architecture": "vit_pe_core_large_patch14_336", "model_args": {"img_size": [448] * 2}}
    }
    assert media_settings({**published, "projector_pooling_ratio": 2}) == MediaSettings()
    processor.tokenizer.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({**published, "projector_pooling_ratio": 2}))
    theirs = {"max_num_tiles": 16, "vision_input_type": "vanilla"}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(theirs))
    assert Processor.from_pretrained(tmp_path).settings == MediaSettings(max_tiles=16, mode="vanilla")


def test_settings_come_from_the_files_of_transformers(assistant, tmp_path):
    changed = assistant.processor.with_settings(max_tiles=3, mode="vanilla", mean=(0.1, 0.2, 0.3), max_frames=32)
    save_transformers(assistant.model, tmp_path)
    changed.save_pretrained(tmp_path)
    (tmp_path / "preprocessor.json").unlink()
    assert Processor.from_pretrained(tmp_path).settings == changed.settings


def test_sources_without_a_tokenizer(tmp_path):
    with pytest.raises(InputError, match="has no tokenizer"):
        Processor.from_pretrained(tmp_path)
    with pytest.raises(WeightsError, match="neither a declared model"):
        Processor.from_pretrained("no such model")
    with pytest.raises(UnknownName, match=r"did you mean .*'plm_1b'"):
        Processor.from_pretrained("plm_b1")


def test_an_answer_has_no_more_tokens_than_there_is_room_for(assistant):
    prompt = Prompt(text="what? " * 44)
    answer = assistant.ask(prompt, max_new_tokens=1000, min_new_tokens=1)
    assert answer.prompt_tokens + answer.new_tokens <= 100


def test_a_folder_of_transformers_is_an_assistant(assistant, tmp_path, picture):
    save_transformers(assistant.model, tmp_path)
    assistant.processor.save_pretrained(tmp_path)
    again = Assistant.from_pretrained(tmp_path)
    assert again.ask("what is it?", [picture()]).text == assistant.ask("what is it?", [picture()]).text


# --- answers -----------------------------------------------------------------------------------------------------


def test_answers_in_batches_are_those_of_each_question_alone(assistant, picture):
    prompts = [Prompt(text="what is it?", media=[picture(seed=number)][: number % 3]) for number in range(7)]
    together = list(assistant.answers(prompts, batch_size=4, max_new_tokens=6))
    alone = [assistant.ask(prompt, max_new_tokens=6) for prompt in prompts]
    assert [answer.text for answer in together] == [answer.text for answer in alone]
    assert [answer.chunks for answer in together] == [0, 5, 5, 0, 5, 5, 0]
    assert len({answer.text for answer in together}) > 1, "the pictures matter"


def test_an_answer_says_what_it_cost(assistant, picture):
    answer = assistant.ask("what is it?", [picture()], max_new_tokens=3)
    assert answer.visual_tokens == answer.chunks == 5
    assert answer.new_tokens <= 3
    assert answer.prompt_tokens > 5
    assert answer.finished or answer.new_tokens == 3


def test_an_answer_comes_in_a_stream(assistant, picture):
    pieces = []
    answer = assistant.ask("is it red?", [picture()], stream=pieces.append, max_new_tokens=8)
    assert len(pieces) > 1
    assert "".join("".join(pieces).split()) == "".join(answer.text.split())


def test_spans_of_frames_become_seconds(assistant, write_video, tmp_path, monkeypatch):
    path = clip(write_video, tmp_path)
    monkeypatch.setattr(assistant.processor, "decode", lambda ids: "in [1,3]: a star")
    answer = assistant.ask("where?", [path], max_new_tokens=1)
    assert answer.text == "in [1,3]: a star"
    (span,) = answer.spans
    assert answer.in_seconds == f"in [{span.start:.2f} s, {span.end:.2f} s]: a star"


def test_a_conversation_keeps_its_pictures(assistant, picture):
    chat = Chat(assistant)
    chat.say("what is it?", [picture()], max_new_tokens=4)
    second = chat.say("is it red?", max_new_tokens=4)
    assert second.chunks == 5
    third = chat.say("is it a star?", [picture(seed=5)], max_new_tokens=4)
    assert third.chunks == 2, "several images are one chunk each"
    assert [message["role"] for message in chat.messages] == ["user", "assistant"] * 3
    before = len(chat.messages)
    with pytest.raises(InputError):
        chat.say("what?", ["nowhere.jpg"])
    assert len(chat.messages) == before
    assert marked("what?", [1, 2]) == "<image><image>what?"


def test_a_processor_of_another_model_is_refused(assistant, processor):
    with pytest.raises(InputError, match="1 visual tokens for a chunk of 28 pixels, and the processor expects 4"):
        Assistant(assistant.model, processor.with_settings(tokens=4))
