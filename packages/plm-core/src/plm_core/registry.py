"""The registry, which loads plug-ins and holds what they declare.

pluggy's own ``load_setuptools_entrypoints`` stops at the first plug-in that fails. Here each plug-in is checked,
imported and asked for its declarations separately. Its faults are kept in its status (``plm doctor``) and logged once.
Environment switches, read when the registry loads:

- ``PLM_PLUGINS=a,b``: load only these plug-ins (if empty, only plm-core's own).
- ``PLM_DISABLE_PLUGINS=a,b``: do not load these.
- ``PLM_STRICT_PLUGINS=1``: raise PluginError at the first fault instead of continuing.
- ``PLM_TRACE_PLUGINS=1``: print every hook call and its result to stderr.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from importlib import metadata
from typing import Any, Generic, Literal, NamedTuple, TypeVar, cast

import pluggy
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from plm_core import hookspecs
from plm_core.errors import DuplicateName, PluginError, UnknownName
from plm_core.hookspecs import Declaration
from plm_core.utils.annotations import check_fields
from plm_core.utils.near_misses import miss
from plm_core.utils.references import class_paths
from plm_core.utils.text import first_line, is_name

GROUP = "plm"
CORE = "plm-core"
HEAVY = ("torch", "timm")
HOOKS = {kind.hook: kind for kind in hookspecs.KINDS}

_log = logging.getLogger("plm_core")
D = TypeVar("D", bound=Declaration)
State = Literal["loaded", "faulty", "failed", "incompatible", "disabled", "not selected"]


@dataclass
class PluginStatus:
    """The state of one plug-in: its faults, if any, and how much it declares."""

    name: str
    distribution: str
    version: str
    state: State = "loaded"
    errors: list[str] = field(default_factory=list)
    mend: str = ""
    heavy: list[str] = field(default_factory=list)
    """Heavy modules (torch, timm) that were imported together with the plug-in."""
    counts: dict[str, int] = field(default_factory=dict)

    @property
    def healthy(self) -> bool:
        """Whether nothing needs fixing."""
        return not (self.errors or self.heavy)

    @property
    def declares(self) -> str:
        """The number of declarations of each kind, such as ``7 models, 1 block adapter``."""
        return ", ".join(f"{n} {word}{'s' * (n > 1)}" for word, n in self.counts.items())

    def as_dict(self) -> dict[str, Any]:
        """Return plain data for ``--json``."""
        return asdict(self)


@dataclass(frozen=True)
class Entry(Generic[D]):
    """A declaration with the plug-in and the distribution that it comes from."""

    declaration: D
    plugin: str
    distribution: str


class ClassKey(NamedTuple):
    """The key of a declaration that is looked up by model class, ``"module:ClassName"``."""

    path: str
    name: str = ""
    """Name of the declaration. Empty for a kind of which a class has at most one."""

    def __str__(self) -> str:
        return f"{self.path} {self.name}".strip()


Key = str | ClassKey


class Registry:
    """The plug-ins and their declarations. Use ``registry()`` for the registry of this process.

    Args:
        entry_points: The entry points to load. None for those of the installed distributions in the group ``plm``.
        environ: The variables with the switches. None for those of this process.
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
        self.left_out: dict[str, str] = {}
        """Models that are not in timm's registry: name -> why. timm owns the name, or cannot take the declaration."""
        self._entries: dict[type[Declaration], dict[Key, list[Entry[Any]]]] = {kind: {} for kind in hookspecs.KINDS}
        self._manager = pluggy.PluginManager("plm")
        self._manager.add_hookspecs(hookspecs)
        if env.get("PLM_TRACE_PLUGINS", "0") not in ("", "0"):
            self._manager.add_hookcall_monitoring(_trace_before, _trace_after)
        if entry_points is None:
            entry_points = metadata.entry_points(group=GROUP)
        for entry_point in sorted(entry_points, key=_order):
            self._load(entry_point)
        for line in self.withdrawn():
            self._warn(line)

    # --- loading ------------------------------------------------------------------------------------------------

    def _load(self, entry_point: metadata.EntryPoint) -> None:
        dist = entry_point.dist
        status = PluginStatus(
            name=entry_point.name,
            distribution=_dist_name(entry_point),
            version=(dist.version or "") if dist else "",
        )
        rivals = [s.distribution for s in self.statuses if s.name == status.name and s.state == "loaded"]
        self.statuses.append(status)
        if entry_point.name != CORE:
            if self.only is not None and entry_point.name not in self.only:
                status.state = "not selected"
                return
            if entry_point.name in self.disabled:
                status.state = "disabled"
                return
        if rivals:  # the switches go by name, so none can choose between the two
            mend = f"remove {status.distribution} or {rivals[0]}"
            error = f"{rivals[0]} has a plug-in named {status.name!r} too"
            return self._fault(status, error, mend, state="failed")
        conflict = _version_conflict(dist)
        if conflict:
            mend = f"install a version of {status.distribution} that fits"
            return self._fault(status, conflict, mend, state="incompatible")
        try:
            before = set(sys.modules)
            plugin = entry_point.load()
            status.heavy = [name for name in HEAVY if name in sys.modules and name not in before]
            self._register(plugin, entry_point.name)
        except (Exception, SystemExit) as e:  # a plug-in may fail in any way and must not stop the others
            mend = f"reinstall or remove {status.distribution}, or set PLM_DISABLE_PLUGINS={entry_point.name}"
            return self._fault(status, _describe(e), mend, state="failed", cause=e)
        if status.heavy:
            self._warn(f"plug-in {entry_point.name} imports {' and '.join(status.heavy)} at start-up")
        self._collect(plugin, status)

    def _register(self, plugin: object, name: str) -> None:
        try:
            self._manager.register(plugin, name=name)
        except pluggy.PluginValidationError as e:
            self._manager.unregister(name=name)  # older versions of pluggy leave it half registered
            raise PluginError(" ".join(str(e).split())) from e
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
        """Call every hook of one plug-in separately, so that an error in one hides nothing that the others return."""
        others = [p for p in self._manager.get_plugins() if p is not plugin]
        for hook, kind in HOOKS.items():
            try:
                caller = self._manager.subset_hook_caller(hook, remove_plugins=others)
                results = caller()
                if len(results) < len(caller.get_hookimpls()):  # pluggy drops results that are None
                    raise TypeError("returned None; a list was expected")
                declarations = [d for result in results for d in result]
                for d in declarations:
                    _check_declaration(d, kind)
            except (Exception, SystemExit) as e:
                mend = f"report it to the authors of {status.distribution}"
                self._fault(status, f"{hook}: {_describe(e)}", mend, state="faulty", cause=e)
                continue
            if declarations:
                status.counts[kind.word] = len(declarations)
            for d in declarations:
                for key in _keys(d):
                    self._enter(kind, key, Entry(d, status.name, status.distribution), status)

    def _enter(self, kind: type[Declaration], key: Key, entry: Entry[Any], status: PluginStatus) -> None:
        entries = self._entries[kind].setdefault(key, [])
        if entries and entries[0].plugin == CORE != entry.plugin:
            # plm-core's own names are never withdrawn: ``plm doctor`` must remain there to report the fault
            error = f"{kind.word} {str(key)!r} is plm-core's own"
            self._fault(status, error, f"{status.distribution} must use another name", state="faulty")
        else:
            entries.append(entry)

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
        self._warn(f"{line}; {mend}" if self.strict else f"{line}; see 'plm doctor'", cause)

    def _warn(self, line: str, cause: BaseException | None = None) -> None:
        if self.strict:
            raise PluginError(line) from cause
        _log.warning("%s", line)

    # --- look-up ------------------------------------------------------------------------------------------------

    def all(self, kind: type[D]) -> dict[str, Entry[D]]:
        """Return every declaration of a kind by name, without the withdrawn ones."""
        return {str(key): entry for key, entry in self._unique(kind)}

    def declared(self, kind: type[D]) -> list[D]:
        """Return every declaration of a kind, sorted by name, without the withdrawn ones."""
        return list({entry.declaration.name: entry.declaration for _, entry in self._unique(kind)}.values())

    def _unique(self, kind: type[D]) -> Iterator[tuple[Key, Entry[D]]]:
        return ((key, entries[0]) for key, entries in sorted(self._entries[kind].items()) if len(entries) == 1)

    def withdrawn(self) -> list[str]:
        """Return one line for each name that is declared more than once."""
        return [
            self._duplicate_line(kind, key, entries)
            for kind, table in self._entries.items()
            for key, entries in sorted(table.items())
            if len(entries) > 1
        ]

    def get(self, kind: type[D], name: str) -> D:
        """Return the declaration of a kind and name.

        Raises:
            UnknownName: There is none. The message gives similar names and the distribution that would provide the
                name.
            DuplicateName: The name is declared more than once.
        """
        entries = self._entries[kind].get(name, [])
        if len(entries) > 1:
            raise DuplicateName(self._duplicate_line(kind, name, entries))
        if not entries:
            raise UnknownName(miss(kind.word, name, self.all(kind)))
        return cast(D, entries[0].declaration)

    def for_class(self, kind: type[D], model: object) -> list[D]:
        """Return the declarations of a kind (WeightLayout, BlockAdapter) for a model's class, nearest class first."""
        by_class: dict[str, list[D]] = {}
        for key, entry in self._unique(kind):
            by_class.setdefault(cast(ClassKey, key).path, []).append(entry.declaration)
        declarations = [declaration for path in class_paths(model) for declaration in by_class.get(path, [])]
        return [declaration for i, declaration in enumerate(declarations) if declaration not in declarations[:i]]

    @staticmethod
    def _duplicate_line(kind: type[Declaration], key: Key, entries: list[Entry[Any]]) -> str:
        owners = {e.plugin: e.distribution for e in entries}
        who = " and ".join(f"{plugin} ({distribution})" for plugin, distribution in owners.items())
        switches = " or ".join(f"PLM_DISABLE_PLUGINS={plugin}" for plugin in owners if plugin != CORE)
        mend = f"set {switches}" if len(owners) > 1 else "each needs a name of its own"
        return f"{kind.word} {str(key)!r} is declared more than once, by {who}, and withdrawn; {mend}"


