"""Build every wheel, read its metadata, and prove that each distribution works when it is installed alone.

    uv run --no-project python .ci/check_wheels.py          all of packages/*
    uv run --no-project python .ci/check_wheels.py hiera    only these

"Alone" is a fresh environment outside the workspace that holds the wheel, plm-core's wheel and what they require. Our
wheels are given by path, never by name: some of the names belong to other projects on the public index. Their
requirements are held to the versions in uv.lock, so that a result belongs to the commit and not to the day. Needs only
the standard library and uv.
"""

import argparse
import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
import time
import zipfile
from dataclasses import dataclass
from importlib.metadata import Distribution, PathDistribution
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
CORE = "plm-core"
OURS = {CORE, "pe-encoder", "hiera", "tome", "hydra-attn", "gazelle", "zipit", "parc"}

# What one distribution must do when it is alone, run as `python -I -c`. Every distribution has an entry; small and
# offline (HF_HUB_OFFLINE is set): one model or one function, for real.
SMOKE = {
    "plm-core": """
import plm_core, tempfile
from plm_core import weights
assert plm_core.list_models("resnet18*"), "none of timm's models is listed"
with tempfile.TemporaryDirectory() as folder:
    weights.save_pretrained(plm_core.create_model("test_vit", num_classes=2), folder, "mit", labels=["cat", "dog"])
    assert plm_core.create_model(folder, pretrained=True).pretrained_cfg["label_names"] == ["cat", "dog"]
assert plm_core.lm.tiling.grid(640, 480, 448, 36)[:2] == (7, 5), "another grid of tiles"
try:
    plm_core.lm.build({"vision_config": {"architecture": "test_vit"}, "text_config": {"vocab_size": 9}})
except plm_core.MissingDependency as error:
    assert "plm-core[lm]" in str(error), error
""",
    "hiera": """
import hiera, timm, torch
model = timm.create_model("hiera_micro_digits", pretrained=True).eval()
logits = model(torch.zeros(1, *model.pretrained_cfg["input_size"]))
assert logits.shape == (1, 10) and logits.isfinite().all(), logits
""",
    "tome": """
import timm, tome, torch
model = timm.create_model("vit_tiny_patch16_224").eval()
x = torch.rand(1, 3, 224, 224)
before = model(x)
tome.apply(model, r=13)
assert tome.trace(model, x).tokens[-1] == 197 - 12 * 13, "tokens are not merged"
assert torch.equal(tome.remove(model)(x), before), "not undone"
""",
    "hydra-attn": """
import hydra_attn, plm_core, torch
q, k, v = torch.rand(3, 1, 9, 8)
terms = torch.nn.functional.normalize(k, dim=-1) * v
expected = torch.nn.functional.normalize(q, dim=-1) * terms.sum(1, keepdim=True)
assert torch.allclose(hydra_attn.hydra(q, k, v), expected, atol=1e-6)
assert hydra_attn.HydraAttention(8, 2)(q).shape == q.shape
model = plm_core.create_model("hydra_micro_shapes", pretrained=True).eval()
assert hydra_attn.patch_scores(model, torch.rand(1, 3, 48, 48)).shape == (1, 144)
""",
    "pe-encoder": """
import pe_encoder, timm, torch
model = timm.create_model("pe_core_t16_384", layers=2).eval()
image = torch.rand(1, 3, 64, 96)
assert model(image).shape == (1, 512), "no embedding"
assert model.forward_features(image, layer_idx=0.5).shape == (1, 1 + 4 * 6, 192), "no tokens of a layer"
clip = timm.create_model("pe_micro_clip", pretrained=True).eval()
weight = pe_encoder.zeroshot.embed_classes(clip, ["red circle", "blue star"], "a photo of a {}")
assert weight.shape == (clip.num_features, 2), weight.shape
""",
    "parc": """
import numpy, parc
labels = numpy.arange(100) % 4
features = numpy.eye(4)[labels] + numpy.random.default_rng(0).normal(0, 0.1, (100, 4))
assert parc.score("parc", features, labels) > 70 and parc.score("knn", features, labels) == 100, "scores are off"
assert len(parc.sample_probe(labels, budget=40)) == 40
""",
    "gazelle": """
import gazelle, numpy
picture = numpy.full((64, 64, 3), 128, numpy.uint8)
model = gazelle.GazeLLE("test_vit", inout=True, in_size=96)
looks = gazelle.Estimator(model)(picture, [(0.1, 0.1, 0.4, 0.4), None])
assert [look.heatmap.shape for look in looks] == [(64, 64)] * 2, "no heatmaps"
assert not len(gazelle.people.find_heads(picture).boxes), "a head in a grey picture"
""",
    "zipit": """
import timm, torch, zipit
models = [timm.create_model("resnet18", num_classes=4).eval() for _ in range(2)]
images = torch.rand(8, 3, 64, 64)
assert zipit.check(models[0], images[:2]).passed, "the graph is wrong"
merged = zipit.merge(models, [images], until="layer3.0.conv1")
assert [tuple(output.shape) for output in merged(images)] == [(8, 4), (8, 4)]
""",
}

