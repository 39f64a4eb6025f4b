"""Networks of the transformers package, with random weights: a tensor in, a tensor out."""

from typing import Any

import transformers
from torch import Tensor, nn


class _First(nn.Module):
    """The first of the results of a model of transformers."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Any:
        return self.model(x, return_dict=False)[0]


def bert() -> nn.Module:
    return _First(transformers.BertModel(transformers.BertConfig()))


def gpt2() -> nn.Module:
    return _First(transformers.GPT2LMHeadModel(transformers.GPT2Config(use_cache=False)))


def vit() -> nn.Module:
    return _First(transformers.ViTModel(transformers.ViTConfig()))


def resnet50() -> nn.Module:
    return _First(transformers.ResNetForImageClassification(transformers.ResNetConfig()))
