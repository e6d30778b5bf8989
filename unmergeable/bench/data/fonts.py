"""Fonts of Debian 12, by the scripts that they are good for, with what design of type each follows.

Fonts that copy one design (all of Times, say) count as one, by any maker, so that no design
is in two splits.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from unmergeable.bench.zoo.packages import debian

UNDER = "./usr/share/fonts/"
ENDINGS = (".ttf", ".otf")


@dataclass(frozen=True)
class Collection:
    """Fonts of some Debian packages.

    Attributes:
        packages: name, version and SHA-256 of each.
        source: where they come from, with their licences.
        designs: how a font file's name begins, to the design it follows; the first that fits
            counts, and fonts that none fits are left out.
    """

    packages: tuple[tuple[str, str, str], ...]
    source: str
    designs: Mapping[str, str]

    def files(self, cache: str | Path | None = None) -> Iterator[tuple[Path, str]]:
        """All fonts whose design is known, with it, in a fixed order.

        Raises:
            DownloadError: A package could not be fetched or is not the known one.
        """
        for package in self.packages:
            folder = debian(*package, UNDER, cache)
            for path in sorted(p for p in folder.rglob("*") if p.suffix in ENDINGS):
                if design := self.design(path):
                    yield path, design

    def design(self, path: Path) -> str | None:
        """The design that a font file follows."""
        return next(
            (name for start, name in self.designs.items() if path.stem.startswith(start)), None
        )


EUROPEAN = Collection(
    packages=(
        (
            "fonts-cmu",
            "0.7.0-5",
            "1bb92b7040b2737740cb77d0a89a830bf3824a2d20b20f039856b20f8349804d",
        ),
        (
            "fonts-dejavu-core",
            "2.37-6",
            "8892669e51aab4dc56682c8e39d8ddb7d70fad83c369344e1e240bf3ca22bb76",
        ),
        (
            "fonts-freefont-ttf",
            "20120503-10",
            "4ca1c21ebc479198a3a5879d236c8317d6f7b2f1c403f7890e24c02eead05615",
        ),
        (
            "fonts-liberation",
            "1:1.07.4-11",
            "efd381517f958b01969343634ffcbdd60056be7779af84c6f53a005090430204",
        ),
        (
            "fonts-linuxlibertine",
            "5.3.0-6",
            "5c77471e910189b3e4e2eda2b1c5f549ddcaf4de8f9640b97773643970d29087",
        ),
        (
            "fonts-open-sans",
            "1.11-2",
            "ed8c4258af6c23e5105fa18940544f060f3c9664fbe881f25130fe0c65bc1485",
        ),
        (
            "fonts-roboto-unhinted",
            "2:0~20170802-3",
            "f89cf7d8a589489daecf750031ec50456ab3e648d49ff544f0f08753268fbd91",
        ),
    ),
    source="fonts of Debian 12: CMU, DejaVu, FreeFont, Liberation, Libertine, Open Sans, Roboto "
    "(OFL, Apache-2.0, GPL with font exception, and others)",
    designs={
        "LinBiolinum": "biolinum",
        "LinLibertine": "libertine",
        "cmun": "computer modern",
        "DejaVuSerif": "dejavu serif",
        "DejaVuSans": "dejavu sans",
        "FreeMono": "courier",
        "LiberationMono": "courier",
        "FreeSerif": "times",
        "LiberationSerif": "times",
        "FreeSans": "helvetica",
        "LiberationSans": "helvetica",
        "OpenSans": "open sans",
        "Roboto": "roboto",
    },
)
HEBREW = Collection(
    packages=(
        (
            "culmus",
            "0.133-1",
            "d13eb8269204532e4239ce0b133343b8f764fb2069e057ea86060e7396101b30",
        ),
    ),
    source="fonts of Debian 12: Culmus (GPL with font exception, OFL)",
    designs={
        "David": "david",
        "FrankRuehl": "frank ruehl",
        "Hadasim": "hadasim",
        "Keter": "keter",
        "Miriam": "miriam",
        "Nachlieli": "nachlieli",
        "Shofar": "shofar",
        "Simple": "simple",
        "StamAshkenaz": "stam ashkenaz",
        "StamSefarad": "stam sefarad",
    },
)
ARABIC = Collection(
    packages=(
        (
            "fonts-kacst",
            "2.01+mry-15",
            "1a83306b736dbc0a26a10d89b924f1aaaa6743ab5218b2b474be6bbb00b6fa89",
        ),
    ),
    source="fonts of Debian 12: KACST (GPL)",
    designs={
        "KacstArt": "art",
        "KacstBook": "book",
        "KacstDecorative": "decorative",
        "KacstDigital": "digital",
        "KacstFarsi": "farsi",
        "KacstLetter": "letter",
        "KacstNaskh": "naskh",
        "KacstOffice": "office",
        "KacstPen": "pen",
        "KacstPoster": "poster",
        "KacstQurn": "qurn",
        "mry_KacstQurn": "qurn",
        "KacstScreen": "screen",
        "KacstTitle": "title",
    },
)
GEORGIAN = Collection(
    packages=(
        (
            "fonts-bpg-georgian",
            "2012-5",
            "49f4da40b766e073e58a731b66fa6a4b28c0265fbfefbb62e8199a2565072431",
        ),
    ),
    source="fonts of Debian 12: BPG (GPL with font exception)",
    designs={
        "BPG_Algeti": "algeti",
        "BPG_Chveulebrivi": "chveulebrivi",
        "BPG_Courier": "courier",
        "BPG_DedEena": "dedeena",
        "BPG_DejaVu": "dejavu",
        "BPG_Elite": "elite",
        "BPG_Excelsior": "excelsior",
        "BPG_Glaho": "glaho",
        "BPG_Gorda": "gorda",
        "BPG_Ingiri": "ingiri",
        "BPG_Mrgvlovani": "mrgvlovani",
        "BPG_Nateli": "nateli",
        "BPG_Nino": "nino",
        "BPG_Sans": "sans",
        "BPG_Serif": "serif",
    },
)
