"""The loader of plug-ins and the tables of what they declare.

pluggy's own ``load_setuptools_entrypoints`` stops at the first plug-in that fails; here each plug-in is checked,
imported and asked for its declarations on its own, and what goes wrong with one is kept in its status (``plm doctor``)
and logged once. Environment switches, read when the registry loads:

- ``PLM_PLUGINS=a,b``: load only these plug-ins (empty: none but plm-core's own).
- ``PLM_DISABLE_PLUGINS=a,b``: do not load these.
- ``PLM_STRICT_PLUGINS=1``: raise PluginError at the first fault instead of carrying on.
- ``PLM_TRACE_PLUGINS=1``: print every hook call and its result to stderr.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from importlib import metadata
from typing import Any, Generic, Literal, TypeVar, cast

import pluggy
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from plm_core import hookspecs
from plm_core.errors import DuplicateName, PluginError, UnknownName
from plm_core.names import class_paths, miss

GROUP = "plm"
CORE = "plm-core"
HEAVY = ("torch", "timm")
HOOKS: Mapping[str, type] = {
    "plm_models": hookspecs.Model,
    "plm_weight_layouts": hookspecs.WeightLayout,
    "plm_block_adapters": hookspecs.BlockAdapter,
    "plm_transforms": hookspecs.Transform,
    "plm_mergers": hookspecs.Merger,
    "plm_scorers": hookspecs.Scorer,
    "plm_commands": hookspecs.Command,
    "plm_tour_stops": hookspecs.TourStop,
}
KIND_WORDS = {
    hookspecs.Model: "model",
    hookspecs.WeightLayout: "weight layout",
    hookspecs.BlockAdapter: "block adapter",
    hookspecs.Transform: "transform",
    hookspecs.Merger: "merger",
    hookspecs.Scorer: "scorer",
    hookspecs.Command: "command",
    hookspecs.TourStop: "tour stop",
}

_log = logging.getLogger("plm_core")
D = TypeVar("D")
State = Literal["loaded", "failed", "incompatible", "disabled", "not selected"]


@dataclass
class PluginStatus:
    """What became of one plug-in."""

    name: str
    distribution: str
    version: str
    state: State = "loaded"
    errors: list[str] = field(default_factory=list)
    mend: str = ""
    heavy: list[str] = field(default_factory=list)
    """Heavy modules (torch, timm) that importing the plug-in pulled in."""
    counts: dict[str, int] = field(default_factory=dict)

    @property
    def healthy(self) -> bool:
        """Whether there is nothing to mend."""
        return not (self.errors or self.heavy)

    @property
    def declares(self) -> str:
        """What it declares, as ``7 models, 1 block adapter``."""
        return ", ".join(f"{n} {word}{'s' * (n > 1)}" for word, n in self.counts.items())

    def as_dict(self) -> dict[str, Any]:
        """Plain data for ``--json``."""
        return asdict(self)


@dataclass(frozen=True)
class Entry(Generic[D]):
    """A declaration and who made it."""

    declaration: D
    plugin: str
    distribution: str


class Registry:
    """Plug-ins and their declarations. Use ``registry()`` for the one of the process.

    Args:
        entry_points: What to load; the installed distributions' entry points in the group ``plm`` when None.
        environ: Where the switches are read.
    """

    def __init__(
        self, entry_points: Iterable[metadata.EntryPoint] | None = None, environ: Mapping[str, str] | None = None
    ) -> None:
        env = os.environ if environ is None else environ
        only = env.get("PLM_PLUGINS")
        self.only = None if only is None else _names(only)
        self.disabled = _names(env.get("PLM_DISABLE_PLUGINS", ""))
        self.strict = env.get("PLM_STRICT_PLUGINS", "0") not in ("", "0")
        self.statuses: list[PluginStatus] = []
        self.clashes: dict[str, str] = {}
        """Names of ours that timm owns, kept out of timm's registry: name -> distribution that declared it."""
        self._entries: dict[type, dict[str, list[Entry[Any]]]] = {kind: {} for kind in HOOKS.values()}
        self._manager = pluggy.PluginManager("plm")
        self._manager.add_hookspecs(hookspecs)
        if env.get("PLM_TRACE_PLUGINS", "0") not in ("", "0"):
            self._manager.add_hookcall_monitoring(_trace_before, _trace_after)
        found = metadata.entry_points(group=GROUP) if entry_points is None else entry_points
        # plm-core's own plug-in comes first and cannot be switched off: it holds the commands themselves.
        for entry_point in sorted(found, key=lambda e: (e.name != CORE, e.name)):
            self._load(entry_point)
        for kind, table in self._entries.items():
            for name, entries in table.items():
                if len(entries) > 1:
                    _log.warning("%s", self._duplicate_line(kind, name, entries))

    # --- loading ------------------------------------------------------------------------------------------------

    def _load(self, entry_point: metadata.EntryPoint) -> None:
        dist = entry_point.dist
        status = PluginStatus(
            name=entry_point.name,
            distribution=dist.name if dist else "(unknown)",
            version=dist.version if dist else "",
        )
        self.statuses.append(status)
        if entry_point.name != CORE:
            if self.only is not None and entry_point.name not in self.only:
                status.state = "not selected"
                return
            if entry_point.name in self.disabled:
                status.state = "disabled"
                return
        conflict = _version_conflict(dist)
        if conflict:
            mend = f"install a version of {status.distribution} that fits"
            return self._fault(status, conflict, mend, state="incompatible")
        try:
            before = set(sys.modules)
            plugin = entry_point.load()
            status.heavy = [name for name in HEAVY if name in sys.modules and name not in before]
            self._register(plugin, entry_point.name)
        except (Exception, SystemExit) as e:  # a plug-in may fail in any way; none may stop the others
            mend = f"reinstall or remove {status.distribution}, or set PLM_DISABLE_PLUGINS={entry_point.name}"
            return self._fault(status, f"{type(e).__name__}: {_first_line(e)}", mend, state="failed", cause=e)
        if status.heavy:
            _log.warning("plug-in %s imports %s at start-up", entry_point.name, " and ".join(status.heavy))
        self._collect(plugin, status)

    def _register(self, plugin: object, name: str) -> None:
        if self._manager.has_plugin(name):
            raise PluginError(f"another distribution has a plug-in named {name!r} too")
        self._manager.register(plugin, name=name)
        callers = self._manager.get_hookcallers(plugin) or []
        unknown = [caller.name for caller in callers if not caller.has_spec()]
        problem = None
        if unknown:
            problem = f"implements {miss('hook', unknown[0], HOOKS)}"
        elif not callers:
            problem = "has no function marked @hookimpl, so it declares nothing"
        if problem:
            self._manager.unregister(plugin)
            raise PluginError(problem)

    def _collect(self, plugin: object, status: PluginStatus) -> None:
        """Call every hook of one plug-in alone, so that an error in one hides nothing else."""
        others = [p for p in self._manager.get_plugins() if p is not plugin]
        for hook, kind in HOOKS.items():
            word = KIND_WORDS[kind]
            try:
                results = self._manager.subset_hook_caller(hook, remove_plugins=others)()
                declarations = [d for result in results for d in result]
                for d in declarations:
                    _check_declaration(d, kind)
            except (Exception, SystemExit) as e:
                mend = f"report it to the authors of {status.distribution}"
                self._fault(status, f"{hook}: {type(e).__name__}: {_first_line(e)}", mend, cause=e)
                continue
            if declarations:
                status.counts[word] = len(declarations)
            for d in declarations:
                for key in _keys(d):
                    entry = Entry(d, status.name, status.distribution)
                    self._entries[kind].setdefault(key, []).append(entry)

    def _fault(
        self,
        status: PluginStatus,
        error: str,
        mend: str,
        state: State | None = None,
        cause: BaseException | None = None,
    ) -> None:
        status.errors.append(error)
        status.mend = mend
        status.state = state or status.state
        line = f"plug-in {status.name} ({status.distribution} {status.version}): {error}"
        if self.strict:
            raise PluginError(f"{line}; {mend}") from cause
        _log.warning("%s; see 'plm doctor'", line)

    # --- look-up ------------------------------------------------------------------------------------------------

    def all(self, kind: type[D]) -> dict[str, Entry[D]]:
        """Every declaration of a kind by name, without the withdrawn ones."""
        return {name: entries[0] for name, entries in sorted(self._entries[kind].items()) if len(entries) == 1}

    def withdrawn(self) -> list[str]:
        """One line for each name that two plug-ins declare."""
        return [
            self._duplicate_line(kind, name, entries)
            for kind, table in self._entries.items()
            for name, entries in sorted(table.items())
            if len(entries) > 1
        ]

    def get(self, kind: type[D], name: str) -> D:
        """The declaration of that kind and name.

        Raises:
            UnknownName: Nothing of that name; the message says what is near and who would provide it.
            DuplicateName: Two plug-ins declare it.
        """
        entries = self._entries[kind].get(name, [])
        if len(entries) > 1:
            raise DuplicateName(self._duplicate_line(kind, name, entries))
        if not entries:
            raise UnknownName(miss(KIND_WORDS[kind], name, self.all(kind)))
        return cast(D, entries[0].declaration)

    def for_class(self, kind: type[D], model: object) -> list[D]:
        """Declarations of a kind (WeightLayout, BlockAdapter) that apply to a model's class, nearest class first."""
        table = self._entries[kind]
        found = [
            entries[0].declaration
            for path in class_paths(model)
            for key, entries in table.items()
            if key.split(" ")[0] == path and len(entries) == 1
        ]
        return [d for i, d in enumerate(found) if d not in found[:i]]

    @staticmethod
    def _duplicate_line(kind: type, name: str, entries: list[Entry[Any]]) -> str:
        owners = " and ".join(f"{e.plugin} ({e.distribution})" for e in entries)
        switches = " or ".join(f"PLM_DISABLE_PLUGINS={e.plugin}" for e in entries if e.plugin != CORE)
        mend = f"set {switches}" if switches else "the plug-in must use another name"
        return f"{KIND_WORDS[kind]} {name!r} is declared more than once, by {owners}, and withdrawn; {mend}"


