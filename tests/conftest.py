from collections.abc import Iterator
from importlib.util import find_spec

import numpy as np
import pytest

import fastdl
from tests.cuda import CUDA, has_cuda, on_cuda
from tests.testing import DTYPES, HALF_DTYPES, running_isa

if has_cuda() and find_spec("torch"):
    import torch.backends.cudnn

    # PyTorch's default for convolutions on a device is TF32: tests of that turn it on.
    torch.backends.cudnn.allow_tf32 = False


@pytest.fixture(params=fastdl.supported_isas())
def cpu_isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """Runs a test once for every instruction set this machine has."""
    with running_isa(request.param):
        yield request.param


@pytest.fixture(params=[*fastdl.supported_isas(), *([CUDA] if has_cuda() else [])])
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """The same, and on the machine's GPU."""
    with on_cuda() if request.param == CUDA else running_isa(request.param):
        yield request.param


@pytest.fixture(params=DTYPES, ids=lambda dtype: np.dtype(dtype).name)
def dtype(request: pytest.FixtureRequest) -> type:
    return request.param


@pytest.fixture(params=HALF_DTYPES, ids=lambda dtype: np.dtype(dtype).name)
def half(request: pytest.FixtureRequest) -> type:
    return request.param


@pytest.fixture(name="torch")
def torch_module() -> object:
    return pytest.importorskip("torch", reason="PyTorch is not installed")
