"""Whole networks as plain PyTorch; parameters have torchvision's names where it has the network."""

from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class BasicBlock(nn.Module):
    """Two 3x3 convolutions around which the input passes (He et al. 2015)."""

    expansion = 1

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = _projection(channels, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        y += x if self.downsample is None else self.downsample(x)
        return self.relu(y)


class Bottleneck(nn.Module):
    """A 3x3 convolution between two of 1x1."""

    expansion = 4

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(channels, width, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * width)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _projection(channels, 4 * width, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn3(self.conv3(self.relu(self.bn2(self.conv2(y)))))
        y += x if self.downsample is None else self.downsample(x)
        return self.relu(y)


def _projection(channels: int, out: int, stride: int) -> nn.Module | None:
    if stride == 1 and channels == out:
        return None
    return nn.Sequential(nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out))


def resnet(
    block: type[BasicBlock] | type[Bottleneck], depths: tuple[int, ...], channels: int = 64
) -> nn.Module:
    """``channels``: those after the first convolution."""
    layers: OrderedDict[str, nn.Module] = OrderedDict(
        conv1=nn.Conv2d(3, channels, 7, 2, 3, bias=False),
        bn1=nn.BatchNorm2d(channels),
        relu=nn.ReLU(inplace=True),
        maxpool=nn.MaxPool2d(3, 2, 1),
    )
    first = channels
    for i, depth in enumerate(depths):
        width, blocks = first << i, []
        for j in range(depth):
            blocks.append(block(channels, width, 2 if i > 0 and j == 0 else 1))
            channels = width * block.expansion
        layers[f"layer{i + 1}"] = nn.Sequential(*blocks)
    layers["avgpool"] = nn.AdaptiveAvgPool2d(1)
    layers["flatten"] = nn.Flatten()
    layers["fc"] = nn.Linear(channels, 1000)
    return nn.Sequential(layers)


def resnet18() -> nn.Module:
    return resnet(BasicBlock, (2, 2, 2, 2))


def resnet50() -> nn.Module:
    return resnet(Bottleneck, (3, 4, 6, 3))


def lenet5() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 6, 5, padding=2),
        nn.Tanh(),
        nn.AvgPool2d(2),
        nn.Conv2d(6, 16, 5),
        nn.Tanh(),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(400, 120),
        nn.Tanh(),
        nn.Linear(120, 84),
        nn.Tanh(),
        nn.Linear(84, 10),
    )


def vgg16() -> nn.Module:
    features: list[nn.Module] = []
    channels = 3
    for width, depth in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        for _ in range(depth):
            features += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(inplace=True)]
            channels = width
        features.append(nn.MaxPool2d(2))
    classifier = nn.Sequential(
        nn.Linear(512 * 49, 4096),
        nn.ReLU(inplace=True),
        nn.Dropout(),
        nn.Linear(4096, 4096),
        nn.ReLU(inplace=True),
        nn.Dropout(),
        nn.Linear(4096, 1000),
    )
    return nn.Sequential(
        OrderedDict(
            features=nn.Sequential(*features),
            avgpool=nn.AdaptiveAvgPool2d(7),
            flatten=nn.Flatten(),
            classifier=classifier,
        )
    )


class InvertedResidual(nn.Module):
    """1x1 up, 3x3 depthwise, 1x1 down (Sandler et al. 2018)."""

    def __init__(self, channels: int, out: int, stride: int, expand: int) -> None:
        super().__init__()
        self.adds = stride == 1 and channels == out
        width = channels * expand
        layers: list[nn.Module] = []
        if expand != 1:
            layers.append(_conv_bn_relu6(channels, width, 1))
        layers += [
            _conv_bn_relu6(width, width, 3, stride, groups=width),
            nn.Conv2d(width, out, 1, bias=False),
            nn.BatchNorm2d(out),
        ]
        self.conv = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.adds else self.conv(x)


def _conv_bn_relu6(
    channels: int, out: int, kernel: int, stride: int = 1, groups: int = 1
) -> nn.Module:
    conv = nn.Conv2d(channels, out, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(out), nn.ReLU6(inplace=True))


def mobilenet_v2() -> nn.Module:
    features = [_conv_bn_relu6(3, 32, 3, 2)]
    channels = 32
    for expand, width, depth, stride in (
        (1, 16, 1, 1),
        (6, 24, 2, 2),
        (6, 32, 3, 2),
        (6, 64, 4, 2),
        (6, 96, 3, 1),
        (6, 160, 3, 2),
        (6, 320, 1, 1),
    ):
        for i in range(depth):
            features.append(InvertedResidual(channels, width, stride if i == 0 else 1, expand))
            channels = width
    features.append(_conv_bn_relu6(channels, 1280, 1))
    return nn.Sequential(
        OrderedDict(
            features=nn.Sequential(*features),
            avgpool=nn.AdaptiveAvgPool2d(1),
            flatten=nn.Flatten(),
            classifier=nn.Sequential(nn.Dropout(0.2), nn.Linear(1280, 1000)),
        )
    )


