"""Models in a process of several threads and workers; copies of them; torch.compile's and ours."""

import copy
import io
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
nn = torch.nn

import fastdl.torch as ft  # noqa: E402
from tests.test_torch_patch import small_net, tensor  # noqa: E402


def loaded(model: Any) -> Any:
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=False)


def pickled(model: Any) -> Any:
    return pickle.loads(pickle.dumps(model))


def patched() -> Any:
    model = small_net().eval()
    ft.patch(model)
    return model


def optimized() -> Any:
    return ft.optimize(small_net().eval())


@pytest.mark.parametrize("make", [patched, optimized])
def test_threads_share_a_model(make):
    model = make()
    batches = [tensor((2, 3, 24, 20), i) for i in range(6)]
    with torch.no_grad():
        expected = [model(x) for x in batches]

    def infer(i: int) -> bool:
        with torch.no_grad():
            return torch.equal(model(batches[i % 6]), expected[i % 6])

    with ThreadPoolExecutor(6) as pool:
        assert all(pool.map(infer, range(120)))


def test_threads_train_models_of_their_own():
    def train(_: int) -> list[Any]:
        model = copy.deepcopy(start)
        optimizer = ft.optim.Adam(model.parameters())
        for i in range(4):
            optimizer.zero_grad()
            ft.cross_entropy(model(tensor((4, 3, 12, 12), i)), torch.arange(4)).backward()
            optimizer.step()
        return [param.detach() for param in model.parameters()]

    start = small_net()
    ft.patch(start)
    expected = train(0)
    with ThreadPoolExecutor(4) as pool:
        for params in pool.map(train, range(8)):
            assert all(map(torch.equal, params, expected))


def run(code: str) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stderr


def test_the_first_calls_of_a_process_may_be_concurrent():
    run("""
import threading, numpy as np, torch
start, results = threading.Barrier(8), [None] * 8
x = np.random.default_rng(0).standard_normal((4, 8, 20, 20)).astype("f4")
w = np.random.default_rng(1).standard_normal((8, 8, 3, 3)).astype("f4")
def use(i):
    start.wait()
    import fastdl, fastdl.torch as ft
    y = fastdl.conv2d(x, w, padding=1)
    weight = torch.tensor(w, requires_grad=True)
    z = ft.conv2d(torch.tensor(x), weight, padding=1)
    (dw,) = torch.autograd.grad(ft.max_pool2d(ft.relu(z), 2).sum(), weight)
    results[i] = (y, z.detach().numpy(), dw.numpy())
threads = [threading.Thread(target=use, args=(i,)) for i in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
assert np.array_equal(results[0][0], results[0][1])
for result in results: assert all(map(np.array_equal, result, results[0]))
""")


def test_workers_of_a_data_loader_compute():
    run("""
import numpy as np, torch, fastdl, fastdl.torch as ft
net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.MaxPool2d(2))
ft.patch(net)
images = torch.randn(8, 3, 40, 40, generator=torch.Generator().manual_seed(0))
class Data(torch.utils.data.Dataset):
    def __len__(self): return 8
    def __getitem__(self, i):
        with torch.no_grad():
            y = net(images[i : i + 1])[0]
        return y, torch.from_numpy(fastdl.softmax(images[i].numpy(), 0).copy())
expected = [Data()[i] for i in range(8)]  # the parent's threads have run
for workers in (2, 2):
    loader = torch.utils.data.DataLoader(
        Data(), num_workers=workers, multiprocessing_context="fork", timeout=60)
    for (y, p), (y0, p0) in zip(loader, expected, strict=True):
        assert torch.equal(y[0], y0) and torch.equal(p[0], p0)
    net(images).sum().backward()  # the parent still has its threads
""")


@pytest.mark.parametrize("another", [copy.deepcopy, pickled, loaded])
def test_copies_of_optimized_models(another):
    model = optimized()
    x = tensor((2, 3, 12, 12))
    copied = another(model)
    assert torch.equal(copied(x), model(x))
    assert [type(m) for m in copied.modules()][1:] == [type(m) for m in model.modules()][1:]


def test_copies_of_a_model_in_training():
    model = small_net()
    ft.patch(model)
    x = tensor((2, 3, 12, 12))
    for another in (copy.deepcopy, pickled, loaded):
        other = another(model)
        expected = model(x)
        assert torch.equal(other(x), expected)
        torch.testing.assert_close(other.state_dict(), model.state_dict(), rtol=0, atol=0)


def test_unpatch_of_a_compiled_model():
    torch._dynamo.reset()
    model = small_net().eval()
    x = tensor((2, 3, 12, 12))
    expected = model(x)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    assert torch.equal(compiled(x), expected)
    for _ in range(2):
        report = ft.patch(compiled)
        assert len(report.replaced) == 8
        assert torch.equal(compiled(x), patched()(x))
        ft.unpatch(compiled)
        assert torch.equal(compiled(x), expected)
