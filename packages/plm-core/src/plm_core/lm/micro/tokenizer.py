"""A tokenizer by words, for models with a small vocabulary, with the special tokens and the chat format of Llama 3."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

BEGIN, END, UNKNOWN = "<|begin_of_text|>", "<|end_of_text|>", "<|unknown|>"
HEADER, HEADER_END, END_OF_TURN = "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"
IMAGE, VIDEO = "<|image|>", "<|video|>"
SPECIAL = (BEGIN, END, IMAGE, VIDEO, HEADER, HEADER_END, END_OF_TURN, UNKNOWN)
ROLES = ("system", "user", "assistant")
TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' }}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] if part['type'] == 'image' %}{{ '<|image|>' }}{% endfor %}"
    "{% for part in message['content'] if part['type'] == 'video' %}{{ '<|video|>' }}{% endfor %}"
    "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] | trim }}{% endfor %}"
    "{% endif %}{{ '<|eot_id|>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
"""The format of Llama 3, without a system prompt of its own."""
PIECES = r"[a-z]+|[0-9]|[^a-z0-9\s]"
"""A word, a digit, or a sign. Blanks are no tokens."""


def word_tokenizer(words: Sequence[str]) -> Any:
    """Return a tokenizer of transformers whose tokens are words, digits and signs.

    Texts become lower case. What is not in the vocabulary is one unknown token. Decoding puts blanks between words
    alone.

    Args:
        words: The vocabulary, without the special tokens and the names of the roles.

    Raises:
        MissingDependency: The extra plm-core[lm] is not installed.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = list(dict.fromkeys([*words, *ROLES]))
    ids = {word: number for number, word in enumerate([*vocabulary, *SPECIAL])}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\s+"), "removed"),
            pre_tokenizers.Split(Regex(PIECES), "isolated"),
        ]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.WordPiece(prefix="##", cleanup=False),  # a blank before each word but the first
            decoders.Fuse(),
            decoders.Replace(Regex(r" (?=[\]),.:?])"), ""),
            decoders.Replace(Regex(r"(?<=[\[(]) "), ""),
            decoders.Replace(Regex(r"(?<=[0-9]) (?=[0-9])"), ""),
            decoders.Replace(Regex(r"(?<=[0-9],) (?=[0-9])"), ""),
        ]
    )
    tokenizer.add_special_tokens(list(SPECIAL))
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BEGIN,
        eos_token=END_OF_TURN,
        pad_token=END,
        unk_token=UNKNOWN,
        additional_special_tokens=[HEADER, HEADER_END],
        extra_special_tokens={"image_token": IMAGE, "video_token": VIDEO},
        chat_template=TEMPLATE,
        clean_up_tokenization_spaces=False,
    )
