"""The command line: stdout is data, stderr is everything else, an expected error is one line and exit code 2."""

import json
import os
import re
import sys
from dataclasses import dataclass
from importlib.metadata import version

import av
import pytest
from PIL import Image

import plm_core
from plm_core import __version__, samples, shapes, weights
from plm_core.cli import main
from plm_core.cli.app import PluginCommands
from plm_core.cli.table import show
from plm_core.hookspecs import BlockAdapter, Command, Model
from plm_core.registry import registry

MICRO = "hiera_micro_digits"
COMMANDS = sorted(registry().all(Command))


@dataclass
class Result:
    code: int
    out: str
    err: str

    @property
    def data(self):
        return json.loads(self.out)

    @property
    def rows(self):
        return [line.split("\t") for line in self.out.splitlines()[1:]]


@pytest.fixture
def plm(monkeypatch, capsys):
    """Run ``plm WORDS`` in this process."""
    # typer colours its help whenever it sees a CI service in the environment
    monkeypatch.setattr("typer.rich_utils.FORCE_TERMINAL", None)

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["plm", *map(str, words)])
        try:
            main()
            code = 0
        except SystemExit as e:
            code = e.code or 0
        out, err = capsys.readouterr()
        assert "\x1b" not in out + err, "colour although this is no terminal"
        return Result(code, out, err)

    return run


def test_a_home_in_the_words_is_expanded(plm, tmp_path, monkeypatch):
    """A shell does not do it in quotes, nor after an equals sign."""
    monkeypatch.setenv("HOME", str(tmp_path))
    weights.save_pretrained(plm_core.create_model("test_vit"), tmp_path / "vit", "mit")
    Image.new("RGB", (8, 8)).save(tmp_path / "photo.png")
    result = plm("predict", "~/vit", "~/photo.png", "--out=~/a=1.csv", "--json")
    assert (result.code, result.err) == (0, f"wrote {tmp_path / 'a=1.csv'}\n")
    assert str(tmp_path / "photo.png") in (tmp_path / "a=1.csv").read_text()


def assert_one_line(result, said):
    assert result.code == 2
    assert result.out == ""
    assert result.err.count("\n") == 1
    assert result.err.startswith("plm: error: ")
    assert said in result.err


# --- the root ---------------------------------------------------------------------------------------------------


def test_help_lists_every_command(plm):
    shown = plm("--help")
    assert (shown.code, shown.err) == (0, "")
    for entry in registry().all(Command).values():
        assert re.search(rf"\b{entry.declaration.name} +{re.escape(entry.declaration.help[:20])}", shown.out)
    assert plm("-h").out == shown.out


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command(plm, command):
    shown = plm(command, "--help")
    assert (shown.code, shown.err) == (0, "")
    assert f"Usage: plm {command}" in shown.out
    assert registry().get(Command, command).help.rstrip(".") in " ".join(shown.out.replace("│", " ").split())


def test_a_device_is_chosen_alike_in_every_command():
    commands = {name: PluginCommands().resolve_command(None, [name])[1] for name in COMMANDS}
    options = [(name, option) for name, command in commands.items() for option in command.params]
    devices = {name: option for name, option in options if option.name == "device"}
    assert {"bench", "evaluate", "predict", "probe", "rank", "train"} <= devices.keys()
    assert {option.default for option in devices.values()} == {"auto"}
    assert len({option.help for option in devices.values()}) == 1


def test_retrain_looks_at_its_folder_first(plm, tmp_path, monkeypatch):
    monkeypatch.setattr("hiera.micro.digits.train", lambda *args, **options: pytest.fail("it trains"))
    (tmp_path / "file").write_text("mine")
    result = plm("retrain", "hiera_micro_digits", "--out", tmp_path / "file" / "out")
    assert (result.code, result.err) == (
        2,
        f"plm: error: cannot write to the folder {str(tmp_path / 'file' / 'out')!r}: Not a directory\n",
    )


