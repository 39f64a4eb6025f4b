import numpy as np
import pytest

from fastdl.optim import SGD, Adam, AdamW
from tests.testing import assert_close, assert_same_bits, random

SHAPES = [(), (0,), (7,), (3, 5), (40, 50)]
STEPS = 6

OPTIMIZERS = [
    pytest.param(Adam, {}, id="Adam"),
    pytest.param(Adam, {"weight_decay": 0.1, "amsgrad": True}, id="Adam amsgrad"),
    pytest.param(
        Adam, {"lr": 0.1, "betas": (0.5, 0.7), "eps": 0.5, "maximize": True}, id="maximize"
    ),
    pytest.param(AdamW, {}, id="AdamW"),
    pytest.param(AdamW, {"weight_decay": 0.1, "amsgrad": True}, id="AdamW amsgrad"),
    pytest.param(SGD, {}, id="SGD"),
    pytest.param(SGD, {"weight_decay": 0.1, "maximize": True}, id="SGD maximize"),
    pytest.param(SGD, {"momentum": 0.9, "dampening": 0.3}, id="SGD dampening"),
    pytest.param(SGD, {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1}, id="SGD nesterov"),
]


def problem(dtype=np.float64):
    return [random(shape, dtype, seed=i) for i, shape in enumerate(SHAPES)]


def gradients(step, dtype=np.float64):
    """Of one step; now and then a parameter has none, among them the first times of two."""
    grads = [random(shape, dtype, seed=100 * step + i) for i, shape in enumerate(SHAPES)]
    grads[2] = None if step < 2 else grads[2]
    grads[step % len(SHAPES)] = None
    return grads


@pytest.mark.parametrize("fused", [False, True], ids=["default", "fused"])
@pytest.mark.parametrize(("optimizer_type", "options"), OPTIMIZERS)
def test_steps_as_torch(torch, dtype, optimizer_type, options, fused):
    if fused and optimizer_type is SGD:
        return  # torch's fused SGD takes no first gradient after the others
    params = problem(dtype)
    params_torch = [torch.tensor(p, requires_grad=True) for p in params]
    optimizer = optimizer_type(params, **options)
    optimizer_torch = getattr(torch.optim, optimizer_type.__name__)(
        params_torch, fused=fused, **options
    )
    for step in range(STEPS):
        grads = gradients(step, dtype)
        for p, grad in zip(params_torch, grads, strict=True):
            p.grad = None if grad is None else torch.tensor(grad)
        optimizer.step(grads)
        optimizer_torch.step()
        for p, p_torch in zip(params, params_torch, strict=True):
            assert_close(p, p_torch.detach().numpy(), factor=2)  # both round in every step

    state, state_torch = optimizer.state_dict(), optimizer_torch.state_dict()
    assert state["param_groups"][0].items() <= state_torch["param_groups"][0].items()
    assert {i: set(s) for i, s in state["state"].items()} == {
        i: {name for name, value in s.items() if value is not None}
        for i, s in state_torch["state"].items()
    }
    for i, values in state["state"].items():
        for name, value in values.items():
            other = state_torch["state"][i][name].numpy()
            assert_close(np.asarray(value, dtype), other, factor=2)

    # and on from torch's state, with the last gradients again
    other = optimizer_type([p.detach().numpy().copy() for p in params_torch])
    other.load_state_dict(state_torch)
    other.step(grads)
    optimizer_torch.step()
    for p, p_torch in zip(other.params, params_torch, strict=True):
        assert_close(p, p_torch.detach().numpy())


@pytest.mark.parametrize(("optimizer_type", "options"), OPTIMIZERS)
def test_state_dict_round_trip(dtype, optimizer_type, options):
    params = problem(dtype)
    optimizer = optimizer_type(params, **options)
    for step in range(3):
        optimizer.step(gradients(step, dtype))
    copy = [p.copy() for p in params]
    restored = optimizer_type(copy)
    restored.load_state_dict(optimizer.state_dict())
    for step in range(3, STEPS):
        optimizer.step(gradients(step, dtype))
        restored.step(gradients(step, dtype))
    assert_same_bits(copy, params)
    assert restored.lr == optimizer.lr


