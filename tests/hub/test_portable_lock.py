"""The committed uv.lock pins every version but names no address (.ci/portable_lock.py)."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / ".ci" / "portable_lock.py"

FULL = """\
version = 1
revision = 5
requires-python = ">=3.11"
resolution-markers = [
    "python_full_version >= '3.12'",
    "python_full_version < '3.12'",
]

[options]
exclude-newer = "2026-01-01T00:00:00Z"

[manifest]
members = [
    "hub",
    "piece",
]
overrides = [{ name = "six", specifier = "<2" }]

[manifest.dependency-groups]
dev = [{ name = "six" }]

[[manifest.dependency-metadata]]
name = "six"
requires-dist = []

[[package]]
name = "numpy"
version = "2.4.6"
source = { registry = "https://index.example/simple" }
resolution-markers = [
    "python_full_version < '3.12'",
]
sdist = { url = "https://files.example/numpy-2.4.6.tar.gz", hash = "sha256:00", size = 1 }
wheels = [
    { url = "https://files.example/numpy-2.4.6-cp311-linux.whl", hash = "sha256:11", size = 2 },
    { url = "https://files.example/numpy-2.4.6-cp311-macos.whl", hash = "sha256:22", size = 3 },
]

[[package]]
name = "hub"
version = "0.1.0"
source = { editable = "packages/hub" }
dependencies = [
    { name = "numpy", version = "2.4.6", source = { registry = "https://index.example/simple" }, marker = "sys_platform == 'linux'" },
]

[package.metadata]
requires-dist = [{ name = "numpy", specifier = ">=1.26" }]

[[package]]
name = "workspace"
version = "0"
source = { virtual = "." }
"""  # noqa: E501 (one line, as uv writes it)

PORTABLE = """\
version = 1
revision = 5
requires-python = ">=3.11"
resolution-markers = [
    "python_full_version >= '3.12'",
    "python_full_version < '3.12'",
]

[options]
exclude-newer = "2026-01-01T00:00:00Z"

[[package]]
name = "numpy"
version = "2.4.6"
source = { registry = "." }
resolution-markers = [
    "python_full_version < '3.12'",
]

[[package]]
name = "hub"
version = "0.1.0"
source = { editable = "packages/hub" }
dependencies = [
    { name = "numpy", version = "2.4.6", source = { registry = "." }, marker = "sys_platform == 'linux'" },
]

[package.metadata]
requires-dist = [{ name = "numpy", specifier = ">=1.26" }]

[[package]]
name = "workspace"
version = "0"
source = { virtual = "." }
"""


def run(*arguments, stdin=""):
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    return subprocess.run(command, input=stdin.encode(), capture_output=True)


def portable(lock):
    """Through standard input, as git's clean filter calls it."""
    result = run(stdin=lock)
    assert result.returncode == 0, result.stderr.decode()
    return result.stdout.decode()


def test_full_lock_becomes_portable():
    assert portable(FULL) == PORTABLE


def test_portable_lock_stays_as_it_is():
    assert portable(PORTABLE) == PORTABLE


def test_file_and_standard_input_give_the_same(tmp_path):
    lock = tmp_path / "uv.lock"
    lock.write_text(FULL)
    assert run(lock).stdout.decode() == PORTABLE


def test_line_ends_of_another_system_do_not_matter():
    assert portable(FULL.replace("\n", "\r\n")) == PORTABLE


def test_check_passes_what_is_portable(tmp_path):
    lock = tmp_path / "uv.lock"
    lock.write_text(PORTABLE)
    result = run("--check", lock)
    assert (result.returncode, result.stdout, result.stderr) == (0, b"", b"")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (FULL, "not in portable form from line 12 on ([manifest] ...); see .ci/portable_lock.py"),
        (PORTABLE.replace('registry = "."', 'registry = "../all"', 1), '(source = { registry = "../all" } ...)'),
        (PORTABLE + "wheels = []\n", "(wheels = [] ...)"),
    ],
    ids=["full", "local registry", "extra row"],
)
def test_check_fails_with_one_clear_line(tmp_path, text, complaint):
    lock = tmp_path / "uv.lock"
    lock.write_text(text)
    result = run("--check", lock)
    error = result.stderr.decode()
    assert result.returncode == 1
    assert result.stdout == b""
    assert error.startswith(f"{lock}: ")
    assert complaint in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("check", [[], ["--check"]], ids=["rewrite", "check"])
def test_source_that_cannot_be_portable_is_an_error(check):
    result = run(*check, stdin=FULL.replace("registry = ", "git = ", 1))
    line = FULL[: FULL.index("registry = ")].count("\n") + 1
    assert result.returncode == 1
    assert result.stdout == b""
    assert f"standard input: line {line} names an address that must not be" in result.stderr.decode()


def test_missing_file_is_one_line(tmp_path):
    result = run("--check", tmp_path / "uv.lock")
    assert result.returncode == 1
    assert result.stderr.count(b"\n") == 1


def test_the_repositorys_own_lock():
    full = (ROOT / "uv.lock").read_text(encoding="utf-8")  # in the working tree uv has written the full form
    lock = portable(full)
    assert "://" not in lock
    assert portable(lock) == lock
    before, after = tomllib.loads(full), tomllib.loads(lock)
    assert "manifest" not in after
    assert [(p["name"], p["version"]) for p in after["package"]] == [
        (p["name"], p["version"]) for p in before["package"]
    ]
    assert {p["source"].get("registry", ".") for p in after["package"]} == {"."}
