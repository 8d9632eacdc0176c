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
from contextlib import contextmanager, redirect_stdout
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib import metadata
from typing import Any, Generic, Literal, NamedTuple, TypeVar, cast

import pluggy
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from plm_core import hookspecs
from plm_core.declarations import check
from plm_core.errors import DuplicateName, PluginError, UnknownName
from plm_core.fields import collecting
from plm_core.hookspecs import Declaration
from plm_core.utils.entry_points import Source, in_group, read
from plm_core.utils.near_misses import miss
from plm_core.utils.references import class_paths
from plm_core.utils.text import describe, shown

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
        self.trace = env.get("PLM_TRACE_PLUGINS", "0") not in ("", "0")
        sources = in_group(GROUP) if entry_points is None else read(entry_points)
        sources.sort(key=lambda source: source.name != CORE)  # plm-core is first, because it declares the commands
        with redirect_stdout(sys.stderr):  # stdout is the data of a command, whatever a plug-in prints
            for source in sources:
                self._load(source)
        for line in self.withdrawn():
            self._warn(line)

    # --- loading ------------------------------------------------------------------------------------------------

    def _load(self, source: Source) -> None:
        status = PluginStatus(shown(source.name) or "(unknown)", source.distribution, source.version)
        rivals = [s.distribution for s in self.statuses if s.name == status.name and s.state == "loaded"]
        self.statuses.append(status)
        if source.name != CORE:
            if self.only is not None and source.name not in self.only:
                status.state = "not selected"
                return
            if source.name in self.disabled:
                status.state = "disabled"
                return
        if rivals:  # the switches go by name, so none can choose between the two
            mend = f"remove {status.distribution} or {rivals[0]}"
            error = f"{rivals[0]} has a plug-in named {status.name!r} too"
            return self._fault(status, error, mend, state="failed")
        conflict = _version_conflict(source.requires)
        if conflict:
            mend = f"install a version of {status.distribution} that fits"
            return self._fault(status, conflict, mend, state="incompatible")
        mend = f"reinstall or remove {status.distribution}, or set PLM_DISABLE_PLUGINS={status.name}"
        if source.point is None or source.problem:
            return self._fault(status, source.problem, mend, state="failed")
        try:
            before = set(sys.modules)
            plugin = source.point.load()
            status.heavy = [name for name in HEAVY if name in sys.modules and name not in before]
            hooks = self._hooks(plugin, source.name)
        except KeyboardInterrupt:
            raise
        except BaseException as e:  # a plug-in may fail in any way and must not stop the others
            return self._fault(status, describe(e), mend, state="failed", cause=e)
        if status.heavy:
            self._warn(f"plug-in {status.name} imports {' and '.join(status.heavy)} at start-up")
        self._collect(hooks, status)

    def _hooks(self, plugin: object, name: str) -> Any:
        """Return the hooks of one plug-in. Each has a manager of its own, so that plug-ins never meet."""
        manager = pluggy.PluginManager("plm")
        manager.add_hookspecs(hookspecs)
        if self.trace:
            manager.add_hookcall_monitoring(_trace_before, _trace_after)
        try:
            manager.register(plugin, name=name)
        except pluggy.PluginValidationError as e:
            raise PluginError(" ".join(str(e).split())) from e
        callers = manager.get_hookcallers(plugin) or []
        unknown = [caller.name for caller in callers if not caller.has_spec()]
        if unknown:
            raise PluginError(f"implements {miss('hook', unknown[0], HOOKS)}")
        if not callers:
            raise PluginError("has no function marked @hookimpl, so it declares nothing")
        return manager.hook

    def _collect(self, hooks: Any, status: PluginStatus) -> None:
        """Call every hook of one plug-in separately, so that an error in one hides nothing that the others return.

        Nor does a bad declaration hide the others of its hook.
        """
        for hook, kind in HOOKS.items():
            mend = f"report it to the authors of {status.distribution}"
            try:
                with collecting():
                    returned = _returned(getattr(hooks, hook), kind)
            except KeyboardInterrupt:
                raise
            except BaseException as e:  # not only Exception: Rust's panics and pytest's outcomes are none
                self._fault(status, f"{hook}: {describe(e)}", mend, state="faulty", cause=e)
                continue
            declarations = [d for number, d in enumerate(returned, 1) if self._holds(d, kind, number, status, mend)]
            if declarations:
                status.counts[kind.word] = len(declarations)
            for d in declarations:
                for key in _keys(d):
                    self._enter(kind, key, Entry(d, status.name, status.distribution), status)

    def _holds(
        self, declaration: object, kind: type[Declaration], number: int, status: PluginStatus, mend: str
    ) -> bool:
        """Return whether a declaration is as it should be. If not, that is a fault of its plug-in."""
        try:
            check(declaration, kind)
        except KeyboardInterrupt:
            raise
        except BaseException as e:  # values of foreign classes may raise anything
            error = f"{kind.hook}: {_who(declaration, kind, number)}: {describe(e)}"
            self._fault(status, error, mend, state="faulty", cause=e)
            return False
        return True

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


