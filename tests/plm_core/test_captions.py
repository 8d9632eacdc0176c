"""Images and videos with captions from rows of JSON and from webdataset's shards: what is read, and what is refused."""

import io
import json
import logging
import os
import pickle
import sys
import tarfile

import numpy as np
import pytest
import torch
import webdataset
from PIL import Image
from torch.utils.data import DataLoader

from plm_core import shapes
from plm_core.datasets import CaptionPairs, kind_of, load_caption_splits, load_captions
from plm_core.datasets.captions import own_caption_splits, write_captions, write_shapes
from plm_core.datasets.captions.layout import Part
from plm_core.datasets.captions.members import read_members
from plm_core.datasets.captions.shards import read_shards
from plm_core.errors import InputError, MissingDependency
from plm_core.training.seeding import Seeded


def shade(number):
    return Image.new("RGB", (4, 4), (number, 0, 0))


def red(image):
    return image.convert("RGB").getpixel((0, 0))[0]


def rows(file, *records, images=8):
    """Write a file of rows, and beside it images ``a/0.png`` ... whose red is their number."""
    (file.parent / "a").mkdir(parents=True, exist_ok=True)
    for number in range(images):
        shade(number).save(file.parent / "a" / f"{number}.png")
    file.write_text("".join(f"{record if isinstance(record, str) else json.dumps(record)}\n" for record in records))
    return file


def row(number, caption=None):
    return {"image": f"a/{number}.png", "caption": caption or f"number {number}"}


def png(image):
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def shards(folder, samples, name="%03d.tar", maxcount=3):
    """Write samples by the package itself."""
    folder.mkdir(parents=True, exist_ok=True)
    with webdataset.ShardWriter(str(folder / name), maxcount=maxcount, verbose=0) as writer:
        for sample in samples:
            writer.write(sample)
    return folder


# --- rows of JSON -----------------------------------------------------------------------------------------------


def test_rows_are_read_with_all_captions_of_an_image_together(tmp_path):
    file = rows(
        tmp_path / "captions.jsonl",
        {"image": "a/2.png", "captions": ["two", "  a pair\n"], "width": 4},
        row(0, "ein Kreis, größer als 圓"),
        {"caption": "again", "image": "a/2.png"},
        row(0, "ein Kreis, größer als 圓"),  # the same row once more
    )
    for source in (tmp_path, file, str(file)):
        captions = load_captions(source, skip_unreadable=False)
        assert (len(captions), captions.kind) == (2, "images")
        assert list(captions.names) == ["a/2.png", "a/0.png"]
        assert list(captions.texts) == ["two", "a pair", "again", "ein Kreis, größer als 圓"]
        assert captions.owner.tolist() == [0, 0, 0, 1]
        assert [red(captions.image(i)) for i in range(2)] == [2, 0]
        assert captions.media[1] == tmp_path / "a" / "0.png"
        assert captions.texts_of(0) == ["two", "a pair", "again"]
        assert captions.texts_of(-1) == captions.texts_of(1) == captions.texts[3:]


def test_the_end_of_lines_and_a_byte_order_mark_make_no_difference(tmp_path):
    plain = rows(tmp_path / "captions.jsonl", row(0, "x\u2028y"), row(1)).read_bytes()
    expected = load_captions(tmp_path).texts
    assert expected == ["x\u2028y", "number 1"]
    for changed in (
        b"\xef\xbb\xbf" + plain,
        plain.replace(b"\n", b"\r\n"),
        plain + b"\n  \n",
        plain.removesuffix(b"\n"),
        plain.decode().replace("\\u2028", "\u2028").encode(),
    ):
        (tmp_path / "captions.jsonl").write_bytes(changed)
        assert load_captions(tmp_path).texts == expected


