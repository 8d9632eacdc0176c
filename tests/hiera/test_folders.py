"""``plm hiera`` from folders of pictures and videos to weights, with tiny models and in this process."""

import json
import sys
from dataclasses import dataclass

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from hiera import HieraDet, coco, configs, recipes
from hiera.detection import micro_detector
from hiera.mae import MaskedAutoencoderHiera
from hiera.model import Hiera
from hiera.recipes import folders
from plm_core import InputError, shapes, weights
from plm_core.cli import main
from plm_core.training.finetuning import accuracy, eval_transform
from plm_core.training.overrides import override

CLASSES = ("circle", "cross", "star")
MOTIONS = ("left", "still")


# --- data ------------------------------------------------------------------------------------------------------


def scenes(split, each):
    """Yield ``each`` scenes of one shape for every class."""
    left = dict.fromkeys(CLASSES, each)
    for scene in shapes.Images(split, size=48, count=1000, objects=(1, 1)):
        shape = scene.objects[0].shape
        if left.get(shape):
            left[shape] -= 1
            yield shape, scene.image
        if not any(left.values()):
            return


def write_pictures(folder, split, each):
    for number, (shape, pixels) in enumerate(scenes(split, each)):
        (folder / shape).mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / shape / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Write train/ with 48 pictures and val/ with 9, in class folders."""
    folder = tmp_path_factory.mktemp("pictures")
    write_pictures(folder / "train", "train", 16)
    write_pictures(folder / "val", "heldout", 3)
    return folder


def write_video(path, frames):
    import av

    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264rgb", rate=25, options={"crf": "0", "preset": "ultrafast"})
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "rgb24"
        for pixels in frames:
            file.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        file.mux(stream.encode(None))


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Write train/ with 8 videos of 32 frames and val/ with 4, in folders by motion."""
    folder = tmp_path_factory.mktemp("videos")
    for split, name, each in (("train", "train", 4), ("heldout", "val", 2)):
        left = dict.fromkeys(MOTIONS, each)
        for number, clip in enumerate(shapes.Clips(split, size=32, frames=32, count=1000, objects=(1, 1))):
            motions = [event.motion for event in clip.events if event.motion != "still"] or ["still"]
            if left.get(motions[0]):
                left[motions[0]] -= 1
                write_video(folder / name / motions[0] / f"{number}.mp4", clip.frames)
            if not any(left.values()):
                break
    return folder


@pytest.fixture(scope="module")
def objects(tmp_path_factory):
    """Write train/ and val/ with `coco.write_coco`."""
    folder = tmp_path_factory.mktemp("objects")
    coco.write_coco(coco.ShapesDetection("train", size=96, count=8), folder / "train")
    coco.write_coco(coco.ShapesDetection("heldout", size=96, count=4), folder / "val")
    return folder


# --- the command -----------------------------------------------------------------------------------------------


@dataclass
class Result:
    code: int
    out: str
    err: str

    @property
    def scores(self):
        rows = (line.split("\t") for line in self.out.splitlines())
        return {name: float(score) for name, score, _ in rows}


@pytest.fixture
def hiera(monkeypatch, capfd):
    """Return a function that runs ``plm hiera WORDS`` in this process, by default with the size micro."""

    def run(*words, size="micro"):
        monkeypatch.setattr(sys, "argv", ["plm", "hiera", *map(str, words), "--size", size])
        try:
            main()
            code = 0
        except SystemExit as e:
            code = e.code or 0
        return Result(code, *capfd.readouterr())

    return run


def assert_one_line(result, said):
    assert result.code == 2
    assert result.out == ""
    assert result.err.count("\n") == 1
    assert result.err.startswith("plm: error: ")
    assert said in result.err


def settings(**changes):
    return [word for name, value in changes.items() for word in ("--set", f"{name}={value}")]


def losses(out):
    """Return the logged losses of the newest checkpoint by step."""
    from plm_core.training import newest_checkpoint

    state = json.loads((newest_checkpoint(out) / "trainer_state.json").read_text())
    return {entry["step"]: entry["loss"] for entry in state["log_history"] if "loss" in entry}


def classifier(classes=3, **changes):
    return Hiera(**{**configs.MICRO_SHAPES, "num_classes": classes, "probabilities": False, **changes})


def autoencoder():
    return MaskedAutoencoderHiera(**{**configs.MICRO_SHAPES, **configs.MICRO_MAE})


