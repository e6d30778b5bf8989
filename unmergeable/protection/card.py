"""The model card: what `protect --card` adds to README.md, and `unlock` takes out again.

What is there stays, byte for byte. Lines of metadata that are added end in a comment that says so;
a field that changes, such as `tags`, is put behind such a comment and added again. One
section between markers says what was done. So all of it can be taken out again, whatever else was
edited meanwhile.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from unmergeable.checkpoint.folder import ModelFolder
from unmergeable.checkpoint.hub import HubId
from unmergeable.checkpoint.manifest import Link
from unmergeable.checkpoint.markdown_sections import part
from unmergeable.defences.mark import MarkDefence
from unmergeable.errors import InputError, clip, quoted

README = "README.md"
TAG = "unmergeable"
BEGIN, END = "<!-- unmergeable: begin -->", "<!-- unmergeable: end -->"
_OURS, _BEFORE = "  # unmergeable", "# before unmergeable: "
_LONGEST, _MOST = 500, 4 << 20  # characters of a value, and of all metadata
_LINE = re.compile(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+")
_BREAK = re.compile(r"\r\n|\r|\n")


@dataclass(frozen=True)
class Card:
    """What a model card is to say besides what was done; all may be empty.

    Attributes:
        contact: whom to ask, as Markdown.
        license: the Hub's name of a licence, such as "other".
        license_name: the name of another licence.
        license_link: where it is.

    Examples:
        >>> card = unmergeable.Card(contact="models@example.org", license="apache-2.0")
        >>> report = unmergeable.protect("expert", "with-card", "owner.key", card=card)
        >>> text = (report.out / "README.md").read_text()
        >>> "models@example.org" in text, "license: apache-2.0" in text
        (True, True)
    """

    contact: str = ""
    license: str = ""
    license_name: str = ""
    license_link: str = ""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if len(value) > _LONGEST or not value.isprintable() or "<!--" in value:
                raise InputError(
                    f"{field.name} of the card: give one line of at most {_LONGEST} characters, "
                    f"without HTML comments, not {quoted(value)}."
                )

    def written(self, folder: ModelFolder, chain: Sequence[Link], base: Any = None) -> bytes:
        """README.md of a protected model.

        Args:
            folder: the model to protect.
            chain: the defences that it went through.
            base: its public base, as it was given; only a Hub id is written down.

        Raises:
            InputError: a card that is no text, whose metadata is no YAML that can be added to, or
                that names another licence.
        """
        there = README in folder.companions
        content = without(folder.read_companion(README)) if there else None
        where = f"{folder.path / README}"
        try:
            mark, page = _marked((content or b"").decode())
        except UnicodeDecodeError:
            raise InputError(f"{where} is not text in UTF-8.") from None
        newline = found[0] if (found := _BREAK.search(page)) else "\n"
        opening, block, closing, body = _split(page)
        document = _Metadata.of(block, where)
        added = self._fields(document.values, chain, base, where)
        kept, lines = document.with_added(added)
        lines = [f"{line}{_OURS}" for line in lines]
        lines = [kept, *lines] if opening else lines
        made = newline.join(lines)
        _Metadata.of(made, where).check(document.values, added)
        section = part(BEGIN, END, "\n".join(self._section(chain)))
        section = section.replace("\n", newline) + newline
        gap = "" if content is None else newline * 2
        opening, closing = opening or f"---{newline}", closing or f"{newline}---{newline}"
        return f"{mark}{opening}{made}{closing}{body}{gap}{section}".encode()

    def _fields(
        self, known: Mapping[str, Any], chain: Sequence[Link], base: Any, where: str
    ) -> dict[str, Any]:
        """The metadata to add to what is known."""
        wanted = {
            "license": self.license or ("other" if self.license_name or self.license_link else ""),
            "license_name": self.license_name,
            "license_link": self.license_link,
        }
        for name, value in wanted.items():
            if value and known.get(name) not in (None, value):
                raise InputError(
                    f"{where} says {name}: {quoted(known[name])}, not {quoted(value)}. Change it "
                    "there, or leave it away here."
                )
        hub = HubId.of(base) if isinstance(base, str) and not Path(base).exists() else None
        of = known.get("base_model") or (hub.name if hub else "")
        wanted["base_model"] = of
        if isinstance(of, str) and of:
            wanted["base_model_relation"] = "finetune"
        added: dict[str, Any] = {n: v for n, v in wanted.items() if v and known.get(n) is None}
        tags = known.get("tags") or []
        ours = dict.fromkeys([TAG, *(link.defence for link in chain)])
        if new := [tag for tag in ours if tag not in tags]:
            added["tags"] = [*tags, *new]
        return added

    def _section(self, chain: Sequence[Link]) -> list[str]:
        """The lines of the section."""
        locks = ", ".join(f"`{link.defence}`" for link in chain if not link.lasting)
        exact = all(link.lossless for link in chain if not link.lasting)
        said = ["## Protected weights", "", "These weights were protected with `unmergeable`.", ""]
        if locks:
            said += [
                f"- They stand in other coordinates, drawn from a secret key ({locks}). The model "
                "computes what it computed before"
                + ("" if exact else ", to within one rounding of the weights")
                + ", in the programs that ran it before and without further code. It can be "
                "fine-tuned and quantised as before.",
                "- They are not made for merging: mixed with another model of the same base by a "
                "merge tool, they give one that need not work. Adapters of the open model need not "
                "fit.",
            ]
        for link in chain:
            if link.defence == MarkDefence.name:
                said.append(
                    "- They carry a mark, which changes them a little, and by which copies and "
                    "merges are recognised."
                )
            elif link.lasting:
                said.append(f"- They went through the defence `{link.defence}`.")
        said.append("- `unmergeable verify --files FOLDER` shows whether a download is complete.")
        if self.contact:
            said += ["", f"To merge this model, or with questions, ask: {self.contact}"]
        return said


def without(content: bytes) -> bytes | None:
    """A card as it was before `protect --card`; None if there was none.

    Args:
        content: of README.md; comes back as it is if nothing of ours is in it.
    """
    if _OURS.encode() not in content and BEGIN.encode() not in content:
        return content
    try:
        mark, page = _marked(content.decode())
    except UnicodeDecodeError:
        return content
    opening, block, closing, body = _split(page)
    lines = _LINE.findall(block)
    ours = [line.rstrip("\r\n").endswith(_OURS) for line in lines]
    if any(ours):
        kept = "".join(
            line.removeprefix(_BEFORE) for line, out in zip(lines, ours, strict=True) if not out
        )
        kept = re.sub(r"(?:\r\n|\r|\n)\Z", "", kept)  # which joined ours to what was there
        opening, block, closing = (opening, kept, closing) if not ours[0] else ("", kept, "")
    before, begun, rest = body.partition(BEGIN)
    _, ended, after = rest.partition(END)
    if begun and ended:
        after = re.sub(r"\A(?:\r\n|\r|\n)", "", after)
        if not (opening or before or after):
            return None
        if not after:  # with the gap before our section
            before = re.sub(r"(\r\n|\r|\n)\1\Z", "", before)
        body = before + after
    return f"{mark}{opening}{block}{closing}{body}".encode()


def _marked(text: str) -> tuple[str, str]:
    """A byte order mark, if there is one, and the text after it."""
    return ("\ufeff", text[1:]) if text.startswith("\ufeff") else ("", text)


def _split(page: str) -> tuple[str, str, str, str]:
    """What opens the metadata, it, what closes it, and the text; the first three may be empty."""
    from huggingface_hub.repocard import REGEX_YAML_BLOCK

    found = REGEX_YAML_BLOCK.match(page)
    return (found[1], found[2], found[3], page[found.end() :]) if found else ("", "", "", page)


@dataclass(frozen=True)
class _Metadata:
    """A block of YAML.

    Attributes:
        text: as it is.
        values: by field, tags as they are spelled.
        lines: of each field, the first and the one after the last.
    """

    text: str
    values: Mapping[str, Any]
    lines: Mapping[str, tuple[int, int]]

    @classmethod
    def of(cls, text: str, where: str) -> _Metadata:
        """Reads a block.

        Raises:
            InputError: one that cannot be added to.
        """
        import yaml

        loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        odd = f"the metadata of {where} cannot be added to: "
        if len(text) > _MOST:
            raise InputError(f"{odd}it has more than {_MOST >> 20} MB.")
        try:
            if any(isinstance(token, yaml.AliasToken) for token in yaml.scan(text, loader)):
                raise InputError(f"{odd}it has aliases, which cannot be moved. Write them out.")
            root = yaml.compose(text, loader)
            if root is None:
                return cls(text, {}, {})
            if not isinstance(root, yaml.MappingNode) or root.flow_style:
                raise InputError(f"{odd}it is not one field a line.")
            values = dict(yaml.load(f"{text}\n", loader))  # as the end of its last field
        except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
            raise InputError(f"{odd}it is not YAML: {clip(error, 300)}.") from None
        starts = [key.start_mark.line for key, _ in root.value]
        ends = [*starts[1:], len(_LINE.findall(text))]
        names = [key.value for key, _ in root.value]
        for key, value in root.value:
            if key.value == "tags":  # YAML reads the tag of Norwegian, no, as false
                values["tags"] = cls._tags(value, odd)
        return cls(text, values, dict(zip(names, zip(starts, ends, strict=True), strict=True)))

    @staticmethod
    def _tags(node: Any, odd: str) -> list[str]:
        nodes = node.value if node.id == "sequence" else [node]
        if any(one.id != "scalar" for one in nodes):
            raise InputError(f"{odd}its tags are not a list of words.")
        return [one.value for one in nodes if one.value]

    def with_added(self, added: Mapping[str, Any]) -> tuple[str, list[str]]:
        """The block without what is replaced, and the lines to add to it."""
        from huggingface_hub import ModelCardData

        lines = _LINE.findall(self.text)
        for name in added.keys() & self.lines.keys():
            first, last = self.lines[name]
            lines[first:last] = [f"{_BEFORE}{line}" for line in lines[first:last]]
        text = ModelCardData(**added).to_yaml() if added else ""
        return "".join(lines), text.split("\n") if text else []

    def check(self, before: Mapping[str, Any], added: Mapping[str, Any]) -> None:
        """Sees that a block says what another one said, and what was added.

        Raises:
            InputError: it says something else.
        """
        if dict(self.values) != {**before, **added}:
            raise InputError(
                "the metadata of README.md is written in a way that cannot be added to. Write one "
                "field a line, and tags one a line."
            )
