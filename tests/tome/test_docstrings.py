"""The examples in docstrings give the output that they show."""

import doctest

from tome import api


def test_examples_of_apply_and_remove():
    result = doctest.testmod(api)
    assert result.attempted >= 9
    assert result.failed == 0
