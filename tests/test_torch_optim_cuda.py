"""fastdl.torch.optim where parameters lie on a GPU, or count as if they did."""

import copy
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

import fastdl.torch as ft  # noqa: E402
from tests.cuda import device, has_cuda, on_device  # noqa: E402
from tests.test_torch_optim import CASES, parameters, set_gradients  # noqa: E402

pytestmark = pytest.mark.skipif(not has_cuda(), reason="no GPU, and no emulator in this build")
ON_A_GPU = has_cuda() and device() == "cuda"
WAYS = [{}, {"fused": True}, {"capturable": True}]
IDS = ["", "fused", "capturable"]


def there(params: list[Any]) -> list[Any]:
    return [param.detach().to(device()).requires_grad_() for param in params]


def step(optimizer: Any, params: list[Any], seed: int) -> None:
    on_host = [torch.empty(param.shape, dtype=param.dtype) for param in params]
    set_gradients(on_host, seed)
    for param, like in zip(params, on_host, strict=True):
        param.grad = like.grad.to(param.device)
    optimizer.step()


@pytest.mark.parametrize("way", WAYS, ids=IDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("name", "options"), CASES)
def test_steps_are_torchs_cuda(name, options, dtype, way):
    if name == "SGD" and "capturable" in way:
        return  # SGD has no such setting
    params, expected = there(parameters(dtype)), parameters(dtype)
    lr = options.get("lr", 0.01)
    options = {**options, "lr": lr.to(device()) if isinstance(lr, torch.Tensor) else lr}
    reference = getattr(torch.optim, name)(expected, **{**options, "lr": float(lr)})
    optimizer = getattr(ft.optim, name)(params, **options, **way)
    with on_device():
        for seed in range(4):
            if seed == 2:  # the state comes back from where it was saved
                saved = copy.deepcopy(optimizer.state_dict())
                optimizer = getattr(ft.optim, name)(params, **options, **way)
                optimizer.load_state_dict(saved)
            step(optimizer, params, seed)
            step(reference, expected, seed)
    torch.testing.assert_close([param.cpu() for param in params], expected)
    for param, like in zip(params, expected, strict=True):
        for key, value in reference.state[like].items():
            torch.testing.assert_close(optimizer.state[param][key].cpu(), value)
        if ON_A_GPU and name != "SGD":
            assert optimizer.state[param]["step"].is_cuda == bool(way)


@pytest.mark.parametrize("way", WAYS[:2], ids=IDS[:2])
@pytest.mark.parametrize("name", ["Adam", "SGD"])
def test_grad_scaler_makes_torchs_steps_cuda(name, way):
    options: dict[str, Any] = {"lr": 0.1}
    if name == "SGD":
        options |= {"momentum": 0.9, "dampening": 0.5}
    results = []
    for module in (ft.optim, torch.optim):
        params = there(parameters())
        optimizer = getattr(module, name)(
            params, **options, **(way if ON_A_GPU or module is ft.optim else {})
        )
        scaler = torch.amp.GradScaler(device(), init_scale=1024.0, growth_interval=2)
        with on_device():
            for seed in range(5):
                optimizer.zero_grad()
                factor = float("inf") if seed in (0, 3) else 1.0
                scaler.scale(sum((p * p).sum() for p in params) * factor).backward()
                scaler.step(optimizer)
                scaler.update()
        results.append(([param.cpu() for param in params], scaler.get_scale()))
    torch.testing.assert_close(results[0], results[1])


@pytest.mark.skipif(not ON_A_GPU, reason="no GPU")
@pytest.mark.parametrize("name", ["Adam", "SGD"])
def test_a_graph_records_a_step_cuda(name):
    way = {"capturable": True} if name == "Adam" else {"fused": True}
    lr = torch.tensor(0.1, device="cuda")
    params, expected = there(parameters()), there(parameters())
    optimizer = getattr(ft.optim, name)(params, lr=lr, **way)
    reference = getattr(torch.optim, name)(expected, lr=0.1)
    for _ in range(2):
        step(optimizer, params, 0)
        step(reference, expected, 0)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        optimizer.step()
    for rate in (0.1, 0.05):
        lr.fill_(rate)
        reference.param_groups[0]["lr"] = rate
        graph.replay()
        reference.step()
    torch.testing.assert_close(params, expected)