# Of one Requires-Dist row: the name, then the version specifiers, without extras and marker.
REQUIREMENT = re.compile(r"([A-Za-z0-9._-]+)\s*(?:\[[^]]*\])?\s*\(?([^;)]*)")
INDEX_ADDRESS = re.compile(r"://\S+/simple\b|\bindex-url\b")


@dataclass(frozen=True)
class Wheel:
    """A built wheel, opened for reading."""

    path: Path
    dist: Distribution
    files: tuple[str, ...]

    @property
    def name(self) -> str:
        """The distribution's name, normalised."""
        return normalised(self.dist.metadata["Name"])

    @property
    def module(self) -> str:
        """The import package's name: one rule for all of ours."""
        return self.name.replace("-", "_")


def normalised(name: str) -> str:
    """Return a distribution name as indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def read_wheel(path: Path) -> Wheel:
    """Open a wheel file."""
    with zipfile.ZipFile(path) as archive:
        files = tuple(archive.namelist())
    dist_info = next(name.split("/")[0] for name in files if name.endswith(".dist-info/METADATA"))
    return Wheel(path, PathDistribution(zipfile.Path(path, f"{dist_info}/")), files)


def build_wheels(out: Path) -> list[Wheel]:
    """Build the wheel of every package of the workspace into a folder."""
    # --no-sources: as an installer elsewhere would see it, without the workspace's own links between the packages.
    command = ["uv", "build", "--quiet", "--all-packages", "--no-sources", "--wheel", "--out-dir", str(out)]
    subprocess.run(command, cwd=ROOT, check=True)
    return [read_wheel(path) for path in sorted(out.glob("*.whl"))]


# --- metadata -------------------------------------------------------------------------------------------------------


def metadata_problems(wheel: Wheel) -> list[str]:
    """Say what is wrong with a wheel's files and metadata, one line each."""
    meta = wheel.dist.metadata
    plugin = f"{wheel.module}.plugin"
    top_level = {name.split("/")[0] for name in wheel.files if ".dist-info/" not in name}
    expectations = {
        f"{wheel.name} is not one of this family's distributions": wheel.name in OURS,
        f"no smoke test: add one for {wheel.name!r} to SMOKE in .ci/check_wheels.py": wheel.name in SMOKE,
        f"installs {sorted(top_level)}, not just {wheel.module}": top_level == {wheel.module},
        f"no {wheel.module}/py.typed": f"{wheel.module}/py.typed" in wheel.files,
        "no LICENSE": "Apache License" in (wheel.dist.read_text("licenses/LICENSE") or ""),
        "License-Expression is not Apache-2.0": meta.get_all("License-Expression") == ["Apache-2.0"],
        "no README as description": any(text.strip() for text in meta.get_all("Description") or []),
        f"no entry point in group 'plm' names {plugin}": any(
            point.group == "plm" and point.value == plugin for point in wheel.dist.entry_points
        ),
        "METADATA names a package index": not INDEX_ADDRESS.search(wheel.dist.read_text("METADATA") or ""),
    }
    problems = [text for text, met in expectations.items() if not met]
    return problems + requirement_problems(wheel.name, wheel.dist.requires or [])


def requirement_problems(name: str, requires: list[str]) -> list[str]:
    """Say what is wrong with a distribution's Requires-Dist rows, one line each."""
    problems = []
    needs_core = name == CORE
    for row in requires:
        match = REQUIREMENT.match(row)
        required, specifiers = (normalised(match[1]), match[2]) if match else (row, "")
        if "@" in row or "://" in row:
            problems.append(f"requirement {row!r} names an address")
        elif required == CORE != name:
            needs_core |= ";" not in row
            operators = set(re.findall(r"[<>=!~]+", specifiers))
            if not (operators & {">=", ">"} and operators & {"<", "<="}):
                problems.append(f"requirement {row!r} needs an explicit lower and upper bound")
        elif required in OURS - {name}:
            problems.append(f"requirement {row!r}: our distributions meet only through the registry")
    if not needs_core:
        problems.append(f"does not require {CORE}")
    return problems


# --- each one alone -------------------------------------------------------------------------------------------------


