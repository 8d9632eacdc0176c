"""Conversations become the ids, labels and places of media of the original."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plm_core.errors import InputError, NotSupported
from plm_core.lm.chat import CHATML, IGNORE, LLAMA3, ChatEncoder, default_system, exchanges, format_of

CASES = (
    "image",
    "multi_turn",
    "multi_image",
    "text",
    "truncate_second_answer",
    "truncate_second_user",
    "too_long_first",
    "answer_dropped",
    "warmup",
)


def visual_tokens(case, config):
    pool = case.get("pool", config["default_pool"])
    return (case["size"] // config["patch_size"] // pool) ** 2


def encode(case, golden, tokenizer):
    encoder = ChatEncoder(tokenizer, visual_tokens(case, golden["config"]))
    if case.get("conv") == "warmup":
        return encoder.warmup(case["conversations"], case["chunks"], case["seq_len"])
    return encoder.training(case["conversations"], case["chunks"], case["media_type"], case["seq_len"])


def human(text):
    return {"from": "human", "value": text}


def assistant(text):
    return {"from": "assistant", "value": text}


def test_every_case_of_the_golden_is_tested(chat_golden):
    assert tuple(case["input"]["name"] for case in chat_golden["chat_cases"]) == CASES


@pytest.mark.parametrize("name", CASES)
def test_training(chat_golden, byte_tokenizer, name):
    case, expected = next(
        (case["input"], case["output"]) for case in chat_golden["chat_cases"] if case["input"]["name"] == name
    )
    if not expected["is_valid"]:
        with pytest.raises(InputError, match="the first question has 209 tokens"):
            encode(case, chat_golden, byte_tokenizer)
        return
    encoded = encode(case, chat_golden, byte_tokenizer)
    assert encoded.input_ids == expected["text_ids"]
    assert encoded.media == expected["image_pos"]
    assert [place for place, label in enumerate(encoded.labels) if label != IGNORE] == expected["response_pos"]
    assert all(label in (IGNORE, number) for label, number in zip(encoded.labels, encoded.input_ids, strict=True))
    assert encoded.targets == len(expected["response_pos"])


@pytest.mark.parametrize("number", range(4))
def test_prompts(chat_golden, byte_tokenizer, number):
    case = chat_golden["generation_cases"][number]
    encoder = ChatEncoder(byte_tokenizer, visual_tokens(case["input"], chat_golden["config"]))
    encoded = encoder.prompt(case["input"]["prompt"], case["input"]["chunks"])
    assert encoded.input_ids == case["output"]["text_ids"]
    assert encoded.media == case["output"]["image_pos"]
    assert set(encoded.labels) == {IGNORE}


def test_a_tokenizer_is_asked_once_for_each_piece(byte_tokenizer):
    encoder = ChatEncoder(byte_tokenizer, 4)
    before = byte_tokenizer.calls
    encoder.training([human("a"), assistant("b"), human("c"), assistant("d")], chunks=37)
    assert byte_tokenizer.calls == before + 4
    encoder.prompt("what?", 37)
    assert byte_tokenizer.calls == before + 5


turns = st.lists(st.tuples(st.text("ab <>\n", max_size=12), st.text("cd \n", max_size=12)), min_size=1, max_size=4)


@settings(deadline=None, max_examples=60)
@given(turns, st.integers(0, 3), st.integers(40, 400))
def test_truncation_leaves_whole_pieces(byte_tokenizer, pairs, chunks, max_length):
    encoder = ChatEncoder(byte_tokenizer, 5, system="")
    conversation = [turn for question, answer in pairs for turn in (human(question), assistant(answer))]
    whole = encoder.training(conversation, chunks)
    short = encoder.training(conversation, chunks, max_length=max_length)
    assert len(short.input_ids) + 1 <= max_length
    assert whole.input_ids[: len(short.input_ids)] == short.input_ids
    assert whole.labels[: len(short.labels)] == short.labels
    assert len(whole.media) == len(short.media) == 5 * chunks
    assert exchanges(conversation).pairs == pairs
    ends = [place + 1 for place, number in enumerate(whole.input_ids) if number == 265]
    assert len(short.input_ids) in (*ends, len(whole.input_ids))
    left = whole.input_ids[len(short.input_ids) :]
    if left:  # the next piece would not have fitted
        following = next(end for end in [*ends, len(whole.input_ids)] if end > len(short.input_ids))
        assert following + (following == ends[-1]) + 1 > max_length


def test_a_conversation_with_a_system_message_of_its_own(byte_tokenizer):
    encoder = ChatEncoder(byte_tokenizer, 1)
    own = [{"from": "system", "value": "Be brief."}, human("a"), assistant("b")]
    text = byte_tokenizer.decode(encoder.training(own).input_ids)
    assert text.startswith("<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>")
    none = byte_tokenizer.decode(ChatEncoder(byte_tokenizer, 1, system="").training(own[1:]).input_ids)
    assert none.startswith("<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\na<|eot_id|>")
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "a"}]
    assert byte_tokenizer.decode(encoder.prompt(messages).input_ids) == text.partition("b<|eot_id|><|end")[0]


def test_turns_of_the_assistant_before_the_first_question_are_left_out():
    assert exchanges([assistant("hello"), human("a"), assistant(7)]).pairs == [("a", "7")]


def test_a_prompt_of_several_turns(byte_tokenizer):
    encoder = ChatEncoder(byte_tokenizer, 2, system="")
    chat = [
        {"role": "user", "content": "hello"},
        {"role": "assistant", "content": "hi"},
        {"role": "user", "content": "see <image> what?"},
    ]
    text = byte_tokenizer.decode(encoder.prompt(chat, [3]).input_ids)
    start = "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nhello<|eot_id|>"
    reply = "<|start_header_id|>assistant<|end_header_id|>\n\n"
    question = f"<|start_header_id|>user<|end_header_id|>\n\n{'<|image|>' * 6}see  what?<|eot_id|>"
    assert text == f"{start}{reply}hi<|eot_id|>{question}{reply}"


def test_a_single_chunk_stays_where_its_marker_is(byte_tokenizer):
    encoder = ChatEncoder(byte_tokenizer, 2, system="")
    assert "a<|image|><|image|>b" in byte_tokenizer.decode(encoder.prompt("a<image>b", 1).input_ids)


def test_several_media_have_their_places_or_come_first(byte_tokenizer):
    encoder = ChatEncoder(byte_tokenizer, 1, system="")
    placed = byte_tokenizer.decode(encoder.prompt("a <image> b <video> c", [2, 3]).input_ids)
    assert f"a {'<|image|>' * 2} b {'<|image|>' * 3} c" in placed
    assert f"\n\n{'<|image|>' * 5}abc" in byte_tokenizer.decode(encoder.prompt("abc", [2, 3]).input_ids)


@pytest.mark.parametrize(
    ("prompt", "chunks", "message"),
    [
        ("<image> <image> what?", [37], "the prompt has 2 <image> or <video> for 1 images or videos"),
        ("<image> what?", [1, 1], "the prompt has 1 <image> or <video> for 2 images or videos"),
        ("<image> <image> <image>", [1, 1], "the prompt has 3 <image> or <video> for 2 images or videos"),
        ("<image> <image> <image>", [1, 2], "the prompt has 3 <image> or <video> for 2 images or videos"),
        ("<image> what?", 0, "the prompt has 1 <image> or <video>, and there is no image or video"),
        ("<video> what?", (), "the prompt has 1 <image> or <video>, and there is no image or video"),
        ("<|image|> what?", 1, "a text has '<|image|>', which stands for visual tokens: leave it out"),
        ([], 1, "messages: the last one must be from user"),
        ([{"role": "assistant", "content": "a"}], 0, "messages: assistant is not allowed after system"),
        ([{"role": "tool", "content": "a"}], 0, "message 1 has the role 'tool'; system, user and assistant are"),
        ([{"role": "user", "content": None}], 0, "message 1 from user has no text as its content"),
        (["what?"], 0, "message 1 has the role None"),
    ],
)
def test_a_prompt_that_is_not_allowed(byte_tokenizer, one_line, prompt, chunks, message):
    with one_line(InputError, message):
        ChatEncoder(byte_tokenizer, 1).prompt(prompt, chunks)


@pytest.mark.parametrize(
    ("conversation", "message"),
    [
        ("hello", "conversations is no list of turns"),
        ([], "conversations is no list of turns"),
        (["hello"], "turn 1 is no object with 'from' and 'value'"),
        ([{"from": "gpt", "value": "a"}], "turn 1 is from 'gpt'; human and assistant and system are allowed"),
        ([human("a"), {"from": "system", "value": "b"}], "turn 2 is from 'system'; human and assistant are allowed"),
        ([{"from": "human", "valeu": "a"}], "turn 1: no key 'valeu'; did you mean 'value'?"),
        ([{"from": "human", "value": 3}], "turn 1 from human has no text as its value"),
        ([human("a"), {"from": "assistant", "value": None}], "turn 2 from assistant has no text as its value"),
        ([human("a"), human("b")], "turn 2 is from human, where one from assistant is expected"),
        ([human("a")], "the last turn is not from assistant"),
        ([assistant("a")], "there is no turn from human"),
        ([human("<|image|>"), assistant("a")], "a text has '<|image|>', which stands for visual tokens"),
        ([human("a"), assistant("<|image|>")], "a text has '<|image|>', which stands for visual tokens"),
    ],
)
def test_a_conversation_that_is_not_allowed(byte_tokenizer, one_line, conversation, message):
    with one_line(InputError, message):
        ChatEncoder(byte_tokenizer, 1).training(conversation, 1)


@pytest.mark.parametrize("chunks", [1, 3])
def test_several_images_need_as_many_markers(byte_tokenizer, one_line, chunks):
    with one_line(InputError, f"the questions have 2 <image> for {chunks} images; as many are needed"):
        ChatEncoder(byte_tokenizer, 1).training([human("<image> <image>"), assistant("a")], chunks, "multi_image")


def test_the_warm_up_takes_one_question_and_leaves_out_an_answer_that_does_not_fit(byte_tokenizer, one_line):
    encoder = ChatEncoder(byte_tokenizer, 4)
    with one_line(InputError, "the conversation has 2 questions; the warm-up takes one"):
        encoder.warmup([human("a"), assistant("b"), human("c"), assistant("d")], 1)
    with one_line(InputError, "the image or video has 8 tokens with all before it; max_length 8 leaves 7"):
        encoder.warmup([human("a"), assistant("b")], 2, max_length=8)
    assert encoder.warmup([human("a"), assistant("b")], 1, max_length=6).targets == 0
    assert encoder.warmup([human("a"), assistant("b")], 1, max_length=7).targets == 2


def fast_tokenizer(specials, template):
    """Return a tokenizer of transformers whose tokens are bytes and some specials."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE({token: number for number, token in enumerate(alphabet)}, []))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core)
    tokenizer.add_special_tokens({"additional_special_tokens": list(specials)})
    tokenizer.chat_template = template
    return tokenizer


