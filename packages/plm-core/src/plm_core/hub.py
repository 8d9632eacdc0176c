"""Files from and to the Hugging Face Hub, by huggingface_hub as it is, with one-line errors.

Everything that huggingface_hub reads from the environment holds: HF_HOME, HF_ENDPOINT, HF_HUB_OFFLINE, HF_TOKEN.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from plm_core.errors import InputError, WeightsError
from plm_core.utils.text import first_line

WEIGHTS_FILE = "model.safetensors"
# Exactly what a model repository of ours holds: nothing that runs code when it is read.
PUSHED = (WEIGHTS_FILE, "config.json", "README.md")
PICKLES = (".bin", ".pt", ".pth", ".pkl", ".ckpt", ".tar")


@dataclass(frozen=True)
class HubFile:
    """``org/name[@revision]`` and the file in it."""

    repo: str
    revision: str | None = None
    file: str = WEIGHTS_FILE

    @classmethod
    def parse(cls, text: str) -> HubFile | None:
        """Read ``[hf-hub:]org/name[@revision]``; None when ``text`` is something else."""
        from huggingface_hub.errors import HFValidationError
        from huggingface_hub.utils import validate_repo_id

        repo, _, revision = text.removeprefix("hf-hub:").partition("@")
        try:
            validate_repo_id(repo)
        except HFValidationError:
            return None
        return cls(repo, revision or None) if "/" in repo else None

    def __str__(self) -> str:
        return f"{self.file} of {self.repo}" + (f"@{self.revision}" if self.revision else "")


def fetch(file: HubFile, cache_dir: str | Path | None = None) -> Path:
    """Download a file into huggingface_hub's cache (or find it there) and return its path.

    Raises:
        WeightsError: One line that names repo, file, revision and, offline, the cache folder.
    """
    from huggingface_hub import hf_hub_download

    with one_line(f"cannot get {file}"):
        return Path(hf_hub_download(file.repo, file.file, revision=file.revision, cache_dir=cache_dir))


@contextmanager
def one_line(prefix: str) -> Iterator[None]:
    """Turn what huggingface_hub and safetensors raise into a WeightsError that begins with ``failed``."""
    from huggingface_hub import constants, errors
    from safetensors import SafetensorError

    try:
        yield
    except (errors.HfHubHTTPError, SafetensorError, OSError) as e:
        # the order matters, since they derive from one another
        if isinstance(e, errors.GatedRepoError):
            why = "access is gated; ask for it on the model's page, then 'hf auth login'"
        elif isinstance(e, errors.RevisionNotFoundError):
            why = "there is no such revision"
        elif isinstance(e, errors.RepositoryNotFoundError):
            why = "no such repository, or it is private and the token has no access"
        elif isinstance(e, errors.LocalEntryNotFoundError):
            why = "HF_HUB_OFFLINE is set" if constants.is_offline_mode() else "the hub cannot be reached"
            why += f" and it is not in the cache {constants.HF_HUB_CACHE}"
        elif isinstance(e, errors.EntryNotFoundError):
            why = "the repository has no such file"
        else:
            why = first_line(e)
        raise WeightsError(f"{prefix}: {why}") from e


def push(folder: str | Path, repo: str, private: bool = False, message: str | None = None) -> str:
    """Upload a model folder (model.safetensors, config.json, README.md with a license) to the Hub.

    The folder is one that ``plm_core.weights.save_pretrained`` or ``plm convert`` wrote. Other files are not uploaded,
    and a folder with pickled weights is refused.

    Returns:
        The commit's address.

    Raises:
        InputError: The folder is not fit to publish; nothing was uploaded.
    """
    from huggingface_hub import HfApi

    folder = Path(folder)
    if HubFile.parse(repo) != HubFile(repo):
        raise InputError(f"repo {repo!r} is not allowed: 'org/name' is")
    check_folder(folder)
    api = HfApi()
    with one_line(f"cannot push to {repo}"):
        api.create_repo(repo, private=private, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repo,
            folder_path=folder,
            allow_patterns=list(PUSHED),
            commit_message=message or f"Upload {read_config(folder)['architecture']} with plm",
        )
    return str(commit.commit_url)


def check_folder(folder: Path) -> None:
    """Raise InputError unless a folder can be published: safetensors, a config and a model card with a license."""
    from safetensors import SafetensorError, safe_open

    missing = [name for name in PUSHED if not (folder / name).is_file()]
    if missing:
        raise InputError(
            f"folder {str(folder)!r} lacks {', '.join(missing)}; plm_core.weights.save_pretrained writes them"
        )
    pickles = sorted(p.name for p in folder.iterdir() if p.suffix in PICKLES)
    if pickles:
        raise InputError(
            f"folder {str(folder)!r} holds pickled weights ({', '.join(pickles)}); publish safetensors only"
        )
    try:
        with safe_open(folder / WEIGHTS_FILE, "numpy"):
            pass  # the header is read and checked
    except (SafetensorError, OSError) as e:
        raise InputError(f"{folder / WEIGHTS_FILE} is not a readable safetensors file: {e}") from e
    if "architecture" not in read_config(folder):
        raise InputError(f"{folder / 'config.json'} has no key 'architecture'")
    if not _front_matter(folder / "README.md").get("license"):
        raise InputError(f"{folder / 'README.md'} names no 'license:' in its front matter")


def _front_matter(card: Path) -> Mapping[str, Any]:
    """The YAML block that a model card begins with; empty when there is none or it cannot be read."""
    from huggingface_hub import metadata_load

    try:
        return metadata_load(card) or {}
    except Exception:  # not UTF-8, not YAML, YAML but no mapping
        return {}


def read_config(folder: Path) -> Mapping[str, Any]:
    """The config.json of a model folder."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as e:
        raise InputError(f"{folder / 'config.json'} cannot be read: {e}") from e
    if not isinstance(config, dict):
        raise InputError(f"{folder / 'config.json'} is not a JSON object")
    return config