def run(*command: str | Path, cwd: Path) -> str:
    """Run a command of a fresh environment and return what it printed.

    Raises:
        RuntimeError: it failed; the message holds both of its streams.
    """
    # A fault of any plug-in is an error here, and nothing may be fetched: what is shipped must suffice.
    env = {**os.environ, "PLM_STRICT_PLUGINS": "1", "HF_HUB_OFFLINE": "1"}
    result = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if result.returncode:
        shown = shlex.join(map(str, command))
        raise RuntimeError(f"exit status {result.returncode} of: {shown}\n{result.stdout}{result.stderr}")
    return result.stdout


def write_constraints(path: Path) -> None:
    """Write the versions of uv.lock as constraints for an installer."""
    flags = ["--quiet", "--frozen", "--all-packages", "--all-extras", "--no-emit-workspace", "--no-hashes"]
    flags += ["--no-annotate", "--no-header", "--output-file", str(path)]
    subprocess.run(["uv", "export", *flags], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)


def try_alone(wheel: Wheel, core: Wheel, tmp: Path) -> None:
    """Install a wheel beside nothing but plm-core and use it.

    Args:
        wheel: the distribution to try.
        core: plm-core's wheel.
        tmp: a folder outside the workspace, the same for all: it holds the constraints and the compiled bytecode.
    """
    venv = tmp / "venv"
    python = venv / "bin" / "python"
    wheels = {str(core.path), str(wheel.path)}
    run("uv", "venv", "--quiet", "--clear", "--python", sys.executable, venv, cwd=tmp)
    run("uv", "pip", "install", "--quiet", "--python", python, "--constraints", "constraints.txt", *wheels, cwd=tmp)

    # -I: neither the current folder nor PYTHON* variables nor the user's site-packages can lend a module. Compiling all
    # of torch at install costs more than it saves for one use, and compiling on import costs ~10 s in each environment.
    # As each has the same path in turn, they share what the first one compiled.
    isolated = (python, "-I", "-X", f"pycache_prefix={tmp / 'pycache'}")
    plm = (*isolated, venv / "bin" / "plm")
    run(*isolated, "-c", f"import {wheel.module}\n{SMOKE[wheel.name]}", cwd=tmp)
    run(*plm, "--version", cwd=tmp)
    listed = rows(run(*plm, "list", "--json", cwd=tmp))
    doctor = run(*plm, "doctor", "--json", cwd=tmp)
    plugins = json.loads(doctor)["plugins"]
    found = [row for row in plugins if row["distribution"] == wheel.name and row["state"] == "loaded"]
    if not found:
        raise RuntimeError(f"`plm doctor --json` does not say that {wheel.name} is loaded:\n{doctor}")
    if found[0]["counts"].get("model") and wheel is not core and not any(wheel.name in row.values() for row in listed):
        raise RuntimeError(f"`plm list --json` has none of the models of {wheel.name}")


def rows(text: str) -> list[dict[str, Any]]:
    """Return every object of a JSON text, whatever its depth."""
    found: list[dict[str, Any]] = []
    json.loads(text, object_hook=found.append)
    return found  # outer objects have None for inner ones; each of those stands in the list itself


def main() -> int:
    """Run the command line; return the exit status."""
    parser = argparse.ArgumentParser(description="Build all wheels, check their metadata, try each one alone.")
    parser.add_argument("distributions", nargs="*", help="check only these; all of packages/* if left out")
    wanted = parser.parse_args().distributions
    with tempfile.TemporaryDirectory(prefix="plm-wheels-") as name:
        tmp = Path(name)
        built = {wheel.name: wheel for wheel in build_wheels(tmp / "dist")}
        unknown = sorted(set(wanted) - set(built))
        if unknown:
            parser.error(f"no such distribution: {', '.join(unknown)}; there are: {', '.join(built)}")
        wheels = [built[name] for name in wanted or built]
        problems = [f"{wheel.path.name}: {text}" for wheel in wheels for text in metadata_problems(wheel)]
        if problems:
            print(*problems, sep="\n", file=sys.stderr)
            return 1
        print(f"metadata is right: {', '.join(wheel.path.name for wheel in wheels)}")
        write_constraints(tmp / "constraints.txt")
        failed = False
        for wheel in wheels:
            start = time.monotonic()
            try:
                try_alone(wheel, built[CORE], tmp)
            except (RuntimeError, ValueError) as error:  # ValueError: what should be JSON is not
                failed = True
                print(f"{wheel.name} alone: {error}", file=sys.stderr)
            else:
                print(f"{wheel.name} alone: works ({time.monotonic() - start:.0f} s)")
        return int(failed)


if __name__ == "__main__":
    sys.exit(main())