def test_version(plm):
    assert plm("--version") == Result(0, f"plm-core {__version__}\n", "")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["lst"], "no command 'lst'; did you mean 'list'?"),
        (["frobnicate"], "no command 'frobnicate'; acme would provide it and is not installed"),
        (["zzz"], "there are: ask, bench, caption, chat, check-data, "),
        (["list", "hierra_*"], "no model 'hierra_*'"),
        (["list", "acme_*"], "acme would provide it and is not installed"),
        (["info", "hiera_micro_digit"], f"no model 'hiera_micro_digit'; did you mean '{MICRO}'"),
        (["info", "acme_x"], "acme would provide it and is not installed"),
        (["info", f"{MICRO}.mnist"], f"no tag of model '{MICRO}' named 'mnist'; there are: sklearn_digits"),
        (["predict", MICRO, "/no/such.png"], "path '/no/such.png' does not exist"),
        (["predict", "no_such_model", "/no/such.png"], "path '/no/such.png' does not exist"),
        (["predict", MICRO, "a" * 300], "path 'aaa"),
        (["predict", MICRO, "a" * 300], "File name too long"),
        (["retrain", "resnet18"], "model 'resnet18' is timm's own"),
        (["info", "resnet17"], "no model 'resnet17'; did you mean"),
        (["info", "local-dir:/no/such"], "cannot get local-dir:/no/such: there is no such folder"),
        (["info", "test_vit.x"], "no tag of model 'test_vit' named 'x'; there are: r160_in1k"),
        (["list", "test_vit*", "x*"], "no plug-in has a model 'test_vit*'; timm has"),
        (["list", "test_vit*", "x*"], "that match: plm list --timm 'test_vit*' 'x*'"),
        (["list", "--nope"], "No such option: --nope (see plm list --help)"),
        (["--nope"], "No such option: --nope (see plm --help)"),
        (["info"], "Missing argument 'name' (see plm info --help)"),
        (["info", MICRO, "more"], "Got unexpected extra argument(s) (more) (see plm info --help)"),
        (["predict", MICRO, "x.png", "--top", "0"], "Invalid value for '--top': Input should be greater than"),
        (["train", "--precision"], "Option '--precision' requires an argument"),
        (["\x1b[31m" * 1000], r"no command '\x1b[31m"),
        (["retrain", "hiera_image_tiny_224"], "is not a micro model; there are: gazelle_micro_shapes, hiera_micro_"),
        (["convert", "/no/such.pt", "x.safetensors"], "/no/such.pt"),
        (["push", "/no/such/folder", "org/name"], "/no/such/folder"),
    ],
)
@pytest.mark.usefixtures("acme")
def test_errors_are_one_line(plm, tmp_path, monkeypatch, words, said):
    monkeypatch.chdir(tmp_path)
    failed = plm(*words)
    assert_one_line(failed, said)
    assert "pip install" not in failed.err
    assert not list(tmp_path.iterdir())


def test_no_words_show_the_help(plm):
    shown = plm()
    assert shown.code == 2
    assert "Usage: plm " in shown.out + shown.err


# --- stdout -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [["list"], ["list", "--json"], ["--help"], ["--version"]])
def test_a_full_stdout_is_one_line(plm, monkeypatch, words):
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        full_disk = plm(*words)
        monkeypatch.undo()
    assert_one_line(full_disk, "cannot write to stdout: No space left on device")


def test_a_pipe_that_is_closed_ends_quietly(plm, monkeypatch):
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w") as pipe:
        monkeypatch.setattr(sys, "stdout", pipe)
        ended = plm("list")
        monkeypatch.undo()
    assert ended == Result(1, "", "")


@pytest.mark.parametrize("words", [["list"], ["list", "--json"], ["--help"], ["doctor", "--quick"]])
def test_a_closed_stdout_is_no_error(plm, monkeypatch, words):
    monkeypatch.setattr(sys, "stdout", None)
    code = plm(*words).code
    sys.stdout.close()
    monkeypatch.undo()
    assert code == 0


