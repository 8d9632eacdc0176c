"""The parts to train on and to judge on, from each source, and the images of both as a dataset of torch."""

import numpy as np
import pytest
from PIL import Image
from torch.utils.data import DataLoader

import plm_core
from plm_core.datasets import Pictures, digest, load_dataset, load_splits
from plm_core.errors import InputError


def write(root, counts, shade=0):
    """Write class folders of images. Every image is another, in its shade and in the number of its class and place."""
    for name, count in counts.items():
        (root / name).mkdir(parents=True)
        for i in range(count):
            Image.new("RGB", (4, 4), (shade, ord(name[0]), i)).save(root / name / f"{i}.png")
    return root


def npz(path, labels):
    np.savez(
        path,
        images=np.arange(len(labels), dtype=np.uint8)[:, None, None] + np.zeros((1, 4, 4), np.uint8),
        labels=labels,
    )
    return path


def shades(dataset, band=0):
    return {dataset.image(i).getpixel((0, 0))[band] for i in range(len(dataset))}


@pytest.mark.parametrize("train", ["train", "training"])
def test_the_splits_of_a_folder(train, tmp_path):
    for shade, name in enumerate([train, "test", "valid", "extra"]):  # valid is preferred to test; extra is no split
        write(tmp_path / name, {"a": 3, "b": 2}, shade)
    splits = load_splits(tmp_path)
    assert (shades(splits.train), shades(splits.val)) == ({0}, {2})
    assert splits.train.classes == splits.val.classes == ("a", "b")
    assert splits.note == "5 images of the split valid"
    assert list(load_dataset(tmp_path).names) == list(splits.train.names)


def test_splits_without_class_folders_are_no_classes(tmp_path):
    for name in ("train", "val"):
        write(tmp_path, {name: 2})
    with pytest.raises(InputError, match="train' has no images in folders named after their classes"):
        load_dataset(tmp_path)


@pytest.mark.parametrize("source", ["folder", "train alone", "npz"])
def test_a_share_is_held_out(source, tmp_path):
    if source == "npz":
        source = npz(tmp_path / "x.npz", np.repeat([0, 1, 3], [40, 25, 5]))
    else:
        write(tmp_path / "x" / ("train" if source == "train alone" else ""), {"a": 40, "b": 25, "d": 5})
        source = tmp_path / "x"
    splits = load_splits(source, seed=3, holdout=0.2)
    assert sorted([*splits.train.names, *splits.val.names]) == sorted(load_dataset(source).names)
    counts = np.bincount(splits.val.labels)
    assert counts[counts > 0].tolist() == [8, 5, 1]
    assert splits.val.classes == splits.train.classes == load_dataset(source).classes
    assert splits.note == "20 % of the images (14 of 70) held out, seed 3"
    again, other = (load_splits(source, seed=seed, holdout=0.2) for seed in (3, 4))
    assert list(again.val.names) == list(splits.val.names) != list(other.val.names)
    for part in (splits.train, splits.val):  # labels and images still belong to one another
        for i, name in enumerate(part.names):
            whole = load_dataset(source)
            at = list(whole.names).index(name)
            assert whole.labels[at] == part.labels[i]
            assert np.array_equal(np.asarray(whole.image(at)), np.asarray(part.image(i)))


@pytest.mark.parametrize(
    ("sizes", "holdout", "held_out"),
    [
        ([4, 4, 4, 4], 0.1, 2),  # no class has a whole image to give
        ([2, 2], 0.01, 1),  # at least one
        ([1, 1, 3], 0.5, 2),  # a class keeps one: the classes of one image give none
        ([1, 1, 2], 0.9, 1),
        ([100, 10], 0.1, 11),
    ],
)
def test_every_class_keeps_an_image_to_train_on(sizes, holdout, held_out, tmp_path):
    labels = np.repeat(np.arange(len(sizes)), sizes)
    drawn = set()
    for seed in range(8):
        splits = load_splits(npz(tmp_path / "x.npz", labels), seed, holdout)
        assert len(splits.val) == held_out
        assert np.bincount(splits.train.labels, minlength=len(sizes)).min() >= 1
        drawn.add(tuple(splits.val.names))
    assert len(drawn) > 1


def test_images_with_several_labels_are_held_out_too(tmp_path):
    hot = np.eye(4, dtype=int)[np.arange(20) % 4]
    splits = load_splits(npz(tmp_path / "x.npz", hot), holdout=0.25)
    assert (splits.train.labels.shape, splits.val.labels.shape) == ((15, 4), (5, 4))
    with pytest.raises(InputError, match=r"x\.npz' has several labels per image; one class per image is needed"):
        Pictures(splits.train, np.asarray)


def test_other_classes_in_the_splits_are_named(tmp_path):
    write(tmp_path / "train", {"ant": 2, "bee": 2, "cat": 2, "dog": 2, "fly": 2})
    write(tmp_path / "val", {"ant": 1, "bat": 1})
    with pytest.raises(InputError, match=r"same classes in both splits, .*; not in both: bat, bee, cat, dog, \.\.\.$"):
        load_splits(tmp_path)
    write(tmp_path / "val", {"bee": 1, "cat": 1, "dog": 1})
    with pytest.raises(InputError, match=r"; not in both: bat, fly$"):
        load_splits(tmp_path)


