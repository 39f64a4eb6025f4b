"""JAX: compiled by jit, on the CPU, with gradients by jax.vjp in the same compiled function."""

import os
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from bench.functional import FORWARD, Case, Functional, gradient_of
from bench.harness import Call


def start(threads: int) -> None:
    """XLA makes a thread for every core it may use, when it starts."""
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_enable_x64", True)  # else float64 would be computed in float32
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(cores)[:threads])
    try:
        jax.devices()
    finally:
        os.sched_setaffinity(0, cores)


def make(
    provider: str, functional: Functional, case: Case, direction: str, dtype: np.dtype
) -> Call | None:
    if functional.jax is None:
        return None
    arrays = {name: jnp.array(value) for name, value in case.inputs(dtype).items()}
    op = partial(functional.jax, **case.options)
    y = jax.eval_shape(op, **arrays)
    if y is None:
        return None
    if direction == FORWARD:
        forward = jax.jit(lambda arrays: [op(**arrays)])
        return Call(lambda: jax.block_until_ready(forward(arrays)))

    @jax.jit
    def both(arrays, dy):
        wrt = {name: arrays[name] for name in functional.wrt}
        y, pullback = jax.vjp(lambda wrt: op(**{**arrays, **wrt}), wrt)
        (gradients,) = pullback(dy)
        return [y, *(gradients[name] for name in functional.wrt)]

    dy = jnp.array(gradient_of(y, dtype))
    return Call(lambda: jax.block_until_ready(both(arrays, dy)))
