"""The compiled kernel gives, bit for bit, what its numpy twin gives, and refuses the same."""

import os
import shutil
import subprocess
import sys
import sysconfig
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.gauge.kernel_fuzz import fuzz
from tests.gauge.strategies import seeds
from tests.gauge.test_tensor_map import SHAPED, drawn, stored
from unmergeable.errors import UnmergeableError
from unmergeable.gauge import kernel
from unmergeable.gauge.axis_map import AxisMap
from unmergeable.gauge.floats import FORMATS
from unmergeable.gauge.groups import Kind
from unmergeable.gauge.tensor_map import TensorMap

ROOT = Path(__file__).parents[2]
built = pytest.mark.skipif(kernel.compiled is None, reason="the kernel is not built here")


class Counting:
    """The kernel, and how often it did the work."""

    def __init__(self, compiled):
        self.compiled, self.done = compiled, 0

    def __getattr__(self, name):
        function = getattr(self.compiled, name)

        def call(*args):
            done = function(*args)
            self.done += done
            return done

        return call


def outcome(change, data, shape, dtype, allow, compiled):
    """What comes of a map: bytes, or the error in words."""
    saved, kernel.compiled = kernel.compiled, compiled
    try:
        with np.errstate(all="ignore"):
            return change.apply(data, shape, dtype, allow_non_finite=allow).tobytes()
    except UnmergeableError as error:
        return type(error).__name__, str(error)
    finally:
        kernel.compiled = saved


def both(change, data, shape, dtype, allow=False):
    """The outcome, which is the same with the kernel and without; and how often it did the work."""
    counting = Counting(kernel.compiled)
    made = outcome(change, data, shape, dtype, allow, counting)
    assert made == outcome(change, data, shape, dtype, allow, None)
    return made, counting.done


def patterns(seed, count, dtype, everything):
    """Numbers of a model; or any bits, so that all that a format knows is among them."""
    random = np.random.default_rng(seed)
    if everything:
        return np.frombuffer(random.bytes(count * FORMATS[dtype].pattern.itemsize), np.uint8)
    values = random.normal(size=count) * 0.02
    values[random.random(count) < 0.1] *= 0.0
    return stored(values, dtype)


@built
@pytest.mark.parametrize("dtype", list(FORMATS))
@given(st.sampled_from(SHAPED), seeds, st.booleans(), st.booleans())
def test_lossless_maps_are_the_same(dtype, text, seed, everything, allow):
    scales = dtype not in ("F8_E4M3", "F8_E5M2")
    change, shape = drawn(text, seed, Kind(scales=scales))
    data = patterns(seed, int(np.prod(shape)), dtype, everything)
    made, done = both(change, data, shape, dtype, allow)
    if not everything and dtype != "F16":  # of float16, small weights have no room for scales
        assert isinstance(made, bytes)
        assert done or change.is_identity


@built
@pytest.mark.parametrize("dtype", ["F64", "F32", "F16", "BF16"])
@given(st.sampled_from(SHAPED), seeds, st.booleans(), st.booleans())
def test_general_maps_are_the_same(dtype, text, seed, everything, allow):
    if "|" in text:
        return
    change, shape = drawn(text, seed, Kind(general=True))
    data = patterns(seed, int(np.prod(shape)), dtype, everything)
    made, done = both(change, data, shape, dtype, allow)
    if not everything:
        assert isinstance(made, bytes)
        assert done or change.is_identity or (dtype in ("F64", "F16") and not change.is_lossless)


@built
@given(seeds)
def test_rounding_is_the_same_where_it_is_hard(seed):
    """Ties, near ties on both sides of them, and the ends of the range."""
    random = np.random.default_rng(seed)
    low = random.choice([0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF], 64).astype(np.uint32)
    bits = random.integers(0, 0x7F7F, 64).astype(np.uint32) << 16 | low
    values = bits.view(np.float32).astype(np.float64)
    values *= 1 + random.choice([0.0, 2.0**-40, -(2.0**-40)], 64)
    for dtype in ("BF16", "F32"):
        with np.errstate(over="ignore"):
            number = FORMATS[dtype].number
            want = values.astype(number).view(FORMATS[dtype].pattern)
        made = np.empty_like(want)
        assert kernel.narrow(values, made, FORMATS[dtype]) == bool(
            np.isfinite(want.view(number).astype(np.float64)).all()
        )
        np.testing.assert_array_equal(made, want)


