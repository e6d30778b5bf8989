"""Evidence of a trace, which others check from the models, without the owner's key.

It is an in-toto statement v1 in a DSSE envelope (payload type `application/vnd.in-toto+json`),
signed with a key of the owner's (ECDSA's and Ed25519's signatures as `openssl` makes them) or not
at all.

- `subject`: the suspect's weight files, with the SHA-256 and BLAKE3 digests of each.
- `predicateType`: `https://unmergeable/trace/v1`.
- `predicate.tool`, `predicate.time`: the release that made it, and when (UTC).
- `predicate.base`, `original`, `siblings`: the weight files of the models that the suspect was
  compared with, in the form of `subject`; `siblings` is a list of such lists.
- `predicate.mark`: the mark that was found. `commitment` is what the manifest of the release has:
  SHA-256 of the bytes of `secret`, then of `RELEASE/LICENSEE` in UTF-8, where `release` is the
  digest of the expert's matrices and `licensee` a name, empty for the release to all. `strength` is
  the mark's.
- `predicate.finding`: `z`; `log10_p`, the decimal logarithm of the p-value, corrected for `tests`,
  the number of marks and suspects that were tried; `weight` and its 95 % `interval`; `numbers`,
  how many weights were looked at; and `error_rate`, the p-value up to which a mark counts as found.

The secret is that of one mark. It is derived from the key one way (HKDF), so that it says nothing
of the key and of other marks; but anyone who has it can take this mark off copies that bear it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from unmergeable.checkpoint.adapter_folder import open_either
from unmergeable.checkpoint.digest import digest_set
from unmergeable.checkpoint.folder import MANIFEST
from unmergeable.checkpoint.hub import resolve
from unmergeable.checkpoint.manifest import manifest_at
from unmergeable.defences.mark import NAME, NAME_LENGTH, Mark
from unmergeable.errors import InputError, KeyFileError, clip
from unmergeable.keys.key import Key, load_key, write_new
from unmergeable.keys.signing_key import PublicKey, SigningKey
from unmergeable.tracing.envelope import Envelope
from unmergeable.tracing.trace import Trace, TraceReport, find
from unmergeable.version import __version__

STATEMENT = "https://in-toto.io/Statement/v1"
PREDICATE = "https://unmergeable/trace/v1"
MAX_ERROR_RATE = 0.05
_SECRET_BYTES = 32
# Other processors and libraries round otherwise; figures agree that are as near as this.
_CLOSE = 1e-3
_MOST_TESTS = 10**15

Files = list[dict[str, Any]]


@dataclass(frozen=True)
class Fact:
    """One thing that evidence says.

    Attributes:
        name: which.
        holds: whether it was found to be so; None where there was nothing to check it with.
        said: a sentence.
    """

    name: str
    holds: bool | None
    said: str


@dataclass(frozen=True)
class EvidenceReport:
    """What `check_evidence` found.

    Attributes:
        facts: what was checked, and what could not be.
        licensee: whose copy the evidence is of; empty for the release to all.
        trace: the trace, made again; None where the models are not those of the evidence.

    Examples:
        >>> copy = unmergeable.protect(
        ...     "expert", "copy", "owner.key", defence="mark", base="base"
        ... )
        >>> models = {"base": "base", "original": "expert"}
        >>> report = unmergeable.trace("copy", key="owner.key", **models)
        >>> found = unmergeable.write_evidence(report, "evidence.json", "owner.key")
        >>> checked = unmergeable.check_evidence("evidence.json", "copy", manifest="copy", **models)
        >>> checked.agrees, [fact.name for fact in checked.facts if fact.holds is None]
        (True, ['signature'])
    """

    facts: tuple[Fact, ...]
    licensee: str
    trace: TraceReport | None

    @property
    def agrees(self) -> bool:
        """The verdict: nothing that could be checked is otherwise."""
        return all(fact.holds is not False for fact in self.facts)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "agrees": self.agrees,
            "licensee": self.licensee,
            "facts": {fact.name: {"holds": fact.holds, "said": fact.said} for fact in self.facts},
            "trace": self.trace and self.trace.to_dict(),
        }


def write_evidence(
    report: TraceReport,
    out: str | Path,
    key: Key | str | Path,
    private_key: SigningKey | str | Path | None = None,
) -> Trace:
    """Writes evidence of the mark that a trace found, the strongest if there are several.

    It opens that mark alone: the key and all other marks stay secret.

    Args:
        report: what `trace` found.
        out: the file to make, which its owner alone can read; an existing one is never overwritten.
        key: the owner's, or its file, as `trace` had it.
        private_key: signs the evidence, ECDSA or Ed25519; or its PEM file, if not encrypted.

    Returns:
        The trace of that mark.

    Raises:
        InputError: nothing was found; a file that exists, or that cannot be written.
        KeyFileError: another key.

    Examples:
        >>> copy = unmergeable.protect(
        ...     "expert", "copy", "owner.key", defence="mark", base="base"
        ... )
        >>> report = unmergeable.trace("copy", base="base", original="expert", key="owner.key")
        >>> found = unmergeable.write_evidence(report, "evidence.json", "owner.key", "signing.pem")
        >>> round(found.weight, 2)
        1.0
    """
    key = key if isinstance(key, Key) else load_key(key)
    signer = private_key
    if signer is not None and not isinstance(signer, SigningKey):
        signer = SigningKey.load(signer)
    best = next(iter(report.traces), None)
    if best is None or not best.found:
        raise InputError(f"no mark was found in {report.suspect}, so there is nothing to show.")
    mark = Mark.of(key, report.release, best.licensee)
    if mark.commitment != best.commitment:
        raise KeyFileError(f"the trace was made with another key than {key.id}.")
    statement = {
        "_type": STATEMENT,
        "subject": _files(report.suspect),
        "predicateType": PREDICATE,
        "predicate": {
            "tool": f"unmergeable {__version__}",
            "time": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "base": _files(report.base),
            "original": _files(report.original),
            "siblings": [_files(one) for one in report.siblings],
            "mark": {
                "commitment": mark.commitment,
                "release": mark.release,
                "licensee": mark.licensee,
                "secret": mark.secret.hex(),
                "strength": report.strength,
            },
            "finding": {
                "z": best.z,
                "log10_p": best.log10_p,
                "weight": best.weight,
                "interval": list(best.interval),
                "numbers": report.numbers,
                "tests": report.tests,
                "error_rate": report.error_rate,
            },
        },
    }
    envelope = Envelope(json.dumps(statement, indent=1, allow_nan=False).encode())
    content = envelope.unsigned() if signer is None else envelope.signed(signer)
    try:
        write_new(Path(out), content)
    except FileExistsError:
        raise InputError(f"{out} exists. Choose another name.") from None
    except OSError as error:
        raise InputError(f"cannot write {out}: {error.strerror}.") from None
    except ValueError:  # a null byte
        raise InputError(f"cannot write {clip(out)}: no file has such a name.") from None
    return best


def check_evidence(
    evidence: str | Path,
    suspect: str | Path,
    *,
    base: str | Path,
    original: str | Path,
    siblings: Sequence[str | Path] = (),
    manifest: str | Path | None = None,
    public_key: str | Path | None = None,
) -> EvidenceReport:
    """Checks evidence without the owner's key: all that it says is found again from the files.

    Args:
        evidence: the file.
        suspect: the model that it is about.
        base: the public base, from where it is published.
        original: the claimant's expert, as it was before the mark.
        siblings: the models that the claimant took out of the suspect besides, in his order. They
            have to be others' than the claimant's: one made to fit can carry a mark into anything.
        manifest: the one that was published with the release, or its folder. Without it nothing
            shows that the mark was committed to before the suspect was there.
        public_key: of the claimant, a PEM file; checks the signature.

    Raises:
        InputError: evidence that is damaged, or of another kind.
        UnmergeableError: models or keys that cannot be read.

    Examples:
        >>> copy = unmergeable.protect(
        ...     "expert", "copy", "owner.key", defence="mark", base="base"
        ... )
        >>> models = {"base": "base", "original": "expert"}
        >>> report = unmergeable.trace("copy", key="owner.key", **models)
        >>> found = unmergeable.write_evidence(report, "evidence.json", "owner.key")
        >>> unmergeable.check_evidence("evidence.json", "expert", **models).agrees
        False
    """
    envelope = Envelope.read(evidence)
    claim = _Claim.of(envelope.statement(evidence), evidence)
    facts = [_signature(envelope, public_key)]
    given = {"suspect": suspect, "base": base, "original": original}
    given |= {f"sibling {number}": one for number, one in enumerate(siblings, 1)}
    facts += [_same_files(name, claim.models.get(name), one) for name, one in given.items()]
    facts += [
        Fact(name, False, "the evidence was made with it, and it was not given: --sibling")
        for name in claim.models
        if name not in given
    ]
    facts += [_opening(claim), _committed(claim, manifest)]
    report = None
    if all(fact.holds is not False for fact in facts):
        report = find(
            suspect,
            lambda release: [claim.mark],
            base=base,
            original=original,
            siblings=siblings,
            strength=claim.strength,
            tests=claim.tests,
            error_rate=claim.error_rate,
        )
        facts += _found_again(claim, report)
    return EvidenceReport(tuple(facts), claim.mark.licensee, report)


@dataclass(frozen=True)
class _Claim:
    """What a statement says, each of its type and within bounds.

    Attributes:
        models: weight files and their digests, by what the model is.
        mark: the opened one.
        commitment: of the mark, as it is claimed.
        strength: of the mark.
        tests: how many marks and suspects were tried.
        error_rate: the p-value up to which a mark counts as found.
        figures: of the finding, by name.
    """

    models: dict[str, Mapping[str, Mapping[str, str]]]
    mark: Mark
    commitment: str
    strength: float
    tests: int
    error_rate: float
    figures: dict[str, float]

    @classmethod
    def of(cls, statement: Any, where: object) -> _Claim:
        """Reads a statement.

        Raises:
            InputError: it is of another kind, or something is missing or cannot be.
        """
        try:
            if (statement["_type"], statement["predicateType"]) != (STATEMENT, PREDICATE):
                raise InputError(
                    f"{where} is a statement of the type {clip(statement['predicateType'])}; "
                    f"this release checks {PREDICATE}."
                )
            content = statement["predicate"]
            models = {"suspect": statement["subject"]}
            models |= {name: content[name] for name in ("base", "original")}
            siblings = enumerate(content["siblings"], 1)
            models |= {f"sibling {number}": one for number, one in siblings}
            mark, finding = content["mark"], content["finding"]
            low, high = finding["interval"]
            figures = {name: finding[name] for name in ("z", "log10_p", "weight")}
            figures |= {"interval low": low, "interval high": high}
            claim = cls(
                {name: _read_files(files) for name, files in models.items()},
                Mark(
                    bytes.fromhex(_text(mark["secret"])),
                    _text(mark["release"]),
                    _text(mark["licensee"]),
                ),
                _text(mark["commitment"]),
                _number(mark["strength"]),
                finding["tests"],
                _number(finding["error_rate"]),
                {name: _number(value) for name, value in figures.items()},
            )
            if type(claim.tests) is not int or not 1 <= claim.tests <= _MOST_TESTS:
                raise ValueError("tests")
            if not (0 < claim.strength <= 1 and 0 < claim.error_rate <= MAX_ERROR_RATE):
                raise ValueError("out of bounds")
            if len(claim.mark.secret) != _SECRET_BYTES or len(claim.mark.licensee) > NAME_LENGTH:
                raise ValueError("no mark")
            return claim
        except (KeyError, TypeError, ValueError, OverflowError, AttributeError):
            raise InputError(
                f"{where} is damaged: something is missing in it, or is of the wrong kind."
            ) from None


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("no text")
    value.encode()  # a lone surrogate is a ValueError
    return value


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise TypeError("no number")
    return float(value)


def _read_files(files: Any) -> Mapping[str, Mapping[str, str]]:
    """Digests by name."""
    found = {_text(one["name"]): dict(one["digest"]) for one in files}
    if len(found) != len(files) or not found:
        raise ValueError("names")
    return found


def _files(model: str | Path) -> Files:
    """A model's weight files and their digests, as in-toto describes files."""
    folder = open_either(resolve(str(model)))
    try:
        return [
            {"name": header.path.name, "digest": digest_set(header.path)} for header in folder.files
        ]
    except OSError as error:
        raise InputError(f"cannot read {error.filename}: {error.strerror}.") from None


