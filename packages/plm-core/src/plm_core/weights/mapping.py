"""Weights in and out: safetensors, any known layout, strict, nothing half-loaded.

    load(model, "hf-hub:facebook/hiera_tiny_224.mae_in1k_ft_in1k")     # the layout is recognised
    load(model, "checkpoint.safetensors", layout="transformers")
    tensors = export(model, "official")
    save(model, "mine.safetensors", layout="timm")

A layout's name is looked up among those declared for the model's class (``layouts_for(model)``). The layout ``native``
is the model's own keys and exists for every model.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from plm_core.errors import FileError, InputError, NotSupported, WeightsError
from plm_core.files import atomic_path, write_text
from plm_core.hookspecs import Model, Pretrained, WeightLayout
from plm_core.hub import PICKLES, WEIGHTS_FILE, HubFile, fetch
from plm_core.layouts import Rule, State, convert
from plm_core.names import miss, resolve
from plm_core.registry import registry
from plm_core.timm_bridge import announce_repo, shipped_file

_log = logging.getLogger("plm_core")

NATIVE = WeightLayout(name="native", models=(), help="the model's own keys")
# Wrappers around the state dict in checkpoints: Hiera, SAM 2, Lightning and others, MAE, timm's training script.
WRAPPERS = ("model_state", "model", "state_dict", "state_dict_ema")
SHOWN = 4


@dataclass
class Report:
    """How a state dict fits a model. Keys are the model's own."""

    layout: str
    closest: str | None = None
    """The layout that fits better, where another one was asked for."""
    unmapped: list[str] = field(default_factory=list)
    """Keys of the source that the layout has no place for; ``unexpected`` lists them too."""
    fitting: int = 0
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    mismatched: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = field(default_factory=dict)
    """Key -> (shape in the source, shape in the model)."""

    @property
    def ok(self) -> bool:
        """Whether everything fits."""
        return not (self.missing or self.unexpected or self.mismatched)

    def line(self, what: str) -> str:
        """One line that says what does not fit."""
        faults = []
        if self.missing:
            faults.append(f"missing: {_some(self.missing)}")
        if self.unexpected:
            faults.append(f"unexpected: {_some(self.unexpected)}")
        if self.mismatched:
            shapes = [
                f"{k} is {list(a)} in the source and {list(b)} in the model" for k, (a, b) in self.mismatched.items()
            ]
            faults.append(f"wrong shape: {_some(shapes)}")
        layout = f"layout {self.layout!r}, {self.fitting} tensors fit"
        if self.closest:
            layout += f", the closest layout is {self.closest!r}"
        return f"weights do not fit {what} ({layout}); {'; '.join(faults)}"


def _some(items: list[str]) -> str:
    more = f" and {len(items) - SHOWN} more" if len(items) > SHOWN else ""
    return ", ".join(items[:SHOWN]) + more


class WeightsMismatch(WeightsError):
    """Weights do not fit; ``report`` lists everything that the message abbreviates."""

    def __init__(self, message: str, report: Report) -> None:
        super().__init__(message)
        self.report = report


# --- reading and writing files ----------------------------------------------------------------------------------


def read(source: str | Path | State, allow_pickle: bool = False) -> dict[str, Tensor]:
    """Read the tensors of a file, of a folder with model.safetensors, or of a repository on the Hub.

    Args:
        source: A path, ``[hf-hub:]org/name[@revision]`` (an existing path wins), or a dict of tensors, which is copied.
        allow_pickle: Also read .bin, .pt and .pth, with torch's ``weights_only=True``: nothing in them is executed.

    Raises:
        WeightsError: Not there, corrupt, a pickle, or a pickle that wants to run code.
    """
    if isinstance(source, Mapping):
        return _checked(dict(source), "the dict")
    path = _locate(source)
    if path.suffix in PICKLES:
        if not allow_pickle:
            raise WeightsError(
                f"{path} is a pickle and is not read; make it safetensors first: plm convert {path.name} ..."
            )
        return _checked(_read_pickle(path), str(path))
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as e:
        raise WeightsError(f"{path} is not a readable safetensors file: {e}") from e


def _locate(source: str | Path) -> Path:
    path = Path(source)
    if path.is_dir():
        path = path / WEIGHTS_FILE
        if not path.is_file():
            raise WeightsError(f"folder {str(source)!r} has no {WEIGHTS_FILE}")
    if path.is_file():
        return path
    where = HubFile.parse(source) if isinstance(source, str) else None
    if where is not None:
        announce_repo(where.repo)
    if where is None or str(source).endswith((".safetensors", *PICKLES)):
        raise WeightsError(f"source {str(source)!r} is neither a file nor a repository 'org/name[@revision]'")
    return fetch(where)


