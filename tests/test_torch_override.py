"""fastdl.torch.override: which calls become ours, and which stay PyTorch's."""

from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
F = torch.nn.functional

import fastdl.torch as ft  # noqa: E402
from fastdl import _core  # noqa: E402

X = torch.randn(2, 4, 6, 6, generator=torch.Generator().manual_seed(0))
WEIGHT = X[:, :, :3, :3].clone()
CLASSES = torch.randint(4, (2, 6, 6), generator=torch.Generator().manual_seed(0))
OURS = {
    "conv2d": lambda: F.conv2d(X, WEIGHT, padding=1),
    "torch.conv2d": lambda: torch.conv2d(X, WEIGHT, None, 2),
    "conv1d": lambda: F.conv1d(X[0], X[0, :, :, :3], padding="same"),
    "conv_transpose2d": lambda: F.conv_transpose2d(X, WEIGHT[:2].transpose(0, 1), stride=2),
    "linear": lambda: F.linear(X, X[0, 0]),
    "relu": lambda: F.relu(X),
    "relu inplace": lambda: F.relu(X.clone(), inplace=True),
    "Tensor.relu": lambda: X.relu(),
    "relu6": lambda: F.relu6(X),
    "max_pool2d": lambda: F.max_pool2d(X, 2),
    "torch.max_pool2d": lambda: torch.max_pool2d(X, 2),
    "avg_pool2d": lambda: F.avg_pool2d(X, 2),
    "adaptive_avg_pool2d": lambda: F.adaptive_avg_pool2d(X, 2),
    "adaptive_max_pool2d": lambda: F.adaptive_max_pool2d(X, 2),
    "batch_norm": lambda: F.batch_norm(X, None, None, training=True),
    "layer_norm": lambda: F.layer_norm(X, (6,)),
    "softmax": lambda: F.softmax(X, dim=1),
    "torch.softmax": lambda: torch.softmax(X, 1),
    "Tensor.softmax": lambda: X.softmax(-1),
    "log_softmax": lambda: F.log_softmax(X, 1),
    "cross_entropy": lambda: F.cross_entropy(X, CLASSES),
    "nll_loss": lambda: F.nll_loss(X, CLASSES),
    "attention": lambda: F.scaled_dot_product_attention(X, X, X, is_causal=True),
    "gelu": lambda: F.gelu(X, approximate="tanh"),
    "silu": lambda: F.silu(X),
    "elu": lambda: F.elu(X),
    "leaky_relu": lambda: F.leaky_relu(X, 0.2),
    "sigmoid": lambda: torch.sigmoid(X),
    "tanh": lambda: X.tanh(),
    "@": lambda: X @ X,
    "matmul": lambda: torch.matmul(X, X),
    "addmm": lambda: torch.addmm(X[0, 0, 0], X[0, 0], X[0, 1]),
    "Tensor.addmm": lambda: X[0, 0, 0].addmm(mat1=X[0, 0], mat2=X[0, 1]),
    "a module": lambda: torch.nn.Softmax(1)(X),
}
THEIRS = {
    "integers": lambda: torch.matmul(CLASSES, CLASSES),
    "complex": lambda: torch.tanh(X.to(torch.complex64)),
    "legacy reduction": lambda: F.nll_loss(X, CLASSES, size_average=False),
    "meta": lambda: F.relu(X.to("meta")),
    "sparse weight by name": lambda: F.linear(X[0, 0], weight=X[0, 1].to_sparse()),
    "sparse factor by name": lambda: torch.matmul(X[0, 0], other=X[0, 1].to_sparse()),
    "sparse mat1 by name": lambda: torch.addmm(X[0, 0, 0], mat1=X[0, 1].to_sparse(), mat2=X[0, 2]),
    "sparse": lambda: torch.matmul(X[0, 0].to_sparse(), X[0, 0]),
    "addmm of a matrix": lambda: torch.addmm(X[0, 0], X[0, 0], X[0, 1], alpha=2),
    "addmm of integers": lambda: torch.addmm(CLASSES[0, 0], CLASSES[0], CLASSES[1]),
    "addmm without input": lambda: torch.addmm(X[0, 0, 0] / 0, X[0, 0], X[0, 1], beta=0),
    "out": lambda: torch.tanh(X, out=torch.empty_like(X)),
}


@pytest.fixture
def traced() -> Any:
    """Forgets the last call of ours; returns what tells whether there was one since."""
    _core.softmax_forward(torch.zeros(1), 0)
    marker = _core.last_trace()
    return lambda: _core.last_trace() != marker


@pytest.mark.parametrize("call", OURS.values(), ids=OURS)
def test_ours(call, traced):
    expected = call()
    assert not traced()
    with ft.override():
        y = call()
    assert traced()
    torch.testing.assert_close(y, expected)


@pytest.mark.filterwarnings("ignore:size_average and reduce args:UserWarning")
@pytest.mark.parametrize("call", THEIRS.values(), ids=THEIRS)
def test_theirs(call):
    expected = call()
    with ft.override():
        y = call()
    torch.testing.assert_close(y, expected)


def test_error_of_a_keyword_tensor_on_another_device():
    with ft.override(), pytest.raises(RuntimeError, match="device"):
        F.linear(X, X[0, 0], bias=torch.ones(6, device="meta"))


def test_gradients_and_nesting():
    x = X.clone().requires_grad_()
    with ft.override(), ft.override():
        (gradient,) = torch.autograd.grad(F.gelu(F.conv2d(x, WEIGHT)).sum(), x)
    (expected,) = torch.autograd.grad(F.gelu(F.conv2d(x, WEIGHT)).sum(), x)
    torch.testing.assert_close(gradient, expected)
