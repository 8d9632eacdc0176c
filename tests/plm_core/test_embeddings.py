"""The embeddings of a folder in one file: rows, both formats, resuming, files that cannot be read, and Ray."""

import json
import os
import shutil
import signal
import sys
import time
from importlib.util import find_spec
from types import SimpleNamespace

import numpy as np
import pytest
import timm
import torch
import transformers
from PIL import Image
from safetensors.numpy import save_file

import plm_core
from plm_core.embeddings import Embeddings, Provenance, embed_folder, embed_images, images, partial, ray_backend, store
from plm_core.embeddings.images import embed_dataset
from plm_core.errors import FileError, InputError, MissingDependency, NotSupported, PlmError, WeightsError
from plm_core.packing import operators
from plm_core.prediction.reading import ImageFiles
from plm_core.utils.images import open_image, pixels_of

MODEL = "hiera_micro_shapes"
COUNT = 48


@pytest.fixture
def folder(pictures, tmp_path):
    """48 pictures in three folders, which a test may change."""
    return shutil.copytree(pictures / "train", tmp_path / "photos")


@pytest.fixture(scope="module")
def model():
    return plm_core.create_model(MODEL, pretrained=True).eval()


@pytest.fixture(scope="module")
def expected(model, pictures):
    """The embedding of each picture, one by one: path -> [D]."""
    root, preprocess = pictures / "train", plm_core.transform_for(model)
    with torch.inference_mode():
        return {
            file.relative_to(root).as_posix(): plm_core.embed(model, preprocess(open_image(file))[None])[0].numpy()
            for file in root.rglob("*.png")
        }


@pytest.fixture
def calls(monkeypatch):
    """The sizes of the batches that a model embeds. After ``calls.most`` of them, it fails."""
    calls, real = SimpleNamespace(sizes=[], most=10**6, error=RuntimeError("the power is gone")), images.embed

    def embed(model, x):
        if len(calls.sizes) == calls.most:
            raise calls.error
        calls.sizes.append(len(x))
        return real(model, x)

    monkeypatch.setattr(images, "embed", embed)
    monkeypatch.setattr(partial, "ROWS", 8)
    return calls


def assert_rows(table, expected, **tolerances):
    for path, vector in zip(table.paths, table.vectors, strict=True):
        np.testing.assert_allclose(vector, expected[path], **{"rtol": 1e-4, "atol": 1e-5, **tolerances})


# --- rows and files -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", [".safetensors", ".parquet"])
def test_the_file_alone_says_which_model_made_it_and_which_image_each_row_is(folder, tmp_path, expected, ending):
    report = embed_folder(folder, MODEL, tmp_path / f"x{ending}", batch_size=7)
    table = Embeddings.load(tmp_path / f"x{ending}")
    assert table.paths == sorted(expected, key=lambda path: (path.split("/")[0], int(path.split("/")[1][:-4])))
    assert_rows(table, expected)
    assert table.files == [folder / path for path in table.paths]
    assert table.model == MODEL
    assert table.provenance == report.embeddings.provenance
    assert (table.provenance.dtype, table.provenance.transforms) == ("fp32", ())
    assert table.provenance.version == plm_core.__version__
    np.testing.assert_array_equal(table.vectors, report.embeddings.vectors)
    assert (report.resumed, report.unreadable, len(table)) == (0, {}, COUNT)
    assert [path.name for path in tmp_path.iterdir() if path != folder] == [f"x{ending}"]


@pytest.mark.parametrize("ending", [".safetensors", ".parquet"])
def test_float16_is_half_the_size(folder, tmp_path, expected, ending):
    sizes = []
    for kind in ("float32", "float16"):
        embed_folder(folder, MODEL, tmp_path / f"{kind}{ending}", store=kind)
        table = Embeddings.load(tmp_path / f"{kind}{ending}")
        assert table.vectors.dtype == kind
        assert_rows(table, expected, rtol=2e-3, atol=1e-3)
        sizes.append((tmp_path / f"{kind}{ending}").stat().st_size)
    saved = COUNT * table.vectors.shape[1] * 2
    assert saved * 0.8 < sizes[0] - sizes[1] < saved * 1.2


