"""`plm zeroshot` and `plm search`, with a tiny CLIP of random weights, and the evaluation of data."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import pe_encoder
import plm_core
from pe_encoder import media, prompts
from pe_encoder.cli.options import why_not
from plm_core.datasets import load_captions, load_dataset
from plm_core.datasets.captions import write_captions
from plm_core.embeddings import Embeddings

WORDS = ("a", "red", "blue", "circle", "square")
VISION = {
    "patch_size": 8, "width": 32, "layers": 2, "heads": 2, "output_dim": 16, "image_size": 32, "attn_pooler_heads": 2
}  # fmt: skip
TEXT = {"context_length": 8, "width": 16, "heads": 2, "layers": 2, "output_dim": 16, "vocab_size": 9}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Return a model folder with a tiny CLIP, and the model."""
    torch.manual_seed(0)
    net = plm_core.create_model("pe_clip_t16_384", vision=VISION, text=TEXT, vocabulary=WORDS, img_size=32).eval()
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    torch.nn.init.constant_(net.logit_scale, 2.0)
    folder = tmp_path_factory.mktemp("clip")
    plm_core.weights.save_pretrained(net, folder, license="mit")
    return str(folder), net


@pytest.fixture
def photos(tmp_path):
    """Return a folder of class folders with five images."""
    rng = np.random.default_rng(0)
    for number, name in enumerate(["red_circle", "red_circle", "blue-square", "blue-square", "blue-square"]):
        (tmp_path / "data" / name).mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (40, 30, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "data" / name / f"{number}.png")
    return tmp_path / "data"


def test_probabilities_of_texts(plm, model, photos):
    folder, net = model
    image = photos / "red_circle" / "0.png"
    result = plm("zeroshot", image, "a red circle", "a blue square", "a", "--model", folder)
    assert result.code == 0, result.err
    table = {text: float(probability) for text, probability in result.rows}
    assert sum(table.values()) == pytest.approx(1, abs=1e-3)
    x = pe_encoder.preprocess(32)(Image.open(image))[None]
    with torch.no_grad():
        images, texts, scale = net(x, net.tokenizer()(list(table)))
    assert list(table.values()) == pytest.approx((scale * images @ texts.T).softmax(-1)[0].tolist(), abs=1e-4)
    assert list(table.values()) == sorted(table.values(), reverse=True)


def test_a_folder_as_json_with_templates_and_an_unreadable_file(plm, model, photos):
    (photos / "broken.png").write_bytes(b"no image")
    result = plm("zeroshot", photos, "red circle", "blue square", "--templates", "a {}", "--json", "--model", model[0])
    assert result.code == 2
    rows = json.loads(result.out)
    assert len(rows) == 5
    assert all(len(row["texts"]) == 2 for row in rows)
    assert "broken.png" in result.err


def test_a_video_is_classified_by_its_frames(plm, model, write_video, tmp_path):
    pytest.importorskip("av")
    frames = np.random.default_rng(0).integers(0, 256, (10, 32, 32, 3), dtype=np.uint8)
    video = write_video(tmp_path / "clip.mp4", frames)
    result = plm("zeroshot", video or tmp_path / "clip.mp4", "red", "blue", "--frames", "4", "--model", model[0])
    assert result.code == 0, result.err
    assert len(result.rows) == 2


def test_unknown_words_are_named(plm, model, photos):
    result = plm("zeroshot", photos / "red_circle" / "0.png", "a red cat", "a dog", "--model", model[0])
    assert "knows 5 words, and not cat, dog" in result.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{photo}", "a cat", " "], "a text is empty"),
        (["{photo}", "a", "--templates", "imagenett"], "no set of templates 'imagenett'; did you mean 'imagenet'"),
        (["{folder}", "a"], "has no images or videos: found 1 .txt file"),
        (["{photo}", "a", "--model", "pe_core_t16_384"], "no weights|cannot get|no text tower"),
        (["{photo}", "a", "--model", "resnet18"], "no text tower, which zero-shot classification needs: pe_clip_"),
    ],
)
def test_wrong_arguments_are_one_line(plm, model, photos, tmp_path, arguments, message):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "a.txt").write_text("a")
    places = {"photo": photos / "red_circle" / "0.png", "folder": tmp_path / "empty"}
    arguments = [
        argument.format(**places) if "{p" in argument or "{f" in argument else argument for argument in arguments
    ]
    if "--model" not in arguments:
        arguments += ["--model", model[0]]
    result = plm("zeroshot", *arguments)
    assert result.code == 2
    assert re.search(message, result.err), result.err


