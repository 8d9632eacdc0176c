"""Goldens, the byte tokenizer that some of them were made with, and a tiny model that answers."""

import json
import re
import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
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


# --- a tiny model with random weights, which answers at random ------------------------------------------------------

WORDS = ["is", "it", "a", "red", "blue", "green", "star", "what", "where", "frames", "in", *"[](),.:?0123456789"]


@pytest.fixture(scope="session")
def tokenizer():
    from plm_core.lm.micro.tokenizer import word_tokenizer

    return word_tokenizer(WORDS)


@pytest.fixture(scope="session")
def processor(tokenizer):
    """Return a processor for 100 tokens, of which a chunk of 28 pixels takes one."""
    from plm_core.lm.media import MediaSettings
    from plm_core.lm.processor import Processor

    return Processor(tokenizer, MediaSettings(size=28, tokens=1, max_tiles=4, max_frames=4), max_length=100)


@pytest.fixture(scope="session")
def tiny_config(tokenizer):
    """Return a tiny configuration in transformers' terms, whose chunks of 28 pixels become one visual token each."""
    return {
        "vision_config": {
            "architecture": "vit_pe_core_large_patch14_336",
            "model_args": {
                **{"embed_dim": 32, "depth": 1, "num_heads": 2, "img_size": [28, 28], "init_values": 0.1},
                **{"global_pool": "", "use_post_transformer_norm": False, "ref_feat_shape": [2, 2]},
            },
        },
        "text_config": {
            "hidden_size": 32,
            "intermediate_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "vocab_size": len(tokenizer),
        },
        "projector_pooling_ratio": 2,
        "image_token_id": tokenizer.image_token_id,
        "video_token_id": tokenizer.video_token_id,
    }


@pytest.fixture(scope="session")
def assistant(tiny_config, processor):
    """Return the tiny model with its processor; tests do not change it."""
    import torch

    from plm_core import lm

    torch.manual_seed(3)
    model = lm.build(tiny_config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return lm.Assistant(model, processor)


@pytest.fixture(scope="session")
def model_folder(assistant, tmp_path_factory):
    """Return a folder with `assistant`, as transformers writes it; tests do not change it."""
    from plm_core.lm.pretrained import save_transformers

    folder = tmp_path_factory.mktemp("models") / "tiny"
    save_transformers(assistant.model, folder)
    assistant.processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def picture():
    """Return a function that makes a picture of noise."""

    def make(width=60, height=40, seed=0):
        return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8))

    return make