def _names(text: str) -> set[str]:
    return {part.strip() for part in text.split(",") if part.strip()}


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or ["(no message)"])[0]


def _version_conflict(dist: metadata.Distribution | None) -> str:
    """What a distribution asks of plm-core, when the running version is not it; read before anything is imported."""
    if dist is None:
        return ""
    have = metadata.version(CORE)
    for line in dist.requires or []:
        wanted = Requirement(line)
        if canonicalize_name(wanted.name) == CORE and not wanted.specifier.contains(have, prereleases=True):
            return f"needs plm-core {wanted.specifier}, this is {have}"
    return ""


def _check_declaration(declaration: object, kind: type) -> None:
    if not isinstance(declaration, kind):
        raise TypeError(f"a {kind.__name__} was expected, a {type(declaration).__name__} came")
    name = getattr(declaration, "name", "")
    allowed = "letters, digits, '_' and '-'"
    if not name or not name.replace("_", "a").replace("-", "a").isalnum():
        raise ValueError(f"name {name!r} is not allowed: {allowed} only")


def _keys(declaration: Any) -> list[str]:
    """Under which names a declaration is found: layouts and adapters go by model class, the others by name."""
    if isinstance(declaration, hookspecs.WeightLayout):
        return [f"{path} {declaration.name}" for path in declaration.models]
    if isinstance(declaration, hookspecs.BlockAdapter):
        return list(declaration.models)
    return [declaration.name]


