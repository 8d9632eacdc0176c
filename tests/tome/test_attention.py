"""Proportional attention, against keys that are repeated as often as they have patches."""

import pytest
import torch

from tome.vit import proportional

HOW = pytest.mark.parametrize("how", [True, "mask", "channel"])


def case(dtype=torch.float64, sizes=(1, 3, 7, 2, 1)):
    g = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 3, len(sizes), 12, generator=g, dtype=torch.float64).to(dtype) for _ in range(3))
    return q, k, v, torch.tensor(sizes, dtype=torch.float64).view(1, -1, 1).expand(2, -1, 1).clone()


@HOW
@pytest.mark.parametrize("with_bias", [False, True])
def test_a_key_counts_as_often_as_it_has_patches(how, with_bias):
    q, k, v, size = case()
    size[1] = size[1].flip(0)
    bias = torch.randn(1, 3, 5, 5, generator=torch.Generator().manual_seed(1)).double() if with_bias else None
    for sample in range(2):
        times = size[sample].flatten().long()
        logits = q[sample] @ k[sample].mT * 12**-0.5 + (0 if bias is None else bias[0])
        weights = logits.repeat_interleave(times, -1).softmax(-1)
        expected = weights @ v[sample].repeat_interleave(times, 1)
        torch.testing.assert_close(proportional(q, k, v, size, bias, how=how)[sample], expected)


@HOW
def test_without_sizes_all_keys_count_once(how):
    q, k, v, size = case()
    expected = (q @ k.mT * 12**-0.5).softmax(-1) @ v
    torch.testing.assert_close(proportional(q, k, v, how=how), expected)
    torch.testing.assert_close(proportional(q, k, v, torch.ones_like(size), how=how), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_tells_large_sizes_apart_by_channel(dtype):
    """log 3090 and log 2981 are one number in bfloat16, so one channel would weigh both alike."""
    q = torch.zeros(1, 1, 1, 8, dtype=dtype)
    k = torch.zeros(1, 1, 2, 8, dtype=dtype)
    v = torch.tensor([1.0, -1.0], dtype=dtype).view(1, 1, 2, 1).expand(-1, -1, -1, 8)
    size = torch.tensor([3090.0, 2981.0]).view(1, 2, 1)
    answer = proportional(q, k, v, size, how="channel").flatten()[0].item()
    assert answer == pytest.approx((3090 - 2981) / (3090 + 2981), rel=0.1)


@HOW
def test_dropout_reaches_the_weights(how):
    q, k, v, size = case()
    torch.manual_seed(0)
    assert not torch.allclose(proportional(q, k, v, size, dropout=0.5, how=how), proportional(q, k, v, size, how=how))
