"""PyTorch's own configurations of every optimiser we have (its OptimizerInfo database).

Each makes the steps that torch's optimiser makes, and refuses what it refuses.
"""

import warnings
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
pytest.importorskip("expecttest", reason="what PyTorch's samples import is not installed")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from torch.testing._internal.common_optimizers import (
        OptimizerErrorEnum,
        _get_optim_inputs_including_global_cliquey_kwargs,
        optim_db,
    )

import fastdl.torch as ft  # noqa: E402

NAMES = ["Adam", "AdamW", "SGD"]
DATABASE = {info.optim_cls.__name__: info for info in optim_db if info.optim_cls.__name__ in NAMES}
SHAPES = ((), (3,), (5, 7), (4, 3, 3, 3))
STEPS = 4


def configurations() -> list[Any]:
    """Those for the CPU, and those for CUDA: its tensors as settings serve the CPU, too."""
    cases: dict[str, Any] = {}
    for name, info in DATABASE.items():
        for device in ("cpu", "cuda"):
            for item in _get_optim_inputs_including_global_cliquey_kwargs(device, None, info):
                options = {key: x for key, x in item.kwargs.items() if key != "capturable"}
                if isinstance(options.get("lr"), torch.Tensor) and options.get("foreach"):
                    continue  # refused without capturable, which is CUDA's
                cases.setdefault(f"{name} {item.desc}", pytest.param(name, options))
    return [pytest.param(*case.values, id=name) for name, case in cases.items()]


def run(make: Any, options: dict[str, Any], dtype: Any) -> tuple[Any, Any, Any]:
    """Parameters, state and, where it can be differentiated, gradients of the steps."""
    generator = torch.Generator().manual_seed(0)

    def normal(shape: tuple[int, ...]) -> Any:
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)

    differentiable = options.get("differentiable")
    starts = [normal(shape).requires_grad_() for shape in SHAPES]
    params = [start.clone() for start in starts] if differentiable else starts
    optimizer = make(params, **options)
    grads = []
    # AMSGrad's maximum is overwritten by the next step: PyTorch differentiates one.
    for _ in range(1 if differentiable and options.get("amsgrad") else STEPS):
        for param in params:
            param.grad = normal(param.shape).requires_grad_(bool(differentiable))
            grads.append(param.grad)
        optimizer.step()
    if not differentiable:
        return params, optimizer.state_dict(), None
    dy = [normal(shape) for shape in SHAPES]
    gradients = torch.autograd.grad(params, [*starts, *grads], dy, allow_unused=True)
    assert any(gradient is not None for gradient in gradients)
    return params, optimizer.state_dict(), gradients


def test_the_database_has_every_optimizer():
    assert sorted(DATABASE) == NAMES == sorted(ft.optim.__all__, key=str.lower)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("name", "options"), configurations())
def test_configurations(name, options, dtype):
    actual = run(getattr(ft.optim, name), options, dtype)
    expected = run(getattr(torch.optim, name), options, dtype)
    torch.testing.assert_close(actual[0], expected[0])
    assert actual[1]["param_groups"] == expected[1]["param_groups"]
    torch.testing.assert_close(actual[1]["state"], expected[1]["state"])
    assert (actual[2] is None) == (expected[2] is None)
    for gradient, reference in zip(actual[2] or (), expected[2] or (), strict=True):
        torch.testing.assert_close(gradient, reference, allow_subclasses=False)


@pytest.mark.parametrize("module", [torch.optim, ft.optim], ids=["torch", "fastdl"])
@pytest.mark.parametrize("name", NAMES)
def test_errors(module, name):
    for error in DATABASE[name].optim_error_inputs_func("cpu", torch.float32):
        assert error.error_on == OptimizerErrorEnum.CONSTRUCTION_ERROR
        item = error.optimizer_error_input
        params = [torch.zeros(1, requires_grad=True)] if item.params is None else item.params
        with pytest.raises(error.error_type, match=error.error_regex):
            getattr(module, name)(params, **item.kwargs)
