"""Random calls of the compiled kernel, right ones and wrong ones, for any build of it.

Run as a program it loads a build by its path: a test does so with one made for AddressSanitizer,
which ends the process at the first byte that is read or written outside a buffer.
"""

import importlib.util
import sys

import numpy as np

LARGE = [1 << 29, 1 << 31, 1 << 32, 1 << 60, (1 << 62) + 1, (1 << 63) - 1]
SIZES = [0, 1, 2, 3, 4, 7, 8, 9, 16, 17, 33, 64, 200]
WIDTHS = {"move": (1, 2, 4, 8), "scale": (2, 4), "widen": (2, 4), "narrow": (2, 4)}
# Bytes of an item of what belongs to rows, and of what belongs to columns; 0 for a number's width.
BESIDE = {"move": ((0, 0), (0, 0)), "scale": ((8,), (8,)), "widen": ((), (8,)), "narrow": ((), ())}


def filled(random, count, width):
    """An array of random bits that starts where numbers of that width may start."""
    return np.frombuffer(random.bytes(count * width), f"u{width}").copy()


def right(random, name):
    """A call that fits: the arguments of `compiled.NAME`, by name."""
    width = int(random.choice(WIDTHS[name]))
    rows, columns = (int(random.choice(SIZES)) for _ in range(2))
    if name == "narrow":
        rows = 1
    given = random.random(6) < 0.5
    more = rows + int(random.choice([0, 0, 1, 5]))  # rows may be taken from a taller matrix
    ordered = name == "widen" or (name != "narrow" and given[0])
    held = more if ordered else rows
    call = {
        "source": filled(random, held * columns, 8 if name == "narrow" else width),
        "out": filled(random, rows * columns, 8 if name == "widen" else width),
        "width": width,
        "rows": rows,
        "columns": columns,
    }
    if name == "narrow":
        del call["rows"]
    else:
        call["row_from"] = random.integers(0, max(1, held), rows) if ordered else None
        call["column_from"] = random.permutation(columns).astype(np.uint32) if given[1] else None
    place = 2
    for side, (items, count) in enumerate(zip(BESIDE[name], (rows, columns), strict=True)):
        for item in items:
            kept = given[place]
            call[f"side {side} {place}"] = filled(random, count, item or width) if kept else None
            place += 1
    if name == "move":
        call["unit"] = 1 << int(random.integers(0, 8 * width - 1))
    call["nonfinite"] = int(random.integers(0, 1 << min(62, 8 * width - 1)))
    return call


def wrong(random, call):
    """The same call with one thing changed, which may or may not make it wrong."""
    key = str(random.choice(list(call)))
    value, call = call[key], dict(call)
    if "rows" in call and random.random() < 0.05:  # sizes whose product is none of its factors'
        sizes = (-call["rows"], -call["columns"]), (1 << 32, 1 << 32), (1 << 33, 1 << 31)
        call["rows"], call["columns"] = sizes[random.integers(len(sizes))]
        if call["rows"] > 0:
            call["source"] = call["out"] = np.empty(0, np.uint8)
        kept = ("source", "out", "row_from")
        return {k: v if k in kept or isinstance(v, int) else None for k, v in call.items()}
    if isinstance(value, np.ndarray):
        how = random.integers(0, 6)
        if how == 0:
            call[key] = value[: random.integers(0, len(value) + 1)].copy()
        elif how == 1:
            call[key] = np.concatenate([value, value[:1]])
        elif how == 2:
            raw = np.frombuffer(b"\0" + value.tobytes(), np.uint8).copy()
            call[key] = raw[1:]
        elif how == 3 and key in ("row_from", "column_from") and len(value):
            far = [len(value), (1 << 31) - 1] + [-1, 1 << 62, -(1 << 63)] * (value.itemsize == 8)
            call[key] = value.copy()
            call[key][random.integers(len(value))] = random.choice(far)
        elif how == 4 and key != "out" and 0 < value.nbytes <= call["out"].nbytes:
            call[key] = call["out"].view(np.uint8)[: value.nbytes].view(value.dtype)
            call[key][:] = value
        else:
            call[key] = value.view(np.uint8)[1:].copy()
    elif isinstance(value, int):
        changes = [value + 1, value - 1, -value, 0, 2 * value, *LARGE]
        call[key] = int(random.choice([one for one in changes if -(1 << 63) <= one < 1 << 63]))
    return call


def fits(name, call):
    """Whether a call is a right one, said in the plainest way."""
    width, rows, columns = call["width"], call.get("rows", 1), call["columns"]
    if width not in WIDTHS[name] or rows < 0 or not 0 <= columns < 1 << 58:
        return False
    if any(call.get(key, 0) % (1 << 64) >> (8 * width - 1) for key in ("unit", "nonfinite")):
        return False
    from_width, to_width = 8 if name == "narrow" else width, 8 if name == "widen" else width
    held = rows
    if call.get("row_from") is not None:
        held = call["source"].nbytes // (columns * from_width) if columns else (1 << 63) - 1
    wanted = {"source": (held * columns, from_width), "out": (rows * columns, to_width)}
    wanted |= {"row_from": (rows, 8), "column_from": (columns, 4)}
    for side, (items, count) in enumerate(zip(BESIDE[name], (rows, columns), strict=True)):
        keys = [key for key in call if key.startswith(f"side {side}")]
        wanted |= {key: (count, item or width) for key, item in zip(keys, items, strict=True)}
    for key, (count, item) in wanted.items():
        array = call.get(key)
        if array is None:
            continue
        if array.nbytes != count * item or (count and array.ctypes.data % item):
            return False
        if key != "out" and np.may_share_memory(array, call["out"]):
            return False
    for key, size, kind in (("row_from", held, "i8"), ("column_from", columns, "u4")):
        places = None if call.get(key) is None else call[key].view(np.uint8).view(kind)
        if places is not None and not all(0 <= int(at) < size for at in places):
            return False
    return True


def fuzz(compiled, seed, count):
    """Makes that many calls.

    Returns:
        How many were right, and how many wrong; each was taken or refused as it should be.

    Raises:
        AssertionError: one was not.
    """
    random = np.random.default_rng(seed)
    found = [0, 0]
    for _ in range(count):
        name = str(random.choice(list(WIDTHS)))
        call = right(random, name)
        if random.random() < 0.6:
            call = wrong(random, call)
        good = fits(name, call)
        before = call["out"].tobytes()
        try:
            done = getattr(compiled, name)(*call.values())
            assert good, f"taken: {name} {call}"
            assert done in (True, False)
        except ValueError as error:
            assert not good, f"refused: {error}: {name} {call}"
            assert call["out"].tobytes() == before
        found[not good] += 1
    return tuple(found)


def load(path):
    """A build of the kernel, by its path."""
    spec = importlib.util.spec_from_file_location("_kernel", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    print(*fuzz(load(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])))
