"""Datasets from folders, npz files and Hugging Face, and the errors of bad ones."""

import logging

import numpy as np
import pytest
from PIL import Image

from plm_core.datasets import Pictures, load_dataset, load_splits
from plm_core.errors import InputError
from plm_core.utils.images import decode_image


def picture(shade, size=(5, 4)):
    return Image.new("RGB", size, (shade, 0, 0))


def folder(root, counts, ending=".png"):
    for name, count in counts.items():
        (root / name).mkdir(parents=True)
        for i in range(count):
            picture(10 * i).save(root / name / f"{i}{ending}")
    return root


def test_folder(tmp_path):
    root = folder(tmp_path, {"dog": 3, "cat": 2})
    (root / "dog" / "deep").mkdir()
    picture(99).save(root / "dog" / "deep" / "x.JPG", format="jpeg")
    (root / "dog" / "notes.txt").write_text("not an image")
    (root / ".hidden").mkdir()
    dataset = load_dataset(root)
    assert dataset.classes == ("cat", "dog")
    assert list(dataset.names) == ["cat/0.png", "cat/1.png", "dog/0.png", "dog/1.png", "dog/2.png", "dog/deep/x.JPG"]
    assert dataset.labels.tolist() == [0, 0, 1, 1, 1, 1]
    assert dataset.labels.dtype == np.int64


def test_the_train_split_of_a_folder_is_taken(tmp_path):
    folder(tmp_path / "train", {"a": 2, "b": 2})
    folder(tmp_path / "val", {"a": 1, "b": 1})
    assert list(load_dataset(tmp_path).names) == ["a/0.png", "a/1.png", "b/0.png", "b/1.png"]


def videos(root, counts):
    for name, count in counts.items():
        (root / name).mkdir(parents=True)
        for i in range(count):
            (root / name / f"{i}.mp4").touch()
        if count > 1:
            (root / name / "thumbnail.jpg").touch()
    return root


def test_videos(tmp_path):
    dataset = load_dataset(videos(tmp_path, {"walk": 2, "run": 3}))
    assert (dataset.kind, dataset.classes, dataset.labels.tolist()) == ("videos", ("run", "walk"), [0, 0, 0, 1, 1])
    assert list(dataset.names) == ["run/0.mp4", "run/1.mp4", "run/2.mp4", "walk/0.mp4", "walk/1.mp4"]
    assert dataset.items[4] == tmp_path / "walk" / "1.mp4"
    assert dataset.take([0]).kind == "videos"
    with pytest.raises(InputError, match=r"data '.*' holds videos; images are needed"):
        Pictures(dataset, lambda image: image)


def test_splits_of_videos(tmp_path, caplog):
    videos(tmp_path / "train", {"run": 10, "walk": 10, "idle": 0})
    videos(tmp_path / "valid", {"run": 1, "walk": 2})
    splits = load_splits(tmp_path)
    assert [(part.kind, len(part)) for part in (splits.train, splits.val)] == [("videos", 20), ("videos", 3)]
    assert splits.note == "3 videos of the split valid"
    assert "1 folder of" in caplog.text
    assert "has no videos: idle" in caplog.text
    splits = load_splits(tmp_path / "train")
    assert splits.note == "10 % of the videos (2 of 20) held out, seed 0"
    assert [(part.kind, len(part)) for part in (splits.train, splits.val)] == [("videos", 18), ("videos", 2)]
    folder(tmp_path / "images", {"run": 1, "walk": 2})
    (tmp_path / "valid").rename(tmp_path / "videos")
    (tmp_path / "images").rename(tmp_path / "valid")
    with pytest.raises(InputError, match=r"valid' has no videos in folders named after their classes, as in run/1.mp4"):
        load_splits(tmp_path)


@pytest.mark.parametrize(
    ("counts", "said"),
    [
        ({"run": 3}, r"has 1 class \(run\) in 3 videos; at least 2 are needed"),
        ({"run": 1, "walk": 1}, "fewer than 2 videos in every class"),
    ],
)
def test_videos_that_nothing_can_be_learnt_from(tmp_path, counts, said):
    with pytest.raises(InputError, match=said):
        load_dataset(videos(tmp_path, counts))


def test_train_may_be_a_class(tmp_path):
    folder(tmp_path, {"train": 2, "car": 2})
    assert load_dataset(tmp_path).classes == ("car", "train")


def test_empty_class_folders_are_said(tmp_path, caplog):
    root = folder(tmp_path, {"a": 2, "b": 2, "c": 0})
    with caplog.at_level(logging.WARNING, "plm_core"):
        assert load_dataset(root).classes == ("a", "b")
    assert "has no images: c" in caplog.text


