"""bfloat16 and float16 parameters: steps in float32, with and without a float32 master."""

import numpy as np
import pytest

import fastdl
from fastdl import _core, reference
from tests.testing import assert_close, assert_same_bits, is_half, random, to_torch, widened


@pytest.mark.parametrize("kept", ["float32", "as the parameter"])
def test_optimiser_steps(isa, half, kept):
    """A list of every dtype; what is kept from step to step may be float32."""
    dtypes = (half, np.float32, half, np.float64)
    sizes = (19, 5, 1000, 3)
    made = [random(n, t, seed=n) for n, t in zip(sizes, dtypes, strict=True)]
    grads = [random(n, t, seed=n + 1) for n, t in zip(sizes, dtypes, strict=True)]

    def zeros():
        own = [p.dtype if kept != "float32" or not is_half(p) else np.float32 for p in made]
        return [np.zeros(p.shape, t) for p, t in zip(made, own, strict=True)]

    for name, count in (("adam_step", 3), ("sgd_step", 1)):
        state, oracle_state = (
            [[p.copy() for p in made], *(zeros() for _ in range(count))] for _ in range(2)
        )
        options = {"momentum": 0.9} if name == "sgd_step" else {"weight_decay": 0.1}
        for step in (1, 2):
            wide = [widened(arrays) for arrays in oracle_state]
            getattr(reference, name)(wide[0], grads, *wide[1:], step=step, lr=0.1, **options)
            getattr(fastdl, name)(state[0], grads, *state[1:], step=step, lr=0.1, **options)
            for arrays, expected in zip(state, wide, strict=True):
                for array, exact in zip(arrays, expected, strict=True):
                    assert_close(array, exact)
            oracle_state = [[a.copy() for a in arrays] for arrays in state]


def test_optimiser_lists_that_do_not_match(half):
    params, name = [random(3, half)], np.dtype(half).name
    before = params[0].copy()
    grads = [before]
    for state, got in ((np.zeros(3), "float64"), (np.zeros(4, half), r"\(4,\)")):
        with pytest.raises((TypeError, ValueError), match=rf"\[sgd_step\] .*{got}"):
            fastdl.sgd_step(params, grads, [state], step=1, momentum=0.5)
    with pytest.raises(TypeError, match=rf"grads\[0\] is float64, params\[0\] is {name}"):
        fastdl.sgd_step(params, [np.zeros(3)], step=1)
    assert_same_bits(params[0], before)


def test_master_params(isa, half):
    """The step is that of float32, on the master; the param is its rounding."""
    masters = [random(n, np.float32, seed=n) for n in (19, 70000)]
    others = [random(5, np.float32)]
    grads = [random(n, half, seed=n + 1) for n in (19, 70000)] + [random(5, np.float32, seed=1)]
    params = [m.astype(half) for m in masters] + [p.copy() for p in others]
    moments = [[np.zeros(p.shape, np.float32) for p in params] for _ in range(2)]
    wide = [m.copy() for m in masters] + others
    wide_moments = [[m.copy() for m in each] for each in moments]
    wide_grads = widened(grads, np.float32)
    for name, state, wide_state, options in (
        ("adam_step", moments, wide_moments, {"lr": 2e-4}),
        ("sgd_step", moments[:1], wide_moments[:1], {"lr": 2e-4, "momentum": 0.9}),
    ):
        for step in (1, 2):
            function = getattr(fastdl, name)
            function(params, grads, *state, step=step, master_params=[*masters, None], **options)
            assert "widened" in _core.last_trace()["reason"]
            function(wide, wide_grads, *wide_state, step=step, **options)
            assert_same_bits([*masters, params[2]], wide)
            assert_same_bits(params[:2], [m.astype(half) for m in masters])
            assert_same_bits(state, wide_state)


def test_wrong_master_params(half):
    param, grad, name = random(3, half), np.ones(3, half), np.dtype(half).name
    before, single = param.copy(), np.zeros(3, np.float32)
    for params, masters, error, message in (
        ([param], [], ValueError, "master_params holds 0 arrays, params holds 1"),
        ([param], 1, TypeError, "master_params must be a list"),
        ([param], [param], TypeError, rf"master_params\[0\] must be float32, got {name}"),
        ([param], [single[:2]], ValueError, r"master_params\[0\] must have shape \(3,\)"),
        ([single], [single.copy()], TypeError, r"is for a 16-bit array, params\[0\] is float32"),
        ([param, param[:1]], [single, single[:1]], ValueError, "shares memory"),
    ):
        with pytest.raises(error, match=rf"\[sgd_step\] .*{message}"):
            fastdl.sgd_step(params, [grad] * len(params), step=1, master_params=masters)
    assert_same_bits(param, before)
    assert_same_bits(single, np.zeros(3, np.float32))


OPTIMISERS = [
    (fastdl.optim.Adam, {"lr": 2e-4, "amsgrad": True}),
    (fastdl.optim.AdamW, {"lr": 2e-4}),
    (fastdl.optim.SGD, {"lr": 2e-4, "momentum": 0.9}),
    (fastdl.optim.SGD, {"lr": 2e-4}),
]


@pytest.mark.parametrize(("kind", "options"), OPTIMISERS)
def test_optimiser_with_master_weights(half, kind, options):
    """30 steps too small for 16 bits add up as in float32; saving and loading changes nothing."""
    param = np.ones(7, half)
    single = param.astype(np.float32)
    optimizer, exact = kind([param], **options), kind([single], **options)
    for i in range(30):
        grad = random(7, half, seed=i) + np.ones(7, half)
        optimizer.step([grad])
        exact.step([grad.astype(np.float32)])
        if i == 10:
            state = optimizer.state_dict()
            optimizer = kind([param], **options)
            optimizer.load_state_dict(state)
    assert_same_bits(optimizer.state_dict()["state"][0]["master_param"], single)
    assert_same_bits(param, single.astype(half))
    assert (param != 1).any()


@pytest.mark.parametrize(("kind", "options"), OPTIMISERS)
def test_optimiser_with_16_bit_state_is_that_of_torch(torch, half, kind, options):
    param, grads = random(50, half), [random(50, half, seed=i) for i in range(3)]
    theirs = torch.nn.Parameter(to_torch(torch, param))
    optimizer_torch = getattr(torch.optim, kind.__name__)([theirs], **options)
    optimizer = kind([param], **options, master_weights=False, float32_state=False)
    for grad in grads:
        optimizer.step([grad])
        theirs.grad = to_torch(torch, grad)
        optimizer_torch.step()
    for value in optimizer.state_dict()["state"].get(0, {}).values():
        assert not isinstance(value, np.ndarray) or value.dtype == half
    # torch rounds every intermediate result of Adam
    expected = theirs.detach().double().numpy()
    np.testing.assert_allclose(param.astype(np.float64), expected, rtol=0.02, atol=1e-3)
    kind([param], **options).load_state_dict(optimizer_torch.state_dict())
