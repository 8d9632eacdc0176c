"""Weights into and out of models: safetensors files, any known layout, and strict loading.

A load that does not fit raises an error and leaves the model unchanged.

    load(model, "hf-hub:facebook/hiera_tiny_224.mae_in1k_ft_in1k")     # the layout is recognised
    load(model, "checkpoint.safetensors", layout="transformers")
    tensors = export(model, "official")
    save(model, "mine.safetensors", layout="timm")

A layout is the naming of tensors in one code base. The layouts of a model are those declared for its class
(``layouts_for(model)``), and ``native``, its own keys, which every model has.

- ``files``: read and write the tensors of a file.
- ``pickles``: read the checkpoints of training scripts.
- ``checks``: check tensors before anything is copied or written.
- ``mapping``: map state dicts between layouts, and report how they fit.
- ``loading``: load weights into a model.
- ``digests``: hash tensors, to compare models and files.
- ``publishing``: write the weights of a model, or a folder for the Hub.
"""

from plm_core.weights.digests import digest, fingerprint
from plm_core.weights.files import read, write
from plm_core.weights.loading import load
from plm_core.weights.mapping import Report, WeightsMismatch, export, layouts_for, mismatch, rules_of, to_native
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
    "rules_of",
    "save",
    "save_pretrained",
    "to_native",
    "write",
]