def _names(text: str) -> set[str]:
    return {part.strip() for part in text.split(",") if part.strip()}


def _order(entry_point: metadata.EntryPoint) -> tuple[bool, str, bool, str]:
    """Return a sort key: plm-core first, because it declares the commands, then the other plug-ins by name.

    If two plug-ins share a name, the one whose distribution has that name comes first.
    """
    name, dist = entry_point.name, _dist_name(entry_point)
    return name != CORE, name, canonicalize_name(dist) != canonicalize_name(name), dist


def _dist_name(entry_point: metadata.EntryPoint) -> str:
    return (entry_point.dist and entry_point.dist.name) or "(unknown)"


def _describe(error: BaseException) -> str:
    return f"{type(error).__name__}: {first_line(error, empty='(no message)')}"


def _version_conflict(dist: metadata.Distribution | None) -> str:
    """Say which plm-core a distribution requires if this is another; empty if it fits. Read before any import."""
    if dist is None:
        return ""
    version = metadata.version(CORE)
    for line in dist.requires or []:
        try:
            need = Requirement(line)
        except InvalidRequirement:
            continue  # a malformed line is for the installer to report
        if canonicalize_name(need.name) != CORE or (need.marker and not need.marker.evaluate({"extra": ""})):
            continue
        if not need.specifier.contains(version, prereleases=True):
            return f"needs plm-core {need.specifier}, this is {version}"
    return ""


