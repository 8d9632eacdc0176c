"""kill -9 at any moment of a write: the file from before, the new one, or a folder that says it is not finished."""

import os
import random
import signal
import time
import warnings

import pytest
import torch

import plm_core
from plm_core import weights
from plm_core.errors import PlmError
from plm_core.tools.conversion import convert_file
from plm_core.utils import files


def killed(work, seconds):
    """Run ``work(number)`` again and again in a child, which is killed ``seconds`` after the first ended."""
    ready, begun = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Python warns of a fork beside threads; the child starts none
        child = os.fork()
    if not child:
        try:
            torch.set_num_threads(1)
            for number in range(10**6):
                work(number)
                os.write(begun, b".")
        finally:
            os._exit(1)
    os.close(begun)
    assert os.read(ready, 1), "the child failed"
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    os.close(ready)


def parts_in(folder):
    return [path.name for path in folder.iterdir() if path.name.endswith(".part")]


@pytest.mark.trials(short=8, long=300)
def test_save_pretrained(trials, drill, tmp_path, caplog):
    """Two models of equal shapes that differ in weights, license and labels take turns in one folder."""
    folder, rng, unfinished = tmp_path / "folder", random.Random(trials), 0
    models = [plm_core.create_model("hiera_micro_digits", num_classes=2) for _ in range(2)]
    facts = [{"license": "mit", "labels": ["a", "b"]}, {"license": "apache-2.0", "labels": ["c", "d"]}]
    known = {weights.fingerprint(model): fact for model, fact in zip(models, facts, strict=True)}
    for number in range(trials):
        killed(lambda n: weights.save_pretrained(models[n % 2], folder, **facts[n % 2]), rng.uniform(0, 0.05))
        back = drill.attempt(f"kill {number}", lambda: plm_core.create_model(f"local-dir:{folder}", pretrained=True))
        if isinstance(back, PlmError):
            unfinished += 1
            drill.expect(f"kill {number}", not (folder / "config.json").exists(), f"broken: {back}")
        else:
            fact = known.get(weights.fingerprint(back))
            cfg = back.pretrained_cfg
            drill.expect(
                f"kill {number}",
                fact and (cfg["license"], cfg["label_names"]) == (fact["license"], fact["labels"]),
                "weights of one model, config of another",
            )
    assert unfinished < max(trials / 2, 2)  # the folder is without a config for a moment only


@pytest.mark.trials(short=6, long=200)
def test_convert_and_write(trials, drill, tmp_path):
    source, target, rng = tmp_path / "a.pt", tmp_path / "folder" / "b.safetensors", random.Random(trials)
    model = plm_core.create_model("hiera_micro_digits")
    torch.save(weights.export(model, "official"), source)
    layouts = ("timm", "transformers")
    for number in range(trials):
        writes = [
            lambda n: convert_file(source, target, to=layouts[n % 2], model="hiera_micro_digits"),
            lambda n: weights.save(model, target, layouts[n % 2]),
        ]
        killed(writes[number % 2], rng.uniform(0, 0.05))
        drill.expect(f"kill {number}", weights.read(target).keys() in map(set, names(model, layouts)), "half a file")
    left = parts_in(target.parent)
    for name in left:
        os.utime(target.parent / name, (0, 0))
    files._remove_old_parts.cache_clear()
    weights.save(model, target)
    drill.expect("part files", not parts_in(target.parent), f"{parts_in(target.parent)} stay for ever")


def names(model, layouts):
    return (weights.export(model, layout) for layout in layouts)