BROKEN = {
    '{"image": "a/1.png", "caption": "x"': "no JSON: Expecting ',' delimiter, column 36",
    "[" * 100_000: "no JSON: nested too deep",
    "[1]": "a list, no object",
    "null": "null, no object",
    '{"caption": "x"}': "no field 'image' or 'video'",
    '{"image": "a/1.png", "video": "b.mp4", "caption": "x"}': "both 'image' and 'video'",
    '{"image": 3, "caption": "x"}': "'image' is a number, no path",
    '{"image": "", "caption": "x"}': "'image' is empty, no path",
    '{"image": "a/1.png"}': "no field 'caption' or 'captions'",
    '{"image": "a/1.png", "caption": " "}': "'caption' is empty",
    '{"image": "a/1.png", "caption": null}': "'caption' is null, no text",
    '{"image": "a/1.png", "captions": []}': "'captions' is empty",
    '{"image": "a/1.png", "captions": "x"}': "'captions' is no list of texts",
    '{"image": "a/1.png", "captions": ["x", {}]}': "number 2 of 'captions' is an object, no text",
    '{"image": "a/1.png", "caption": "x", "captions": ["y"]}': "both 'caption' and 'captions'",
    '{"image": "a/1.png", "caption": "\\ud83d"}': "'caption' has half a character, '\\ud83d'",
    '{"image": "a/none.png", "caption": "x"}': "no file 'a/none.png'",
    '{"image": "none/1.png", "caption": "x"}': "no file 'none/1.png'",
    '{"image": "a", "caption": "x"}': "no file 'a'",
    '{"image": "a/\\u0000.png", "caption": "x"}': "no file 'a/\\x00.png'",
    '{"image": "\\ud83d/1.png", "caption": "x"}': "no file '\\ud83d/1.png'",
}


@pytest.mark.parametrize("line", BROKEN, ids=BROKEN.values())
def test_a_broken_row_is_named_with_its_line_and_reason(line, tmp_path):
    file = rows(tmp_path / "captions.jsonl", row(0), "", line, row(1))
    with pytest.raises(InputError) as e:
        load_captions(file)
    said = f"data '{file}' has 1 broken row of 3, which --skip-unreadable leaves out: line 3 ({BROKEN[line]})"
    assert str(e.value) == said
    assert load_captions(file, skip_unreadable=True).texts == ["number 0", "number 1"]


def test_broken_rows_are_counted_and_listed_or_left_out(tmp_path, caplog):
    file = rows(tmp_path / "captions.jsonl", *[row(i) if i % 4 else "{}" for i in range(32)], images=32)
    file.write_bytes(file.read_bytes().replace(b"number 31", b"number \xff"))
    with pytest.raises(InputError, match=r"has 9 broken rows of 32, .*: line 1 \(no field .*line 17 .* and 4 more$"):
        load_captions(file)
    with caplog.at_level(logging.WARNING, "plm_core"):
        captions = load_captions(file, skip_unreadable=True)
    assert len(captions) == len(captions.texts) == 23
    assert captions.left_out == tuple(f"line {i + 1}" for i in (*range(0, 32, 4), 31))
    assert "has 9 broken rows of 32, left out: line 1 (" in caplog.text
    assert "line 32 (no UTF-8, byte " in caplog.text
    rows(file, "{}", "{}")
    with pytest.raises(InputError, match=r"has 2 broken rows of 2: line 1 .*, line 2 \(no field 'image' or 'video'\)$"):
        load_captions(file, skip_unreadable=True)
    rows(file, "", "")
    with pytest.raises(InputError, match=r"captions\.jsonl' has no rows$"):
        load_captions(file)


def test_images_that_cannot_be_read_are_an_error_or_left_out_with_their_captions(tmp_path, caplog):
    file = rows(tmp_path / "captions.jsonl", *map(row, range(4)), row(1, "more"), "{}")
    (tmp_path / "a" / "1.png").write_bytes(b"nothing")
    rows(file, *map(row, range(4)), row(1, "more"), images=0)
    assert len(load_captions(file)) == 4
    with pytest.raises(
        InputError, match=r"^1 of 4 images of '.*' cannot be read, which .*: a/1\.png \(not an image\)$"
    ):
        load_captions(file, skip_unreadable=False)
    with pytest.raises(InputError, match=r"1\.png' cannot be read: not an image"):
        load_captions(file).image(1)
    with caplog.at_level(logging.WARNING, "plm_core"):
        captions = load_captions(file, skip_unreadable=True)
    assert "1 of 4 images of" in caplog.text
    assert (list(captions.names), captions.left_out) == (["a/0.png", "a/2.png", "a/3.png"], ("a/1.png",))
    assert list(captions.texts) == ["number 0", "number 2", "number 3"]
    assert captions.owner.tolist() == [0, 1, 2]


