import torch
from PIL import Image

import plm_core
from plm_core import shapes, weights
from plm_core.runs import train
from plm_core.testing import check_model, check_run_folder


def test_model():
    check_model("acme_vit_micro")


def test_gated_model():
    check_model("acme_gated_micro")  # its layout and its block adapter too


def test_weights_of_the_authors_load():
    model = plm_core.create_model("acme_gated_micro")
    theirs = weights.export(model, "acme-authors")
    assert {"cls", "layer.0.key.w", "layer.1.value.b", "classifier.bias"} < set(theirs)
    assert weights.load(plm_core.create_model("acme_gated_micro"), theirs).layout == "acme-authors"


def test_transform_is_undone():
    model = plm_core.create_model("acme_vit_micro").eval()
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        before = model(images)
        assert not torch.equal(plm_core.apply(model, "acme_mean")(images), before)
        assert torch.equal(plm_core.remove(model)(images), before)


def test_recipe_leaves_a_model_folder(tmp_path):
    for number, scene in enumerate(shapes.Images("train", size=32, count=32)):
        folder = tmp_path / "shapes" / scene.objects[0].shape
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(scene.image).save(folder / f"{number}.png")
    trained = train("acme-turns", tmp_path / "shapes", tmp_path / "run", settings={"epochs": 2, "batch_size": 8})
    check_run_folder(tmp_path / "run", trained.model)
