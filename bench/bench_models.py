"""Whole PyTorch models, trained and run by each contender of bench/contenders.py.

The reference of a model is the model itself in float64.
"""

import importlib
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from typing import Any

import numpy as np

from bench.bench_networks import STEP
from bench.functional import FORWARD
from bench.harness import Bench, Call, Family


@dataclass(frozen=True)
class Case:
    name: str
    shape: tuple[int, ...]  # of the images, or of the tokens or vectors
    family: Family
    smoke: bool = False


class Model(Bench):
    """A model, trained by SGD on cross-entropy, or run without gradients.

    ``model`` is "file.function" of what makes it. Its input is normal random numbers, or tokens for
    two dimensions. ``functions``: its forward calls functions that fastdl has, not only modules.
    """

    # Gradients of the first layer of a fresh ResNet-50 lie 2 to 4 % apart in float64, torch and
    # channels-last torch; a wrong kernel is off by more, and the tests judge each layer.
    normwise = 0.1

    def __init__(
        self,
        op: str,
        model: str,
        suite: str,
        shape: tuple[int, ...],
        target: float | None = None,
        functions: bool = False,
    ):
        self.functions = functions
        self.op, self.model, self.suite = op, model, suite
        self.directions = (STEP,) if suite == "train" else (FORWARD,)
        family = Family(op, {self.directions[0]: (target, None)})
        self.cases = (Case(str(shape), shape, family),)

    def make(self, provider: str, case: Case, direction: str, dtype: np.dtype) -> Call | None:
        if provider == "numpy":
            return self._reference(case.shape, direction)
        from bench import contenders

        if provider not in (contenders.TRAIN if direction == STEP else contenders.INFER):
            return None
        flops = _flops(self.model, case.shape, direction) if provider == "fastdl" else None
        make = contenders.training_step if direction == STEP else contenders.inference
        return make(provider, _made(self.model), _input(case.shape), self.functions, flops)

    def _reference(self, shape: tuple[int, ...], direction: str) -> Call:
        from bench import contenders

        model, x = _made(self.model).double(), _input(shape)
        make = contenders.training_step if direction == STEP else contenders.inference
        return make("torch", model, x.double() if x.is_floating_point() else x, False, None)


def _made(name: str) -> Any:
    """The same weights for every contender."""
    import torch

    file, _, function = name.partition(".")
    torch.manual_seed(0)
    return getattr(importlib.import_module(f"bench.{file}"), function)()


def _input(shape: tuple[int, ...]) -> Any:
    import torch

    generator = torch.Generator().manual_seed(0)
    if len(shape) == 2:
        return torch.randint(8192, shape, generator=generator)
    return torch.randn(shape, generator=generator)


@cache
def _flops(model: str, shape: tuple[int, ...], direction: str) -> float:
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        y = _made(model)(_input(shape))
        if direction == STEP:
            torch.autograd.backward(y, torch.ones_like(y))
    return float(counter.get_total_flops())


IMAGES = (8, 3, 224, 224)
BENCHES = [
    Model("LeNet-5 training in PyTorch", "models.lenet5", "train", (64, 1, 28, 28), 2.0),
    Model("ResNet-18 training", "models.resnet18", "train", IMAGES, 1.8),
    Model("ResNet-50 training", "models.resnet50", "train", IMAGES, 1.6),
    Model("MobileNetV2 training", "models.mobilenet_v2", "train", IMAGES, 1.8),
    Model("UNet training", "models.unet", "train", (4, 3, 128, 128), 1.8),
    Model("GPT training", "models.gpt", "train", (4, 256), 1.2, functions=True),
    Model("ResNet-18 inference", "models.resnet18", "infer", IMAGES, 2.0),
    Model("ResNet-50 inference", "models.resnet50", "infer", IMAGES, 1.6),
    Model("VGG-16 inference", "models.vgg16", "infer", (4, 3, 224, 224), 1.8),
    Model("MobileNetV2 inference", "models.mobilenet_v2", "infer", IMAGES),
    Model("BERT-base inference", "models.bert_base", "infer", (8, 128, 768), 1.15, functions=True),
    Model("ViT-B inference", "models.vit_b", "infer", IMAGES, 1.1, functions=True),
]
if find_spec("transformers"):
    BENCHES += [
        Model(
            "BERT of transformers inference",
            "models_transformers.bert",
            "infer",
            (8, 128),
            functions=True,
        ),
        Model(
            "GPT-2 of transformers inference",
            "models_transformers.gpt2",
            "infer",
            (8, 128),
            functions=True,
        ),
        Model(
            "ViT of transformers inference",
            "models_transformers.vit",
            "infer",
            IMAGES,
            functions=True,
        ),
        Model(
            "ResNet-50 of transformers inference", "models_transformers.resnet50", "infer", IMAGES
        ),
    ]