def test_images_of_all_modes_are_read_by_the_rule_of_all_images(tmp_path):
    file = rows(tmp_path / "captions.jsonl", images=0)
    turned = Image.new("RGB", (4, 2))
    turned.getexif()[0x0112] = 6
    turned.save(tmp_path / "a" / "turned.png", exif=turned.getexif())
    Image.new("L", (4, 2), 7).save(tmp_path / "a" / "grey.png")
    Image.new("RGBA", (4, 2), (9, 9, 9, 0)).save(tmp_path / "a" / "clear.png")
    Image.new("P", (4, 2)).save(tmp_path / "a" / "palette.png")
    names = ("turned", "grey", "clear", "palette")
    rows(file, *[{"image": f"a/{name}.png", "caption": name} for name in names], images=0)
    captions = load_captions(file, skip_unreadable=False)
    images = [captions.image(i) for i in range(4)]
    assert [image.mode for image in images] == ["RGB", "L", "RGB", "RGB"]
    assert images[0].size == (2, 4)
    assert images[2].getpixel((0, 0)) == (255, 255, 255)


def test_images_and_videos_do_not_mix(tmp_path):
    file = rows(tmp_path / "captions.jsonl", row(1), {"video": "b.mp4", "caption": "moves"})
    (tmp_path / "b.mp4").touch()
    with pytest.raises(InputError, match=r"has images \(line 1\) and videos \(line 2\); images or videos are allowed"):
        load_captions(file)


def test_absolute_paths_are_allowed(tmp_path):
    rows(tmp_path / "elsewhere" / "captions.jsonl", row(3))
    file = tmp_path / "captions.jsonl"
    file.write_text(json.dumps({"image": str(tmp_path / "elsewhere" / "a" / "3.png"), "caption": "three"}))
    assert red(load_captions(file).image(0)) == 3


# --- shards -----------------------------------------------------------------------------------------------------

SAMPLES = [
    {"__key__": "0000", "jpg": np.full((4, 4, 3), 0, np.uint8), "txt": "zero\n"},
    {"__key__": "a/b", "c.png": png(shade(1)), "txt": "größer"},  # the file is a/b.c.png
    {"__key__": "a.b/deep/2", "png": png(shade(2)), "json": {"caption": "two", "url": "x"}},
    {"__key__": "3", "webp": png(shade(3)), "json": {"captions": ["three", "a third"]}},
    {"__key__": "3/4", "PNG": png(shade(4)), "txt": "four", "json": {"caption": None}, "cls": 4},
    {"__key__": "5", "mask.png": png(shade(0)), "png": png(shade(5)), "txt": "five"},
    {"__key__": "x" * 150 + "/long", "png": png(shade(6)), "txt": "six"},
]


def test_shards_of_webdataset_are_read_as_the_package_reads_them(tmp_path):
    folder = shards(tmp_path / "x", SAMPLES)
    files = sorted(map(str, folder.glob("*.tar")))
    assert len(files) == 3
    captions = load_captions(folder, skip_unreadable=False)
    streamed = list(webdataset.WebDataset(files, shardshuffle=False))
    keys = [sample["__key__"] for sample in streamed]
    assert [name.partition("/")[2].rpartition("/")[2].partition(".")[0] for name in captions.names] == [
        key.rpartition("/")[2] for key in keys
    ]
    chosen = ("jpg", "c.png", "png", "webp", "png", "png", "png")
    assert [captions.media[i] for i in range(7)] == [s[e] for s, e in zip(streamed, chosen, strict=True)]
    assert [red(captions.image(i)) for i in range(7)] == list(range(7))
    assert list(captions.texts) == ["zero", "größer", "two", "three", "a third", "four", "five", "six"]
    assert captions.owner.tolist() == [0, 1, 2, 3, 3, 4, 5, 6]
    assert captions.names[1] == "000.tar/a/b.c.png"
    single = load_captions(folder / "001.tar")
    assert (list(single.texts), red(single.image(1))) == (["three", "a third", "four", "five"], 4)
    assert list(pickle.loads(pickle.dumps(captions)).media) == list(captions.media)


