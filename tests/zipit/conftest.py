from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from plm_core.testing import goldens_in

HERE = Path(__file__).parent


class Block(nn.Module):
    def __init__(self, width, out, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(width, out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out)
        self.conv2 = nn.Conv2d(out, out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        self.shortcut = nn.Sequential()
        if stride != 1 or width != out:
            self.shortcut = nn.Sequential(nn.Conv2d(width, out, 3, stride, 1, bias=False), nn.BatchNorm2d(out))

    def forward(self, x):
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class ResNet(nn.Module):
    """The ResNet of the goldens: its activations are functions, and its shortcuts convolutions of 3 x 3."""

    def __init__(self, num_classes=10, widths=(4, 8, 16)):
        super().__init__()
        first, second, third = widths
        self.conv1 = nn.Conv2d(3, first, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(first)
        self.layer1 = nn.Sequential(Block(first, first, 1))
        self.layer2 = nn.Sequential(Block(first, second, 2))
        self.layer3 = nn.Sequential(Block(second, third, 2))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(third, num_classes)

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(self.avgpool(x).flatten(1))


class VGG(nn.Module):
    """The VGG of the goldens."""

    def __init__(self, num_classes=6, widths=(4, "M", 8, "M", 8, 12, "M")):
        super().__init__()
        layers, last = [], 3
        for width in widths:
            layers += [nn.MaxPool2d(2)] if width == "M" else [nn.Conv2d(last, width, 3, padding=1), nn.ReLU()]
            last = last if width == "M" else width
        self.features = nn.Sequential(*layers, nn.AvgPool2d(1))
        self.classifier = nn.Linear(last, num_classes)

    def forward(self, x):
        return self.classifier(self.features(x).flatten(1))


@pytest.fixture(scope="session")
def golden():
    return goldens_in(HERE / "goldens")


@pytest.fixture(scope="session")
def networks():
    """Return a function that makes the base networks of a golden, in eval mode, and its batches."""

    def make(case):
        models = []
        for number in range(case.config["models"]):
            state = {
                name.removeprefix(f"{number}."): x for name, x in case.weights.items() if name.startswith(f"{number}.")
            }
            model = VGG() if "VGG" in case.config["model"] else ResNet(len(state["linear.bias"]))
            model.load_state_dict(state)
            models.append(model.eval())
        return models, [case.inputs[f"images.{i}"] for i in range(len(case.config["batch_sizes"]))]

    return make


@pytest.fixture
def resnets():
    """Return a function that makes random ResNets of the goldens' kind, in eval mode, with statistics of their own."""

    def make(count=2, **options):
        models = []
        for seed in range(count):
            torch.manual_seed(seed)
            model = ResNet(**options)
            with torch.no_grad():
                model.train()(torch.randn(32, 3, 16, 16))
            models.append(model.eval())
        return models

    return make


@pytest.fixture
def images():
    return torch.randn(24, 3, 16, 16, generator=torch.Generator().manual_seed(5))
