"""`parc rank` and `plm rank` from the command line, in process."""

import json
import shutil
import sys
from dataclasses import fields

import pytest
import typer
from PIL import Image

import parc.cli
import plm_core.cli
from parc import probing, ranking
from parc.cli.shared import cpu_threads, split_list
from parc.next_steps import UNTRAINED
from parc.ranking import Interrupted, Ranking
from plm_core import create_model, weights
from plm_core.datasets import digest, load_dataset
from plm_core.errors import InputError


@pytest.fixture(scope="module")
def digits(tmp_path_factory, write_digits):
    return write_digits(tmp_path_factory.mktemp("digits"), classes=4, per_class=20)


@pytest.fixture(scope="module", autouse=True)
def _cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PLM_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def run(monkeypatch, capsys):
    """Return a function that calls ``parc`` (or ``plm``) and returns exit code, stdout and stderr."""

    def call(*args, program=parc.cli.main, name="parc"):
        monkeypatch.setattr(sys, "argv", [name, *map(str, args)])
        with pytest.raises(SystemExit) as ended:
            program()
        out, err = capsys.readouterr()
        return ended.value.code or 0, out, err

    return call


def test_a_table(run, digits, tmp_path):
    picture, table = tmp_path / "r.png", tmp_path / "r.csv"
    code, out, err = run(
        "rank", digits, "--models", "*a_micro_shapes,random:test_vit", "--models", "hiera_micro_digits", "--method",
        "parc,knn:k=3,metric=cosine", "--method", "params", "--out", table, "--plot", picture,
    )  # fmt: skip
    assert code == 0
    rows = [line.split("\t") for line in out.splitlines()[1:]]
    assert [row[1] for row in rows] == ["1", "2", "3", "4"]
    assert rows[0][0] == "hiera_micro_digits.sklearn_digits"
    assert all("[" in cell for row in rows for cell in row[2:4])
    assert f"{digits}: 80 of 80 images, 4 classes, 1 probe, pca 32, on cpu; higher scores are better" in err
    assert f"wrote {table}" in err
    assert table.read_text().startswith("model,method,score,low,high,rank")
    assert picture.stat().st_size > 10_000
    best = "hiera_micro_digits.sklearn_digits"
    assert err.splitlines()[-2:] == [
        f"next: plm probe {digits} --models {','.join(row[0] for row in rows if 'random' not in row[0])}",
        f"  or: plm train finetune {digits} --model {best} --out runs/{best}",
    ]


def test_plm_rank_is_the_same(run, digits):
    args = ("rank", digits, "--models", "tome_micro_shapes", "--json", "--bootstraps", 0, "--pca", "none")
    ours = json.loads(run(*args)[1])
    plms = json.loads(run(*args, program=plm_core.cli.main, name="plm")[1])
    assert [row["score"] for row in ours["rows"]] == [row["score"] for row in plms["rows"]]
    assert [row["method"] for row in ours["rows"]] == ["parc", "logme", "knn"]
    assert ours["about"]["pca"] is None
    assert ours["rows"][0]["low"] is None


def test_help(run):
    code, out, _ = run("rank", "--help")
    assert code == 0
    for option in ("--models", "--method", "--budget", "--ray", "--json"):
        assert option in out
    code, out, _ = run("probe", "--help")
    assert code == 0
    for option in ("--models", "--method", "--folds", "--shots", "--plot"):
        assert option in out
    for name in ("rank", "probe"):
        assert name in run("--help")[1]


def test_no_model_could_be_scored(run, digits):
    code, out, err = run("rank", digits, "--models", "test_vit")
    assert code == 2
    assert "HF_HUB_OFFLINE is set" in out
    assert "parc: error: no model could be scored; the table says why" in err


def test_a_method_that_fails_for_every_model_is_no_success(run, digits):
    words = ("rank", digits, "--models", "random:test_vit", "--method", "knn,leep", "--bootstraps", 0, "--budget", 20)
    code, out, err = run(*words)
    assert code == 1
    assert err.splitlines()[-2:] == [UNTRAINED, "leep failed for all models; the table says why"]
    assert "1 (1 of 2)" in out  # the mean rank is over one of two methods
    code, _, err = run(*words, "--keep-going")
    assert (code, err.splitlines()[-1]) == (0, UNTRAINED)


