"""Our models in timm's registry, without importing timm before the user does.

timm has no entry-point discovery. So ``import plm_core`` (and ``import hiera`` ...) puts a finder for exactly ``timm``
on ``sys.meta_path``. When timm is imported, its loader runs and then our stubs are registered. If timm is there
already, they are registered at once. ``register`` is idempotent and ``plm_core.create_model`` calls it too, which
covers a plm_core that was imported while timm was half imported.

- ``finder``: the hook on timm's import.
- ``entrypoints``: a stub per model in timm's registry, and timm's configuration of its weights.
- ``build``: what a stub does when timm calls it.
- ``checkpoint``: how timm's loader gets weights of any layout, strictly.
- ``names``: the names that timm owns, read without importing it.

Importing this imports neither torch nor timm.
"""

from plm_core.timm_bridge.entrypoints import register
from plm_core.timm_bridge.finder import install
from plm_core.timm_bridge.names import timm_names

__all__ = ["install", "register", "timm_names"]
