import numpy as np
import pytest

import fastdl
from fastdl import reference
from tests.cuda import has_cuda, on_cuda
from tests.testing import (
    LENGTHS,
    Guarded,
    assert_close,
    assert_same_bits,
    assert_same_bits_for_any_threads,
    layouts,
    random,
)

OPTIONS = [
    pytest.param({}, id="defaults"),
    pytest.param({"weight_decay": 0.1}, id="coupled"),
    pytest.param({"weight_decay": 0.1, "decoupled": True}, id="decoupled"),
    pytest.param({"weight_decay": 0.1, "maximize": True}, id="maximize"),
    pytest.param({"lr": 0.1, "eps": 0.5, "beta1": 0.0, "beta2": 0.7}, id="large eps"),
]
# many small arrays in one block, and large ones over several
SHAPES = [(), *[(n,) for n in LENGTHS], (3, 5, 7), (2, 40009), (0, 4)]
STATES = ("exp_avgs", "exp_avg_sqs", "max_exp_avg_sqs")


def problem(shapes, dtype, amsgrad):
    """params, and the state a few steps in; v is positive."""
    arrays = [[random(shape, dtype, seed=k) for shape in shapes] for k in range(4)]
    params, m, v, v_max = arrays
    v, v_max = ([np.square(a, out=a) for a in list_] for list_ in (v, v_max))
    return [params, m, v, v_max if amsgrad else None]


def copies(lists):
    return [None if arrays is None else [a.copy() for a in arrays] for arrays in lists]


def step(f, lists, grads, **options):
    params, m, v, v_max = lists
    assert f(params, grads, m, v, v_max, **options) is None


@pytest.mark.parametrize("amsgrad", [False, True], ids=["", "amsgrad"])
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("count", [1, 1000])
def test_step(isa, dtype, options, amsgrad, count):
    lists = problem(SHAPES, dtype, amsgrad)
    expected = [None if a is None else [x.astype(np.float64) for x in a] for a in lists]
    grads = [random(shape, dtype, seed=9) for shape in SHAPES]
    step(fastdl.adam_step, lists, grads, step=count, **options)
    step(reference.adam_step, expected, grads, step=count, **options)
    for arrays, references in zip(lists, expected, strict=True):
        for array, value in zip(arrays or (), references or (), strict=True):
            assert_close(array, value)


@pytest.mark.parametrize("amsgrad", [False, True], ids=["", "amsgrad"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e20, 1e-45, 0.0, -0.0], ids=str)
@pytest.mark.parametrize("name", ["grads", "params", *STATES])
def test_special_values_as_torch(torch, isa, name, value, amsgrad):
    if name == "max_exp_avg_sqs" and not amsgrad:
        return
    # 48: torch's own tail forgets a NaN in max_exp_avg_sqs, so torch gets no tail
    lists = dict(zip(["params", *STATES], problem([(48,)], np.float32, amsgrad), strict=True))
    lists["grads"] = [random(48, np.float32, seed=9)]
    lists[name][0][[3, 36]] = value  # in the body and in the tail
    tensors = {k: torch.tensor(v[0].copy()) for k, v in lists.items() if v is not None}
    lists = {k: v and [v[0][:37]] for k, v in lists.items()}
    maxima = [tensors["max_exp_avg_sqs"]] if amsgrad else []
    for count in (3, 4):
        fastdl.adam_step(**lists, step=count)
        torch._fused_adam_(
            *([tensors[k]] for k in ("params", "grads", "exp_avgs", "exp_avg_sqs")),
            maxima,
            [torch.tensor(float(count))],
            **{"lr": 1e-3, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "weight_decay": 0.0},
            **{"amsgrad": amsgrad, "maximize": False},
        )
    # torch's m + (1 - beta1) * (g - m) makes NaN of an infinite m; ours, the reference's, does not
    if not (np.isinf(value) and name in ("grads", "exp_avgs")):
        expected = tensors["params"][:37]
        np.testing.assert_allclose(lists["params"][0], expected, rtol=1e-5, atol=1e-7)


