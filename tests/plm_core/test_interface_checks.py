"""`check_model` finds what is wrong with the interface of a model: its maps, its head, its `feature_info`."""

import pytest
import timm
import torch
from timm.models import VisionTransformer
from torch import nn

from plm_core.hookspecs import Input, Model
from plm_core.testing import conformance, interface, run_folders
from plm_core.testing.conformance import check_model

CONFIG = {"img_size": 16, "patch_size": 8, "embed_dim": 8, "depth": 2, "num_heads": 2, "num_classes": 3}
IMAGE = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
SIZE_32 = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
DECLARED = Model(
    name="demo", family="demo", builder="a:b", params=1, input=Input(size=(3, 16, 16)), num_classes=3,
    classifier="head", out_indices=(0, 1)
)  # fmt: skip


class Net(VisionTransformer):
    """A small model without a fault."""

    def __init__(self, **options):
        super().__init__(**CONFIG | options)


class Features(nn.Module):
    """A stand-in for timm's wrapper of `features_only`."""

    def __init__(self, model):
        super().__init__()
        self.model, self.feature_info = model, timm.models.FeatureInfo(model.feature_info, out_indices=(0, 1))

    def forward(self, x):
        return self.model.forward_intermediates(x, intermediates_only=True)


@pytest.fixture
def check(monkeypatch):
    """Return a function that checks the interface of a model class."""

    def run(cls, image=IMAGE):
        def create(name, num_classes=3, in_chans=3, features_only=False):
            torch.manual_seed(0)
            model = cls()
            if num_classes != 3:
                model.reset_classifier(num_classes)
                model.num_classes = num_classes
            if in_chans != 3:
                model.patch_embed.proj = nn.Conv2d(in_chans, 8, 8, 8)
            return Features(model) if features_only else model

        monkeypatch.setattr(interface, "create_model", create)
        model = create("demo").eval()
        for parameter in model.parameters():
            nn.init.normal_(parameter, std=0.3)
        interface.check_heads(DECLARED, model, image)
        interface.check_features(DECLARED, model, image)

    return run


def test_a_model_without_a_fault_passes(check):
    check(Net)


def on_maps(result, change):
    """Change the maps in what `forward_intermediates` returned."""
    if isinstance(result, list):
        return [change(y) for y in result]
    return result[0], [change(y) for y in result[1]]


class ClassTokenInMap(Net):
    def forward_intermediates(self, x, **options):
        first = []
        hooks = [block.register_forward_hook(lambda *io: first.append(io[2][:, :1])) for block in self.blocks]
        result = super().forward_intermediates(x, **options)
        for hook in hooks:
            hook.remove()
        return on_maps(result, lambda y: torch.cat([first[0].mT, y.flatten(2)[:, :, :-1]], 2).view_as(y))


class Scrambled(Net):
    def forward_intermediates(self, x, **options):
        return on_maps(super().forward_intermediates(x, **options), lambda y: y.flip(1))


class NormIgnored(Net):
    def forward_intermediates(self, x, norm=False, **options):
        return super().forward_intermediates(x, **options)


class AlwaysNormed(Net):
    def forward_intermediates(self, x, norm=True, **options):
        return super().forward_intermediates(x, norm=True, **options)


class WrongPath(Net):
    def __init__(self):
        super().__init__()
        self.feature_info = [
            info | {"module": info["module"].replace("blocks", "layers")} for info in self.feature_info
        ]


class AnotherModule(Net):
    def __init__(self):
        super().__init__()
        self.feature_info = [info | {"module": "blocks.1"} for info in self.feature_info]


class NotCalled(Net):
    def __init__(self):
        super().__init__()
        self.feature_info = [info | {"module": "head"} for info in self.feature_info]


class OneMapMore(Net):
    def __init__(self):
        super().__init__()
        self.feature_info = [*self.feature_info, self.feature_info[-1]]


class ClassesNotSaid(Net):
    def reset_classifier(self, num_classes, global_pool=None):
        self.head = nn.Linear(8, num_classes) if num_classes else nn.Identity()


class OneArgument(Net):
    def reset_classifier(self, num_classes):
        super().reset_classifier(num_classes)


def windows(y):
    """[B, 4, 4, C] -> [B, 4 windows, 4 patches, C]."""
    return y.unflatten(1, (2, 2)).unflatten(3, (2, 2)).transpose(2, 3).flatten(1, 2).flatten(2, 3)


