"""``plm bench``: the order of the runs, the counts and the report. No test compares two times."""

import copy
import json
import sys

import pytest
import torch
from PIL import Image
from torch import nn

import plm_core
from plm_core import InputError
from plm_core.cli.bench import short_counts
from plm_core.packing import operators
from plm_core.tools import bench
from plm_core.tools.memory import memory_of
from plm_core.transforms import apply_all, split_stack

IMAGE = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
TINY = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 3, "num_classes": 10}

HALVE = """
from plm_core.hookspecs import *
from plm_core import blocks

@hookimpl
def plm_transforms():
    return [Transform(name="halve", apply="halve:apply", remove="halve:remove")]

def apply(model, every=2):
    def forward(view, x, state, **context):
        return blocks.run_block(view, x, **context)[:, ::every], None
    for view in blocks.view(model).blocks:
        blocks.patch(view, forward)

def remove(model):
    for view in blocks.view(model).blocks:
        blocks.unpatch(view.block)
"""


@pytest.fixture
def halve(plm_registry):
    """A transform that keeps every second token of each block."""
    plm_registry({"name": "halve", "modules": {"halve.py": HALVE}, "entry_points": {"halve": "halve"}})


@pytest.fixture
def vit():
    torch.manual_seed(0)
    return plm_core.create_model("vit_tiny_patch16_224", **TINY).eval()


def test_with_and_without_a_transform(halve, vit):
    x = torch.rand(3, 3, 32, 32)
    before = vit(x)
    plain, halved = bench.compare(vit, [["halve:every=2"]], x, runs=4)
    assert (plain.name, halved.name) == ("unchanged", "halve:every=2")
    assert (plain.tokens, halved.tokens) == ((17, 17), (9, 5))
    assert plain.speedup == 1
    assert plain.spread == (1, 1)
    assert halved.agreement is None
    for timing in (plain, halved):
        assert timing.images_per_second == pytest.approx(3000 / timing.milliseconds)
    weights = sum(t.nbytes for t in [*vit.parameters(), *vit.buffers()]) + x.nbytes
    activations = 3 * 17 * 24 * 4
    assert all(weights + activations < t.memory < weights + 100 * activations for t in (plain, halved))
    assert torch.equal(vit(x), before)
    assert not any(module._forward_hooks for module in vit.modules())


def test_the_speed_up_is_taken_within_each_round(halve, vit, monkeypatch):
    """Load that comes and goes affects both sides of a round alike; the ratio of the medians would be 4."""
    seconds = {
        "unchanged": [3.0, 3.0, 12.0, 12.0, 20.0],
        "halve": [1.0, 1.0, 3.0, 8.0, 10.0],
        "halve:every=3": [6.0, 6.0, 24.0, 24.0, 40.0],
    }
    monkeypatch.setattr(bench, "interleaved", lambda calls, runs, device: {name: seconds[name] for name in calls})
    timings = bench.compare(vit, [["halve"], ["halve:every=3"]], IMAGE)
    assert [timing.name for timing in timings] == list(seconds)
    assert [timing.speedup for timing in timings] == [1, 3, 0.5]
    assert [timing.spread for timing in timings] == [(1, 1), (2, 3), (0.5, 0.5)]
    assert [timing.milliseconds for timing in timings] == [12_000, 3000, 24_000]
    assert [timing.between for timing in timings] == [(3000, 12_000), (1000, 8000), (6000, 24_000)]
    assert [timing.images_per_second for timing in timings] == pytest.approx([3 / 12, 3 / 3, 3 / 24])


def test_contenders_are_each_compared_with_the_plain_model(halve, vit):
    timings = bench.compare(vit, [["halve"], ["halve:every=3"]], IMAGE, runs=1, images=[IMAGE, IMAGE[:1]])
    assert [timing.tokens for timing in timings] == [(17, 17), (9, 5), (6, 2)]
    plain, halved, third = (timing.agreement for timing in timings)
    assert plain.same_top1 == 1
    assert plain.cosine == pytest.approx(1)
    with torch.no_grad():
        pooled = [
            model.forward_head(model.forward_features(IMAGE), pre_logits=True)
            for model in (vit, apply_all(copy.deepcopy(vit), ["halve:every=3"]))
        ]
        same = [model(IMAGE).argmax(-1) for model in (vit, apply_all(copy.deepcopy(vit), ["halve:every=3"]))]
    cosines = torch.cosine_similarity(*pooled)
    assert third.cosine == pytest.approx((2 * cosines[0] + cosines[1] + cosines[2]).item() / 4)
    equal = (same[0] == same[1]).float()
    assert third.same_top1 == pytest.approx((2 * equal[0] + equal[1] + equal[2]).item() / 4)
    assert third.cosine < halved.cosine < 0.9999
    with pytest.raises(InputError, match="the same transforms are given twice, or none: halve, halve"):
        bench.compare(vit, [["halve"], ["halve"]], IMAGE)


