import numpy as np
import pytest

from fastdl.reference import adam_step

SHAPES = [(), (0,), (7,), (3, 5)]
STEPS = 5


def states(count, dtype=np.float64):
    return [[np.zeros(shape, dtype) for shape in SHAPES] for _ in range(count)]


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


@pytest.mark.parametrize("amsgrad", [False, True], ids=["", "amsgrad"])
@pytest.mark.parametrize("decoupled", [False, True], ids=["adam", "adamw"])
@pytest.mark.parametrize(
    "options",
    [
        pytest.param({}, id="defaults"),
        pytest.param({"weight_decay": 0.1}, id="weight decay"),
        pytest.param({"maximize": True, "weight_decay": 0.1}, id="maximize"),
        pytest.param({"lr": 0.1, "eps": 0.5, "beta1": 0.5, "beta2": 0.7}, id="large eps"),
    ],
)
def test_agrees_with_torch(torch, options, decoupled, amsgrad):
    rng = np.random.default_rng(0)
    params = [np.asarray(rng.normal(size=shape)) for shape in SHAPES]
    params_torch = [torch.tensor(p, requires_grad=True) for p in params]
    beta1, beta2 = options.get("beta1", 0.9), options.get("beta2", 0.999)
    options_torch = {k: v for k, v in options.items() if not k.startswith("beta")}
    optimizer = (torch.optim.AdamW if decoupled else torch.optim.Adam)(
        params_torch, betas=(beta1, beta2), amsgrad=amsgrad, **{"weight_decay": 0, **options_torch}
    )
    exp_avgs, exp_avg_sqs, max_exp_avg_sqs = states(3)
    for step in range(1, STEPS + 1):
        grads = [np.asarray(rng.normal(size=shape)) / step for shape in SHAPES]
        for p, g in zip(params_torch, grads, strict=True):
            p.grad = torch.tensor(g)
        optimizer.step()
        adam_step(
            params,
            grads,
            exp_avgs,
            exp_avg_sqs,
            max_exp_avg_sqs if amsgrad else None,
            step=step,
            decoupled=decoupled,
            **options,
        )
        for p, p_torch, m, v, v_max in zip(
            params, params_torch, exp_avgs, exp_avg_sqs, max_exp_avg_sqs, strict=True
        ):
            state = optimizer.state[p_torch]
            np.testing.assert_allclose(p, p_torch.detach(), rtol=1e-12, strict=True)
            np.testing.assert_allclose(m, state["exp_avg"], rtol=1e-12, atol=1e-16)
            np.testing.assert_allclose(v, state["exp_avg_sq"], rtol=1e-12)
            if amsgrad:
                np.testing.assert_allclose(v_max, state["max_exp_avg_sq"], rtol=1e-12)


def test_first_step_moves_by_lr_against_the_sign():
    # with zero moments and small eps, m / sqrt(v) is the sign of the gradient
    param = np.array([1.0, 1.0, 1.0])
    adam_step([param], [np.array([3.0, -0.2, 0.0])], *[[np.zeros(3)] for _ in range(2)], step=1)
    np.testing.assert_allclose(param, [0.999, 1.001, 1.0], rtol=1e-9)


def test_float32_state_is_updated_in_place():
    params, exp_avgs, exp_avg_sqs = states(3, np.float32)
    grads = [np.ones(shape, np.float32) for shape in SHAPES]
    before = params[2]
    adam_step(params, grads, exp_avgs, exp_avg_sqs, step=1)
    assert params[2] is before and before.dtype == np.float32
    np.testing.assert_allclose(before, -1e-3, rtol=1e-6)
    np.testing.assert_allclose(exp_avgs[2], 0.1, rtol=1e-6)
    np.testing.assert_allclose(exp_avg_sqs[2], 1e-3, rtol=1e-6)
