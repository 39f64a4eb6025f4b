import numpy as np
import pytest

import fastdl
from fastdl import reference
from tests.testing import (
    Guarded,
    assert_close,
    assert_rejects_bad_arrays,
    assert_same_bits,
    assert_same_bits_for_any_threads,
    broadcast_of,
    layouts,
    random,
)

COLUMNS, PLANES = "columns, lanes along the channels", "planes, lanes along them"
SHAPES = [
    *[((7, n), COLUMNS) for n in (0, 1, 3, 8, 16, 17, 35, 97, 301)],  # 2-D: the channels
    *[((n, 5), COLUMNS) for n in (2, 127, 129, 400)],  # rows in one block, two and more
    *[((3, 5, n), COLUMNS) for n in (1, 2, 9, 15)],  # small planes
    *[((3, 5, n), PLANES) for n in (16, 17, 31, 49, 97, 1031)],  # few channels: all chunks
    *[((3, 18, n), PLANES) for n in (16, 49, 64, 1031)],  # a channel at a time
    ((2, 2, 3, 5, 7), PLANES),
    ((2, 3, 5, 1, 3), COLUMNS),
    ((1, 3, 4096), PLANES),  # exactly one chunk of the widest vectors
    ((2, 3, 9001), PLANES),  # planes in pieces
    ((2, 17, 5003), PLANES),  # the same, a channel at a time
    ((2, 2, 40000), PLANES),  # planes mapped in pieces too
    ((100, 3, 49), PLANES),  # several planes a chunk, the last one short
    ((100, 17, 49), PLANES),
    ((0, 3), COLUMNS),
    ((0, 3, 20), PLANES),  # empty batches leave the running statistics
    ((2, 3, 0), COLUMNS),
    ((2, 0, 20), PLANES),
]


def inputs(shape, dtype):
    x, dy = random(shape, dtype), random(shape, dtype, seed=1)
    weight, bias, running_mean = random((3, shape[1]), dtype, seed=2)
    running_var = np.abs(random(shape[1], dtype, seed=3)) + dtype(0.5)
    return x, dy, weight, bias, running_mean, running_var


def at_least(scale, ref):
    return max(scale, np.max(np.abs(ref[np.isfinite(ref)]), initial=0.0))


def assert_close_to_reference(shape, dtype, training, has_weight=True, has_bias=True, **options):
    x, dy, weight, bias, *running = inputs(shape, dtype)
    weight, bias = weight if has_weight else None, bias if has_bias else None
    running64 = [r.astype(np.float64) for r in running]
    got = fastdl.batch_norm_forward(x, *running, weight, bias, training, **options)
    expected = reference.batch_norm_forward(x, *running64, weight, bias, training, **options)
    for actual, ref in zip((*got, *running), (*expected, *running64), strict=True):
        assert actual.dtype == dtype
        assert_close(actual, ref, scale=at_least(1.0, ref))
    _, mean, rstd = got
    grads = fastdl.batch_norm_backward(dy, x, weight, mean, rstd, training)
    expected = reference.batch_norm_backward(dy, x, weight, mean, rstd, training)
    count = max(x.size // max(shape[1], 1), 9)
    for actual, ref, scale in zip(grads, expected, (3.0, count**0.5, count**0.5), strict=True):
        assert_close(actual, ref, scale=at_least(scale, ref))  # sums of random terms cancel


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize(("shape", "kernel"), SHAPES, ids=str)
def test_forward_and_backward(isa, dtype, shape, kernel, training):
    assert_close_to_reference(shape, dtype, training)
    assert fastdl._core.last_trace()["kernel"] == kernel


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("has_weight", [True, False])
@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.parametrize("shape", [(9, 5), (3, 5, 19)], ids=str)
def test_options(dtype, shape, has_weight, has_bias, training):
    options = {"momentum": 0.3, "eps": 0.1}
    assert_close_to_reference(shape, dtype, training, has_weight, has_bias, **options)


@pytest.mark.parametrize("shape", [(200, 5), (4, 5, 9), (4, 5, 49), (4, 5, 9001)], ids=str)
def test_large_mean(isa, shape):
    # 1e4 + noise: the variance of the float32 numbers as they are, none of it lost
    x = (1e4 + random(shape)).astype(np.float32)
    got = fastdl.batch_norm_forward(x, None, None, training=True)
    expected = reference.batch_norm_forward(x, None, None, training=True)
    for actual, ref in zip(got, expected, strict=True):
        assert_close(actual, ref)


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("shape", [(3, 20), (3, 20, 3), (2, 3, 35), (2, 18, 35)], ids=str)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, -0.0, 1e-45, 1e4, 1e30], ids=str)
def test_special_values(isa, dtype, shape, value, training):
    # first and last: in the vector body and in the tail; 1e30 squared overflows float32
    x, _, weight, bias, *running = inputs(shape, dtype)
    x.flat[0] = x.flat[-1] = value
    got = fastdl.batch_norm_forward(x, *running, weight, bias, training)
    expected = reference.batch_norm_forward(x, *running, weight, bias, training)
    for c in range(shape[1]):
        finite = x[:, c][np.isfinite(x[:, c])]
        for actual, ref, axis in zip(got, expected, (1, 0, 0), strict=True):
            actual, ref = np.take(actual, c, axis), np.take(ref, c, axis)
            scale = np.abs(finite).max() if axis == 0 else 1.0  # the mean of values cancels
            assert_close(actual, ref, scale=at_least(scale, ref), factor=2)


