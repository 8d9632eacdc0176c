"""Probes drawn from a dataset: which images, their digest, and the errors of images that cannot be read."""

import pickle

import numpy as np
import pytest
from PIL import Image

import parc
from parc.ranking.probes import draw_probes
from plm_core.datasets import load_dataset
from plm_core.errors import InputError


def picture(shade, size=(5, 4)):
    return Image.new("RGB", size, (shade, 0, 0))


def folder(root, counts):
    for name, count in counts.items():
        (root / name).mkdir(parents=True)
        for i in range(count):
            picture(10 * i).save(root / name / f"{i}.png")
    return root


def test_unreadable_images_are_named_before_anything_runs(tmp_path):
    root = folder(tmp_path, {"a": 8, "b": 8})
    for i in range(6):
        (root / "a" / f"{i}.png").write_bytes(b"not an image")
    cut = (root / "b" / "7.png").read_bytes()
    (root / "b" / "7.png").write_bytes(cut[:-30])
    with pytest.raises(
        InputError, match=r"7 of the 16 images drawn from .*a/0\.png \(not an image\), .*a/4\.png .* and 2 more"
    ):
        draw_probes(load_dataset(root))
    for i in range(6):
        picture(i).save(root / "a" / f"{i}.png")
    with pytest.raises(
        InputError, match=r"1 of the 16 images drawn from .*, which --skip-unreadable leaves out: b/7\.png"
    ):
        draw_probes(load_dataset(root))


@pytest.mark.parametrize("run", [parc.rank, parc.probe])
def test_every_image_is_looked_at_before_the_first_model(run, tmp_path, monkeypatch, caplog):
    """Also those that are not drawn: of 40 images, 8."""
    root = folder(tmp_path, {"a": 20, "b": 20})
    budget = {"budget": 8} if run is parc.rank else {"budget": 8, "folds": 2, "method": "knn"}
    drawn = draw_probes(load_dataset(root), budget=8)[0].names
    bad = next(name for name in load_dataset(root).names if name not in drawn)
    (root / bad).write_bytes(b"")
    monkeypatch.setenv("PLM_CACHE", str(tmp_path / "cache"))
    with pytest.raises(InputError, match=rf"1 of 40 images of .*, which --skip-unreadable leaves out: {bad} \("):
        run(root, "random:test_vit", **budget)
    result = run(root, "random:test_vit", **budget, skip_unreadable=True)
    assert (result.about["images"], result.about["of"]) == (8, 39)
    assert f"1 of 40 images of {str(root)!r} cannot be read and are left out: {bad} (" in caplog.text


def test_a_budget_that_draws_one_class(tmp_path):
    dataset = load_dataset(folder(tmp_path, {"a": 4, "b": 4, "c": 4}))
    with pytest.raises(InputError, match=r"budget=3 draws 1 of 3 classes in .*; at least 2 are needed"):
        draw_probes(dataset, budget=3)
    assert len(draw_probes(dataset, budget=4)[0]) == 4


def test_probes_differ_by_run_and_repeat(tmp_path):
    dataset = load_dataset(folder(tmp_path, {"a": 20, "b": 20}))
    first, second = draw_probes(dataset, budget=10, runs=2)
    assert (len(first), len(second)) == (10, 10)
    assert first.names != second.names
    assert first.digest != second.digest
    assert [probe.digest for probe in draw_probes(dataset, budget=10, runs=2)] == [first.digest, second.digest]
    assert [first.classes[label] for label in first.labels] == [name[0] for name in first.names]


def test_the_digest_follows_names_labels_and_contents(tmp_path):
    root = folder(tmp_path, {"a": 2, "b": 2})
    digests = {draw_probes(load_dataset(root))[0].digest}
    picture(200).save(root / "a" / "0.png")
    digests.add(draw_probes(load_dataset(root))[0].digest)
    (root / "a" / "0.png").rename(root / "a" / "00.png")
    digests.add(draw_probes(load_dataset(root))[0].digest)
    (root / "a").rename(root / "c")
    digests.add(draw_probes(load_dataset(root))[0].digest)
    assert len(digests) == 4
    for shape in ((4, 8), (8, 4), (4, 8, 1)):  # of equal bytes
        np.savez(tmp_path / "x.npz", images=np.arange(128, dtype=np.uint8).reshape(4, *shape), labels=[0, 0, 1, 1])
        digests.add(draw_probes(load_dataset(tmp_path / "x.npz"))[0].digest)
    assert len(digests) == 7


def test_a_packed_probe_needs_no_files(tmp_path):
    root = folder(tmp_path, {"a": 2, "b": 2})
    probe = draw_probes(load_dataset(root))[0]
    before = [np.asarray(probe.image(i)) for i in range(4)]
    packed = pickle.loads(pickle.dumps(probe.packed()))
    for file in root.rglob("*.png"):
        file.unlink()
    for i in range(4):
        np.testing.assert_array_equal(np.asarray(packed.image(i)), before[i])
    assert packed.digest == probe.digest
