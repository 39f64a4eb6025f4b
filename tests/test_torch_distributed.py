"""DistributedDataParallel and ZeroRedundancyOptimizer: two processes learn what one does alone."""

import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
if not torch.distributed.is_available():
    pytest.skip("this PyTorch is built without torch.distributed", allow_module_level=True)
nn = torch.nn

import fastdl.torch as ft  # noqa: E402

OPTIMIZERS: dict[str, dict[str, Any]] = {
    "AdamW": {"lr": 0.01, "amsgrad": True},
    "SGD": {"lr": 0.1, "momentum": 0.9, "nesterov": True},
}
PROCESSES, STEPS = 2, 5


def network() -> Any:
    """In float64, so that only a wrong step can be seen, and without norms over a batch."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.LayerNorm(64),
        nn.Linear(64, 5),
    ).double()


def train(net: Any, optimizer: Any, part: slice) -> None:
    """Some steps on a part of each batch."""
    generator = torch.Generator().manual_seed(1)
    for _ in range(STEPS):
        x = torch.randn((8, 2, 8, 8), generator=generator, dtype=torch.float64)
        y = torch.randint(5, (8,), generator=generator)
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(x[part]), y[part]).backward()
        optimizer.step()


def worker(rank: int, directory: str) -> None:
    """What each process runs: all cases, by all of which its parameters are left in a file."""
    from torch.distributed.optim import ZeroRedundancyOptimizer
    from torch.nn.parallel import DistributedDataParallel

    torch.distributed.init_process_group(
        "gloo",
        init_method=f"file://{directory}/rendezvous",
        rank=rank,
        world_size=PROCESSES,
        timeout=timedelta(seconds=60),
    )
    part = slice(rank, None, PROCESSES)
    results = {}
    for name, options in OPTIMIZERS.items():
        kind = getattr(ft.optim, name)
        for zero in (False, True):
            net = network()
            ft.patch(net)
            parallel = DistributedDataParallel(net, gradient_as_bucket_view=zero)
            optimizer = (
                ZeroRedundancyOptimizer(
                    net.parameters(), kind, parameters_as_bucket_view=True, **options
                )
                if zero
                else kind(net.parameters(), **options)
            )
            train(parallel, optimizer, part)
            state = None
            if zero:
                optimizer.consolidate_state_dict(to=0)
            if rank == 0:
                state = optimizer.state_dict()["state"]
            params = [param.detach().clone() for param in net.parameters()]
            results[name, zero] = (params, state)
    torch.save(results, f"{directory}/{rank}")
    torch.distributed.destroy_process_group()


def test_two_processes_learn_what_one_does(tmp_path):
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "GLOO_SOCKET_IFNAME": "lo0" if sys.platform == "darwin" else "lo",
    }
    processes = [
        subprocess.Popen(
            [
                sys.executable,
                "-c",
                f"from {__name__} import worker; worker({rank}, {str(tmp_path)!r})",
            ],
            env=environment,
            cwd=Path(__file__).parents[1],
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(PROCESSES)
    ]
    try:
        for process in processes:
            _, errors = process.communicate(timeout=120)
            assert process.returncode == 0, errors
    finally:
        for process in processes:
            process.kill()
            process.wait()
    results = [torch.load(tmp_path / str(rank)) for rank in range(PROCESSES)]
    for name, options in OPTIMIZERS.items():
        net = network()
        optimizer = getattr(torch.optim, name)(net.parameters(), **options)
        train(net, optimizer, slice(None))
        for zero in (False, True):
            for rank in range(PROCESSES):
                params, _ = results[rank][name, zero]
                torch.testing.assert_close(params, [p.detach() for p in net.parameters()])
            _, state = results[0][name, zero]
            torch.testing.assert_close(state, optimizer.state_dict()["state"])
