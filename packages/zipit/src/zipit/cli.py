"""``plm merge``: models become one without training, and are compared with it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from plm_core.cli.options import BatchSize, Device, Json, Seed
from plm_core.cli.table import show
from plm_core.errors import InputError, NotSupported
from plm_core.utils.arguments import DEVICE, split_random

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from plm_core.datasets import Dataset
    from zipit.comparing import Compared, Contender

METHODS = {
    "zipit": "zipit",
    "permute": "permute",
    "average": "identity",
    "optimal": "optimal",
    "kmeans": "kmeans",
}
"""The words for ``--method``, and what `zipit.merge` calls them."""
ROWS = ("average", "permute", "zipit")
"""The methods that are always compared."""
PICTURES = (".png", ".pdf", ".svg")


def merge(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="A B ...",
            help="Names of two models or more of one architecture, or folders of them. The prefix random: stands for "
            "random weights.",
        ),
    ],
    data: Annotated[
        str,
        typer.Option(
            "--data",
            help="Images to see the features on: a folder of images, or images by class as for plm train. With classes "
            "of the names that the models have, accuracies are computed, on the split for that if there is one.",
        ),
    ],
    until: Annotated[
        str | None,
        typer.Option(
            "--until",
            help="The module that is the first not to be merged; its end each model keeps (default: merge everything).",
        ),
    ] = None,
    method: Annotated[str, typer.Option("--method", help=f"Method of the result: {', '.join(METHODS)}.")] = "zipit",
    out: Annotated[Path | None, typer.Option("--out", help="Model folder to write (default: compare only).")] = None,
    a: Annotated[float, typer.Option("--a", min=0, max=1, help="Discount of larger groups, for zipit.")] = 0.3,
    b: Annotated[
        float, typer.Option("--b", min=0, max=1, help="Share of the merges within a model, for zipit.")
    ] = 0.125,
    images: Annotated[
        int, typer.Option("--images", min=2, help="Number of images, taken at random, to see the features on.")
    ] = 512,
    graph: Annotated[
        Path | None, typer.Option("--graph", help="Picture of the merge graph to write: .png, .pdf or .svg.")
    ] = None,
    batch_size: BatchSize = 64,
    seed: Seed = 0,
    device: Device = DEVICE,
    as_json: Json = False,
) -> None:
    """Merge models of one architecture without training, and compare the result with them."""
    _check(models, method, graph)
    seen, judged = _read(data)  # before the models, so that bad data fail at once

    from plm_core.utils.devices import pick_device
    from zipit import merge as merge_models

    nets = _models(models, pick_device(device))
    _check_out(out, nets)
    batches = _batches(nets[0], seen, images, batch_size, seed)
    _plan(nets[0], batches[0], until, graph)
    merges = {
        name: merge_models(nets, batches, METHODS[name], until, a=a, b=b, seed=seed)
        for name in dict.fromkeys([*ROWS, method])
    }
    contenders = _contenders(models, nets, merges, judged.classes, partial=until is not None)
    rows = _compare(contenders, nets, judged, batches[0][:1], batch_size)
    with_tasks = any(row.tasks is not None for row in rows)
    show([_row(row, with_tasks) for row in rows], as_json)
    if judged.classes and any(row.accuracy is None for row in rows):
        unknown = ", ".join(row.name for row in rows if row.accuracy is None)
        typer.echo(f"note: no accuracy of {unknown}: their classes are not those of the data", err=True)
    if out:
        _write(merges[method], out, models, method, until)


# --- before the work ------------------------------------------------------------------------------------------------


def _check(models: Sequence[str], method: str, graph: Path | None) -> None:
    from plm_core.utils.plots import require_matplotlib

    if len(models) < 2:
        raise InputError(f"models are {len(models)}; two or more are needed")
    if method not in METHODS:
        raise InputError(f"--method {method!r} is not allowed: {', '.join(METHODS)} are")
    if graph is not None:
        if graph.suffix.lower() not in PICTURES:
            raise InputError(f"--graph {str(graph)!r} does not end in {', '.join(PICTURES)}")
        require_matplotlib("--graph", "plm-core[tour]")


def _read(source: str) -> tuple[Dataset, Dataset]:
    """Return the images to merge on and those to judge by, which have no classes in a folder that has none."""
    import numpy as np

    from plm_core.datasets import Dataset
    from plm_core.datasets.splits import own_splits
    from plm_core.prediction.files import Kind, find_files, select_files

    path = Path(source)
    files = [file for file in find_files([path]) if file.kind == Kind.IMAGE] if path.is_dir() else []
    if files and all(file.path.parent == path for file in files):
        paths = [file.path for file in select_files(files, Kind.IMAGE, "merge")]
        plain = Dataset(source, [file.name for file in paths], np.zeros(len(paths), np.int64), (), paths)
        return plain, plain
    train, val = own_splits(source, skip_unreadable=False)
    if train.kind != "images":
        raise InputError(f"data {source!r} holds {train.kind}; images are needed")
    return train, train if val is None else val


def _models(names: Sequence[str], device: torch.device) -> list[nn.Module]:
    """Return the models, which must take the same images."""
    from plm_core.models import create_model, input_of

    nets = []
    for name in names:
        plain, pretrained = split_random(name, None)
        nets.append(create_model(plain, pretrained=pretrained is None).eval().to(device))
    inputs = [input_of(net) for net in nets]
    for name, spec in zip(names, inputs, strict=True):
        if spec.frames is not None:
            raise NotSupported(f"model {name!r} takes videos; plm merge is for models of images, zipit.merge for both")
        odd = [field for field in ("size", "mean", "std") if getattr(spec, field) != getattr(inputs[0], field)]
        if odd:
            raise InputError(
                f"model {name!r} takes images with {odd[0]} {getattr(spec, odd[0])}, and model {names[0]!r} with "
                f"{getattr(inputs[0], odd[0])}; merged models see the same images"
            )
    return nets


def _check_out(out: Path | None, nets: Sequence[Any]) -> None:
    from plm_core.weights.publishing import check_replaceable

    if out is None:
        return
    if out.is_file():
        raise InputError(f"--out {str(out)!r} is a file; a folder is expected")
    check_replaceable(out)
    if not all(hasattr(net, "num_classes") for net in nets):
        raise NotSupported("--out is for models with timm's interface, which can be created by name again")


def _batches(net: nn.Module, data: Dataset, count: int, batch_size: int, seed: int) -> list[Tensor]:
    """Return images of the data, taken at random, in batches [B, C, H, W] on the device of a model."""
    import numpy as np
    import torch
    from torch.utils.data import DataLoader

    from plm_core.datasets import Pictures
    from plm_core.models import transform_for
    from plm_core.utils.progress import track

    chosen = np.random.default_rng(seed).permutation(len(data))[:count]
    loader: DataLoader[Any] = DataLoader(Pictures(data.take(chosen), transform_for(net)), batch_size)
    weight: Any = next(net.parameters())
    found = [x.to(weight) for x, _ in track(loader, "images", len(loader))]
    if len(found) > 1 and len(found[-1]) == 1:  # a batch norm needs two
        found[-2:] = [torch.cat(found[-2:])]
    return found


def _plan(net: nn.Module, batch: Tensor, until: str | None, picture: Path | None) -> None:
    """Check the cut, and write the picture of the graph."""
    if until is None and picture is None:
        return
    from zipit.graphs import graph

    plan = graph(net, batch[:2])
    plan.cut_at(until)
    if picture is not None:
        from plm_core.utils.files import atomic_path
        from zipit.pictures import paint_graph

        with atomic_path(picture) as part:
            paint_graph(plan).savefig(part, format=picture.suffix.lower().removeprefix("."), dpi=110)
        typer.echo(f"graph: {picture.resolve()}", err=True)


# --- the table ------------------------------------------------------------------------------------------------------


def _contenders(
    names: Sequence[str], nets: Sequence[Any], merges: dict[str, Any], classes: Sequence[str], partial: bool
) -> list[Contender]:
    """Return the models, their ensemble and their merges, with the classes of the data that each has.

    The outputs of a whole merge have a meaning only if those of all models have the same.
    """
    from zipit.comparing import Contender, Ensemble

    numbers = [_numbers(net, classes) for net in nets]
    known = all(n is not None for n in numbers)
    every = [n for n in numbers if n is not None] if known else None
    same = every[:1] if every and all(n == every[0] for n in every) else None
    alone = [
        Contender(name, net, None if n is None else [n]) for name, net, n in zip(names, nets, numbers, strict=True)
    ]
    merged = [Contender(name, net, every if partial else same) for name, net in merges.items()]
    return [*_distinct(alone), Contender("ensemble", Ensemble(nets), every), *merged]


def _distinct(contenders: Sequence[Contender]) -> Iterator[Contender]:
    """Yield contenders with names of their own: a model may be merged with itself."""
    from dataclasses import replace

    names = [contender.name for contender in contenders]
    for number, contender in enumerate(contenders, 1):
        twice = names.count(contender.name) > 1
        yield replace(contender, name=f"{contender.name} ({number})") if twice else contender


def _numbers(net: Any, classes: Sequence[str]) -> list[int] | None:
    """Return the number of each class of the data in a model; None if it has none of them."""
    from plm_core.models import class_names
    from plm_core.prediction.labels import labels_of
    from plm_core.prediction.tasks import task_of
    from zipit.comparing import ABSENT, numbers_of

    count = getattr(net, "num_classes", 0)
    if not classes or not count:
        return None
    label = labels_of(net, task_of(net))
    names = [[label(number) for number in range(count)], *class_names(net)]
    numbers = numbers_of(names, classes)
    return None if set(numbers) == {ABSENT} else numbers


def _compare(
    contenders: Sequence[Contender], nets: Sequence[nn.Module], data: Dataset, image: Tensor, batch_size: int
) -> list[Compared]:
    from torch.utils.data import DataLoader

    from plm_core.datasets import Pictures
    from plm_core.models import transform_for
    from plm_core.utils.progress import track
    from zipit.comparing import ABSENT, Compared, accuracies
    from zipit.evaluation import flops

    found: Mapping[str, tuple[float, float | None]] = {}
    if any(contender.classes for contender in contenders):
        of_model = [contender.classes[0] for contender in contenders[: len(nets)] if contender.classes]
        tasks = [[c for c, number in enumerate(numbers) if number != ABSENT] for numbers in of_model]
        tasks = [] if all(task == tasks[0] for task in tasks) else tasks
        loader: DataLoader[Any] = DataLoader(Pictures(data, transform_for(nets[0])), batch_size)
        found = accuracies(contenders, track(loader, "evaluating", len(loader)), tasks)
    rows = []
    for contender in contenders:
        accuracy, mean = found.get(contender.name, (None, None))
        count = sum(p.numel() for p in contender.model.parameters())
        rows.append(Compared(contender.name, accuracy, mean, int(flops(contender.model, image)), count))
    return rows


def _row(row: Compared, with_tasks: bool) -> dict[str, Any]:
    tasks = {"mean of tasks %": _rounded(row.tasks)} if with_tasks else {}
    return {
        "model": row.name,
        "accuracy %": _rounded(row.accuracy),
        **tasks,
        "GFLOPs": round(row.flops / 1e9, 4),
        "parameters": row.parameters,
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 2)


def _write(net: nn.Module, out: Path, models: Sequence[str], method: str, until: str | None) -> None:
    from plm_core import weights

    place = f" up to `{until}`, with a head of each model" if until else ""
    card = f"Merged without training by `plm merge` ({method}) of {', '.join(f'`{name}`' for name in models)}{place}."
    facts = {"models": list(models), "method": method, "until": until}
    weights.save_pretrained(net, out, card=card, about={"merge": facts})
    typer.echo(f"model: {out.resolve()}", err=True)
