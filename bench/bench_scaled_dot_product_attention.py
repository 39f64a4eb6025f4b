from bench.functional import Case, Functional
from fastdl import reference


def attention(B, H, L, D, is_causal, smoke=False):
    arrays = {name: (B, H, L, D) for name in ("query", "key", "value")}
    name = f"({B}, {H}, {L}, {D}){' causal' if is_causal else ''}"
    return Case(name, arrays, {"is_causal": is_causal}, smoke)


CASES = [
    *(attention(1, 12, 512, 64, causal) for causal in (False, True)),
    *(attention(8, 12, 128, 64, causal, smoke=True) for causal in (False, True)),
    attention(1, 16, 2048, 64, is_causal=True),
]


def forward(query, key, value, is_causal):
    return reference.scaled_dot_product_attention_forward(query, key, value, is_causal=is_causal)[0]


def backward(dy, query, key, value, is_causal):
    saved = reference.scaled_dot_product_attention_forward(query, key, value, is_causal=is_causal)
    return reference.scaled_dot_product_attention_backward(
        dy, query, key, value, *saved, is_causal=is_causal
    )[:3]


BENCHES = [
    Functional(
        "scaled_dot_product_attention", CASES, forward, backward, wrt=("query", "key", "value")
    )
]
