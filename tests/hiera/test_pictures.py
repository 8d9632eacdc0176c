"""The reconstruction picture has its four rows, with the model's pixels where patches were hidden."""

import sys

import numpy as np
import pytest
import torch

import hiera
from hiera.configs import MICRO_DIGITS, MICRO_MOTIONS
from hiera.pictures import ROWS, reconstruction
from plm_core import InputError, MissingDependency

TINY = {"embed_dim": 8, "stages": (1, 1, 1), "q_pool": 1}
TINY |= {"decoder_embed_dim": 16, "decoder_depth": 1, "decoder_num_heads": 2}
SMALL = {**MICRO_DIGITS, **TINY, "input_size": (32, 48)}
VIDEO = {**MICRO_MOTIONS, **TINY, "input_size": (8, 32, 48)}
PLAIN = {"mean": (0.0,) * 3, "std": (1.0,) * 3}


def model(config=SMALL, **kwargs):
    torch.manual_seed(0)
    return hiera.MaskedAutoencoderHiera(**{**config, **kwargs}).eval()


def shown(figure):
    """Return the pictures of a figure, as [row][column]."""
    pictures = [np.asarray(ax.images[0].get_array()) for ax in figure.axes]
    columns = len(pictures) // len(ROWS)
    return [pictures[i * columns : (i + 1) * columns] for i in range(len(ROWS))]


def test_rows_of_images():
    mae, x = model(), torch.rand(2, 3, 32, 48)
    mask = torch.tensor([[True, False, True, False, False, True], [False, True, True, True, False, False]])
    figure = reconstruction(mae, x, mask, **PLAIN)
    assert [ax.get_ylabel() for ax in figure.axes[::2]] == list(ROWS)
    original, masked, reconstructed, pasted = shown(figure)
    expected = mae.reconstruct(x, mask=mask)[0].detach().clamp(0, 1)
    for i in range(2):
        hidden = ~mask[i].view(2, 3).repeat_interleave(16, 0).repeat_interleave(16, 1).numpy()
        picture = x[i].permute(1, 2, 0).numpy()
        np.testing.assert_array_equal(original[i], picture)
        np.testing.assert_array_equal(masked[i][~hidden], picture[~hidden])
        assert (masked[i][hidden] == 0.5).all()
        np.testing.assert_allclose(reconstructed[i], expected[i].permute(1, 2, 0).numpy(), atol=1e-6)
        np.testing.assert_array_equal(pasted[i][~hidden], picture[~hidden])
        np.testing.assert_array_equal(pasted[i][hidden], reconstructed[i][hidden])


def test_a_clip_is_a_strip_of_the_predicted_frames():
    x = torch.rand(1, 3, 8, 32, 48)
    original, masked, *_ = shown(reconstruction(model(VIDEO), (x - 0.45) / 0.225, generator=torch.Generator()))
    assert len(original) == 4
    for column, t in enumerate((0, 2, 4, 6)):
        np.testing.assert_allclose(original[column], x[0, :, t].permute(1, 2, 0), atol=1e-6)
    assert np.mean(np.stack(masked) == 0.5) == pytest.approx(22 / 24)  # int(24 * 0.1) = 2 units are visible


def test_the_mask_is_drawn_from_the_generator():
    x = torch.rand(1, 3, 32, 48)
    a, b, c = (shown(reconstruction(model(), x, generator=torch.Generator().manual_seed(s)))[1][0] for s in (0, 0, 1))
    np.testing.assert_array_equal(a, b)
    assert (a != c).any()


def test_greyscale_and_files(tmp_path):
    figure = reconstruction(model(in_chans=1), torch.rand(1, 1, 32, 48), mask_ratio=0.5)
    assert shown(figure)[0][0].shape == (32, 48)
    figure.savefig(tmp_path / "figure.png", dpi=40)
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("shape", [(3, 32, 48), (0, 3, 32, 48), (17, 3, 32, 48), (1, 4, 32, 48), (2, 3, 8, 32, 48)])
def test_bad_shapes_are_named(shape):
    with pytest.raises(InputError, match=r"x has shape \["):
        reconstruction(model(), torch.rand(shape))


def test_training_mode_is_refused_and_not_changed():
    mae = model().train()
    with pytest.raises(InputError, match=r"call mae.eval\(\) first"):
        reconstruction(mae, torch.rand(1, 3, 32, 48))
    assert mae.training


def test_without_matplotlib_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingDependency, match=r"install plm-core\[tour\]"):
        reconstruction(model(), torch.rand(1, 3, 32, 48))