QWEN = (
    "{% if messages[0].role != 'system' %}<|im_start|>system\nBe kind.<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
)


def test_chatml_of_a_tokenizer_of_transformers():
    tokenizer = fast_tokenizer(["<|im_start|>", "<|im_end|>", "<|image_pad|>", "<|endoftext|>"], QWEN)
    assert format_of(tokenizer) == CHATML
    encoder = ChatEncoder(tokenizer, 2)
    assert encoder.pad_id == tokenizer.convert_tokens_to_ids("<|endoftext|>")
    assert encoder.stop_ids == (encoder.pad_id, tokenizer.convert_tokens_to_ids("<|im_end|>"))
    encoded = encoder.training([human("<image>\nHi?"), assistant("Yes.")], 2)
    assert tokenizer.decode(encoded.input_ids) == (
        "<|im_start|>system\nBe kind.<|im_end|>\n"
        f"<|im_start|>user\n{'<|image_pad|>' * 4}Hi?<|im_end|>\n<|im_start|>assistant\nYes.<|im_end|>\n"
    )
    targets = [label for label in encoded.labels if label != IGNORE]
    assert tokenizer.decode(targets) == "<|im_start|>assistant\nYes.<|im_end|>\n"


def test_the_vocabulary_of_llama_has_a_reserved_token_for_images():
    specials = ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
    tokenizer = fast_tokenizer([*specials, "<|reserved_special_token_0|>"], None)
    chat = format_of(tokenizer)
    assert chat.name == "llama3"
    assert chat.image == "<|reserved_special_token_0|>"
    assert default_system(tokenizer, chat) == ""


