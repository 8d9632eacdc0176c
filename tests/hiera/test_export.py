"""One graph under torch.compile, torch.export with a dynamic batch, and ONNX with the model's own outputs."""

import onnxruntime
import pytest
import torch
from torch import nn

import hiera
from hiera.configs import MICRO_DIGITS, MICRO_MOTIONS

TINY = {"embed_dim": 8, "stages": (1, 1, 1), "num_classes": 5, "probabilities": False}
SMALL = {**MICRO_DIGITS, **TINY}
VIDEO = {**MICRO_MOTIONS, **TINY, "input_size": (4, 32, 32)}
TIMM_ABSWIN = {"abs_win_pos_embed": True, "global_pos_size": (4, 4), "init_values": 1e-5, "use_expand_proj": False}
MAE = {k: v for k, v in SMALL.items() if k not in ("num_classes", "probabilities")}
MAE |= {"input_size": (32, 48), "q_pool": 1, "decoder_embed_dim": 16, "decoder_depth": 2, "decoder_num_heads": 2}


class MaeEncoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.mae = hiera.MaskedAutoencoderHiera(**MAE)

    def forward(self, x, mask):
        return self.mae.forward_encoder(x, mask)


def hieradet(**changes):
    kwargs = {"stages": (1, 2), "q_pool": 1, "window_spec": (4, 2), "global_att_blocks": (2,), **changes}
    return hiera.HieraDet(8, window_pos_embed_bkg_spatial_size=(3, 3), **kwargs)


def vitdet():
    size = {"img_size": 32, "patch_size": 8, "embed_dim": 8, "depth": 2, "num_heads": 2}
    return hiera.ViTDet(**size, pretrain_grid=3, global_att_blocks=(1,))


# name: (model, size of its input, another size; None for a model that takes indices of kept units)
FAMILIES = {
    "image": (lambda: hiera.Hiera(input_size=(32, 48), **SMALL), (32, 48), (64, 32)),
    "video": (lambda: hiera.Hiera(**VIDEO), (4, 32, 32), (4, 48, 64)),
    "abs-win": (lambda: hiera.Hiera(img_size=32, **SMALL, **TIMM_ABSWIN), (32, 32), (48, 64)),
    "HieraDet": (hieradet, (32, 48), (64, 80)),
    "HieraDet with relative positions": (
        lambda: hieradet(pretrain_grid=(8, 8), rel_pos_img_size=48),
        (32, 48),
        (64, 80),
    ),
    "ViTDet": (vitdet, (32, 40), (48, 64)),
    "kept units": (lambda: hiera.Hiera(input_size=(32, 48), **SMALL), (32, 48), None),
    "MAE encoder": (MaeEncoder, (32, 48), None),
}


def build(name):
    """Return a model of a family in which every parameter matters."""
    torch.manual_seed(0)
    model = FAMILIES[name][0]().eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    return model


def inputs(name, batch, size=None):
    _, own, other = FAMILIES[name]
    x = torch.rand(batch, 3, *(size or own))
    return (x,) if other else (x, torch.stack([torch.randperm(6)[:3].sort().values for _ in range(batch)]))


def flat(out):
    return list(out) if isinstance(out, list | tuple) else [out]


def assert_same(out, expected, tolerance):
    assert len(out) == len(expected)
    for ours, theirs in zip(out, expected, strict=True):
        assert theirs.std() > 1e-2  # the output depends on the input
        torch.testing.assert_close(ours, theirs, atol=tolerance, rtol=0)


def assert_runs(name, model, path):
    """Run a file in onnxruntime at other batch sizes and, where there is one, at another size of the image."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    _, own, other = FAMILIES[name]
    for batch, size in ((1, own), (3, other or own)):
        x = inputs(name, batch, size)
        named = {i.name: value.numpy() for i, value in zip(session.get_inputs(), x, strict=True)}
        assert_same([torch.from_numpy(o) for o in session.run(None, named)], flat(model(*x)), 1e-4)


@pytest.mark.parametrize(
    "name", ["MAE encoder", *(pytest.param(name, marks=pytest.mark.slow) for name in ("image", "video", "abs-win"))]
)
@torch.no_grad()
def test_models_are_one_graph(name):
    """Compile without breaks, and export by torch with a dynamic batch.

    The trunks have such tests of their own, and `check_model` does the same with the registered models.
    """
    model, x = build(name), inputs(name, 2)
    torch.compiler.reset()  # else earlier models make the compiler try dynamic sizes, which takes half a minute
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    assert_same(flat(compiled(*x)), flat(model(*x)), 1e-5)
    batch = torch.export.Dim("batch", min=1, max=64)
    module = torch.export.export(model, x, dynamic_shapes=tuple({0: batch} for _ in x)).module()
    x = inputs(name, 5)
    assert_same(flat(module(*x)), flat(model(*x)), 1e-5)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", FAMILIES)
@torch.no_grad()
def test_onnx_by_tracing_has_dynamic_sizes(name, tmp_path):
    """``torch.onnx.export(model, x, file, dynamo=False)``, which most deployment guides use."""
    model, x = build(name), inputs(name, 2)
    names = ["x", "keep"][: len(x)]
    sizes = {axis: f"size{axis}" for axis in (x[0].ndim - 2, x[0].ndim - 1)} if FAMILIES[name][2] else {}
    axes = {"x": {0: "batch", **sizes}} | {name: {0: "batch"} for name in names[1:]}
    path = tmp_path / "model.onnx"
    torch.onnx.export(model, x, path, dynamo=False, input_names=names, dynamic_axes=axes)
    assert_runs(name, model, path)


# The exporter takes minutes on a busy machine, so the default suite has one model.
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "name",
    [
        "image",
        *(
            pytest.param(n, marks=pytest.mark.slow)
            for n in ("MAE encoder", "video", "abs-win", "HieraDet", "kept units")
        ),
    ],
)
@torch.no_grad()
def test_onnx_by_torch_export_has_dynamic_sizes(name, tmp_path):
    """``torch.onnx.export(model, x, dynamo=True)``, as users write it."""
    model, x = build(name), inputs(name, 2)
    dynamic = torch.export.Dim.DYNAMIC
    sizes = dict.fromkeys((x[0].ndim - 2, x[0].ndim - 1), dynamic) if FAMILIES[name][2] else {}
    shapes = ({0: dynamic, **sizes}, *({0: dynamic} for _ in x[1:]))
    path = tmp_path / "model.onnx"
    torch.onnx.export(model, x, dynamo=True, dynamic_shapes=shapes, verbose=False).save(path)
    assert_runs(name, model, path)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) for name in ("HieraDet with relative positions", "ViTDet")]
)
@torch.no_grad()
def test_onnx_by_torch_export_with_relative_positions(name, tmp_path):
    """torch's exporter does not interpolate the tables for unknown sizes; only the batch is dynamic."""
    model, x = build(name), inputs(name, 2)
    path = tmp_path / "model.onnx"
    shapes = ({0: torch.export.Dim.DYNAMIC},)
    torch.onnx.export(model, x, dynamo=True, dynamic_shapes=shapes, verbose=False).save(path)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    x = inputs(name, 3)
    out = session.run(None, {session.get_inputs()[0].name: x[0].numpy()})
    assert_same([torch.from_numpy(o) for o in out], flat(model(*x)), 1e-4)
