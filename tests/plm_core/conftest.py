"""The shipped micro model, files of its tensors and one-line errors, for the tests of weights."""

import contextlib

import pytest


@pytest.fixture
def acme(monkeypatch):
    """Let a distribution that is not installed provide some names, as one of this family that a user lacks."""
    from plm_core.utils import near_misses

    names = (("command", "frob*", "acme"), ("model", "acme_*", "acme"))
    monkeypatch.setattr(near_misses, "PROVIDERS", (*near_misses.PROVIDERS, *names))


@pytest.fixture(scope="session")
def micro():
    """Return the shipped micro model; tests do not change it."""
    import plm_core

    return plm_core.create_model("hiera_micro_digits", pretrained=True)


@pytest.fixture(scope="session")
def state(micro):
    """Return the state dict of `micro`; tests do not change it."""
    return micro.state_dict()


@pytest.fixture
def fresh():
    """Return a micro model with random weights, for a test to load into."""
    import plm_core

    return plm_core.create_model("hiera_micro_digits")


@pytest.fixture
def source(tmp_path):
    """Return a function that writes tensors to a file, safetensors or pickle by its suffix, and returns the path."""

    def write(state, name="source.safetensors"):
        import torch

        from plm_core import weights

        path = tmp_path / name
        if path.suffix == ".safetensors":
            weights.write(state, path)
        else:
            torch.save(state, path)
        return path

    return write


@pytest.fixture
def one_line():
    """Return a context manager that expects an error whose message is one line with certain parts."""

    @contextlib.contextmanager
    def expect(error, *parts):
        with pytest.raises(error) as caught:
            yield caught
        message = str(caught.value)
        assert "\n" not in message
        assert "\x1b" not in message
        for part in parts:
            assert part in message

    return expect


@pytest.fixture
def listing():
    """Return a function that reads everything below a folder, to compare before and after."""

    def read(folder):
        return {path.relative_to(folder): path.is_file() and path.read_bytes() for path in folder.rglob("*")}

    return read