def test_more_arrays_than_a_launch_takes(isa, dtype):
    whole, grads = problem([(1000, 5)], dtype, True), random((1000, 5), dtype, seed=9)
    rows = [[row.copy() for row in arrays[0]] for arrays in whole]
    step(fastdl.adam_step, rows, list(grads), step=3)
    step(fastdl.adam_step, whole, [grads], step=3)
    for of_rows, of_whole in zip(rows, whole, strict=True):
        assert_close(np.stack(of_rows), of_whole[0])


def test_steps_of_each():
    shapes = [(3,), (40009,), (5, 2)]
    lists, grads = problem(shapes, np.float32, True), [random(s, np.float32) for s in shapes]
    expected = copies(lists)
    step(fastdl.adam_step, lists, grads, step=[1, 7, 3])
    for i, count in enumerate([1, 7, 3]):
        one = [arrays[i : i + 1] for arrays in expected]
        step(fastdl.adam_step, one, grads[i : i + 1], step=count)
    assert_same_bits(lists, expected)


def counted_step(lists, grads, counts, **options):
    """As PyTorch's optimisers count: in arrays."""
    settings = {"lr": 1e-3, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "weight_decay": 0.0}
    names = ("params", *STATES)
    fastdl._core.adam_step(
        **dict(zip(names, lists, strict=True)),
        **{**settings, "step": 1, "decoupled": False, "maximize": False, **options},
        grads=grads, counts=counts,
    )  # fmt: skip


def test_counts_in_arrays_are_raised():
    shapes = [(3,), (5, 2)]
    lists, grads = problem(shapes, np.float32, True), [random(s, np.float32) for s in shapes]
    expected = copies(lists)
    counts = [np.array(0, np.float32), np.array([6.0])]
    counted_step(lists, grads, counts)
    step(fastdl.adam_step, expected, grads, step=[1, 7])
    assert_same_bits(lists, expected)
    assert [count.item() for count in counts] == [1.0, 7.0]
    counts = [np.array(3, np.float32), np.array([0.0])]
    for bad, error in (
        (counts[:1], "counts holds 1 arrays, params holds 2"),
        ([counts[0], np.array([-1.0])], "step counts from 1, got 0"),
        ([counts[0], np.zeros(2)], r"counts\[1\] must have one element, got shape \(2,\)"),
        ([counts[0], np.zeros(1, np.float16)], r"counts\[1\] must be float32 or float64"),
        ([counts[0], counts[0]], r"counts\[0\] shares memory with counts\[1\]"),
    ):
        with pytest.raises((TypeError, ValueError), match=rf"^\[adam_step\] {error}"):
            counted_step(lists, grads, bad)
    assert counts[0] == 3
    assert_same_bits(lists, expected)


@pytest.mark.skipif(not has_cuda(), reason="no GPU and no emulator")
@pytest.mark.parametrize("amsgrad", [False, True], ids=["", "amsgrad"])
@pytest.mark.parametrize("found_inf", [0.0, 1.0])
def test_a_device_counts_and_unscales_cuda(found_inf, amsgrad):
    shapes = [(3,), (5, 2), (0,), (20011,), (7,)]
    lists, grads = problem(shapes, np.float32, amsgrad), [random(s, np.float32) for s in shapes]
    for arrays in filter(None, [grads, *lists]):
        arrays[1] = arrays[1].astype(np.float64)
    lists[0][4] = lists[0][4].astype(np.float16)  # the others stay float32 beside it
    counts = [np.array(count, np.float32) for count in (0, 6, 0, 2, 1)]
    counts[3] = counts[3].astype(np.float64)
    expected, scaled = copies(lists), copies([grads])[0]
    for grad in scaled:
        grad *= 1024
    before = copies([*lists, scaled, counts])
    with on_cuda():
        counted_step(
            lists, scaled, counts, decoupled=True, weight_decay=0.1,
            lr=0.0, device_lr=np.array(0.05, np.float32),
            found_inf=np.array([found_inf], np.float32), grad_scale=np.array(1024, np.float32),
        )  # fmt: skip
        lr = float(np.float32(0.05))
        step(
            fastdl.adam_step, expected, grads, step=[1, 7, 1, 3, 2],
            lr=lr, decoupled=True, weight_decay=0.1,
        )  # fmt: skip
    if found_inf:
        assert_same_bits([*lists, scaled, counts], before)
        return
    for arrays, references in zip(lists, expected, strict=True):
        for array, value in zip(arrays or (), references or (), strict=True):
            assert_close(array, value)
    assert_same_bits(scaled, grads)
    assert [count.item() for count in counts] == [1.0, 7.0, 1.0, 3.0, 2.0]


