"""Settings that must hold before anything is imported: no test reaches the real Hub or writes to the user's folders."""

import os
import shutil
import tempfile

if "PYTEST_XDIST_WORKER" in os.environ:  # two workers with two threads each only wait for one another on two cores
    os.environ.setdefault("OMP_NUM_THREADS", "1")

_home = tempfile.mkdtemp(prefix="plm-tests-")
os.environ.update(
    HF_HOME=f"{_home}/hf",
    HF_HUB_OFFLINE="1",  # the hub_double fixture opens a way to its own server
    HF_HUB_DISABLE_TELEMETRY="1",
    PLM_CACHE=f"{_home}/plm",
    TORCH_HOME=f"{_home}/torch",
    MPLBACKEND="Agg",
)
for switch in ("PLM_PLUGINS", "PLM_DISABLE_PLUGINS", "PLM_STRICT_PLUGINS", "PLM_TRACE_PLUGINS"):
    os.environ.pop(switch, None)


def pytest_configure(config):
    if "not gpu" in config.getoption("markexpr"):  # so that the default suite does the same on every machine
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


def pytest_sessionfinish(session):
    shutil.rmtree(_home, ignore_errors=True)