@built
@pytest.mark.parametrize("power", [-40, -30, -16, 16, 30, 31, 40])
@pytest.mark.parametrize("dtype", ["F16", "BF16", "F32"])
def test_large_powers_of_two_do_not_wrap_around(dtype, power):
    change = TensorMap((AxisMap.monomial(np.arange(4), np.full(4, 2.0**power)),) * 2)
    made, _ = both(change, stored(np.full(16, 1.5), dtype), (4, 4), dtype)
    fits = abs(2 * power) < {"F16": 15, "BF16": 127, "F32": 127}[dtype]
    assert isinstance(made, bytes) == fits


@built
def test_what_does_not_lie_as_the_kernel_needs_it_goes_to_numpy():
    shape = (4, 6)
    change = TensorMap((AxisMap.monomial(np.arange(4)[::-1]), None))
    raw = stored(np.arange(25.0), "F32")
    apart = np.frombuffer(b"\0" + raw.tobytes(), np.uint8)[1:97]
    made, done = both(change, apart, shape, "F32")
    assert made == both(change, raw[:96].copy(), shape, "F32")[0]
    assert not done


@built
@pytest.mark.parametrize("seed", range(4))
def test_calls_that_do_not_fit_are_refused_and_others_are_not(seed):
    right, wrong = fuzz(kernel.compiled, seed, 2000)
    assert min(right, wrong) > 500


def test_nothing_outside_a_buffer_is_touched(tmp_path):
    """The same calls of a build whose every read and write AddressSanitizer watches."""
    compiler = shutil.which("gcc")
    libraries = [
        subprocess.run(
            [compiler, f"-print-file-name={name}.so"], capture_output=True, text=True, check=True
        ).stdout.strip()
        for name in ("libasan", "libubsan")
        if compiler
    ]
    if not libraries or not all(Path(library).is_absolute() for library in libraries):
        pytest.skip("no gcc with libasan here")
    build = tmp_path / "_kernel.so"
    include = sysconfig.get_paths()["include"]
    watched = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-O1", "-g"]
    source = ROOT / "unmergeable/gauge/_kernel.c"
    command = [
        compiler,
        *watched,
        "-shared",
        "-fPIC",
        f"-I{include}",
        str(source),
        "-o",
        str(build),
    ]
    subprocess.run(command, check=True, capture_output=True)
    settings = {
        "LD_PRELOAD": " ".join(libraries),
        "ASAN_OPTIONS": "detect_leaks=0",  # the interpreter leaks on purpose
        "PYTHONMALLOC": "malloc",
    }
    run = subprocess.run(
        [sys.executable, "-m", "tests.gauge.kernel_fuzz", str(build), "1", "6000"],
        cwd=ROOT,
        env={**os.environ, **settings},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr[:3000]
    assert min(map(int, run.stdout.split())) > 2000


@pytest.mark.parametrize("compiler", ["false", None])
def test_the_package_builds_with_a_compiler_and_without(tmp_path, compiler):
    if compiler is None and shutil.which("cc") is None:
        pytest.skip("no compiler here")
    if int(version("setuptools").partition(".")[0]) < 77:
        pytest.skip("setuptools does not know this pyproject.toml")
    for name in ("pyproject.toml", "README.md", "LICENSE", "unmergeable/gauge/_kernel.c"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    for name in ("version.py", "__init__.py"):
        shutil.copy(ROOT / "unmergeable" / name, tmp_path / "unmergeable" / name)
    chosen = {"CC": compiler} if compiler else {}
    run = subprocess.run(
        [sys.executable, "-c", "from setuptools import setup; setup()", "build_ext"],
        cwd=tmp_path,
        env={**os.environ, **chosen},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    assert bool(list(tmp_path.rglob("build/**/_kernel.*"))) == (compiler is None)