def test_models_without_a_text_tower_say_why():
    assert "so that no text tower fits" in why_not("pe_lang_l14_448.fb")
    assert "so that no text tower fits" in why_not("pe_spatial_b16_512")
    assert "pe_clip_b16_224" in why_not("pe_core_b16_224.fb")
    assert "pe_clip_*" in why_not("resnet18")


def test_classifiers_are_kept_on_disk(model, tmp_path, monkeypatch):
    monkeypatch.setenv("PLM_CACHE", str(tmp_path))
    _, net = model
    calls = []
    monkeypatch.setattr(net, "encode_text", lambda ids, encode=net.encode_text: calls.append(len(ids)) or encode(ids))
    names = ["red circle", "blue square"]
    first = pe_encoder.zeroshot.embed_classes(net, names, ["a {}", "{}"], cache=True)
    again = pe_encoder.zeroshot.embed_classes(net, names, ["a {}", "{}"], cache=True)
    assert calls == [2, 2]
    assert torch.equal(first, again)
    pe_encoder.zeroshot.embed_classes(net, names, "plain", cache=True)
    pe_encoder.zeroshot.embed_classes(net, names[::-1], "plain", cache=True)
    with torch.no_grad():
        net.text.norm.bias += 1
    pe_encoder.zeroshot.embed_classes(net, names, "plain", cache=True)
    assert len(calls) == 5
    with torch.no_grad():
        net.text.norm.bias -= 1


def test_a_classifier_by_templates_is_that_of_all_texts(model):
    _, net = model
    templates = ["a {}", "{}", "red {} a"]
    names = ["circle", "blue square", "square"]
    with torch.no_grad():
        texts = torch.stack([net.encode_text(net.tokenizer()([t.format(n) for t in templates])) for n in names])
    expected = pe_encoder.zeroshot.classifier(texts)
    torch.testing.assert_close(pe_encoder.zeroshot.embed_classes(net, names, templates), expected, atol=1e-5, rtol=1e-5)


def test_sets_of_templates():
    assert len(prompts.templates_of("imagenet")) == 80
    assert len(prompts.templates_of("kinetics")) == len(set(prompts.templates_of("kinetics"))) == 28
    assert prompts.templates_of("a {} here") == ("a {} here",)
    with pytest.raises(plm_core.InputError, match=r"one \{\} for the name"):
        prompts.templates_of(["a", "b {}"])


def test_evaluation_of_labelled_images(model, photos):
    _, net = model
    scores = pe_encoder.zeroshot.evaluate(net, load_dataset(photos), "plain", progress=False)
    weight = pe_encoder.zeroshot.embed_classes(net, ["blue square", "red circle"])
    files = [path for name in ("blue-square", "red_circle") for path in sorted((photos / name).iterdir())]
    vectors, unreadable = media.embed_images(net, files)
    assert not unreadable
    labels = torch.tensor([0, 0, 0, 1, 1])
    assert scores == pytest.approx(pe_encoder.zeroshot.scores(vectors @ weight, labels), nan_ok=True)


def test_evaluation_of_retrieval(model, tmp_path):
    _, net = model
    rng = np.random.default_rng(1)
    texts = ["a red circle", "a blue circle", "a red square", "a red circle"]
    pairs = [(Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)), text) for text in texts]
    write_captions(tmp_path, pairs)
    captions = load_captions(tmp_path)
    scores = pe_encoder.retrieval.evaluate(net, captions, ks=(1, 4), dsl=None, progress=False)
    assert scores["image_retrieval_recall@4"] == scores["text_retrieval_recall@4"] == 1
    x = torch.stack([pe_encoder.preprocess(32)(image) for image, _ in pairs])
    with torch.no_grad():
        images, words, _ = net(x, net.tokenizer()(texts))
    best = (words @ images.T).argmax(1)
    right = [int(best[0]) in (0, 3), best[1] == 1, best[2] == 2, int(best[3]) in (0, 3)]
    assert scores["image_retrieval_recall@1"] == pytest.approx(np.mean([bool(r) for r in right]))