def test_meta_files_and_files_without_a_key_are_left_out_as_by_the_package(tmp_path):
    path = tmp_path / "x.tar"
    with tarfile.open(path, "w") as tar:
        for name in ("__meta__", "__about__/1.txt", "d/README", "._1.png", "1.png", "1.txt"):
            contents = png(shade(1)) if name.endswith(".png") else b"one"
            info = tarfile.TarInfo(name)
            info.size = len(contents)
            tar.addfile(info, io.BytesIO(contents))
        tar.add(tmp_path, "folder.png", recursive=False)
    streamed = list(webdataset.WebDataset(str(path), shardshuffle=False))
    assert [sample["__key__"] for sample in streamed] == ["1"]
    assert list(load_captions(path).names) == ["x.tar/1.png"]


def archive(path, form, names=("1.png", "1.txt", "grün/2.png", "x" * 96 + ".png", "y/" * 90 + "3.png", "4.txt")):
    """Write an archive with files, folders and links between them; every file holds its own name."""
    with tarfile.open(path, "w", format=form) as tar:
        for number, name in enumerate(names):
            info = tarfile.TarInfo(name)
            info.size = len(name.encode())
            info.mtime = number + 0.5  # a fraction needs an extended header
            tar.addfile(info, io.BytesIO(name.encode()))
            for kind in (tarfile.DIRTYPE, tarfile.SYMTYPE) if number == 3 else ():
                info = tarfile.TarInfo(f"other{number}")
                info.type, info.linkname = kind, "1.png"
                tar.addfile(info)
    return path


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("odd", [False, True])
def test_headers_are_read_as_tarfile_reads_them(form, odd, tmp_path):
    names = ("1.png", "2.txt", "3.txt", "4.txt", "sub/5.txt")
    path = archive(tmp_path / "x.tar", form) if odd else archive(tmp_path / "x.tar", form, names)
    with tarfile.open(path) as tar:
        expected = [(info.name, info.offset_data, info.size) for info in tar if info.isreg()]
    with open(path, "rb") as file:
        found = []
        for member in read_members(file):
            found.append(tuple(member))
            file.seek(member.offset)  # the caller may move the position
            assert file.read(member.size).decode() == member.name
    assert found == expected
    assert len(found) == (6 if odd else 5)


def test_a_damaged_header_does_not_end_a_shard_silently(tmp_path):
    path = archive(tmp_path / "x.tar", tarfile.USTAR_FORMAT, ("1.png", "1.txt", "2.png", "2.txt"))
    whole = path.read_bytes()
    with open(path, "rb") as file:
        header = [*read_members(file)][2].offset - 512
    path.write_bytes(whole[: header + 5] + b"?" + whole[header + 6 :])
    with tarfile.open(path) as tar:
        assert tar.getnames() == ["1.png", "1.txt"]  # so would webdataset
    with pytest.raises(InputError, match=r"1 broken sample of 2, .*: x\.tar \(cut off or damaged: bad header\)$"):
        load_captions(path)
    assert list(read_shards(Part(str(path), "x", (path,)), skip=True).texts) == ["1.txt"]
    path.write_bytes(whole[: header + 100])
    with pytest.raises(InputError, match=r"x\.tar \(cut off or damaged: bad header\)$"):
        load_captions(path)
    path.write_bytes(whole[:header])  # without the blocks at the end, which writers that are killed do not write
    assert len(load_captions(path)) == 1


