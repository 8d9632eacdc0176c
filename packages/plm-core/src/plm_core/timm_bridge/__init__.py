"""Our models in timm's registry, without importing timm before the user does.

timm has no entry-point discovery. So ``import plm_core`` (and ``import hiera`` ...) puts a finder on ``sys.meta_path``
that handles ``timm`` only. When timm is imported, its own loader runs first, and then our stubs are registered. If timm
is imported already, they are registered at once. ``register`` is idempotent, and ``plm_core.create_model`` calls it
too. This covers a plm_core that was imported while timm was half imported.

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
