"""The conformance check of what a recipe leaves: a folder that is a model, with the record of its training."""

from __future__ import annotations

import csv
import importlib.util
import json
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from plm_core import hub, weights
from plm_core.hookspecs import Training
from plm_core.models import create_model, input_of
from plm_core.registry import registry

FILES = (*hub.MODEL_FILES, "training.json", "curve.csv")


def check_run_folder(folder: str | Path, model: nn.Module | None = None) -> None:
    """Check a folder that ``plm train`` left.

    The checks cover the files; loading by ``local-dir:``, by the bare path and by timm, with equal tensors; the digest
    of the record; the names of the classes; the model card; the curve; and whether ``plm push`` would take it.

    Args:
        folder: The folder.
        model: The trained model that the recipe returned, in eval mode. The loaded one must have the same preprocessing
            and, to the last bit, the same outputs. None to leave this check out.

    Raises:
        AssertionError: A check fails. The message says which.
    """
    folder = Path(folder)
    missing = [name for name in FILES if not (folder / name).is_file()]
    assert not missing, f"{folder} lacks {', '.join(missing)}"
    config = hub.read_config(folder)
    record = json.loads((folder / "training.json").read_text(encoding="utf-8"))
    assert config["plm"]["recipe"] == record["recipe"], "config.json and training.json name different recipes"
    assert record["recipe"] in registry().all(Training), f"no recipe {record['recipe']!r} is declared"
    loaded = check_loading(folder)
    digest = weights.fingerprint(loaded)
    assert record["digest"] == digest, f"training.json has digest {record['digest']}, the weights have {digest}"
    check_labels(loaded)
    check_card(folder, record)
    check_curve(folder)
    hub.check_folder(folder)
    if model is not None:
        check_same_model(loaded, model)


def check_loading(folder: Path) -> nn.Module:
    """Check that three ways to load a folder give the same model, and return it in eval mode."""
    import timm

    loaded: nn.Module = create_model(f"local-dir:{folder}", pretrained=True).eval()
    for way, other in {
        "the bare path": create_model(str(folder), pretrained=True),
        "timm": timm.create_model(f"local-dir:{folder}", pretrained=True),
    }.items():
        assert weights.fingerprint(other) == weights.fingerprint(loaded), f"{way} loads other weights"
    with torch.random.fork_rng(devices=[]):
        untrained = create_model(f"local-dir:{folder}")
    assert weights.fingerprint(untrained) != weights.fingerprint(loaded), "the folder gives no weights"
    return loaded


def check_labels(model: Any) -> None:
    """Check that a model with classes names each of them."""
    names = model.pretrained_cfg.get("label_names") or ()
    num_classes = getattr(model, "num_classes", 0)  # a model that embeds images and texts has none
    assert len(names) == num_classes, f"{len(names)} label names for {num_classes} classes"
    assert all(isinstance(name, str) and name for name in names), f"label names are {names}"


def check_card(folder: Path, record: dict[str, Any]) -> None:
    """Check that the model card names the data, the recipe, the seed and each score."""
    card = (folder / hub.CARD_FILE).read_text(encoding="utf-8")
    facts = [f"plm train {record['recipe']}", record["found"], f"**Seed**: {record['seed']}"]
    for fact in (*facts, *record["scores"]):
        assert fact, f"the record lacks a fact of the card: {facts}"
        assert fact in card, f"the model card does not say {fact!r}"


def check_curve(folder: Path) -> None:
    """Check that the curve has a finite loss at each logged step, and that there is a picture of it."""
    with (folder / "curve.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    steps = [int(row["step"]) for row in rows]
    assert steps, "curve.csv has no rows"
    assert steps == sorted(set(steps)), f"the steps of curve.csv are {steps}"
    losses = [float(row["loss"]) for row in rows if row["loss"]]
    assert losses, "curve.csv has no losses"
    assert all(map(math.isfinite, losses)), f"the losses of curve.csv are {losses}"
    if importlib.util.find_spec("matplotlib"):
        assert (folder / "curve.png").read_bytes()[:4] == b"\x89PNG", "curve.png is no picture"


def check_same_model(loaded: nn.Module, model: nn.Module) -> None:
    """Check that two models have the same preprocessing and, to the last bit, the same outputs."""
    assert input_of(loaded) == input_of(model), f"inputs differ: {input_of(loaded)} and {input_of(model)}"
    x = torch.rand(2, *input_of(model).shape, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        a, b = (m.cpu().eval()(*_inputs(m, x)) for m in (loaded, model))
    differing = [path for path, same in _compare(a, b) if not same]
    assert not differing, f"outputs differ after loading: {', '.join(differing)}"


def _inputs(model: Any, x: Tensor) -> tuple[Any, ...]:
    """Return the inputs of a model for images: a detector takes a list, and a model of two towers takes texts too."""
    if hasattr(model, "roi_heads"):
        return (list(x),)
    if hasattr(model, "encode_text"):
        generator = torch.Generator().manual_seed(0)
        return x, torch.randint(model.vocab_size, (len(x), model.context_length), generator=generator)
    return (x,)


def _compare(a: Any, b: Any, path: str = "output") -> list[tuple[str, bool]]:
    """Return whether each tensor of two outputs is equal, by its path."""
    if isinstance(a, Tensor):
        return [(path, torch.equal(a, b))]
    if a is None:  # a part of the output that this model lacks
        return [(path, b is None)]
    if isinstance(a, dict):
        keys = [(f"{path}.keys", a.keys() == b.keys())]
        return keys + [pair for key in a for pair in _compare(a[key], b[key], f"{path}.{key}")]
    pairs = [pair for i, (x, y) in enumerate(zip(a, b, strict=True)) for pair in _compare(x, y, f"{path}[{i}]")]
    return [(f"{path}.length", len(a) == len(b)), *pairs]
