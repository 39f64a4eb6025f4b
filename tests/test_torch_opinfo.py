"""PyTorch's own samples of every op we have (its OpInfo database), forward and backward.

An error is measured against PyTorch in float64: ours may be twice PyTorch's own, plus 4 eps of the
largest value. For float64 PyTorch's error is that of its float32 in eps, which tells how
ill-conditioned a sample is; and as the truth then has an error of its own, 8 eps are allowed, of at
least 1, the scale of the arguments: gradients that cancel to 0 do so in both.
"""

import math
import warnings
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
pytest.importorskip("expecttest", reason="what PyTorch's samples import is not installed")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from torch.testing._internal.common_methods_invocations import op_db

import fastdl.torch.functional as ours  # noqa: E402

NAMES = [
    "adaptive_avg_pool2d",
    "adaptive_max_pool2d",
    "addmm",
    "avg_pool2d",
    "batch_norm",
    "conv1d",
    "conv2d",
    "conv_transpose2d",
    "cross_entropy",
    "elu",
    "gelu",
    "layer_norm",
    "leaky_relu",
    "linear",
    "log_softmax",
    "matmul",
    "max_pool2d",
    "nll_loss",
    "relu",
    "relu6",
    "scaled_dot_product_attention",
    "sigmoid",
    "silu",
    "softmax",
    "tanh",
]
DATABASE = {}
for info in op_db:
    name = info.name.removeprefix("nn.functional.")
    if name in NAMES and info.variant_test_name in ("", "with_train"):
        DATABASE.setdefault(name, info)


# Samples that say nothing about an op: which, and why.
LEFT_OUT = {
    "batch_norm": (lambda sample: sample.input.dim() < 2, "no channels, which only PyTorch takes"),
    "scaled_dot_product_attention": (
        lambda sample: sample.kwargs.get("dropout_p"),
        "random, and we drop other weights than PyTorch",
    ),
}


def samples_of(name: str, dtype: Any) -> list[Any]:
    torch.manual_seed(0)
    samples = list(DATABASE[name].sample_inputs("cpu", dtype, requires_grad=True))
    left_out, _ = LEFT_OUT.get(name, (lambda sample: False, ""))
    return [sample for sample in samples if not left_out(sample)]


def condition(name: str, sample: Any) -> float:
    """How many times the rounding of an argument, or of a score, is magnified in the result."""
    if name == "layer_norm" and math.prod(sample.args[0]) <= 2:
        return 1e-5**-0.5  # the deviation of so few is 0, or their gradient
    if name != "scaled_dot_product_attention":
        return 1.0
    query, key = sample.input, sample.args[0]
    return max(1.0, (query.detach().abs().max() * key.detach().abs().max()).item())


def test_the_database_has_every_op():
    assert sorted(DATABASE) == NAMES


def to(x: Any, dtype: Any) -> Any:
    if isinstance(x, torch.Tensor):
        if not x.is_floating_point():
            return x
        return x.detach().to(dtype).requires_grad_(x.requires_grad)
    return x


def run(function: Any, sample: Any, dtype: Any) -> list[Any]:
    """The results of a sample in a dtype, and the gradients of what requires one."""
    args = [to(x, dtype) for x in (sample.input, *sample.args)]
    kwargs = {name: to(x, dtype) for name, x in sample.kwargs.items()}
    if "dtype" in kwargs and kwargs["dtype"] is not None and dtype == torch.float64:
        kwargs["dtype"] = torch.float64
    results = function(*args, **kwargs)
    results = list(results) if isinstance(results, tuple) else [results]
    y = results[0]
    inputs = [x for x in (*args, *kwargs.values()) if isinstance(x, torch.Tensor)]
    inputs = [x for x in inputs if x.requires_grad]
    if inputs and y.requires_grad:
        generator = torch.Generator().manual_seed(0)
        dy = torch.randn(y.shape, generator=generator, dtype=torch.float64).to(y.dtype)
        results += torch.autograd.grad(y, inputs, dy, allow_unused=True)
    return results


def assert_as_good_as_torch(
    actual: Any, theirs: Any, single: Any, truth: Any, condition: float
) -> None:
    assert (actual is None) == (theirs is None)
    if actual is None:
        return
    assert actual.shape == theirs.shape
    assert actual.dtype == theirs.dtype
    if not actual.is_floating_point():
        assert torch.equal(actual, theirs)
        return
    eps = EPS[actual.dtype]
    actual, theirs, single, truth = (x.double() for x in (actual, theirs, single, truth))
    finite = truth.isfinite()
    assert torch.equal(actual.isnan(), theirs.isnan())
    if not finite.any():
        return
    scale = truth[finite].abs().max()
    error = (actual - truth)[finite].abs().max()
    torch_error = (single - truth)[finite].abs().max() * (eps / EPS[torch.float32])
    unit = 4 * scale if eps == EPS[torch.float32] else 8 * scale.clamp_min(1.0)
    allowed = 2 * torch_error + eps * unit * condition
    assert error <= allowed, f"error {error:.3g}, allowed {allowed:.3g}"


def described(sample: Any) -> str:
    """A sample, with shapes in place of tensors."""
    arguments = (sample.input, sample.args, sample.kwargs)
    shapes = torch.utils._pytree.tree_map_only(torch.Tensor, lambda x: tuple(x.shape), arguments)
    return str(shapes)


EPS = {dtype: torch.finfo(dtype).eps for dtype in (torch.float32, torch.float64)}


@pytest.mark.parametrize("contiguous", [True, False], ids=["contiguous", "noncontiguous"])
@pytest.mark.parametrize("dtype", EPS, ids=str)
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.filterwarnings("ignore")
def test_samples(name, dtype, contiguous):
    info = DATABASE[name]
    function = getattr(ours, name)
    samples = samples_of(name, dtype)
    assert samples
    failures = []
    for sample in samples:
        sample = sample if contiguous else sample.noncontiguous()
        try:
            for results in zip(
                run(function, sample, dtype),
                run(info.op, sample, dtype),
                run(info.op, sample, torch.float32),
                run(info.op, sample, torch.float64),
                strict=True,
            ):
                assert_as_good_as_torch(*results, condition(name, sample))
        except Exception as error:
            failures.append(f"{described(sample)}: {type(error).__name__} {error}"[:600])
    assert not failures, f"{len(failures)} of {len(samples)}\n" + "\n".join(failures)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.filterwarnings("ignore")
def test_errors(name):
    info = DATABASE[name]
    if info.error_inputs_func is None:
        return
    accepted = []
    for error_input in info.error_inputs("cpu"):
        sample = error_input.sample_input
        try:
            getattr(ours, name)(sample.input, *sample.args, **sample.kwargs)
        except Exception:
            continue
        accepted.append(described(sample))
    assert not accepted, "\n".join(accepted)
