"""FASTDL_SHADOW=0.01: one call in a hundred is computed again in float64, and compared.

When the variable is set as fastdl is imported, every function of the native module that computes
gets a wrapper; when it is not, nothing is wrapped, and nothing is paid. Arrays and tensors, results
and gradients, layers of patched and compiled models and steps of optimisers all pass through these
functions, and :mod:`fastdl.reference` has one of the same name and arguments for each of them.

A result may be off by 16 eps of the largest true value (2 eps for 16-bit types), and by 16 times
what a change of the arguments in their last bit makes, at random or all of them away from 0: the
rule of the tests, without each test's knowledge of its data. Where all true values are 0, the
arguments' largest stands for them. Which calls are checked follows from their order alone. Elements
whose true value is not finite or too large for the dtype, what goes with an empty result, and calls
whose reference does not fit into memory are not judged.
"""

import copy
import functools
import inspect
import json
import math
import random
import re
import tempfile
import zipfile
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from fastdl import _core, reference

_FACTOR = 16.0
_HALF_EPS = {"bfloat16": 2.0**-7, "float16": 2.0**-10}
_LARGEST = {"bfloat16": (2 - 2.0**-7) * 2.0**127}
_SHARED = ("isa", "precision", "num_threads")  # what a replay sets as it was


class ShadowError(RuntimeError):
    """A result was wrong; the message names the file that replays the call."""


def install(share: str) -> None:
    """Let that share of all calls be checked; for modules that are imported after it."""
    try:
        limit = float(share)
    except ValueError:
        limit = math.nan
    if not 0 <= limit <= 1:
        raise ValueError(f"[FASTDL_SHADOW] expected a share between 0 and 1, got {share!r}")
    numbers = random.Random(0)  # of one process: a call of its random() is atomic
    for name in _MEANT:
        function = _checked(name, getattr(_core, name), lambda: numbers.random() < limit)
        setattr(_core, name, function)


def replay(path: str) -> str | None:
    """Make the call of a file again: what is wrong with it, or None if nothing is.

    Raises
    ------
    OSError, ValueError : there is no such file, or FASTDL_SHADOW did not write it.
    """
    if not zipfile.is_zipfile(path):
        open(path).close()  # raises if there is no such file
        raise ValueError(f"[replay] {path} is no .npz file")
    with np.load(path) as file:
        if "call" not in file:
            raise ValueError(f"[replay] {path} was not written by FASTDL_SHADOW")
        call = json.loads(str(file["call"]))
        arguments = _decoded(call["arguments"], file)
    before = {name: getattr(_core, f"get_{name}")() for name in _SHARED}
    try:
        for name in _SHARED:
            if name != "isa" or call[name] in _core.supported_isas():
                getattr(_core, f"set_{name}")(call[name])
        truth = _copied(arguments)
        function = getattr(_core, call["function"])
        result = getattr(function, "__wrapped__", function)(**arguments)
        return _fault(call["function"], truth, arguments, result)
    finally:
        for name, value in before.items():
            getattr(_core, f"set_{name}")(value)


def _checked(
    name: str, function: Callable[..., Any], chosen: Callable[[], bool]
) -> Callable[..., Any]:
    names = re.findall(r"(\w+): ", (function.__doc__ or "").partition("\n")[0])

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        if not chosen() or _is_on_device([args, kwargs]):
            return function(*args, **kwargs)
        given = {**dict(zip(names, args, strict=False)), **kwargs}
        dtypes = _dtypes(given)
        before = _copied(given)  # the call may write into its arguments
        result = function(*args, **kwargs)
        fault = _fault(name, before, given, result)
        if fault:
            kernel = _core.last_trace()["kernel"]
            path = _save(name, kernel, before, dtypes)
            raise ShadowError(
                f"[{name}] {fault}, by the kernel {kernel!r}; to make this call again: "
                f"python -m fastdl replay {path}"
            )
        return result

    return run


# Arguments: float64 copies, in which references may write; the file of a call.


def _is_array(x: Any) -> bool:
    number = isinstance(x, np.generic) and x.dtype.kind in "fV"  # a loss is one, not an array
    return number or isinstance(x, np.ndarray) or hasattr(x, "detach")


