"""How far the losses of patched networks drift from PyTorch's while they learn.

python -m bench.drift                    # minutes; or the name of one network

Each network learns the same batches from the same start: by PyTorch on two threads and on one, by
fastdl, and by both in float64. A figure is the largest |a - b| / b of two losses of the same step.
"""

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from tqdm import tqdm

from bench import models
from bench.learning import losses_of

STEPS = 200
PAIRS = (
    ("fastdl", "torch"),
    ("torch, 1 thread", "torch"),
    ("torch", "torch, float64"),
    ("fastdl", "torch, float64"),
    ("fastdl, float64", "torch, float64"),
)


def gpt() -> torch.nn.Module:
    return models.Language(128, 64, layers=6, width=96, heads=6, causal=True, norm_first=True)


@dataclass(frozen=True)
class Task:
    model: Callable[[], torch.nn.Module]
    optimizer: str
    options: dict[str, float]
    batch: int
    size: int  # of images, or the length of texts


TASKS = {
    "lenet5": Task(models.lenet5, "SGD", {"lr": 0.02, "momentum": 0.9}, 64, 28),
    "resnet18": Task(models.resnet18, "SGD", {"lr": 1e-3, "momentum": 0.9}, 8, 32),
    "gpt": Task(gpt, "AdamW", {"lr": 1e-3}, 4, 64),
}


def batches(task: Task) -> Iterator[tuple[Any, Any]]:
    if task.model is gpt:
        from examples import tiny_gpt

        tokens, alphabet = tiny_gpt.text_as_tokens()
        assert len(alphabet) <= 128
        generator = torch.Generator().manual_seed(0)
        for _ in range(STEPS):
            starts = torch.randint(len(tokens) - task.size, (task.batch, 1), generator=generator)
            window = tokens[starts + torch.arange(task.size + 1)]
            yield window[:, :-1], window[:, 1:].flatten()
        return
    from examples import patch_resnet

    images, classes = patch_resnet.digits()
    channels = 1 if task.model is models.lenet5 else 3
    for step in range(STEPS):
        part = torch.arange(step * task.batch, (step + 1) * task.batch) % len(images)
        x = torch.nn.functional.interpolate(images[part, :channels], task.size, mode="bilinear")
        yield x, classes[part]


def losses(task: Task, contender: str) -> torch.Tensor:
    ours = contender.startswith("fastdl")
    dtype = torch.float64 if "float64" in contender else torch.float32
    torch.set_num_threads(1 if "1 thread" in contender else 2)
    steps = tqdm(batches(task), contender, STEPS, leave=False)
    return losses_of(task.model, dtype, steps, task.optimizer, task.options, ours)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("networks", nargs="*", default=TASKS, help=", ".join(TASKS))
    networks = parser.parse_args().networks
    if unknown := set(networks) - set(TASKS):
        parser.error(f"no such network: {', '.join(sorted(unknown))}")
    print("| network | first loss | last loss |", " | ".join(f"{a} / {b}" for a, b in PAIRS), "|")
    print("| --- " * (3 + len(PAIRS)) + "|")
    for network in networks:
        found = {name: losses(TASKS[network], name) for name in dict.fromkeys(sum(PAIRS, ()))}
        first, last = found["torch"][0].item(), found["torch"][-1].item()
        drifts = [((found[a] - found[b]).abs() / found[b]).max().item() for a, b in PAIRS]
        figures = " | ".join(f"{drift:.1e}" for drift in drifts)
        print(f"| {network} | {first:.3f} | {last:.3f} | {figures} |", flush=True)


if __name__ == "__main__":
    main()
