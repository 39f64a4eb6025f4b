"""Whole networks through the NumPy API; the reference runs the same code, op by op."""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from unittest import mock

import numpy as np

import fastdl
from bench import bench_batch_norm, bench_conv2d, benches
from bench.functional import BOTH, gradient_of, normal
from bench.harness import Bench, Call, Family
from examples.lenet import LeNet5
from fastdl.optim import Adam

STEP = "step"
LEARNING_RATE = 1e-6  # the parameters hardly move while the same batch is learned again and again


def reference_vjp(
    op: Any, *args: Any, wrt: Any = None, **kwargs: Any
) -> tuple[Any, Callable[[Any], Any]]:
    """``fastdl.vjp`` of the reference, which computes what nobody asked for as well."""
    reference: Any = next(b for b in benches() if b.op == op.__name__)
    arguments = inspect.signature(op).bind(*args, **kwargs).arguments
    x, *names = arguments
    rest = {name: arguments[name] for name in names}

    def pullback(dy: Any) -> tuple[Any, ...]:
        computed = reference.backward(dy, arguments[x], **rest)
        gradients = dict(zip(reference.wrt, computed, strict=True))
        return tuple(gradients.get(k) for k, v in arguments.items() if isinstance(v, np.ndarray))

    return reference.forward(arguments[x], **rest), pullback


with_references = mock.patch.object(fastdl, "vjp", reference_vjp)


@dataclass(frozen=True)
class Case:
    name: str
    family: Family
    smoke: bool = False


class LeNetStep(Bench):
    """Forward, backward and Adam for a batch of 64; results are the loss and all gradients."""

    op = "LeNet-5"
    suite = "train"
    cases = (Case("batch 64", Family("LeNet-5 training step", {STEP: (2.5, None)}), smoke=True),)
    directions = (STEP,)

    def make(self, provider: str, case: Case, direction: str, dtype: np.dtype) -> Call | None:
        net = LeNet5(np.random.default_rng(0), dtype)
        x, target = normal((64, 1, 28, 28), dtype, 0), np.arange(64) % 10
        if provider == "fastdl":
            return self._fastdl(net, x, target)
        if provider == "numpy":
            return Call(lambda: self._numpy(net, x, target))
        if provider.startswith("torch"):
            return self._torch(provider, net.params, x, target)
        return None

    def _fastdl(self, net: LeNet5, x: np.ndarray, target: np.ndarray) -> Call:
        optimizer = Adam(net.params, lr=LEARNING_RATE)

        def run() -> Sequence[Any]:
            loss, gradients = net.loss_and_gradients(x, target)
            optimizer.step(gradients)
            return [loss, *gradients]

        return Call(run)

    @with_references
    def _numpy(self, net: LeNet5, x: np.ndarray, target: np.ndarray) -> Sequence[Any]:
        """Without the step, which does not change the results."""
        loss, gradients = net.loss_and_gradients(x, target)
        return [loss, *gradients]

    def _torch(self, provider: str, arrays: Any, images: np.ndarray, target: np.ndarray) -> Call:
        import torch
        from torch.nn import functional as F

        from bench.bench_optim import TORCH
        from bench.peers.torch import numpy_of, tensor

        last = provider == "torch-channels-last"
        x, labels = tensor(images, last), torch.tensor(target)
        params = [tensor(p, last and p.ndim == 4).requires_grad_() for p in arrays]
        optimizer = torch.optim.Adam(params, lr=LEARNING_RATE, **TORCH.get(provider, {}))

        def forward() -> torch.Tensor:
            weight1, bias1, weight2, bias2, weight3, bias3, weight4, bias4, weight5, bias5 = params
            y = F.avg_pool2d(torch.tanh(F.conv2d(x, weight1, bias1, padding=2)), 2)
            y = F.avg_pool2d(torch.tanh(F.conv2d(y, weight2, bias2)), 2)
            y = y.flatten(1)
            y = torch.tanh(F.linear(y, weight3, bias3))
            y = torch.tanh(F.linear(y, weight4, bias4))
            return F.linear(y, weight5, bias5)

        if provider == "torch-compile":
            forward = torch.compile(forward)

        def run() -> Sequence[Any]:
            optimizer.zero_grad()
            loss = F.cross_entropy(forward(), labels)
            loss.backward()
            optimizer.step()
            return [loss, *(p.grad for p in params)]

        return Call(run, numpy_of)


