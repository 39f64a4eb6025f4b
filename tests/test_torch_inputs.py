"""Every op of fastdl.torch by the doors and on the tensors that PyTorch's users have.

test_torch_ops.py holds the calls, and the tests of values, gradients, opcheck, compile, torch.func.
"""

from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

import fastdl.torch.functional as ours  # noqa: E402
from tests.test_torch_ops import CASES, differentiable, gradients, made, randn, theirs  # noqa: E402

each_call = pytest.mark.parametrize(("name", "args", "kwargs"), CASES)


def strided(x: Any) -> Any:
    return x.repeat_interleave(2, -1)[..., ::2]


def expanded(x: Any) -> Any:
    return x[:1].expand_as(x)


@each_call
@pytest.mark.parametrize("layout", [strided, expanded])
def test_strided_and_expanded_tensors(name, args, kwargs, layout):
    inputs = [
        layout(x.detach()).requires_grad_() if torch.is_tensor(x) and x.requires_grad else x
        for x in made(args, torch.float32)
    ]
    copies = [
        x.detach().clone(memory_format=torch.contiguous_format).requires_grad_(x.requires_grad)
        if torch.is_tensor(x)
        else x
        for x in inputs
    ]
    function = getattr(ours, name)
    y, expected = function(*inputs, **kwargs), function(*copies, **kwargs)
    assert torch.equal(y, expected)
    # The gradient of a sum is one number, expanded.
    for actual, dx in zip(
        torch.autograd.grad(y.sum(), differentiable(inputs)),
        torch.autograd.grad(expected.sum(), differentiable(copies)),
        strict=True,
    ):
        assert torch.equal(actual, dx)


@each_call
def test_inference_mode(name, args, kwargs):
    expected = getattr(ours, name)(*made(args, torch.float32), **kwargs)
    with torch.inference_mode():
        inputs = [x.clone() if torch.is_tensor(x) else x for x in made(args, torch.float32)]
        y = getattr(ours, name)(*inputs, **kwargs)
    assert y.is_inference()
    assert torch.equal(y, expected)


class Call(torch.nn.Module):
    """A call of a function of ours as a module, for torch.export."""

    def __init__(self, name: str, args: list[Any], kwargs: dict[str, Any]) -> None:
        super().__init__()
        self.name, self.args, self.kwargs = name, args, kwargs

    def forward(self, *tensors: Any) -> Any:
        rest = iter(tensors)
        args = [next(rest) if torch.is_tensor(x) else x for x in self.args]
        return getattr(ours, self.name)(*args, **self.kwargs)


@pytest.mark.filterwarnings("ignore:.*treespec:FutureWarning")
@each_call
def test_export(name, args, kwargs):
    inputs = made(args, torch.float32)
    tensors = tuple(x.detach() for x in inputs if torch.is_tensor(x))
    program = torch.export.export(Call(name, inputs, kwargs).eval(), tensors)
    assert any("fastdl" in str(node.target) for node in program.graph.nodes)
    expected = getattr(ours, name)(*inputs, **kwargs)
    torch.testing.assert_close(program.module()(*tensors), expected.detach())


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel:UserWarning")
@each_call
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_autocast(name, args, kwargs, dtype):
    with torch.autocast("cpu"):
        y, actual = gradients(getattr(ours, name), made(args, dtype), kwargs)
        expected, reference = gradients(theirs(name), made(args, dtype), kwargs)
    assert y.dtype == expected.dtype
    torch.testing.assert_close(y, expected, rtol=0.05, atol=0.05)
    for dx, theirs_dx in zip(actual, reference, strict=True):
        scale = 0.05 * (1 + theirs_dx.abs().max().item())
        torch.testing.assert_close(dx, theirs_dx, rtol=0, atol=scale)


@pytest.mark.parametrize(
    "name", ["relu", "relu6", "leaky_relu", "elu", "sigmoid", "tanh", "silu", "gelu"]
)
def test_elementwise_ops_keep_channels_last(name):
    function, x = getattr(ours, name), randn(2, 4, 9, 8, dtype=torch.float32)
    images = x.detach().contiguous(memory_format=torch.channels_last).requires_grad_()
    for actual, expected in zip(
        (function(images), *torch.autograd.grad(function(images).sum(), images)),
        (function(x), *torch.autograd.grad(function(x).sum(), x)),
        strict=True,
    ):
        assert actual.is_contiguous(memory_format=torch.channels_last)
        assert torch.equal(actual, expected)


class TestDropout:
    """What the tests above are for the others: it is random, and has no twin of the same bits."""

    x = randn(2, 3, 4, 5)

    def call(self, x: Any) -> Any:
        torch.manual_seed(3)
        return ours.dropout(x, 0.4)

    def test_gradients(self):
        assert torch.autograd.gradcheck(self.call, self.x)
        assert torch.autograd.gradgradcheck(self.call, self.x)

    def test_opcheck(self):
        x, seed = self.x.float().detach().requires_grad_(), torch.tensor(7)
        torch.library.opcheck(torch.ops.fastdl.dropout.default, (x, 0.4, seed))

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
    def test_every_layout_drops_the_same(self, dtype):
        x = self.x.detach().to(dtype)
        expected = self.call(x)
        assert expected.dtype == dtype
        assert torch.equal(self.call(strided(x)), expected)
        channels_last = self.call(x.contiguous(memory_format=torch.channels_last))
        assert torch.equal(channels_last, expected)
        assert channels_last.is_contiguous(memory_format=torch.channels_last)
        with torch.inference_mode():
            assert torch.equal(self.call(x), expected)

    def test_compile_and_export(self):
        torch._dynamo.reset()
        x = self.x.detach()
        call = lambda x: ours.dropout(x, 0.4)  # noqa: E731
        program = torch.export.export(Call("dropout", [x, 0.4], {}), (x,))
        for function in (
            torch.compile(call, fullgraph=True, backend="aot_eager"),
            program.module(),
        ):
            torch.manual_seed(3)
            y = function(x)
            assert torch.equal(y, self.call(x))