BAD = {
    "model": ("vit", [], IMAGE, 1),
    "stacks": (nn.Identity(), "tome:r=8", IMAGE, 1),
    "stacks of texts": (nn.Identity(), ["tome:r=8"], IMAGE, 1),
    "x": (nn.Identity(), [], [1.0], 1),
    "runs": (nn.Identity(), [], IMAGE, 0.5),
}


@pytest.mark.parametrize("arguments", BAD.values(), ids=BAD)
def test_arguments_of_other_kinds_are_refused(arguments):
    with pytest.raises(InputError, match=r"^(model|stacks|x|runs) is .*; it (can be|is) "):
        bench.compare(*arguments)


def test_memory_is_counted_to_the_byte():
    class Doubled(nn.Module):
        def forward(self, x):
            a = x + 1  # one tensor of x's size
            b = torch.cat([a, a])  # two more
            del a
            return b[:5].clone()  # two, and five rows

    x = torch.rand(64, 1024)
    model = Doubled()
    peak = memory_of(model, x, lambda: model(x))
    assert peak == 4 * x.nbytes  # x itself, a and b
    model.weight = nn.Parameter(torch.rand(1024))
    assert memory_of(model, x, lambda: model(x)) == 4 * x.nbytes + 4096


def test_without_transforms_there_is_one_row(vit):
    [plain] = bench.compare(vit, [], torch.rand(1, 3, 32, 32), runs=1)
    assert plain.tokens == (17, 17)


def test_tokens_of_grids_and_of_blocks_that_are_not_known():
    hiera, x = bench.prepare("hiera_micro_digits", 1)
    assert bench.compare(hiera, [], x, runs=1)[0].tokens == (64, 16, 16, 4)
    resnet, x = bench.prepare("resnet10t", 1, size=32)
    assert bench.compare(resnet, [], x, runs=1)[0].tokens is None


@pytest.mark.parametrize(("runs", "kept"), [(1, 1), (3, 3), (4, 3), (10, 8), (40, 30)])
def test_contenders_take_turns_and_the_first_quarter_is_thrown_out(runs, kept):
    ran = []
    seconds = bench.interleaved({name: lambda name=name: ran.append(name) for name in "ab"}, runs)
    assert ran == ["a", "b"] * runs
    assert {name: len(times) for name, times in seconds.items()} == {"a": kept, "b": kept}
    assert min(seconds["a"]) >= 0


@pytest.mark.parametrize(("runs", "rounds"), [(40, 8), (3, 1)])
def test_an_accelerator_waits_only_around_runs_queued_together(monkeypatch, runs, rounds):
    events = []
    monkeypatch.setattr(bench, "synchronize", lambda device: events.append("wait"))
    seconds = bench.interleaved({"a": lambda: events.append("run")}, runs, "cuda")
    assert events == ["wait", *["run"] * min(5, runs), "wait"] * rounds
    assert len(seconds["a"]) == rounds - rounds // 4