@pytest.mark.parametrize("special", [np.nan, np.inf, 0.0])
@pytest.mark.parametrize("shape", [(3, 4), (3, 4, 20)], ids=str)
def test_special_parameters(dtype, shape, special):
    x, _, *parameters = inputs(shape, dtype)
    x.flat[0] = np.inf
    for i in range(4):
        changed = [p.copy() for p in parameters]
        changed[i][1] = special
        weight, bias, mean, var = changed
        with np.errstate(all="ignore"):
            expected, *_ = reference.batch_norm_forward(x, mean, var, weight, bias)
        for c in range(4):
            assert_close(
                fastdl.batch_norm(x, mean, var, weight, bias)[:, c], expected[:, c], factor=2
            )


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("shape", [(6, 5), (2, 3, 4), (2, 3, 4, 5), (2, 3, 4, 5, 2)], ids=str)
def test_against_torch(torch, dtype, shape, training):
    x, dy, weight, bias, *running = inputs(shape, dtype)
    tensors = [torch.tensor(a, requires_grad=True) for a in (x, weight, bias)]
    running_t = [torch.tensor(r) for r in running]
    options = {"training": training, "momentum": 0.3, "eps": 1e-3}
    yt = torch.nn.functional.batch_norm(tensors[0], *running_t, *tensors[1:], **options)
    yt.backward(torch.tensor(dy))
    y, pullback = fastdl.vjp(fastdl.batch_norm, x, *running, weight, bias, **options)
    assert_close(y, yt.detach().numpy(), factor=2)  # both have errors
    for actual, tensor in zip(running, running_t, strict=True):
        assert_close(actual, tensor.numpy(), factor=2)
    dx, *nothing, dweight, dbias = pullback(dy)
    assert nothing == [None, None]
    for actual, tensor in zip((dx, dweight, dbias), tensors, strict=True):
        assert_close(actual, tensor.grad.numpy(), factor=2)


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("shape", [(9, 5), (3, 5, 19), (3, 20, 19)], ids=str)
def test_output_mask(isa, shape, training):
    x, dy, weight, _, *running = inputs(shape, np.float32)
    _, mean, rstd = fastdl.batch_norm_forward(x, *running, training=training)
    full = fastdl.batch_norm_backward(dy, x, weight, mean, rstd, training)
    for mask in np.ndindex(2, 2, 2):
        mask = tuple(map(bool, mask))
        got = fastdl.batch_norm_backward(dy, x, weight, mean, rstd, training, mask)
        assert_same_bits(got, [g if m else None for g, m in zip(full, mask, strict=True)])


def test_any_layout(dtype):
    x, dy, weight, bias, *running = inputs((5, 6, 7), dtype)
    y, mean, rstd = fastdl.batch_norm_forward(x, None, None, weight, bias, True)
    for array in layouts(x).values():
        assert_same_bits(fastdl.batch_norm(array, None, None, weight, bias, True), y)
    expected = fastdl.batch_norm_backward(dy, x, weight, mean, rstd)
    for array in layouts(dy).values():
        assert_same_bits(fastdl.batch_norm_backward(array, x, weight, mean, rstd), expected)
    repeated = broadcast_of(x)
    got = fastdl.batch_norm(repeated, *running)
    assert_same_bits(got, fastdl.batch_norm(repeated.copy(), *running))
    # running statistics of any layout move in place
    moved = running[0].copy(), running[1].copy()
    fastdl.batch_norm(x, *moved, training=True)
    for name in ("sliced", "negative strides", "misaligned", "byte-swapped"):
        own = [layouts(r)[name] for r in running]
        fastdl.batch_norm(x, *own, training=True)
        for actual, ref in zip(own, moved, strict=True):
            np.testing.assert_array_equal(actual, ref)