NARROW = {"name": "a_name_of_some_length", "what it is": "some words and one long-ish/path.of.a.module", "empty": None}


def test_a_table_fits_the_terminal_and_breaks_no_word(monkeypatch, capsys):
    monkeypatch.setenv("TERM", "dumb")  # 80 columns, no colours
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    show([NARROW | {"more": "[not markup] " * 3, "path": "/a/long/path/of/many/parts.safetensors"}])
    shown = capsys.readouterr().out
    lines = shown.splitlines()
    assert max(map(len, lines)) <= 80
    assert "empty" not in shown
    words = {word for line in lines for word in line.split()}
    assert {"some", "words", "[not", "markup]", "a_name_of_some_length", "safetensors"} <= words
    show([{str(i): "word" for i in range(40)}])
    assert [line for line in capsys.readouterr().out.splitlines() if line] == [f"{i}: word" for i in range(40)]


def test_a_cell_cannot_steer_the_terminal_or_break_the_row(capsys):
    show([{"name": "a\tb\nc", "text": "\x1b[31mred\u202e", "number": 0, "none": None}])
    assert capsys.readouterr().out == "name\ttext\tnumber\tnone\na\\tb\\nc\t\\x1b[31mred\\u202e\t0\t\n"


# --- list and info ----------------------------------------------------------------------------------------------


def test_list(plm):
    shown = plm("list")
    assert (shown.code, shown.err) == (0, "")
    assert shown.out.partition("\n")[0].split("\t") == ["model", "from", "params", "input", "task", "tags"]
    assert {row[0] for row in shown.rows} == set(registry().all(Model))
    names = [row[0] for row in shown.rows]
    assert names.index("hiera_image_base_224") < names.index(MICRO) < names.index("hiera_video_base_16x224")
    assert ["hiera_video_tiny_16x224", "hiera", "27.5M", "3x16x224x224", "video-classification", ""] in shown.rows
    assert shown.rows[names.index(MICRO)] == [
        MICRO,
        "hiera",
        "170k",
        "3x32x32",
        "image-classification",
        "sklearn_digits",
    ]


@pytest.mark.parametrize(
    ("words", "count"),
    [
        (["hiera_image_*"], 6),
        (["hiera_image_base_*", MICRO], 3),
        (["hiera_image_*", "--pretrained"], 12),
        (["*_micro_dig*", "--pretrained"], 1),
    ],
)
def test_list_by_wildcard(plm, words, count):
    rows = plm("list", *words).rows
    assert len(rows) == len({row[0] for row in rows}) == count
    assert rows == [list(map(str_of, row.values())) for row in plm("list", *words, "--json").data]


def str_of(value):
    return " ".join(value) if isinstance(value, list) else str(value)


def test_list_shows_licenses_of_weights(plm):
    rows = {row["model"]: row for row in plm("list", "--pretrained", "--json").data}
    assert rows["hiera_image_tiny_224.mae_in1k"]["license"] == "CC-BY-NC-4.0"
    assert rows[f"{MICRO}.sklearn_digits"]["weights"] == "shipped"


def test_list_of_timm_too(plm):
    rows = plm("list", "--timm", "resnet18", "hiera_micro_dig*", "--json").data
    assert [(row["model"], row["from"]) for row in rows] == [(MICRO, "hiera"), ("resnet18", "timm")]
    assert [row["model"] for row in plm("list", "--timm", "test_resnet", "--json").data] == ["test_resnet"]


def test_info(plm):
    shown = plm("info", MICRO)
    assert (shown.code, shown.err) == (0, "")
    facts = dict(shown.rows)
    assert facts["model"] == MICRO
    assert facts["from"] == "hiera"
    assert facts["parameters"] == "170,338"
    assert facts["input"] == "3x32x32, bicubic, crop 1.0"
    assert facts["classes"] == "10"
    assert facts["needs"] == "nothing more"
    assert facts["layouts"].split() == ["native", "transformers-backbone", "transformers", "timm", "official"]
    assert facts["license of the code"] == "Apache-2.0"
    assert "shipped, weights/hiera_micro_digits.safetensors" in shown.out
    assert "NON-COMMERCIAL" not in shown.out


