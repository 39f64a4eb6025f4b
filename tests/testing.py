"""What the tests of all ops share: dtypes, tolerances, awkward arrays and the checks on them."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import ml_dtypes
import numpy as np

import fastdl
from tests.cuda import is_on_cuda

DTYPES = (np.float32, np.float64)
HALF_DTYPES = (ml_dtypes.bfloat16, np.float16)
THREADS = (1, 2, 3, 8)

# Error allowed, in eps of the dtype times the largest value of the reference.
TOLERANCE = {np.dtype(np.float32): 8.0, np.dtype(np.float64): 8.0}

# Lanes of float32: 1 (scalar), 4 (NEON), 8 (AVX2), 16 (AVX-512). Every length around them, twice
# them, a prime and one that needs several blocks.
LENGTHS = (0, 1, 3, 4, 5, 7, 8, 9, 15, 16, 17, 19, 31, 33, 35, 97, 1031)

# What `activation=` of linear and conv2d stands for: in our ops, and in torch's, which are given
# torch.nn.functional.
ACTIVATIONS: dict[str | None, Callable[[Any], Any]] = {
    None: lambda z: z,
    "relu": fastdl.relu,
    "gelu": fastdl.gelu,
    "gelu_tanh": lambda z: fastdl.gelu(z, "tanh"),
}
TORCH_ACTIVATIONS: dict[str | None, Callable[[Any, Any], Any]] = {
    None: lambda functional, z: z,
    "relu": lambda functional, z: functional.relu(z),
    "gelu": lambda functional, z: functional.gelu(z),
    "gelu_tanh": lambda functional, z: functional.gelu(z, approximate="tanh"),
}


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def random(shape: Any, dtype: Any = np.float64, seed: int = 0) -> np.ndarray:
    """Normal random numbers: the same for every dtype, up to rounding."""
    return np.asarray(rng(seed).standard_normal(shape)).astype(dtype)


def is_half(x: Any) -> bool:
    return isinstance(x, np.ndarray) and x.dtype in HALF_DTYPES


def widened(x: Any, dtype: Any = np.float64) -> Any:
    """Copies of the floats in x, an array or a list of arguments, in a wider dtype."""
    if isinstance(x, (list, tuple)):
        return [widened(item, dtype) for item in x]
    floating = is_half(x) or (isinstance(x, np.ndarray) and x.dtype.kind == "f")
    return x.astype(dtype) if floating else x


def to_torch(torch: Any, x: Any) -> Any:
    """A tensor with the values of an array, which may be bfloat16."""
    if not isinstance(x, np.ndarray):
        return x
    return (
        torch.tensor(widened(x, np.float32)).to(getattr(torch, x.dtype.name))
        if is_half(x)
        else torch.tensor(x)
    )


def assert_close(
    actual: np.ndarray, reference: np.ndarray, *, scale: float | None = None, factor: float = 1.0
) -> None:
    """|actual - reference| <= factor * TOLERANCE * eps * scale, and NaN and inf at the same places.

    scale is max |reference| unless given; give a reason beside a scale or a factor of your own.
    A 16-bit result may be one rounding away from a float32 result that keeps the rule.
    """
    actual, reference = np.asarray(actual), np.asarray(reference, np.float64)
    assert actual.shape == reference.shape
    finite = np.isfinite(reference)
    np.testing.assert_array_equal(actual[~finite], reference[~finite])
    assert np.isfinite(actual[finite]).all()
    if scale is None:
        scale = float(np.max(np.abs(reference[finite]), initial=0.0))
    errors = np.abs(actual[finite].astype(np.float64) - reference[finite])
    computed = actual.dtype
    if actual.dtype in HALF_DTYPES:
        errors = errors - half_ulp(reference[finite], actual.dtype)
        computed = np.dtype(np.float32)
    eps = float(np.finfo(computed).eps)
    error = np.max(errors, initial=0.0)
    bound = factor * TOLERANCE[computed] * eps * scale
    assert error <= bound, (
        f"error {error:.3g} is {error / (eps * scale):.3g} eps of scale {scale:.3g}"
    )


def half_ulp(x: np.ndarray, dtype: Any) -> np.ndarray:
    """Half the distance of the 16-bit numbers around x: the error of one rounding."""
    info = ml_dtypes.finfo(dtype)
    _, exponent = np.frexp(np.maximum(np.abs(x), float(info.smallest_normal)))
    return np.ldexp(0.5, exponent - 1 - info.nmant)


def assert_same_bits(a: Any, b: Any) -> None:
    """Equal bit for bit, in tuples too; every NaN counts as equal to every other."""
    if isinstance(a, (tuple, list)):
        assert len(a) == len(b)
        for one, other in zip(a, b, strict=True):
            assert_same_bits(one, other)
    elif a is None:
        assert b is None
    else:
        a, b = np.asarray(a), np.asarray(b)
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)
        if a.dtype.kind == "f" or a.dtype in HALF_DTYPES:
            nan = np.isnan(a)
            np.testing.assert_array_equal(np.signbit(a[~nan]), np.signbit(b[~nan]))


def assert_kernel(name: str, *, end: str = "") -> None:
    """The last op's kernel begins (and ends) with such a name, if it was one of the CPU."""
    kernel = fastdl._core.last_trace()["kernel"]
    assert is_on_cuda() or (kernel.startswith(name) and kernel.endswith(end)), kernel


