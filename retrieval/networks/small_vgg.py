"""A network of the VGG kind that a laptop trains from nothing.

Simonyan and Zisserman, "Very deep convolutional networks for large-scale image recognition" (ICLR
2015): pairs of 3 × 3 convolutions, the channels doubled as a pooling halves the map. Here with
batch norms (Ioffe and Szegedy, 2015), an eighth of VGG16's channels, its last stage left out, and
an average over the map in place of the fully connected layers.
"""

from __future__ import annotations

from typing import Final

from torch import Tensor, nn

NAME: Final = "vgg_small"
SIDE: Final = 96
"""Of the photographs that it is meant for, in pixels."""
STAGES: Final = (16, 32, 64, 128)
"""Channels of each."""
CLASSES: Final = 52


class SmallVgg(nn.Module):
    """(n, 3, h, w) normalised photographs to (n, classes) logits."""

    def __init__(self, classes: int = CLASSES):
        super().__init__()
        layers: list[nn.Module] = []
        before = 3
        for channels in STAGES:
            layers += [*_convolution(before, channels), *_convolution(channels, channels)]
            if channels != STAGES[-1]:
                layers.append(nn.MaxPool2d(2))
            before = channels
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(before, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")

    def forward(self, photographs: Tensor) -> Tensor:
        pooled = self.avgpool(self.features(photographs)).flatten(1)
        logits: Tensor = self.classifier(pooled)
        return logits


def _convolution(before: int, after: int) -> list[nn.Module]:
    # The batch norm has the bias.
    convolution = nn.Conv2d(before, after, 3, padding=1, bias=False)
    return [convolution, nn.BatchNorm2d(after), nn.ReLU(inplace=True)]