def _signature(envelope: Envelope, public_key: str | Path | None) -> Fact:
    name = "signature"
    if public_key is not None:
        key = PublicKey.load(public_key)
        if envelope.is_signed_by(key):
            return Fact(name, True, f"it is signed with the key {public_key}")
        why = "it is not signed with that key" if envelope.signatures else "it is not signed"
        return Fact(name, False, why)
    if envelope.signatures:
        return Fact(name, None, "it is signed; --public-key would say whether by the claimant")
    return Fact(name, None, "it is not signed: nothing shows who claims this")


def _same_files(
    name: str, claimed: Mapping[str, Mapping[str, str]] | None, model: str | Path
) -> Fact:
    if claimed is None:
        return Fact(name, False, "the evidence was made without it")
    found = {one["name"]: one["digest"] for one in _files(model)}
    other = sorted(n for n in claimed.keys() | found.keys() if claimed.get(n) != found.get(n))
    if other:
        return Fact(name, False, f"{model} is another model, by its file {clip(other[0])}")
    ask = "; it must be others' than the claimant's" if name.startswith("sibling") else ""
    return Fact(name, True, f"{model} has the weight files of the evidence{ask}")


def _opening(claim: _Claim) -> Fact:
    if claim.mark.commitment == claim.commitment:
        return Fact("opening", True, "secret, expert and name are what the commitment was made of")
    return Fact("opening", False, "the commitment was not made of this secret, expert and name")


