"""Whole PyTorch models: as they are, and with ``fastdl.torch.patch`` or ``optimize``.

The reference of a model is the model itself in float64.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from bench.bench_networks import LEARNING_RATE, STEP
from bench.functional import FORWARD
from bench.harness import Bench, Call, Family


@dataclass(frozen=True)
class Case:
    name: str
    shape: tuple[int, ...]  # of the images, or of the tokens or vectors
    family: Family
    smoke: bool = False


class Model(Bench):
    """A model of bench/models.py, trained by SGD on cross-entropy, or run without gradients."""

    # Gradients of the first layer of a fresh ResNet-50 lie 2 to 4 % apart in float64, torch and
    # channels-last torch; a wrong kernel is off by more, and the tests judge each layer.
    normwise = 0.1

    def __init__(self, op: str, model: str, suite: str, shape: tuple[int, ...], target: float):
        self.op, self.model, self.suite = op, model, suite
        self.directions = (STEP,) if suite == "train" else (FORWARD,)
        family = Family(op, {self.directions[0]: (target, None)})
        self.cases = (Case(str(shape), shape, family),)

    def make(self, provider: str, case: Case, direction: str, dtype: np.dtype) -> Call | None:
        if provider not in ("fastdl", "torch", "torch-channels-last", "numpy"):
            return None
        if provider == "torch-channels-last" and len(case.shape) != 4:
            return None
        import torch

        torch.manual_seed(0)
        model = getattr(_models(), self.model)()
        x = _input(case.shape, self.model)
        if provider == "numpy":
            model = model.double()
            x = x.double() if x.is_floating_point() else x
        if provider == "torch-channels-last":
            layout = torch.channels_last
            model, x = model.to(memory_format=layout), x.contiguous(memory_format=layout)
        make = self._training if direction == STEP else self._inference
        return make(provider, model, x)

    def _training(self, provider: str, model: Any, x: Any) -> Call:
        import torch

        import fastdl.torch
        from bench.peers.torch import numpy_of

        ours = provider == "fastdl"
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0  # what is dropped at random cannot be compared
        flops = _flops(self.model, tuple(x.shape), STEP) if ours else None
        if ours:
            fastdl.torch.patch(model)
        F = fastdl.torch if ours else torch.nn.functional
        optimizer = (fastdl.torch if ours else torch).optim.SGD(
            model.parameters(), lr=LEARNING_RATE
        )
        with torch.no_grad():
            n, classes, *places = _scores(model(x)).shape
        generator = torch.Generator().manual_seed(1)
        target = torch.randint(classes, (n, *places), generator=generator)
        watched = [p for _, p in zip(range(2), model.parameters(), strict=False)]

        def run() -> Sequence[Any]:
            optimizer.zero_grad()
            loss = F.cross_entropy(_scores(model(x)), target)
            loss.backward()
            optimizer.step()
            return [loss.detach(), *(p.grad for p in watched)]

        return Call(run, numpy_of, flops=flops)

    def _inference(self, provider: str, model: Any, x: Any) -> Call:
        import torch

        import fastdl.torch
        from bench.peers.torch import numpy_of

        model = model.eval()
        flops = None
        if provider == "fastdl":
            flops = _flops(self.model, tuple(x.shape), FORWARD)
            if self.model in _WITH_FUNCTIONS:
                fastdl.torch.patch(model)
            else:
                model = fastdl.torch.optimize(model)

        @torch.inference_mode()
        def run() -> Sequence[Any]:
            if provider == "fastdl" and self.model in _WITH_FUNCTIONS:
                with fastdl.torch.override():
                    return [model(x)]
            return [model(x)]

        return Call(run, numpy_of, flops=flops)


# Their forward calls scaled_dot_product_attention.
_WITH_FUNCTIONS = ("bert_base", "vit_b")


def _scores(y: Any) -> Any:
    """(N, classes, ...), one row for each place of a text."""
    return y.flatten(0, 1) if y.dim() == 3 else y


def _models() -> Any:
    from bench import models

    return models


def _input(shape: tuple[int, ...], model: str) -> Any:
    import torch

    generator = torch.Generator().manual_seed(0)
    if model == "gpt":
        return torch.randint(8192, shape, generator=generator)
    return torch.randn(shape, generator=generator)


@cache
def _flops(model: str, shape: tuple[int, ...], direction: str) -> float:
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    make: Callable[[], Any] = getattr(_models(), model)
    with FlopCounterMode(display=False) as counter:
        y = make()(_input(shape, model))
        if direction == STEP:
            torch.autograd.backward(y, torch.ones_like(y))
    return float(counter.get_total_flops())


BENCHES = [
    Model("LeNet-5 in PyTorch, training", "lenet5", "train", (64, 1, 28, 28), 2.0),
    Model("ResNet-18, training", "resnet18", "train", (8, 3, 224, 224), 1.8),
    Model("ResNet-50, training", "resnet50", "train", (8, 3, 224, 224), 1.6),
    Model("MobileNetV2, training", "mobilenet_v2", "train", (8, 3, 224, 224), 1.8),
    Model("UNet, training", "unet", "train", (4, 3, 128, 128), 1.8),
    Model("GPT, training", "gpt", "train", (4, 256), 1.2),
    Model("ResNet-18, inference", "resnet18", "infer", (8, 3, 224, 224), 2.0),
    Model("ResNet-50, inference", "resnet50", "infer", (8, 3, 224, 224), 1.6),
    Model("VGG-16, inference", "vgg16", "infer", (4, 3, 224, 224), 1.8),
    Model("BERT-base, inference", "bert_base", "infer", (8, 128, 768), 1.15),
    Model("ViT-B, inference", "vit_b", "infer", (8, 3, 224, 224), 1.1),
]
