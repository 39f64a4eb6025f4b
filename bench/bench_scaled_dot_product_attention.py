from bench.functional import Case, Functional, family
from fastdl import reference

# Target of forward+backward against the best peer: the issue names none.
FULL = family("attention, full", (1.25, 1.15), (1.25, None))
CAUSAL = family("attention, causal", (1.6, 1.4), (1.25, None))
SHORT = family("attention, short", (1.4, 1.2), (1.25, None))


def attention(family, B, H, L, D, is_causal=False, smoke=False):
    arrays = {name: (B, H, L, D) for name in ("query", "key", "value")}
    name = f"({B}, {H}, {L}, {D}){' causal' if is_causal else ''}"
    return Case(name, family, arrays, {"is_causal": is_causal}, smoke)


CASES = [
    attention(FULL, 1, 12, 512, 64),
    attention(CAUSAL, 1, 12, 512, 64, is_causal=True),
    attention(SHORT, 8, 12, 128, 64, smoke=True),
    attention(SHORT, 8, 12, 128, 64, is_causal=True, smoke=True),
    attention(CAUSAL, 1, 16, 2048, 64, is_causal=True),
]


def forward(query, key, value, is_causal):
    return reference.scaled_dot_product_attention_forward(query, key, value, is_causal=is_causal)[0]


def backward(dy, query, key, value, is_causal):
    saved = reference.scaled_dot_product_attention_forward(query, key, value, is_causal=is_causal)
    return reference.scaled_dot_product_attention_backward(
        dy, query, key, value, *saved, is_causal=is_causal
    )[:3]


def jax(query, key, value, is_causal):
    from jax import nn

    query, key, value = (x.swapaxes(1, 2) for x in (query, key, value))  # (B, L, H, D)
    return nn.dot_product_attention(query, key, value, is_causal=is_causal).swapaxes(1, 2)


def onnx(graph, query, key, value, is_causal):
    return graph.node("Attention", query, key, value, is_causal=int(is_causal))


BENCHES = [
    Functional(
        "scaled_dot_product_attention",
        CASES,
        forward,
        backward,
        wrt=("query", "key", "value"),
        jax=jax,
        onnx=onnx,
    )
]