def _committed(claim: _Claim, manifest: str | Path | None) -> Fact:
    name = "manifest"
    if manifest is None:
        return Fact(
            name,
            None,
            "no manifest was given, so nothing shows that the mark was chosen before the suspect "
            "was there; a mark that is chosen afterwards can be made to fit anything",
        )
    path = Path(manifest)
    path = path / MANIFEST if path.is_dir() else path
    links = [link for link in manifest_at(path).chain if link.defence == NAME]
    if not any(link.settings.get("commitment") == claim.commitment for link in links):
        return Fact(name, False, f"{path} commits to no such mark")
    if not any(link.settings.get("strength") == claim.strength for link in links):
        return Fact(name, False, f"{path} says that the mark is of another strength")
    return Fact(name, True, f"{path} commits to this mark, expert and name")


def _found_again(claim: _Claim, report: TraceReport) -> list[Fact]:
    """The claim's figures beside those that were found again."""
    trace = report.traces[0]
    if report.release == claim.mark.release:
        expert = Fact("expert", True, "the original is the expert that the mark was made for")
    else:
        expert = Fact("expert", False, "the mark was made for another expert than the original")
    low, high = trace.interval
    found = {"z": trace.z, "log10_p": trace.log10_p, "weight": trace.weight}
    found |= {"interval low": low, "interval high": high}
    other = [
        f"{name} is {found[name]:.4g}, not {value:.4g}"
        for name, value in claim.figures.items()
        if not math.isclose(value, found[name], rel_tol=_CLOSE, abs_tol=_CLOSE)
    ]
    said = f"z = {trace.z:.1f}, p <= 1e{trace.log10_p:.1f}, corrected for {claim.tests} tests"
    return [
        expert,
        Fact("figures", not other, "; ".join(other) or "all figures are found again"),
        Fact("finding", trace.found, f"{said}; found up to {claim.error_rate:g}"),
    ]
