"""Goldens, and the byte tokenizer that some of them were made with."""

import json
import re
import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest
from safetensors import safe_open

from plm_core.testing.goldens import goldens_in

GOLDENS = Path(__file__).parent / "goldens"
# the specials of Llama 3, of which number k has the id 256 + k
SPECIALS = (
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|image|>",
    "<|reserved_special_token_1|>",
    "<|reserved_special_token_2|>",
    "<|reserved_special_token_3|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|reserved_special_token_4|>",
    "<|eot_id|>",
)


class ByteTokenizer:
    """Bytes, and the specials of Llama 3. It counts how often it is asked to encode."""

    chat_template = "one that writes the system prompt"
    unk_token_id = None

    def __init__(self, system):
        self.system = system
        self.calls = 0

    def encode(self, text, add_special_tokens):
        assert not add_special_tokens
        self.calls += 1
        parts = re.split(f"({'|'.join(map(re.escape, SPECIALS))})", text)
        return [number for part in parts for number in self._ids(part)]

    def decode(self, ids):
        return "".join(SPECIALS[number - 256] if number > 255 else chr(number) for number in ids)

    def convert_tokens_to_ids(self, token):
        return 256 + SPECIALS.index(token) if token in SPECIALS else None

    def apply_chat_template(self, messages, tokenize, **variables):
        header = "<|start_header_id|>{}<|end_header_id|>\n\n"
        start = header.format("system") + self.system + "<|eot_id|>"
        return f"<|begin_of_text|>{start}{header.format('user')}{messages[0]['content']}<|eot_id|>"

    def _ids(self, part):
        return [self.convert_tokens_to_ids(part)] if part in SPECIALS else list(part.encode())


@pytest.fixture(scope="session")
def golden():
    return goldens_in(GOLDENS)


@pytest.fixture(scope="session")
def chat_golden():
    """Return the cases of conversations, by the keys of the golden's header; and its tensors."""
    with safe_open(GOLDENS / "chat_regions_frames.safetensors", "pt") as file:
        header = {key: json.loads(value) for key, value in file.metadata().items() if key != "note"}
        return header | {key.removeprefix("outputs."): file.get_tensor(key) for key in file.keys()}  # noqa: SIM118


@pytest.fixture(scope="session")
def system_prompt(chat_golden):
    """Return the system prompt that the golden was made with."""
    ids = chat_golden["chat_cases"][0]["output"]["text_ids"]
    return bytes(ids[ids.index(263) + 3 : ids.index(265)]).decode()


@pytest.fixture(scope="session")
def byte_tokenizer(system_prompt):
    """Return the tokenizer of the goldens, with a chat template that writes their system prompt."""
    return ByteTokenizer(system_prompt)


@pytest.fixture(scope="session")
def tiny():
    """Return the names of train_script.py: a tiny model, its samples and its training."""
    return SimpleNamespace(**runpy.run_path(str(Path(__file__).parent / "train_script.py")))
