"""The examples in docstrings give the output that they show."""

import doctest

import pytest

from pe_encoder import alignment, media, model, prompts, tokenization


@pytest.mark.parametrize("module", [alignment, media, model, prompts, tokenization], ids=lambda module: module.__name__)
def test_examples(module):
    result = doctest.testmod(module)
    assert result.attempted
    assert not result.failed
