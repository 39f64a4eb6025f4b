"""Every op on a GPU, in sizes that keep one busy: ``python -m bench --device cuda``."""

from collections.abc import Sequence
from typing import Any

import torch

from bench.bench_optim import STEP
from bench.device import DeviceCase, DeviceFunctional, DeviceOptimizer, optimizer_cases
from bench.functional import family
from bench.harness import Family
from bench.peers import liger_kernel

MEMORY = family("CUDA: bound by memory", (1.2, None), (1.2, None))
CROSS_ENTROPY = family("CUDA: cross_entropy", (None, None), (3.0, None))
ATTENTION = family("CUDA: attention")
MASKED = family("CUDA: attention with a bias", (2.0, None), (2.0, None))
CONV = family("CUDA: conv2d", (0.9, None), (0.9, None))
PRODUCT = family("CUDA: matmul, linear")
ADAM = Family("CUDA: Adam", {STEP: (None, 1.3)})
SGD = Family("CUDA: SGD", {})

ELEMENTWISE = ("relu", "leaky_relu", "elu", "silu", "gelu", "sigmoid", "tanh")
ELEMENTS, FEW = (1 << 27,), (1 << 10,)
PLANES, SMALL_PLANES = (256, 64, 112, 112), (64, 32, 20, 20)
RESNET_50 = [  # channels in, out, size of the plane, kernel, stride
    (3, 64, 224, 7, 2),
    (64, 64, 56, 3, 1),
    (64, 256, 56, 1, 1),
    (256, 128, 56, 1, 1),
    (128, 128, 28, 3, 1),
    (512, 1024, 28, 1, 2),
    (256, 256, 14, 3, 1),
    (1024, 256, 14, 1, 1),
    (512, 512, 7, 3, 1),
    (2048, 512, 7, 1, 1),
]


def layout_of(channels_last: bool) -> str:
    return " channels_last" if channels_last else ""


def of_memory(large: tuple[int, ...], small: tuple[int, ...], **options: Any) -> list[DeviceCase]:
    return [
        DeviceCase(str(large), MEMORY, {"x": large}, options),
        DeviceCase(str(small), MEMORY, {"x": small}, options, smoke=True),
    ]


def pooled(**options: Any) -> list[DeviceCase]:
    return [
        DeviceCase(
            f"{shape}{layout_of(last)}", MEMORY, {"x": shape}, options,
            smoke=shape == SMALL_PLANES, channels_last=last,
        )
        for shape in (PLANES, SMALL_PLANES)
        for last in (False, True)
    ]  # fmt: skip


def rows_normalized(rows: int, features: int, smoke: bool = False) -> DeviceCase:
    arrays = {"x": (rows, features), "weight": (features,), "bias": (features,)}
    options = {"normalized_shape": (features,)}
    return DeviceCase(f"({rows}, {features})", MEMORY, arrays, options, smoke)


def batch_normalized(
    shape: tuple[int, ...], channels_last: bool, smoke: bool = False
) -> DeviceCase:
    arrays = {"x": shape, "weight": shape[1:2], "bias": shape[1:2]}
    options = {"running_mean": None, "running_var": None, "training": True}
    name = f"{shape}{layout_of(channels_last)}"
    return DeviceCase(name, MEMORY, arrays, options, smoke, channels_last=channels_last)


def classified(rows: int, classes: int, smoke: bool = False) -> DeviceCase:
    def target(generator: torch.Generator) -> torch.Tensor:
        return torch.randint(classes, (rows,), generator=generator, device=generator.device)

    arrays = {"x": (rows, classes), "target": target}
    return DeviceCase(f"({rows}, {classes})", CROSS_ENTROPY, arrays, {}, smoke)


def attention(
    B: int, H: int, L: int, D: int, causal: bool = False, bias: bool = False, smoke: bool = False
) -> DeviceCase:
    arrays: dict[str, Any] = {name: (B, H, L, D) for name in ("query", "key", "value")}
    if bias:
        arrays["attn_mask"] = (B, H, L, L)
    name = f"({B}, {H}, {L}, {D}){' causal' if causal else ' bias' if bias else ''}"
    options = {} if bias else {"is_causal": causal}
    flops = 4.0 * B * H * L * L * D / (2 if causal else 1)
    return DeviceCase(name, MASKED if bias else ATTENTION, arrays, options, smoke, flops)