def _is_on_device(x: Any) -> bool:
    if isinstance(x, (list, tuple)):
        return any(_is_on_device(item) for item in x)
    if isinstance(x, dict):
        return _is_on_device(list(x.values()))
    return type(x).__module__ == "cupy" or bool(getattr(x, "is_cuda", False))


def _map(function: Callable[[Any], Any], x: Any) -> Any:
    """x, a tree of dicts, lists and tuples, with a function applied to its arrays and tensors."""
    if isinstance(x, dict):
        return {name: _map(function, value) for name, value in x.items() if name != "out"}
    if isinstance(x, (list, tuple)):
        return [_map(function, item) for item in x]
    if _is_array(x):
        return function(x)
    return x.item() if isinstance(x, np.generic) else x


def _copied(x: Any) -> Any:
    return _map(_wide, x)


@np.errstate(all="ignore")  # a signalling NaN
def _wide(x: Any) -> np.ndarray[Any, Any]:
    """A copy: floats as float64, the rest as it is."""
    if hasattr(x, "detach"):  # a tensor
        x = x.detach()
        x = (x.double() if x.is_floating_point() else x).numpy()
    return np.array(x, np.float64 if x.dtype.kind in "fV" else x.dtype)


def _dtype(x: Any) -> str:
    name: str = getattr(x.dtype, "name", "") or str(x.dtype).removeprefix("torch.")
    return name


def _dtypes(x: Any) -> Any:
    return _map(_dtype, x)


def _save(name: str, kernel: str, arguments: Any, dtypes: Any) -> str:
    arrays: dict[str, Any] = {}
    call = {
        "function": name,
        "kernel": kernel,
        "arguments": _encoded(arguments, dtypes, arrays),
        **{setting: getattr(_core, f"get_{setting}")() for setting in _SHARED},
    }
    handle, path = tempfile.mkstemp(prefix=f"fastdl-{name}-", suffix=".npz")
    with open(handle, "wb") as file:
        np.savez_compressed(file, call=json.dumps(call), **arrays)
    return path


def _encoded(x: Any, dtypes: Any, arrays: dict[str, Any]) -> Any:
    """x with its arrays, which go into ``arrays``, replaced by their names there."""
    if isinstance(x, dict):
        return {name: _encoded(value, dtypes[name], arrays) for name, value in x.items()}
    if isinstance(x, list):
        return [_encoded(item, dtype, arrays) for item, dtype in zip(x, dtypes, strict=True)]
    if not _is_array(x):
        return x
    key = f"array{len(arrays)}"
    arrays[key] = x.astype("float32" if dtypes == "bfloat16" else dtypes)  # .npz knows no bfloat16
    return {"array": key, "dtype": dtypes}


def _decoded(x: Any, arrays: Any) -> Any:
    if isinstance(x, list):
        return [_decoded(item, arrays) for item in x]
    if not isinstance(x, dict):
        return x
    if x.keys() != {"array", "dtype"}:
        return {name: _decoded(value, arrays) for name, value in x.items()}
    dtype = x["dtype"]
    if dtype == "bfloat16":
        from ml_dtypes import bfloat16

        dtype = bfloat16
    return arrays[x["array"]].astype(dtype)


# The judgement.


@np.errstate(all="ignore")
def _fault(name: str, before: Any, given: Any, result: Any) -> str | None:
    """What is wrong with the results of a call, given its arguments before and after it."""
    written = _WRITTEN.get(name, ())
    if name.endswith("_saved"):
        y, saved = result[0], _wide(result[1])
        last = saved.shape != tuple(y.shape) or (hasattr(y, "detach") and not y.is_contiguous())
        result = (y, _indices({**before, "channels_last": last}, saved, before["x"].shape))
    actual = [*_results(result), *_leaves(given.get(key) for key in written)]
    if name.endswith("_forward") and 0 in actual[0].shape:
        return None
    if isinstance(result, tuple) and isinstance(result[-1], tuple):
        before = {**before, "rng_state": result[-1]}  # drawn by the call

    def meant(arguments: Any) -> list[Any]:
        arguments = copy.deepcopy(arguments)
        results = _results(_MEANT[name](arguments))
        return [*results, *_leaves(arguments.get(key) for key in written)]

    try:
        truth = meant(before)
    except (MemoryError, ValueError) as error:
        if isinstance(error, ValueError) and "array is too big" not in str(error):
            raise
        return None
    eps = min((_eps(_dtype(x)) for x in actual if x is not None), default=1.0)
    shaken = functools.cache(
        lambda: [meant(_shaken(before, min(eps, 2.0**-23), signs)) for signs in (_random, np.sign)]
    )
    for i, (x, y) in enumerate(zip(actual, truth, strict=False)):
        if x is not None and y is not None:
            change = functools.partial(_change, shaken, i)
            fault = _difference(
                x, np.asarray(y), change, functools.partial(_largest_number, before)
            )
            if fault:
                return f"result {i}: {fault}"
    return None