SHORT = settings(batch_size=24, epochs=2, warmup_epochs=0)


@pytest.fixture(scope="module")
def pretrained(pictures, tmp_path_factory):
    """Return the folder that a short pretraining has written."""
    out = tmp_path_factory.mktemp("pretrained") / "out"
    changes = {"epochs": "2", "batch_size": "24", "warmup_epochs": "0"}
    folders.pretrain(pictures / "train", out, "micro", changes, seed=0)
    return out


# --- pictures --------------------------------------------------------------------------------------------------


def test_pretraining_and_finetuning_of_pictures(hiera, pictures, tmp_path):
    first, then = tmp_path / "mae", tmp_path / "classifier"
    result = hiera("pretrain", pictures / "train", "--out", first, *SHORT)
    assert result.code == 0, result.err
    assert result.scores.keys() == {"training loss"}
    assert result.scores["training loss"] == pytest.approx(losses(first)[4], abs=1e-4)
    assert {p.name for p in first.iterdir()} == {"checkpoint-4", "mae.safetensors", "encoder.safetensors"}
    weights.load(mae := autoencoder(), first / "mae.safetensors")
    weights.load(encoder := classifier(0), first / "encoder.safetensors")
    for name, value in encoder.state_dict().items():
        if not name.startswith("head."):
            assert torch.equal(value, mae.state_dict()[name]), name

    result = hiera("finetune", pictures, "--out", then, "--encoder", first / "encoder.safetensors", *SHORT)
    assert result.code == 0, result.err
    assert result.scores.keys() == {"training loss", "val top-1 %"}
    weights.load(model := classifier(), then / "model.safetensors")
    val = folders._folder(pictures / "val", model, eval_transform((48, 48), *folders._statistics(False)))
    assert result.scores["val top-1 %"] == pytest.approx(accuracy(model, val), abs=1e-3)


def test_a_finetuning_starts_from_the_encoder(hiera, pictures, pretrained, tmp_path):
    """With a learning rate of almost zero, the result is the encoder."""
    words = ["finetune", pictures, "--encoder", pretrained / "encoder.safetensors", "--max-steps", 1]
    result = hiera(*words, "--out", tmp_path / "out", *settings(batch_size=24, lr=1e-12, warmup_epochs=0))
    assert result.code == 0, result.err
    encoder, model = load_file(pretrained / "encoder.safetensors"), load_file(tmp_path / "out" / "model.safetensors")
    for name, value in encoder.items():
        if not name.startswith("head."):
            torch.testing.assert_close(model[name], value, atol=1e-9, rtol=0)
    assert model["head.fc.weight"].shape == (3, 96)