@pytest.mark.parametrize(
    ("sample", "said"),
    [
        ({"txt": "x"}, "no image or video among txt"),
        ({"png": b""}, "no .txt and no .json with a caption"),
        ({"png": b"", "txt": " \n"}, ".txt is empty"),
        ({"png": b"", "txt": b"\xff"}, "k.txt is no UTF-8"),
        ({"png": b"", "json": b"{"}, ".json is no JSON: Expecting property name enclosed in double quotes"),
        ({"png": b"", "json": b"[]"}, ".json is a list, no object"),
        ({"png": b"", "json": {"url": "x"}}, "no field 'caption' or 'captions'"),
        ({"png": b"", "jpg": b"", "txt": "x"}, "more than one image or video: jpg, png"),
        ({"a.png": b"", "b.png": b"", "txt": "x"}, "more than one image or video: a.png, b.png"),
    ],
)
def test_a_broken_sample_is_named_with_its_reason(sample, said, tmp_path):
    folder = shards(tmp_path, [*SAMPLES[:3], {"__key__": "d/k", **sample}])
    with pytest.raises(InputError) as e:
        load_captions(folder)
    assert str(e.value).endswith(f"has 1 broken sample of 4, which --skip-unreadable leaves out: 001.tar/d/k ({said})")
    assert len(load_captions(folder, skip_unreadable=True)) == 3


def test_a_file_that_is_in_a_sample_twice_is_named(tmp_path):
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        for name in ("a:1.png", "a:1.txt", "a:1.png"):
            info = tarfile.TarInfo(name)
            info.size = 3
            tar.addfile(info, io.BytesIO(b"abc"))
    with pytest.raises(InputError, match=r"1 broken sample of 2, .*: x\.tar/a:1\.png \(twice in one sample\)$"):
        load_captions(tmp_path / "x.tar")


def test_shards_that_are_cut_off_or_no_tar_are_named(tmp_path):
    shards(tmp_path, [SAMPLES[1], SAMPLES[2], SAMPLES[4]])
    path = tmp_path / "000.tar"
    whole = path.read_bytes()
    captions = load_captions(path)
    path.write_bytes(whole[: int(captions.media.offset[2]) + 20])
    with pytest.raises(InputError, match=r"000\.tar \(cut off or damaged: unexpected end of data\)"):
        load_captions(path)
    assert list(load_captions(path, skip_unreadable=True).texts) == ["größer", "two"]
    with pytest.raises(InputError, match=r"image '000\.tar/3/4\.PNG' of .* the shard ends in the middle of it"):
        captions.image(2)
    for contents in (b"", b"not a tar file" * 100):
        path.write_bytes(contents)
        with pytest.raises(InputError, match=r"shard '.*000\.tar' is no plain tar file: "):
            load_captions(path)
    with tarfile.open(path, "w:gz") as tar:
        tar.add(tmp_path, "x.txt", recursive=False)
    with pytest.raises(InputError, match=r"is no plain tar file: "):
        load_captions(path)
    with tarfile.open(path, "w"):
        pass
    with pytest.raises(InputError, match=r"has no samples$"):
        load_captions(path)


def test_shards_without_webdataset_name_the_extra(tmp_path, monkeypatch):
    shards(tmp_path, SAMPLES)
    monkeypatch.setitem(sys.modules, "webdataset.tariterators", None)
    with pytest.raises(MissingDependency, match=r"captions in tar shards need webdataset: install plm-core\[webd"):
        load_captions(tmp_path)


# --- splits -----------------------------------------------------------------------------------------------------


def layouts(root):
    """Yield folders of each layout with splits, with 3 images to train on and 2 to judge by."""
    train, val = [row(0), row(1), row(2)], [row(3), row(4)]
    rows(root / "1" / "train" / "captions.jsonl", *train)
    rows(root / "1" / "val" / "captions.jsonl", *val)
    (root / "1" / "old.tar").touch()
    yield root / "1"
    rows(root / "2" / "train.jsonl", *train)
    rows(root / "2" / "val.jsonl", *val)
    yield root / "2"
    numbered = [{"__key__": str(i), "png": png(shade(i)), "txt": f"number {i}"} for i in range(5)]
    shards(root / "3" / "train", numbered[:3], maxcount=2)
    shards(root / "3" / "val", numbered[3:])
    yield root / "3"
    shards(root / "4", numbered[:3], "train-%06d.tar", maxcount=2)
    shards(root / "4", numbered[3:], "val-%06d.tar")
    yield root / "4"


def test_the_splits_of_each_layout(tmp_path):
    for folder in layouts(tmp_path):
        assert kind_of(folder) == "captions"
        splits = load_caption_splits(folder)
        assert list(splits.train.texts) == ["number 0", "number 1", "number 2"], folder
        assert [red(splits.val.image(i)) for i in range(2)] == [3, 4]
        assert (splits.note, splits.name) == ("2 images of the split val", "val")
        assert list(load_captions(folder).texts) == list(splits.train.texts)