def _read_pickle(path: Path) -> Any:
    import pickle

    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as e:
        if wanted := re.search(r"GLOBAL (\S+)", str(e)):
            raise WeightsError(
                f"{path} is refused: it holds more than tensors ({wanted[1]}) and could run code when read"
            ) from e
        detail = re.search(r"WeightsUnpickler error:\s*(.+)", str(e))
        raise WeightsError(
            f"{path} cannot be read as a pickle of tensors only" + (f": {detail[1]}" if detail else "")
        ) from e
    except Exception as e:  # torch raises RuntimeError, EOFError, KeyError ... on files that are cut or not its own
        raise WeightsError(f"{path} cannot be read as a torch checkpoint: {type(e).__name__}") from e
    for wrapper in WRAPPERS:
        if isinstance(loaded, dict) and isinstance(loaded.get(wrapper), dict):
            return loaded[wrapper]
    return loaded


def _checked(state: Any, what: str) -> dict[str, Tensor]:
    wrong = "not a dict" if not isinstance(state, dict) else None
    if wrong is None:
        wrong = next((repr(k) for k, v in state.items() if not (isinstance(k, str) and isinstance(v, Tensor))), None)
    if wrong is not None:
        raise WeightsError(f"{what} is not a dict of tensors by name ({wrong})")
    return dict(state)


def write(state: State, path: str | Path, metadata: Mapping[str, str] | None = None) -> None:
    """Write tensors as safetensors, whole or not at all; dtypes are kept, views are made contiguous.

    Raises:
        InputError: The path does not end in .safetensors.
        WeightsError: It cannot be written; what stood there before is untouched.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    path = Path(path)
    if path.suffix != ".safetensors":
        raise InputError(f"path {str(path)!r} must end in .safetensors")
    try:
        # clone: views of one storage (a split projection) are separate tensors in a file
        tensors = {key: value.detach().cpu().contiguous().clone() for key, value in state.items()}
        with atomic_path(path) as part:
            save_file(tensors, part, metadata={"format": "pt", **(metadata or {})})
    except (SafetensorError, OSError, ValueError, RuntimeError) as e:  # the latter two for sparse and meta tensors
        raise WeightsError(str(e) if isinstance(e, FileError) else f"cannot write {path}: {e}") from e


# --- layouts ----------------------------------------------------------------------------------------------------


def layouts_for(model: nn.Module) -> dict[str, WeightLayout]:
    """The layouts known for a model's class by name, ``native`` first."""
    # nearest class last, so that its layouts take the place of the same names of its bases
    return {layout.name: layout for layout in (NATIVE, *reversed(registry().for_class(WeightLayout, model)))}


def _layout(model: nn.Module, name: str) -> WeightLayout:
    known = layouts_for(model)
    if name not in known:
        raise InputError(f"{miss('weight layout', name, known)} (for {type(model).__name__})")
    return known[name]


def _rules(model: nn.Module, layout: WeightLayout) -> tuple[Rule, ...]:
    return (Rule("*", "*"),) if layout.rules is None else tuple(resolve(layout.rules)(model))


def export(model: nn.Module, layout: str | None = None) -> dict[str, Tensor]:
    """The model's tensors under the names and shapes of a layout (the model's own when None).

    Raises:
        InputError: No such layout for this model.
        NotSupported: The other code base has no such variant of the model.
        WeightsError: The layout has no place for some of the model's tensors.
    """
    mapped, left = convert(model.state_dict(), _rules(model, _layout(model, layout or "native")), to="foreign")
    if left:
        raise WeightsError(f"layout {layout!r} has no place for {_some(left)} of {type(model).__name__}")
    return mapped


def to_native(model: nn.Module, state: State, layout: str | None = None) -> tuple[dict[str, Tensor], Report]:
    """Map a state dict to the model's own keys.

    Args:
        model: Decides which layouts are known and what is expected; may be on the meta device.
        state: Tensors in some layout.
        layout: The layout's name; the one that fits best when None.

    Returns:
        The mapped tensors and how they fit.
    """
    layouts = list(layouts_for(model).values()) if layout is None else [_layout(model, layout)]
    wanted = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    best: tuple[dict[str, Tensor], Report] | None = None
    for candidate in layouts:
        try:
            rules = _rules(model, candidate)
        except NotSupported:  # the other code base has no such variant of the model
            if layout is not None:
                raise
            continue
        mapped, left = convert(state, rules, to="native")
        report = _compare(candidate.name, mapped, left, wanted)
        # a layout that knows every key beats one that fits as many tensors but leaves some over
        if best is None or (report.fitting, -len(report.unexpected)) > (best[1].fitting, -len(best[1].unexpected)):
            best = mapped, report
        if report.ok:
            break
    assert best is not None
    return best


