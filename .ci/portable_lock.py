"""Print a uv.lock in portable form: every version pinned, no address to download from.

The committed lock serves any package index or mirror. Left out are the rows `sdist` and `wheels` and the `[manifest]`
tables; each registry source reads `{ registry = "." }`. uv sees that such a lock is incomplete, resolves again, keeps
the pins and writes the full lock to the working tree; rewriting that one gives the committed bytes back.

    python .ci/portable_lock.py uv.lock           print the portable form
    python .ci/portable_lock.py < uv.lock         the same, as a git clean filter
    python .ci/portable_lock.py --check uv.lock   exit 1 if the file is not in portable form

Rewrites text line by line (uv's own layout is stable), so that what is kept is kept byte for byte. Needs nothing but
Python 3.8: .ci/run calls it before uv, hence before the project's own Python, exists.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path

REGISTRY = re.compile(r'\{ registry = "[^"]*" \}')
DOWNLOAD_ROW = re.compile(r"(sdist|wheels) = ")


def portable_lines(lines: list[str]) -> Iterator[tuple[int, str]]:
    """Yield the number and the portable text of each line that stays.

    Args:
        lines: the lock's lines, without their ends.
    """
    in_manifest = in_wheels = False
    for number, line in enumerate(lines, 1):
        if line.startswith("["):  # a table; an array closes with "]"
            in_manifest = line.strip("[]").split(".")[0] == "manifest"
        if in_wheels:
            in_wheels = line != "]"
        elif DOWNLOAD_ROW.match(line):
            in_wheels = line.endswith("[")
        elif not in_manifest:
            yield number, REGISTRY.sub('{ registry = "." }', line)


def portable(text: str) -> str:
    """Return the portable form of a lock.

    Args:
        text: a uv.lock in full or in portable form.

    Raises:
        ValueError: an address would remain, as of a git or url source; no rewriting can make that portable.
    """
    kept = list(portable_lines(text.replace("\r\n", "\n").split("\n")))
    for number, line in kept:
        if "://" in line:
            raise ValueError(f"line {number} names an address that must not be in the lock: {line.strip()}")
    return "\n".join(line for _, line in kept)


def check(text: str) -> None:
    """Raise ValueError, naming the first line that differs, unless a lock is in portable form."""
    expected = portable(text)
    if text == expected:
        return
    pairs = enumerate(zip_longest(text.split("\n"), expected.split("\n")), 1)
    number, line = next((number, got) for number, (got, want) in pairs if got != want)
    raise ValueError(f"not in portable form from line {number} on ({line[:60].strip()} ...); see .ci/portable_lock.py")


def main() -> int:
    """Run the command line; return the exit status."""
    parser = argparse.ArgumentParser(description="Print a uv.lock in portable form: pins, but no addresses.")
    parser.add_argument("file", nargs="?", type=Path, help="the lock to read; standard input if left out")
    parser.add_argument("--check", action="store_true", help="print nothing; exit 1 if not in portable form")
    options = parser.parse_args()
    try:
        data = options.file.read_bytes() if options.file else sys.stdin.buffer.read()
        text = data.decode("utf-8")
        if options.check:
            check(text)
        else:
            sys.stdout.buffer.write(portable(text).encode("utf-8"))  # bytes: no platform's line ends
    except (OSError, ValueError) as error:
        print(f"{options.file or 'standard input'}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
