"""fastdl.torch.optim: steps, state and settings of torch.optim."""

import copy
import io
import pickle
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

import fastdl.torch as ft  # noqa: E402

CASES = [
    ("Adam", {}),
    ("Adam", {"lr": 0.1, "betas": (0.8, 0.95), "eps": 1e-5, "weight_decay": 0.1}),
    ("Adam", {"amsgrad": True, "maximize": True}),
    ("Adam", {"decoupled_weight_decay": True, "weight_decay": 0.1}),
    ("Adam", {"lr": torch.tensor(0.01)}),
    ("AdamW", {"weight_decay": 0.1}),
    ("SGD", {"lr": 0.1}),
    ("SGD", {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.1, "nesterov": True}),
    ("SGD", {"lr": 0.1, "momentum": 0.9, "dampening": 0.5, "maximize": True}),
]
IDS = [f"{name} {sorted(options)}" for name, options in CASES]


def parameters(dtype: Any = torch.float32) -> list[Any]:
    generator = torch.Generator().manual_seed(0)
    shapes = ((), (3,), (5, 7), (4, 3, 3, 3), (0, 2))
    params = [torch.randn(shape, generator=generator).to(dtype) for shape in shapes]
    params[3] = params[3].contiguous(memory_format=torch.channels_last)
    return [param.requires_grad_() for param in params]


def set_gradients(params: list[Any], step: int) -> None:
    generator = torch.Generator().manual_seed(step)
    for param in params:
        param.grad = torch.randn(param.shape, generator=generator).to(param.dtype)


def make(module: Any, name: str, params: Any, options: dict[str, Any]) -> Any:
    return getattr(module, name)(params, **options)


def steps(optimizer: Any, params: list[Any], first: int, last: int) -> None:
    for step in range(first, last):
        set_gradients(params, step)
        optimizer.step()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("name", "options"), CASES, ids=IDS)
def test_steps_are_torchs(name, options, dtype):
    params, expected = parameters(dtype), parameters(dtype)
    steps(make(ft.optim, name, params, options), params, 0, 5)
    steps(make(torch.optim, name, expected, options), expected, 0, 5)
    torch.testing.assert_close(params, expected)


@pytest.mark.parametrize("to_ours", [True, False])
@pytest.mark.parametrize(("name", "options"), CASES, ids=IDS)
def test_either_goes_on_where_the_other_stopped(name, options, to_ours):
    modules = (torch.optim, ft.optim) if to_ours else (ft.optim, torch.optim)
    params, expected = parameters(), parameters()
    optimizer = make(torch.optim, name, expected, options)
    steps(optimizer, expected, 0, 6)
    first = make(modules[0], name, params, options)
    steps(first, params, 0, 3)
    second = make(modules[1], name, params, {"lr": 1.0})
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    steps(second, params, 3, 6)
    torch.testing.assert_close(params, expected)
    state, reference = second.state_dict(), optimizer.state_dict()
    assert state["param_groups"] == reference["param_groups"]
    torch.testing.assert_close(state["state"], reference["state"])