def test_rows_do_not_depend_on_workers(folder, tmp_path, expected):
    (folder / "star" / "99.png").write_text("no image")
    report = embed_folder(folder, MODEL, tmp_path / "x.safetensors", num_workers=2, batch_size=5)
    assert list(report.unreadable) == ["star/99.png"]
    assert_rows(report.embeddings, expected)


def test_images_of_several_sizes_share_a_batch(pictures, tmp_path):
    files = sorted((pictures / "val").rglob("*.png"))[:2]
    Image.open(files[1]).resize((64, 32)).save(tmp_path / "wide.png")
    net = timm.create_model("test_resnet").eval()
    data = ImageFiles([files[0], tmp_path / "wide.png"], pixels_of)
    [batch] = embed_dataset(net, data, batch_size=2, num_workers=0, dtype="fp32")
    with torch.inference_mode():
        each = [plm_core.embed(net, pixels_of(open_image(file))[None])[0].numpy() for file in data.files]
    np.testing.assert_allclose(batch.vectors, each, rtol=1e-4, atol=1e-5)


def test_models_of_other_sources_and_of_folders(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    headless = timm.create_model("test_vit", num_classes=0, img_size=32)
    plm_core.weights.save_pretrained(headless, "headless", "mit")
    size = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    vit = transformers.ViTForImageClassification(transformers.ViTConfig(**size, image_size=32, patch_size=8))
    vit.save_pretrained("vit")
    transformers.ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained("vit")
    for name, full, width in (
        ("headless", f"local-dir:{tmp_path}/headless", 64),
        ("transformers:vit", f"transformers:{tmp_path}/vit", 24),
    ):
        table = embed_folder("photos", name, "x.safetensors").embeddings
        assert (table.model, table.provenance.folder) == (full, str(folder))
        assert table.vectors.shape == (COUNT, width)
        again = plm_core.create_model(table.model, pretrained=True).eval()
        [batch] = embed_images(again, table.files[:3])
        np.testing.assert_allclose(batch.vectors, table.vectors[:3], rtol=1e-4, atol=1e-5)


def test_transforms_are_applied_and_recorded(folder, tmp_path, expected):
    name, out = "tome_micro_shapes", tmp_path / "x.safetensors"
    plain = embed_folder(folder, name, out).embeddings
    report = embed_folder(folder, name, out, transforms=["tome:r=4"], device="cpu", fast=True)
    merged = report.embeddings
    assert bool(report.packed) is not bool(operators.missing())
    assert merged.provenance.transforms == ("tome:r=4", "packed")
    assert merged.provenance.weights == plain.provenance.weights
    assert np.abs(merged.vectors - plain.vectors).max() > 1e-3


def test_a_name_that_is_not_unicode(tmp_path, pictures, expected):
    first = next(iter(expected))
    name = os.fsdecode(b"caf\xe9.png")
    (tmp_path / "photos").mkdir()
    shutil.copy(pictures / "train" / first, tmp_path / "photos" / name)
    embed_folder(tmp_path / "photos", MODEL, tmp_path / "x.safetensors")
    assert Embeddings.load(tmp_path / "x.safetensors").paths == [name]
    with pytest.raises(InputError, match=r"is not valid Unicode, which parquet requires: write \.safetensors"):
        embed_folder(tmp_path / "photos", MODEL, tmp_path / "x.parquet")


def table_of(count=2, kind=np.float32):
    made_by = Provenance(model="test_vit", folder="/photos", weights="0", preprocessing="0")
    return Embeddings(np.zeros((count, 4), kind), [f"{i}.png" for i in range(count)], made_by)


def test_paths_that_a_header_cannot_hold_are_refused_before_the_work(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(store, "LARGEST_HEADER", 100)
    with pytest.raises(InputError, match=r"the 48 paths take \d+ bytes, too many for \.safetensors: write \.parquet"):
        embed_folder(folder, "not-even-looked-at", tmp_path / "x.safetensors")


def test_parquet_needs_an_extra(folder, tmp_path, monkeypatch):
    path = table_of().save(tmp_path / "x.parquet")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    for work in (
        lambda: embed_folder(folder, "not-even-looked-at", tmp_path / "y.parquet"),
        lambda: Embeddings.load(path),
    ):
        with pytest.raises(MissingDependency, match=r"parquet needs pyarrow: install plm-core\[parquet\]"):
            work()


def test_a_file_that_holds_no_embeddings_is_one_line(tmp_path):
    import pyarrow.parquet

    good = {ending: table_of().save(tmp_path / f"x{ending}") for ending in (".safetensors", ".parquet")}
    save_file({"embeddings": np.zeros((2, 3), np.float32)}, tmp_path / "plain.safetensors")
    pyarrow.parquet.write_table(pyarrow.table({"path": ["a"]}), tmp_path / "plain.parquet")
    for ending, path in good.items():
        (tmp_path / f"cut{ending}").write_bytes(path.read_bytes()[:-20])
        for name, said in (
            ("nowhere", "cannot be read: there is no such file"),
            ("cut", "cannot be read: "),
            ("plain", "holds no embeddings of plm embed"),
        ):
            with pytest.raises(InputError, match=f"{name}{ending}' {said}"):
                Embeddings.load(tmp_path / f"{name}{ending}")
    (tmp_path / "x.csv").touch()
    with pytest.raises(InputError, match=r"does not end in \.safetensors or \.parquet"):
        Embeddings.load(tmp_path / "x.csv")
    with pytest.raises(InputError, match="nofile' cannot be read: there is no such file"):
        Embeddings.load(tmp_path / "nofile")


def test_a_table_is_checked():
    with pytest.raises(InputError, match=r"vectors are float64 \[2, 4\]; float32 or float16 \[N, D\] is expected"):
        table_of(kind=np.float64)
    with pytest.raises(InputError, match="there are 1 paths for 2 vectors"):
        Embeddings(table_of().vectors, ["a"], table_of().provenance)


# --- resuming -----------------------------------------------------------------------------------------------------


def test_a_run_that_was_interrupted_is_resumed(folder, tmp_path, expected, calls):
    out, calls.most = tmp_path / "x.safetensors", 5
    with pytest.raises(RuntimeError, match="the power is gone"):
        embed_folder(folder, MODEL, out, batch_size=4)
    assert not out.exists()
    calls.most = 10**6
    (folder / "star" / "new.png").write_bytes(next((folder / "star").iterdir()).read_bytes())
    report = embed_folder(folder, MODEL, out, batch_size=6)
    assert report.resumed == 20  # also the batch that was not on disk when the error came
    assert sum(calls.sizes) == COUNT + 1
    assert len(report.embeddings) == COUNT + 1
    new = report.embeddings.paths.index("star/new.png")
    assert_rows(report.embeddings, expected | {"star/new.png": report.embeddings.vectors[new]})
    assert not (tmp_path / "x.safetensors.partial").exists()


def test_other_models_and_settings_start_afresh_and_changed_images_are_computed_again(
    folder, tmp_path, expected, calls, caplog
):
    out = tmp_path / "x.safetensors"
    tome = {"model": "tome_micro_shapes"}
    settings = [{}, {"dtype": "bf16"}, {"store": "float16"}, tome, tome | {"transforms": ["tome:r=1"]}]
    for options in settings:
        calls.sizes, calls.most = [], 3
        with pytest.raises(RuntimeError, match="the power is gone"):
            embed_folder(folder, **{"model": MODEL, "out": out, "batch_size": 4, **options})
        assert calls.sizes == [4, 4, 4], options  # else some were there already
    assert caplog.text.count("has results of another model or setting; starting afresh") == 4
    calls.sizes = []
    with pytest.raises(RuntimeError, match="the power is gone"):
        embed_folder(folder, MODEL, out, batch_size=4)
    calls.most = 10**6
    first, second = sorted(path for path in expected if path.startswith("circle"))[:2]
    (folder / first).write_bytes((folder / second).read_bytes())
    report = embed_folder(folder, MODEL, out)
    assert report.resumed == 11
    assert_rows(report.embeddings, expected | {first: expected[second]})


def test_a_damaged_part_is_computed_again(folder, tmp_path, expected, calls):
    calls.most = 4
    with pytest.raises(RuntimeError):
        embed_folder(folder, MODEL, tmp_path / "x.safetensors", batch_size=8)
    parts = sorted((tmp_path / "x.safetensors.partial").glob("*.safetensors"))
    assert len(parts) == 4
    parts[1].write_bytes(parts[1].read_bytes()[:-50])
    calls.most = 10**6
    report = embed_folder(folder, MODEL, tmp_path / "x.safetensors")
    assert report.resumed == 24
    assert_rows(report.embeddings, expected)


def test_a_kill_loses_only_what_is_not_on_disk(folder, tmp_path, expected, forked, monkeypatch):
    out, real = tmp_path / "x.safetensors", images.embed
    monkeypatch.setattr(partial, "ROWS", 8)

    def slow():
        images.embed = lambda model, x: (time.sleep(0.05), real(model, x))[1]
        embed_folder(folder, MODEL, out, batch_size=4)

    child = forked(slow)
    while len(list(tmp_path.glob("x.safetensors.partial/0*"))) < 2:
        assert child.exitcode is None
        time.sleep(0.01)
    os.kill(child.pid, signal.SIGKILL)
    child.join()
    assert not out.exists()
    report = embed_folder(folder, MODEL, out)
    assert 16 <= report.resumed < COUNT
    assert_rows(report.embeddings, expected)
    assert [path.name for path in tmp_path.iterdir() if path != folder] == [out.name]


def test_two_processes_do_not_write_the_same_file(folder, tmp_path):
    with (
        partial.PartialResults(tmp_path / "x.safetensors", {}),
        pytest.raises(InputError, match=r"another process writes to '.*x\.safetensors\.partial'"),
    ):
        embed_folder(folder, MODEL, tmp_path / "x.safetensors")


def test_a_full_disk_is_one_line_and_leaves_no_file(folder, tmp_path, full_disk_after):
    with full_disk_after(2000), pytest.raises(FileError, match=r"cannot write .*x\.safetensors"):
        embed_folder(folder, MODEL, tmp_path / "x.safetensors")
    assert not (tmp_path / "x.safetensors").exists()


# --- what cannot be embedded --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"folder": "nowhere"}, InputError, "folder 'nowhere' does not exist; a folder of images is expected"),
        ({"folder": __file__}, InputError, "is a file; a folder of images is expected"),
        ({"out": "x.npy"}, InputError, r"path 'x\.npy' does not end in \.safetensors or \.parquet"),
        ({"out": "~/x.parquet"}, FileError, "begins with ~"),
        ({"model": "hiera_micro_motions"}, NotSupported, "takes videos; only models of images embed a folder"),
        ({"model": "hiera_micro_detector"}, NotSupported, "has no pooled embedding"),
        ({"batch_size": 0}, InputError, "batch_size 0 is not allowed: a whole number from 1 is"),
        ({"num_workers": -1}, InputError, "num_workers -1 is not allowed"),
        ({"dtype": "int8"}, InputError, "dtype 'int8' is not allowed: fp32, bf16, fp16 are"),
        ({"store": "int8"}, InputError, "store 'int8' is not allowed: float32, float16 are"),
        ({"device": "abacus"}, InputError, "device 'abacus' cannot be used"),
        ({"fast": True, "dtype": "bf16", "device": "cpu"}, InputError, "fast"),
        ({"ray": "ray://127.0.0.1:9"}, InputError, "ray 'ray://127.0.0.1:9' cannot be reached"),
    ],
)
def test_what_cannot_be_is_one_line(folder, tmp_path, monkeypatch, options, error, said):
    monkeypatch.chdir(tmp_path)
    if "ray" in options:
        monkeypatch.setitem(sys.modules, "ray", fake_ray(refuse=True))
    with pytest.raises(error, match=said):
        embed_folder(**{"folder": folder, "model": MODEL, "out": "x.safetensors", **options})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["photos"]


