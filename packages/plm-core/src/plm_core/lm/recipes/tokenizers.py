"""The tokenizer of a training, and the files of tokenizer and preprocessing in a model folder."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plm_core.errors import InputError
from plm_core.hub import PREPROCESSOR_FILE, TOKENIZER_FILES, HubFile, fetch_folder
from plm_core.lm.chat import LLAMA3
from plm_core.utils.files import write_text
from plm_core.utils.text import first_line

if TYPE_CHECKING:
    from plm_core.lm.media import MediaSettings

PATTERNS = ("tokenizer*", "special_tokens_map.json", "added_tokens.json", "chat_template*", "vocab.json", "merges.txt")
"""The files of a repository that a tokenizer of transformers needs."""
UNKNOWN = "<|unknown|>"
SPECIALS = (
    *(LLAMA3.begin, LLAMA3.end, LLAMA3.image, "<|start_header_id|>", "<|end_header_id|>", LLAMA3.end_of_turn),
    UNKNOWN,
)
"""The special tokens of a tokenizer of words: those of the format of Llama 3, and that of words it does not know."""
WORDS = r"\w+|[^\w\s]|\n"
"""The words of a text."""


def has_tokenizer(folder: str | Path) -> bool:
    """Return whether a folder has the files of a tokenizer."""
    return any((Path(folder) / name).is_file() for name in TOKENIZER_FILES[:2])


def load_tokenizer(source: str) -> Any:
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
        repo = HubFile.parse(source)
        if repo is None:
            raise InputError(f"tokenizer {source!r} is neither a folder nor a repository 'org/name[@revision]'")
        folder = fetch_folder(repo, PATTERNS)
    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as e:  # transformers raises errors of many kinds for files that are missing or damaged
        raise InputError(f"tokenizer {source!r} cannot be loaded: {first_line(e)}") from e


def word_tokenizer(texts: Iterable[str], size: int | None = None) -> Any:
    """Make a tokenizer whose tokens are words, for a trial with a small model. Its format is that of Llama 3.

    Decoded texts have one blank between words, since blanks are not kept.

    Args:
        texts: The texts whose words it knows, the most frequent ones first.
        size: The most tokens; None for all words.
    """
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    counts = Counter(word for text in texts for word in re.findall(WORDS, text))
    words = dict.fromkeys(("system", "user", "assistant", "\n"))
    words |= dict.fromkeys(sorted(counts, key=lambda word: (-counts[word], word)))
    vocabulary = [*SPECIALS, *words][:size]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(vocabulary)}, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(WORDS), "removed", invert=True)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=LLAMA3.begin,
        eos_token=LLAMA3.end_of_turn,
        pad_token=LLAMA3.pad,
        unk_token=UNKNOWN,
        additional_special_tokens=[LLAMA3.image, "<|start_header_id|>", "<|end_header_id|>"],
    )


def write_beside(folder: Path, tokenizer: Any, settings: MediaSettings) -> None:
    """Write the files of a tokenizer, and the settings of images and videos, into a model folder."""
    tokenizer.save_pretrained(folder)
    write_text(folder / PREPROCESSOR_FILE, json.dumps(asdict(settings), indent=2, sort_keys=True) + "\n")
