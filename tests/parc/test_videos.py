"""Rankings and probings of a folder of videos: what each model gets of a video, the cache, failures, the next steps."""

import pickle
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

import parc
import plm_core
from parc.next_steps import after_probing, after_ranking
from parc.ranking import Settings, views
from parc.ranking.candidates import Candidate, make_model
from parc.ranking.extraction import extract, preprocess_digest
from parc.ranking.probes import draw_probes
from plm_core.datasets import load_dataset
from plm_core.embedding import logits_of
from plm_core.errors import InputError, NotSupported
from plm_core.video import Video, per_clip, read_clip

MOTIONS, SHAPES = "hiera_micro_motions.plm_shapes", "tome_micro_shapes.plm_shapes"


@pytest.fixture(scope="module", autouse=True)
def _cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PLM_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def probe(videos):
    return draw_probes(load_dataset(videos))[0]


@pytest.fixture(scope="module")
def video_mae(tmp_path_factory):
    """Return a folder with a micro classifier of clips of transformers and its preprocessing."""
    import transformers

    folder = tmp_path_factory.mktemp("videomae")
    size = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    config = transformers.VideoMAEConfig(**size, image_size=32, patch_size=8, num_frames=4, num_labels=5)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        transformers.VideoMAEForVideoClassification(config).save_pretrained(folder)
    sides = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    transformers.VideoMAEImageProcessor(**sides).save_pretrained(folder)
    return folder


def middle(model, path):
    """Return the middle 8 of 32 frames, as a model of our own takes them."""
    return per_clip(plm_core.transform_for(model))(read_clip(path, 8, 1))[None]


def every_fourth(model, path):
    """Return the middle 13 of 32 frames at a stride of 4, as a model of transformers takes them."""
    return plm_core.transform_for(model)(Video(path).read([9, 13, 17, 21]))[None]


def spread(model, path):
    """Return the frames in the middle of each quarter, as an image model takes them."""
    frames = Video(path).read([4, 12, 20, 28])
    return torch.stack([plm_core.transform_for(model)(Image.fromarray(frame.numpy())) for frame in frames])


