"""`plm gaze-eval`: the scores of each format, and what is refused."""

import json

import numpy as np
import pytest
import torch

import plm_core
from gazelle import evaluation, metrics
from gazelle.data import open_gaze, read_gazefollow, read_vat
from gazelle.data.opening import format_of
from gazelle.estimation import preprocess_of
from gazelle.recipes import Looker
from plm_core import InputError, weights
from plm_core.utils.images import open_image

MICRO = "gazelle_micro_shapes"


@pytest.fixture(scope="module")
def model():
    return plm_core.create_model(MICRO, pretrained=True).eval()


def looks(model, scene):
    """Return the heatmaps and scores of the people of a scene, who are asked about one by one."""
    image = preprocess_of(model)(open_image(scene.path))[None]
    gazes = [model({"images": image, "bboxes": [[person.box]]}) for person in scene.people]
    return [(gaze["heatmap"][0][0].detach().numpy(), gaze["inout"][0].item()) for gaze in gazes]


def test_scores_of_photos_are_means_over_people(model, gaze_photos):
    annotations = read_gazefollow(gaze_photos, "test")
    expected = []
    for scene in annotations.scenes:
        for person, (heatmap, _) in zip(scene.people, looks(model, scene), strict=True):
            x, y = zip(*person.gaze, strict=True)
            expected.append(metrics.gazefollow(heatmap, x, y, scene.height, scene.width))
    found = evaluation.evaluate(Looker(model), annotations, preprocess_of(model), "gazefollow", batch_size=4)
    assert list(found) == ["auc", "avg_l2", "min_l2"]
    assert list(found.values()) == pytest.approx(np.mean(expected, 0).tolist(), abs=1e-4)


def test_scores_of_frames_are_those_of_vat(model, gaze_videos):
    annotations = read_vat(gaze_videos, "test")
    pairs = [(p, look) for s in annotations.scenes for p, look in zip(s.people, looks(model, s), strict=True)]
    inside = [metrics.vat(heatmap, *person.gaze[0]) for person, (heatmap, _) in pairs if person.inout]
    assert 0 < len(inside) < len(pairs)
    precision = metrics.inout_ap([score for _, (_, score) in pairs], [person.inout for person, _ in pairs])
    found = evaluation.evaluate(Looker(model), annotations, preprocess_of(model), "vat", batch_size=3)
    assert list(found) == ["auc", "l2", "inout_ap"]
    assert list(found.values()) == pytest.approx([*np.mean(inside, 0).tolist(), precision], abs=1e-4)


def test_the_command_prints_the_scores_of_each_format(plm, gaze_photos, gaze_videos, tmp_path):
    for data, benchmark, form in ((gaze_photos, "avg L2", "gazefollow"), (gaze_videos, "in/out AP", "vat")):
        (row,) = json.loads(plm("gaze-eval", MICRO, data, "--json").out)
        assert (row["model"], row["format"]) == (MICRO, form)
        assert 0 <= row["AUC"] <= 1
        assert benchmark in row
    entries = [
        {
            "path": str(scene.path),
            "width": scene.width,
            "height": scene.height,
            "heads": [
                {
                    "bbox_norm": person.box,
                    "gazex_norm": [x for x, _ in person.gaze],
                    "gazey_norm": [y for _, y in person.gaze],
                    "inout": person.inout,
                }
                for person in scene.people
            ],
        }
        for scene in read_gazefollow(gaze_photos, "test").scenes
    ]
    (tmp_path / "test.json").write_text(json.dumps(entries))
    (row,) = json.loads(plm("gaze-eval", MICRO, gaze_photos, "--json").out)
    (same,) = json.loads(plm("gaze-eval", MICRO, tmp_path / "test.json", "--json", "--batch-size", "1").out)
    assert same == {**row, "data": "test.json", "format": "json"}


def test_a_released_file_is_evaluated_on_its_model(plm, gaze_photos, tmp_path, monkeypatch):
    """The backbone of the double is small and has random weights."""
    seen = []
    monkeypatch.setattr(
        "gazelle.loading.load_release",
        lambda path, name: seen.append((path.name, name)) or plm_core.create_model(MICRO).eval(),
    )
    weights.write({"a": torch.zeros(1)}, tmp_path / "decoder.safetensors")
    result = plm("gaze-eval", "gazelle_dinov2_vitb14", gaze_photos, "--weights", tmp_path / "decoder.safetensors")
    assert result.code == 0, result.err
    assert seen == [("decoder.safetensors", "gazelle_dinov2_vitb14")]


def test_formats_are_found_by_the_names_of_files(gaze_photos, gaze_videos, tmp_path):
    assert (format_of(gaze_photos), format_of(gaze_videos, "train")) == ("gazefollow", "vat")
    (tmp_path / "annotations" / "val").mkdir(parents=True)
    (tmp_path / "annotations" / "val" / "clip.csv").touch()
    for name in ("a.json", "b.pkl"):
        (tmp_path / name).touch()
    found = [format_of(tmp_path, "val"), format_of(tmp_path / "a.json"), format_of(tmp_path / "b.pkl")]
    assert found == ["childplay", "json", "goo"]
    assert open_gaze(gaze_photos).benchmark == "gazefollow"
    assert open_gaze(gaze_videos, "train").benchmark == "vat"
    assert open_gaze(gaze_videos, "train", "vat").format == "vat"
    with pytest.raises(InputError, match="format 'coco' is not allowed: 'gazefollow', 'vat', 'childplay', 'goo' and"):
        open_gaze(gaze_photos, format="coco")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("gazelle_micro_shapes", "{tmp}"), "has no split 'test' of gaze: test_annotations_release.txt (GazeFollow), "),
        (("gazelle_micro_shapes", "{tmp}/absent"), "does not exist; a folder of gaze, a .json file or a pickle"),
        (("hiera_micro_shapes", "{photos}"), "model 'hiera_micro_shapes' is no model of gaze; gazelle_* are"),
        (("gazelle_micro_shapes", "{photos}", "--images", "{tmp}"), "which is for a file; a folder of gazefollow has"),
        (("gazelle_dinov2_vitb14", "{photos}"), "give its file of the original's release (--weights"),
        (
            ("gazelle_micro_shapes", "{photos}", "--benchmark", "iou"),
            "benchmark 'iou' is not allowed: 'gazefollow' and",
        ),
    ],
)
def test_what_cannot_be_evaluated_is_named(plm, gaze_photos, tmp_path, arguments, words):
    result = plm("gaze-eval", *(text.format(tmp=tmp_path, photos=gaze_photos) for text in arguments))
    assert result.code == 2
    assert words in result.err
    assert result.err.count("\n") == 1
