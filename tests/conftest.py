from collections.abc import Iterator

import numpy as np
import pytest

import fastdl
from tests.cuda import CUDA, has_cuda, on_cuda
from tests.testing import DTYPES, HALF_DTYPES


@pytest.fixture(params=[*fastdl.supported_isas(), *([CUDA] if has_cuda() else [])])
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """Runs a test once for every instruction set this machine has, and on its GPU."""
    if request.param == CUDA:
        with on_cuda():
            yield request.param
        return
    before = fastdl.get_isa()
    fastdl.set_isa(request.param)
    yield request.param
    fastdl.set_isa(before)


@pytest.fixture(params=DTYPES, ids=lambda dtype: np.dtype(dtype).name)
def dtype(request: pytest.FixtureRequest) -> type:
    return request.param


@pytest.fixture(params=HALF_DTYPES, ids=lambda dtype: np.dtype(dtype).name)
def half(request: pytest.FixtureRequest) -> type:
    return request.param


@pytest.fixture
def torch() -> object:
    return pytest.importorskip("torch", reason="PyTorch is not installed")
