"""The counter of parallel regions."""

import pytest
import torch
import torch.nn.functional as F

from plm_core.errors import NotSupported
from plm_core.testing import count_regions, parallel

GRAIN_SIZE = 32768  # torch's own: elementwise operators compute so many elements on one thread


@pytest.fixture(scope="module", autouse=True)
def counter():
    try:
        with count_regions():
            pass
    except NotSupported as e:
        pytest.skip(str(e))


@pytest.mark.parametrize(
    ("elements", "threads", "expected"), [(GRAIN_SIZE + 1, 2, 1), (GRAIN_SIZE, 2, 0), (10**5, 1, 0)]
)
def test_an_operator_opens_a_region_above_the_grain_size(elements, threads, expected):
    x = torch.zeros(elements)
    with count_regions(threads) as regions:
        y = x + 1
    assert regions.total == expected
    assert regions.by_operator == ({"aten.add.Tensor": 1} if expected else {})
    assert torch.equal(y, torch.ones(elements))


def test_only_the_block_is_counted_and_threads_are_restored():
    threads, x = torch.get_num_threads(), torch.zeros(2 * GRAIN_SIZE)

    def failing():
        with count_regions(threads + 1) as regions:
            counts.append(regions)
            x.exp()
            raise ZeroDivisionError

    counts = []
    with pytest.raises(ZeroDivisionError):
        failing()
    assert torch.get_num_threads() == threads
    torch.set_num_threads(2)
    x.exp()
    torch.set_num_threads(threads)
    assert counts[0].total == 1


def test_regions_inside_regions_are_not_counted_and_answers_are_the_same():
    g = torch.Generator().manual_seed(0)
    q, w = torch.randn(2, 4, 256, 32, generator=g), torch.randn(96, 32, generator=g)
    expected = F.linear(F.scaled_dot_product_attention(q, q, q), w)
    with count_regions() as regions:
        attended = F.scaled_dot_product_attention(q, q, q)  # multiplies matrices in every thread of one region
        assert regions.total == 1
        out = F.linear(attended, w)
    assert regions.total > 1
    torch.testing.assert_close(out, expected)


def test_other_libraries_and_systems_are_refused(monkeypatch):
    monkeypatch.setattr(parallel.sys, "platform", "darwin")
    for cached in (parallel._library, parallel._slot):
        cached.cache_clear()
    with pytest.raises(NotSupported, match="on Linux"), count_regions():
        pass