def test_info_warns_of_non_commercial_weights(plm):
    out = plm("info", "hiera_image_tiny_224").out
    assert out.count("license CC-BY-NC-4.0 NON-COMMERCIAL USE ONLY") == 2
    assert "hf-hub:facebook/hiera_tiny_224.mae_in1k_ft_in1k@main, model.safetensors (layout official)" in out
    assert "82.8" in out


def test_info_of_one_tag(plm):
    out = plm("info", "hiera_image_tiny_224.mae_in1k").out
    assert "weights .mae_in1k\t" in out
    assert "mae_in1k_ft_in1k" not in out
    [weights] = plm("info", "hiera_image_tiny_224.mae_in1k", "--json").data["pretrained"]
    assert weights["num_classes"] == 0


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("test_vit", {"from": "timm", "parameters": "371,240", "input": "3x160x160", "weights": "r160_in1k"}),
        ("torchvision:resnet18", {"from": "torchvision", "parameters": "11,689,512"}),
    ],
)
def test_info_of_a_model_that_no_plugin_declares(plm, plm_registry, name, expected):
    plm_registry({"name": "mx", "modules": {"matrix_plugin.py": TRANSFORMS}, "entry_points": {"mx": "matrix_plugin"}})
    facts = dict(plm("info", name).rows)
    assert expected.items() <= facts.items()
    assert (facts["transform idle"], facts["transform refuses"]) == ("yes", r"no: not\nthis one")
    assert plm("info", name, "--json").data["transforms"]["idle"] == "yes"


def test_info_of_a_folder(plm, tmp_path):
    weights.save_pretrained(plm_core.create_model(MICRO, num_classes=3), tmp_path, license="MIT")
    facts = dict(plm("info", f"local-dir:{tmp_path}").rows)
    assert (facts["classes"], facts["class"]) == ("3", "hiera.model.Hiera")
    assert facts["architecture"] == MICRO
    assert facts["task"] == "image-classification"
    assert facts["license of the weights"] == "mit"
    assert "class names" not in facts


def test_info_of_a_trained_folder(plm, tmp_path):
    model = plm_core.create_model(MICRO, num_classes=3)
    about = {"recipe": "finetune"}
    weights.save_pretrained(model, tmp_path, license="CC-BY-NC-4.0", labels=["a", "b", "c"], about=about)
    for record, told in (
        ('{"found": "9 images", "scores": {"val top-1 %": 66.67}}', True),
        ("[]", False),
        ("{", False),
    ):
        (tmp_path / "training.json").write_text(record)
        facts = dict(plm("info", tmp_path).rows)
        assert (facts["class names"], facts["recipe"]) == ("a, b, c", "finetune")
        assert facts["license of the weights"] == "cc-by-nc-4.0 NON-COMMERCIAL USE ONLY"
        assert (facts.get("data"), facts.get("val top-1 %")) == (("9 images", "66.67") if told else (None, None))
    assert plm("info", tmp_path, "--json").data["recipe"] == "finetune"


def test_info_as_json(plm):
    data = plm("info", MICRO, "--json").data
    assert data["params"] == 170338
    assert data["input"]["size"] == [3, 32, 32]
    assert data["micro"]["recipe"] == "hiera.micro.digits:train"
    assert data["pretrained"][0]["labels"] == list("0123456789")


# --- commands, models and faults of plug-ins --------------------------------------------------------------------

