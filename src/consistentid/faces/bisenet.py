"""BiSeNet for face parsing: Yu et al. 2018, "BiSeNet: Bilateral Segmentation Network", with a ResNet-18 for both paths.

Modules carry the names of the published `face_parsing.pth`, so that its state dict loads as it is.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, interpolate, relu


class _ConvNormRelu(nn.Module):
    def __init__(self, inputs: int, outputs: int, kernel: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False)
        self.bn = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        return relu(self.bn(self.conv(x)))


class _Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample: nn.Module = nn.Identity()
        if stride > 1:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        return relu(self.downsample(x) + self.bn2(self.conv2(relu(self.bn1(self.conv1(x))))))


class _ResNet18(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.layer1 = nn.Sequential(_Block(64, 64, 1), _Block(64, 64, 1))
        self.layer2 = nn.Sequential(_Block(64, 128, 2), _Block(128, 128, 1))
        self.layer3 = nn.Sequential(_Block(128, 256, 2), _Block(256, 256, 1))
        self.layer4 = nn.Sequential(_Block(256, 512, 2), _Block(512, 512, 1))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        eighth = self.layer2(self.layer1(self.maxpool(relu(self.bn1(self.conv1(x))))))
        sixteenth = self.layer3(eighth)
        return eighth, sixteenth, self.layer4(sixteenth)


class _AttentionRefinement(nn.Module):
    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.conv = _ConvNormRelu(inputs, 128)
        self.conv_atten = nn.Conv2d(128, 128, 1, bias=False)
        self.bn_atten = nn.BatchNorm2d(128)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        weights = torch.sigmoid(self.bn_atten(self.conv_atten(adaptive_avg_pool2d(x, 1))))
        return x * weights


class _ContextPath(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.resnet = _ResNet18()
        self.arm16 = _AttentionRefinement(256)
        self.arm32 = _AttentionRefinement(512)
        self.conv_head32 = _ConvNormRelu(128, 128)
        self.conv_head16 = _ConvNormRelu(128, 128)
        self.conv_avg = _ConvNormRelu(512, 128, kernel=1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        eighth, sixteenth, last = self.resnet(x)
        context = self.arm32(last) + self.conv_avg(adaptive_avg_pool2d(last, 1))
        context = self.conv_head32(interpolate(context, sixteenth.shape[2:]))
        context = self.conv_head16(interpolate(self.arm16(sixteenth) + context, eighth.shape[2:]))
        return eighth, context


class _FeatureFusion(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.convblk = _ConvNormRelu(256, 256, kernel=1)
        self.conv1 = nn.Conv2d(256, 64, 1, bias=False)
        self.conv2 = nn.Conv2d(64, 256, 1, bias=False)

    def forward(self, detail: Tensor, context: Tensor) -> Tensor:
        x: Tensor = self.convblk(torch.cat([detail, context], dim=1))
        return x + x * torch.sigmoid(self.conv2(relu(self.conv1(adaptive_avg_pool2d(x, 1)))))


class _Head(nn.Module):
    def __init__(self, labels: int) -> None:
        super().__init__()
        self.conv = _ConvNormRelu(256, 256)
        self.conv_out = nn.Conv2d(256, labels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.conv_out(self.conv(x))
        return logits


class BiSeNet(nn.Module):
    """Face parser; the two heads that only training uses are left out.

    `forward`: (B, 3, H, W) RGB, normalised as ImageNet pictures -> (B, labels, H, W) logits; H and W at least 32.
    """

    def __init__(self, labels: int = 19) -> None:
        super().__init__()
        self.cp = _ContextPath()
        self.ffm = _FeatureFusion()
        self.conv_out = _Head(labels)

    def forward(self, pixels: Tensor) -> Tensor:
        """Logits at the size of the input."""
        logits: Tensor = self.conv_out(self.ffm(*self.cp(pixels)))
        return interpolate(logits, pixels.shape[2:], mode="bilinear", align_corners=True)