def test_a_failing_step_changes_nothing():
    for optimizer_type, options in ((Adam, {"amsgrad": True}), (SGD, {"momentum": 0.9})):
        params = problem()
        optimizer = optimizer_type(params, **options)
        optimizer.step(gradients(0))
        before, state = [p.copy() for p in params], optimizer.state_dict()
        state = {i: {k: np.copy(v) for k, v in s.items()} for i, s in state["state"].items()}
        bad = [np.ones_like(p) for p in params]
        for error, value in ((ValueError, np.ones(3)), (TypeError, bad[-1].astype(np.float32))):
            with pytest.raises(error, match=r"grads\[4\]"):
                optimizer.step([*bad[:-1], value])
        with pytest.raises(ValueError, match="expected 5 gradients, got 4"):
            optimizer.step(bad[:-1])
        assert_same_bits(params, before)
        after = optimizer.state_dict()["state"]
        assert after.keys() == state.keys()
        for i in state:
            assert_same_bits(list(after[i].values()), list(state[i].values()))


def test_amsgrad_switched_on_later(dtype):
    # torch: KeyError. Here the largest second moment is that from then on.
    x, y = random(37, dtype), random(37, dtype)
    grads = [100 * random(37, dtype, seed=1), random(37, dtype, seed=2), random(37, dtype, seed=3)]
    switched, plain = Adam([x]), Adam([y])
    switched.step(grads[:1])
    plain.step(grads[:1])
    switched.amsgrad = True
    for grad in grads[1:]:
        switched.step([grad])
    state = switched.state_dict()["state"][0]
    assert (state["max_exp_avg_sq"] >= state["exp_avg_sq"]).all()
    plain.step(grads[1:2])  # v is the largest since then: as without amsgrad
    second = plain.state_dict()["state"][0]["exp_avg_sq"]
    assert_same_bits(state["max_exp_avg_sq"], np.maximum(second, state["exp_avg_sq"]))


def test_many_tiny_arrays():
    params = [np.full(n % 5, 1.0) for n in range(500)]
    whole = np.concatenate(params)
    optimizer, expected = Adam(params, lr=0.1), Adam([whole], lr=0.1)
    for step in range(3):
        grads = [random(p.shape, seed=step) for p in params]
        optimizer.step(grads)
        expected.step([np.concatenate(grads)])
    assert_same_bits(np.concatenate(params), whole)


def test_learning_rate_is_an_attribute():
    params = [np.ones(2)]
    optimizer = SGD(params, lr=1.0)
    optimizer.lr = 0.25
    optimizer.step([np.ones(2)])
    assert_same_bits(params[0], np.full(2, 0.75))


@pytest.mark.parametrize(
    ("optimizer_type", "options", "message"),
    [
        (Adam, {"lr": -1}, "Invalid learning rate: -1"),
        (Adam, {"lr": np.nan}, "Invalid learning rate: nan"),
        (Adam, {"betas": (1.0, 0.9)}, "Invalid beta parameter at index 0: 1.0"),
        (AdamW, {"betas": (0.9, -0.1)}, "Invalid beta parameter at index 1: -0.1"),
        (Adam, {"eps": -1}, "Invalid epsilon value: -1"),
        (AdamW, {"weight_decay": -1}, "Invalid weight_decay value: -1"),
        (SGD, {"lr": -1}, "Invalid learning rate: -1"),
        (SGD, {"momentum": -1}, "Invalid momentum value: -1"),
        (SGD, {"weight_decay": -1}, "Invalid weight_decay value: -1"),
        (SGD, {"nesterov": True}, "Nesterov momentum requires a momentum and zero dampening"),
    ],
)
def test_invalid_settings(optimizer_type, options, message):
    with pytest.raises(ValueError, match=message):
        optimizer_type([np.ones(2)], **options)


def test_invalid_parameters():
    for params, error, message in [
        ([], ValueError, "optimizer got an empty parameter list"),
        (np.ones((2, 2)), TypeError, "params must be a list of arrays"),
        ([[1.0]], TypeError, "one of the params is list"),
        ([np.ones(2, int)], TypeError, "one of the params is int64"),
    ]:
        with pytest.raises(error, match=message):
            SGD(params)


def test_foreign_state_is_refused():
    optimizer = Adam([np.ones(2), np.ones(3)])
    optimizer.step([np.ones(2), np.ones(3)])
    good = optimizer.state_dict()
    group = good["param_groups"][0]
    for bad, message in [
        ({**good, "param_groups": [group, group]}, "different number of parameter groups"),
        ({**good, "param_groups": [{**group, "params": [0]}]}, "doesn't match the size"),
        ({**good, "param_groups": [{**group, "lr": -1.0}]}, "Invalid learning rate"),
        ({**good, "state": {0: good["state"][1]}}, r"exp_avg of parameter 0 has shape \(3,\)"),
        ({**good, "state": {2: good["state"][1]}}, "a parameter 2 of 2"),
    ]:
        with pytest.raises(ValueError, match=message):
            optimizer.load_state_dict(bad)
    assert_same_bits(optimizer.state_dict()["state"][1]["exp_avg"], good["state"][1]["exp_avg"])