def test_images_beside_the_class_folders_are_said(tmp_path, caplog):
    root = folder(tmp_path, {"a": 2, "b": 2})
    load_dataset(root)
    assert not caplog.records
    for name in ("x.jpg", ".hidden.png", "notes.txt"):
        picture(1).save(root / name, format="png")
    load_dataset(root)
    assert [record.getMessage() for record in caplog.records] == [
        f"images of {root} in no class folder, left out: 1 (x.jpg)"
    ]


def test_splits_of_unknown_names_are_said(tmp_path, caplog):
    for split in ("learn", "holdout"):
        folder(tmp_path / split, {"cat": 2, "dog": 2})
    assert load_dataset(tmp_path).classes == ("holdout", "learn")
    (line,) = (record.getMessage() for record in caplog.records)
    assert f"holdout and learn are the classes of {tmp_path}, and each holds the folders cat, dog: if these" in line
    caplog.clear()
    picture(1).save(tmp_path / "learn" / "own.png")  # so it is a class
    load_dataset(tmp_path)
    assert not caplog.records


@pytest.mark.parametrize(
    ("counts", "said"),
    [
        ({}, "no images in folders named after their classes"),
        ({"a": 0}, "no images in folders named after their classes"),
        ({"a": 3}, r"has 1 class \(a\) in 3 images; at least 2 are needed"),
        ({"a": 1, "b": 1}, "fewer than 2 images in every class"),
    ],
)
def test_folders_that_nothing_can_be_learnt_from(tmp_path, counts, said):
    with pytest.raises(InputError, match=said):
        load_dataset(folder(tmp_path, counts))


def test_classes_of_one_image_are_said(tmp_path, caplog):
    with caplog.at_level(logging.WARNING, "plm_core"):
        load_dataset(folder(tmp_path, {"a": 2, "b": 1}))
    assert "1 of 2 classes have 1 image only: b" in caplog.text


def test_neither_a_folder_nor_an_npz(tmp_path):
    with pytest.raises(InputError, match=r"does not exist; a folder, an \.npz file or hf:name"):
        load_dataset(tmp_path / "nothing")
    (tmp_path / "x.csv").write_text("")
    with pytest.raises(InputError, match=r"is a \.csv file; of files, \.npz is allowed"):
        load_dataset(tmp_path / "x.csv")


@pytest.mark.parametrize(("shape", "mode"), [((4, 5), "L"), ((4, 5, 1), "L"), ((4, 5, 3), "RGB")])
def test_npz(tmp_path, shape, mode):
    images = np.random.default_rng(0).integers(0, 256, (6, *shape), dtype=np.uint8)
    np.savez(tmp_path / "x.npz", images=images, labels=[0, 2, 0, 2, 0, 2])
    dataset = load_dataset(tmp_path / "x.npz")
    assert (dataset.classes, dataset.names[5]) == (("0", "2"), "x.npz[5]")
    assert dataset.labels.tolist() == [0, 1, 0, 1, 0, 1]
    for item, expected in zip(dataset.items, images, strict=True):
        image = decode_image(item)
        assert image.mode == mode
        np.testing.assert_array_equal(np.asarray(image), expected.squeeze())


def test_labels_of_an_npz_may_be_words_or_multi_hot(tmp_path):
    images = np.zeros((4, 2, 2), np.uint8)
    np.savez(tmp_path / "words.npz", images=images, labels=["cat", "ant", "cat", "ant"])
    words = load_dataset(tmp_path / "words.npz")
    assert (words.classes, words.labels.tolist()) == (("ant", "cat"), [1, 0, 1, 0])
    hot = np.array([[1, 0, 1], [0, 1, 0], [1, 1, 1], [0, 0, 1]])
    np.savez(tmp_path / "hot.npz", images=images, labels=hot)
    np.testing.assert_array_equal(load_dataset(tmp_path / "hot.npz").labels, hot)