def test_frames_of_a_video():
    assert media.frame_numbers(8) == list(range(8))
    assert media.frame_numbers(3, 5) == [0, 0, 1, 1, 2]
    with pytest.raises(plm_core.InputError, match="at least one"):
        media.frame_numbers(0)


def test_search_finds_what_is_nearest(plm, model, photos, tmp_path):
    folder, net = model
    assert plm("embed", photos, "--model", folder, "--out", tmp_path / "e.safetensors").code == 0
    result = plm("search", tmp_path / "e.safetensors", "a red circle", "--top", "3", "--out", tmp_path / "found.png")
    assert result.code == 0, result.err
    table = Embeddings.load(tmp_path / "e.safetensors")
    with torch.no_grad():
        query = net.encode_text(net.tokenizer()("a red circle"), normalize=True)[0]
    vectors = torch.nn.functional.normalize(torch.from_numpy(np.array(table.vectors)), dim=-1)
    expected = (vectors @ query).topk(3)
    assert [row[0] for row in result.rows] == [str(table.files[i]) for i in expected.indices]
    assert [float(row[1]) for row in result.rows] == pytest.approx(expected.values.tolist(), abs=1e-4)
    assert Image.open(tmp_path / "found.png").size == (800, 176)


def test_search_overwrites_no_image_and_counts_those_that_are_gone(plm, model, photos, tmp_path, monkeypatch):
    assert plm("embed", photos, "--model", model[0], "--out", tmp_path / "e.safetensors").code == 0
    found = ("search", tmp_path / "e.safetensors", "a red circle", "--out")
    image = photos / "red_circle" / "0.png"
    before = image.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr("plm_core.models.create_model", lambda *args, **options: pytest.fail("a model was created"))
        result = plm(*found, image)
    assert result.code == 2
    assert "0.png' would overwrite an image that is read; name another file" in result.err
    assert result.err.count("\n") == 1
    assert image.read_bytes() == before
    assert "no longer there" not in plm(*found, tmp_path / "found.png").err
    image.unlink()
    assert "1 of the 5 images are no longer there, and grey" in plm(*found, tmp_path / "found.png").err
    assert "no such file" in plm("search", tmp_path / "nofile", "a red circle").err


def test_images_of_16_bits_are_embedded_as_those_of_8(plm, model, tmp_path):
    folder, net = model
    vectors, probabilities = [], []
    for factor, name, dtype in ((1, "d8", np.uint8), (257, "d16", np.uint16)):
        rng = np.random.default_rng(0)
        images = [Image.fromarray((rng.integers(0, 256, (40, 30)) * factor).astype(dtype)) for _ in range(2)]
        write_captions(tmp_path / name, [(image, "a red circle") for image in images])
        vectors.append(media.embed_data(net, load_captions(tmp_path / name), progress=False))
        image = tmp_path / name / "images" / "000000.png"
        result = plm("zeroshot", image, "a red circle", "a blue square", "--json", "--model", folder)
        probabilities.append(json.loads(result.out)[0]["texts"])
    torch.testing.assert_close(vectors[1], vectors[0], atol=0.05, rtol=0)
    assert [row["text"] for row in probabilities[0]] == [row["text"] for row in probabilities[1]]
    for row, other in zip(*probabilities, strict=True):
        assert row["probability"] == pytest.approx(other["probability"], abs=2e-3)


def test_search_needs_a_text_tower(plm, photos, tmp_path):
    assert plm("embed", photos, "--model", "hiera_micro_digits", "--out", tmp_path / "e.safetensors").code == 0
    result = plm("search", tmp_path / "e.safetensors", "a red circle")
    assert result.code == 2
    assert "has no text tower, which plm search needs" in result.err


def test_a_lost_image_leaves_its_place_on_the_sheet(tmp_path):
    from pe_encoder.searching import contact_sheet

    sheet = contact_sheet([(Path(tmp_path / "gone.png"), "0.5")])
    assert sheet.getpixel((80, 80)) == (211, 211, 211)
