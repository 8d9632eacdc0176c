"""The conformance checks of models and block adapters. ``check_model(name)`` is the test plan of a registration."""

from __future__ import annotations

import copy
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from plm_core import weights
from plm_core.blocks import altered_by
from plm_core.blocks.checking import check_blocks
from plm_core.errors import MissingDependency, NotSupported, WeightsError
from plm_core.hookspecs import BlockAdapter, Model
from plm_core.models import create_model, list_models
from plm_core.registry import registry
from plm_core.testing.interface import check_features, check_heads, same, width_of
from plm_core.timm_bridge.build import build
from plm_core.tools.health import code_faults, weights_faults
from plm_core.utils.text import as_tuple, said

BIG = 5_000_000
"""Number of parameters above which a model is built on the meta device, so that only shapes are checked."""
INTERFACE = (
    "forward_features",
    "forward_head",
    "forward_intermediates",
    "feature_info",
    "reset_classifier",
    "num_classes",
    "num_features",
)
"""The attributes of timm's interface that a model must have."""
ENCODERS = ("encode_image", "encode_text", "context_length", "vocab_size", "num_features")
"""The attributes of a model that embeds images and texts in one space."""
LACKING_HEADS = ("object-detection", "zero-shot-image-classification", "image-text-to-text", "other")
"""The tasks of models that have another interface than timm's."""


def check_model(name: str) -> None:
    """Check that a registered model has timm's interface and keeps the promises of this family.

    The checks cover the code that its plug-in names; the shipped weights and their cards; the declared facts; other
    numbers of classes and channels; the feature interface, whose maps are compared with what the declared modules
    return; strict loading, also with another head; every weight layout in both directions; a model folder, written and
    read back; the block adapter; ``torch.compile(fullgraph=True)``; and ``torch.export`` with a dynamic batch. A model
    of more than five million parameters is built on the meta device. For an object detector, which has torchvision's
    interface, the checks cover the facts, the loading, also with other classes, and, unless it is that large, the model
    folder and the form of the detections. For a model that embeds images and texts in one space
    (``zero-shot-image-classification``), they cover its embeddings in place of heads and features. For one of the tasks
    ``image-text-to-text``, which takes images alone too, and ``other``, whose outputs may be any tensors, heads and
    features are left out.

    Args:
        name: Name of a model in the registry.

    Raises:
        AssertionError: A check fails. The message says which.
        UnknownName: There is no such model.
        MissingDependency: Something that the model needs is not installed.
    """
    spec = registry().get(Model, name)
    _run(check_plugin, spec)
    _run(check_declaration, spec)
    device = "meta" if spec.params > BIG else "cpu"
    with torch.device(device), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = create_model(name).eval()
        x = torch.rand(2, *spec.input.shape)
        inputs: tuple[Tensor, ...] = (x,)
        if spec.task == "object-detection":
            if device != "meta":  # what is found depends on the values
                _run(check_detections, model, x)
        elif spec.task == "zero-shot-image-classification":
            inputs = (x, _texts(model))
            _run(check_encoders, model, *inputs)
        elif spec.task not in LACKING_HEADS:
            _run(check_heads, spec, model, x)
            _run(check_features, spec, model, x)
        _run(check_strict_loading, spec, model)
        _run(check_layouts, model)
        own = not any(map(altered_by, model.modules()))  # else the pieces are those of a transform, too
        if own and registry().for_class(BlockAdapter, model):
            _run(check_blocks, model, x)
    # outside of the device context, with which safetensors and the compiler of torch 2.9 have trouble
    if device != "meta":
        _run(check_model_folder, model)
    if spec.task != "object-detection":
        _run(check_compile, model, *inputs)
        _run(check_export, model, *inputs)


def _texts(model: Any) -> Tensor:
    """Return ids of two random texts, int64 [2, L], for a model that embeds texts."""
    return torch.randint(model.vocab_size, (2, model.context_length))


def _run(check: Callable[..., object], *args: Any) -> None:
    """Call a check, and turn whatever the model raises in it into a check that fails."""
    try:
        check(*args)
    except (AssertionError, MissingDependency):
        raise
    except Exception as e:  # the code of the model and of its adapter may raise anything
        raise AssertionError(f"{check.__name__.replace('_', ' ')}: {said(e)}") from e


def check_size(name: str) -> None:
    """Check what differs between models of one architecture: the declared facts, a forward pass, the weight layouts.

    This is a small part of `check_model`, for the larger ones of several sizes. Everything is on the meta device.

    Args:
        name: Name of a model in the registry.

    Raises:
        AssertionError: A check fails. The message says which.
    """
    spec = registry().get(Model, name)
    model = check_declaration(spec).eval()
    with torch.device("meta"), torch.no_grad():
        x = torch.rand(2, *spec.input.shape)
        if spec.task not in LACKING_HEADS:
            shape = list(model(x).shape)
            assert shape == [2, width_of(spec, model)], f"forward returns {shape}"
        elif spec.task == "zero-shot-image-classification":
            check_encoders(model, x, _texts(model))
        check_layouts(model)