@pytest.mark.skipif(not has_cuda(), reason="no GPU and no emulator")
def test_what_lies_on_a_device_is_checked_cuda():
    lists, grads = problem([(3,)], np.float32, False), [random((3,), np.float32)]
    before = copies(lists)
    one = np.array(1, np.float32)
    with on_cuda():
        for bad, error in (
            ({"counts": []}, "counts holds 0 arrays, params holds 1"),
            ({"found_inf": np.zeros(2, np.float32)}, "found_inf must have one element"),
            ({"grad_scale": np.zeros(1)}, "grad_scale must be float32, got float64"),
            ({"device_lr": np.zeros(1, np.int64)}, "device_lr must be a float16"),
        ):
            with pytest.raises((TypeError, ValueError), match=rf"^\[adam_step\] {error}"):
                counted_step(lists, grads, **{"counts": [one], **bad})
        for name in ("device_lr", "found_inf", "grad_scale"):
            with pytest.raises(ValueError, match="need counts that lie on the device"):
                counted_step(lists, grads, counts=None, **{name: one.copy()})
    with pytest.raises(ValueError, match=r"^\[adam_step\] found_inf is for arrays of a device"):
        counted_step(lists, grads, [one], found_inf=one.copy())
    assert_same_bits(lists, before)


def test_float32_and_float64_in_one_call():
    lists, grads = problem([(37,)] * 3, np.float64, False), [random(37, seed=k) for k in range(3)]
    expected = copies(lists)
    for arrays in [*lists[:3], grads]:
        arrays[1] = arrays[1].astype(np.float32)
    for arrays in expected[:3]:
        arrays[1] = arrays[1].astype(np.float32)
    step(fastdl.adam_step, lists, grads, step=2)
    for i in range(3):
        one = [arrays and arrays[i : i + 1] for arrays in expected]
        step(fastdl.adam_step, one, grads[i : i + 1], step=2)
    assert_same_bits(lists, expected)


def test_same_bits_for_any_threads(isa, dtype):
    shapes = [(n % 97,) for n in range(300)] + [(50021,), (3,)]
    grads = [random(shape, dtype, seed=9) for shape in shapes]

    def run():
        lists = problem(shapes, dtype, True)
        step(fastdl.adam_step, lists, grads, step=3, weight_decay=0.1)
        return lists

    assert_same_bits_for_any_threads(run)


def test_any_layout(dtype):
    shape = (5, 6, 7)
    expected, grads = problem([shape], dtype, True), [random(shape, dtype, seed=9)]
    originals = copies(expected)
    step(fastdl.adam_step, expected, grads, step=3)
    for name in layouts(grads[0]):
        # a read-only array can be a gradient only
        lists = [
            [layouts(arrays[0])["contiguous" if name == "read-only" else name]]
            for arrays in originals
        ]
        step(fastdl.adam_step, lists, [layouts(grads[0])[name]], step=3)
        for arrays, values in zip(lists, expected, strict=True):
            np.testing.assert_array_equal(arrays[0], values[0])


def test_interleaved_arrays_do_not_overlap():
    columns = random((9, 4))
    lists = [[columns[:, i]] for i in range(3)]
    expected = [[a[0].copy()] for a in lists]
    np.square(columns[:, 2], out=columns[:, 2])
    np.square(expected[2][0], out=expected[2][0])
    fastdl.adam_step(lists[0], [columns[:, 3]], *lists[1:], step=1)
    fastdl.adam_step(expected[0], [columns[:, 3].copy()], *expected[1:], step=1)
    assert_same_bits(lists, expected)