def test_rows_beside_folders_that_are_named_like_splits_are_one_part(tmp_path):
    file = rows(tmp_path / "captions.jsonl", row(0))
    for name in ("test", "val"):
        (tmp_path / name).mkdir()
    assert kind_of(tmp_path) == "captions"
    assert load_captions(tmp_path).source == str(file)
    assert own_caption_splits(tmp_path)[1] is None


def test_a_share_is_held_out_with_all_captions(tmp_path):
    file = rows(
        tmp_path / "captions.jsonl", *[row(i) for i in range(20)], *[row(i, f"again {i}") for i in range(20)], images=20
    )
    splits = load_caption_splits(file, seed=3, holdout=0.2)
    assert (len(splits.train), len(splits.val)) == (16, 4)
    assert splits.note == "20 % of the images (4 of 20) held out, seed 3"
    assert sorted([*splits.train.names, *splits.val.names]) == sorted(load_captions(file).names)
    for part in (splits.train, splits.val):
        for i in range(len(part)):
            number = red(part.image(i))
            assert part.texts_of(i) == [f"number {number}", f"again {number}"]
    again, other = (load_caption_splits(file, seed=seed, holdout=0.2) for seed in (3, 4))
    assert again.val.names == splits.val.names != other.val.names
    assert again.train.digest() == splits.train.digest()
    with pytest.raises(InputError, match=r"holdout is 1; a number between 0 and 1"):
        load_caption_splits(file, holdout=1)
    rows(file, row(1))
    with pytest.raises(InputError, match=r"has 1 of the images; 2 or more are needed"):
        load_caption_splits(file)


def test_sources_without_captions_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"none' does not exist; a folder, a \.jsonl file or a \.tar file is allowed"):
        load_captions(tmp_path / "none")
    (tmp_path / "x.csv").touch()
    for source in (tmp_path, tmp_path / "x.csv"):
        with pytest.raises(InputError, match=r"has no captions; expected captions\.jsonl with rows such as"):
            load_captions(source)


def test_the_digest_follows_names_captions_and_their_owners(tmp_path):
    def digest(*records):
        return load_captions(rows(tmp_path / "captions.jsonl", *records)).digest()

    base = digest(row(0, "a"), row(1, "b"), row(1, "c"))
    assert base == digest(row(0, "a"), row(1, "b"), row(1, "c"))
    others = {
        digest(row(1, "a"), row(0, "b"), row(0, "c")),
        digest(row(0, "a"), row(1, "b"), row(1, "d")),
        digest(row(0, "a"), row(0, "b"), row(1, "c")),
        digest(row(1, "b"), row(1, "c"), row(0, "a")),
    }
    assert len(others - {base}) == 4


# --- pairs for torch --------------------------------------------------------------------------------------------


def tensor(image):
    return torch.tensor(red(image))


def test_pairs_are_images_and_one_caption_each(tmp_path):
    records = [{"image": f"a/{i}.png", "captions": [f"{i} {word}" for word in "abc"]} for i in range(8)]
    captions = load_captions(rows(tmp_path / "captions.jsonl", *records))
    fixed = CaptionPairs(captions, tensor, training=False)
    assert len(fixed) == 8
    assert fixed[3] == (3, "3 a")
    numbers, texts = next(iter(DataLoader(fixed, batch_size=4)))
    assert (numbers.tolist(), list(texts)) == ([0, 1, 2, 3], ["0 a", "1 a", "2 a", "3 a"])
    assert CaptionPairs(captions, tensor, len, training=False)[5] == (5, 3)


def test_a_drawn_caption_is_a_function_of_seed_epoch_and_index(tmp_path):
    records = [{"image": f"a/{i}.png", "captions": list("abcd")} for i in range(8)]
    captions = load_captions(rows(tmp_path / "captions.jsonl", *records))

    def drawn(seed, epoch, order=range(8)):
        data = Seeded(CaptionPairs(captions, tensor), seed, 1)
        data.epoch = epoch
        return [texts for _, texts in sorted((i, data[i][1][0][1]) for i in order)]

    first = drawn(0, 0)
    assert first == drawn(0, 0, reversed(range(8)))
    assert len(set(first)) > 1
    assert drawn(0, 1) != first != drawn(1, 0)
    seen = {text for epoch in range(12) for text in drawn(0, epoch)}
    assert seen == set("abcd")