def _compare(layout: str, mapped: State, left: list[str], wanted: Mapping[str, tuple[int, ...]]) -> Report:
    report = Report(layout, unmapped=left, missing=[k for k in wanted if k not in mapped])
    report.unexpected = [*left, *(k for k in mapped if k not in wanted)]
    for key, shape in wanted.items():
        if key in mapped:
            if tuple(mapped[key].shape) == shape:
                report.fitting += 1
            else:
                report.mismatched[key] = (tuple(mapped[key].shape), shape)
    return report


def mismatch(report: Report, what: str, model: nn.Module, state: State) -> WeightsMismatch:
    """The error that says how ``state`` does not fit, and which layout it is closest to if that was not the one."""
    best = to_native(model, state)[1]
    if best.fitting > report.fitting:
        report.closest = best.layout
    return WeightsMismatch(report.line(what), report)


# --- models -----------------------------------------------------------------------------------------------------


def load(model: nn.Module, source: str | Path | State, layout: str | None = None) -> Report:
    """Load weights into a model, all or nothing.

    A model with a method ``resample(key, tensor) -> tensor`` may bring tensors for another input size (position tables)
    to its own; a logged line names them.

    Args:
        model: Any model; one on the meta device takes the tensors as they are (dtype included), others copy them.
        source: See `read`.
        layout: Name of the layout of the source; recognised when None.

    Returns:
        The report, whose ``layout`` says which one it was.

    Raises:
        WeightsMismatch: Something is missing, unexpected or of another shape; the model is unchanged.
        WeightsError: The source cannot be read.
        InputError: No such layout for this model.
    """
    state = read(source)
    mapped, report = to_native(model, state, layout)
    if report.mismatched:
        mapped, report = _resampled(model, mapped, report, {k: tuple(v.shape) for k, v in model.state_dict().items()})
    if not report.ok:
        raise mismatch(report, type(model).__name__, model, state)
    own = model.state_dict()
    for key, value in mapped.items():
        if value.is_floating_point() != own[key].is_floating_point():
            raise WeightsError(f"{key} is {value.dtype} in the source and {own[key].dtype} in the model")
    on_meta = any(p.is_meta for p in own.values())
    if on_meta and isinstance(source, Mapping):
        mapped = {key: value.clone() for key, value in mapped.items()}  # assigning the caller's would share them
    model.load_state_dict(mapped, strict=True, assign=on_meta)
    return report


def _resampled(
    model: nn.Module, mapped: dict[str, Tensor], report: Report, wanted: Mapping[str, tuple[int, ...]]
) -> tuple[dict[str, Tensor], Report]:
    """Let the model bring tensors of another shape to its own; says so only if then everything fits."""
    resample = getattr(model, "resample", None)
    if resample is None:
        return mapped, report
    changed = {key: resample(key, mapped[key]) for key in report.mismatched}
    again = _compare(report.layout, mapped | changed, report.unmapped, wanted)
    if not again.ok:
        return mapped, report
    shapes = (f"{key} {list(mapped[key].shape)} to {list(value.shape)}" for key, value in changed.items())
    _log.warning("resampled for another input size, which costs accuracy until finetuned: %s", ", ".join(shapes))
    return mapped | changed, again


def fingerprint(model: nn.Module) -> str:
    """SHA-256 over the names, dtypes, shapes and bytes of a model's tensors, as hex; the same on every device."""
    digest = hashlib.sha256()
    for key, value in sorted(model.state_dict().items()):
        digest.update(f"{key}|{value.dtype}|{tuple(value.shape)}|".encode())
        flat = value.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().data if flat.numel() else b"")
    return digest.hexdigest()


def save(model: nn.Module, path: str | Path, layout: str | None = None) -> None:
    """Write a model's weights as safetensors in a layout (the model's own when None), whole or not at all."""
    write(export(model, layout), path, {"layout": layout or "native"})


