import numpy as np
import pytest

from fastdl.reference import dropout_backward, dropout_forward
from fastdl.reference.philox import random_words

RNG_STATE = (42, 7)


@pytest.mark.parametrize("p", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_drops_the_share_p_and_keeps_the_mean(p):
    size = 200_000
    y = dropout_forward(np.ones(size), p, RNG_STATE)
    kept = y != 0
    # 5 standard deviations of the share of kept elements, a binomial mean
    tolerance = 5 * np.sqrt(p * (1 - p) / size)
    assert abs(np.mean(kept) - (1 - p)) <= tolerance
    if p < 1:
        np.testing.assert_allclose(y[kept], 1 / (1 - p))


def test_neighbours_drop_independently():
    kept = dropout_forward(np.ones(200_000), 0.5, RNG_STATE) != 0
    for lag in (1, 2, 3, 4, 5):
        both = np.mean(kept[:-lag] & kept[lag:])
        assert abs(both - 0.25) < 5 * np.sqrt(0.25 * 0.75 / kept.size)


def test_threshold_keeps_the_word_that_equals_it():
    word = int(random_words(1, RNG_STATE)[0])
    assert dropout_forward(1.0, word / 2**32, RNG_STATE) != 0
    assert dropout_forward(1.0, (word + 1) / 2**32, RNG_STATE) == 0


@pytest.mark.parametrize("shape", [(), (0,), (5,), (2, 3, 5)], ids=str)
def test_forward_and_backward_are_one_product(shape):
    x = np.random.default_rng(0).normal(size=shape)
    mask = dropout_forward(np.ones(shape), 0.5, RNG_STATE)
    assert mask.shape == shape
    np.testing.assert_array_equal(dropout_forward(x, 0.5, RNG_STATE), x * mask, strict=True)
    np.testing.assert_array_equal(dropout_backward(x, 0.5, RNG_STATE), x * mask, strict=True)


@pytest.mark.parametrize("p", [0.0, 1.0])
def test_special_values_are_those_of_torch(p):
    torch = pytest.importorskip("torch")
    x = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 1.0, -1.0])
    expected = torch.nn.functional.dropout(torch.tensor(x), p).numpy()
    y = dropout_forward(x, p, RNG_STATE)
    np.testing.assert_array_equal(y, expected)
    np.testing.assert_array_equal(np.signbit(y), np.signbit(expected))
