"""Weights in and out: safetensors, any known layout, strict, nothing half-loaded.

    load(model, "hf-hub:facebook/hiera_tiny_224.mae_in1k_ft_in1k")     # the layout is recognised
    load(model, "checkpoint.safetensors", layout="transformers")
    tensors = export(model, "official")
    save(model, "mine.safetensors", layout="timm")

A layout's name is looked up among those declared for the model's class (``layouts_for(model)``). The layout ``native``
is the model's own keys and exists for every model.

- ``files``: tensors read from and written to files.
- ``mapping``: state dicts mapped between layouts, and the report on how they fit.
- ``loading``: weights loaded into a model.
- ``digests``: hash tensors, to compare models and files.
- ``publishing``: weights and model folders written out.
"""

from plm_core.weights.digests import digest, fingerprint
from plm_core.weights.files import read, write
from plm_core.weights.loading import load
from plm_core.weights.mapping import Report, WeightsMismatch, export, layouts_for, mismatch, to_native
from plm_core.weights.publishing import save, save_pretrained

__all__ = [
    "Report",
    "WeightsMismatch",
    "digest",
    "export",
    "fingerprint",
    "layouts_for",
    "load",
    "mismatch",
    "read",
    "save",
    "save_pretrained",
    "to_native",
    "write",
]
