"""Commands that compute, read weights or write files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from plm_core.cli.show import find_model
from plm_core.cli.table import show
from plm_core.errors import InputError, PlmError
from plm_core.hookspecs import Model
from plm_core.names import resolve
from plm_core.registry import registry

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Transforms = Annotated[list[str] | None, typer.Option("--transform", help="As tome:r=13; may be repeated.")]


def predict(
    model: Annotated[str, typer.Argument(help="A model of the hub or of timm, as name or name.tag.")],
    images: Annotated[list[Path], typer.Argument(help="Image files.")],
    top: Annotated[int, typer.Option("--top", min=1, help="Classes per image.")] = 5,
    transform: Transforms = None,
    as_json: Json = False,
) -> None:
    """Classify images with pretrained weights."""
    import torch

    from plm_core.models import create_model, transform_for
    from plm_core.progress import track
    from plm_core.transforms import apply_all

    pictures = [open_image(path) for path in images]  # before the model: a bad path should fail at once
    net = apply_all(create_model(model, pretrained=True).eval(), transform or [])
    preprocess, names = transform_for(net), _labels(net)
    rows = []
    with torch.inference_mode():
        for path, picture in track(list(zip(images, pictures, strict=True)), "images"):
            probabilities = net(preprocess(picture)[None]).softmax(-1)[0]
            values, classes = probabilities.topk(min(top, len(probabilities)))
            rows += [
                {"image": str(path), "class": c, "label": names(c), "probability": round(p, 4)}
                for p, c in zip(values.tolist(), classes.tolist(), strict=True)
            ]
    show(rows, as_json)


def open_image(path: Path) -> Any:
    """A PIL image of any file that PIL reads; of any other, an InputError."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            image.load()
            return image.copy()
    except Exception as e:  # PIL's decoders raise nearly anything on a file that is cut or not what it says
        raise InputError(f"image {str(path)!r} cannot be read: {e}") from e


def _labels(net: Any) -> Any:
    """Function from class number to label, as far as the weights' configuration knows it."""
    from timm.data import ImageNetInfo, infer_imagenet_subset

    own = net.pretrained_cfg.get("label_names")
    if own:
        return lambda c: own[c]
    subset = infer_imagenet_subset(net)
    return ImageNetInfo(subset).index_to_description if subset else str


def convert(
    source: Annotated[str, typer.Argument(help=".safetensors, .bin, .pt, .pth, a folder, or hf-hub:org/name.")],
    target: Annotated[Path, typer.Argument(help="The .safetensors file to write.")],
    to: Annotated[str, typer.Option("--to", help="Layout to write; 'native' is the model's own.")] = "native",
    layout: Annotated[str | None, typer.Option("--from", help="Layout of the source; recognised if not given.")] = None,
    model: Annotated[
        str | None, typer.Option("--model", help="The model; found by parameter count if not given.")
    ] = None,
) -> None:
    """Turn weights of any known layout into safetensors of another. Pickles are read with weights_only=True."""
    from plm_core.conversion import convert_file

    done = convert_file(source, target, to=to, layout=layout, model=model)
    show([{"model": done.model, "from": done.source_layout, "to": to, "tensors": done.tensors, "file": str(target)}])


def push(
    folder: Annotated[Path, typer.Argument(help="Folder with model.safetensors, config.json and README.md.")],
    repo: Annotated[str, typer.Argument(help="org/name on the Hub; made if absent.")],
    private: Annotated[bool, typer.Option("--private", help="Make the repository private.")] = False,
) -> None:
    """Publish a model folder: safetensors, config and model card, nothing else."""
    from plm_core.hub import push as push_folder

    print(push_folder(folder, repo, private=private))


def retrain(
    model: Annotated[str, typer.Argument(help="A micro model, as hiera_micro_digits.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for the weights and the model card.")] = Path("retrained"),
    seed: Annotated[int, typer.Option("--seed", help="Of everything random.")] = 0,
) -> None:
    """Train a shipped micro model from scratch by its own recipe and report its held-out score."""
    spec = find_model(model)
    if spec.micro is None:
        micros = [name for name, entry in registry().all(Model).items() if entry.declaration.micro]
        raise InputError(f"model {model!r} is not a micro model; there are: {', '.join(micros)}")
    scores = resolve(spec.micro.recipe)(out, seed=seed)
    show(
        [{"model": model, "what": what, "score": round(score, 4), "folder": str(out)} for what, score in scores.items()]
    )


def tour(
    out: Annotated[Path, typer.Option("--out", help="The report to write.")] = Path("report.html"),
    as_json: Json = False,
) -> None:
    """Walk through what the installed pieces do, on embedded data, into a self-contained report."""
    from plm_core.tour import run

    rows = run(out)
    show(rows, as_json, title="the hub at work")
    typer.echo(f"report: {out.resolve()}", err=True)
    if any(row["what"] == "FAILED" for row in rows):
        raise PlmError("a stop of the tour failed; see the table and the report")
