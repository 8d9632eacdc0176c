"""Our models in timm's registry, without importing timm before the user does.

timm has no entry-point discovery. So ``import plm_core`` (and ``import hiera`` ...) watches the import of timm,
whichever thread runs it and whether it has begun already, and registers our stubs when it is over. If timm is imported
already, they are registered at once. ``register`` is idempotent.

- ``finder``: the hook into the import of timm.
- ``entrypoints``: a stub for each model in timm's registry, with timm's configuration of its weights.
- ``build``: the construction of a model when timm calls its stub.
- ``checkpoint``: the filter that lets timm's loader take weights of any layout, strictly.
- ``names``: the names that timm itself registers, read without importing it.

Importing this imports neither torch nor timm.
"""

from plm_core.timm_bridge.entrypoints import register
from plm_core.timm_bridge.finder import install
from plm_core.timm_bridge.names import timm_names

__all__ = ["install", "register", "timm_names"]
