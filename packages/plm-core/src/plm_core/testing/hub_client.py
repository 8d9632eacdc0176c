"""Changing the settings of `huggingface_hub` in this process after it was imported, and restoring them.

The client reads its environment once, at import. A test that talks to a `HubDouble` may run later than that.
"""

import importlib.util
import runpy
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pytest


class _Client:
    """The constants of `huggingface_hub` in this process, as one attribute for all modules that hold copies of them.

    An assignment does what an import would do now: it changes `huggingface_hub.constants`, the copies in other modules,
    and the values that these derived from the endpoint. monkeypatch undoes it by an assignment too, so the undo also
    reaches modules that were not loaded when the patch was made.
    """

    @property
    def constants(self) -> dict[str, Any]:
        loaded = sys.modules.get("huggingface_hub.constants")
        return _without_functions(vars(loaded)) if loaded else _computed_constants()

    @constants.setter
    def constants(self, values: dict[str, Any]) -> None:
        present = self.constants
        changed = {name: value for name, value in values.items() if present[name] != value}
        for module in [module for name, module in list(sys.modules.items()) if module and _is_client(name)]:
            for name in changed.keys() & vars(module).keys():
                if vars(module)[name] == present[name]:
                    setattr(module, name, changed[name])
        _move_endpoint(present["ENDPOINT"], values["ENDPOINT"])


_CLIENT = _Client()


def offline(monkeypatch: "pytest.MonkeyPatch") -> None:
    """Switch on the offline mode of `huggingface_hub`, until monkeypatch undoes it.

    To do so in a part of a test, use ``with monkeypatch.context() as patch: offline(patch)``.
    """
    monkeypatch.setattr(_CLIENT, "constants", _CLIENT.constants | {"HF_HUB_OFFLINE": True})
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def set_environment(monkeypatch: "pytest.MonkeyPatch", variables: Mapping[str, str | None]) -> None:
    """Set environment variables (None: unset), and all values that `huggingface_hub` derived from them."""

    def apply(patch: "pytest.MonkeyPatch") -> None:
        for name, value in variables.items():
            if value is None:
                patch.delenv(name, raising=False)
            else:
                patch.setenv(name, value)

    with monkeypatch.context() as trial:
        apply(trial)
        constants = _computed_constants()
    # Constants first: if the client is not loaded, the values to restore are computed from the unchanged environment.
    monkeypatch.setattr(_CLIENT, "constants", constants)
    apply(monkeypatch)


def _computed_constants() -> dict[str, Any]:
    """Return the values that `huggingface_hub.constants` would hold if it were imported now, without importing it."""
    spec = importlib.util.find_spec("huggingface_hub")
    assert spec is not None
    assert spec.origin is not None
    return _without_functions(runpy.run_path(str(Path(spec.origin).with_name("constants.py"))))


def _is_client(module_name: str) -> bool:
    return module_name.partition(".")[0] == "huggingface_hub"


def _without_functions(namespace: Mapping[str, Any]) -> dict[str, Any]:
    # Functions differ after each run, and hold no value from the environment.
    return {name: value for name, value in namespace.items() if not name.startswith("__") and not callable(value)}


def _move_endpoint(old: str, new: str) -> None:
    """Update the values that loaded modules derived from the endpoint: the default API object and the HTTP client."""
    hf_api: Any = sys.modules.get("huggingface_hub.hf_api")
    if hf_api and hf_api.api.endpoint == old:
        hf_api.api.endpoint = new
    http: Any = sys.modules.get("huggingface_hub.utils._http")
    if http:
        if hasattr(http, "_HUB_ORIGINS"):  # hosts that may receive the token
            http._HUB_ORIGINS = http._HUB_ORIGINS - {http._url_origin(old)} | {http._url_origin(new)}
        http.close_session()  # an open client keeps the old proxies
