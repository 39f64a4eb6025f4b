"""Products and convolutions of tensors on a GPU: every way their packs can lie."""

import numpy as np
import pytest

from fastdl import _core, reference
from tests.cuda import BUILD, device, has_cuda, on_device

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
pytest.importorskip("fastdl.torch")  # has fastdl ask for PyTorch's TF32 flags
pytestmark = pytest.mark.skipif(not has_cuda(), reason="no GPU, and no emulator in this build")
DTYPES = (torch.bfloat16, torch.float16)


def make(shape, dtype, seed):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return x.to(dtype).to(device())


def float64(x):
    return x.double().cpu().numpy()


def assert_rounded(y, exact, terms):
    """One rounding of a sum that is as good as in float32."""
    eps = torch.finfo(y.dtype).eps
    scale = max(np.abs(exact).max(initial=0), np.sqrt(terms))
    error = np.abs(float64(y) - exact) - eps / 2 * np.abs(exact)
    assert error.max(initial=0) <= 16 * np.finfo(np.float32).eps * scale


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("m", "n", "k"),
    [(136, 264, 72), (40, 32, 8), (128, 128, 32), (129, 131, 33), (7, 200, 16), (33, 64, 0)],
    ids=str,
)
def test_linear(dtype, m, n, k):
    x, weight, dy = make((m, k), dtype, 0), make((n, k), dtype, 1), make((m, n), dtype, 2)
    bias = make((n,), dtype, 3)
    with on_device():
        y = _core.linear_forward(x, weight, bias, activation="relu", residual=dy)
        dx, dweight, dbias = _core.linear_backward(dy, x, weight, output_mask=(True, True, True))
    x, weight, dy, bias = map(float64, (x, weight, dy, bias))
    assert_rounded(y, np.maximum(x @ weight.T + bias + dy, 0), k + 2)
    assert_rounded(dx, dy @ weight, n)
    assert_rounded(dweight, dy.T @ x, m)
    assert_rounded(dbias, dy.sum(0), m)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_batches_in_parts_of_k(dtype):
    x, other = make((3, 1, 40, 1600), dtype, 0), make((2, 1600, 48), dtype, 1)
    with on_device():
        y = _core.matmul_forward(x, other)
    assert_rounded(y, np.matmul(float64(x), float64(other)), 1600)


CONVOLUTIONS = [
    ((2, 16, 9, 11), (40, 16, 3, 3), {"padding": 1}),
    ((1, 32, 8, 8), (32, 16, 3, 3), {"stride": 2, "padding": 1, "groups": 2}),
    ((2, 64, 7, 6), (48, 64, 1, 1), {}),
    ((2, 8, 10, 9), (40, 8, 3, 2), {"dilation": 2, "stride": (1, 2), "padding": 2}),
    ((1, 12, 6, 6), (36, 12, 3, 3), {}),  # no packs
    ((2, 8, 1, 1), (32, 8, 1, 1), {}),
    # groups of few channels: depthwise in packs and without, multipliers, several results and terms
    ((2, 16, 9, 7), (16, 1, 3, 3), {"padding": 1, "groups": 16}),
    ((1, 8, 40, 33), (8, 1, 5, 5), {"padding": 2, "stride": 2, "groups": 8}),
    ((1, 6, 8, 9), (6, 1, 3, 2), {"dilation": (1, 2), "padding": 1, "groups": 6}),
    ((2, 24, 6, 5), (72, 1, 3, 3), {"stride": (2, 1), "padding": 1, "groups": 24}),
    ((1, 40, 7, 6), (24, 5, 3, 3), {"padding": 1, "groups": 8}),
    ((1, 6, 5, 6), (18, 3, 2, 2), {"stride": 3, "groups": 2}),
]


@pytest.mark.parametrize("dtype", (*DTYPES, torch.float32), ids=str)
@pytest.mark.parametrize("weight_last", [False, True])
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize(("x_shape", "weight_shape", "options"), CONVOLUTIONS, ids=str)
def test_conv2d(dtype, channels_last, weight_last, x_shape, weight_shape, options):
    def lie(x, last):
        return x.contiguous(memory_format=torch.channels_last) if last else x

    x, weight = make(x_shape, dtype, 0), make(weight_shape, dtype, 1)
    bias = make(weight_shape[:1], dtype, 2)
    args = {"stride": 1, "padding": 0, "dilation": 1, "groups": 1} | options
    exact = reference.conv2d_forward(*map(float64, (x, weight, bias)), **args)
    dy = make(exact.shape, dtype, 3)
    gradients = reference.conv2d_backward(*map(float64, (dy, x, weight)), **args)
    x, dy, weight = lie(x, channels_last), lie(dy, channels_last), lie(weight, weight_last)
    with on_device():
        y = _core.conv2d_forward(x, weight, bias, **args)
        found = _core.conv2d_backward(dy, x, weight, **args, output_mask=(True, True, True))
    assert y.stride() == lie(y.contiguous(), channels_last).stride()
    assert_rounded(y, exact, weight[0].numel())
    for gradient, wanted in zip(found, gradients, strict=True):
        assert_rounded(gradient, wanted, dy.numel())