def test_dtypes(vit):
    kinds = []
    vit.blocks[0].attn.qkv.register_forward_hook(lambda *call: kinds.append(call[-1].dtype))
    for dtype, kind in (("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)):
        bench.compare(vit, [], torch.rand(1, 3, 32, 32), runs=1, dtype=dtype)
        assert set(kinds) == {kind}
        kinds.clear()


def test_compiled(vit, monkeypatch):
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda model: compiled.append(model) or model)
    bench.compare(vit, [], torch.rand(1, 3, 32, 32), runs=1, compiled=True)
    assert compiled == [vit]


def test_what_is_prepared():
    model, x = bench.prepare("hiera_micro_motions", 2)
    assert x.shape == (2, 3, 8, 32, 32)
    assert not model.training
    model, x = bench.prepare("vit_tiny_patch16_224", 1, size=64)
    assert (x.shape, model.pos_embed.shape[1]) == ((1, 3, 64, 64), 17)
    assert torch.equal(x, bench.prepare("vit_tiny_patch16_224", 1, size=64)[1])
    assert bench.prepare("resnet10t", 1, size=48)[1].shape == (1, 3, 48, 48)


@pytest.mark.parametrize("device", ["cuda:99", "toaster", "meta", ""])
def test_a_device_that_is_not_there(device):
    with pytest.raises(InputError, match=f"device '{device}' cannot be used: ") as said:
        bench.prepare("resnet10t", 1, device)
    assert "\n" not in str(said.value)


def test_what_cannot_run_is_said_in_one_line(vit):
    with pytest.raises(InputError, match=r"VisionTransformer cannot run on \[1, 3, 40, 40\]: Input height"):
        bench.compare(vit, [], torch.rand(1, 3, 40, 40))
    with pytest.raises(InputError, match="dtype 'fp8' is not allowed: fp32, bf16, fp16 are"):
        bench.compare(vit, [], torch.rand(1, 3, 32, 32), dtype="fp8")


@pytest.mark.gpu
def test_on_a_gpu(halve, vit):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    plain, halved = bench.compare(vit.cuda(), [["halve"]], torch.rand(64, 3, 32, 32, device="cuda"), runs=10)
    weights = sum(t.nbytes for t in [*vit.parameters(), *vit.buffers()]) + 64 * 3 * 32 * 32 * 4
    assert all(weights + 64 * 17 * 24 * 4 < t.memory < 100 * weights for t in (plain, halved))
    assert halved.tokens == (9, 5)


# --- the command ------------------------------------------------------------------------------------------------


@pytest.fixture
def plm(monkeypatch, capsys):
    """Run ``plm bench WORDS``."""

    def run(*words):
        from plm_core.cli import main

        monkeypatch.setattr(sys, "argv", ["plm", "bench", *map(str, words)])
        with pytest.raises(SystemExit) as exit_:
            main()
        return exit_.value.code or 0, *capsys.readouterr()

    return run


def test_plm_bench(halve, plm):
    words = ("vit_tiny_patch16_224", "--size", 32, "--batch-size", 2, "--runs", 2, "--threads", 1)
    threads = torch.get_num_threads()
    code, out, err = plm(*words, "--transform", "halve", "--json")
    assert code == 0
    assert torch.get_num_threads() == threads
    assert err.startswith("vit_tiny_patch16_224, 2 x 3 x 32 x 32, fp32, cpu, 1 threads, torch ")
    plain, halved = json.loads(out)
    assert list(plain) == [
        *("model", "images/s", "ms/batch", "ms range", "speed-up", "speed-up range", "peak memory, MB"),
        "tokens after each block",
    ]
    assert plain["tokens after each block"] == [5] * 12
    assert halved["tokens after each block"] == [3, 2, *[1] * 10]
    _, out, _ = plm(*words, "--transform", "halve")
    assert [row.split("\t")[-1] for row in out.splitlines()[1:]] == ["5 x12", "3, 2, 1 x10"]


def test_plm_bench_compares_on_images(halve, plm, tmp_path):
    for name, shade in (("a.png", 40), ("deeper/b.png", 200)):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (40, 30), (shade, 90, 120)).save(tmp_path / name)
    words = ("hiera_micro_digits", "--batch-size", 1, "--runs", 1, "--json", "--images")
    code, out, _ = plm(*words, tmp_path)
    [plain] = json.loads(out)
    assert (code, plain["same top-1"]) == (0, 1)
    code, out, err = plm("hiera_micro_digits", "--runs", 1, "--images", tmp_path / "none")
    assert (code, out) == (2, "")
    assert "does not exist" in err