def test_labels_of_one_column_are_class_numbers_and_classes_those_that_occur(tmp_path):
    images = np.zeros((4, 2, 2), np.uint8)
    for labels, classes in (([10**9, 5, 7, 5], ("5", "7", "1000000000")), ([0, 1, 1, 0], ("0", "1"))):
        for shape in ((4,), (4, 1)):
            np.savez(tmp_path / "x.npz", images=images, labels=np.reshape(labels, shape))
            dataset = load_dataset(tmp_path / "x.npz")
            assert dataset.classes == classes
            assert [int(classes[number]) for number in dataset.labels] == labels


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"x": np.zeros(2)}, "has keys x and lacks images and labels"),
        ({"images": np.zeros((2, 4, 4)), "labels": np.arange(2)}, r"images of .* are float64 \[2, 4, 4\]; uint8"),
        ({"images": np.zeros((2, 4), np.uint8), "labels": np.arange(2)}, r"are uint8 \[2, 4\]"),
        ({"images": np.zeros((2, 4, 4), np.uint8), "labels": np.arange(3)}, r"has 2 images and labels \[3\]"),
        ({"images": np.zeros((2, 4, 4), np.uint8), "labels": np.array(1)}, r"has 2 images and labels \[\]"),
        ({"images": np.zeros((2, 0, 4), np.uint8), "labels": np.arange(2)}, r"are \[2, 0, 4\]: there are no pixels"),
        ({"images": np.zeros((0, 4, 4), np.uint8), "labels": np.arange(0)}, r"are \[0, 4, 4\]: there are no pixels"),
        ({"images": np.zeros((2, 4, 4), np.uint8), "labels": np.array([0.5, 1])}, r"labels of .* are float64 \[2\]"),
        ({"images": np.zeros((2, 4, 4), np.uint8), "labels": np.array([-1, 1])}, r"labels of .* are int64 \[2\]"),
        ({"images": np.zeros((2, 4, 4), np.uint8), "labels": np.array([{}, 1])}, "cannot be read"),  # a pickle
    ],
)
def test_an_npz_that_is_none(tmp_path, arrays, said):
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(InputError, match=said):
        load_dataset(tmp_path / "x.npz")