@contextmanager
def running_isa(name: str) -> Iterator[None]:
    before = fastdl.get_isa()
    fastdl.set_isa(name)
    try:
        yield
    finally:
        fastdl.set_isa(before)


@contextmanager
def num_threads(n: int) -> Iterator[None]:
    before = fastdl.get_num_threads()
    fastdl.set_num_threads(n)
    try:
        yield
    finally:
        fastdl.set_num_threads(before)


def assert_same_bits_for_any_threads(f: Callable[[], Any]) -> None:
    """f() returns an array or a tuple of them; large enough to be cut into several blocks."""
    with num_threads(THREADS[0]):
        expected = f()
    for n in THREADS[1:]:
        with num_threads(n):
            assert_same_bits(f(), expected)


def layouts(x: np.ndarray) -> dict[str, np.ndarray]:
    """The values of x in every layout NumPy has, by name."""
    x = np.asarray(x)
    wide = np.zeros((*x.shape, 3), x.dtype)
    wide[..., 1] = x
    flipped = x[(slice(None, None, -1),) * x.ndim].copy()
    misaligned = np.zeros(x.nbytes + 1, np.uint8)[1:].view(x.dtype).reshape(x.shape)
    misaligned[...] = x
    read_only = x.copy()
    read_only.flags.writeable = False
    return {
        "contiguous": x.copy(),
        "sliced": wide[..., 1],
        "transposed": np.asfortranarray(x),
        "negative strides": flipped[(slice(None, None, -1),) * x.ndim],
        "misaligned": misaligned,
        "read-only": read_only,
        "byte-swapped": x.astype(x.dtype.newbyteorder()),
    }


def broadcast_of(x: np.ndarray, axis: int = 0) -> np.ndarray:
    """x with one slice of `axis` repeated by stride 0."""
    return np.broadcast_to(np.take(x, [0], axis), x.shape)


class Guarded:
    """An output between sentinels: `array` to write into, `check()` that no more was written."""

    _sentinel = 768.0  # exact in every dtype

    def __init__(self, shape: tuple[int, ...], dtype: Any) -> None:
        size = int(np.prod(shape))
        self._margin = 64
        self._whole = np.full(size + 2 * self._margin, self._sentinel, dtype)
        self.array = self._whole[self._margin : self._margin + size].reshape(shape)

    def check(self) -> None:
        assert (self._whole[: self._margin] == self._sentinel).all()
        assert (self._whole[self._whole.size - self._margin :] == self._sentinel).all()


def assert_rejects_bad_arrays(f: Callable[[Any], Any], x: np.ndarray) -> None:
    """f(x) takes float32 and float64 arrays only; others get a TypeError that says what to do."""
    import pytest

    bad = {
        "list": x.tolist(),
        "object": x.astype(object),
        "string": x.astype(str),
        "complex": x.astype(np.complex64),
        "int": x.astype(np.int64),
        "longdouble": x.astype(np.longdouble),
        "masked": np.ma.masked_array(x, mask=False),
        "None": None,
    }
    for name, value in bad.items():
        with pytest.raises(TypeError, match=r"^\[\w+\] .*(must be|is a masked array)"):
            pytest.fail(f"{name} was accepted: {f(value)}")
