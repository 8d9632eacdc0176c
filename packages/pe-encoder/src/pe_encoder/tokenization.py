"""Texts to ids: CLIP's tokenizer, which open_clip keeps, and one of whole words for small vocabularies."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from importlib.machinery import PathFinder
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from plm_core import InputError, MissingDependency

CONTEXT = 32
"""The context of every size but G, which has 72."""
PADDING = 0

_log = logging.getLogger("pe_encoder")


class Tokenizer:
    """A function from texts to ids: int64 [B, L], each text from its start to its end, padded with zeros.

    A text that is too long is cut as in the original: its last id becomes the end. How many were cut is logged unless
    ``warns`` is False, and counted in ``num_cut``.

    Args:
        encode: Function from a text to its ids, without start and end.
        start: Id of the start of a text.
        end: Id of the end of a text, the largest of all.
        context_length: L.
    """

    def __init__(self, encode: Callable[[str], Iterable[int]], start: int, end: int, context_length: int) -> None:
        if isinstance(context_length, bool) or not isinstance(context_length, int) or context_length < 2:
            raise InputError(f"context_length is {context_length!r}; a whole number from 2 on is allowed")
        self.encode = encode
        self.start = start
        self.end = end
        self.context_length = context_length
        self.num_cut = 0
        self.warns = True

    def __call__(self, texts: str | Sequence[str]) -> Tensor:
        """Return the ids of a text or of several.

        Raises:
            InputError: Something is no text.
        """
        texts = [texts] if isinstance(texts, str) else list(texts)
        for text in texts:
            if not isinstance(text, str):
                raise InputError(f"texts has a {type(text).__name__}; strings are expected")
        ids = torch.full((len(texts), self.context_length), PADDING, dtype=torch.int64)
        cut = 0
        for row, text in zip(ids, texts, strict=True):
            tokens = [self.start, *self.encode(text), self.end]
            if len(tokens) > self.context_length:
                tokens = [*tokens[: self.context_length - 1], self.end]
                cut += 1
            row[: len(tokens)] = torch.tensor(tokens)
        if cut:
            self.num_cut += cut
        if cut and self.warns:
            _log.warning("%d of %d texts have more than %d tokens and were cut", cut, len(texts), self.context_length)
        return ids


def tokenizer(context_length: int = CONTEXT) -> Tokenizer:
    """Return the tokenizer of the published models, CLIP's byte pairs.

    Args:
        context_length: The most tokens of a text, with start and end: 32, but 72 for G.

    Raises:
        MissingDependency: open_clip, which keeps the vocabulary, is not installed: ``pe-encoder[text]``.

    Example:
        >>> import pe_encoder
        >>> pe_encoder.tokenizer(8)(["a dog", "a photo of a cat"]).tolist()
        [[49406, 320, 1929, 49407, 0, 0, 0, 0], [49406, 320, 1125, 539, 320, 2368, 49407, 0]]
    """
    pairs = _byte_pairs()
    return Tokenizer(pairs.encode, pairs.sot_token_id, pairs.eot_token_id, context_length)


def word_tokenizer(words: Sequence[str], context_length: int) -> Tokenizer:
    """Return a tokenizer of whole words in lower case, for a model that was trained with a small vocabulary.

    The ids are 0 for the padding, 1 for the start, 2 for any other word, then the words in their order, and last the
    end: `vocab_size` in all.
    """
    ids = {word: number for number, word in enumerate(words, 3)}
    return Tokenizer(
        lambda text: (ids.get(word, 2) for word in re.findall(r"\w+", text.lower())),
        1,
        vocab_size(words) - 1,
        context_length,
    )


def vocab_size(words: Sequence[str]) -> int:
    """Return the number of ids of a `word_tokenizer`."""
    return len(words) + 4


@cache
def _byte_pairs() -> Any:
    """Return open_clip's tokenizer, without importing the rest of open_clip, which takes seconds."""
    package = PathFinder.find_spec("open_clip")
    if package is None or not package.submodule_search_locations:
        raise MissingDependency("texts need open_clip's tokenizer, which is not installed: install pe-encoder[text]")
    spec = spec_from_file_location(
        "pe_encoder._open_clip", Path(package.submodule_search_locations[0]) / "tokenizer.py"
    )
    if spec is None or spec.loader is None:
        raise MissingDependency("this open_clip has no tokenizer.py: install another version, see pe-encoder[text]")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.SimpleTokenizer()
