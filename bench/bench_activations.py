from bench.case import Case, normal

CASES = [
    Case(op, "4M" + suffix, lambda t: (normal(1 << 22, t),), kwargs, smoke=op in ("relu", "gelu"))
    for op, kwargs, suffix in [
        ("relu", {}, ""),
        ("leaky_relu", {}, ""),
        ("elu", {}, ""),
        ("sigmoid", {}, ""),
        ("tanh", {}, ""),
        ("silu", {}, ""),
        ("gelu", {}, ""),
        ("gelu", {"approximate": "tanh"}, " tanh"),
    ]
]
