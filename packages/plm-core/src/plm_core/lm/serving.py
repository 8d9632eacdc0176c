"""A language model for servers of others: a folder that they read, and ``transformers serve`` on it.

    folder = servable("plm_micro_shapes")     # a folder in transformers' format, or the repository that has one
    serve(folder, port=8000)                  # http://localhost:8000/v1/chat/completions

vLLM serves the same folder: ``vllm serve FOLDER --model-impl transformers``.
"""

from __future__ import annotations

import hashlib
import re
import socket
from pathlib import Path

from plm_core.errors import InputError, MissingDependency
from plm_core.hookspecs import Model
from plm_core.hub import CONFIG_FILE, HubFile, fetch, read_config
from plm_core.lm.assistant import Assistant
from plm_core.lm.pretrained import MODEL_TYPE, save_transformers
from plm_core.registry import registry
from plm_core.utils.devices import pick_device
from plm_core.utils.files import cache_dir

PROCESSOR_FILE = "processor_config.json"
"""The file by which transformers knows how to tile images."""
DTYPES = {None: "auto", "fp32": "float32", "bf16": "bfloat16"}
"""torch's names of the precisions of weights, by ours."""


def servable(source: str, folder: Path | None = None) -> str:
    """Return what transformers and vLLM take as a model: a folder, or the name of a repository.

    Published models and folders in transformers' format are taken as they are. Others are written to a folder.

    Args:
        source: See `plm_core.lm.from_pretrained`.
        folder: The folder to write to, also if it were not necessary; None for one in the cache.

    Raises:
        UnknownName: There is no such model.
        WeightsError: Something cannot be obtained or does not fit.
        InputError: The source holds another kind of model, or the folder is the source itself.
        NotSupported: Transformers cannot build the model, or tile as it needs it.
        FileError: The folder cannot be written.
    """
    ready = _ready(source)
    if folder is None and ready is not None:
        return ready
    if folder is not None and Path(source).is_dir() and folder.exists() and folder.samefile(source):
        raise InputError(f"the folder {str(folder)!r} is the model itself; name another one to write to")
    if folder is None:
        name = re.sub(r"[^\w.-]+", "_", source)[-60:]
        folder = cache_dir("serve") / f"{name}-{hashlib.sha256(str(Path(source).absolute()).encode()).hexdigest()[:8]}"
    assistant = Assistant.from_pretrained(source, device="cpu")
    save_transformers(assistant.model, folder)
    assistant.processor.save_pretrained(folder)
    if not (folder / PROCESSOR_FILE).is_file():
        raise InputError(
            f"{source!r} cannot be served: its {assistant.processor.settings.tokens} visual tokens per chunk are no "
            "square grid, or its tokenizer has no token for images"
        )
    return str(folder)


def _ready(source: str) -> str | None:
    """Return a source that transformers reads; None for one that has to be written."""
    name, _, tag = source.partition(".")
    declared = registry().all(Model).get(name)
    if declared is not None:
        entries = declared.declaration.pretrained
        entry = next((entry for entry in entries if entry.tag == tag), entries[0] if entries else None)
        if entry is None or entry.repo is None:
            return None
        source = f"{entry.repo}@{entry.revision}" if entry.revision else entry.repo
    if Path(source).is_dir():
        has_all = (Path(source) / PROCESSOR_FILE).is_file() and (Path(source) / CONFIG_FILE).is_file()
        return source if has_all and _is_perception_lm(Path(source)) else None
    repo = HubFile.parse(source)
    if repo is None:
        return None
    config = fetch(HubFile(repo.repo, repo.revision, CONFIG_FILE))  # it says so in one line if that is not allowed
    return source if _is_perception_lm(config.parent) else None


def _is_perception_lm(folder: Path) -> bool:
    return read_config(folder).get("model_type") == MODEL_TYPE


def check_server() -> None:
    """Check that ``transformers serve`` is installed.

    Raises:
        MissingDependency: Something is lacking.
    """
    try:
        from transformers.utils.import_utils import is_serve_available
    except ModuleNotFoundError as e:
        raise MissingDependency("a language model needs transformers: install plm-core[lm]") from e
    if not is_serve_available():
        raise MissingDependency(
            "plm serve needs the server of transformers: install transformers[serving]; or write the folder with "
            "--write DIR, and serve it with vLLM"
        )


def check_port(host: str, port: int) -> None:
    """Check that a server could listen on a port, before a model is loaded for it.

    Raises:
        InputError: It cannot.
    """
    try:
        with socket.create_server((host, port)):
            pass
    except OSError as e:
        raise InputError(f"port {port} of {host!r} cannot be used: {e.strerror}; name another by --port") from e


def serve(model: str, host: str, port: int, device: str, dtype: str | None = None) -> None:
    """Run ``transformers serve`` for one model, until Ctrl-C.

    Args:
        model: What `servable` returned.
        host: The address to listen on.
        port: The port.
        device: "auto" for the accelerator if there is one, else the CPU; "cpu", or the accelerator's name.
        dtype: Precision of the weights, "fp32" or "bf16"; None for that of the file.

    Raises:
        MissingDependency: The server is not installed.
    """
    check_server()
    from transformers.cli.serve import Serve

    Serve(force_model=model, host=host, port=port, device=str(pick_device(device)), dtype=DTYPES[dtype])