class Arranged(Net):
    """A model whose maps are named after modules that return them in another form."""

    arrange = staticmethod(lambda y: y)
    scramble = staticmethod(lambda y: y)

    def __init__(self):
        super().__init__(img_size=32)
        self.outs = nn.ModuleList([nn.Identity(), nn.Identity()])
        self.feature_info = [info | {"module": f"outs.{i}"} for i, info in enumerate(self.feature_info)]
        for i, block in enumerate(self.blocks):
            block.register_forward_hook(lambda block, x, y, i=i: self.show(i, y))

    def show(self, i, y):
        self.outs[i](self.arrange(y[:, 1:].unflatten(1, (4, 4))))

    def forward_intermediates(self, x, **options):
        return on_maps(super().forward_intermediates(x, **options), self.scramble)


FORMS = {
    "[B, H, W, C]": lambda y: y,
    "[B, H W, C]": lambda y: y.flatten(1, 2),
    "windows": windows,
    "windows in a row": lambda y: windows(y).flatten(1, 2),
    "windows last, as in the original Hiera": lambda y: windows(y).transpose(1, 2).flatten(1, 2),
}
SCRAMBLES = {
    "mirrored": lambda y: y.flip(3),
    "transposed": lambda y: y.mT,
    "shuffled": lambda y: y.flatten(2)[:, :, torch.randperm(16, generator=torch.Generator().manual_seed(0))].view_as(y),
}


@pytest.mark.parametrize("form", FORMS)
def test_places_are_compared_in_every_form_of_output(check, form):
    arranged = type("Arranged", (Arranged,), {"arrange": staticmethod(FORMS[form])})
    check(arranged, SIZE_32)
    for scramble in SCRAMBLES.values():
        scrambled = type("Scrambled", (arranged,), {"scramble": staticmethod(scramble)})
        with pytest.raises(
            AssertionError, match=r"map 0 of forward_intermediates and what its module 'outs\.0' returns"
        ):
            check(scrambled, SIZE_32)


WRONG = {
    ClassTokenInMap: r"map 0 of forward_intermediates and what its module 'blocks\.0' returns differ",
    Scrambled: r"map 0 of forward_intermediates and what its module 'blocks\.0' returns differ by up to",
    NormIgnored: "the last map with norm=True and the final output of forward_intermediates differ by up to",
    AlwaysNormed: r"map 0 of forward_intermediates and what its module 'blocks\.0' returns differ by up to",
    WrongPath: r"feature_info names the module 'layers\.0', which WrongPath does not have",
    AnotherModule: r"map 0 of forward_intermediates and what its module 'blocks\.1' returns differ by up to",
    NotCalled: "feature_info names the module 'head', which forward_intermediates does not call",
    OneMapMore: "forward_intermediates returns 2 maps, feature_info has 3",
    ClassesNotSaid: r"reset_classifier\(0\) leaves num_classes 3",
    OneArgument: "takes 2 positional arguments but 3 were given",
}


@pytest.mark.parametrize(("cls", "said"), WRONG.items(), ids=lambda value: getattr(value, "__name__", ""))
def test_a_wrong_interface_is_found(check, cls, said):
    with pytest.raises((AssertionError, TypeError), match=said):
        check(cls)


def test_whatever_a_model_raises_is_a_check_that_failed(monkeypatch):
    def fail(*args):
        raise ZeroDivisionError("in the model")

    monkeypatch.setattr(conformance, "check_plugin", fail)
    fail.__name__ = "check_plugin"
    with pytest.raises(AssertionError, match=r"^check plugin: ZeroDivisionError: in the model$"):
        check_model("hiera_micro_digits")


def test_outputs_may_be_mappings_in_which_a_part_is_missing():
    one, two = torch.zeros(1), torch.ones(1)
    conformance._same_outputs({"a": one, "b": None}, {"a": one, "b": None}, "outputs")
    with pytest.raises(AssertionError, match="output 1 of outputs differ"):
        conformance._same_outputs({"a": one, "b": one}, {"a": one, "b": two}, "outputs")
    pairs = run_folders._compare({"a": one, "b": None, "c": None}, {"a": one, "b": None, "c": two})
    assert [path for path, same in pairs if not same] == ["output.c"]