def test_what_was_left_out_is_in_the_result_and_the_next_command_leaves_it_out_too(run, digits, tmp_path):
    root = shutil.copytree(digits, tmp_path / "data")
    bad = min(root.rglob("*.png"))
    bad.write_bytes(bad.read_bytes()[:-30])
    words = (root, "--models", "hiera_micro_digits", "--method", "knn", "--no-cache")
    assert (
        f"1 of the 80 images drawn from {str(root)!r} cannot be read, which --skip-unreadable" in run("rank", *words)[2]
    )
    for command in ("rank", "probe"):
        _, out, err = run(command, *words, "--skip-unreadable", "--json")
        assert json.loads(out)["about"]["left_out"] == [bad.relative_to(root).as_posix()]
        following = [line for line in err.splitlines() if line.startswith(("next: ", "  or: "))]
        assert len(following) == (2 if command == "rank" else 1)
        assert all(line.endswith(" --skip-unreadable") for line in following)


@pytest.mark.parametrize("command", ["rank", "probe"])
def test_a_model_that_was_trained_on_the_data_is_named(run, digits, tmp_path, caplog, command):
    mine, other = tmp_path / "mine", tmp_path / "other"
    for folder, known in ((mine, digest(load_dataset(digits))), (other, "0")):
        weights.save_pretrained(create_model("test_vit", num_classes=2), folder, license="mit")
        (folder / "training.json").write_text(json.dumps({"data_digest": known, "seed": 0}))
    words = (digits, "--models", f"{mine},{other},random:{mine}", "--budget", 20, "--method", "knn", "--no-cache")
    _, out, _ = run(command, *words, "--json")
    assert json.loads(out)["about"]["trained_on"] == {str(mine): 80}
    (line,) = (record.getMessage() for record in caplog.records if "trained on" in record.getMessage())
    assert line.startswith(f"{mine} was trained on 80 of the 80 images, as its training.json says, so it may look")


@pytest.mark.parametrize("command", ["rank", "probe"])
def test_a_lost_model_is_no_success(run, digits, tmp_path, command):
    """Several folders in one list are several models, and one that cannot be loaded shows in the exit code."""
    models = f"random:test_vit,local-dir:{tmp_path / 'a'},local-dir:{tmp_path / 'b'}"
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train").symlink_to(digits, target_is_directory=True)
    args = (command, tmp_path / "data", "--models", models, "--budget", 20, "--method", "knn")
    code, out, err = run(*args)
    assert code == 1
    lost = f"2 of 3 models failed: local-dir:{tmp_path / 'a'}, local-dir:{tmp_path / 'b'}"
    assert err.splitlines()[-1] == lost
    assert "train: 20 of 80 images, 4 classes" in err  # the split that was used
    code, again, err = run(*args, "--keep-going", "--threads", 1)
    assert code == 0
    assert "failed" not in err
    assert "on cpu; (cached): the features of an earlier run" in err
    assert [line.split("\t")[0] for line in again.splitlines()] == [line.split("\t")[0] for line in out.splitlines()]


def test_threads_are_those_of_models_and_scores(monkeypatch):
    import torch
    from threadpoolctl import threadpool_info

    before = torch.get_num_threads()
    with cpu_threads(1):
        assert torch.get_num_threads() == 1
        assert {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"} == {1}
    assert torch.get_num_threads() == before


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--models", "resnett18"], "no model 'resnett18'; did you mean 'resnet18"),
        (["--models", "resnet18", "--method", "parck"], "no method 'parck'; did you mean 'parc'"),
        (["--models", "resnet18,,resnet34"], "--models 'resnet18,,resnet34' has an empty part"),
        (["--models", "resnet18", "--out", "x.xls"], "file 'x.xls' has ending '.xls'; .csv, .json, .md"),
        (["--models", "resnet18", "--plot", "x.md"], "file 'x.md' has ending '.md'; .png, .svg, .pdf are allowed"),
        (["--models", "resnet18", "--pca", "raw"], "pca='raw' is not allowed"),
        (["--models", "resnet18", "--pca", "0"], "pca=0 is not allowed"),
        (["--models", "resnet18", "--method", "rsa"], "method 'rsa' needs reference"),
        (["--models", "resnet18", "--threads", "2", "--ray"], "--threads is for this process"),
    ],
)
def test_bad_input_is_one_line(run, digits, args, said):
    code, out, err = run("rank", digits, *args)
    assert (code, out) == (2, "")
    assert said in err
    assert len(err.splitlines()) == 1


