"""Files from and to the Hugging Face Hub: plain calls of huggingface_hub, with errors of one line.

All environment variables of huggingface_hub apply: HF_HOME, HF_ENDPOINT, HF_HUB_OFFLINE, HF_TOKEN.
"""

from __future__ import annotations

import re
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from plm_core.errors import InputError, PlmError, WeightsError
from plm_core.model_config import fault_of, read_json
from plm_core.utils.network import client_errors, from_cache, mask_logs, masked, no_answer, reason
from plm_core.utils.text import shown

WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
"""The file that says in which of several files each tensor of a large model is, as transformers writes them."""
CONFIG_FILE = "config.json"
CARD_FILE = "README.md"
RECORD_FILE = "training.json"
MODEL_FILES = (WEIGHTS_FILE, CONFIG_FILE, CARD_FILE)
TOKENIZER_FILES = (
    *("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "preprocessor.json"),
    *("processor_config.json", "generation_config.json"),
)
"""What a language model has beside its weights: tokenizer and processor of transformers, and settings of its media."""
# The only files that are uploaded. None of them can run code when it is read. The last ones are left by a training.
PUSHED = (*MODEL_FILES, *TOKENIZER_FILES, RECORD_FILE, "curve.csv", "curve.png")
PICKLES = (".bin", ".pt", ".pth", ".pkl", ".ckpt", ".tar")


@dataclass(frozen=True)
class HubFile:
    """A file in a repository of the Hub, at a revision. None stands for the default branch."""

    repo: str
    revision: str | None = None
    file: str = WEIGHTS_FILE

    @classmethod
    def parse(cls, text: str) -> HubFile | None:
        """Parse ``[hf-hub:]org/name[@revision]``. Return None when ``text`` has another form."""
        from huggingface_hub.errors import HFValidationError
        from huggingface_hub.utils import validate_repo_id

        repo, _, revision = text.removeprefix("hf-hub:").partition("@")
        try:
            validate_repo_id(repo)
        except HFValidationError:
            return None
        return cls(repo, revision or None) if "/" in repo and "@" not in revision else None

    @property
    def is_cached(self) -> bool:
        """Whether the file is in huggingface_hub's cache, maybe not the newest one."""
        from huggingface_hub import try_to_load_from_cache

        return isinstance(try_to_load_from_cache(self.repo, self.file, revision=self.revision), str)

    @property
    def is_pinned(self) -> bool:
        """Whether the revision is a commit, whose files never change."""
        return re.fullmatch("[0-9a-f]{40}", self.revision or "") is not None

    def __str__(self) -> str:
        return f"{self.file} of {self.repo}" + (f"@{self.revision}" if self.revision else "")


def fetch(file: HubFile, cache_dir: str | Path | None = None) -> Path:
    """Download a file into huggingface_hub's cache, unless it is there already, and return its path.

    Raises:
        WeightsError: The file cannot be downloaded. The message names the file, the repository, the revision and, when
            offline, the cache folder.
    """
    with one_line(f"cannot get {file}", file):
        return download(file, cache_dir)


def download(file: HubFile, cache_dir: str | Path | None = None) -> Path:
    """Do what `fetch` does, with the errors of huggingface_hub."""
    from huggingface_hub import hf_hub_download

    return Path(hf_hub_download(file.repo, file.file, revision=file.revision, cache_dir=cache_dir))


def fetch_weights(file: HubFile) -> Path:
    """Download the weights of a repository: its one file, or the index and all files that it names.

    Args:
        file: The file, which is downloaded as `fetch` does. In place of `WEIGHTS_FILE` the repository may have
            `INDEX_FILE`, and the other way round.

    Returns:
        The path of the file or of the index.

    Raises:
        WeightsError: See `fetch`. Also if the index is not one.
    """
    from huggingface_hub.errors import EntryNotFoundError

    others = {WEIGHTS_FILE: INDEX_FILE, INDEX_FILE: WEIGHTS_FILE}
    with one_line(f"cannot get {file}", file):
        try:
            return _with_shards(file)
        except EntryNotFoundError:
            if file.file not in others:
                raise
            with suppress(EntryNotFoundError):
                return _with_shards(replace(file, file=others[file.file]))
            raise


def _with_shards(file: HubFile) -> Path:
    """Download a file of weights and, if it is an index, the files that it names."""
    path = download(file)
    for name in shards_of(path) if path.name == INDEX_FILE else ():
        download(replace(file, file=name))
    return path


def shards_of(index: Path) -> list[str]:
    """Return the names of the files that an index names.

    Raises:
        WeightsError: It is no index, or names a file outside of its folder.
    """
    try:
        names = sorted({str(name) for name in read_json(index)["weight_map"].values()})
    except (ValueError, KeyError, AttributeError, TypeError) as e:
        raise WeightsError(f"{index} is not an index of weights: it has no 'weight_map' of files by tensor") from e
    if wrong := [name for name in names if Path(name).name != name or not name.endswith(".safetensors")]:
        raise WeightsError(f"{index} names {shown(wrong[0])}; safetensors files beside it are expected")
    return names


def fetch_folder(repo: HubFile, patterns: Sequence[str]) -> Path:
    """Download the files of a repository that match the patterns, and return the folder in the cache that has them.

    Raises:
        WeightsError: The repository cannot be downloaded. The message names it and, when offline, the cache folder.
    """
    from huggingface_hub import snapshot_download

    name = repo.repo + (f"@{repo.revision}" if repo.revision else "")
    with one_line(f"cannot get {name}", HubFile(repo.repo, repo.revision, CONFIG_FILE)):
        return Path(snapshot_download(repo.repo, revision=repo.revision, allow_patterns=list(patterns)))


@contextmanager
def one_line(prefix: str, file: HubFile | None = None) -> Iterator[None]:
    """Turn errors of huggingface_hub, the network and safetensors into a WeightsError that begins with ``prefix``.

    Args:
        prefix: What cannot be done.
        file: A file of the repository that the block reads. If the Hub does not answer for it, within seconds, the
            block finds only what is in the cache.
    """
    from huggingface_hub import constants, hf_hub_url
    from safetensors import SafetensorError

    mask_logs()
    # huggingface_hub raises a ValueError for an answer that is no JSON, or that names a place outside of its cache
    failures: tuple[type[Exception], ...] = (*client_errors(), SafetensorError, OSError, ValueError)
    silent = None
    try:
        if file is not None and not constants.is_offline_mode() and not (file.is_pinned and file.is_cached):
            silent = no_answer(hf_hub_url(file.repo, file.file, revision=file.revision), patient=not file.is_cached)
        with from_cache(silent):
            yield
    except PlmError:
        raise
    except failures as e:
        shown = "".join(traceback.format_exception(e))
        cause = e if masked(shown) == shown else None  # an uncaught error shows its causes
        why = reason(e, silent)
        if isinstance(e, SafetensorError):
            file_name = "it" if ".safetensors" in prefix else WEIGHTS_FILE
            why = f"{file_name} is not a readable safetensors file: {why}"
        raise WeightsError(masked(f"{prefix}: {why}")) from cause


def push(folder: str | Path, repo: str, private: bool = False, message: str | None = None) -> str:
    """Upload a model folder (model.safetensors, config.json, README.md with a license) to the Hub.

    ``plm train`` and ``plm_core.weights.save_pretrained`` write such a folder. The record and the curve of a training
    go along. Other files in the folder, such as checkpoints, are not uploaded, and a folder with pickled weights is
    refused.

    Returns:
        The URL of the commit.

    Raises:
        InputError: The folder cannot be published. Nothing was uploaded.
        WeightsError: The Hub refuses the upload or cannot be reached.
    """
    from huggingface_hub import HfApi

    folder = Path(folder)
    check_push(folder, repo)
    api = HfApi()
    with one_line(f"cannot push to {repo}"):
        api.create_repo(repo, private=private, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repo,
            folder_path=folder,
            allow_patterns=list(PUSHED),
            commit_message=message or f"Upload {read_config(folder)['architecture']} with plm",
        )
    return masked(str(commit.commit_url))


def check_push(folder: str | Path, repo: str) -> list[Path]:
    """Check what `push` would check before it uploads, and return the files that it would upload. Nothing is sent.

    Raises:
        InputError: The folder cannot be published, or the name of the repository is not allowed.
    """
    if HubFile.parse(repo) != HubFile(repo):
        raise InputError(f"repo {repo!r} is not allowed: 'org/name' is")
    check_folder(Path(folder))
    return [path for path in (Path(folder) / name for name in PUSHED) if path.is_file()]


def check_folder(folder: Path) -> None:
    """Check that a folder can be published: it holds safetensors, a config and a model card with a license.

    Raises:
        InputError: The folder cannot be published.
    """
    from safetensors import SafetensorError, safe_open

    if not folder.is_dir():
        raise InputError(f"folder {str(folder)!r} is not a folder")
    for path in (folder / name for name in PUSHED):
        if path.is_symlink() and not path.resolve().is_relative_to(folder.resolve()):
            raise InputError(f"{path} is a link out of the folder, to {path.resolve()}; put the file itself there")
    missing = [name for name in MODEL_FILES if not (folder / name).is_file()]
    if missing:
        raise InputError(
            f"folder {str(folder)!r} lacks {', '.join(missing)}; plm train and weights.save_pretrained write them"
        )
    pickles = sorted(p.name for p in folder.iterdir() if p.suffix in PICKLES)
    if pickles:
        raise InputError(
            f"folder {str(folder)!r} holds pickled weights ({', '.join(pickles)}); publish safetensors only"
        )
    try:
        with safe_open(folder / WEIGHTS_FILE, "numpy"):
            pass  # opening the file reads and checks its header
    except (SafetensorError, OSError) as e:
        why = shown(str(e), 300)
        raise InputError(f"{folder / WEIGHTS_FILE} is not a readable safetensors file: {why}") from e
    if "architecture" not in read_config(folder):
        raise InputError(f"{folder / CONFIG_FILE} has no key 'architecture'")
    try:
        check_config(folder)
    except WeightsError as e:
        raise InputError(f"folder {str(folder)!r} cannot be published: {e}") from e
    license = _front_matter(folder / CARD_FILE).get("license")
    if not license or not isinstance(license, str):
        raise InputError(f"{folder / CARD_FILE} names no 'license:' in its front matter")


def _front_matter(card: Path) -> Mapping[str, Any]:
    """Return the YAML block at the top of a model card; empty when there is none or it cannot be read."""
    from huggingface_hub import metadata_load

    try:
        return dict(metadata_load(card) or {})
    except Exception:  # not UTF-8, not YAML, YAML but no mapping
        return {}


def check_config(folder: Path, with_weights: bool = False) -> None:
    """Check that a local folder holds a model that timm can create again by its config.

    Args:
        folder: The folder.
        with_weights: Whether it must have weights too.

    Raises:
        WeightsError: It does not exist, is not finished, holds a model of another library, was written by a newer
            version, or names another number of classes than the model has.
    """
    fault: str | None = "there is no such folder"
    if folder.is_dir():
        fault = _unfinished(folder) or fault_of(folder / CONFIG_FILE, str(folder))
        if fault is None and with_weights and not any(f.suffix in (".safetensors", *PICKLES) for f in folder.iterdir()):
            fault = f"it has no {WEIGHTS_FILE}"
    if fault:
        raise WeightsError(f"cannot get local-dir:{folder}: {fault}")


def _unfinished(folder: Path) -> str | None:
    """Say why a folder has no config, or return None if it has one."""
    if (folder / CONFIG_FILE).is_file():
        return None
    if any(folder.glob("checkpoint-*")) or (folder / WEIGHTS_FILE).is_file():
        return "its training is not finished; the same plm train command with --resume goes on"
    return f"it has no {CONFIG_FILE}; plm train and weights.save_pretrained write one"


def read_config(folder: Path) -> Mapping[str, Any]:
    """Return the config.json of a model folder.

    Raises:
        InputError: It cannot be read, or is not a JSON object.
    """
    try:
        return read_json(folder / CONFIG_FILE)
    except ValueError as e:
        raise InputError(f"{folder / CONFIG_FILE} {e}") from e