def _results(result: Any) -> list[Any]:
    if result is None:  # of an optimiser's step
        return []
    results = result if isinstance(result, (tuple, list)) else [result]
    return [x for x in results if x is None or _is_array(x)]


def _change(shaken: Callable[[], list[Any]], i: int, truth: np.ndarray[Any, Any]) -> Any:
    """How much each element of result i changes at most when the arguments do."""
    return np.max([np.abs(results[i] - truth) for results in shaken()], axis=0)


def _largest_number(arguments: Any) -> float:
    sizes = [0.0]
    _map(
        lambda x: sizes.extend(np.abs(x[np.isfinite(x)]) if x.dtype.kind == "f" else ()), arguments
    )
    return max(sizes)


def _leaves(x: Iterable[Any]) -> list[Any]:
    leaves: list[Any] = []
    for item in x:
        leaves += item if isinstance(item, (list, tuple)) else [item]
    return leaves


def _eps(dtype: str) -> float:
    if dtype in _HALF_EPS:
        return _HALF_EPS[dtype]
    return float(np.finfo(dtype).eps) if dtype.startswith("float") else 1.0


def _shaken(arguments: Any, eps: float, signs: Callable[[Any], Any]) -> Any:
    """The arguments, with each float larger or smaller by eps."""
    return _map(lambda x: x * (1 + eps * signs(x)) if x.dtype.kind == "f" else x, arguments)


def _random(x: np.ndarray[Any, Any]) -> Any:
    return np.random.default_rng(x.size).choice((-1, 1), x.shape)


def _difference(
    x: Any,
    truth: np.ndarray[Any, Any],
    change_of: Callable[[Any], np.ndarray[Any, Any]],
    largest_number: Callable[[], float],
) -> str | None:
    dtype, x = _dtype(x), _wide(x)
    if x.shape != truth.shape:
        return f"it has the shape {x.shape}, should have {truth.shape}"
    if not dtype.startswith(("float", "bfloat")):
        wrong = np.flatnonzero(x != truth)
        if not wrong.size:
            return None
        place = np.unravel_index(wrong[0], x.shape)
        return f"element {_place(place)} is {x[place]}, should be {truth[place]}"
    largest = _LARGEST.get(dtype) or float(np.finfo(dtype).max)
    judged = np.abs(truth) <= largest
    scale = float(np.max(np.abs(truth), where=judged, initial=0.0)) or largest_number()
    error = np.where(judged, np.abs(x - truth), 0.0)
    eps = _eps(dtype)
    unit = eps * scale + float(np.finfo("f4").tiny if dtype != "float64" else 0.0)
    allowed = (2.0 if dtype in _HALF_EPS else _FACTOR) * unit
    if np.all(error <= allowed):
        return None
    change = change_of(truth)
    allowed += _FACTOR * float(np.max(change, where=judged & np.isfinite(change), initial=0.0))
    if np.all(error <= allowed):
        return None
    place = np.unravel_index(np.argmax(np.where(np.isnan(error), np.inf, error)), x.shape)
    return (
        f"element {_place(place)} is {x[place]:.9g}, should be {truth[place]:.9g}: off by "
        f"{error[place]:.3g}, allowed {allowed:.3g}"
    )


def _place(index: Iterable[Any]) -> tuple[int, ...]:
    return tuple(int(i) for i in index)