def test_a_probe(run, digits, tmp_path):
    picture, table = tmp_path / "p.png", tmp_path / "p.json"
    words = ("probe", digits, "--models", "random:test_vit,hiera_micro_digits", "--method", "knn", "--folds", 4)
    code, out, err = run(*words, "--shots", "1,5,all", "--out", table, "--plot", picture)
    assert code == 0
    rows = [line.split("\t") for line in out.splitlines()[1:]]
    assert [row[:2] for row in rows] == [["hiera_micro_digits.sklearn_digits", "1"], ["random:test_vit", "2"]]
    assert all("[" in cell for row in rows for cell in row[2:5])
    assert f"{digits}: 80 of 80 images, 4 classes, knn, 4 folds, on cpu; " in err
    assert "accuracy in %, brackets hold 90 % intervals" in err
    assert f"wrote {table}\nwrote {picture}\nnext: plm train finetune {digits} --model hiera_micro_digits" in err
    assert picture.stat().st_size > 10_000
    plms = json.loads(run(*words, "--json", program=plm_core.cli.main, name="plm")[1])
    assert [row["accuracy"] for row in plms["rows"]] == [
        row["accuracy"] for row in json.loads(table.read_text())["rows"] if row["shots"] is None
    ]


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--shots", "1,few"], "--shots '1,few' has 'few'; whole numbers from 1, all, or auto alone are allowed"),
        (["--shots", "auto,1"], "--shots 'auto,1' has 'auto'"),
        (["--method", "liner"], "no method of probing 'liner'; did you mean 'linear'?"),
        (["--folds", "21"], "folds is 21, but class '0' has 20 of the images; 20 folds or fewer are allowed"),
        (["--plot", "x.gif"], "file 'x.gif' has ending '.gif'; .png, .svg, .pdf are allowed"),
        (["--plot", "x.csv"], "file 'x.csv' has ending '.csv'; .png, .svg, .pdf are allowed"),
    ],
)
def test_bad_input_to_a_probe_is_one_line(run, digits, args, said):
    code, out, err = run("probe", digits, "--models", "tome_micro_shapes", *args)
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert said in err


def test_an_interrupted_probe(run, digits, monkeypatch):
    row = probing.ProbeRow("some_model", "folds", None, 91.5, 90.0, 93.0, 80, 1, 1000, 0.1, 0.1, False)
    about = {
        "dataset": "d",
        "source": "d",
        "device": "cpu",
        "kind": "images",
        "images": 1,
        "of": 1,
        "classes": 2,
        "val_images": 0,
        "method": "linear",
        "folds": 5,
    }

    def stopped(*args):
        raise Interrupted(probing.Probing((row,), about), left=7)

    monkeypatch.setattr(probing, "probe_models", stopped)
    code, out, err = run("probe", digits, "--models", "resnet18", "--out", "x.csv")
    assert code == 130
    assert "some_model\t1\t91.5 [90.0, 93.0]" in out
    assert "interrupted, 7 models left; the same command goes on from here; not written: x.csv" in err


