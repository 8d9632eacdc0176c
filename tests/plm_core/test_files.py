"""Files are written completely or not at all."""

import os
import stat

import pytest

from plm_core.errors import FileError
from plm_core.utils.files import atomic_path, cache_dir, write_text


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def write_half(target, error):
    with atomic_path(target) as part:
        part.write_text("half")
        raise error


@pytest.fixture
def umask():
    before = os.umask(0o027)
    yield 0o027
    os.umask(before)


def test_new_file_and_its_folders(tmp_path):
    target = tmp_path / "a" / "b" / "file.txt"
    with atomic_path(target) as part:
        part.write_text("new")
        assert part.parent == target.parent
        assert not target.exists()
    assert target.read_text() == "new"
    assert os.listdir(target.parent) == ["file.txt"]


def test_the_old_file_is_there_until_the_end(tmp_path):
    target = tmp_path / "file.txt"
    target.write_text("old")
    with atomic_path(target) as part:
        part.write_text("new")
        assert target.read_text() == "old"
    assert target.read_text() == "new"


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt(), SystemExit(1)])
@pytest.mark.parametrize("old", ["old", None])
def test_error_inside_leaves_everything_as_it_was(tmp_path, error, old):
    target = tmp_path / "file.txt"
    if old:
        target.write_text(old)
    with pytest.raises(type(error)):
        write_half(target, error)
    assert [p.name for p in tmp_path.iterdir()] == (["file.txt"] if old else [])
    assert not old or target.read_text() == old


def test_target_that_cannot_be_replaced_leaves_no_litter(tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match="folder"), atomic_path(tmp_path / "folder") as part:
        part.write_text("x")
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]


def test_block_that_removes_its_own_file_is_an_error(tmp_path):
    with pytest.raises(FileError), atomic_path(tmp_path / "file.txt") as part:
        part.unlink()
    assert not list(tmp_path.iterdir())


def test_permissions_of_a_new_file_follow_the_umask(tmp_path, umask):
    write_text(tmp_path / "ours.txt", "x")
    (tmp_path / "plain.txt").write_text("x")
    assert mode(tmp_path / "ours.txt") == mode(tmp_path / "plain.txt") == 0o666 & ~umask
    assert os.umask(umask) == umask


def test_a_private_file_stays_private(tmp_path):
    target = tmp_path / "file.txt"
    target.touch(mode=0o600)
    write_text(target, "new")
    assert mode(target) == 0o600


def test_text_is_utf8(tmp_path):
    write_text(tmp_path / "file.txt", "ü 漢")
    assert (tmp_path / "file.txt").read_bytes() == "ü 漢".encode()


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"PLM_CACHE": "{tmp}/mine"}, "mine/parc"),
        ({"PLM_CACHE": "{tmp}/mine", "XDG_CACHE_HOME": "{tmp}/xdg"}, "mine/parc"),
        ({"PLM_CACHE": "", "XDG_CACHE_HOME": "{tmp}/xdg"}, "xdg/plm/parc"),
        ({"HOME": "{tmp}"}, ".cache/plm/parc"),
    ],
)
def test_cache_dir(tmp_path, monkeypatch, environ, expected):
    for name in ("PLM_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environ.items():
        monkeypatch.setenv(name, value.format(tmp=tmp_path))
    assert cache_dir("parc") == tmp_path / expected
    assert cache_dir("parc").is_dir()
