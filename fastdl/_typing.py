from typing import Any, TypeAlias

from numpy.typing import DTypeLike, NDArray

# A NumPy array; which dtypes an op takes, its docstring says and the native library checks.
Array: TypeAlias = NDArray[Any]
RngState: TypeAlias = tuple[int, int]  # seed and offset of the Philox counter

__all__ = ["Array", "DTypeLike", "RngState"]
