"""Publish an open-weight transformer that works for its users and is worthless to mergers."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from unmergeable.version import __version__ as __version__

if TYPE_CHECKING:
    from unmergeable.attacks.align import AlignReport as AlignReport
    from unmergeable.attacks.align import align as align
    from unmergeable.auditing.audit import audit as audit
    from unmergeable.auditing.report.audit_report import AuditReport as AuditReport
    from unmergeable.errors import ClusterError as ClusterError
    from unmergeable.errors import DeviceError as DeviceError
    from unmergeable.errors import DownloadError as DownloadError
    from unmergeable.errors import InputError as InputError
    from unmergeable.errors import KeyFileError as KeyFileError
    from unmergeable.errors import ManifestError as ManifestError
    from unmergeable.errors import MissingExtraError as MissingExtraError
    from unmergeable.errors import PrecisionError as PrecisionError
    from unmergeable.errors import UnmergeableError as UnmergeableError
    from unmergeable.errors import UnsupportedError as UnsupportedError
    from unmergeable.keys.key import Key as Key
    from unmergeable.keys.key import keygen as keygen
    from unmergeable.keys.key import load_key as load_key
    from unmergeable.merging.merge import MergeReport as MergeReport
    from unmergeable.merging.merge import merge as merge
    from unmergeable.protection.adapter_marking import mark_adapter as mark_adapter
    from unmergeable.protection.adapters import AdapterReport as AdapterReport
    from unmergeable.protection.adapters import protect_adapter as protect_adapter
    from unmergeable.protection.adapters import unlock_adapter as unlock_adapter
    from unmergeable.protection.card import Card as Card
    from unmergeable.protection.inspect import InspectReport as InspectReport
    from unmergeable.protection.inspect import inspect as inspect
    from unmergeable.protection.protect import ProtectReport as ProtectReport
    from unmergeable.protection.protect import UnlockReport as UnlockReport
    from unmergeable.protection.protect import protect as protect
    from unmergeable.protection.protect import unlock as unlock
    from unmergeable.protection.register import LicensedCopy as LicensedCopy
    from unmergeable.protection.register import licensees as licensees
    from unmergeable.protection.relock import RelockReport as RelockReport
    from unmergeable.protection.relock import relock as relock
    from unmergeable.protection.signing import SignatureReport as SignatureReport
    from unmergeable.protection.signing import sign as sign
    from unmergeable.protection.signing import verify_signature as verify_signature
    from unmergeable.relocation.regrowth import Growth as Growth
    from unmergeable.relocation.relocate import RelocateReport as RelocateReport
    from unmergeable.relocation.relocate import relocate as relocate
    from unmergeable.tracing.evidence import EvidenceReport as EvidenceReport
    from unmergeable.tracing.evidence import check_evidence as check_evidence
    from unmergeable.tracing.evidence import write_evidence as write_evidence
    from unmergeable.tracing.trace import TraceReport as TraceReport
    from unmergeable.tracing.trace import trace as trace
    from unmergeable.training.config import TrainConfig as TrainConfig
    from unmergeable.training.run import TrainReport as TrainReport
    from unmergeable.training.run import train as train
    from unmergeable.verification.files import FilesReport as FilesReport
    from unmergeable.verification.files import verify_files as verify_files
    from unmergeable.verification.verify import VerifyReport as VerifyReport
    from unmergeable.verification.verify import verify as verify

_WHERE = {
    "AdapterReport": "protection.adapters",
    "AlignReport": "attacks.align",
    "AuditReport": "auditing.report.audit_report",
    "Card": "protection.card",
    "ClusterError": "errors",
    "DeviceError": "errors",
    "DownloadError": "errors",
    "EvidenceReport": "tracing.evidence",
    "FilesReport": "verification.files",
    "Growth": "relocation.regrowth",
    "InputError": "errors",
    "InspectReport": "protection.inspect",
    "Key": "keys.key",
    "KeyFileError": "errors",
    "LicensedCopy": "protection.register",
    "ManifestError": "errors",
    "MergeReport": "merging.merge",
    "MissingExtraError": "errors",
    "PrecisionError": "errors",
    "ProtectReport": "protection.protect",
    "SignatureReport": "protection.signing",
    "RelocateReport": "relocation.relocate",
    "RelockReport": "protection.relock",
    "TraceReport": "tracing.trace",
    "TrainConfig": "training.config",
    "TrainReport": "training.run",
    "UnlockReport": "protection.protect",
    "UnmergeableError": "errors",
    "UnsupportedError": "errors",
    "VerifyReport": "verification.verify",
    "align": "attacks.align",
    "audit": "auditing.audit",
    "check_evidence": "tracing.evidence",
    "inspect": "protection.inspect",
    "keygen": "keys.key",
    "licensees": "protection.register",
    "load_key": "keys.key",
    "mark_adapter": "protection.adapter_marking",
    "merge": "merging.merge",
    "protect": "protection.protect",
    "protect_adapter": "protection.adapters",
    "sign": "protection.signing",
    "relocate": "relocation.relocate",
    "relock": "protection.relock",
    "trace": "tracing.trace",
    "train": "training.run",
    "unlock": "protection.protect",
    "unlock_adapter": "protection.adapters",
    "verify": "verification.verify",
    "verify_files": "verification.files",
    "verify_signature": "protection.signing",
    "write_evidence": "tracing.evidence",
}
__all__ = sorted(_WHERE)


def __getattr__(name: str) -> Any:
    """Imports a part of the API when it is first used; only what runs a model brings torch."""
    if name not in _WHERE:
        raise AttributeError(f"module 'unmergeable' has no attribute {name!r}")
    return getattr(import_module(f"unmergeable.{_WHERE[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_WHERE])