def check_plugin(spec: Model) -> None:
    """Check that the plug-in of a model names code that exists, and that the shipped weights of the model load."""
    plugin = registry().all(Model)[spec.name].plugin
    faults = [*code_faults(plugin), *(fault for entry in spec.pretrained for fault in weights_faults(spec, entry))]
    assert not faults, "; ".join(faults)


def check_declaration(spec: Model) -> nn.Module:
    """Check that the declaration agrees with the model that is built and with timm's tables.

    Returns:
        The model, on the meta device.
    """
    import timm.data

    with torch.device("meta"):
        model = create_model(spec.name)
    interfaces = {**dict.fromkeys(LACKING_HEADS, ()), "zero-shot-image-classification": ENCODERS}
    interface = interfaces.get(spec.task, INTERFACE)
    lacking = [name for name in interface if not hasattr(model, name)]
    assert not lacking, f"{spec.name} lacks {', '.join(lacking)} of the interface of its task, {spec.task}"
    count = sum(p.numel() for p in model.parameters())
    assert count == spec.params, f"{spec.name} has {count} parameters, {spec.params} are declared"
    keys = set(model.state_dict())
    for layer in (*as_tuple(spec.classifier if spec.num_classes else None), *as_tuple(spec.first_conv)):
        assert f"{layer}.weight" in keys, f"{spec.name} has no layer {layer!r}, which is declared"
    config = timm.data.resolve_model_data_config(model)
    default = (spec.pretrained[0].input if spec.pretrained else None) or spec.input
    for key, declared in {"input_size": default.size, "mean": default.mean, "std": default.std}.items():
        assert tuple(config[key]) == tuple(declared), f"timm's {key} is {config[key]}, {declared} is declared"
    listed = list_models(f"{spec.name}.*", pretrained=True)
    assert sorted(listed) == sorted(f"{spec.name}.{p.tag}" for p in spec.pretrained), f"timm lists {listed}"
    return model


def check_detections(model: nn.Module, x: Tensor) -> None:
    """Check that a detector returns torchvision's dicts, best scores first, and treats each image on its own."""
    with torch.no_grad():
        detections, alone = model(list(x)), model([x[0]])[0]
    assert len(detections) == len(x), f"{len(detections)} results for {len(x)} images"
    for result in detections:
        lacking = {"boxes", "labels", "scores"} - result.keys()
        assert not lacking, f"a result lacks {', '.join(sorted(lacking))}"
        n = len(result["scores"])
        shapes = {key: list(result[key].shape) for key in ("boxes", "labels")}
        assert shapes == {"boxes": [n, 4], "labels": [n]}, f"{n} scores come with {shapes}"
        assert bool((result["scores"].diff() <= 0).all()), "the scores are not in descending order"
    same(detections[0]["boxes"], alone["boxes"], "boxes of an image in a batch and alone")


def check_encoders(model: Any, image: Tensor, text: Tensor) -> None:
    """Check that a model embeds images and texts in one space, each on its own, and says how alike they are.

    Args:
        model: The model.
        image: [B, C, H, W].
        text: Ids of texts, int64 [B, L].
    """
    with torch.no_grad():
        pairs = ((model.encode_image, image), (model.encode_text, text))
        for encode, x in pairs:
            what = encode.__name__
            embedding = encode(x)
            expected = [len(x), model.num_features]
            assert list(embedding.shape) == expected, f"{what} returns {list(embedding.shape)}, {expected} is expected"
            same(encode(x[:1]), embedding[:1], f"{what} of a batch and of its first item")
            normalized = torch.nn.functional.normalize(embedding, dim=-1)
            same(encode(x, normalize=True), normalized, f"{what} with normalize=True and the normalized embedding")
        images, texts, scale = model(image, text)
        same(images, model.encode_image(image, normalize=True), "the first output and encode_image")
        same(texts, model.encode_text(text, normalize=True), "the second output and encode_text")
        assert scale.ndim == 0, f"the factor of the logits has shape {list(scale.shape)}"