# What each function means: float64 arguments by name to results.


def _of_reference(name: str) -> Callable[[dict[str, Any]], Any]:
    function = getattr(reference, name)
    names = inspect.signature(function).parameters
    return lambda given: function(**{key: given[key] for key in given if key in names})


def _first(name: str) -> Callable[[dict[str, Any]], Any]:
    meant = _of_reference(name)
    return lambda given: meant(given)[0]


def _dropout(given: dict[str, Any]) -> Any:
    p = given["p"] if given.get("training", True) else 0.0
    return reference.dropout_forward(given["x"], p, given["rng_state"])


def _for_each_parameter(name: str) -> Callable[[dict[str, Any]], None]:
    """Of an optimiser's step; with a master, the parameter is but its rounding."""
    meant = _of_reference(name)

    def step(given: dict[str, Any]) -> None:
        masters = given.get("master_params") or [None] * len(given["params"])
        counts = given.get("counts") or [np.zeros(1) for _ in given["params"]]  # steps so far
        for i, (param, master) in enumerate(zip(given["params"], masters, strict=True)):
            one = {k: v[i : i + 1] if isinstance(v, list) else v for k, v in given.items()}
            one["params"] = [param if master is None else master]
            steps = given["step"]
            counts[i] += steps[i] if isinstance(steps, list) else steps
            meant({**one, "step": int(counts[i].item())})
            param[...] = one["params"][0]

    return step


def _indices(given: dict[str, Any], saved: Any, size: Any) -> np.ndarray[Any, Any]:
    """What a max pool saved, indices or codes: bytes that tell a maximum's tap in its window.

    With the channels last, a window is what of it lies inside.
    """
    if saved.dtype != np.uint8:
        return np.asarray(saved)
    last = given.get("channels_last", False)
    if last:
        saved = saved.transpose(0, 3, 1, 2)
    starts, width = [], 0
    for axis in (-2, -1):
        plane, windows = size[axis], np.arange(saved.shape[axis])
        if "kernel_size" in given:
            width, stride, padding = (
                int(np.broadcast_to(value, 2)[axis])
                for value in (
                    given["kernel_size"],
                    given["stride"] or given["kernel_size"],
                    given["padding"],
                )
            )
            start = windows * stride - padding
            end = start + width
        else:
            width = -(-plane // len(windows))
            start = windows * plane // len(windows)
            end = -(-(windows + 1) * plane // len(windows))
        if last:
            start = np.maximum(start, 0)
            width = int((np.minimum(end, plane) - start).max())
        starts.append(start)
    row, column = np.divmod(saved.astype(np.int64), width)
    return np.asarray((starts[0][:, None] + row) * size[-1] + starts[1] + column)


def _by_codes(name: str) -> Callable[[dict[str, Any]], Any]:
    def meant(given: dict[str, Any]) -> Any:
        size = given["input_size"]
        return getattr(reference, name)(given["dy"], _indices(given, given["codes"], size), size)

    return meant


_MEANT: dict[str, Callable[[dict[str, Any]], Any]] = {
    **{name: _of_reference(name) for name in reference.__all__ if hasattr(_core, name)},
    "adam_step": _for_each_parameter("adam_step"),
    "adaptive_max_pool2d": _first("adaptive_max_pool2d_forward"),
    "adaptive_max_pool2d_backward_codes": _by_codes("adaptive_max_pool2d_backward"),
    "adaptive_max_pool2d_saved": _of_reference("adaptive_max_pool2d_forward"),
    "dropout_forward": _dropout,
    "max_pool2d": _first("max_pool2d_forward"),
    "max_pool2d_backward_codes": _by_codes("max_pool2d_backward"),
    "max_pool2d_saved": _of_reference("max_pool2d_forward"),
    "sgd_step": _for_each_parameter("sgd_step"),
}
# The arguments a function changes.
_WRITTEN = {
    "adam_step": (
        "params",
        "exp_avgs",
        "exp_avg_sqs",
        "max_exp_avg_sqs",
        "master_params",
        "counts",
    ),
    "batch_norm_forward": ("running_mean", "running_var"),
    "sgd_step": ("params", "momentum_buffers", "master_params"),
}