@pytest.mark.parametrize("name", ["Adam", "SGD"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_state_of_16_bit_parameters_stays_float32(name, dtype):
    options = {"lr": 0.1, **({"momentum": 0.9} if name == "SGD" else {})}
    params = parameters(dtype)
    optimizer = make(ft.optim, name, params, options)
    steps(optimizer, params, 0, 2)
    other = make(ft.optim, name, params, options)
    other.load_state_dict(optimizer.state_dict())
    for state in other.state.values():
        assert all(value.dtype == torch.float32 for value in state.values())
    for param in params:
        for key, value in optimizer.state[param].items():
            assert torch.equal(other.state[param][key], value)
    steps(other, params, 2, 4)
    assert all(param.dtype == dtype for param in params)


def test_groups_closures_schedulers_and_missing_gradients():
    results = []
    for module in (ft.optim, torch.optim):
        a, b, unused = (torch.ones(3, requires_grad=True) for _ in range(3))
        optimizer = module.Adam([{"params": [a], "lr": 0.1}, {"params": [b, unused]}], lr=0.01)
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)

        def closure(a: Any = a, b: Any = b, optimizer: Any = optimizer) -> Any:
            optimizer.zero_grad()
            loss = (a * a + 2 * b * b).sum()
            loss.backward()
            return loss

        losses = []
        for _ in range(3):
            losses.append(optimizer.step(closure).item())
            scheduler.step()
        assert unused not in optimizer.state
        results.append((losses, a.detach(), b.detach()))
    torch.testing.assert_close(results[0], results[1])


SCHEDULERS = {
    "OneCycleLR": {"max_lr": 0.1, "total_steps": 8},  # turns momentum and beta1, too
    "CosineAnnealingWarmRestarts": {"T_0": 3},
    "ReduceLROnPlateau": {"patience": 0},
    "LambdaLR": {"lr_lambda": lambda step: 1 / (step + 1)},
}


@pytest.mark.parametrize("name", ["AdamW", "SGD"])
@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_schedulers(name, scheduler):
    options = {"lr": 0.05, **({"momentum": 0.9} if name == "SGD" else {})}
    results = []
    for module in (ft.optim, torch.optim):
        params = parameters()
        optimizer = make(module, name, params, options)
        schedule = getattr(torch.optim.lr_scheduler, scheduler)(optimizer, **SCHEDULERS[scheduler])
        for step in range(6):
            steps(optimizer, params, step, step + 1)
            schedule.step(*([1.0] if scheduler == "ReduceLROnPlateau" else []))
        results.append((params, optimizer.param_groups[0]["lr"]))
    torch.testing.assert_close(results[0], results[1])


def small_problem() -> tuple[Any, Any, Any]:
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3))
    return (
        model,
        torch.randn((32, 6), generator=generator),
        torch.randint(3, (32,), generator=generator),
    )


def losses_of(model: Any, optimizer: Any, x: Any, y: Any, count: int) -> list[float]:
    losses = []
    for _ in range(count):
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize(("name", "options"), CASES, ids=IDS)
def test_losses_go_on_from_ours_to_torchs_and_back(name, options):
    model, x, y = small_problem()
    expected = losses_of(model, make(torch.optim, name, model.parameters(), options), x, y, 9)
    model, x, y = small_problem()
    losses, state = [], None
    for module in (ft.optim, torch.optim, ft.optim):
        optimizer = make(module, name, model.parameters(), options)
        if state is not None:
            optimizer.load_state_dict(state)
        losses += losses_of(model, optimizer, x, y, 3)
        file = io.BytesIO()
        torch.save(optimizer.state_dict(), file)
        file.seek(0)
        state = torch.load(file)
    assert losses == pytest.approx(expected, rel=1e-5)


def test_a_group_added_later():
    results = []
    for module in (ft.optim, torch.optim):
        params = parameters()
        optimizer = module.Adam(params[:2], lr=0.1)
        steps(optimizer, params, 0, 2)
        optimizer.add_param_group({"params": params[2:], "lr": 0.01, "amsgrad": True})
        steps(optimizer, params, 2, 4)
        results.append((params, optimizer.state_dict()["state"]))
    torch.testing.assert_close(results[0], results[1])


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
@pytest.mark.parametrize("name", ["Adam", "AdamW", "SGD"])
def test_copies_go_on_alike(name, copied):
    options = {"lr": 0.1, **({"momentum": 0.9} if name == "SGD" else {})}
    params = parameters()
    optimizer = make(ft.optim, name, params, options)
    steps(optimizer, params, 0, 2)
    other = copied(optimizer)
    other_params = other.param_groups[0]["params"]
    assert type(other) is type(optimizer)
    assert all(a is not b for a, b in zip(params, other_params, strict=True))
    steps(optimizer, params, 2, 4)
    steps(other, other_params, 2, 4)
    torch.testing.assert_close(other_params, params)


def test_hooks_around_a_step():
    seen = []
    param = torch.ones(2, requires_grad=True)
    param.grad = torch.ones(2)
    optimizer = ft.optim.SGD([param], lr=1.0)
    optimizer.register_step_pre_hook(lambda *_: seen.append(param[0].item()))
    optimizer.register_step_post_hook(lambda *_: seen.append(param[0].item()))
    optimizer.step()
    assert seen == [1.0, 0.0]


