"""Files are written completely or not at all."""

import os
import stat
import threading
import time

import pytest

from plm_core.errors import FileError
from plm_core.utils import files
from plm_core.utils.files import atomic_path, atomic_paths, cache_dir, write_text


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


def test_a_disk_that_removes_nothing_either_is_one_error(tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(os, "unlink", fail)
    with pytest.raises(FileError, match=r"cannot write .*file.txt: .*No space left"):
        write_half(tmp_path / "file.txt", OSError(28, "No space left on device"))


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


def test_no_moment_is_without_a_umask(tmp_path, umask, monkeypatch):
    monkeypatch.setattr(os, "umask", lambda mask: pytest.fail("the umask is the whole process's"))
    threads = [threading.Thread(target=write_text, args=(tmp_path / f"{i}", "x")) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {mode(path) for path in tmp_path.iterdir()} == {0o666 & ~umask}


def test_nobody_reads_the_temporary_file_of_a_private_one(tmp_path):
    (tmp_path / "file.txt").touch(mode=0o600)
    (tmp_path / "read-only.txt").touch(mode=0o400)
    for name, after in (("file.txt", 0o600), ("read-only.txt", 0o400)):
        with atomic_path(tmp_path / name) as part:
            assert mode(part) == 0o600
        assert mode(tmp_path / name) == after


@pytest.mark.parametrize("name", ["x" * 255, "ü" * 127, "x" * 242 + ".safetensors", ".", "-"])
def test_every_name_that_a_file_can_have(tmp_path, name):
    if name == ".":
        with pytest.raises(FileError, match="not a regular file"):
            write_text(tmp_path / name, "new")
    else:
        write_text(tmp_path / name, "new")
        assert [p.name for p in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("old", ["old", None])
def test_a_link_stays_a_link(tmp_path, old):
    target, link, second = tmp_path / "folder" / "file.txt", tmp_path / "link.txt", tmp_path / "second.txt"
    if old:
        target.parent.mkdir()
        target.write_text(old)
    link.symlink_to("folder/file.txt")
    second.symlink_to(link)
    write_text(second, "new")
    assert (link.is_symlink(), second.is_symlink(), target.read_text()) == (True, True, "new")
    assert os.listdir(target.parent) == ["file.txt"]


@pytest.mark.parametrize("kind", ["device", "fifo", "link to itself", "link to a device"])
def test_only_regular_files_are_replaced(tmp_path, kind):
    path = tmp_path / "x"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind != "device":
        path.symlink_to(path if kind == "link to itself" else "/dev/null")
    before = os.lstat("/dev/null"), os.listdir(tmp_path)
    with pytest.raises(FileError, match="cannot write"), atomic_path("/dev/null" if kind == "device" else path):
        pytest.fail("the work is done before the place is looked at")
    assert (os.lstat("/dev/null").st_ino, os.listdir(tmp_path)) == (before[0].st_ino, before[1])


def test_what_a_killed_process_left_goes_after_a_day(tmp_path):
    days = {"old": 2, "young": 0.5}
    for age, count in days.items():
        for name in (f".{age}.txt.plm-0123abcd.part", f".{age}.txt.part", f"{age}.part", f".{age}.plm-0123.part"):
            (tmp_path / name).touch()
            os.utime(tmp_path / name, (time.time() - count * 24 * 3600,) * 2)
    before = set(os.listdir(tmp_path))
    write_text(tmp_path / "file.txt", "x")
    assert before - set(os.listdir(tmp_path)) == {".old.txt.plm-0123abcd.part"}
    with atomic_path(tmp_path / "file.txt") as part:  # a file of this very moment is one of them
        assert files._PART.fullmatch(part.name)


def write_three(folder, text, error=None):
    names = [folder / name for name in ("weights", "card", "config")]
    with atomic_paths(*names) as parts:
        for part in parts:
            part.write_text(text)
        if error:
            raise error
    return [name.read_text() for name in names]


def test_files_that_belong_together_are_all_old_or_all_new(tmp_path, monkeypatch):
    assert write_three(tmp_path, "old") == ["old"] * 3
    with pytest.raises(FileError, match=r"cannot write .*weights, .*card, .*config: .*No space"):
        write_three(tmp_path, "new", OSError(28, "No space left on device"))
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == dict.fromkeys(
        ("weights", "card", "config"), "old"
    )
    states, replace = [], type(tmp_path).replace

    def replaced(part, target):
        states.append({p.name: p.read_text() for p in tmp_path.iterdir() if not p.name.endswith(".part")})
        return replace(part, target)

    monkeypatch.setattr(type(tmp_path), "replace", replaced)
    assert write_three(tmp_path, "new") == ["new"] * 3
    assert states == [  # what a process killed at each rename would leave
        {"weights": "old", "card": "old"},
        {"weights": "new", "card": "old"},
        {"weights": "new", "card": "new"},
    ]


@pytest.mark.parametrize("write", [lambda path: write_text(path, ""), files.make_folder])
def test_a_home_that_is_not_expanded_is_refused(tmp_path, monkeypatch, write):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for path, full in (("~/a/b", tmp_path / "a" / "b"), ("~", tmp_path)):
        with pytest.raises(FileError) as error:
            write(path)
        assert str(error.value) == f"path {path!r} begins with ~, which is not expanded here: write {str(full)!r}"
    assert os.listdir(tmp_path) == []
    write("~no-such-user")
    assert os.listdir(tmp_path) == ["~no-such-user"]


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