def test_a_folder_without_images(tmp_path, videos):
    with pytest.raises(InputError, match=r"has no images, which model .* takes: found 8 \.mp4 files"):
        embed_folder(videos / "train", MODEL, tmp_path / "x.safetensors")
    (tmp_path / "a.png").write_text("no image")
    with pytest.raises(InputError, match=r"none of the 1 images of .* can be read: image .*a\.png' .*: not an image"):
        embed_folder(tmp_path, MODEL, tmp_path / "x.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_values_that_are_not_finite(folder, tmp_path, calls, monkeypatch):
    out = tmp_path / "x.safetensors"
    for value, options, error, said in (
        (1e5, {"store": "float16"}, InputError, "values up to 65504, and the model gives 100000: use float32"),
        (float("nan"), {}, WeightsError, f"model '{MODEL}' gives values that are not finite"),
    ):
        monkeypatch.setattr(images, "embed", lambda model, x, value=value: torch.full((len(x), 3), value))
        with pytest.raises(error, match=said):
            embed_folder(folder, MODEL, out, **options)
    assert not out.exists()


# --- the command --------------------------------------------------------------------------------------------------


def test_plm_embed_lists_what_cannot_be_read_and_leaves_it_out(plm, folder, tmp_path, expected):
    (folder / "cross" / "999.png").write_text("no image")
    out = tmp_path / "x.parquet"
    words = ("embed", folder, "--model", MODEL, "--out", out)
    result = plm(*words, "--json", "--store", "float16", "--batch-size", 16)
    assert result.code == 2
    summary = json.loads(result.out)
    assert {name: summary[name] for name in ("model", "images", "dimension", "store", "unreadable")} == {
        "model": MODEL,
        "images": COUNT,
        "dimension": 64,
        "store": "float16",
        "unreadable": ["cross/999.png"],
    }
    assert summary["images_per_second"] == pytest.approx((COUNT + 1) / summary["seconds"], rel=0.1)
    assert result.err.splitlines() == [
        f"wrote {out}",
        f"plm: error: image '{folder}/cross/999.png' cannot be read: not an image",
        "plm: error: 1 of 49 files could not be read",
    ]
    assert_rows(Embeddings.load(out), expected, rtol=2e-3, atol=1e-3)
    (folder / "cross" / "999.png").unlink()
    result = plm(*words)
    assert (result.code, result.err) == (0, f"wrote {out}\n")
    assert result.rows[0][:3] == [str(COUNT), "64", "float32"]


def test_plm_embed_after_ctrl_c(plm, folder, tmp_path, calls):
    out, calls.most, calls.error = tmp_path / "x.safetensors", 2, KeyboardInterrupt()
    words = ("embed", folder, "--model", MODEL, "--out", out, "--batch-size", 8)
    result = plm(*words)
    assert (result.code, result.out) == (130, "")
    assert result.err == f"interrupted; not written: {out}; the same command goes on from here\n"
    calls.most = 10**6
    result = plm(*words)
    assert (result.code, result.err) == (0, f"16 of them were left by an interrupted run\nwrote {out}\n")


@pytest.mark.parametrize("option", ["--threads", "--num-workers"])
def test_options_of_this_process_are_refused_with_ray(plm, folder, option):
    result = plm("embed", folder, "--model", MODEL, "--out", "x.parquet", option, 2, "--ray")
    assert result.code == 2
    assert result.err.startswith(f"plm: error: {option} is for this process")


# --- Ray ----------------------------------------------------------------------------------------------------------


def fake_ray(refuse=False, lose=False):
    """A stand-in for Ray that runs tasks when they are waited for, the last one first."""

    class RayError(Exception):
        pass

    def init(**options):
        if refuse:
            raise ConnectionError("nobody answers")

    def get(call):
        if lose:
            raise RayError("out of memory")
        return call()

    ray = SimpleNamespace(most=0, sent=[], exceptions=SimpleNamespace(RayError=RayError), init=init, get=get)
    ray.is_initialized = lambda: False
    ray.shutdown = lambda: ray.sent.append("shutdown")
    ray.cluster_resources = lambda: {"CPU": 2.0}

    def remote(function, *args):
        ray.sent.append(args)
        return lambda: function(*args)

    def wait(pending, num_returns):
        ray.most = max(ray.most, len(pending))
        return [pending[-1]], pending[:-1]

    ray.remote = lambda **options: lambda function: SimpleNamespace(remote=lambda *args: remote(function, *args))
    ray.wait = wait
    return ray


@pytest.fixture
def ray(monkeypatch):
    ray_backend._loaded.cache_clear()
    ray = fake_ray()
    monkeypatch.setitem(sys.modules, "ray", ray)
    return ray


def test_rows_from_ray_are_in_order_and_few_batches_wait(folder, tmp_path, expected, ray, plm):
    (folder / "star" / "0.png").write_text("no image")
    out = tmp_path / "x.safetensors"
    result = plm("embed", folder, "--model", MODEL, "--out", out, "--batch-size", 4, "--ray")
    assert result.code == 2
    assert f"image '{folder}/star/0.png' cannot be read: not an image" in result.err
    table = Embeddings.load(out)
    assert table.paths == embed_folder(folder, MODEL, tmp_path / "y.safetensors").embeddings.paths
    assert_rows(table, expected)
    assert ray.most == 4
    assert ray.sent[-1] == "shutdown"
    assert all(isinstance(contents, bytes) for contents in ray.sent[0][3])


def test_what_fails_on_ray_is_one_line(folder, tmp_path, ray, monkeypatch):
    out = tmp_path / "x.safetensors"
    monkeypatch.setattr(images, "embed", lambda model, x: torch.full((len(x), 3), float("nan")))
    with pytest.raises(WeightsError, match="not finite"):
        embed_folder(folder, MODEL, out, ray="local")
    monkeypatch.setattr(ray_backend, "_loaded", lambda job: SimpleNamespace(weights="other"))
    with pytest.raises(WeightsError, match=f"a worker of Ray has other weights of model '{MODEL}'"):
        embed_folder(folder, MODEL, out, ray="local")
    monkeypatch.setitem(sys.modules, "ray", fake_ray(lose=True))
    with pytest.raises(PlmError, match=r"a worker of Ray failed \(RayError: out of memory\)"):
        embed_folder(folder, MODEL, out, ray="local")
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingDependency, match=r"Ray is not installed: install plm-core\[ray\]"):
        embed_folder(folder, MODEL, out, ray="local")
    assert [path.name for path in tmp_path.iterdir() if path != folder] == []


@pytest.mark.slow
def test_a_cluster_of_ray_gives_the_same(folder, tmp_path, expected):
    if find_spec("ray") is None:  # not importorskip: settings of ours must stand before ray is imported
        pytest.skip("ray is not installed")
    report = embed_folder(folder, MODEL, tmp_path / "x.safetensors", batch_size=8, ray="local")
    assert len(report.embeddings) == COUNT
    assert_rows(report.embeddings, expected)