@pytest.mark.parametrize("unscale", [False, True])
@pytest.mark.parametrize("name", ["Adam", "SGD"])
def test_grad_scaler_makes_torchs_steps(name, unscale):
    options = {"lr": 0.1, **({"momentum": 0.9} if name == "SGD" else {})}
    results = []
    for module in (ft.optim, torch.optim):
        params = parameters()
        optimizer = make(module, name, params, options)
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=2)
        for step in range(5):
            optimizer.zero_grad()
            factor = float("inf") if step in (0, 3) else 1.0
            scaler.scale(sum((p * p).sum() for p in params) * factor).backward()
            if unscale:
                scaler.unscale_(optimizer)
                torch.nn.utils.clip_grad_norm_(params, 0.5)
            scaler.step(optimizer)
            scaler.update()
        results.append((params, optimizer.state_dict()["state"], scaler.get_scale()))
    torch.testing.assert_close(results[0], results[1])


def test_grad_scaler_unscales_and_skips():
    param = torch.ones(4, requires_grad=True)
    optimizer = ft.optim.SGD([param], lr=1.0)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    scaler.scale(param.sum()).backward()
    scaler.step(optimizer)
    scaler.update()
    torch.testing.assert_close(param.detach(), torch.zeros(4))
    optimizer.zero_grad()
    scaler.scale(param.sum() * float("inf")).backward()
    scaler.step(optimizer)
    scaler.update()
    torch.testing.assert_close(param.detach(), torch.zeros(4))
    assert scaler.get_scale() == 4.0


@pytest.mark.parametrize("name", ["Adam", "SGD"])
def test_grad_scaler_keeps_what_float16_cannot_hold(name):
    # Gradients of 1e-8 times a scale of 65536 are float16 numbers, they themselves are not. The
    # step is that of the unscaled ones in float64: PyTorch's own has float16 moments, which are 0.
    gradients = torch.tensor([1e-8, -2e-8, 3e-5, 0.25])
    options = {"lr": 1e7, "momentum": 0.9} if name == "SGD" else {"lr": 0.5, "eps": 1e-9}
    param = torch.ones(4, dtype=torch.float16, requires_grad=True)
    optimizer = make(ft.optim, name, [param], options)
    scaler = torch.amp.GradScaler("cpu")
    exact = torch.ones(4, dtype=torch.float64, requires_grad=True)
    reference = make(torch.optim, name, [exact], options)
    for _ in range(2):
        param.grad = (gradients * scaler.scale(torch.ones(()))).half()
        exact.grad = param.grad.double() / scaler.get_scale()
        scaler.step(optimizer)
        scaler.update()
        reference.step()
    torch.testing.assert_close(param.grad.float(), gradients, rtol=1e-2, atol=6e-8)
    torch.testing.assert_close(param.double()[:2], exact[:2], rtol=2e-3, atol=0)
    assert (param[:2] != 1).all()


def test_a_step_is_seen_by_autograd():
    param = torch.ones(4, requires_grad=True)
    loss = (param * param).sum()
    param.grad = torch.ones(4)
    ft.optim.SGD([param], lr=1.0).step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_what_kernels_do_not_know_is_torchs():
    for name in ("Adam", "SGD"):
        param, expected = (
            torch.ones(3, dtype=torch.complex64, requires_grad=True) for _ in range(2)
        )
        for module, p in ((ft.optim, param), (torch.optim, expected)):
            p.grad = torch.full((3,), 1 + 2j)
            getattr(module, name)([p], lr=0.1).step()
        torch.testing.assert_close(param, expected)


def test_sparse_gradients_are_torchs_in_sgd():
    indices, values = torch.tensor([[2, 0, 2]]), torch.tensor([1.0, 2.0, 3.0])
    results = []
    for module in (ft.optim, torch.optim):
        param = torch.ones(3, requires_grad=True)
        optimizer = module.SGD([param], lr=0.1)
        for _ in range(2):
            param.grad = torch.sparse_coo_tensor(indices, values, (3,), check_invariants=True)
            optimizer.step()
        results.append(param)
    torch.testing.assert_close(results[0], results[1])


def test_sparse_gradients_are_refused():
    param = torch.ones(3, requires_grad=True)
    param.grad = torch.ones(3).to_sparse()
    with pytest.raises(RuntimeError, match="sparse"):
        ft.optim.Adam([param]).step()
    assert torch.equal(param.detach(), torch.ones(3))