class ResNetBlock(Bench):
    """relu(norm(conv(relu(norm(conv(x))))) + x), convolutions 3x3, norms over the batch."""

    op = "ResNet basic block"
    suite = "train"
    cases = (Case("(16, 64, 56, 56)", Family("ResNet basic block", {BOTH: (2.0, None)})),)
    directions = (BOTH,)
    normwise = 0.01

    def make(self, provider: str, case: Case, direction: str, dtype: np.dtype) -> Call | None:
        x = normal((16, 64, 56, 56), dtype, 0)
        dy = gradient_of(x, dtype)
        params = []  # weight of a convolution, weight and bias of its norm; and again
        for seed in (1, 2):
            params.append(normal((64, 64, 3, 3), dtype, seed) / 24)  # variance 1 / fan_in
            params += [np.ones(64, dtype), np.zeros(64, dtype)]
        if provider == "fastdl":
            return Call(lambda: self._fastdl(x, params, dy))
        if provider == "numpy":
            return Call(with_references(lambda: self._fastdl(x, params, dy)))
        if provider in ("torch", "torch-channels-last"):
            return self._torch(x, params, dy, channels_last=provider != "torch")
        return self._jax(x, params, dy) if provider == "jax" else None

    def _fastdl(self, x: np.ndarray, params: Sequence[np.ndarray], dy: np.ndarray) -> Any:
        def conv_norm(x: np.ndarray, weight: np.ndarray, gamma: np.ndarray, beta: np.ndarray):
            running = np.zeros_like(gamma), np.ones_like(gamma)
            y, conv_back = fastdl.vjp(fastdl.conv2d, x, weight, padding=1)
            y, norm_back = fastdl.vjp(fastdl.batch_norm, y, *running, gamma, beta, training=True)

            def pullback(dy: np.ndarray) -> tuple[np.ndarray, ...]:
                dy, _, _, dgamma, dbeta = norm_back(dy)
                return *conv_back(dy), dgamma, dbeta

            return y, pullback

        h, first_back = conv_norm(x, *params[:3])
        h, relu_back = fastdl.vjp(fastdl.relu, h)
        h, second_back = conv_norm(h, *params[3:])
        h += x
        y, last_relu_back = fastdl.vjp(fastdl.relu, h)

        (dsum,) = last_relu_back(dy)
        dh, *dsecond = second_back(dsum)
        (dh,) = relu_back(dh)
        dx, *dfirst = first_back(dh)
        dx += dsum
        return [y, dx, *dfirst, *dsecond]

    def _torch(
        self, x: np.ndarray, arrays: Sequence[np.ndarray], dy: np.ndarray, channels_last: bool
    ) -> Call:
        import torch
        from torch.nn import functional as F

        from bench.peers.torch import numpy_of, tensor

        wrt = [tensor(a, channels_last and a.ndim == 4).requires_grad_() for a in (x, *arrays)]
        dy = tensor(dy, channels_last)

        def conv_norm(x: Any, weight: Any, gamma: Any, beta: Any) -> Any:
            running = torch.zeros(64, dtype=x.dtype), torch.ones(64, dtype=x.dtype)
            y = F.conv2d(x, weight, padding=1)
            return F.batch_norm(y, *running, gamma, beta, training=True)

        def run() -> Sequence[Any]:
            x, *params = wrt
            h = F.relu(conv_norm(x, *params[:3]))
            y = F.relu(conv_norm(h, *params[3:]) + x)
            return [y, *torch.autograd.grad(y, wrt, dy)]

        return Call(run, numpy_of)

    def _jax(self, x: np.ndarray, arrays: Sequence[np.ndarray], dy: np.ndarray) -> Call:
        import jax

        def conv_norm(x: Any, weight: Any, gamma: Any, beta: Any) -> Any:
            y = bench_conv2d.jax(x, weight, bias=jax.numpy.zeros(64, x.dtype), padding=1)
            return bench_batch_norm.jax(y, None, None, gamma, beta, training=True)

        def block(x: Any, *params: Any) -> Any:
            h = jax.nn.relu(conv_norm(x, *params[:3]))
            return jax.nn.relu(conv_norm(h, *params[3:]) + x)

        @jax.jit
        def both(wrt: Any, dy: Any) -> Any:
            y, pullback = jax.vjp(block, *wrt)
            return [y, *pullback(dy)]

        wrt, dy = [jax.numpy.array(a) for a in (x, *arrays)], jax.numpy.array(dy)
        return Call(lambda: jax.block_until_ready(both(wrt, dy)))


BENCHES = [LeNetStep(), ResNetBlock()]