def test_a_tokenizer_of_no_known_format(one_line):
    with one_line(NotSupported, "<|start_header_id|>, <|end_header_id|>, <|eot_id|> (llama3) or <|im_start|>"):
        format_of(fast_tokenizer(["<s>"], None))
    with one_line(NotSupported, "no token for visual tokens in the format chatml: one of <|image_pad|>, <|image|>"):
        format_of(fast_tokenizer(["<|im_start|>", "<|im_end|>"], None))
    with one_line(NotSupported, "the tokenizer has no token '<|endoftext|>', which the format chatml needs"):
        ChatEncoder(fast_tokenizer(["<|im_start|>", "<|im_end|>", "<|image_pad|>"], None), 1)


HEADER = "<|start_header_id|>system<|end_header_id|>\n\n"


@pytest.mark.parametrize(
    ("template", "system"),
    [
        (HEADER + "Hello.<|eot_id|>{{ messages[0].content }}", "Hello."),
        (HEADER + "Hello.<|eot_id|>{{ messages[0].content[0].text | upper }}", "Hello."),
        (HEADER + "On {{ date_string }}.<|eot_id|>", "On 26 Jul 2024."),
        ("{{ messages[0].content }}", ""),
    ],
)
def test_the_system_prompt_is_that_of_the_chat_template(template, system):
    assert default_system(fast_tokenizer(["<|eot_id|>"], template), LLAMA3) == system


def test_a_chat_template_that_cannot_be_rendered(one_line):
    tokenizer = fast_tokenizer([], "{{ raise_exception('no') }}")
    with one_line(InputError, "the tokenizer's chat template cannot be rendered: no"):
        default_system(tokenizer, LLAMA3)


def test_a_chunk_has_tokens(byte_tokenizer, one_line):
    with one_line(InputError, "tokens 0 is not allowed: 1 or more is"):
        ChatEncoder(byte_tokenizer, 0)