def test_the_same_seed_leads_to_the_same_weights_and_a_run_can_be_resumed(hiera, pictures, tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    words = ["pretrain", pictures / "train", *SHORT, "--save-steps", 1]
    assert hiera(*words, "--out", whole).code == 0
    assert hiera(*words, "--out", parts, "--max-steps", 3).code == 0
    assert not (parts / "checkpoint-4").exists()
    assert_one_line(hiera(*words, "--out", parts), "has checkpoints of another training: resume it, or choose another")
    assert hiera(*words, "--out", parts, "--resume").code == 0
    assert losses(parts).keys() == {3, 4}  # the earlier training took the first three steps
    a, b = (load_file(out / "mae.safetensors") for out in (whole, parts))
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_abs_win_builds_the_papers_positions():
    plain, windowed = (folders._classifier("tiny", False, abs_win) for abs_win in (False, True))
    assert Hiera(**plain, device="meta").pos_embed_win is None
    assert Hiera(**windowed, device="meta").pos_embed_win.shape == (1, 96, 8, 8)


def test_abs_win_reaches_the_training(hiera, pictures, monkeypatch, tmp_path):
    monkeypatch.setitem(configs.IMAGE, "tiny", {**configs.MICRO_SHAPES, "abs_win_pos_embed": False})
    monkeypatch.setitem(recipes.FINETUNE_IMAGE, "tiny", recipes.FINETUNE_IMAGE["micro"])
    for words, keys in ([], {"pos_embed"}), (["--abs-win"], {"pos_embed", "pos_embed_win"}):
        out = tmp_path / f"out{len(words)}"
        assert hiera("finetune", pictures, "--out", out, *SHORT, "--max-steps", 1, *words, size="tiny").code == 0
        assert {key for key in load_file(out / "model.safetensors") if "pos_embed" in key} == keys


def test_device_batches_and_workers_change_nothing(hiera, pictures, tmp_path):
    words = ["finetune", pictures, *SHORT, "--max-steps", 2]
    assert hiera(*words, "--out", tmp_path / "a").code == 0
    assert hiera(*words, "--out", tmp_path / "b", "--per-device-batch-size", 12, "--num-workers", 1).code == 0
    a, b = (load_file(tmp_path / name / "model.safetensors") for name in "ab")
    for name, value in a.items():
        torch.testing.assert_close(b[name], value, atol=2e-4, rtol=0)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_under_autocast_weights_stay_float32(hiera, pictures, tmp_path, precision):
    words = ["finetune", pictures, *SHORT, "--max-steps", 1, "--precision", precision]
    result = hiera(*words, "--out", tmp_path)
    assert result.code == 0, result.err
    assert {value.dtype for value in load_file(tmp_path / "model.safetensors").values()} == {torch.float32}


# --- it learns -------------------------------------------------------------------------------------------------


def test_masked_pretraining_learns(hiera, pictures, tmp_path):
    changes = settings(batch_size=24, epochs=40, warmup_epochs=4)
    result = hiera("pretrain", pictures / "train", "--out", tmp_path, *changes, "--save-steps", 40)
    assert result.code == 0, result.err
    first, last = losses(tmp_path).values()
    assert last < 0.9 * first


def test_finetuning_learns(hiera, pictures, pretrained, tmp_path):
    changes = settings(batch_size=24, epochs=50, warmup_epochs=4, lr=3e-3, smoothing=0, scale="(0.9,1.0)", hflip=0.0)
    encoder = pretrained / "encoder.safetensors"
    result = hiera("finetune", pictures, "--out", tmp_path, "--encoder", encoder, *changes)
    assert result.code == 0, result.err
    first, last = losses(tmp_path).values()
    assert last < 0.7 * first


# --- video -----------------------------------------------------------------------------------------------------


def test_pretraining_and_finetuning_of_video(hiera, videos, tmp_path):
    first, then = tmp_path / "mae", tmp_path / "classifier"
    short = settings(batch_size=8, epochs=2, warmup_epochs=0)
    result = hiera("pretrain-video", videos / "train", "--out", first, *short)
    assert result.code == 0, result.err
    weights.load(MaskedAutoencoderHiera(**{**configs.MICRO_MOTIONS, **configs.MICRO_MAE}), first / "mae.safetensors")
    result = hiera("finetune-video", videos, "--out", then, "--encoder", first / "encoder.safetensors", *short)
    assert result.code == 0, result.err
    assert result.scores.keys() == {"training loss", "val top-1 %"}
    assert result.scores["val top-1 %"] in (0, 25, 50, 75, 100)
    weights.load(Hiera(**configs.MICRO_MOTIONS, num_classes=2), then / "model.safetensors")


def test_a_video_that_is_too_short_is_named(hiera, tmp_path):
    clip = shapes.Clips("train", size=32, frames=8, count=1)[0]
    write_video(tmp_path / "data" / "still" / "short.mp4", clip.frames)
    result = hiera("pretrain-video", tmp_path / "data", "--out", tmp_path / "out", *settings(batch_size=1))
    assert_one_line(result, "short.mp4 has 8 frames that can be decoded; 8 frames, stride 4, start 0 need 29")


# --- detection -------------------------------------------------------------------------------------------------

# The trunk of the micro detector as a Hiera. The windows of this HieraDet are 8 tokens wide, not 4.
DETECTOR_ENCODER = {
    **{key: configs.HIERADET["micro"][key] for key in ("embed_dim", "num_heads", "stages", "dim_mul", "head_mul")},
    "mlp_ratio": 2.0,
    "q_pool": 2,
    "mask_unit_size": (4, 4),
    "mask_unit_attn": (True, False, False),
    "input_size": (96, 96),
    "num_classes": 0,
}


@pytest.mark.parametrize("words", [[], settings(cascade=True)])
def test_detection(hiera, objects, tmp_path, words):
    result = hiera("detect", objects, "--out", tmp_path, "--max-steps", 2, *settings(batch_size=4), *words)
    assert result.code == 0, result.err
    assert {"training loss", "box mAP@[.5:.95]", "mask mAP@[.5:.95]"} <= result.scores.keys()
    weights.load(micro_detector(cascade=bool(words)), tmp_path / "model.safetensors")


@pytest.mark.parametrize("abs_win", [True, False])
def test_detection_starts_from_a_hiera(hiera, objects, tmp_path, abs_win):
    encoder = Hiera(**DETECTOR_ENCODER, abs_win_pos_embed=abs_win, global_pos_size=(6, 6))
    weights.save(encoder, tmp_path / "encoder.safetensors")
    words = ["--encoder", tmp_path / "encoder.safetensors", "--max-steps", 1]
    result = hiera("detect", objects, "--out", tmp_path, *words, *settings(batch_size=4, lr=1e-12, warmup_epochs=0))
    assert result.code == 0, result.err
    trained = load_file(tmp_path / "model.safetensors")
    for name, value in encoder.state_dict().items():
        if name.startswith(("blocks.", "patch_embed.")):
            torch.testing.assert_close(trained[f"backbone.trunk.{name}"], value, atol=1e-9, rtol=0)


def test_a_trunk_can_start_from_a_trunk(tmp_path):
    trunk, other = (HieraDet(**configs.HIERADET["micro"]) for _ in range(2))
    weights.save(trunk, tmp_path / "trunk.safetensors")
    folders.load_encoder(other, tmp_path / "trunk.safetensors")
    assert all(torch.equal(a, b) for a, b in zip(trunk.state_dict().values(), other.state_dict().values(), strict=True))


@pytest.mark.parametrize("size", [size for size in recipes.DETECT if size != "micro"])
def test_the_hiera_of_a_size_fits_the_detectors_trunk(size):
    trunk = folders._trunk(size, device="meta")
    trunk.load_hiera(Hiera(**configs.IMAGE[size], abs_win_pos_embed=True, num_classes=0, device="meta"))
    with pytest.raises(InputError, match="does not fit"):
        trunk.load_hiera(Hiera(**configs.IMAGE["tiny"], abs_win_pos_embed=True, num_classes=0, device="meta"))


# --- bad input -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("task", "words", "size", "said"),
    [
        ("pretrain", [], "tony", "size 'tony' is not allowed here: tiny, small, base, base_plus, large, huge, micro"),
        ("pretrain-video", [], "tiny", "size 'tiny' is not allowed here: base, base_plus, large, huge, micro are"),
        ("detect", [], "tiny", "size 'tiny' is not allowed here: base, base_plus, large, micro are"),
        ("pretrain", settings(mixup=1), "micro", "no setting 'mixup'; there are: aug_repeats, batch_size, betas,"),
        ("pretrain", settings(recipe=1), "micro", "no setting 'recipe'"),
        (
            "pretrain",
            settings(batch_size=1.5),
            "micro",
            "batch_size '1.5' is not allowed: int is expected, such as 128",
        ),
        ("pretrain", settings(batch_size=True), "micro", "batch_size 'True' is not allowed: int is expected"),
        ("pretrain", settings(epochs="ten"), "micro", "epochs 'ten' is not allowed: float is expected, such as 20"),
        ("pretrain", settings(lr="nan"), "micro", "lr 'nan' is not allowed: float is expected"),
        ("pretrain", settings(epochs=0), "micro", "epochs must be more than 0, not 0"),
        (
            "pretrain",
            settings(epochs=1, warmup_epochs=2),
            "micro",
            "warmup_epochs 2 is more than epochs 1: lr is never reached",
        ),
        (
            "pretrain",
            settings(scale="(0.2,)"),
            "micro",
            "scale '(0.2,)' is not allowed: tuple[float, float] is expected",
        ),
        ("pretrain", settings(optimizer="lion"), "micro", "Literal['adamw', 'sgd'] is expected, such as 'adamw'"),
        ("finetune", settings(auto_augment=3), "micro", "auto_augment '3' is not allowed: str | None is expected"),
        ("finetune", settings(hflip=True), "micro", "hflip 'True' is not allowed: float is expected, such as 0.5"),
        ("pretrain", ["--set", "lr"], "micro", "--set 'lr' is not name=value"),
        ("pretrain", ["--precision", "fp64"], "micro", "--precision 'fp64' is not allowed: fp32, bf16 and fp16 are"),
        ("pretrain", ["--encoder", "x"], "micro", "--encoder is for finetune and detect"),
        ("detect", ["--abs-win"], "micro", "--abs-win is for pretrain and finetune"),
        ("finetune-video", ["--abs-win"], "micro", "--abs-win is for pretrain and finetune"),
        ("pretrain", [], "micro", "is not a folder of class folders of images"),
        ("finetune", [], "micro", "is not a folder of class folders of images"),
        ("pretrain-video", [], "micro", "is not a folder"),
        ("detect", [], "micro", "instances.json cannot be read as JSON"),
    ],
)
def test_bad_arguments_are_named(hiera, tmp_path, task, words, size, said):
    assert_one_line(hiera(task, tmp_path / "none", "--out", tmp_path / "out", *words, size=size), said)
    assert not (tmp_path / "out").exists()


