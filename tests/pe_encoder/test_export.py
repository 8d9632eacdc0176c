"""One graph under torch.compile, torch.export with a dynamic batch and size, and ONNX with the model's own outputs."""

import onnxruntime
import pytest
import torch

from plm_core.testing.conformance import check_compile

DYNAMIC = torch.export.Dim.DYNAMIC


def onnx_outputs(program, *inputs):
    session = onnxruntime.InferenceSession(program.model_proto.SerializeToString())
    names = [entry.name for entry in session.get_inputs()]
    return [torch.from_numpy(y) for y in session.run(None, {n: x.numpy() for n, x in zip(names, inputs, strict=True)})]


@pytest.mark.parametrize("options", [{}, {"use_cls_token": False, "pool_type": "none"}])
@torch.no_grad()
def test_export_with_a_dynamic_batch_and_size(tower, options):
    model = tower(ragged=False, **options)
    program = torch.export.export(
        model, (torch.rand(2, 3, 32, 48),), dynamic_shapes=({0: DYNAMIC, 2: DYNAMIC, 3: DYNAMIC},)
    )
    for shape in ((2, 3, 32, 48), (3, 3, 64, 40), (1, 3, 32, 32)):
        image = torch.rand(shape)
        torch.testing.assert_close(program.module()(image), model(image), atol=1e-5, rtol=1e-5)


def test_compiles_into_one_graph(clip):
    check_compile(clip, torch.rand(2, 3, 32, 48), torch.randint(50, (2, 12)))


@pytest.mark.slow
@torch.no_grad()
def test_the_compiler_itself_keeps_the_outputs(tower):
    image = torch.rand(2, 3, 32, 48)
    compiled = torch.compile(tower(), fullgraph=True)
    torch.testing.assert_close(compiled(image), tower()(image), atol=1e-5, rtol=1e-5)


def test_onnx_of_both_towers_gives_the_same_embeddings_at_any_size(clip):
    ids = torch.zeros(2, 12, dtype=torch.int64)
    ids[0, 3], ids[1, 7] = 49, 49
    sizes = {0: DYNAMIC, 2: DYNAMIC, 3: DYNAMIC}
    program = torch.onnx.export(
        clip, (torch.rand(2, 3, 32, 32), ids), dynamo=True, dynamic_shapes=(sizes, {0: DYNAMIC}), verbose=False
    )
    for image, text in ((torch.rand(2, 3, 32, 32), ids), (torch.rand(3, 3, 48, 24), ids[[0, 1, 1]])):
        for ours, expected in zip(onnx_outputs(program, image, text), clip(image, text), strict=True):
            torch.testing.assert_close(ours, expected.detach(), atol=1e-4, rtol=1e-4)
