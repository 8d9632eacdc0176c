"""One graph under torch.compile, torch.export with a dynamic batch, and ONNX with the model's own outputs."""

import onnxruntime
import pytest
import torch
from torch import nn

import hiera
from hiera.abswin import abs_win
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


# name: (model, size of its input, whether it takes indices of kept units)
CASES = {
    "image": (lambda: hiera.Hiera(input_size=(32, 48), **SMALL), (32, 48), False),
    "image at another size": (lambda: hiera.Hiera(input_size=(32, 48), **SMALL), (64, 32), False),
    "video": (lambda: hiera.Hiera(**VIDEO), (4, 32, 32), False),
    "abs-win": (lambda: hiera.Hiera(img_size=32, **SMALL, **TIMM_ABSWIN), (32, 32), False),
    "abs-win at another size": (lambda: hiera.Hiera(img_size=32, **SMALL, **TIMM_ABSWIN), (48, 64), False),
    "HieraDet": (lambda: hiera.HieraDet(8, stages=(1, 1, 2, 1), global_att_blocks=(3,)), (64, 96), False),
    "kept units": (lambda: hiera.Hiera(input_size=(32, 48), **SMALL), (32, 48), True),
    "MAE encoder": (MaeEncoder, (32, 48), True),
}


@pytest.fixture(params=CASES)
def case(request):
    """Return a model in which every parameter matters, and a function that draws its inputs."""
    make, size, masked = CASES[request.param]
    torch.manual_seed(0)
    model = make().eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)

    def inputs(batch):
        x = torch.rand(batch, 3, *size)
        if not masked:
            return (x,)
        return x, torch.stack([torch.randperm(6)[:3].sort().values for _ in range(batch)])

    return model, inputs


def flat(out):
    return list(out) if isinstance(out, list | tuple) else [out]


def assert_same(out, expected, tolerance):
    assert len(out) == len(expected)
    for ours, theirs in zip(out, expected, strict=True):
        assert theirs.std() > 1e-2  # the output depends on the input
        torch.testing.assert_close(ours, theirs, atol=tolerance, rtol=0)


@torch.no_grad()
def test_one_graph_exported_and_onnx(case, tmp_path):
    """One test, so that the traced program serves both torch.export and ONNX."""
    model, inputs = case
    x = inputs(2)
    torch.compiler.reset()  # else earlier models make the compiler try dynamic sizes, which takes half a minute
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    assert_same(flat(compiled(*x)), flat(model(*x)), 1e-5)

    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(model, x, dynamic_shapes=tuple({0: batch} for _ in x))
    module = program.module()
    path = tmp_path / "model.onnx"
    torch.onnx.export(program, dynamo=True, verbose=False).save(path)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for size in (1, 2, 5):
        x = inputs(size)
        expected = flat(model(*x))
        assert_same(flat(module(*x)), expected, 1e-5)
        named = {i.name: value.numpy() for i, value in zip(session.get_inputs(), x, strict=True)}
        assert_same([torch.from_numpy(o) for o in session.run(None, named)], expected, 1e-4)


@torch.no_grad()
def test_the_exporter_traces_models_too(tmp_path):
    """``torch.onnx.export(model, ...)`` works as users write it."""
    torch.manual_seed(0)
    model, x = hiera.Hiera(input_size=(32, 48), **SMALL).eval(), torch.rand(2, 3, 32, 48)
    path = tmp_path / "model.onnx"
    torch.onnx.export(model, (x,), path, dynamo=True, dynamic_shapes=({0: "batch"},), verbose=False)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    x = torch.rand(3, 3, 32, 48)
    torch.testing.assert_close(torch.from_numpy(session.run(None, {"x": x.numpy()})[0]), model(x), atol=1e-4, rtol=0)


@pytest.mark.parametrize(("size", "grid"), [((4, 4), (28, 20)), ((14, 14), (8, 8)), ((16, 12), (12, 16))])
@torch.no_grad()
def test_exported_abs_win_positions_are_eager_ones(grid, size, tmp_path):
    """torch's antialiased bicubic has its own kernel. ONNX's must agree with it for smaller and for larger grids."""

    class Positions(nn.Module):
        def forward(self, table, window):
            return abs_win(table, window, grid, antialias=True)

    table, window = torch.randn(1, 3, *size), torch.randn(1, 3, 4, 4)
    expected = Positions()(table, window)
    path = tmp_path / "positions.onnx"
    torch.onnx.export(Positions().eval(), (table, window), path, dynamo=True, verbose=False)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    out = session.run(None, {"table": table.numpy(), "window": window.numpy()})[0]
    torch.testing.assert_close(torch.from_numpy(out), expected, atol=1e-5, rtol=0)
