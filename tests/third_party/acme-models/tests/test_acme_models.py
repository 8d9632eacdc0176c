import torch

import plm_core
from plm_core.testing import check_model


def test_model():
    check_model("acme_vit_micro")


def test_transform_is_undone():
    model = plm_core.create_model("acme_vit_micro").eval()
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        before = model(images)
        assert not torch.equal(plm_core.apply(model, "acme_mean")(images), before)
        assert torch.equal(plm_core.remove(model)(images), before)