def test_writes_nothing_else(isa, dtype):
    guarded = [[Guarded((n,), dtype) for n in (5, 19)] for _ in range(3)]
    for arrays in guarded:
        for g in arrays:
            g.array[...] = 1
    grads = [np.ones(n, dtype) for n in (5, 19)]
    fastdl.adam_step(
        [g.array for g in guarded[0]], grads, *[[g.array for g in a] for a in guarded[1:]], step=1
    )
    for g in [*guarded[0], *guarded[1], *guarded[2]]:
        g.check()


def test_no_parameters():
    fastdl.adam_step([], [], [], [], step=1)
    fastdl.adam_step((), (), (), (), step=[])


def test_one_gradient_for_two_parameters():
    params = [np.ones(3), np.ones(3)]
    grad = np.ones(3)
    fastdl.adam_step(
        params, [grad, grad], [np.zeros(3) for _ in "ab"], [np.zeros(3) for _ in "ab"], step=1
    )
    assert_same_bits(*params)


READ_ONLY = np.zeros((2, 3))
READ_ONLY.flags.writeable = False


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"params": np.ones((2, 3))}, TypeError, "params must be a list of arrays, got ndarray"),
        ({"params": None}, TypeError, "params must be a list of arrays, got NoneType"),
        ({"params": [1.0]}, TypeError, r"params\[0\] must be a NumPy array, got float"),
        ({"grads": [[1.0]]}, TypeError, r"grads\[0\] must be a NumPy array, got list"),
        ({"grads": []}, ValueError, "grads holds 0 arrays, params holds 1"),
        ({"exp_avgs": [np.ones((2, 4))]}, ValueError, r"exp_avgs\[0\] must have shape \(2, 3\)"),
        ({"exp_avg_sqs": [READ_ONLY]}, ValueError, r"exp_avg_sqs\[0\] is read-only"),
        ({"max_exp_avg_sqs": []}, ValueError, "max_exp_avg_sqs holds 0 arrays"),
        ({"grads": [np.ones((2, 3), np.float32)]}, TypeError, r"grads\[0\] is float32, params"),
        ({"grads": [np.ones((2, 3), int)]}, TypeError, r"grads\[0\] must be a float16, bfloat16"),
        ({"step": 0}, ValueError, "step counts from 1, got 0"),
        ({"step": [1, 2]}, ValueError, "step holds 2 counts, params holds 1"),
        ({"lr": -1.0}, ValueError, "lr must be at least 0, got -1"),
        ({"lr": np.nan}, ValueError, "lr must be at least 0, got nan"),
        ({"beta1": 1.0}, ValueError, r"beta1 must be in \[0, 1\), got 1"),
        ({"beta2": -0.5}, ValueError, r"beta2 must be in \[0, 1\), got -0.5"),
        ({"eps": -1e-8}, ValueError, "eps must be at least 0"),
        ({"weight_decay": -0.1}, ValueError, "weight_decay must be at least 0"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_errors_change_nothing(change, error, message):
    arguments = {name: [np.ones((2, 3))] for name in ("params", "grads", *STATES)}
    arguments |= {"step": 1, **change}
    lists = [
        a for a in arguments.values() if isinstance(a, list) and a and isinstance(a[0], np.ndarray)
    ]
    before = copies(lists)
    with pytest.raises(error, match=rf"^\[adam_step\] {message}"):
        fastdl.adam_step(**arguments)
    assert_same_bits(lists, before)


def test_overlap_is_refused():
    buffer = np.ones(100)
    names = ("params", "grads", "exp_avgs", "exp_avg_sqs")
    lists = {name: [np.ones(20) for _ in range(50)] for name in names}
    for first, i, second, j in [
        ("params", 0, "params", 49),
        ("params", 7, "grads", 8),
        ("exp_avgs", 3, "exp_avg_sqs", 3),
        ("grads", 1, "exp_avgs", 2),
    ]:
        bad = {name: list(arrays) for name, arrays in lists.items()}
        bad[first][i], bad[second][j] = buffer[:20], buffer[19:39]
        pair = rf"{first}\[{i}\] .*{second}\[{j}\]|{second}\[{j}\] .*{first}\[{i}\]"
        with pytest.raises(
            ValueError, match=rf"\[adam_step\] ({pair.replace('.*', 'shares memory with ')})"
        ):
            fastdl.adam_step(**bad, step=1)
        assert (buffer == 1).all()