@pytest.mark.parametrize("shape", [(2000, 50), (300, 30, 9), (4, 3, 40000), (4, 40, 3000)], ids=str)
def test_same_bits_for_any_threads(isa, dtype, shape):
    x, dy, weight, bias, *running = inputs(shape, dtype)

    def run():
        own = [r.copy() for r in running]
        y, mean, rstd = fastdl.batch_norm_forward(x, *own, weight, bias, True)
        return y, mean, rstd, *own, *fastdl.batch_norm_backward(dy, x, weight, mean, rstd)

    assert_same_bits_for_any_threads(run)


def test_large_results_pass_the_caches(isa):
    # beyond 16 MB results are stored past the caches, from the first aligned element on
    for shape in [(2, 17, 125001), (1401, 3001), (2, 3, 700001)]:
        x = random(shape, np.float32)
        out = np.empty(x.size + 1, np.float32)[1:].reshape(shape)
        expected, *_ = reference.batch_norm_forward(x, None, None, training=True)
        assert_close(fastdl.batch_norm(x, None, None, training=True, out=out), expected)


def test_out(isa, dtype):
    x, _, weight, bias, *running = inputs((5, 3, 19), dtype)
    guarded = Guarded(x.shape, dtype)
    assert fastdl.batch_norm(x, *running, weight, bias, out=guarded.array) is guarded.array
    guarded.check()
    assert_same_bits(guarded.array, fastdl.batch_norm(x, *running, weight, bias))


def test_empty_batch():
    running = np.full(3, 2.0), np.full(3, 3.0)
    _, mean, rstd = fastdl.batch_norm_forward(np.zeros((0, 3, 4)), *running, training=True)
    np.testing.assert_array_equal(running, [[2.0] * 3, [3.0] * 3])
    np.testing.assert_array_equal(mean, np.zeros(3))
    np.testing.assert_array_equal(rstd, np.full(3, 1e-5**-0.5))


def test_forward_errors():
    x, _, weight, bias, mean, var = inputs((4, 5), np.float64)
    f = fastdl.batch_norm
    assert_rejects_bad_arrays(lambda bad: f(bad, mean, var), x)
    read_only = mean.copy()
    read_only.flags.writeable = False
    f(x, read_only, var)  # only read in evaluation
    bad = [
        ("at least 2 dimensions", (x[0], mean, var), {}),
        ("both be arrays", (x, mean, None), {"training": True}),
        ("both be arrays", (x, None, var), {"training": True}),
        ("needed in evaluation", (x, None, None), {}),
        (r"running_mean must have shape \(5,\)", (x, mean[1:], var), {}),
        ("running_var must have shape", (x, mean, var[1:]), {}),
        ("weight must have shape", (x, mean, var, weight[:1]), {}),
        ("bias must have shape", (x, mean, var, None, bias[:, None]), {}),
        ("eps must be positive", (x, None, None), {"training": True, "eps": 0.0}),
        ("eps must not be negative", (x, mean, var), {"eps": -1.0}),
        ("more than 1 value per channel", (x[:1], mean, var), {"training": True}),
        ("running_mean is read-only", (x, read_only, var), {"training": True}),
        ("running_.* shares memory", (x, mean, mean), {"training": True}),
        ("out shares memory with x", (x, mean, var), {"out": x}),
    ]
    before = mean.copy(), var.copy()
    for match, args, kwargs in bad:
        with pytest.raises(ValueError, match=rf"\[batch_norm\] .*{match}"):
            f(*args, **kwargs)
    with pytest.raises(TypeError, match="running_mean is float32, x is float64"):
        f(x, mean.astype(np.float32), var, training=True)
    with pytest.raises(TypeError, match="weight is float32, x is float64"):
        f(x, mean, var, weight.astype(np.float32), training=True)
    assert_same_bits((mean, var), before)


def test_backward_errors():
    x, dy, weight, _, mean, rstd = inputs((4, 5), np.float64)
    f = fastdl.batch_norm_backward
    assert_rejects_bad_arrays(lambda bad: f(bad, x, weight, mean, rstd), x)
    for match, args in [
        ("dy must have shape", (dy[1:], x, weight, mean, rstd)),
        ("weight must have shape", (dy, x, weight[1:], mean, rstd)),
        ("mean must have shape", (dy, x, weight, mean[1:], rstd)),
        ("rstd must have shape", (dy, x, weight, mean, rstd[1:])),
        ("at least 2 dimensions", (dy[0], x[0], weight, mean, rstd)),
    ]:
        with pytest.raises(ValueError, match=rf"\[batch_norm_backward\] .*{match}"):
            f(*args)
    with pytest.raises(TypeError, match="rstd is float32"):
        f(dy, x, weight, mean, rstd.astype(np.float32))
