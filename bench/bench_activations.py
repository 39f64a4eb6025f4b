from bench.functional import Case, Functional
from fastdl import reference

CASES = [
    Case("1M", {"x": (1 << 20,)}, smoke=True),
    Case("4M", {"x": (1 << 22,)}),
]
OF_X = ("relu", "leaky_relu", "elu", "silu", "gelu")  # the gradient comes from x, else from y


def activation(op: str) -> Functional:
    forward = getattr(reference, f"{op}_forward")
    gradient = getattr(reference, f"{op}_backward")

    def backward(dy, x, **options):
        return [gradient(dy, x if op in OF_X else forward(x), **options)]

    cases = [*CASES]
    if op == "gelu":
        cases += [Case(f"{c.name} tanh", c.arrays, {"approximate": "tanh"}, c.smoke) for c in CASES]
    return Functional(op, cases, forward, backward)


BENCHES = [activation(op) for op in (*OF_X, "sigmoid", "tanh")]