PLUGIN = """
from plm_core.hookspecs import *

@hookimpl
def plm_models():
    needs = ("plm-core", "acme", "plm-core[no-such-extra]")
    return [Model(name="demo_net", family="demo", builder="a:b", params=1_500_000, needs=needs)]

@hookimpl
def plm_commands():
    return [
        Command(name="greet", help="Say hello [not markup].", implementation="demo_commands:greet"),
        Command(name="many", help="Two in one.", implementation="demo_commands:many"),
        Command(name="absent", help="Needs more.", implementation="no_such_module:f"),
        Command(name="refuse", help="Fails on purpose.", implementation="demo_commands:refuse"),
    ]
"""
COMMANDS_MODULE = """
import typer
from plm_core import InputError

many = typer.Typer()

@many.command()
def one(): print("1")

@many.command()
def two(n: int): print(n)

def greet(name: str, loud: bool = False):
    print(f"hello {name}".upper() if loud else f"hello {name}")

def refuse():
    raise InputError("argument 'x' is 3; 1 and 2 are allowed")
"""
DEMO = {
    "name": "demo",
    "modules": {"demo_plugin.py": PLUGIN, "demo_commands.py": COMMANDS_MODULE},
    "entry_points": {"demo": "demo_plugin"},
}
BROKEN = {"name": "broken", "modules": {"broken_plugin.py": "1/0"}, "entry_points": {"broken": "broken_plugin"}}
RIVAL = {"name": "rival", "modules": {"rival_plugin.py": PLUGIN}, "entry_points": {"rival": "rival_plugin"}}


def test_help_does_not_import_a_command(plm, plm_registry):
    plm_registry(DEMO)
    assert re.search(r"greet +Say hello \[not markup\]\.", plm("--help").out)
    assert "demo_commands" not in sys.modules
    assert plm("greet", "you").out == "hello you\n"
    assert "demo_commands" in sys.modules


def test_commands_of_a_plugin(plm, plm_registry):
    plm_registry(DEMO)
    assert plm("greet", "you", "--loud") == Result(0, "HELLO YOU\n", "")
    assert plm("many", "two", "22") == Result(0, "22\n", "")
    assert plm("many", "two", "x").code == 2
    assert "Say hello" in plm("greet", "--help").out
    assert "Usage: plm many" in plm("many", "--help").out


def test_commands_that_fail(plm, plm_registry):
    plm_registry(DEMO)
    assert_one_line(plm("absent"), "needs the module 'no_such_module', which is not installed")
    assert_one_line(plm("refuse"), "argument 'x' is 3; 1 and 2 are allowed")


def test_withdrawn_command(plm, plm_registry):
    plm_registry(DEMO, RIVAL)
    assert_one_line(plm("greet"), "set PLM_DISABLE_PLUGINS=demo or PLM_DISABLE_PLUGINS=rival")
    assert "greet" not in plm("--help").out


def test_info_says_which_needs_are_not_met(plm, plm_registry):
    plm_registry(DEMO)
    facts = dict(plm("info", "demo_net").rows)
    assert "needs acme, plm-core[no-such-extra]" in facts["problem"]
    assert facts["needs"] == ("plm-core (installed) acme (NOT installed) plm-core[no-such-extra] (NOT installed)")
    assert plm("list", "demo_net").rows[0][2] == "1.5M"


def test_doctor_is_content(plm):
    shown = plm("doctor")
    assert (shown.code, shown.err) == (0, "")
    assert next(row for row in shown.rows if row[0] == "hiera")[:3] == ["hiera", f"hiera {version('hiera')}", "loaded"]
    data = plm("doctor", "--quick", "--json").data
    assert data["problems"] == []
    assert data["versions"]["plm-core"] == __version__
    assert [p["state"] for p in data["plugins"]] == ["loaded"] * len(data["plugins"])