@pytest.mark.parametrize("holdout", [0, 1, -0.1, 10, float("nan")])
def test_bad_shares_are_named(holdout, tmp_path):
    with pytest.raises(InputError, match=rf"holdout is {holdout}; a number between 0 and 1 is allowed"):
        load_splits(tmp_path, holdout=holdout)


class TestHuggingFace:
    @pytest.fixture(autouse=True)
    def _library(self):
        self.datasets = pytest.importorskip("datasets")

    def table(self, shade, classes=("a", "b")):
        kinds = {"image": self.datasets.Image(), "label": self.datasets.ClassLabel(names=list(classes))}
        images = [Image.new("RGB", (4, 4), (shade, 0, i)) for i in range(4)]
        return self.datasets.Dataset.from_dict(
            {"image": images, "label": [0, 1, 0, 1]}, features=self.datasets.Features(kinds)
        )

    def saved(self, path, **splits):
        self.datasets.DatasetDict(splits).save_to_disk(path)
        return path

    def test_a_saved_folder(self, tmp_path):
        both = self.saved(tmp_path / "x", test=self.table(2), train=self.table(0), validation=self.table(1))
        splits = load_splits(both)
        assert (shades(splits.train), shades(splits.val)) == ({0}, {1})
        assert splits.note == "4 images of the split validation"
        splits = load_splits(self.saved(tmp_path / "y", train=self.table(0)), holdout=0.5)
        assert shades(splits.train, band=2).isdisjoint(shades(splits.val, band=2))
        assert "held out" in splits.note
        with pytest.raises(InputError, match="z' has no split named train, but test, other"):
            load_splits(self.saved(tmp_path / "z", test=self.table(0), other=self.table(0)))
        self.table(0).save_to_disk(tmp_path / "table")
        assert len(load_splits(tmp_path / "table", holdout=0.5).val) == 2

    def test_classes_in_another_order(self, tmp_path):
        path = self.saved(tmp_path / "x", train=self.table(0), test=self.table(1, ("b", "a")))
        with pytest.raises(InputError, match="not in both: none, but the order differs"):
            load_splits(path)

    def test_the_hub(self, tmp_path, monkeypatch):
        """A folder stands in for a repository: both are read by the same call of the library."""
        monkeypatch.setattr(self.datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
        for shade, name in enumerate(["train", "validation"]):
            write(tmp_path / "x" / name, {"a": 3, "b": 3}, shade)
        splits = load_splits(f"hf:{tmp_path / 'x'}")
        assert (shades(splits.train), shades(splits.val)) == ({0}, {1})
        splits = load_splits(f"hf:{tmp_path / 'x'}:validation", holdout=0.5)
        assert (shades(splits.train), shades(splits.val), len(splits.val)) == ({1}, {1}, 3)


# --- as a dataset of torch --------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 1])
def test_pictures_are_preprocessed_for_the_model(workers, micro, tmp_path):
    splits = load_splits(write(tmp_path, {"a": 4, "b": 4}), holdout=0.5)
    pictures = Pictures(splits.val, plm_core.transform_for(micro))
    x, y = next(iter(DataLoader(pictures, batch_size=4, num_workers=workers)))
    assert (tuple(x.shape), y.tolist(), pictures.classes) == ((4, 3, 32, 32), [0, 0, 1, 1], ("a", "b"))
    assert len(pictures) == 4


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("kind", ["folder", "bytes"])
def test_an_image_that_cannot_be_read_is_named(workers, kind, tmp_path):
    root = write(tmp_path, {"a": 2, "b": 2})
    (root / "b" / "1.png").write_bytes(b"text")
    dataset = load_dataset(root)
    name = rf"image '.*{root.name}/b/1\.png' cannot be read: "
    if kind == "bytes":  # the encoded bytes of Hugging Face datasets, which have no path
        bytes_of = [path.read_bytes() for path in dataset.items]
        dataset = type(dataset)("hf:x", ["row 0", "row 1", "row 2", "row 3"], dataset.labels, dataset.classes, bytes_of)
        name = "image 'row 3' of 'hf:x' cannot be read: not an image"
    batches = iter(DataLoader(Pictures(dataset, np.asarray), num_workers=workers))
    with pytest.raises(InputError, match=name):
        list(batches)
    if workers:
        batches._shutdown_workers()  # the garbage collector would wait 5 seconds for them


def test_the_digest_follows_names_labels_classes_and_order(tmp_path):
    dataset = load_dataset(npz(tmp_path / "x.npz", [0, 1, 0, 1]))
    digests = {
        digest(dataset),
        digest(dataset.take([1, 0, 2, 3])),
        digest(dataset.take([0, 1, 2])),
        digest(load_dataset(npz(tmp_path / "y.npz", [0, 1, 0, 1]))),
        digest(load_dataset(npz(tmp_path / "x.npz", [1, 0, 0, 1]))),
        digest(load_dataset(npz(tmp_path / "x.npz", ["a", "b", "a", "b"]))),
    }
    assert len(digests) == 6
    assert digest(load_dataset(npz(tmp_path / "x.npz", [0, 1, 0, 1]))) == digest(dataset)
    assert {len(value) for value in digests} == {16}
