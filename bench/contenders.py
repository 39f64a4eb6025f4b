"""How each contender trains or runs a model of PyTorch's: what is called while the clock runs."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

import fastdl.torch
from bench.bench_networks import LEARNING_RATE
from bench.harness import Call, LeftOut
from bench.peers.torch import numpy_of

TRAIN = ("fastdl", "fastdl-compile", "torch", "torch-channels-last", "torch-compile")
INFER = (*TRAIN, "fastdl-patch", "onnxruntime", "openvino")


def training_step(
    provider: str, model: nn.Module, x: Tensor, functions: bool, flops: float | None
) -> Call:
    """SGD on cross-entropy, always on the same batch; the loss and two gradients are compared."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0  # what is dropped at random cannot be compared
    forward = _forward(provider, model, x, functions)
    with torch.no_grad():
        n, classes, *places = _scores(model(x)).shape
    generator = torch.Generator().manual_seed(1)
    target = torch.randint(classes, (n, *places), generator=generator)
    ours = provider.startswith("fastdl")
    F = fastdl.torch if ours else nn.functional
    SGD = fastdl.torch.optim.SGD if ours else torch.optim.SGD
    optimizer = SGD(model.parameters(), lr=LEARNING_RATE)
    watched = [p for _, p in zip(range(2), model.parameters(), strict=False)]

    def run() -> Sequence[Any]:
        optimizer.zero_grad()
        loss = F.cross_entropy(_scores(forward()), target)
        loss.backward()
        optimizer.step()
        return [loss.detach(), *(p.grad for p in watched)]

    return Call(run, numpy_of, flops=flops)


def inference(
    provider: str, model: nn.Module, x: Tensor, functions: bool, flops: float | None
) -> Call:
    model = model.eval()
    if provider == "onnxruntime":
        return _onnxruntime(model, x)
    if provider == "openvino":
        return _openvino(model, x)
    if provider == "fastdl":
        model = fastdl.torch.optimize(model)
        functions = functions and not isinstance(model, fx.GraphModule)
    forward = _forward(provider, model, x, functions)

    @torch.inference_mode()
    def run() -> Sequence[Any]:
        return [forward()]

    return Call(run, numpy_of, flops=flops)


def _forward(provider: str, model: nn.Module, x: Tensor, functions: bool) -> Callable[[], Tensor]:
    """What computes the model's result; ``functions``: some of it is called as a function."""
    forward: Callable[[Tensor], Tensor] = model
    if provider == "torch-channels-last":
        if x.dim() != 4:
            raise LeftOut("no images")
        layout = torch.channels_last
        model.to(memory_format=layout)
        x = x.contiguous(memory_format=layout)
    if provider == "fastdl":  # the first of a case: what was compiled for the last one may go
        torch.compiler.reset()
    if provider.startswith("fastdl"):
        fastdl.torch.patch(model)
        if functions:
            forward = _overridden(model)
    if provider.endswith("-compile"):
        forward = torch.compile(forward)
    return lambda: forward(x)


def _overridden(model: nn.Module) -> Callable[[Tensor], Tensor]:
    def forward(x: Tensor) -> Tensor:
        with fastdl.torch.override():
            return model(x)

    return forward


def _onnxruntime(model: nn.Module, x: Tensor) -> Call:
    from bench.peers.onnxruntime import call_of

    return call_of(_exported(model, x), {"x": x.numpy()})


def _openvino(model: nn.Module, x: Tensor) -> Call:
    import openvino
    from openvino.frontend import OpConversionFailure

    from bench.peers.openvino import call_of

    try:
        converted = openvino.convert_model(model, input=[x.shape], example_input=x)
        converted.inputs[0].set_names({"x"})
    except OpConversionFailure:  # GPT-2 of transformers
        converted = openvino.Core().read_model(_exported(model, x))
    return call_of(converted, {"x": x.numpy()})


def _exported(model: nn.Module, x: Tensor) -> bytes:
    """The model as ONNX."""
    from bench.peers.onnx_graph import RESULT

    exported = torch.onnx.export(
        model, (x,), input_names=["x"], output_names=[RESULT], dynamo=True, verbose=False
    )
    return exported.model_proto.SerializeToString()


def _scores(y: Tensor) -> Tensor:
    """(N, classes, ...), one row for each place of a text."""
    return y.flatten(0, 1) if y.dim() == 3 else y
