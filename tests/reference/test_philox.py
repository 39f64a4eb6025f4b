import numpy as np
import pytest

from fastdl.reference.philox import philox4x32, random_words


# Known answers published with the Random123 library, kat_vectors, "philox4x32 10"
@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        pytest.param(
            [0, 0, 0, 0],
            (0, 0),
            [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8],
            id="zeros",
        ),
        pytest.param(
            [0xFFFFFFFF] * 4,
            (0xFFFFFFFF, 0xFFFFFFFF),
            [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD],
            id="ones",
        ),
        pytest.param(
            [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
            (0xA4093822, 0x299F31D0),
            [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
            id="digits of pi",
        ),
    ],
)
def test_known_answers(counter, key, expected):
    words = philox4x32(counter, key)
    assert words.dtype == np.uint32
    assert words.tolist() == expected


def test_many_counters_at_once():
    counters = np.random.default_rng(0).integers(0, 2**32, size=(2, 5, 4))
    words = philox4x32(counters, (1, 2))
    assert words.shape == (2, 5, 4)
    for index in np.ndindex(2, 5):
        assert np.array_equal(words[index], philox4x32(counters[index], (1, 2)))


def test_element_i_takes_word_i_mod_4_of_block_i_div_4():
    seed, offset = 0x0123456789ABCDEF, 0x00000007FFFFFFFE
    words = random_words(11, (seed, offset))
    assert words.shape == (11,)
    for i, word in enumerate(words):
        block = offset + i // 4  # crosses from the low word of the counter into the high one
        counter = [block % 2**32, block // 2**32, 0, 0]
        assert word == philox4x32(counter, (0x89ABCDEF, 0x01234567))[i % 4]


def test_offset_wraps_at_64_bits():
    words = random_words(8, (5, 2**64 - 1))
    assert np.array_equal(words[4:], random_words(4, (5, 0)))


@pytest.mark.parametrize("size", [0, 1, 3, 4, 5])
def test_a_shorter_array_takes_the_first_words(size):
    assert np.array_equal(random_words(size, (1, 2)), random_words(12, (1, 2))[:size])
