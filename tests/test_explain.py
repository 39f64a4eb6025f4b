import numpy as np
import pytest

import fastdl
from tests.testing import num_threads, random


def test_fields(cpu_isa):
    x = random((64, 100), np.float32)
    with num_threads(1):
        found = fastdl.explain(fastdl.softmax, x, dim=1)
    assert (found.op, found.isa, found.threads) == ("softmax", cpu_isa, 1)
    assert found.bytes == 2 * x.nbytes
    assert found.flops > 0 and found.seconds > 0 and found.limit > 0
    assert found.roofline_share == found.limit / found.seconds
    text = str(found)
    assert found.kernel in text and "GB/s" in text and "roofline" in text


def test_kernel_is_the_one_chosen():
    x = random((4, 5, 6))
    assert fastdl.explain("softmax", x, 2).kernel.startswith("rows")
    assert fastdl.explain("softmax", x, 1).kernel.startswith("columns")


def test_arguments_are_left_alone():
    x, out = random((4, 5)), np.zeros((4, 5))
    before = x.copy()
    fastdl.explain("softmax", x, 0, out=out)
    np.testing.assert_array_equal(x, before)
    assert not out.any()


def test_random_state_is_left_alone():
    before = fastdl.get_rng_state()
    assert fastdl.explain("dropout", np.ones(10)).kernel.startswith("philox")
    assert fastdl.get_rng_state() == before


def test_optimiser_step():
    params, grads, moments = [np.ones(5)], [np.ones(5)], [[np.zeros(5)], [np.zeros(5)]]
    assert fastdl.explain("adam_step", params, grads, *moments, step=1).kernel
    np.testing.assert_array_equal(params[0], np.ones(5))


def test_errors():
    with pytest.raises(ValueError, match=r"\[explain\] fastdl has no function 'sofmax'"):
        fastdl.explain("sofmax", np.zeros(3))
    with pytest.raises(ValueError, match="dim 5 is out of range"):
        fastdl.explain("softmax", np.zeros(3), 5)


def test_peaks_are_those_of_a_computer(isa, dtype):
    flops, bytes_ = fastdl._core.measure_peaks(np.dtype(dtype).name)
    assert 1e8 < flops < 1e14
    assert 1e8 < bytes_ < 1e13
