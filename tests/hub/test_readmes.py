"""Every code block of every README runs: python in one namespace per file, plm commands through the command line.

A text block is what the last python block before it prints.
"""

import re
import shlex
import shutil
from itertools import pairwise
from pathlib import Path

import pytest
import transformers
from PIL import Image

import plm_core
from plm_core.cli import main

ROOT = Path(__file__).parents[2]
READMES = sorted([ROOT / "README.md", *ROOT.glob("packages/*/README.md"), ROOT / "tests" / "README.md"])
# Commands that are run elsewhere (.ci/run and its wheel check, the benches by hand) or would run this very suite.
ELSEWHERE = ("uv run pytest", "pip install ./packages/", "uv run python tests/bench/")
# What takes seconds and has tests of its own: tests/hiera/test_micro.py, tests/plm_core/test_tour.py and test_cli.py.
SLOW = ("plm retrain hiera_micro_digits", "plm tour", "plm matrix")


def blocks(readme):
    return re.findall(r"^```(\w+)\n(.*?)^```", readme.read_text(), re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("readme", READMES, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_block_runs(readme, tmp_path, monkeypatch, capsys, hub_double, write_video, videos):
    monkeypatch.chdir(tmp_path)
    fewer = {split: [part[:250] for part in plm_core.samples.digits(split)] for split in ("train", "heldout")}
    monkeypatch.setattr(plm_core.samples, "digits", fewer.get)  # in less time
    write_samples(tmp_path, write_video, videos)
    namespace = {"__name__": "readme"}
    printed = None
    for language, code in blocks(readme):
        if language == "python":
            capsys.readouterr()
            exec(compile(code, f"{readme.name}", "exec"), namespace)
            printed = capsys.readouterr().out
        elif language == "bash":
            for line in code.splitlines():
                run(line.partition("#")[0].strip(), monkeypatch)
        elif language == "text":
            assert printed == code, f"the python block before this text prints:\n{printed}"
        else:
            pytest.fail(f"a block of {language}: how is it tested?")


def write_samples(folder, write_video, videos):
    """Write the files that the READMEs mention: a digit, class folders of pictures and of clips, a ViT."""
    images, _ = plm_core.samples.digits("heldout")
    images[0].save(folder / "digit.png")
    for split, name in (("train", "train"), ("heldout", "val")):
        for i, scene in enumerate(plm_core.shapes.Images(split, size=48, count=40, objects=(1, 1))):
            of_class = folder / "photos" / name / f"class{i % 2}"
            of_class.mkdir(parents=True, exist_ok=True)
            Image.fromarray(scene.image).save(of_class / f"{i}.png")
    write_video(folder / "clip.mp4", plm_core.shapes.Clips("heldout", size=64, frames=16, count=1)[0].frames)
    shutil.copytree(videos, folder / "videos")
    size = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    vit = transformers.ViTForImageClassification(transformers.ViTConfig(**size, image_size=32, patch_size=8))
    vit.save_pretrained(folder / "my-vit")
    transformers.ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder / "my-vit")


def run(line, monkeypatch):
    command = line.removeprefix("uv run ")
    if line.startswith(ELSEWHERE) or command.startswith(SLOW):
        return
    assert command.startswith("plm "), f"'{line}': how is it tested?"
    words = ["1" if word == "--runs" else following for word, following in pairwise(["", *shlex.split(command)])]
    monkeypatch.setattr("sys.argv", words)
    with pytest.raises(SystemExit) as exit_:
        main()
    assert exit_.value.code in (0, None), f"'{line}' answers {exit_.value.code}"


def test_root_readme_has_its_two_commands():
    text = (ROOT / "README.md").read_text()
    for command in ("uv run plm tour", "uv run pytest"):
        assert f"\n{command}\n" in text


def test_links_lead_somewhere():
    for readme in [*READMES, ROOT / ".github" / "CONTRIBUTING.md"]:
        for target in re.findall(r"\]\((?!https?://)([^)#]+)\)", readme.read_text()):
            assert (readme.parent / target).exists(), f"{readme}: {target}"