def _trace_before(hook_name: str, hook_impls: Any, kwargs: Any) -> None:
    print(f"plm: hook {hook_name} <- {[impl.plugin_name for impl in hook_impls]}", file=sys.stderr)


def _trace_after(outcome: Any, hook_name: str, hook_impls: Any, kwargs: Any) -> None:
    shown = repr(outcome.exception or outcome.get_result())
    print(f"plm: hook {hook_name} -> {shown[:2000]}", file=sys.stderr)


# --- the registry of the process --------------------------------------------------------------------------------

_current: Registry | None = None
_loading = False
_lock = threading.RLock()


def registry() -> Registry:
    """The registry of this process, loaded at first use."""
    global _current, _loading
    with _lock:
        if _current is None:
            if _loading:
                raise PluginError("a plug-in asks for the registry while it is being loaded; ask at first use instead")
            _loading = True
            try:
                _current = Registry()
            finally:
                _loading = False
        return _current


def is_loading() -> bool:
    """Whether this thread is inside ``registry()``'s first load (a plug-in that imports timm gets here)."""
    return _loading


@contextmanager
def using(other: Registry) -> Iterator[Registry]:
    """Make another registry the one of the process for a while (tests of plug-ins)."""
    global _current
    with _lock:
        before, _current = _current, other
    try:
        yield other
    finally:
        with _lock:
            _current = before