def test_doctor_reports_a_broken_plugin(plm, plm_registry):
    plm_registry(BROKEN, DEMO)
    shown = plm("doctor", "--quick")
    assert shown.code == 1
    row = next(row for row in shown.rows if row[0] == "broken")
    assert row[1:3] == ["broken 1.0", "failed"]
    assert row[4:] == [
        "ZeroDivisionError: division by zero",
        "reinstall or remove broken, or set PLM_DISABLE_PLUGINS=broken",
    ]
    report = plm("doctor", "--quick", "--json")
    assert report.code == 1
    states = {p["name"]: p["state"] for p in report.data["plugins"]}
    assert {name for name, state in states.items() if state != "loaded"} == {"broken"}
    assert states["broken"] == "failed"
    assert {"plm-core", "hiera", "demo"} <= set(states)
    assert plm("list", MICRO).code == 0


def test_doctor_reports_duplicates(plm, plm_registry):
    plugin_registry = plm_registry(DEMO, RIVAL)
    shown = plm("doctor", "--quick")
    assert shown.code == 1
    assert len(plugin_registry.withdrawn()) == 5
    assert all(f"problem: {line}\n" in shown.out for line in plugin_registry.withdrawn())
    assert plm("doctor", "--quick", "--json").data["problems"] == plugin_registry.withdrawn()


def test_doctor_names_what_was_disabled(plm, plm_registry):
    plm_registry(BROKEN, environ={"PLM_DISABLE_PLUGINS": "broken"})
    shown = plm("doctor", "--quick")
    assert shown.code == 0
    assert next(row for row in shown.rows if row[0] == "broken")[2] == "disabled"


MISSING = """
from plm_core.hookspecs import *

@hookimpl
def plm_models():
    files = {"gone": "demo_plugin_folder:gone.safetensors", "no-package": "no_such_package:x.safetensors"}
    weights = tuple(Pretrained(tag=tag, license="MIT", file=file) for tag, file in files.items())
    return [Model(name="demo_net", family="demo", builder="a:b", params=1, pretrained=weights)]
"""


def test_doctor_sees_shipped_files_that_are_missing(plm, plm_registry):
    modules = {"missing_plugin.py": MISSING, "demo_plugin_folder/__init__.py": ""}
    plm_registry({"name": "missing", "modules": modules, "entry_points": {"missing": "missing_plugin"}})
    shown = plm("doctor", "--quick", "--json")
    assert shown.code == 1
    assert shown.data["problems"] == [
        "file 'demo_plugin_folder:gone.safetensors' of model demo_net.gone is missing; reinstall missing",
        "file 'no_such_package:x.safetensors' of model demo_net.no-package cannot be found (PluginError: shipped file "
        "'no_such_package:x.safetensors': there is no package 'no_such_package'); reinstall missing",
    ]


CHATTY = """
print("imported")
from plm_core.hookspecs import *

@hookimpl
def plm_models():
    print("asked")
    return []
"""


def test_what_a_plugin_prints_is_not_data(plm, plm_registry, capsys):
    plm_registry(
        {"name": "chatty", "modules": {"chatty_plugin.py": CHATTY}, "entry_points": {"chatty": "chatty_plugin"}}
    )
    assert capsys.readouterr() == ("", "imported\nasked\n")


# --- matrix -----------------------------------------------------------------------------------------------------

TRANSFORMS = """
from plm_core import NotSupported
from plm_core.hookspecs import *

@hookimpl
def plm_transforms():
    return [Transform(name=n, apply=f"matrix_plugin:{n}", remove="matrix_plugin:undo") for n in ("idle", "refuses")]

def idle(model):
    pass

def undo(model):
    pass

def refuses(model):
    raise NotSupported("not\\nthis one")
"""


