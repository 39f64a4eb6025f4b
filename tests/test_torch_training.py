"""Losses over hundreds of steps: patched networks with our optimisers learn as PyTorch does.

ResNet-18 learns in float64: in float32 the losses of PyTorch on one thread and on two are apart
after ten steps, as batch norms and ReLUs magnify a rounding. Here it has an eighth of its channels,
as its whole width takes minutes; `python -m bench.drift` runs that (docs/torch.md).
"""

from collections.abc import Iterator
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

from bench.learning import losses_of  # noqa: E402
from bench.models import BasicBlock, Language, lenet5, resnet  # noqa: E402


def images(batch: int, channels: int, size: int, steps: int) -> Iterator[tuple[Any, Any]]:
    """Ten patterns, one for each class, in noise."""
    generator = torch.Generator().manual_seed(0)
    patterns = torch.randn((10, channels, size, size), generator=generator)
    for _ in range(steps):
        y = torch.randint(10, (batch,), generator=generator)
        yield patterns[y] + torch.randn((batch, channels, size, size), generator=generator), y


def texts(batch: int, length: int, steps: int) -> Iterator[tuple[Any, Any]]:
    """Each token is the one before it plus one or two."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        tokens = torch.randint(1, 3, (batch, length + 1), generator=generator).cumsum(1) % 50
        yield tokens[:, :-1], tokens[:, 1:].flatten()


def narrow_resnet18() -> Any:
    return resnet(BasicBlock, (2, 2, 2, 2), channels=8)


def gpt() -> Any:
    return Language(50, 32, layers=6, width=48, heads=6, causal=True, norm_first=True)


@pytest.mark.parametrize(
    ("make", "dtype", "batches", "optimizer", "options"),
    [
        pytest.param(
            lenet5,
            torch.float32,
            lambda: images(16, 1, 28, 200),
            "SGD",
            {"lr": 0.02, "momentum": 0.9},
            id="LeNet-5",
        ),
        pytest.param(
            narrow_resnet18,
            torch.float64,
            lambda: images(8, 3, 32, 200),
            "SGD",
            {"lr": 3e-3, "momentum": 0.9},
            id="ResNet-18",
        ),
        pytest.param(
            gpt, torch.float32, lambda: texts(4, 32, 200), "AdamW", {"lr": 1e-3}, id="GPT"
        ),
    ],
)
def test_losses_are_torchs(make, dtype, batches, optimizer, options):
    actual = losses_of(make, dtype, batches(), optimizer, options, True)
    expected = losses_of(make, dtype, batches(), optimizer, options, False)
    assert expected[-1] < 0.8 * expected[0]
    assert ((actual - expected).abs() / expected).max() < 1e-4