def _check_declaration(declaration: object, kind: type[Declaration]) -> None:
    if not isinstance(declaration, kind):
        raise TypeError(f"a {kind.__name__} was expected, a {type(declaration).__name__} came")
    check_fields(declaration)
    if not is_name(declaration.name):
        raise ValueError(f"name {declaration.name!r} is not allowed: letters, digits, '_' and '-' only")


def _keys(declaration: Declaration) -> Sequence[Key]:
    """Return the keys of a declaration: layouts and adapters are looked up by model class, all others by name."""
    if isinstance(declaration, hookspecs.WeightLayout):
        return [ClassKey(path, declaration.name) for path in declaration.models]
    if isinstance(declaration, hookspecs.BlockAdapter):
        return [ClassKey(path) for path in declaration.models]
    return [declaration.name]


def _trace_before(hook_name: str, hook_impls: Any, kwargs: Any) -> None:
    print(f"plm: hook {hook_name} <- {[impl.plugin_name for impl in hook_impls]}", file=sys.stderr)


def _trace_after(outcome: Any, hook_name: str, hook_impls: Any, kwargs: Any) -> None:
    result = repr(outcome.exception or outcome.get_result())
    print(f"plm: hook {hook_name} -> {result[:2000]}", file=sys.stderr)


# --- the registry of the process --------------------------------------------------------------------------------

_current: Registry | None = None
_loading = False
_waiting: list[Callable[[], None]] = []
_lock = threading.RLock()
_waiting_lock = (
    threading.Lock()
)  # apart from _lock, which is held during the load: a thread that imports timm must not wait


def registry() -> Registry:
    """Return the registry of this process. The first call loads it."""
    global _current, _loading
    with _lock:
        if _current is not None:
            return _current
        if _loading:
            raise PluginError("a plug-in asks for the registry while it is being loaded; ask at first use instead")
        _loading = True
        try:
            loaded = _current = Registry()
        finally:
            with _waiting_lock:
                _loading = False
                callbacks = _waiting[:]
                _waiting.clear()
    for callback in callbacks:
        callback()
    return loaded


def call_when_loaded(callback: Callable[[], None]) -> bool:
    """If the registry is being loaded now, call ``callback`` as soon as it is loaded.

    A plug-in, or another thread, may import timm during the load. Registering our models with timm needs the registry,
    so it has to wait.

    Returns:
        True if the registry is being loaded, so the callback waits. False if not; then it is never called.
    """
    with _waiting_lock:
        if _loading and callback not in _waiting:
            _waiting.append(callback)
        return _loading


@contextmanager
def using(other: Registry) -> Iterator[Registry]:
    """Replace the registry of this process inside a ``with`` block, for tests of plug-ins."""
    global _current
    with _lock:
        before, _current = _current, other
    try:
        yield other
    finally:
        with _lock:
            _current = before
