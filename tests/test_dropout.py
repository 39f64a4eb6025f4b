import os

import numpy as np
import pytest

import fastdl
from fastdl import _core, reference
from tests.cuda import has_cuda, on_cuda
from tests.testing import (
    LENGTHS,
    Guarded,
    assert_close,
    assert_rejects_bad_arrays,
    assert_same_bits,
    assert_same_bits_for_any_threads,
    broadcast_of,
    layouts,
    random,
)

# The offsets cross from the low word of the counter into the high one, and wrap.
STATES = [(0, 0), (42, 2**32 - 2), (2**64 - 1, 2**64 - 3)]
SHAPES = [*[(n,) for n in LENGTHS], (), (2, 3, 5), (4, 0, 3), (33000,)]  # the last: two blocks


@pytest.fixture(autouse=True)
def restored_state():
    state = fastdl.get_rng_state()
    yield
    fastdl.set_rng_state(state)


@pytest.mark.parametrize("state", STATES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_forward_and_backward(isa, dtype, shape, state):
    x, dy = random(shape, dtype), random(shape, dtype, seed=1)
    fastdl.set_rng_state(state)
    y, rng_state = fastdl.dropout_forward(x, 0.3)
    assert rng_state == state
    assert fastdl.get_rng_state() == (state[0], (state[1] + -(-x.size // 4)) % 2**64)
    expected = reference.dropout_forward(x, 0.3, state)
    assert y.dtype == dtype
    assert_close(y, expected)
    np.testing.assert_array_equal(y == 0, expected == 0)  # the bits, not their frequency
    dx = fastdl.dropout_backward(dy, 0.3, rng_state)
    assert_close(dx, reference.dropout_backward(dy, 0.3, state))


@pytest.mark.parametrize("p", [0.0, 1e-12, 0.1, 0.5, 0.999, 1 - 1e-12, 1.0])
def test_special_values(isa, dtype, p):
    x = np.tile(np.array([np.nan, np.inf, -np.inf, -0.0, 0.0, 1e-45, -1.0], dtype), 41)
    y, state = fastdl.dropout_forward(x, p)
    expected = reference.dropout_forward(x, p, state)
    assert_close(y, expected, scale=1 / (1 - p) if p < 1 - 1e-10 else 0)
    np.testing.assert_array_equal(np.signbit(y)[y == 0], np.signbit(expected)[y == 0])


@pytest.mark.parametrize("p", [0.0, 1.0])
def test_against_torch(torch, dtype, p):
    x = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 2.0, -2.0], dtype)
    assert_same_bits(fastdl.dropout(x, p), torch.nn.functional.dropout(torch.tensor(x), p).numpy())


def test_share_and_mean():
    y = fastdl.dropout(np.ones(200_000), 0.3)
    tolerance = 5 * np.sqrt(0.3 * 0.7 / y.size)  # 5 standard deviations of a binomial mean
    assert abs(np.mean(y == 0) - 0.3) < tolerance
    assert set(np.unique(y)) == {0.0, 1 / 0.7}


@pytest.mark.parametrize(("p", "training"), [(0.0, True), (0.3, False)])
def test_identity_takes_no_random_numbers(dtype, p, training):
    x = random((3, 5), dtype)
    state = fastdl.get_rng_state()
    y = fastdl.dropout(x, p, training)
    assert y is not x
    assert _core.last_trace()["kernel"] == "copy"
    assert_same_bits(y, x)
    assert fastdl.dropout(x, p, training, inplace=True) is x
    assert_same_bits(y, x)
    assert fastdl.get_rng_state() == state


def test_inplace(isa, dtype):
    x = random((7, 19), dtype)
    for array in layouts(x).values():
        fastdl.manual_seed(3)
        expected = fastdl.dropout(x)
        fastdl.manual_seed(3)
        if not array.flags.writeable:
            with pytest.raises(ValueError, match=r"\[dropout\] x is read-only"):
                fastdl.dropout(array, inplace=True)
            continue
        assert fastdl.dropout(array, inplace=True) is array
        np.testing.assert_array_equal(array, expected)


def test_out(isa, dtype):
    x = random((7, 19), dtype)
    guarded = Guarded(x.shape, dtype)
    fastdl.manual_seed(1)
    assert fastdl.dropout(x, out=guarded.array) is guarded.array
    guarded.check()
    assert_same_bits(guarded.array, fastdl.dropout_backward(x, 0.5, (1, 0)))
    with pytest.raises(ValueError, match="out makes no sense with inplace"):
        fastdl.dropout(x, inplace=True, out=guarded.array)


def test_any_layout(dtype):
    x = random((5, 6, 7), dtype)
    for array in [*layouts(x).values(), broadcast_of(x)]:
        expected = fastdl.dropout_backward(np.ascontiguousarray(array, dtype), 0.5, (1, 2))
        assert_same_bits(fastdl.dropout_backward(array, 0.5, (1, 2)), expected)


def test_same_bits_for_any_threads(isa, dtype):
    x = random((100_001,), dtype)
    assert_same_bits_for_any_threads(lambda: fastdl.dropout_backward(x, 0.5, (1, 2)))


@pytest.mark.parametrize("training", [True, False])
def test_vjp(dtype, training):
    x, dy = random((3, 50), dtype), random((3, 50), dtype, seed=1)
    fastdl.manual_seed(5)
    y, pullback = fastdl.vjp(fastdl.dropout, x, 0.4, training=training)
    p = 0.4 if training else 0.0
    assert_close(y, reference.dropout_forward(x, p, (5, 0)))
    assert_close(pullback(dy)[0], reference.dropout_backward(dy, p, (5, 0)))


@pytest.mark.parametrize("seed", [0, 7, 2**64 - 1, -1, -(2**63), np.int64(5)])
def test_manual_seed_is_that_of_torch(torch, seed):
    fastdl.manual_seed(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        assert fastdl.get_rng_state() == (torch.initial_seed() % 2**64, 0)


def test_a_child_process_goes_on_from_its_parents_state():
    fastdl.manual_seed(11)
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(write, repr(fastdl.dropout_forward(np.ones(8))[1]).encode())
        os._exit(0)
    os.waitpid(pid, 0)
    assert os.read(read, 100) == b"(11, 0)"
    os.close(read)
    os.close(write)


def test_errors():
    x = random((4, 5))
    assert_rejects_bad_arrays(fastdl.dropout, x)
    assert_rejects_bad_arrays(lambda bad: fastdl.dropout_backward(bad, 0.5, (0, 0)), x)
    state = fastdl.get_rng_state()
    for p in (-0.1, 1.1, np.nan):
        for call in (
            lambda p=p: fastdl.dropout(x, p),
            lambda p=p: fastdl.dropout(x, p, training=False),
            lambda p=p: fastdl.dropout_backward(x, p, (0, 0)),
        ):
            with pytest.raises(ValueError, match="must be between 0 and 1"):
                call()
    assert fastdl.get_rng_state() == state
    for seed in (2**64, -(2**63) - 1):
        with pytest.raises(ValueError, match=r"\[manual_seed\] expected a seed"):
            fastdl.manual_seed(seed)
    for bad in ((-1, 0), (0, 2**64)):
        with pytest.raises(ValueError, match=r"\[set_rng_state\] expected two integers"):
            fastdl.set_rng_state(bad)
        with pytest.raises(TypeError, match=r"\[dropout_backward\] rng_state must be two integers"):
            fastdl.dropout_backward(x, 0.5, bad)


@pytest.mark.skipif(not has_cuda(), reason="no GPU and no emulator")
def test_a_seed_may_lie_on_the_device_cuda():
    x = random((4, 5, 8, 16), np.float32)
    seed, state = np.array(2**62 + 5), (2**62 + 5, 0)
    forward, backward = (
        getattr(_core, f"scaled_dot_product_attention_{way}") for way in ("forward", "backward")
    )
    with on_cuda():
        results = [
            [
                _core.dropout_backward(x, 0.3, given),
                *(found := forward(x, x, x, dropout_p=0.3, rng_state=given)[:2]),
                *backward(x, x, x, x, *found, dropout_p=0.3, rng_state=given)[:3],
            ]
            for given in (seed, state)
        ]
        with pytest.raises(ValueError, match=r"rng_state must have one element, got shape \(2,\)"):
            _core.dropout_backward(x, 0.3, np.zeros(2, np.int64))
    assert_same_bits(*results)
    with pytest.raises(
        ValueError, match=r"rng_state must be \(seed, offset\) for arrays of the host"
    ):
        _core.dropout_backward(x, 0.3, seed)
