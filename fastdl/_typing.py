from typing import Any, TypeAlias

from numpy.typing import DTypeLike, NDArray

# A NumPy array; which dtypes an op takes, its docstring says and the native library checks.
Array: TypeAlias = NDArray[Any]
# By their names, as only ml_dtypes knows bfloat16.
FLOAT_DTYPES = ("float16", "bfloat16", "float32", "float64")
RngState: TypeAlias = tuple[int, int]  # seed and offset of the Philox counter

__all__ = ["FLOAT_DTYPES", "Array", "DTypeLike", "RngState"]
