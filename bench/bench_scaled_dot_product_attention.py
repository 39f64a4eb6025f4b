from bench.case import Case, normal


def attention(b: int, h: int, length: int, d: int, smoke: bool = False, **kwargs) -> Case:
    name = f"({b},{h},{length},{d})" + (" causal" if kwargs.get("is_causal") else "")
    return Case(
        "scaled_dot_product_attention",
        name,
        lambda t: tuple(normal((b, h, length, d), t, seed) for seed in range(3)),
        kwargs,
        smoke,
    )


CASES = [
    attention(1, 12, 512, 64),
    attention(1, 12, 512, 64, is_causal=True),
    attention(8, 12, 128, 64, smoke=True),
    attention(8, 12, 128, 64, smoke=True, is_causal=True),
    attention(1, 12, 197, 64),
    attention(1, 16, 2048, 64, is_causal=True),
]
