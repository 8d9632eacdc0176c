"""The embeddings of the images in a folder, as a table in one file that says which model made it.

    from plm_core.embeddings import Embeddings, embed_folder

    report = embed_folder("photos", "hiera_micro_digits", "photos.safetensors")
    table = Embeddings.load("photos.safetensors")
    table.vectors    # [N, D]
    table.paths      # row -> file

    folder.py        `embed_folder`, which resumes what was interrupted
    images.py        `embed_images`, which runs a model on files
    store.py         `Embeddings`, the table, and its files: safetensors and parquet
    loading.py       models by name, ready to embed, and what their embeddings depend on
    partial.py       the results so far, beside the file that is written
    ray_backend.py   the same work on a Ray cluster
    digests.py       digests of weights and of preprocessing

The names below are imported when they are first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from plm_core.utils.lazy import attributes

if TYPE_CHECKING:
    from plm_core.embeddings.folder import Report, embed_folder
    from plm_core.embeddings.images import Batch, embed_images
    from plm_core.embeddings.store import Embeddings, Provenance

_LAZY = {
    "Batch": "plm_core.embeddings.images",
    "Embeddings": "plm_core.embeddings.store",
    "Provenance": "plm_core.embeddings.store",
    "Report": "plm_core.embeddings.folder",
    "embed_folder": "plm_core.embeddings.folder",
    "embed_images": "plm_core.embeddings.images",
}

__all__ = ["Batch", "Embeddings", "Provenance", "Report", "embed_folder", "embed_images"]

__getattr__, __dir__ = attributes(__name__, "plm-core", _LAZY)