def test_matrix(plm, plm_registry, monkeypatch):
    plm_registry({"name": "mx", "modules": {"matrix_plugin.py": TRANSFORMS}, "entry_points": {"mx": "matrix_plugin"}})
    families = [one for one in registry().declared(BlockAdapter) if one.name in ("hiera", "timm-vit")]
    monkeypatch.setattr(registry(), "declared", lambda kind: families)
    rows = {row["family"]: row for row in plm("matrix", "--json").data}
    assert {"hiera", "timm-vit"} <= set(rows)
    kinds, names = ("transform", "merger", "scorer"), {"idle", "refuses", "+"}
    ours = {
        column: cell
        for column, cell in rows["hiera"].items()
        if not column.startswith(kinds) or names.issuperset(column.split()[1:])
    }
    assert ours | {"local": 0} == {
        "family": "hiera",
        "example": MICRO,
        "blocks": 4,
        "local": 0,
        "prefix tokens": 0,
        "positions": "absolute",
        "transform idle": "yes",
        "transform refuses": r"no: not\nthis one",
        "transforms idle + refuses": r"no: not\nthis one",
    }
    assert rows["hiera"]["local"] > 0


# --- predict ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def digit_files(tmp_path_factory):
    """PNG files of fifty held-out digits: path -> label."""
    folder = tmp_path_factory.mktemp("digits")
    files = {}
    for number, (image, label) in enumerate(list(zip(*samples.digits("heldout"), strict=True))[:50]):
        file = folder / f"{number}.png"
        image.save(file)
        files[file] = str(label)
    return files


@pytest.fixture(scope="module")
def seven(digit_files):
    """A digit that is easy to read."""
    return next(file for file, label in digit_files.items() if label == "7")


def test_predict_reads_digits(plm, digit_files):
    shown = plm("predict", MICRO, *digit_files, "--top", 1, "--json")
    assert (shown.code, shown.err) == (0, "")
    assert [row["image"] for row in shown.data] == list(map(str, digit_files))
    right = [row["label"] == label for row, label in zip(shown.data, digit_files.values(), strict=True)]
    assert sum(right) >= 48
    assert all(row["label"] == str(row["class"]) for row in shown.data)


def test_predict_gives_the_top_classes_in_order(plm, seven):
    rows = plm("predict", f"{MICRO}.sklearn_digits", seven, "--top", 3).rows
    assert [len(rows), rows[0][2]] == [3, "7"]
    probabilities = [float(row[3]) for row in rows]
    assert probabilities == sorted(probabilities, reverse=True)
    everything = plm("predict", MICRO, seven, "--top", 99, "--json").data
    assert len(everything) == 10
    assert sum(row["probability"] for row in everything) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "CMYK", "I;16"])
def test_predict_takes_any_kind_of_image(plm, seven, tmp_path, mode):
    grey = Image.open(seven)
    image = grey.convert("I").point(lambda v: v * 257).convert(mode) if mode == "I;16" else grey.convert(mode)
    image.save(tmp_path / "x.tif")
    assert plm("predict", MICRO, tmp_path / "x.tif", "--top", 1).rows[0][2] == "7"


