"""What travels beside a model's weights: the files that a model folder needs, and nothing else.

One table of names says what is needed, here and in what is fetched from the Hub. Each file is then
judged by what it holds, see `contents`; whatever stays is named, with the reason.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote

from unmergeable.checkpoint.contents import (
    KEY_FILE,
    PICTURES,
    SAFETENSORS,
    holds_secret,
    reason_to_stay,
)
from unmergeable.checkpoint.digest import digest_of
from unmergeable.checkpoint.listing import Entry, entries_of
from unmergeable.checkpoint.remote import Place, RemotePath
from unmergeable.checkpoint.small_files import is_there, read_json, read_small
from unmergeable.errors import InputError, clip
from unmergeable.keys.key import is_key_file

if TYPE_CHECKING:
    from unmergeable.checkpoint.folder import ModelFolder
    from unmergeable.checkpoint.staging import Output

CONFIG = "config.json"
ADAPTER = "adapter_config.json"
MODULES = "modules.json"
SIGNATURE = "model.sig"
RELOCATION = "relocation.json"  # beside a private base, and never elsewhere
MAX_COMPANION = 64 << 20

CONFIGS = (
    CONFIG, "configuration.json", "generation_config.json", "*processor_config.json", MODULES,
    "config_sentence_transformers.json", "sentence_*_config.json", "audio_tokenizer_config.json",
    "quantize_config.json", "quant_config.json", "hf_quant_config.json", ADAPTER,
    "modelcard.json", "speaker_embeddings_path.json",
)  # fmt: skip
TOKENIZERS = (
    "tokenizer*", "*tokenizer.json", "*tokenizer_config.json", "*.tokenizer", "tekken.json",
    "special_tokens_map.json", "added_tokens.json", "*vocab*.txt", "*vocab*.json", "vocab*",
    "*merges*.txt", "*.bpe", "*.codes", "*.tiktoken", "*.spm", "*.model", "dict.txt", "dict.*.txt",
    "encoder.json", "emoji.json", "normalizer.json", "byte_maps.json", "word_shape.json",
    "word_pronunciation.json", "chat_template*", "*.jinja",
)  # fmt: skip
# In any case of letters, and with the endings of documents.
CARDS = (
    "readme*", "*model_card*", "*model-card*", "*modelcard*", "*license*", "*licence*", "*notice*",
    "copying*", "*use_policy*", "*usage_policy*", "*terms*", "citation*", "changelog*", "authors*",
    "security*", "bias*", "explainability*", "privacy*", "safety*",
)  # fmt: skip
_DOCUMENTS = ("", ".md", ".txt", ".rst", ".html", ".cff", ".pdf")
ATTRIBUTES = ".gitattributes"
_TEMPLATES = "additional_chat_templates/*.jinja"

_MAX_KEY = 64 << 10

# Modules that read hidden states; others bring a model of their own.
_SMALL_MODULES = {"Dense", "LayerNorm", "WeightedLayerPooling", "LSTM", "CNN"}
_WEIGHTS = (
    ".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".h5", ".msgpack", ".ot",
    ".gguf", ".ggml", ".onnx", ".onnx_data", ".npz", ".npy", ".tflite", ".mlmodel", ".nemo", ".zip",
)  # fmt: skip
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_IMPORT = re.compile(rb"^\s*(?:from\s+\.([\w.]+)\s+import|import\s+\.([\w.]+))", re.MULTILINE)


class Module(NamedTuple):
    """A step of a sentence-transformers folder.

    Attributes:
        type: its class, as "sentence_transformers.models.Pooling".
        path: its sub-folder; empty for the folder itself.
    """

    type: str
    path: str


class Chosen(NamedTuple):
    """What was done with the files beside the weights.

    Attributes:
        travel: relative paths of those that may be copied.
        left_out: why each other one stays, by relative path.
    """

    travel: tuple[str, ...]
    left_out: Mapping[str, str]


def modules_of(folder: Place) -> tuple[Module, ...]:
    """What modules.json lists; nothing where there is none.

    Raises:
        InputError: a modules.json that is not a list of modules.
    """
    path = folder / MODULES
    if not is_there(path):
        return ()
    rows = read_json(path)
    if not isinstance(rows, list):
        raise InputError(f"{path} is not a list of modules.")
    found = []
    for row in rows:
        fields = row if isinstance(row, dict) else {}
        kind, place = fields.get("type"), fields.get("path", "")
        if not isinstance(kind, str) or not isinstance(place, str):
            raise InputError(f"{path} has a module without a type or a path.")
        found.append(Module(kind, place.strip("/")))
    return tuple(found)


def hub_patterns() -> list[str]:
    """The table for a Hub repository; "*" fits a slash there, too."""
    cards = ["".join(f"[{c.upper()}{c}]" if c.isalpha() else c for c in one) for one in CARDS]
    return [
        *("*.safetensors", "*.safetensors.index.json", *CONFIGS, *TOKENIZERS, *cards, ATTRIBUTES),
        SIGNATURE,
        *("[0-9]_*/*.json", "[0-9]_*/*.txt", _TEMPLATES, "*.py", *(f"*{end}" for end in PICTURES)),
    ]


def choose(
    folder: Place, known: Collection[str], index: str = "", also: Collection[str] = ()
) -> Chosen:
    """Says of every file beside the weights whether it may be copied.

    Args:
        folder: where.
        known: names that are neither: weight files and the manifest.
        index: the name of the index in use, if any.
        also: names that are needed besides, as an earlier release copied them.

    Raises:
        InputError: a file that is needed and cannot be read, or must not be published; a module
            whose weights cannot travel.
    """
    entries = {entry.name: entry for entry in entries_of(folder) if entry.name not in known}
    choice = _Choice(folder, index, modules_of(folder), entries)
    choice.check_modules()
    for name in entries:
        if name in also or choice.needs(name):
            choice.take(name)
    for name in choice.code:  # it grows while code is found that names more
        if name in entries and name not in choice.travel | choice.left_out.keys():
            choice.take(name)
    for name in entries.keys() - choice.travel - choice.left_out.keys():
        if choice.shows(name):
            choice.take(name)
        else:
            choice.left_out[name] = choice.why_not(name)
    stays = {clip(name, 1024): reason for name, reason in sorted(choice.left_out.items())}
    return Chosen(tuple(sorted(choice.travel)), stays)


def read_companion(folder: Place, name: str) -> bytes:
    """A companion's content.

    Raises:
        InputError: it cannot be read, or is too large to be one.
    """
    return read_small(folder / name, MAX_COMPANION)


def copy_companions(
    folder: ModelFolder, staging: Output, names: Iterable[str], secret: bytes = b""
) -> dict[str, str]:
    """Copies config, tokenizer and cards byte for byte; returns their digests by name.

    Args:
        folder: from where.
        staging: to where.
        names: of `folder.companions`.
        secret: the owner's, if a key is in use; no file that holds it is copied.

    Raises:
        InputError: a file that cannot be read, or that holds the secret.
    """
    hashes = {}
    for name in names:
        content = folder.read_companion(name)
        _check_free_of(secret, folder.path / name, content)
        staging.write_file(name, content)
        hashes[name] = digest_of(content)
    return hashes


def check_no_secret(folder: ModelFolder, secret: bytes) -> None:
    """Refuses what is the owner's alone, before work starts: a private base, or a key in a folder.

    Raises:
        InputError: names the file that tells so.
    """
    if folder.is_private:
        raise InputError(
            f"{folder.path} is a private base: it has {RELOCATION}. Who has it, locked or not, can "
            "merge with every expert of it. Protect an expert; to publish the base all the same, "
            f"remove {RELOCATION}."
        )
    for name in folder.companions:
        _check_free_of(secret, folder.path / name, folder.read_companion(name))
    for header in folder.files:
        _check_free_of(secret, header.path, header.raw)


def _check_free_of(secret: bytes, path: Place, content: bytes) -> None:
    if secret and holds_secret(content, secret):
        raise InputError(
            f"{path} holds the secret of the key, and would publish it. Take it out of that file; "
            "if others have seen the file, make another key."
        )


@dataclass
class _Choice:
    """A choice while it is made.

    Attributes:
        code: files that configs and code name.
        cards: the texts of the model cards.
    """

    folder: Place
    index: str
    modules: tuple[Module, ...]
    entries: Mapping[str, Entry]
    travel: set[str] = field(default_factory=set)
    left_out: dict[str, str] = field(default_factory=dict)
    code: list[str] = field(default_factory=list)
    cards: list[bytes] = field(default_factory=list)

    def needs(self, name: str) -> bool:
        """Whether a model folder needs a file of that name."""
        path = PurePosixPath(name)
        if name == ATTRIBUTES or (name.endswith(".index.json") and name == self.index):
            return True
        if any(part.startswith(".") for part in path.parts) or path.suffix == ".py":
            return False
        parent = "" if len(path.parts) == 1 else path.parent.as_posix()
        if not parent:
            return _fits(path.name, (*CONFIGS, *TOKENIZERS)) or is_document(path)
        if fnmatchcase(name, _TEMPLATES):
            return True
        if self._module_of(name) or fnmatchcase(parent, "[0-9]_*"):
            own = ("*_config.json", *CONFIGS, *TOKENIZERS)
            return _fits(path.name, own) or path.name == "model.safetensors"
        return parent.endswith("tokenizer") and _fits(path.name, (*CONFIGS, *TOKENIZERS))

    def shows(self, name: str) -> bool:
        """Whether a file is a picture that a card shows."""
        hidden = any(part.startswith(".") for part in PurePosixPath(name).parts)
        spelled = (name.encode(errors="replace"), quote(name, errors="replace").encode())
        return (
            not hidden
            and PurePosixPath(name).suffix.lower() in PICTURES
            and any(text in card for card in self.cards for text in spelled)
        )

    def why_not(self, name: str) -> str:
        """Why a file that nothing needs stays."""
        entry, path = self.entries[name], PurePosixPath(name)
        if name == SIGNATURE:
            return "it signs the folder as it is"
        if entry.odd:
            return f"it is {entry.odd}"
        if self._is_key(entry):
            return KEY_FILE
        if path.parts[0].startswith("."):
            return "it is hidden"
        if path.suffix.lower() in _WEIGHTS:
            return "it may hold open weights"
        if path.name.endswith(".index.json"):
            return "it is the index of other weights"
        if path.suffix == ".py":
            return "no config names this code"
        return "a model folder does not need it"

    def _is_key(self, entry: Entry) -> bool:
        """Whether a small file on this machine is a key of ours, which is worth saying."""
        if entry.size > _MAX_KEY or entry.leaves or isinstance(self.folder, RemotePath):
            return False
        try:
            return is_key_file(read_small(self.folder / entry.name, _MAX_KEY))
        except InputError:
            return False

    def take(self, name: str) -> None:
        """Lets a file travel, unless its content is a reason to stay.

        Raises:
            InputError: as `choose`.
        """
        path, entry = self.folder / name, self.entries[name]
        main = name in (CONFIG, ADAPTER, self.index)  # read anyway, and no sense without sense
        must = main or self._is_module(name)
        content = b""
        if entry.odd:
            raise InputError(f"{path} is {entry.odd}, not a file that can be read.")
        if clip(name, 1024) != name:
            reason = "its name cannot be printed"
        elif entry.leaves and not main:
            reason = "it is a link that leads out of the folder (a copy would travel)"
        elif entry.size > MAX_COMPANION:
            reason = f"it has more than {MAX_COMPANION >> 20} MB"
        else:
            content = read_companion(self.folder, name)
            reason = self._judge(name, content)
        if not reason:
            self.travel.add(name)
            self._learn(name, content)
        elif must:
            raise InputError(f"{path} must not be published, and the model needs it: {reason}.")
        else:
            self.left_out[name] = reason

    def _judge(self, name: str, content: bytes) -> str:
        """Why a needed file must stay, by its content; only modules bring weights."""
        reason = reason_to_stay(content, PurePosixPath(name).suffix.lower())
        return "" if self._is_module(name) and reason == SAFETENSORS else reason

    def _learn(self, name: str, content: bytes) -> None:
        """Notes which other files a file names."""
        path = PurePosixPath(name)
        if is_document(path):
            self.cards.append(content)
        if name == MODULES:
            self.code += [code for one in self.modules if (code := _module_code(one.type))]
        elif name.endswith("config.json") and b"auto_map" in content:
            self.code += _codes_of(self.folder / name)
        elif path.suffix == ".py":
            for found in _IMPORT.findall(content):
                module = (found[0] or found[1]).decode(errors="replace").replace(".", "/")
                self.code.append((path.parent / f"{module}.py").as_posix())

    def _is_module(self, name: str) -> bool:
        """Whether a file holds the weights of a module."""
        return PurePosixPath(name).name == "model.safetensors" and bool(self._module_of(name))

    def _module_of(self, name: str) -> Module | None:
        """The module whose sub-folder a file lies in."""
        inside = (m for m in self.modules if m.path and name.startswith(f"{m.path}/"))
        return next(inside, None)

    def check_modules(self) -> None:
        """Refuses modules whose weights cannot travel, as the folder would not load without them.

        Raises:
            InputError: names one.
        """
        for name in self.entries:
            module = self._module_of(name)
            if module is None or PurePosixPath(name).suffix not in (".safetensors", *_PICKLES):
                continue
            kind = module.type.rpartition(".")[2]
            if kind not in _SMALL_MODULES:
                raise InputError(
                    f"{self.folder / name}: a module of the type {clip(kind)} with weights of its "
                    "own would be published unlocked. Protect its model in a folder of its own."
                )
            whole = f"{module.path}/model.safetensors"
            if whole not in self.entries:
                raise InputError(
                    f"{self.folder / name}: the module needs it, and it may be a pickle, which can "
                    f"run code when it is read. Save it as safetensors: {clip(whole)}."
                )


def _fits(name: str, globs: Iterable[str]) -> bool:
    return any(fnmatchcase(name, one) for one in globs)


def is_loaded(name: str) -> bool:
    """Whether programs may load a model from a file of that name: weights, code, config, tokenizer.

    It is said of names alone, and rather too often than too rarely.
    """
    path = PurePosixPath(name)
    return (
        path.suffix.lower() in (*_WEIGHTS, ".py")
        or name.endswith(".index.json")
        or _fits(path.name, (*CONFIGS, *TOKENIZERS))
    )


def is_document(path: PurePosixPath) -> bool:
    """Whether a name is that of a card, a licence or the like."""
    named = len(path.parts) == 1 and _fits(path.name.lower(), CARDS)
    return named and (path.suffix.lower() in _DOCUMENTS or not path.suffix[1:].isalpha())


def _module_code(kind: str) -> str:
    """The file that has a module's class; nothing for those of the library itself."""
    library = kind.startswith("sentence_transformers.")
    return "" if library or "." not in kind else f"{kind.split('.')[0]}.py"


def _codes_of(path: Place) -> list[str]:
    """The files of code that a config's auto_map names; other repositories' code is not ours.

    Raises:
        InputError: JSON of absurd size or nesting.
    """
    document = read_json(path)
    table = document.get("auto_map") if isinstance(document, dict) else None
    named = table.values() if isinstance(table, dict) else ()
    found: list[Any] = []
    for one in named:
        found += one if isinstance(one, list) else [one]
    return [
        f"{one.split('.')[0]}.py"
        for one in found
        if isinstance(one, str) and "--" not in one and re.fullmatch(r"\w+\.\w+", one)
    ]
