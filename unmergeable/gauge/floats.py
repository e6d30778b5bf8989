"""The floating-point formats of weights, as bit patterns."""

from __future__ import annotations

from dataclasses import dataclass

import ml_dtypes
import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Format:
    """A format of sign, exponent and mantissa.

    Attributes:
        name: as in safetensors headers.
        number: the numpy dtype with this format's arithmetic.
        mantissa: bits of the mantissa.
        nonfinite: the smallest magnitude pattern that is an infinity or not a number.
    """

    name: str
    number: np.dtype[np.generic]
    mantissa: int
    nonfinite: int

    @property
    def pattern(self) -> np.dtype[np.unsignedinteger]:
        """The unsigned integer of the same width."""
        return np.dtype(f"<u{self.number.itemsize}")

    @property
    def sign(self) -> int:
        """The bit pattern of the sign alone."""
        return 1 << (8 * self.number.itemsize - 1)

    def values(self, data: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
        """Stored bytes as float64, shape (n,)."""
        return np.asarray(data.view(self.number).astype(np.float64))


FORMATS: dict[str, Format] = {
    form.name: form
    for form in (
        Format("F64", np.dtype("<f8"), 52, 0x7FF0_0000_0000_0000),
        Format("F32", np.dtype("<f4"), 23, 0x7F80_0000),
        Format("F16", np.dtype("<f2"), 10, 0x7C00),
        Format("BF16", np.dtype(ml_dtypes.bfloat16), 7, 0x7F80),
        Format("F8_E4M3", np.dtype(ml_dtypes.float8_e4m3fn), 3, 0x7F),
        Format("F8_E5M2", np.dtype(ml_dtypes.float8_e5m2), 2, 0x7C),
    )
}

# Formats wide enough that a trained weight times 1/4 .. 4 neither overflows nor loses bits to
# subnormals. float16 has 5 exponent bits: ordinary small weights would.
WIDE = frozenset({"F64", "F32", "BF16"})
# Formats that are arithmetic enough to be rounded into by the general lock.
ROUNDABLE = frozenset({"F64", "F32", "F16", "BF16"})