def corrupt(kind, file):
    Image.effect_noise((400, 400), 50).save(file, "PNG")
    data = file.read_bytes()
    second_chunk = data.index(b"IDAT", data.index(b"IDAT") + 4)
    file.write_bytes(
        {
            "text": b"this is no image",
            "empty": b"",
            "cut": data[: len(data) // 2],
            "header only": data[:20],
            "bad chunk": data[:second_chunk] + b"\0" + data[second_chunk + 1 :],
            "bad data": data[:60] + bytes(40) + data[100:],
            "bomb": data,
        }[kind]
    )


@pytest.mark.parametrize("kind", ["text", "empty", "cut", "header only", "bad chunk", "bad data", "bomb"])
def test_corrupt_image(plm, tmp_path, monkeypatch, seven, kind):
    if kind == "bomb":
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    file = tmp_path / "bad.png"
    corrupt(kind, file)
    assert_one_line(plm("predict", MICRO, file), f"image '{file}' cannot be read: ")


def test_folders_are_read_in_natural_order_and_broken_files_do_not_stop_it(plm, seven, tmp_path):
    for name in ("b/10.png", "b/9.png", "a/.hidden.png", ".hidden/1.png", "a/notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(seven.read_bytes())
    (tmp_path / "a" / "1.png").write_bytes(b"broken")
    shown = plm("predict", MICRO, tmp_path, seven, "--top", 1)
    assert [row[0] for row in shown.rows] == [str(tmp_path / "b/9.png"), str(tmp_path / "b/10.png"), str(seven)]
    assert shown.code == 2
    broken, count = shown.err.splitlines()
    assert broken.startswith(f"plm: error: image '{tmp_path}/a/1.png' cannot be read: ")
    assert count == "plm: error: 1 of 4 files could not be read"


def test_predict_draws_what_a_detector_finds(plm, tmp_path):
    image, out = tmp_path / "scene.png", tmp_path / "out"
    scene = shapes.Images("heldout", size=96, count=1)[0]
    Image.fromarray(scene.image).save(image)
    shown = plm("predict", "hiera_micro_detector", image, "--out", out, "--out", out / "found.json")
    assert shown.code == 0
    assert sorted(row[2] for row in shown.rows) == sorted(o.shape for o in scene.objects)
    assert shown.err.splitlines() == [f"wrote {out}", f"wrote {out / 'found.json'}"]
    assert Image.open(out / "scene.png").size == (768, 768)
    again = plm("predict", "hiera_micro_detector", image, "--json")
    assert again.data == json.loads((out / "found.json").read_text())
    none = plm("predict", "hiera_micro_detector", image, "--threshold", 1)
    assert (none.out, none.err) == ("", "1 of 1 images: no object with a score of at least 1\n")


def test_predict_shows_the_classes_of_a_video_over_time(plm, tmp_path):
    path = tmp_path / "clip.mp4"
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", 8)
        stream.width = stream.height = 64
        for picture in shapes.Clips("heldout", size=64, frames=16, count=1)[0].frames:
            file.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        file.mux(stream.encode())
    shown = plm("predict", "hiera_micro_motions", path, "--top", 2)
    assert (shown.code, shown.err) == (0, "")
    assert [row[:4] for row in shown.rows] == [
        [str(path), window, start, end]
        for window, start, end in (("1", "0.0", "1.0"), ("2", "1.0", "2.0"), ("all", "0.0", "2.0"))
    ]
    assert all(re.fullmatch(r"\w+ 0\.\d\d, \w+ 0\.\d\d", row[4]) for row in shown.rows)
    [data] = plm("predict", "hiera_micro_motions", path, "--stride", 2, "--json").data
    assert [(window["start"], window["end"]) for window in data["windows"]] == [(0.0, 2.0)]
    assert_one_line(plm("predict", MICRO, path), f"path '{path}' is a video; model '{MICRO}' takes images")


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("hiera_micro_digit", f"did you mean '{MICRO}'"),
        (f"{MICRO}.mnist", "there are: sklearn_digits"),
        ("hf-hub:org/name", "HF_HUB_OFFLINE is set"),
        ("test_resnet", "HF_HUB_OFFLINE is set"),
        ("local-dir:/no/such/folder", "/no/such/folder"),
    ],
)
def test_model_that_cannot_be_had(plm, seven, model, said):
    assert_one_line(plm("predict", model, seven), said)


@pytest.mark.parametrize(
    ("transform", "said"),
    [
        ("idel", "no transform 'idel'; did you mean 'idle'?"),
        ("idle:r=1", "transform 'idle': got an unexpected keyword argument 'r'"),
        ("idle:r", "option 'r' is not of the form key=value"),
    ],
)
def test_transform_that_cannot_be_applied(plm, plm_registry, seven, transform, said):
    plm_registry({"name": "mx", "modules": {"matrix_plugin.py": TRANSFORMS}, "entry_points": {"mx": "matrix_plugin"}})
    assert_one_line(plm("predict", MICRO, seven, "--transform", transform), said)
    assert plm("predict", MICRO, seven, "--transform", "idle", "--top", 1).rows[0][2] == "7"