@pytest.mark.skipif(bool(operators.missing()), reason=operators.missing())
def test_plm_bench_stacks_packed_and_another_transform_in_either_order(plm, all_layers_gain, tmp_path):
    Image.fromarray(plm_core.shapes.Images("heldout", size=48, count=1)[0].image).save(tmp_path / "a.png")
    words = ("tome_micro_shapes", "--batch-size", 2, "--runs", 1, "--threads", 1, "--images", tmp_path, "--json")
    words += ("--compare", "packed", "--compare", "tome:r=24", "--compare", "packed+tome:r=24")
    code, out, err = plm(*words, "--transform", "tome:r=24", "--transform", "packed")
    assert code == 0
    rows = {row["model"]: row for row in json.loads(out)}
    assert list(rows) == ["unchanged", "tome:r=24 packed", "packed", "tome:r=24", "packed tome:r=24"]
    merged = rows["tome:r=24"]
    assert rows["packed"]["lowest"] == 1
    assert merged["lowest"] < 1
    for name in list(rows)[1::3]:
        assert rows[name]["tokens after each block"] == merged["tokens after each block"]
        assert rows[name]["lowest"] == pytest.approx(merged["lowest"], abs=1e-4)
        packed = "25 of 25 linear layers and 1 of 1 convolutions are packed, 6 of them with the activation after it"
        assert f"note: {name}: {packed}\n" in err
    assert "note: tome:r=24: " not in err


def test_stacks_are_split_at_plus_signs_before_names():
    assert split_stack("packed:tune=False+tome:r=(8, -1),x=1e+3+a_b") == [
        "packed:tune=False", "tome:r=(8, -1),x=1e+3", "a_b"
    ]  # fmt: skip
    assert split_stack("packed") == ["packed"]


@pytest.mark.parametrize(("seconds", "said"), [([1, 1, 1.2, 1.25], False), ([1, 1, 1.2, 1.9], True)])
def test_a_busy_machine_is_said(halve, plm, monkeypatch, seconds, said):
    monkeypatch.setattr(bench, "interleaved", lambda calls, runs, device: dict.fromkeys(calls, seconds))
    code, out, err = plm("vit_tiny_patch16_224", "--size", 32, "--batch-size", 1, "--json")
    assert code == 0
    [plain] = json.loads(out)
    assert plain["ms range"] == ([1000, 1212.5] if not said else [1000, 1375])
    assert not {"speed-up", "speed-up range"} & plain.keys()
    assert ("note: half of the batches of the plain model took 1e+03 to 1.38e+03 ms" in err) == said


def test_models_without_classes_and_random_weights_have_no_top1_and_a_note(halve, plm, tmp_path):
    Image.new("RGB", (40, 30), (200, 90, 120)).save(tmp_path / "a.png")
    Image.new("RGB", (40, 30), (20, 190, 120)).save(tmp_path / "b.png")
    words = ("random:vit_tiny_patch16_224", "--size", 32, "--runs", 1, "--json", "--compare", "halve", "--images")
    code, out, err = plm(*words, tmp_path)
    plain, halved = json.loads(out)
    assert code == 0
    assert plain["cosine"] == plain["lowest"] == 1
    assert -1 <= halved["lowest"] < halved["cosine"] < 1
    assert "on 2 images" in err
    assert "note: the weights are random" in err
    assert err.startswith("random:vit_tiny_patch16_224, ")


def test_token_counts_in_words():
    assert short_counts((189, 181, 173)) == "189 to 173, 8 fewer each"
    assert short_counts((189, 181)) == "189, 181"
    assert short_counts((197, 197, 189)) == "197 x2, 189"
    assert short_counts(()) == ""


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["vit_tinny"], "no model 'vit_tinny'"),
        (["random:vit_tinny"], "no model 'vit_tinny'"),
        (["random:resnet10t", "--pretrained"], "model 'random:resnet10t' asks for random weights, and pretrained for"),
        (["resnet10t", "--transform", "halve:every"], "option 'every' is not of the form key=value"),
        (["resnet10t", "--transform", "halve"], "no block adapter"),
        (["resnet10t", "--transform", "halved"], "no transform 'halved'; did you mean 'halve'?"),
        (["resnet10t", "--compare", "packed+halved"], "no transform 'halved'; did you mean 'halve'?"),
        (["resnet10t", "--compare", "packed+"], "transform 'packed+' is not of the form name"),
        (["resnet10t", "--compare", "packed+packed"], "transform 'packed' is applied to this ResNet already"),
        (
            ["resnet10t", "--compare", "packed", "--dtype", "bf16", "--batch-size", 1],
            "packed in float32 cannot be called inside autocast with bfloat16: apply 'packed' with dtype='bf16'",
        ),
        (["resnet10t", "--dtype", "int8"], "dtype 'int8' is not allowed"),
        (["resnet10t", "--device", "toaster"], "device 'toaster' cannot be used"),
    ],
)
def test_bad_input_is_one_line(halve, plm, words, said):
    code, out, err = plm(*words)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("plm: error: ")
    assert said in err