class UNet(nn.Module):
    """Three scales down and up, with what was at a scale beside it (Ronneberger et al. 2015)."""

    def __init__(self, classes: int = 2) -> None:
        super().__init__()
        widths = (32, 64, 128, 256)
        self.down = nn.ModuleList(map(_two_convolutions, (3, *widths), widths))
        self.pool = nn.MaxPool2d(2)
        self.up = nn.ModuleList(
            nn.ConvTranspose2d(2 * width, width, 2, 2) for width in widths[-2::-1]
        )
        self.merge = nn.ModuleList(_two_convolutions(2 * width, width) for width in widths[-2::-1])
        self.last = nn.Conv2d(widths[0], classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        scales = [self.down[0](x)]
        for block in self.down[1:]:
            scales.append(block(self.pool(scales[-1])))
        x = scales.pop()
        for up, merge in zip(self.up, self.merge, strict=True):
            x = merge(torch.cat((scales.pop(), up(x)), 1))
        return self.last(x)


def _two_convolutions(channels: int, width: int) -> nn.Module:
    layers: list[nn.Module] = []
    for before in (channels, width):
        layers += [nn.Conv2d(before, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)]
        layers.append(nn.ReLU(inplace=True))
    return nn.Sequential(*layers)


class Transformer(nn.Module):
    """Blocks of attention and two linear layers: GPT's (causal, norm first), BERT's or ViT's."""

    def __init__(self, layers: int, width: int, heads: int, causal: bool, norm_first: bool) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            TransformerBlock(width, heads, causal, norm_first) for _ in range(layers)
        )
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return self.norm(x)


class TransformerBlock(nn.Module):
    def __init__(self, width: int, heads: int, causal: bool, norm_first: bool) -> None:
        super().__init__()
        self.heads, self.causal, self.norm_first = heads, causal, norm_first
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.projection = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def attention(self, x: Tensor) -> Tensor:
        n, length, width = x.shape
        qkv = self.qkv(x).view(n, length, 3, self.heads, width // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        y = F.scaled_dot_product_attention(query, key, value, is_causal=self.causal)
        return self.projection(y.transpose(1, 2).reshape(n, length, width))

    def forward(self, x: Tensor) -> Tensor:
        if self.norm_first:
            x = x + self.attention(self.norm1(x))
            return x + self.mlp(self.norm2(x))
        x = self.norm1(x + self.attention(x))
        return self.norm2(x + self.mlp(x))


class Language(nn.Module):
    """Tokens in, a score for every token of the vocabulary out at each place."""

    def __init__(self, vocabulary: int, length: int, **transformer: int | bool) -> None:
        super().__init__()
        width = int(transformer["width"])
        self.tokens, self.places = nn.Embedding(vocabulary, width), nn.Embedding(length, width)
        self.transformer = Transformer(**transformer)
        self.head = nn.Linear(width, vocabulary, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        places = torch.arange(tokens.shape[1], device=tokens.device)
        return self.head(self.transformer(self.tokens(tokens) + self.places(places)))


class ViT(nn.Module):
    """Patches of 16x16 pixels as tokens (Dosovitskiy et al. 2020)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv_proj = nn.Conv2d(3, 768, 16, 16)
        self.class_token = nn.Parameter(torch.zeros(1, 1, 768))
        self.pos_embedding = nn.Parameter(torch.randn(1, 197, 768) * 0.02)
        self.encoder = Transformer(12, 768, 12, causal=False, norm_first=True)
        self.head = nn.Linear(768, 1000)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_proj(x).flatten(2).transpose(1, 2)
        x = torch.cat((self.class_token.expand(x.shape[0], -1, -1), x), 1) + self.pos_embedding
        return self.head(self.encoder(x)[:, 0])


def unet() -> nn.Module:
    return UNet()


def vit_b() -> nn.Module:
    return ViT()


def gpt() -> nn.Module:
    shape = {"layers": 6, "width": 384, "heads": 6, "causal": True, "norm_first": True}
    return Language(8192, 256, **shape)


def bert_base() -> nn.Module:
    shape = {"layers": 12, "width": 768, "heads": 12, "causal": False, "norm_first": False}
    return Transformer(**shape)
