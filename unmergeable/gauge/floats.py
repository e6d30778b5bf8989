"""The floating-point formats of weights, as bit patterns, and the way into them."""

from __future__ import annotations

from dataclasses import dataclass

import ml_dtypes
import numpy as np
import numpy.typing as npt

from unmergeable.errors import InputError, PrecisionError

# Numbers looked at together, so that their magnitudes fit a core's cache.
_PIECE = 1 << 17
Bytes = npt.NDArray[np.uint8]
Float = npt.NDArray[np.float64]
Pattern = npt.NDArray[np.unsignedinteger]


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

    def values(self, data: Bytes) -> Float:
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

# Formats that are arithmetic enough to be rounded into by the general lock.
ROUNDABLE = frozenset({"F64", "F32", "F16", "BF16"})


def cast(values: Float, form: Format, allow_non_finite: bool) -> Pattern:
    """Rounds float64 into a format.

    Raises:
        PrecisionError: a finite number that the format cannot hold.
    """
    with np.errstate(over="ignore"):
        out = values.astype(form.number).view(form.pattern)
    if not allow_non_finite and not is_finite(out, form):
        raise PrecisionError(
            f"a weight of {np.abs(values).max():g} is out of {form.name}'s range after the "
            "lock. Use --set kind=lossless."
        )
    return out


def is_finite(patterns: Pattern, form: Format) -> bool:
    """Whether none of these patterns is a NaN or an infinity."""
    magnitude = patterns & form.pattern.type(form.sign - 1)
    return not magnitude.size or int(magnitude.max()) < form.nonfinite


def check_finite(patterns: Pattern, form: Format) -> None:
    """Refuses NaN and infinity.

    Raises:
        InputError: there is one.
    """
    flat = patterns.reshape(-1)
    for start in range(0, flat.size, _PIECE):
        if not is_finite(flat[start : start + _PIECE], form):
            raise InputError(
                "a weight is NaN or infinite. Repair the model, or pass --allow-non-finite to "
                "carry such values along."
            )
