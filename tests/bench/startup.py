"""Start-up of the light commands against ``import timm``, bytecode compiled on both sides.

uv run python tests/bench/startup.py
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from side_by_side import compare, machine

BIN = Path(sys.executable).parent


# A cache of its own, filled by the warm-up rounds: editable installs and this workplace's environment have none.
ENVIRONMENT = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
CACHE = tempfile.TemporaryDirectory(prefix="plm-bench-")
ENVIRONMENT["PYTHONPYCACHEPREFIX"] = CACHE.name


def run(*command: str) -> None:
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=ENVIRONMENT)


def main() -> None:
    print(machine("plm-core", "timm", "typer"))
    compare(
        "start-up",
        {
            "plm list": lambda: run(str(BIN / "plm"), "list"),
            "plm --help": lambda: run(str(BIN / "plm"), "--help"),
            "plm info": lambda: run(str(BIN / "plm"), "info", "hiera_micro_digits"),
            "plm doctor --quick": lambda: run(str(BIN / "plm"), "doctor", "--quick"),
            "import plm_core": lambda: run(sys.executable, "-c", "import plm_core"),
            "import hiera": lambda: run(sys.executable, "-c", "import hiera"),
            "import timm": lambda: run(sys.executable, "-c", "import timm"),
        },
        rounds=9,
    )


if __name__ == "__main__":
    main()
