from bench.functional import Case, Functional, family
from fastdl import reference

# Target of forward+backward against the best peer: the issue names none.
FULL = family("attention, full", (1.25, 1.15), (1.25, None))
CAUSAL = family("attention, causal", (1.6, 1.4), (1.25, None))
SHORT = family("attention, short", (1.4, 1.2), (1.25, None))
DECODE = family("attention, decode", (1.2, 1.1), (1.25, None))


def attention(family, B, H, L, D, is_causal=False, smoke=False):
    arrays = {name: (B, H, L, D) for name in ("query", "key", "value")}
    name = f"({B}, {H}, {L}, {D}){' causal' if is_causal else ''}"
    return Case(name, family, arrays, {"is_causal": is_causal, "enable_gqa": False}, smoke)


def decode(B, H, key_heads, S, D):
    arrays = {name: (B, key_heads, S, D) for name in ("key", "value")}
    name = f"({B}, {H}, 1, {D}) on {key_heads} heads of {S} keys"
    options = {"is_causal": False, "enable_gqa": True}
    return Case(name, DECODE, {"query": (B, H, 1, D), **arrays}, options)


CASES = [
    attention(FULL, 1, 12, 512, 64),
    attention(CAUSAL, 1, 12, 512, 64, is_causal=True),
    attention(SHORT, 8, 12, 128, 64, smoke=True),
    attention(SHORT, 8, 12, 128, 64, is_causal=True, smoke=True),
    attention(SHORT, 8, 12, 197, 64),  # ViT
    attention(CAUSAL, 1, 8, 1023, 128, is_causal=True),
    attention(CAUSAL, 1, 16, 2048, 64, is_causal=True),
    decode(1, 12, 12, 1024, 64),
    decode(8, 32, 8, 2048, 128),
]


def forward(query, key, value, **options):
    return reference.scaled_dot_product_attention_forward(query, key, value, **options)[0]


def backward(dy, query, key, value, **options):
    saved = reference.scaled_dot_product_attention_forward(query, key, value, **options)
    return reference.scaled_dot_product_attention_backward(
        dy, query, key, value, *saved, **options
    )[:3]


def jax(query, key, value, is_causal, enable_gqa):  # shares heads by their numbers
    from jax import nn

    query, key, value = (x.swapaxes(1, 2) for x in (query, key, value))  # (B, L, H, D)
    return nn.dot_product_attention(query, key, value, is_causal=is_causal).swapaxes(1, 2)


def onnx(graph, query, key, value, is_causal, enable_gqa):  # as jax
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