def conv(
    N: int, C: int, K: int, size: int, kernel: int, stride: int,
    groups: int = 1, channels_last: bool = True, smoke: bool = False,
) -> DeviceCase:  # fmt: skip
    arrays = {"x": (N, C, size, size), "weight": (K, C // groups, kernel, kernel)}
    options = {"stride": stride, "padding": kernel // 2, "groups": groups}
    out = (size - 1) // stride + 1
    flops = 2.0 * N * K * out * out * (C // groups) * kernel * kernel
    name = f"{kernel}x{kernel} stride {stride} ({N}, {C}, {size}, {size}) to {K}"
    name += (f" in {groups} groups" if groups > 1 else "") + layout_of(channels_last)
    return DeviceCase(name, CONV, arrays, options, smoke, flops, channels_last)


def linear(rows: int, features: int, to: int, smoke: bool = False) -> DeviceCase:
    arrays = {"x": (rows, features), "weight": (to, features), "bias": (to,)}
    flops = 2.0 * rows * features * to
    return DeviceCase(f"({rows}, {features}) to {to}", PRODUCT, arrays, {}, smoke, flops)


def squared(n: int, smoke: bool = False) -> DeviceCase:
    arrays = {"x": (n, n), "other": (n, n)}
    return DeviceCase(f"({n}, {n}) @ ({n}, {n})", PRODUCT, arrays, {}, smoke, 2.0 * n**3)


def elementwise(x: int, y: int) -> tuple[int, int]:
    return x + y, 5 * x  # there x and y; back dy, one of them, and dx


def pooling(x: int, y: int) -> tuple[int, int]:
    return x + y, 2 * (x + y)


def product(x: int, y: int) -> tuple[int, int]:
    return 0, 0  # the matrix units bind it


AFFINE = ("x", "weight", "bias")
BENCHES: Sequence[Any] = [
    *(DeviceFunctional(op, of_memory(ELEMENTS, FEW), elementwise) for op in ELEMENTWISE),
    DeviceFunctional("dropout", of_memory(ELEMENTS, FEW, p=0.1), pooling, random=True),
    *(
        DeviceFunctional(
            op,
            of_memory((16384, 8192), (512, 1000), dim=1),
            elementwise,
            peers=liger_kernel.functions(op),
        )
        for op in ("softmax", "log_softmax")
    ),
    DeviceFunctional(
        "layer_norm",
        [rows_normalized(32768, 4096), rows_normalized(64, 300, smoke=True)],
        elementwise,
        AFFINE,
        peers=liger_kernel.functions("layer_norm"),
    ),
    DeviceFunctional(
        "batch_norm",
        [
            batch_normalized(PLANES, False),
            batch_normalized(PLANES, True),
            batch_normalized(SMALL_PLANES, False, smoke=True),
        ],
        lambda x, y: (2 * x + y, 7 * x + y),  # all of x and of dy is read before any is written
        AFFINE,
    ),
    DeviceFunctional("max_pool2d", pooled(kernel_size=3, stride=2, padding=1), pooling),
    DeviceFunctional("avg_pool2d", pooled(kernel_size=2), pooling),
    DeviceFunctional("adaptive_avg_pool2d", pooled(output_size=7), pooling),
    DeviceFunctional(
        "cross_entropy",
        [classified(16384, 32000), classified(4096, 128256), classified(64, 1000, smoke=True)],
        lambda x, y: (x, 3 * x),
        peers=liger_kernel.functions("cross_entropy"),
    ),
    DeviceFunctional(
        "scaled_dot_product_attention",
        [
            attention(2, 16, 4096, 128),
            attention(1, 16, 8192, 128),
            attention(1, 8, 16384, 128),
            attention(2, 16, 4096, 128, causal=True),
            attention(1, 8, 16384, 128, causal=True),
            attention(8, 16, 1024, 64),
            attention(2, 16, 2048, 128, bias=True),
            attention(1, 2, 128, 64, smoke=True),
        ],
        product,
        ("query", "key", "value"),
        backward_flops=2.5,
    ),
    DeviceFunctional(
        "conv2d",
        [
            *(conv(128, *sizes) for sizes in RESNET_50),
            *(conv(128, *sizes, channels_last=False) for sizes in RESNET_50[1:3]),
            conv(128, 144, 144, 56, 3, 1, groups=144),
            conv(128, 128, 128, 56, 3, 1, groups=32),
            conv(2, 8, 16, 9, 3, 1, smoke=True),
        ],
        product,
        ("x", "weight"),
        normwise=5e-3,  # PyTorch lets cuDNN round float32 to TF32
    ),
    DeviceFunctional(
        "linear",
        [linear(8192, 4096, 4096), linear(8192, 768, 3072), linear(16, 40, 24, smoke=True)],
        product,
        AFFINE,
    ),
    DeviceFunctional("matmul", [squared(8192), squared(64, smoke=True)], product, ("x", "other")),
    DeviceOptimizer("adam", "Adam", 7, {"lr": 1e-3}, optimizer_cases(ADAM)),
    DeviceOptimizer("sgd", "SGD", 5, {"lr": 1e-3, "momentum": 0.9}, optimizer_cases(SGD)),
]
