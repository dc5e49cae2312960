"""Ways to damage a file, drawn from a seeded generator; each says what it did."""

import re

import numpy as np

EXTREMES = [0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**64 - 1]
NUMBERS = ["-1", "0", "1e308", "1e999", "-1e999", "NaN", "Infinity", "0.5", "true", "null", "[]"]
NUMBERS += [str(2**31), str(2**63), str(2**64), "9" * 5000, '"1"', "{}", "1e-320", "[[[]]]"]
NUMBER = re.compile(rb"-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?")


def mutate(data: bytes, rng: np.random.Generator, text: bool) -> tuple[bytes, str]:
    """One to three changes of ``data``; of its numbers too where it is ``text``."""
    done = []
    for _ in range(int(rng.choice([1, 1, 2, 3]))):
        changes = [flip, overwrite, cut, splice, repeat, drop, number if text else length_field]
        change = changes[rng.integers(len(changes) - 1) if rng.random() < 0.6 else -1]
        data, what = change(data, rng)
        done.append(what)
    return data, "; ".join(done)


def _place(data: bytes, rng: np.random.Generator, room: int = 1) -> int:
    """Anywhere, but mostly near the start or the end, where formats keep their headers."""
    last = max(1, len(data) - room + 1)
    near = min(last, 600)
    kind = rng.integers(4)
    if kind < 2:
        return int(rng.integers(near))
    return last - 1 - int(rng.integers(near)) if kind == 2 else int(rng.integers(last))


def flip(data: bytes, rng: np.random.Generator) -> tuple[bytes, str]:
    if not data:
        return data, "nothing to flip"
    at, bit = _place(data, rng), int(rng.integers(8))
    return data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :], f"flip bit {bit} of {at}"


def overwrite(data: bytes, rng: np.random.Generator) -> tuple[bytes, str]:
    at, new = _place(data, rng), rng.bytes(int(rng.integers(1, 9)))
    return data[:at] + new + data[at + len(new) :], f"write {new.hex()} at {at}"


def cut(data: bytes, rng: np.random.Generator) -> tuple[bytes, str]:
    at = _place(data, rng)
    return data[:at], f"cut at {at}"


def splice(data: bytes, rng: np.random.Generator) -> tuple[bytes, str]:
    start, at, size = _place(data, rng), _place(data, rng), int(rng.integers(1, 200))
    piece = data[start : start + size]
    return data[:at] + piece + data[at + size :], f"copy {start}+{size} over {at}"


def repeat(data: bytes, rng: np.random.Generator) -> tuple[bytes, str]:
    at, size, times = _place(data, rng), int(rng.integers(1, 40)), int(rng.integers(1, 200))
    return data[:at] + data[at : at + size] * times + data[at:], f"repeat {at}+{size} x {times}"


def drop(data: bytes, rng: np.random.Generator) -> tuple[bytes, str]:
    at, size = _place(data, rng), int(rng.integers(1, 40))
    return data[:at] + data[at + size :], f"drop {at}+{size}"


def length_field(data: bytes, rng: np.random.Generator) -> tuple[bytes, str]:
    """An extreme or slightly wrong integer of 1 to 8 bytes, in either byte order."""
    size = int(rng.choice([1, 2, 4, 4, 8]))
    order = str(rng.choice(["little", "big"]))
    at = _place(data, rng, size)
    old = int.from_bytes(data[at : at + size], order)
    near = [old + 1, old - 1, old * 2, old // 2, -old]
    value = (EXTREMES + near)[rng.integers(len(EXTREMES) + len(near))] % 256**size
    new = value.to_bytes(size, order)
    return data[:at] + new + data[at + size :], f"{order} {value} in {size} bytes at {at}"


def number(data: bytes, rng: np.random.Generator) -> tuple[bytes, str]:
    found = list(NUMBER.finditer(data))
    if not found:
        return flip(data, rng)
    match = found[rng.integers(len(found))]
    new = NUMBERS[rng.integers(len(NUMBERS))]
    what = f"number {match[0][:20].decode()} at {match.start()} to {new[:20]}"
    return data[: match.start()] + new.encode() + data[match.end() :], what
