"""No argument, however wrong, ends the process or is answered by anything but a clear error."""

import inspect

import numpy as np
import pytest

import fastdl
from tests.samples import SAMPLES
from tests.testing import random

VALUES = [
    *(-1, 0, 1, 2**31, 2**62, 2**63 - 1, -(2**63), 2**70),
    *(0.5, -1.0, np.nan, np.inf, -np.inf),
    *("", "same", None, True, (), (0, 0), (-1, 2), (2**40, 2**40), (1, 2, 3), [], {}, object()),
]
SHAPES = [(), (0,), (1,), (7,), (0, 0), (3, 0), (2, 6), (2, 6, 0, 5), (0, 6, 13, 17), (1,) * 6]
# What is wrong with a value is said in these ways; MemoryError is left for results that are lawful
# but do not fit.
CLEAR = (ValueError, TypeError, MemoryError)

each_op = pytest.mark.parametrize("op", sorted(SAMPLES))


def attempt(op, arguments):
    """Calls op, forward and backward, and lets it refuse."""
    try:
        y, pullback = fastdl.vjp(getattr(fastdl, op), **arguments)
        first = y[0] if isinstance(y, tuple) else y
        pullback(np.ones_like(first))
    except CLEAR as error:
        assert str(error) or isinstance(error, MemoryError)


def bound_arguments(op, dtype=np.float32):
    args, kwargs = SAMPLES[op](dtype)
    return inspect.signature(getattr(fastdl, op)).bind(*args, **kwargs).arguments


@pytest.mark.filterwarnings("ignore")
@each_op
def test_any_value_for_any_parameter(op):
    for name in inspect.signature(getattr(fastdl, op)).parameters:
        for value in VALUES:
            attempt(op, {**bound_arguments(op), name: value})


@pytest.mark.filterwarnings("ignore")
@each_op
def test_any_shape_for_any_array(op, isa):
    for name, argument in bound_arguments(op).items():
        if isinstance(argument, np.ndarray):
            for shape in SHAPES:
                value = random(shape, argument.dtype) if argument.dtype != np.int64 else None
                if value is None:
                    value = np.zeros(shape, np.int64)
                attempt(op, {**bound_arguments(op), name: value})


@each_op
def test_any_shape_for_dy(op, isa):
    y, pullback = fastdl.vjp(getattr(fastdl, op), **bound_arguments(op))
    for shape in SHAPES:
        if shape != np.shape(y):
            with pytest.raises(ValueError, match=r"\[\w+\] dy "):
                pullback(random(shape, np.float32))
    with pytest.raises(TypeError, match=r"\[\w+\] dy "):
        pullback(np.ones(np.shape(y), np.int64))


@each_op
def test_targets_out_of_range(op):
    if "target" not in inspect.signature(getattr(fastdl, op)).parameters:
        return
    for wrong in (-1, 10, 2**31, -(2**63)):
        arguments = bound_arguments(op)
        arguments["target"] = arguments["target"].copy()
        arguments["target"][-1] = wrong
        with pytest.raises(ValueError, match=rf"\[{op}\] .*{wrong}"):
            getattr(fastdl, op)(**arguments)