def _returned(caller: Any, kind: type[Declaration]) -> list[Any]:
    """Call a hook of one plug-in and return what it lists.

    Raises:
        TypeError: It returned something else than a list.
    """
    results = caller()
    if len(results) < len(caller.get_hookimpls()):  # pluggy drops results that are None
        raise TypeError(f"returned None; a list of {kind.__name__} is expected")
    for result in results:
        if isinstance(result, str | bytes | Mapping | Declaration) or not hasattr(result, "__iter__"):
            came = f"one {type(result).__name__}" if isinstance(result, Declaration) else f"a {type(result).__name__}"
            raise TypeError(f"returned {came}; a list of {kind.__name__} is expected")
    return [d for result in results for d in result]


def _who(declaration: object, kind: type[Declaration], number: int) -> str:
    """Return what a bad declaration is called: by its name if it has one, or by its number in the list."""
    name = getattr(declaration, "name", None) if type(declaration) is kind else None
    return f"{kind.word} {shown(repr(name))}" if type(name) is str and name else f"number {number}"


def _names(text: str) -> set[str]:
    return {part.strip() for part in text.split(",") if part.strip()}


@cache
def _own_version() -> str:
    return metadata.version(CORE)


def _version_conflict(requires: Iterable[str]) -> str:
    """Say which plm-core a distribution requires if this is another; empty if it fits. Read before any import."""
    version = _own_version()
    for line in requires:
        if CORE not in canonicalize_name(line):
            continue
        try:
            need = Requirement(line)
        except InvalidRequirement:
            continue  # a malformed line is for the installer to report
        if canonicalize_name(need.name) != CORE or (need.marker and not need.marker.evaluate({"extra": ""})):
            continue
        if not need.specifier.contains(version, prereleases=True):
            return f"needs plm-core {need.specifier}, this is {version}"
    return ""


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
_loader: int | None = None
"""The thread that loads the registry now."""
_loaded = threading.Event()
_waiting: list[Callable[[], None]] = []
_state = threading.Lock()
"""Guards the variables above. It is held for a moment only, never while a plug-in runs."""


def registry() -> Registry:
    """Return the registry of this process. The first call loads it, and other threads wait for it."""
    while (current := registry_or_call()) is None:
        if _loader == threading.get_ident():
            raise PluginError("a plug-in asks for the registry while it is being loaded; ask at first use instead")
        _loaded.wait()
    return current


def registry_or_call(callback: Callable[[], None] | None = None) -> Registry | None:
    """Return the registry, loading it if nobody does, or None while it is being loaded.

    This never waits for another thread. A thread that registers our models with timm holds the lock of an import, for
    which the thread that loads the registry may wait: a plug-in may import timm.

    Args:
        callback: Called once the registry is loaded, if the result is None.
    """
    global _current, _loader
    with _state:
        if _current is not None:
            return _current
        if _loader is not None:
            if callback is not None and callback not in _waiting:
                _waiting.append(callback)
            return None
        _loader = threading.get_ident()
        _loaded.clear()
    loaded = None
    try:
        loaded = Registry()
    finally:
        with _state:
            _current, _loader = loaded, None
            callbacks = _waiting[:]
            _waiting.clear()
        _loaded.set()
    for waiting in callbacks:
        waiting()
    return loaded


@contextmanager
def using(other: Registry | None) -> Iterator[Registry | None]:
    """Replace the registry of this process inside a ``with`` block, for tests of plug-ins."""
    global _current
    with _state:
        before, _current = _current, other
    try:
        yield other
    finally:
        with _state:
            _current = before