@pytest.mark.parametrize(
    ("name", "by_hand"),
    [
        ("hiera_micro_motions", middle),
        ("tome_micro_shapes", spread),
        ("hiera_micro_shapes", spread),
        ("transformers:video_mae", every_fourth),
    ],
)
def test_features_and_probabilities_are_means_over_the_views_of_a_video(name, by_hand, probe, video_mae):
    model, steps = make_model(Candidate(name.replace("video_mae", str(video_mae)))), []
    extracted = extract(model, probe, Settings(batch_size=6), head=True, advance=steps.append)
    assert sum(steps) == len(probe) == 8
    with torch.inference_mode():
        inputs = [by_hand(model, path) for path in probe.items]
        features = torch.stack([plm_core.embed(model, x).mean(0) for x in inputs])
        probs = torch.stack([logits_of(model(x)).softmax(-1).mean(0) for x in inputs])
    torch.testing.assert_close(torch.from_numpy(extracted.features), features, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(torch.from_numpy(extracted.probs), probs, rtol=1e-4, atol=1e-6)
    assert features.std(0).mean() > 1e-4


def test_a_batch_has_no_more_frames_than_images(probe):
    model, sizes = make_model(Candidate("tome_micro_shapes")), []
    model.patch_embed.register_forward_pre_hook(lambda module, args: sizes.append(len(args[0])))
    extract(model, probe, Settings(batch_size=9), head=False)
    assert sizes == [8] * 4  # two videos of four frames


def test_a_short_video_repeats_its_last_frame(write_video, tmp_path):
    for name, shade in (("a", 60), ("b", 180)):
        for i in range(2):
            frames = np.full((3 + i, 32, 32, 3), shade, np.uint8)
            frames[-1] = 0
            write_video(tmp_path / name / f"{i}.mp4", frames)
    short = draw_probes(load_dataset(tmp_path))[0]
    model = make_model(Candidate("hiera_micro_motions"))
    index = short.names.index("a/0.mp4")
    clip = views.views_for(model, "videos")(short, index)
    expected = per_clip(plm_core.transform_for(model))(read_clip(short.items[index], 8, 1, pad="last"))
    assert torch.equal(clip, expected[None])
    assert (clip[0, 0, :, 0, 0] == clip.min()).tolist() == [False, False, *[True] * 6]


def test_a_ranking_has_the_scores_of_the_features(videos, probe):
    ranking = parc.rank(videos, ["tome_micro_shapes", "hiera_micro_motions"], ["logme", "parc"], pca=None, bootstraps=0)
    assert ranking.models == [MOTIONS, SHAPES]  # one was trained to tell motions apart
    assert {name: ranking.about[name] for name in ("kind", "images", "of", "classes")} == {
        "kind": "videos",
        "images": 8,
        "of": 8,
        "classes": 2,
    }
    for name in ranking.models:
        features = extract(make_model(Candidate(name)), probe, Settings(), head=False).features
        for method in ranking.methods:
            expected = parc.score(method, features, probe.labels, num_classes=2, pca=None)
            assert ranking.of(name)[method].score == pytest.approx(expected, rel=1e-4)
    again = parc.rank(videos, ["hiera_micro_motions"], ["parc"], pca=None, bootstraps=0).rows[0]
    assert (again.cached, again.score) == (True, ranking.of(MOTIONS)["parc"].score)


def test_a_probing_judges_by_the_folds_and_by_the_split(videos):
    probed = parc.probe(videos, ["hiera_micro_motions", "tome_micro_shapes"], "knn:k=1", folds=4)
    assert (probed.about["kind"], probed.about["images"], probed.about["val_images"]) == ("videos", 8, 4)
    model = make_model(Candidate("hiera_micro_motions"))
    train, val = (load_dataset(videos / split) for split in ("train", "val"))
    with torch.inference_mode():
        x, y = (
            np.stack([plm_core.embed(model, middle(model, path))[0] for path in data.items]) for data in (train, val)
        )
    x, y = ((part - x.mean(0)) / x.std(0) for part in (x, y))
    nearest = np.linalg.norm(y[:, None] - x[None], axis=-1).argmin(1)
    folds, judged = probed.of(MOTIONS)
    assert judged.accuracy == pytest.approx(100 * np.mean(train.labels[nearest] == val.labels))
    assert (folds.images, judged.images, judged.judged) == (8, 4, "val")


def test_a_probing_of_class_folders_without_splits(videos):
    probed = parc.probe(videos / "train", ["hiera_micro_motions"], folds=2, shots=[1])
    assert [(row.judged, row.shots, row.images, row.error) for row in probed.rows] == [
        ("folds", None, 8, ""),
        ("folds", 1, 8, ""),
    ]
    assert probed.figure().axes[0].get_xlabel() == "videos per class to learn from (all: 2)"
    with pytest.raises(InputError, match="folds is 5, but class 'left' has 4 of the videos; 4 folds or fewer"):
        parc.probe(videos, ["hiera_micro_motions"])


def test_the_key_of_the_cache_follows_what_a_model_gets(monkeypatch):
    motions, shapes = (make_model(Candidate(name)) for name in ("hiera_micro_motions", "tome_micro_shapes"))
    digests = [preprocess_digest(shapes, "fp32", kind) for kind in ("images", "videos")]
    digests.append(preprocess_digest(motions, "fp32", "videos"))
    assert preprocess_digest(motions, "fp32", "videos") == digests[-1]
    monkeypatch.setattr(views, "clip_input", lambda model, stride: plm_core.hookspecs.Input(frames=8, stride=2))
    digests.append(preprocess_digest(motions, "fp32", "videos"))
    monkeypatch.setattr(views, "clip_input", lambda model, stride: plm_core.hookspecs.Input(frames=4))
    digests.append(preprocess_digest(motions, "fp32", "videos"))
    assert len(set(digests)) == 5


@pytest.mark.parametrize(
    ("name", "kind", "said"),
    [
        ("hiera_micro_motions", "images", "the model takes clips of 8 frames; the dataset holds images"),
        ("torchvision:r3d_18", "images", "the model takes clips; the dataset holds images"),
        ("torchvision:r3d_18", "videos", "model 'torchvision:r3d_18' takes clips, but does not say of how many frames"),
        ("transformers:video_mae", "images", "the model takes clips of 4 frames; the dataset holds images"),
        ("AST", "videos", "the model takes sounds; the dataset holds videos"),
        ("Timesformer", "videos", "takes clips, but transformers preprocesses only images for it"),
    ],
)
def test_models_that_take_something_else_say_so(name, kind, said, video_mae):
    import transformers

    with torch.device("meta"):
        if hasattr(transformers, f"{name}Config"):
            model = getattr(transformers, f"{name}{'ForVideoClassification' if name != 'AST' else 'Model'}")(
                getattr(transformers, f"{name}Config")(num_hidden_layers=1)
            )
        else:
            model = plm_core.create_model(name.replace("video_mae", str(video_mae)))
    with pytest.raises(NotSupported) as caught:
        views.views_for(model, kind)
    assert said in str(caught.value)


def test_videos_that_cannot_be_read_are_named_before_anything_runs(videos, tmp_path):
    root = shutil.copytree(videos / "train", tmp_path / "data")
    bad = sorted(root.glob("still/*.mp4"))[0]
    bad.write_bytes(b"not a video")
    with pytest.raises(
        InputError, match=rf"1 of the 8 videos drawn from '.*data' cannot be read, .*: still/{bad.name} \("
    ):
        draw_probes(load_dataset(root))


def test_a_packed_probe_needs_no_files_and_its_digest_follows_them(videos, tmp_path):
    root = shutil.copytree(videos / "train", tmp_path / "data")
    probe = draw_probes(load_dataset(root))[0]
    model = make_model(Candidate("tome_micro_shapes"))
    before = extract(model, probe, Settings(), head=False).features
    packed = pickle.loads(pickle.dumps(probe.packed()))
    first, second = sorted(root.glob("still/*.mp4"))[:2]
    shutil.copy(first, second)
    assert draw_probes(load_dataset(root))[0].digest != probe.digest
    shutil.rmtree(root)
    np.testing.assert_array_equal(extract(model, packed, Settings(), head=False).features, before)


def test_the_next_step_is_a_recipe_for_videos(videos, plm):
    names = "tome_micro_shapes,hiera_micro_motions,random:test_resnet"
    result = plm("rank", videos, "--models", names, "--method", "knn", "--pca", "none")
    assert result.code == 0, result.err
    assert f"{videos}/train: 8 of 8 videos, 2 classes" in result.err
    train = f"plm train hiera-finetune-video {videos} --model {MOTIONS} --out runs/{MOTIONS}"
    assert result.err.splitlines()[-2].startswith(f"next: plm probe {videos} --models ")
    assert result.err.splitlines()[-1] == f"  or: {train}"
    still = parc.rank(videos, ["tome_micro_shapes", "hiera_micro_shapes"], ["knn"], bootstraps=0)
    assert after_ranking("clips", still) == f"next: plm probe clips --models {','.join(still.models)}"
    probed = parc.probe(videos, ["hiera_micro_shapes"], "knn:k=1", folds=2)
    assert after_probing("clips", probed) is None  # no recipe trains an image model on videos
