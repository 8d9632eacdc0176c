"""``plm merge``: models become one without training, and are compared with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from plm_core.cli.options import BatchSize, Device, Json, Seed
from plm_core.cli.table import show
from plm_core.errors import InputError, NotSupported
from plm_core.utils.arguments import DEVICE

if TYPE_CHECKING:
    from torch import Tensor, nn

    from zipit.comparing import Compared, Comparison
    from zipit.observed import Observed

METHODS = {
    "zipit": "zipit",
    "permute": "permute",
    "average": "identity",
    "optimal": "optimal",
    "kmeans": "kmeans",
    "weights": "weights",
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
    least_squares: Annotated[
        bool,
        typer.Option("--least-squares", help="Fit the weights that use merged features to them by least squares."),
    ] = False,
    repair: Annotated[
        bool,
        typer.Option("--repair", help="Correct the layers without a batch norm by the means and deviations (REPAIR)."),
    ] = False,
    texts: Annotated[
        str | None,
        typer.Option(
            "--texts",
            help="Name of a CLIP, such as pe_micro_clip, for models whose outputs are embeddings in its space: classes "
            'are found by the embeddings of "a photo of a ..." with their names.',
        ),
    ] = None,
    graph: Annotated[
        Path | None, typer.Option("--graph", help="Picture of the merge graph to write: .png, .pdf or .svg.")
    ] = None,
    sweep: Annotated[
        Path | None,
        typer.Option(
            "--sweep",
            help="Plot to write of the accuracy of merges up to every place, by their operations: .png, .pdf or .svg.",
        ),
    ] = None,
    batch_size: BatchSize = 64,
    seed: Seed = 0,
    device: Device = DEVICE,
    as_json: Json = False,
) -> None:
    """Merge models of one architecture without training, and compare the result with them."""
    _check(models, method, {"--graph": graph, "--sweep": sweep})

    from plm_core.utils.devices import pick_device
    from zipit.comparing import Comparison
    from zipit.evaluation import text_embeddings
    from zipit.observed import Observed
    from zipit.sources import batches_for, create_models, read_images

    shown, judged = read_images(data)  # before the models, so that bad data fail at once
    nets = create_models(models, pick_device(device))
    _check_out(out, models, nets)
    prompts = [f"a photo of a {name}" for name in judged.classes]
    vectors = None if texts is None else text_embeddings(texts, prompts)
    comparison = Comparison(models, nets, judged, batch_size, vectors)
    _check_sweep(sweep, comparison)
    batches = batches_for(nets[0], shown, images, batch_size, seed)
    _check_texts(texts, vectors, models, nets, batches[0][:1])
    seen = Observed(nets, batches)
    _plan(seen, until, graph)
    options: dict[str, Any] = {"a": a, "b": b, "seed": seed, "least_squares": least_squares, "repair": repair}
    methods = list(dict.fromkeys([*ROWS, method]))
    merges = {name: seen.merge(METHODS[name], until, **options) for name in methods}
    rows = comparison.rows(merges, batches[0][:1])
    with_tasks = any(row.tasks is not None for row in rows)
    show([_row(row, with_tasks) for row in rows], as_json)
    if judged.classes and any(row.accuracy is None for row in rows):
        unknown = ", ".join(row.name for row in rows if row.accuracy is None)
        typer.echo(f"note: no accuracy of {unknown}: their classes are not those of the data", err=True)
    if out:
        _write(merges[method], out, models, method, until)
    if sweep:
        _sweep(seen, comparison, rows, [name for name in methods if name != "average"], options, sweep)


# --- before the work ------------------------------------------------------------------------------------------------


def _check(models: Sequence[str], method: str, pictures: Mapping[str, Path | None]) -> None:
    from plm_core.utils.plots import require_matplotlib

    if len(models) < 2:
        raise InputError(f"models are {len(models)}; two or more are needed")
    if method not in METHODS:
        raise InputError(f"--method {method!r} is not allowed: {', '.join(METHODS)} are")
    for option, path in pictures.items():
        if path is not None:
            if path.suffix.lower() not in PICTURES:
                raise InputError(f"{option} {str(path)!r} does not end in {', '.join(PICTURES)}")
            require_matplotlib(option, "plm-core[tour]")


def _check_sweep(sweep: Path | None, comparison: Comparison) -> None:
    if sweep is not None and not comparison.judges_partial_merges:
        raise InputError("--sweep needs --data with classes of the names that all models have, or --texts")


def _check_out(out: Path | None, models: Sequence[str], nets: Sequence[Any]) -> None:
    from plm_core.weights.publishing import check_replaceable

    if out is None:
        return
    if out.is_file():
        raise InputError(f"--out {str(out)!r} is a file; a folder is expected")
    if out.is_dir() and any(out.resolve() == Path(name.removeprefix("local-dir:")).resolve() for name in models):
        raise InputError(f"--out {str(out)!r} is one of the models; another folder is expected")
    check_replaceable(out)
    if not all(hasattr(net, "num_classes") for net in nets):
        raise NotSupported("--out is for models with timm's interface, which can be created by name again")


def _check_texts(
    texts: str | None, vectors: Tensor | None, models: Sequence[str], nets: Sequence[nn.Module], image: Tensor
) -> None:
    """Raise an error if the outputs of a model cannot be in the space of the embeddings of the texts."""
    import torch

    if vectors is None:
        return
    for name, net in zip(models, nets, strict=True):
        with torch.no_grad():
            found = net(image)
        size = (found if isinstance(found, torch.Tensor) else found[0]).shape[-1]
        if size != vectors.shape[-1]:
            raise InputError(
                f"--texts {texts!r} has embeddings of size {vectors.shape[-1]}, and model {name!r} has outputs of size "
                f"{size}; models whose outputs are embeddings in the space of the CLIP are needed"
            )


def _plan(seen: Observed, until: str | None, picture: Path | None) -> None:
    """Check the cut, and write the picture of the graph."""
    if until is not None:
        seen.plan.cut_at(until)
    if picture is not None:
        from zipit.pictures import paint_graph

        _save(paint_graph(seen.plan), picture, "graph")


def _save(figure: Any, path: Path, word: str) -> None:
    from plm_core.utils.files import atomic_path

    with atomic_path(path) as part:
        figure.savefig(part, format=path.suffix.lower().removeprefix("."), dpi=110)
    typer.echo(f"{word}: {path.resolve()}", err=True)


# --- the table ------------------------------------------------------------------------------------------------------


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


def _sweep(
    seen: Observed,
    comparison: Comparison,
    rows: Sequence[Compared],
    methods: Sequence[str],
    options: Mapping[str, Any],
    path: Path,
) -> None:
    """Plot the accuracies of merges up to every place, beside those of the models and of their ensemble."""
    from zipit.sweeping import plot, rows_of

    places: list[str | None] = [cut.name for cut in seen.plan.cuts]
    if comparison.judges_whole_merges:
        places.append(None)
    curves = {
        name: rows_of(seen, comparison.accuracy, method=METHODS[name], cuts=places, **options) for name in methods
    }
    lines = {row.name: row.accuracy for row in rows[: len(seen.models) + 1] if row.accuracy is not None}
    figure = plot(curves, lines)
    figure.axes[0].set_ylabel("accuracy, %")
    _save(figure, path, "sweep")


def _write(net: nn.Module, out: Path, models: Sequence[str], method: str, until: str | None) -> None:
    from plm_core import weights

    place = f" up to `{until}`, with a head of each model" if until else ""
    card = f"Merged without training by `plm merge` ({method}) of {', '.join(f'`{name}`' for name in models)}{place}."
    facts = {"models": list(models), "method": method, "until": until}
    weights.save_pretrained(net, out, card=card, about={"merge": facts})
    typer.echo(f"model: {out.resolve()}", err=True)