def test_settings_of_the_right_type_are_accepted():
    """A float may be whole, a whole default may become a fraction, and None is accepted where it is allowed."""
    text = {
        "epochs": "0.5",
        "warmup_epochs": "0.1",
        "lr": "1",
        "layer_decay": "None",
        "clip_grad": "3",
        "milestones": "(0.5, 0.9, 1)",
    }
    config = override(recipes.FINETUNE_IMAGE["base"], {**text, "scale": "(0.5, 1)", "auto_augment": "rand-m7"})
    recipe = config.recipe
    assert (recipe.epochs, recipe.lr, recipe.layer_decay, recipe.clip_grad) == (0.5, 1, None, 3)
    assert (recipe.milestones, config.scale, config.auto_augment) == ((0.5, 0.9, 1), (0.5, 1), "rand-m7")
    assert (config.mixup, recipe.batch_size) == (0.8, 1024)
    assert recipes.FINETUNE_IMAGE["base"].recipe.epochs == 100


def test_classes_that_differ_are_named(hiera, pictures, objects, tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    (data / "train").symlink_to(pictures / "train")
    (data / "val").mkdir()
    for name in ("circle", "star"):
        (data / "val" / name).symlink_to(pictures / "val" / name)
    said = "data must have the same classes in train and val; not in both: cross"
    assert_one_line(hiera("finetune", data, "--out", tmp_path / "out", *SHORT), said)

    content = json.loads((objects / "val" / "instances.json").read_text())
    content["categories"][0]["name"] = "egg"
    data = tmp_path / "objects"
    (data / "val").mkdir(parents=True)
    (data / "train").symlink_to(objects / "train")
    (data / "val" / "images").symlink_to(objects / "val" / "images")
    (data / "val" / "instances.json").write_text(json.dumps(content))
    assert_one_line(hiera("detect", data, "--out", tmp_path / "out"), "not in both: circle, egg")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_picture_is_named(hiera, pictures, tmp_path, workers):
    data = tmp_path / "data" / "star"
    data.mkdir(parents=True)
    whole = next((pictures / "train" / "star").iterdir()).read_bytes()
    (data / "good.png").write_bytes(whole)
    (data / "bad.png").write_bytes(whole[:100])
    words = ["--num-workers", workers, *settings(batch_size=2)]
    result = hiera("pretrain", tmp_path / "data", "--out", tmp_path / "out", *words)
    assert_one_line(result, f"plm: error: image '{data / 'bad.png'}' cannot be read: ")
    assert not list((tmp_path / "out").iterdir())


def test_an_encoder_that_does_not_fit_is_refused(hiera, pictures, objects, tmp_path):
    words = ["--out", tmp_path / "out", "--encoder"]
    weights.save(classifier(0, embed_dim=48), tmp_path / "wide.safetensors")
    (tmp_path / "text.safetensors").write_text("no")
    result = hiera("finetune", pictures, *words, tmp_path / "wide.safetensors", *SHORT)
    assert_one_line(result, "weights do not fit Hiera")
    result = hiera("detect", objects, *words, tmp_path / "wide.safetensors")
    assert_one_line(result, "hiera does not fit this HieraDet: wrong shape ['")
    result = hiera("finetune", pictures, *words, tmp_path / "text.safetensors", *SHORT)
    assert_one_line(result, "text.safetensors is not a readable safetensors file")
    result = hiera("finetune", pictures, *words, tmp_path / "none.safetensors", *SHORT)
    assert_one_line(result, "none.safetensors' is neither a file nor a repository")
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_created_is_named(hiera, pictures, tmp_path):
    (tmp_path / "file").write_text("")
    result = hiera("pretrain", pictures / "train", "--out", tmp_path / "file", *SHORT)
    assert_one_line(result, f"cannot make the folder {tmp_path / 'file'}: File exists")


def test_a_batch_larger_than_the_data_is_refused(hiera, pictures, tmp_path):
    result = hiera("pretrain", pictures / "train", "--out", tmp_path / "out")
    assert_one_line(result, "batch_size 128 is larger than the data, 48 samples")


# --- a Hiera in a HieraDet -------------------------------------------------------------------------------------

# Windows are mask units up to the first block of the third stage. All later blocks are global, and the fourth stage
# does not pool.
TWIN = {"embed_dim": 8, "num_heads": 1, "stages": (1, 2, 2, 1), "q_pool": 2}


def twins(size=64, **changes):
    torch.manual_seed(0)
    hiera = Hiera(**TWIN, num_classes=0, img_size=size, **changes).eval()
    grid = (size // 4,) * 2
    det = HieraDet(
        **TWIN, window_spec=(8, 4, 2, 2), global_att_blocks=(4, 5), window_pos_embed_bkg_spatial_size=grid
    ).eval()
    return hiera, det


@pytest.mark.parametrize("positions", ["plain", "abs-win"])
@torch.no_grad()
def test_at_the_pretraining_size_the_detectors_trunk_is_the_hiera(positions):
    changes = {} if positions == "plain" else {"abs_win_pos_embed": True, "global_pos_size": (16, 16)}
    hiera, det = twins(**changes)
    x = torch.rand(2, 3, 64, 64)
    expected = hiera.forward_intermediates(x, intermediates_only=True)
    assert not torch.allclose(det(x)[-1], expected[-1], atol=1e-3)
    det.load_hiera(hiera)
    for a, b in zip(det(x), expected, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_abs_win_agrees_at_other_sizes_too():
    """SAM 2 and its successors interpolate without antialiasing, which a Hiera can do too."""
    hiera, det = twins(abs_win_pos_embed=True, global_pos_size=(16, 16), global_pos_antialias=False)
    det.load_hiera(hiera.state_dict())
    x = torch.rand(1, 3, 96, 128)
    for a, b in zip(det(x), hiera.forward_intermediates(x, intermediates_only=True), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_windows_of_more_than_a_mask_unit_hold_several():
    hiera = Hiera(**DETECTOR_ENCODER, abs_win_pos_embed=True, global_pos_size=(6, 6), global_pos_antialias=False)
    det = HieraDet(**configs.HIERADET["micro"])
    det.load_hiera(hiera)
    torch.testing.assert_close(det.positions((24, 24)), hiera.positions((24, 24)))


@torch.no_grad()
def test_a_global_embedding_of_another_size_is_resized():
    hiera, det = twins(abs_win_pos_embed=True, global_pos_size=(7, 7))
    torch.nn.init.constant_(hiera.pos_embed, 0.5)
    det.load_hiera(hiera)
    torch.testing.assert_close(det.pos_embed, torch.full((1, 8, 16, 16), 0.5))
    assert torch.equal(det.pos_embed_window, hiera.pos_embed_win)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"embed_dim": 16}, "wrong shape ['pos_embed', 'patch_embed.proj.weight', 'patch_embed.proj.bias']"),
        ({"stages": (1, 2, 2, 2)}, "unexpected ['blocks.6"),
        ({"stages": (1, 2, 1, 1)}, "missing ['blocks.5"),
        ({"init_values": 1e-5}, "unexpected ['blocks.0.ls1.gamma'"),
        ({"use_expand_proj": False}, "missing ['blocks.1.proj.weight'"),
        ({"input_size": (64, 96)}, "has 384 positions, which do not form a square"),
        ({"stages": (1, 2, 3), "mask_unit_size": (4, 4), "input_size": (48, 48)}, "is not a multiple of the window"),
    ],
)
def test_a_hiera_that_does_not_fit_leaves_the_trunk_alone(changes, said):
    _, det = twins()
    before = {name: value.clone() for name, value in det.state_dict().items()}
    with pytest.raises(InputError) as e:
        det.load_hiera(Hiera(**{**TWIN, "num_classes": 0, "img_size": None, "input_size": (64, 64), **changes}))
    assert said in str(e.value)
    assert all(torch.equal(before[name], value) for name, value in det.state_dict().items())
