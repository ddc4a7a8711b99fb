"""ResNet-50 with a linear head a task, in the place of the peers' BERT: many small parameters, and convolutions."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

STAGES = ((64, 3), (128, 4), (256, 6), (512, 3))  # channels and blocks, as of He et al. (2016)
_EXPANSION = 4


@dataclass(frozen=True)
class ImageBatch:
    """One task's batch: images fp32 [examples, 3, height, width]; labels fp32 [examples]."""

    images: Tensor
    labels: Tensor


class _Block(nn.Module):
    """Three convolutions around a shortcut."""

    def __init__(self, before: int, channels: int, stride: int) -> None:
        super().__init__()
        after = channels * _EXPANSION
        self.layers = nn.Sequential(
            *_convolution(before, channels, 1, 1),
            nn.ReLU(),
            *_convolution(channels, channels, 3, stride),
            nn.ReLU(),
            *_convolution(channels, after, 1, 1),
        )
        unchanged = before == after and stride == 1
        self.shortcut = nn.Identity() if unchanged else nn.Sequential(*_convolution(before, after, 1, stride))

    def forward(self, features: Tensor) -> Tensor:
        return functional.relu(self.layers(features) + self.shortcut(features))


def _convolution(before: int, after: int, size: int, stride: int) -> list[nn.Module]:
    return [nn.Conv2d(before, after, size, stride, size // 2, bias=False), nn.BatchNorm2d(after)]


class ImageModel(nn.Module):
    """What trainers ask of a `PaddedModel`, of images.

    tasks: their names; stages: channels and blocks of each.
    """

    def __init__(self, tasks: Sequence[str], stages: Sequence[tuple[int, int]] = STAGES) -> None:
        super().__init__()
        layers, before = [*_convolution(3, stages[0][0], 7, 2), nn.ReLU(), nn.MaxPool2d(3, 2, 1)], stages[0][0]
        for number, (channels, blocks) in enumerate(stages):
            for block in range(blocks):
                layers.append(_Block(before, channels, 2 if number and not block else 1))
                before = channels * _EXPANSION
        self.encoder = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.heads = nn.ModuleDict({task: nn.Linear(before, 1) for task in tasks})

    def pooled(self, batch: ImageBatch) -> Tensor:
        """The features of each example, [examples, features]."""
        return self.encoder(batch.images)

    def loss_of(self, task: str, pooled: Tensor, labels: Tensor) -> Tensor:
        """The task's mean loss."""
        return functional.mse_loss(self.heads[task](pooled).squeeze(1), labels)

    def forward(self, task: str, batch: ImageBatch) -> Tensor:
        """The task's mean loss on its batch."""
        return self.loss_of(task, self.pooled(batch), batch.labels)


def image_batch(examples: int, side: int, device: torch.device | str) -> ImageBatch:
    """Random images."""
    return ImageBatch(torch.randn(examples, 3, side, side, device=device), torch.randn(examples, device=device))