def test_workers_read_shards(tmp_path):
    captions = load_captions(shards(tmp_path, SAMPLES))
    loader = DataLoader(CaptionPairs(captions, tensor, training=False), batch_size=2, num_workers=2)
    assert [number for numbers, _ in loader for number in numbers.tolist()] == list(range(7))


# --- writing ----------------------------------------------------------------------------------------------------


def test_written_captions_are_read_back(tmp_path):
    pixels = shapes.Images("train", size=32, count=1)[0].image
    written = write_captions(tmp_path / "x", [(shade(3), "three"), (pixels, ["a", "größer"])])
    assert written == tmp_path / "x" / "captions.jsonl"
    captions = load_captions(tmp_path / "x", skip_unreadable=False)
    assert list(captions.texts) == ["three", "a", "größer"]
    assert red(captions.image(0)) == 3
    assert np.array_equal(np.asarray(captions.image(1)), pixels)
    with pytest.raises(InputError, match=r"x' has a file captions\.jsonl already; name another folder"):
        write_captions(tmp_path / "x", [(shade(3), "three")])
    for medium, said in (
        (np.zeros((4, 4)), r"item 0 is float64 \[4, 4\]; a PIL image or uint8 \[H, W, 3\]"),
        ("x.png", "item 0 is a str; a PIL"),
        (Image.new("CMYK", (4, 4)), "item 0 cannot be written as PNG: cannot write mode CMYK"),
    ):
        with pytest.raises(InputError, match=said):
            write_captions(tmp_path / "y", [(medium, "x")])
    with pytest.raises(InputError, match="items is empty"):
        write_captions(tmp_path / "y", [])
    assert not os.path.exists(tmp_path / "y" / "captions.jsonl")


def test_the_world_of_shapes_is_written_as_captions(tmp_path):
    write_shapes(tmp_path, train=4, val=2, size=32, seed=5, background="plain")
    splits = load_caption_splits(tmp_path, skip_unreadable=False)
    for part, split, count in ((splits.train, "train", 4), (splits.val, "heldout", 2)):
        world = shapes.Images(split, size=32, count=count, seed=5, background="plain")
        assert list(part.texts) == [scene.caption for scene in world]
        assert all(np.array_equal(np.asarray(part.image(i)), world[i].image) for i in range(count))
    with pytest.raises(InputError, match="kind is 'coco'; images and videos are allowed"):
        write_shapes(tmp_path / "x", "coco")


def test_videos_have_captions_too(tmp_path):
    write_shapes(tmp_path / "x", "videos", train=3, val=1, size=32, frames=4)
    splits = load_caption_splits(tmp_path / "x", skip_unreadable=False)
    world = shapes.Clips("train", size=32, frames=4, count=3)
    assert (splits.train.kind, splits.note) == ("videos", "1 videos of the split val")
    assert list(splits.train.texts) == [clip.caption for clip in world]
    pairs = CaptionPairs(splits.train, lambda video: video.read(range(len(video))))
    frames, caption = pairs[1]
    assert np.array_equal(frames.numpy(), world[1].frames)
    assert caption == world[1].caption
    with pytest.raises(InputError, match="holds videos; images are needed"):
        splits.train.image(0)
    contents = (tmp_path / "x" / "train" / "videos" / "000002.mp4").read_bytes()
    folder = shards(tmp_path / "y", [{"__key__": "a", "mp4": contents, "txt": "moves"}])
    in_shard = load_captions(folder, skip_unreadable=False)
    assert np.array_equal(in_shard.video(0).read([3])[0].numpy(), world[2].frames[3])
    write_captions(tmp_path / "z" / "train", [(shade(1), "one")])
    write_captions(tmp_path / "z" / "val", [(world[0].frames, "moves")])
    with pytest.raises(InputError, match="has images to train on and videos in the split val"):
        load_caption_splits(tmp_path / "z")
