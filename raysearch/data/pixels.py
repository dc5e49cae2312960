"""Pixels written as text, the way FER2013's CSV has them, to arrays.

Rows are parsed a few dozen at a time with whole-array byte arithmetic: for every byte that could
end a number its value is computed from it and the two before, and those that do end one are kept.
Whatever is not plainly right is parsed again row by row, for a verdict in words.
"""

from collections.abc import Sequence

import numpy as np

ROWS_AT_ONCE = 24


class BadRow(Exception):
    """Why a row cannot be used, in a few words for ``rejected.csv``."""


def parse_pixels(texts: Sequence[bytes], side: int) -> tuple[np.ndarray, dict[int, str]]:
    """uint8 [N, side, side] of the good rows, and why each bad one is bad.

    A good row is exactly side * side integers from 0 to 255 between blanks.
    """
    count = side * side
    good = np.empty((len(texts), count), np.uint8)
    filled = 0
    bad = {}
    for start in range(0, len(texts), ROWS_AT_ONCE):
        chunk = texts[start : start + ROWS_AT_ONCE]
        if _parse_plain(chunk, good[filled : filled + len(chunk)]):
            filled += len(chunk)
            continue
        for row, text in enumerate(chunk, start):
            try:
                good[filled] = _parse_carefully(text, count)
                filled += 1
            except BadRow as error:
                bad[row] = str(error)
    return good[:filled].reshape(-1, side, side), bad


def _parse_plain(texts: Sequence[bytes], out: np.ndarray) -> bool:
    """Fill ``out`` (uint8 [rows, count]) with the numbers between spaces of each row; False if
    anything is amiss.

    Arrays are aligned so that position i is the i-th byte of the rows joined by spaces.
    """
    count = out.shape[1]
    text = np.frombuffer(b" ".join([b"  ", *texts, b""]), np.uint8)
    is_digit = text > 47
    is_space = text == 32
    if text.max() > 57 or not (is_digit | is_space).all():
        return False
    one, digit = is_digit.view(np.uint8), text & np.uint8(15)  # a space's digit is 0
    three_digits = one[1:-3] & one[2:-2]
    three_digits &= one[3:-1]
    value = digit[1:-3] * three_digits
    four_digits = three_digits & one[:-4]
    if value.max() > 2 or four_digits.any():
        return False
    below_hundred = digit[2:-2] * np.uint8(10)
    below_hundred += digit[3:-1]
    value *= np.uint8(100)
    value += below_hundred
    if (value < below_hundred).any():  # 256 to 299 wrapped around
        return False
    last = np.flatnonzero(is_digit[3:-1] & is_space[4:])
    ends = np.cumsum([len(row) + 1 for row in texts])
    if len(last) != count * len(texts) or (last[count - 1 :: count] >= ends).any():
        return False
    if (last[count::count] < ends[:-1]).any():
        return False
    value.take(last, mode="clip", out=out.reshape(-1))  # clip only saves a check
    return True


def _parse_carefully(text: bytes, count: int) -> np.ndarray:
    numbers = text.split()
    if len(numbers) != count:
        raise BadRow(f"{len(numbers):,} pixels, not {count:,}")
    for position, number in enumerate(numbers, 1):
        if not number.isdigit():
            shown = number[:20].decode("utf-8", "replace")
            raise BadRow(f"pixel {position} is {shown!r}, not an integer from 0 to 255")
        if len(number) > 9 or int(number) > 255:
            shown = number[:20].decode()
            raise BadRow(f"pixel {position} is {shown}, not from 0 to 255")
    return np.array(numbers, dtype=np.uint8)