def check_strict_loading(spec: Model, model: nn.Module) -> None:
    """Check that a state dict loads only if no tensor is missing, left over or misshapen, also with another head."""
    state = {key: value if not value.is_meta else _zeros(value.shape) for key, value in model.state_dict().items()}
    head = {f"{layer}.{part}" for layer in as_tuple(spec.classifier) for part in ("weight", "bias")}
    body = [key for key in state if key not in head]
    victim = body[len(body) // 2]
    broken = {
        "missing": {k: v for k, v in state.items() if k != victim},
        "left over": state | {"not.of.this.model": _zeros((1,))},
        "misshapen": state | {victim: _zeros((*state[victim].shape, 2))},
    }
    adapted: list[dict[str, Any]] = [{"num_classes": 7}, {"in_chans": spec.input.size[0] + 1}, {"features_only": True}]
    if spec.task == "object-detection":
        adapted = [{"num_classes": 7}]
    elif spec.task in LACKING_HEADS:
        adapted = [{"in_chans": spec.input.size[0] + 1}]
    for options in ({}, *adapted):
        _load(spec, state, options)
    for what, bad, options in [
        *((what, bad, {}) for what, bad in broken.items()),
        *(("missing", broken["missing"], options) for options in adapted),
    ]:
        try:
            _load(spec, bad, options)
        except WeightsError as e:
            names_tensor = victim in str(e) or "not.of.this.model" in str(e)
            assert names_tensor, f"the error does not name the tensor: {e}"  # noqa: PT017
        else:
            raise AssertionError(f"weights with a tensor {what} were loaded with {options}")


def _zeros(shape: Sequence[int]) -> Tensor:
    """Return zeros that have values but take no memory, for a model on the meta device, too."""
    return torch.zeros((), device="cpu").expand(tuple(shape))


def _load(spec: Model, state: Mapping[str, Tensor], options: Mapping[str, Any]) -> None:
    cfg = {"state_dict": dict(state), "num_classes": spec.num_classes, "source": None, "hf_hub_id": None, "file": None}
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", ".*copying from a non-meta parameter"
        )  # a model on the meta device keeps none
        build(spec, pretrained=True, pretrained_cfg_overlay=cfg, **options)


def check_layouts(model: Any) -> None:
    """Check that every layout declared for the class returns the model's tensors after a round trip."""
    own = model.state_dict()
    for name in weights.layouts_for(model):
        try:
            tensors = weights.export(model, name)
        except NotSupported:
            continue
        except WeightsError:  # a layout of backbones has no place for a classifier
            model = copy.deepcopy(model)
            model.reset_classifier(0)
            own, tensors = model.state_dict(), weights.export(model, name)
        back, report = weights.to_native(model, tensors, name)
        assert report.ok, f"layout {name!r} does not come back: {report.message(type(model).__name__)}"
        for key, value in own.items():
            same(back[key], value, f"{key} after a round trip through layout {name!r}", exact=True)


def check_model_folder(model: nn.Module) -> None:
    """Check that a model folder of ``save_pretrained`` gives the model back, with its configuration and its outputs.

    JSON turns tuples into lists, which the model must take all the same.
    """
    import timm.data

    with tempfile.TemporaryDirectory() as folder:
        weights.save_pretrained(model, folder, license="other")
        again = create_model(f"local-dir:{folder}", pretrained=True).eval()
    assert type(again) is type(model), f"a model folder gives a {type(again).__name__} back"
    config, expected = (timm.data.resolve_model_data_config(m) for m in (again, model))
    for key, value in expected.items():
        back = tuple(config[key]) if isinstance(value, tuple) else config[key]
        assert back == value, f"a model folder gives {key} = {back} back, it was {value}"
    for key, value in model.state_dict().items():
        same(again.state_dict()[key], value, f"{key} in a model folder and in the model", exact=True)


def check_compile(model: nn.Module, *inputs: Tensor) -> None:
    """Check that the model compiles into one graph without breaks, with the same output."""
    torch._dynamo.reset()
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        compiled = torch.compile(model, fullgraph=True, backend="eager")
        _same_outputs(compiled(*inputs), model(*inputs), "compiled and eager")
    torch._dynamo.reset()


def check_export(model: nn.Module, *inputs: Tensor) -> None:
    """Check that the model exports with a dynamic batch, and runs with another batch size."""
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        batch = {0: torch.export.Dim.DYNAMIC}
        program = torch.export.export(model, inputs, dynamic_shapes=tuple(batch for _ in inputs))
        bigger = [torch.cat([x, x[:1]]) for x in inputs]
        _same_outputs(program.module()(*bigger), model(*bigger), "exported and eager")


def _same_outputs(a: Any, b: Any, what: str) -> None:
    for number, (one, other) in enumerate(zip(_tuple(a), _tuple(b), strict=True)):
        same(one, other, what if isinstance(a, Tensor) else f"output {number} of {what}")


def _tuple(outputs: Any) -> tuple[Tensor, ...]:
    """Return the tensors of a model's output: a tensor, a sequence, or a mapping, in which None stands for no value."""
    if isinstance(outputs, Mapping):
        return tuple(value for value in outputs.values() if value is not None)
    return (outputs,) if isinstance(outputs, Tensor) else tuple(outputs)