def test_an_npz_that_is_cut(tmp_path):
    np.savez(tmp_path / "x.npz", images=np.zeros((2, 4, 4), np.uint8), labels=np.arange(2))
    whole = (tmp_path / "x.npz").read_bytes()
    (tmp_path / "x.npz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="cannot be read"):
        load_dataset(tmp_path / "x.npz")


class TestHuggingFace:
    @pytest.fixture(autouse=True)
    def _library(self):
        self.datasets = pytest.importorskip("datasets")

    def columns(self, **labels):
        return {"picture": [picture(20 * i) for i in range(4)], **labels}

    def saved(self, path, data, **features):
        kinds = self.datasets.Features({"picture": self.datasets.Image(), **features})
        self.datasets.Dataset.from_dict(data, features=kinds).save_to_disk(path)
        return path

    def test_class_labels(self, tmp_path):
        kind = self.datasets.ClassLabel(names=["cat", "dog"])
        dataset = load_dataset(self.saved(tmp_path / "x", self.columns(animal=[0, 1, 0, 1]), animal=kind))
        assert (dataset.classes, dataset.labels.tolist()) == (("cat", "dog"), [0, 1, 0, 1])
        assert list(dataset.names) == ["row 0", "row 1", "row 2", "row 3"]
        assert [decode_image(item).getpixel((0, 0))[0] for item in dataset.items] == [0, 20, 40, 60]

    def test_several_labels(self, tmp_path):
        kind = self.datasets.Sequence(self.datasets.ClassLabel(names=["x", "y", "z"]))
        dataset = load_dataset(self.saved(tmp_path / "x", self.columns(labels=[[0, 2], [], [1], [2]]), labels=kind))
        assert dataset.labels.tolist() == [[1, 0, 1], [0, 0, 0], [0, 1, 0], [0, 0, 1]]

    def test_splits_and_plain_labels(self, tmp_path):
        kinds = self.datasets.Features({"picture": self.datasets.Image(), "label": self.datasets.Value("string")})
        table = self.datasets.Dataset.from_dict(self.columns(label=["b", "a", "b", "a"]), features=kinds)
        self.datasets.DatasetDict({"test": table.select([0, 1]), "train": table}).save_to_disk(tmp_path / "x")
        dataset = load_dataset(tmp_path / "x")
        assert (dataset.classes, dataset.labels.tolist()) == (("a", "b"), [1, 0, 1, 0])

    def test_lists_of_plain_labels(self, tmp_path):
        kind = self.datasets.List(self.datasets.Value("int64"))
        path = self.saved(tmp_path / "x", self.columns(labels=[[7], [7, 10**9], [], [3]]), labels=kind)
        dataset = load_dataset(path)
        assert dataset.classes == ("3", "7", "1000000000")
        assert dataset.labels.tolist() == [[0, 1, 0], [0, 1, 1], [0, 0, 0], [1, 0, 0]]
        for name, plain, labels in (("y", kind, [[3], [9], [3], [9]]), ("z", kind.feature, [3, 9, 3, 9])):
            dataset = load_dataset(self.saved(tmp_path / name, self.columns(labels=labels), labels=plain))
            assert (dataset.classes, dataset.labels.tolist()) == (("3", "9"), [0, 1, 0, 1])
        deep = self.datasets.List(self.datasets.List(self.datasets.Value("int64")))
        labels = [[[1], [2, 3]], [[1]], [[1]], [[2]]]
        with pytest.raises(InputError, match=r"labels of .* are no numbers or words"):
            load_dataset(self.saved(tmp_path / "deep", self.columns(labels=labels), labels=deep))

    def test_a_row_without_an_image_is_named(self, tmp_path):
        data = {"picture": [None, *self.columns()["picture"][1:]], "label": [0, 1, 0, 1]}
        dataset = load_dataset(self.saved(tmp_path / "x", data, label=self.datasets.Value("int64")))
        assert dataset.image(1).getpixel((0, 0))[0] == 20
        with pytest.raises(InputError, match=r"image 'row 0' of '.*x' cannot be read: there is no image in this row"):
            dataset.image(0)

    def test_columns_splits_and_configurations_by_name(self, tmp_path):
        value = self.datasets.Value("string")
        data = self.columns(label=["b", "a", "b", "a"], kind=["x", "x", "y", "y"], mask=self.columns()["picture"][::-1])
        kinds = {"label": value, "kind": value, "mask": self.datasets.Image()}
        path = self.saved(tmp_path / "x", data, **kinds)
        with pytest.raises(InputError, match=r"has 2 columns of images in 4 rows .*hf:name,image=COLUMN"):
            load_dataset(path)
        dataset = load_dataset(f"hf:{path},label=kind,image=mask")
        assert (dataset.classes, dataset.labels.tolist()) == (("x", "y"), [0, 0, 1, 1])
        assert dataset.image(0).getpixel((0, 0))[0] == 60
        for options, said in (
            ("label=knd,image=mask", "no column of labels 'knd'; did you mean 'kind'"),
            ("image=kind", "no column of images 'kind'; there are: mask, picture"),
            ("colour=x", r"ends in 'colour=x'; config=NAME, label=COLUMN and image=COLUMN are allowed, each once"),
            ("label=", "ends in 'label='"),
            ("label=kind,label=label", "ends in 'label=label'"),
        ):
            with pytest.raises(InputError, match=said):
                load_dataset(f"hf:{path},{options}")
        table = self.datasets.load_from_disk(path).remove_columns("mask")
        self.datasets.DatasetDict({"Test": table.select([0, 1, 2]), "Train": table}).save_to_disk(tmp_path / "splits")
        assert len(load_dataset(tmp_path / "splits")) == 4
        assert len(load_dataset(f"hf:{tmp_path / 'splits'}:Test")) == 3
        with pytest.raises(InputError, match="has no split 'val', but the splits Test, Train"):
            load_dataset(f"hf:{tmp_path / 'splits'}:val")
        self.datasets.DatasetDict({"test": table, "other": table}).save_to_disk(tmp_path / "no train")
        with pytest.raises(InputError, match="no train' has no split named train, but test, other"):
            load_dataset(tmp_path / "no train")

    def test_the_configuration_reaches_the_library(self, monkeypatch):
        def load(name, config, split):
            raise RuntimeError(f"{name} {config} {split}")

        monkeypatch.setattr(self.datasets, "load_dataset", load)
        for source, called in {"a/b,config=c": "a/b c train", "a/b:test": "a/b None test"}.items():
            with pytest.raises(InputError, match=f"cannot be loaded: {called}"):
                load_dataset(f"hf:{source}")
        with pytest.raises(InputError, match="cannot be loaded: a/b None None"):
            load_splits("hf:a/b")

    def test_no_label_column(self, tmp_path):
        path = self.saved(tmp_path / "x", self.columns())
        with pytest.raises(InputError, match="has no column of labels among picture"):
            load_dataset(path)

    def test_unlabelled_rows(self, tmp_path):
        kind = self.datasets.ClassLabel(names=["cat", "dog"])
        path = self.saved(tmp_path / "x", self.columns(label=[0, 1, None, 1]), label=kind)
        with pytest.raises(InputError, match="rows without a label"):
            load_dataset(path)

    def test_no_images(self, tmp_path):
        self.datasets.Dataset.from_dict({"label": [0, 1]}).save_to_disk(tmp_path / "x")
        with pytest.raises(InputError, match="has 0 columns of images in 2 rows"):
            load_dataset(tmp_path / "x")

    def test_hub_out_of_reach(self):
        with pytest.raises(InputError, match="dataset 'hf:nobody/nothing:test' cannot be loaded: "):
            load_dataset("hf:nobody/nothing:test")
