import numpy as np
import pytest

from fastdl.reference import sgd_step

SHAPES = [(), (0,), (7,), (3, 5)]
STEPS = 4


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({}, id="plain"),
        pytest.param({"weight_decay": 0.1}, id="weight decay"),
        pytest.param({"maximize": True, "weight_decay": 0.1}, id="maximize"),
        pytest.param({"momentum": 0.9}, id="momentum"),
        pytest.param({"momentum": 0.9, "dampening": 0.3}, id="dampening"),
        pytest.param({"momentum": 0.9, "nesterov": True, "weight_decay": 0.1}, id="nesterov"),
        pytest.param({"momentum": 0.9, "maximize": True}, id="momentum and maximize"),
    ],
)
def test_agrees_with_torch(torch, options):
    rng = np.random.default_rng(0)
    params = [np.asarray(rng.normal(size=shape)) for shape in SHAPES]
    params_torch = [torch.tensor(p, requires_grad=True) for p in params]
    optimizer = torch.optim.SGD(params_torch, lr=0.1, **options)
    buffers = [np.full(shape, np.nan) for shape in SHAPES] if "momentum" in options else None
    for step in range(1, STEPS + 1):
        grads = [np.asarray(rng.normal(size=shape)) for shape in SHAPES]
        for p, g in zip(params_torch, grads, strict=True):
            p.grad = torch.tensor(g)
        optimizer.step()
        sgd_step(params, grads, buffers, step=step, lr=0.1, **options)
        for i, p_torch in enumerate(params_torch):
            np.testing.assert_allclose(params[i], p_torch.detach(), rtol=1e-12, strict=True)
            if buffers is not None:
                expected = optimizer.state[p_torch]["momentum_buffer"]
                np.testing.assert_allclose(buffers[i], expected, rtol=1e-12, strict=True)


def test_first_momentum_buffer_is_the_gradient_itself():
    param, buffer = np.zeros(2), np.full(2, np.nan)
    options = {"lr": 0.5, "momentum": 0.9, "dampening": 0.3}
    sgd_step([param], [np.array([1.0, 2.0])], [buffer], step=1, **options)
    np.testing.assert_allclose(buffer, [1.0, 2.0])
    np.testing.assert_allclose(param, [-0.5, -1.0])
    sgd_step([param], [np.array([1.0, 1.0])], [buffer], step=2, **options)
    np.testing.assert_allclose(buffer, [0.9 + 0.7, 1.8 + 0.7])


def test_float32_is_updated_in_place():
    param = np.ones(3, np.float32)
    sgd_step([param], [np.ones(3, np.float32)], step=1, lr=0.25)
    assert param.dtype == np.float32
    np.testing.assert_array_equal(param, 0.75)