def save_pretrained(model: nn.Module, folder: str | Path, license: str, card: str = "") -> None:
    """Write a folder for the Hub: model.safetensors, timm's config.json and README.md with the weights' license.

    ``timm.create_model("local-dir:FOLDER", pretrained=True)`` and, after `plm_core.hub.push`, ``hf-hub:org/name``
    read it back.

    Args:
        model: A model made by ``create_model``.
        folder: Where to; made when absent.
        license: SPDX identifier of the weights.
        card: Text of the model card below its front matter.
    """
    from timm.models._hub import save_config_for_hf

    name = (getattr(model, "pretrained_cfg", None) or {}).get("architecture")
    if not name or not hasattr(model, "num_classes"):
        raise InputError("model is none that can be made again: make it with plm_core.create_model, not features_only")
    if not license:
        raise InputError("license is empty: name the SPDX identifier of the weights")
    license = license.lower()  # as the Hub spells SPDX identifiers
    folder = Path(folder)
    save(model, folder / WEIGHTS_FILE)
    with atomic_path(folder / "config.json") as part:
        # what timm kept of the weights that the model may once have started from is not about these
        save_config_for_hf(model, part, {"pretrained_cfg": {"license": license, "description": None}})
    declared = registry().all(Model).get(name)
    task = [declared.declaration.task] if declared else []
    head = {"license": license, "library_name": "timm", "tags": [*task, "plm"]}
    front = "\n".join(f"{key}: {json.dumps(value)}" for key, value in head.items())
    use = f'import plm_core\nmodel = plm_core.create_model("local-dir:...", pretrained=True)  # {name}'
    write_text(folder / "README.md", f"---\n{front}\n---\n\n# {name}\n\n{card}\n\n```python\n{use}\n```\n")


# --- timm's loader ----------------------------------------------------------------------------------------------


def timm_filter(state: State, model: nn.Module) -> dict[str, Tensor]:
    """``pretrained_filter_fn`` for timm's ``build_model_with_cfg``: any layout in, strict, the model's keys out.

    timm turns strictness off when it is asked for another number of classes, so the check is made here and against the
    native head: everything must be there, in the shape that the weights' own configuration says.

    Raises:
        WeightsMismatch: Something is missing, unexpected or of another shape; timm then loads nothing.
    """
    cfg: Mapping[str, Any] = getattr(model, "pretrained_cfg", {})
    entry = pretrained_entry(cfg)
    state = _checked(dict(state), "the checkpoint")
    mapped, report = to_native(model, state, entry.layout if entry else None)
    untrained = entry.untrained if entry else ()
    own = model.state_dict()
    shapes = {key: tuple(value.shape) for key, value in own.items()} | _native_head(cfg, own, mapped)
    wanted = {key: shape for key, shape in shapes.items() if not key.startswith(untrained)}
    mapped = {key: value for key, value in mapped.items() if not key.startswith(untrained)}
    strict = _compare(report.layout, mapped, report.unmapped, wanted)
    if strict.mismatched:
        mapped, strict = _resampled(model, mapped, strict, wanted)
    if not strict.ok:
        raise mismatch(strict, str(cfg.get("architecture", type(model).__name__)), model, state)
    return mapped | {key: value for key, value in own.items() if key.startswith(untrained)}


def pretrained_entry(cfg: Mapping[str, Any]) -> Pretrained | None:
    """Our declaration of the weights that timm is about to load; None when the user has them come from elsewhere."""
    found = registry().all(Model).get(cfg.get("architecture", ""))
    entries = found.declaration.pretrained if found else ()
    entry = next((entry for entry in entries if entry.tag == cfg.get("tag")), None)
    if entry is None or cfg.get("source") or cfg.get("state_dict"):
        return None
    if entry.repo is None:
        return entry if cfg.get("file") == str(shipped_file(entry.file)) else None
    return entry if cfg.get("hf_hub_id", "").partition("@")[0] == entry.repo and not cfg.get("file") else None


def _native_head(cfg: Mapping[str, Any], own: State, mapped: State) -> dict[str, tuple[int, ...]]:
    """Shapes that the weights' configuration fixes, whatever classes and channels the model was asked for."""
    shapes: dict[str, tuple[int, ...]] = {}
    classes, channels = cfg.get("num_classes", 0), cfg.get("input_size", (3,))[0]
    for name in as_tuple(cfg.get("classifier")):
        for key in (f"{name}.weight", f"{name}.bias"):
            template = own.get(key, mapped.get(key))
            if classes and template is not None:
                shapes[key] = (classes, *template.shape[1:])
            elif classes and key.endswith(".weight"):  # a classifier may have no bias
                shapes[key] = (classes,)  # the file lacks it altogether: reported as missing
    for name in as_tuple(cfg.get("first_conv")):
        key = f"{name}.weight"
        if key in own:
            shapes[key] = (own[key].shape[0], channels, *own[key].shape[2:])
    return shapes


def as_tuple(names: str | tuple[str, ...] | None) -> tuple[str, ...]:
    """Names as timm's configurations give them (one, several or none), as a tuple."""
    return (names,) if isinstance(names, str) else tuple(names or ())
