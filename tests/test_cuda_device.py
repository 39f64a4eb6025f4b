"""What only tensors on a GPU have: streams, graphs, autocast, sizes beyond 2^31, any alignment."""

import inspect
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

import fastdl.torch as ft  # noqa: E402
from tests.cuda import device, has_cuda, on_device  # noqa: E402
from tests.samples import SAMPLES  # noqa: E402
from tests.testing import to_torch  # noqa: E402

pytestmark = pytest.mark.skipif(not has_cuda(), reason="no GPU, and no emulator in this build")
needs_gpu = pytest.mark.skipif(not has_cuda() or device() != "cuda", reason="no GPU")


def shifted(x: Any) -> Any:
    """The same numbers, one element off the start of their memory."""
    memory = torch.empty(x.numel() + 1, dtype=x.dtype, device=x.device)
    memory[1:] = x.reshape(-1)
    return memory[1:].view(x.shape)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", sorted(name for name in SAMPLES if hasattr(ft, name)))
def test_misaligned_slices_cuda(name, dtype):
    args, kwargs = SAMPLES[name](np.float32)
    given = [to_torch(torch, x) if isinstance(x, np.ndarray) else x for x in args]
    given = [x.to(device()) if isinstance(x, torch.Tensor) else x for x in given]
    given = [
        x.to(dtype) if isinstance(x, torch.Tensor) and x.is_floating_point() else x for x in given
    ]
    if name == "batch_norm":  # would go on from the statistics of the first call
        given[1] = given[2] = None
    results = []
    for move in (torch.clone, shifted):
        moved = [move(x) if isinstance(x, torch.Tensor) else x for x in given]
        wrt = [
            x.requires_grad_()
            for x in moved
            if isinstance(x, torch.Tensor) and x.is_floating_point()
        ]
        wrt = wrt[:1] if name in ("cross_entropy", "nll_loss") else wrt
        with on_device():
            y = getattr(ft, name)(*moved, **kwargs)
            dy = torch.linspace(-1, 1, y.numel(), device=y.device).view(y.shape).to(y.dtype)
            results.append([y.detach(), *torch.autograd.grad(y, wrt, move(dy))])
    bounds = {torch.float32: 1e-5, torch.bfloat16: 2e-2}
    torch.testing.assert_close(*results, rtol=bounds[dtype], atol=bounds[dtype])


def test_every_op_is_tried_at_any_alignment_cuda():
    public = {n for n, f in vars(ft.functional).items() if inspect.isfunction(f)}
    assert len(public & set(SAMPLES)) >= 18


@needs_gpu
def test_the_current_stream_is_taken_cuda():
    x = torch.zeros(1 << 20, device="cuda")
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)
        x.fill_(1)
        y = ft.relu(x)  # on any other stream it would see zeros
        z = y + 0
    stream.synchronize()
    assert z.min().item() == 1


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.features = torch.nn.Sequential(
            torch.nn.Conv2d(3, 8, 3, padding=1),
            torch.nn.BatchNorm2d(8),
            torch.nn.ReLU(),
            torch.nn.MaxPool2d(2),
            torch.nn.Dropout(0.1),
        )
        self.norm = torch.nn.LayerNorm(8 * 64)
        self.classify = torch.nn.Linear(8 * 64, 10)

    def forward(self, x: Any) -> Any:
        return self.classify(self.norm(self.features(x).flatten(1)))


def problem(dropout: float) -> tuple[Any, Any, Any]:
    torch.manual_seed(0)
    model = Net().cuda()
    model.features[4].p = dropout
    x = torch.randn((16, 3, 16, 16), device="cuda")
    return model, x, torch.randint(10, (16,), device="cuda")


def steps_of(model: Any, optimizer: Any, x: Any, target: Any) -> Any:
    optimizer.zero_grad()
    loss = torch.nn.functional.cross_entropy(model(x), target)
    loss.backward()
    optimizer.step()
    return loss.detach()


@needs_gpu
def test_a_graph_records_a_training_step_cuda():
    model, x, target = problem(0.0)
    optimizer = torch.optim.Adam(model.parameters())
    expected = [steps_of(model, optimizer, x, target).item() for _ in range(8)]

    model, x, target = problem(0.0)
    ft.patch(model)
    optimizer = ft.optim.Adam(model.parameters(), capturable=True)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side), ft.override():
        losses = [steps_of(model, optimizer, x, target).item() for _ in range(3)]
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph), ft.override():
        loss = steps_of(model, optimizer, x, target)
    for _ in range(5):
        graph.replay()
        losses.append(loss.item())
    assert losses == pytest.approx(expected, rel=1e-3)


@needs_gpu
def test_a_graph_drops_anew_at_each_replay_cuda():
    x = torch.ones(1 << 16, device="cuda")
    ft.dropout(x)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = ft.dropout(x)
    seen = []
    for _ in range(2):
        graph.replay()
        seen.append(y.clone())
    assert not torch.equal(*seen)
    assert seen[0].mean().item() == pytest.approx(1, abs=0.05)


@needs_gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_autocast_is_torchs_cuda(dtype):
    x = torch.randn((4, 8, 16), device="cuda")
    weight = torch.randn((8, 16), device="cuda")
    target = torch.randint(8, (4 * 8,), device="cuda")
    F = torch.nn.functional

    def run(f: Any) -> list[Any]:
        product = f.linear(x, weight)
        return [
            product,
            f.softmax(product, dim=-1),
            f.log_softmax(product, dim=-1),
            f.layer_norm(product, (8,)),
            f.relu(product),
            f.cross_entropy(product.flatten(0, 1), target),
        ]

    with torch.autocast("cuda", dtype):
        ours, torchs = run(ft), run(F)
    for y, expected in zip(ours, torchs, strict=True):
        assert y.dtype == expected.dtype
        torch.testing.assert_close(y, expected, rtol=2e-2, atol=2e-2)


@needs_gpu
def test_a_compiled_model_is_the_eager_one_cuda():
    pytest.importorskip("triton", reason="inductor needs Triton on a GPU")
    model, x, _ = problem(0.0)
    ft.patch(model)
    expected = model(x)
    torch.testing.assert_close(torch.compile(model, fullgraph=True)(x), expected)


@needs_gpu
@pytest.mark.parametrize("op", ["relu", "softmax", "max_pool2d", "layer_norm"])
def test_beyond_2_to_the_31_elements_cuda(op):
    if torch.cuda.get_device_properties(0).total_memory < 40 << 30:
        pytest.skip("needs 40 GB")
    options: dict[str, tuple[tuple[int, ...], dict[str, Any]]] = {
        "relu": (((1 << 31) + 5,), {}),
        "softmax": (((1 << 19) + 3, 4099), {"dim": 1}),
        "max_pool2d": ((3, 11, 8192, 8200), {"kernel_size": 2}),
        "layer_norm": (((1 << 19) + 3, 4099), {"normalized_shape": (4099,)}),
    }
    shape, kwargs = options[op]
    x = torch.empty(shape, dtype=torch.bfloat16, device="cuda").normal_()
    y = getattr(ft, op)(x, **kwargs)
    tail = x[-2:]  # the last of it, alone
    torch.testing.assert_close(y[-2:], getattr(ft, op)(tail, **kwargs), rtol=0, atol=0)
