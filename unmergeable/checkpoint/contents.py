"""What a file holds, judged by its bytes: names and endings say what it should be.

Only text, sentencepiece models and pictures may travel beside weights. Text is searched for keys
and credentials, as what is published once is published for ever.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable

from unmergeable.keys.key import is_key_file

# What weights and archives begin with, for the sentence; whatever is not text stays anyway.
_MAGICS = {
    b"\x80\x02": "a pickle", b"\x80\x03": "a pickle", b"\x80\x04": "a pickle",
    b"\x80\x05": "a pickle", b"PK\x03\x04": "a zip archive, as pickles of torch are",
    b"GGUF": "GGUF weights", b"ggml": "GGML weights", b"lmgg": "GGML weights",
    b"tjgg": "GGML weights", b"\x89HDF\r\n": "an HDF5 file", b"\x93NUMPY": "a numpy array",
    b"\x1f\x8b": "compressed", b"BZh": "compressed", b"\xfd7zXZ\x00": "compressed",
    b"\x28\xb5\x2f\xfd": "compressed", b"\x04\x22\x4d\x18": "compressed",
    b"7z\xbc\xaf\x27\x1c": "compressed",
}  # fmt: skip
_OLD_PICKLE = re.compile(rb"\(?(?:[dl]p\d+\n|c[\w.]+\n[\w.]+\n)")

_PICTURES = {
    ".png": b"\x89PNG\r\n\x1a\n",
    ".jpg": b"\xff\xd8\xff",
    ".jpeg": b"\xff\xd8\xff",
    ".gif": b"GIF8",
    ".webp": b"RIFF",
    ".pdf": b"%PDF-",
}
PICTURES = (*_PICTURES, ".svg")

KEY_FILE = "it holds a key of unmergeable"
SAFETENSORS = "it is a safetensors file"

# Control characters that no text has; a vocabulary may list a few of them.
_CONTROLS = bytes(n for n in (*range(32), 127) if n not in b"\t\n\v\f\r\x1b")
_NO_CONTROLS = bytes(n for n in range(256) if n not in _CONTROLS)
_FEW = 0.01

# What credentials look like: the words that they begin with, and what follows from there.
_CREDENTIALS: dict[str, tuple[tuple[bytes, ...], re.Pattern[bytes]]] = {
    "a private key": (
        (b"-----BEGIN ", b"PuTTY-User-Key-File-", b"AGE-SECRET-KEY-1"),
        re.compile(rb"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY|PuTTY|AGE"),
    ),
    "a Hugging Face token": (
        (b"hf_", b"api_org_"),
        re.compile(
            rb"(?:(?<![A-Za-z0-9])hf|api_org)_"
            rb"(?:[A-Za-z0-9]{30,}|(?=[A-Za-z]{0,40}[0-9])[A-Za-z0-9]{16,})"
        ),
    ),
    "an AWS key": (
        (b"AKIA", b"ASIA", b"aws_secret_access_key", b"aws_session_token"),
        re.compile(
            rb"(?<![A-Za-z0-9+/])(?:AKIA|ASIA)[A-Z0-9]{16}(?![A-Za-z0-9+/])"
            rb"|aws_(?:secret_access_key|session_token)[\\\"']*\s*[=:]\s*[\\\"']*[A-Za-z0-9+/]{16,}"
        ),
    ),
    "a GitHub or GitLab token": (
        (b"ghp_", b"gho_", b"ghu_", b"ghs_", b"ghr_", b"github_pat_", b"glpat-"),
        re.compile(rb"gh[pousr]_[A-Za-z0-9]{30,}|github_pat_\w{30,}|glpat-[\w-]{20,}"),
    ),
    "a key of a service": (
        (b"sk-", b"AIza", b"xoxb-", b"xoxp-", b"xoxa-", b"xoxs-", b"r8_", b"nvapi-", b"gsk_"),
        re.compile(
            rb"(?<![\w-])sk-(?:[a-z]{2,8}[0-9]{0,2}-)?\w{20,}|(?<![\w+/-])AIza[\w-]{35}(?![\w+/-])"
            rb"|xox[bpas]-[0-9A-Za-z-]{10,}|(?<!\w)r8_[A-Za-z0-9]{30,}|nvapi-[\w-]{30,}"
            rb"|(?<!\w)gsk_[A-Za-z0-9]{40,}"
        ),
    ),
    "a password": (
        (b"://", b"machine"),
        re.compile(
            rb"://[^\s/:@\"'<>]{1,64}:[^\s/:@\"'<>]{3,256}@[A-Za-z0-9]"
            rb"|machine\s{1,9}\S{1,256}\s{1,9}login\s{1,9}\S{1,256}\s{1,9}password\s"
        ),
    ),
}
# Assignments such as API_KEY=..., in small letters; vocabularies are too long, and have such words.
_ASSIGNED = tuple(
    name.replace(b"_", between)
    for name in (
        *(b"api_key", b"secret_key", b"access_key", b"client_secret", b"password", b"passwd"),
        *(b"access_token", b"auth_token", b"api_token", b"hf_token", b"hub_token", b"secret_token"),
    )
    for between in (b"_", b"-", b"")
)
_ASSIGNMENT = re.compile(
    rb"[a-z_-]{6,16}[\\\"']{0,2}\s{0,9}[=:]\s{0,9}[\\\"']{0,2}(?=[a-z_/+-]{0,60}[0-9])[a-z0-9+/_-]{20,}"
)
_MAX_CONFIG = 1 << 20


def reason_to_stay(content: bytes, ending: str = "") -> str:
    """Why a file must not be published beside a locked model; nothing if it may.

    Args:
        content: its bytes.
        ending: of its name, as ".png"; pictures have theirs.
    """
    if is_key_file(content):
        return KEY_FILE
    if found := _credential(content):
        return f"it holds what looks like {found}"
    if kind := _weights(content):
        return f"it is {kind}"
    if ending in _PICTURES and content.startswith(_PICTURES[ending]):
        return ""
    if is_text(content) or is_sentencepiece(content):
        return ""
    return "it is neither text nor a sentencepiece model, and may hold open weights"


def _credential(content: bytes) -> str:
    """The kind of credential that a text has; nothing if none was found."""
    for kind, (words, pattern) in _CREDENTIALS.items():
        if _follows(content, words, pattern):
            return kind
    if len(content) <= _MAX_CONFIG and _follows(content.lower(), _ASSIGNED, _ASSIGNMENT):
        return "a credential"
    return ""


def _follows(content: bytes, words: Iterable[bytes], pattern: re.Pattern[bytes]) -> bool:
    """Whether a pattern fits anywhere where one of these words begins."""
    for word in words:
        at = content.find(word)
        while at >= 0:
            if pattern.match(content, at):
                return True
            at = content.find(word, at + 1)
    return False


def _weights(content: bytes) -> str:
    """What a file of weights or an archive is; nothing if it begins like none."""
    length = int.from_bytes(content[:8], "little")
    if content[8:9] == b"{" and 2 <= length <= len(content) - 8:
        return "a safetensors file"
    for magic, kind in _MAGICS.items():
        if content.startswith(magic):
            return kind
    if content[4:8] == b"TFL3":
        return "a TensorFlow Lite model"
    if content[257:262] == b"ustar":
        return "a tar archive"
    if _OLD_PICKLE.match(content) and content.rstrip().endswith(b"."):
        return "a pickle"
    return ""


def is_text(content: bytes) -> bool:
    """Whether bytes are text: UTF-8 with next to no control characters, or others without any."""
    controls = len(content.translate(None, _NO_CONTROLS))
    if not controls:
        return True
    try:
        content.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return b"\0" not in content and controls <= _FEW * len(content)


def is_sentencepiece(content: bytes) -> bool:
    """Whether bytes begin like a sentencepiece model: with a piece, its text and its score.

    As a message of protocol buffers it is field 1, with a text in field 1 and a float in field 2.
    Graphs of TensorFlow begin alike, but with two texts; ONNX begins with a number.
    """
    if content[:1] != b"\n":
        return False
    _, at = _varint(content, 1)
    if content[at : at + 1] != b"\n":
        return False
    length, at = _varint(content, at + 1)
    return content[at + length : at + length + 1] == b"\x15"


def _varint(content: bytes, at: int) -> tuple[int, int]:
    """A number of protocol buffers and where it ends; one that is too long fits nowhere."""
    value = shift = 0
    for byte in content[at : at + 5]:
        value |= (byte & 0x7F) << shift
        shift, at = shift + 7, at + 1
        if byte < 0x80:
            return value, at
    return 1 << 62, at


_URL_SAFE = bytes.maketrans(b"-_", b"+/")
_FILLERS = b" \t\r\n\\:,\"'"


def holds_secret(content: bytes, secret: bytes) -> bool:
    """Whether bytes hold a secret: as it is, in hexadecimal or in base64, or a base64 of these.

    Line breaks, separators, case and what stands around it do not matter.
    """
    if secret in content:
        return True
    text = secret.hex().encode()
    spelled = (secret, base64.b64encode(secret), text, text.upper())
    squeezed = re.sub(rb"\\+[nrt]", b"", content).translate(_URL_SAFE, _FILLERS)
    if any(part in squeezed for one in spelled for part in _within_base64(one)):
        return True
    return text in squeezed.replace(b"+", b"").lower()  # "+": what "-" between digits is by now


def _within_base64(content: bytes) -> list[bytes]:
    """What bytes look like inside a longer base64, whichever of three places they begin at."""
    found = []
    for shift in range(3):
        # Characters at either end also depend on the bytes around.
        text = base64.b64encode(bytes(shift) + content).rstrip(b"=")
        found.append(text[(0, 2, 3)[shift] : len(text) - ((shift + len(content)) % 3 > 0)])
    return found
