"""What holds for the whole process: threads, instruction set, precision, random seed, memory."""

import operator
import platform

from fastdl import _core
from fastdl._typing import RngState


def get_num_threads() -> int:
    """Number of threads an op of this Python thread may use.

    >>> import fastdl
    >>> fastdl.get_num_threads() >= 1
    True
    """
    return _core.get_num_threads()


def set_num_threads(n: int) -> None:
    """Let the ops of this Python thread use n threads; results do not depend on it, to the bit.

    The default is OpenMP's: ``OMP_NUM_THREADS``, else the CPUs this process may run on. PyTorch in
    the same process shares the setting.

    Raises
    ------
    ValueError : n < 1.

    Examples
    --------
    >>> import fastdl
    >>> before = fastdl.get_num_threads()
    >>> fastdl.set_num_threads(1)
    >>> fastdl.get_num_threads()
    1
    >>> fastdl.set_num_threads(before)
    """
    _core.set_num_threads(n)


def supported_isas() -> list[str]:
    """The instruction sets this CPU and this build have, slowest first.

    >>> import fastdl
    >>> fastdl.supported_isas()[0]
    'scalar'
    """
    return _core.supported_isas()


def get_isa() -> str:
    """The instruction set in use: the best of :func:`supported_isas`, unless forced otherwise.

    >>> import fastdl
    >>> fastdl.get_isa() in fastdl.supported_isas()
    True
    """
    return _core.get_isa()


def set_isa(name: str) -> None:
    """Force one of :func:`supported_isas`, as the environment variable ``FASTDL_ISA`` does.

    Raises
    ------
    ValueError : an unknown name, or one this CPU does not have.

    Examples
    --------
    >>> import fastdl
    >>> before = fastdl.get_isa()
    >>> fastdl.set_isa("scalar")
    >>> fastdl.set_isa(before)
    """
    _core.set_isa(name)


def get_precision() -> str:
    """The accuracy in force, "auto" or "strict".

    >>> import fastdl
    >>> fastdl.get_precision()
    'auto'
    """
    return _core.get_precision()


def set_precision(precision: str) -> None:
    """Bound the error of convolutions: 16 eps max|y| with "auto", 4 eps max|y| with "strict".

    eps is that of the dtype, y the result; the bound holds for inputs of unit scale. "auto" may use
    an algorithm with fewer multiplications and a larger error where one is faster.

    Raises
    ------
    ValueError : any other name.

    Examples
    --------
    >>> import fastdl
    >>> fastdl.set_precision("strict")
    >>> fastdl.set_precision("auto")
    """
    _core.set_precision(precision)


def manual_seed(seed: int) -> None:
    """Restart the random numbers of all ops, process-wide, at ``(seed, offset 0)``.

    Until it is called the seed is one of the operating system's, as in
    `torch.manual_seed <https://docs.pytorch.org/docs/2.13/generated/torch.manual_seed.html>`_;
    the numbers themselves are not those of torch.

    Parameters
    ----------
    seed : an integer of [-2^63, 2^64); a negative one means seed + 2^64.

    Raises
    ------
    ValueError : any other integer.

    Examples
    --------
    >>> import numpy as np, fastdl
    >>> fastdl.manual_seed(0)
    >>> a = fastdl.dropout(np.ones(100))
    >>> fastdl.manual_seed(0)
    >>> bool((a == fastdl.dropout(np.ones(100))).all())
    True
    """
    seed = operator.index(seed)
    if not -(2**63) <= seed < 2**64:
        raise ValueError(f"[manual_seed] expected a seed of [-2^63, 2^64), got {seed}")
    set_rng_state((seed % 2**64, 0))


def get_rng_state() -> RngState:
    """State ``(seed, offset)`` of the random numbers the next op will take.

    Element i of an array takes word i % 4 of Philox4x32-10 with key seed and counter
    offset + i // 4; an op that takes n words adds ceil(n / 4) to the offset.

    >>> import fastdl
    >>> fastdl.manual_seed(7)
    >>> fastdl.get_rng_state()
    (7, 0)
    """
    return _core.get_rng_state()


def set_rng_state(state: RngState) -> None:
    """Go on from a state that :func:`get_rng_state` returned.

    Raises
    ------
    ValueError : seed or offset lies outside [0, 2^64).

    Examples
    --------
    >>> import fastdl
    >>> state = fastdl.get_rng_state()
    >>> fastdl.set_rng_state(state)
    """
    seed, offset = map(operator.index, state)
    if not (0 <= seed < 2**64 and 0 <= offset < 2**64):
        raise ValueError(f"[set_rng_state] expected two integers of [0, 2^64), got {state}")
    _core.set_rng_state(seed, offset)


def get_buffer_pool_limit() -> int:
    """Bytes that may wait unused in the buffer pool.

    >>> import fastdl
    >>> fastdl.get_buffer_pool_limit() >= 0
    True
    """
    return _core.get_buffer_pool_limit()


def set_buffer_pool_limit(n: int) -> None:
    """Let at most n bytes of dropped results wait for the next result; 0 turns the pool off.

    New memory costs about 0.2 ms of page faults per MB, which the pool saves. Memory above the new
    limit is given back to the system at once. Until it is set, the limit is an eighth of the
    machine's memory, or 1 GiB if that is more.

    Raises
    ------
    TypeError : n is negative or no integer.

    Examples
    --------
    >>> import fastdl
    >>> before = fastdl.get_buffer_pool_limit()
    >>> fastdl.set_buffer_pool_limit(0)
    >>> fastdl.set_buffer_pool_limit(before)
    """
    _core.set_buffer_pool_limit(n)


def show_config() -> None:
    """Print how fastdl was built and what it uses on this machine.

    >>> import fastdl
    >>> fastdl.show_config()  # doctest: +ELLIPSIS
    fastdl ...
    """
    for name, value in config_rows().items():
        print(f"{name:<12} {value}")


def config_rows() -> dict[str, str]:
    """What :func:`show_config` prints, by name."""
    from fastdl import __version__

    build = _core.build_config()
    return {
        "fastdl": __version__,
        "machine": f"{platform.machine()}, Python {platform.python_version()}",
        "ISA": f"{get_isa()} (of {', '.join(supported_isas())})",
        "threads": f"{get_num_threads()} (OpenMP: {build['openmp']})",
        "precision": get_precision(),
        "buffer pool": f"{_core.buffer_pool_size() >> 20} of {get_buffer_pool_limit() >> 20} MiB",
        "compiler": f"{build['compiler']}, {build['flags']}",
        "CUDA": build["cuda"],
    }