def tf32(x):
    """The float64 values of x, rounded to 11 significant bits: what the matrix units multiply."""
    bits = x.cpu().numpy().view(np.uint32)
    return ((bits + 0x1000) & 0xFFFFE000).astype(np.uint32).view(np.float32).astype(np.float64)


@pytest.fixture
def allow_tf32():
    before = torch.backends.cuda.matmul.fp32_precision, torch.backends.cudnn.conv.fp32_precision
    torch.backends.cuda.matmul.fp32_precision = "tf32"
    torch.backends.cudnn.conv.fp32_precision = "tf32"
    yield
    torch.backends.cuda.matmul.fp32_precision, torch.backends.cudnn.conv.fp32_precision = before


@pytest.mark.parametrize(
    ("m", "n", "k"),
    [(136, 264, 72), (40, 32, 8), (128, 128, 32), (129, 131, 33), (7, 200, 16), (33, 64, 0)],
    ids=str,
)
def test_linear_tf32(allow_tf32, m, n, k):
    x, weight = make((m, k), torch.float32, 0), make((n, k), torch.float32, 1)
    dy = make((m, n), torch.float32, 2)
    with on_device():
        y = _core.linear_forward(x, weight, None, activation="relu", residual=dy)
        assert _core.last_trace()["kernel"] == "gemm, products of TF32"
        dx, dweight, _ = _core.linear_backward(dy, x, weight, output_mask=(True, True, False))
    residual, x, weight, dy = float64(dy), *map(tf32, (x, weight, dy))
    assert_rounded(y, np.maximum(x @ weight.T + residual, 0), k + 2)
    assert_rounded(dx, dy @ weight, n)
    assert_rounded(dweight, dy.T @ x, m)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize(
    ("x_shape", "weight_shape", "options"),
    [c for c in CONVOLUTIONS if "groups" not in c[2]],
    ids=str,
)
def test_conv2d_tf32(allow_tf32, channels_last, x_shape, weight_shape, options):
    layout = torch.channels_last if channels_last else torch.contiguous_format
    x, weight = make(x_shape, torch.float32, 0), make(weight_shape, torch.float32, 1)
    args = {"stride": 1, "padding": 0, "dilation": 1, "groups": 1} | options
    exact = reference.conv2d_forward(tf32(x), tf32(weight), None, **args)
    dy = make(exact.shape, torch.float32, 3)
    gradients = reference.conv2d_backward(*map(tf32, (dy, x, weight)), **args)
    x, dy, weight = (array.contiguous(memory_format=layout) for array in (x, dy, weight))
    with on_device():
        y = _core.conv2d_forward(x, weight, None, **args)
        assert _core.last_trace()["kernel"] == "implicit GEMM, products of TF32"
        found = _core.conv2d_backward(dy, x, weight, **args, output_mask=(True, True, False))
    assert_rounded(y, exact, weight[0].numel())
    for gradient, wanted in zip(found[:2], gradients[:2], strict=True):
        assert_rounded(gradient, wanted, dy.numel())


@pytest.mark.parametrize("allowed", ["ieee", "tf32"])
def test_only_pytorch_and_float32_follow_its_flag(allow_tf32, allowed):
    torch.backends.cuda.matmul.fp32_precision = allowed
    x = make((64, 64), torch.float32, 0)
    with on_device():
        y = _core.matmul_forward(x, x)
        kernel = _core.last_trace()["kernel"]
        _core.matmul_forward(x.double(), x.double())
        assert "TF32" not in _core.last_trace()["kernel"]
    assert ("TF32" in kernel) == (allowed == "tf32")
    error = np.abs(float64(y) - float64(x) @ float64(x)).max()
    assert (error > 1e-4) == (allowed == "tf32")
    if BUILD == "emulated":
        with on_device():
            _core.matmul_forward(x.numpy(), x.numpy())
        assert "TF32" not in _core.last_trace()["kernel"]