def test_bad_images_are_named(run, digits, tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
        for i in range(3):
            Image.new("L", (8, 8), 9 * i).save(tmp_path / name / f"{i}.png")
    (tmp_path / "b" / "1.png").write_bytes(b"no")
    code, _, err = run("rank", tmp_path, "--models", "tome_micro_shapes")
    assert code == 2
    assert "1 of 6 images of" in err
    assert "b/1.png (not an image)" in err


def test_interrupted(run, digits, monkeypatch):
    row = ranking.RankedRow("some_model", "parc", 1.5, None, None, 1, 1000, 0.1, 0.1, False)
    about = {"dataset": "d", "source": "d", "kind": "images", "images": 1, "of": 1, "classes": 2, "runs": 1, "pca": 32}
    about |= {"device": "cpu"}

    def stopped(*args):
        raise Interrupted(Ranking((row,), ("parc",), about), left=7)

    monkeypatch.setattr(ranking, "rank_models", stopped)
    code, out, err = run("rank", digits, "--models", "resnet18")
    assert code == 130
    assert "some_model\t1\t1.5" in out
    assert "interrupted, 7 models left; the same command goes on from here" in err


def test_every_option_reaches_its_setting(run, digits, monkeypatch, tmp_path):
    settings = []

    def spy(dataset, models, given):
        settings.append((dataset, models, given))
        raise InputError("enough")

    monkeypatch.setattr(ranking, "rank_models", spy)
    monkeypatch.setattr(probing, "probe_models", spy)
    shared = {"budget": 31, "pretrained": False, "device": "cuda:3", "dtype": "bf16", "batch_size": 5, "num_workers": 7}
    shared |= {"cache": False, "skip_unreadable": True, "fast": True}
    words = ["--budget", 31, "--random", "--device", "cuda:3", "--dtype", "bf16", "--batch-size", 5, "--num-workers", 7]
    words += ["--no-cache", "--skip-unreadable", "--fast", "--models", "a,b", "--models", "c"]
    csv = tmp_path / "results.csv"
    run("rank", digits, *words, "--runs", 3, "--pca", "compat:9", "--bootstraps", 4, "--reference", "r",
        "--imagenet-csv", csv, "--method", "rsa,knn:k=3", "--ray", "auto")  # fmt: skip
    own = {"runs": 3, "pca": "compat:9", "bootstraps": 4, "reference": "r", "imagenet_csv": csv, "ray": "auto"}
    ranked = ranking.Settings(**shared, **own, methods=("rsa", "knn:k=3"))
    run("probe", digits, *words, "--method", "knn:k=2", "--folds", 3, "--shots", "4,2", "--seed", 6)
    probed = probing.ProbeSettings(**shared, method="knn:k=2", folds=3, shots=(2, 4), seed=6)
    assert settings == [(str(digits), ["a", "b", "c"], ranked), (str(digits), ["a", "b", "c"], probed)]
    for chosen in (ranked, probed):
        assert all(getattr(chosen, field.name) != field.default for field in fields(chosen)), "an option was left out"


@pytest.mark.parametrize(
    ("args", "address"),
    [
        (["--ray"], "local"),
        (["--ray", "--budget", "100"], "local"),
        (["--ray", "auto"], "auto"),
        (["--ray=ray://host:1"], "ray://host:1"),
        ([], None),
    ],
)
def test_ray_may_stand_alone(run, digits, monkeypatch, args, address):
    addresses = []

    def spy(dataset, models, settings):
        addresses.append(settings.ray)
        raise InputError("enough")

    monkeypatch.setattr(ranking, "rank_models", spy)
    for program, name in ((parc.cli.main, "parc"), (plm_core.cli.main, "plm")):
        run("rank", digits, "--models", "resnet18", *args, program=program, name=name)
    assert addresses == [address, address]


@pytest.mark.parametrize(
    ("texts", "parts"),
    [
        (["parc,logme", "knn"], ["parc", "logme", "knn"]),
        (["knn:k=5,metric=cosine,parc"], ["knn:k=5,metric=cosine", "parc"]),
        (["parc, knn:k=5 ,logme:pca=None"], ["parc", "knn:k=5", "logme:pca=None"]),
        (["resnet*,hf-hub:org/name@v=1,local-dir:a,b"], ["resnet*", "hf-hub:org/name@v=1", "local-dir:a,b"]),
        (["local-dir:c,local-dir:d,c"], ["local-dir:c", "local-dir:d", "c"]),
    ],
)
def test_lists_are_split_at_commas_but_not_within_options_and_paths(texts, parts, tmp_path, monkeypatch):
    (tmp_path / "a,b").mkdir()
    monkeypatch.chdir(tmp_path)
    assert split_list(texts, "method") == parts


def test_the_command_is_a_typer_app():
    assert isinstance(parc.cli.rank_app, typer.Typer)  # so that plm takes its own parsing of --ray too
