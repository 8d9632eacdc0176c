"""The tokenizer of a training."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from plm_core.errors import InputError
from plm_core.hub import TOKENIZER_FILES, HubFile, fetch_folder
from plm_core.lm.micro.tokenizer import PIECES, ROLES, SPECIAL, word_tokenizer
from plm_core.utils.text import first_line

PATTERNS = ("tokenizer*", "special_tokens_map.json", "added_tokens.json", "chat_template*", "vocab.json", "merges.txt")
"""The files of a repository that a tokenizer of transformers needs."""


def has_tokenizer(folder: str | Path) -> bool:
    """Return whether a folder has the files of a tokenizer."""
    return any((Path(folder) / name).is_file() for name in TOKENIZER_FILES[:2])


def load_tokenizer(source: str | Path) -> Any:
    """Load a tokenizer of transformers.

    Args:
        source: A folder, or a repository ``org/name[@revision]`` of the Hub.

    Raises:
        InputError: There is no such folder and no such form of a repository, or it holds no tokenizer.
        WeightsError: The repository cannot be obtained.
    """
    from transformers import AutoTokenizer

    folder = Path(source)
    if not folder.is_dir():
        repo = HubFile.parse(str(source))
        if repo is None:
            raise InputError(f"tokenizer {str(source)!r} is neither a folder nor a repository 'org/name[@revision]'")
        folder = fetch_folder(repo, PATTERNS)
    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as e:  # transformers raises errors of many kinds for files that are missing or damaged
        raise InputError(f"tokenizer {str(source)!r} cannot be loaded: {first_line(e)}") from e


def tokenizer_of(texts: Iterable[str], size: int) -> Any:
    """Make a tokenizer of the words in texts, for a trial with a small model.

    Args:
        texts: The texts, of which it knows the most frequent words.
        size: The most tokens.
    """
    counts = Counter(piece for text in texts for piece in re.findall(PIECES, text.lower()))
    words = sorted(counts, key=lambda piece: (-counts[piece], piece))
    return word_tokenizer(words[: max(size - len(ROLES) - len(SPECIAL), 0)])
