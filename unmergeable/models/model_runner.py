"""A stock transformers model in memory, which any weights of its architecture are loaded into."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unmergeable.architectures.composition import composed
from unmergeable.architectures.declaration import declaration_for
from unmergeable.architectures.layout import Layout
from unmergeable.errors import InputError, UnmergeableError
from unmergeable.models.device import current
from unmergeable.models.load import load_image_processor, load_model, load_tokenizer

if TYPE_CHECKING:
    import torch


class ModelRunner:
    """Runs weights that are in memory, as stock transformers would run them from a folder.

    Building a model takes longer than giving it other weights, and an audit runs hundreds: so one
    model is built, and each candidate's tensors take the place of its own.

    Attributes:
        model: the transformers model, in evaluation mode.
        tokenizer: of a text model, if the folder has one; else None.
        image_processor: of a vision model, if the folder has one; else None.
    """

    def __init__(
        self, model: torch.nn.Module, tokenizer: Any = None, image_processor: Any = None
    ) -> None:
        self.model: Any = model.eval()  # of transformers, which mypy does not follow
        self.tokenizer, self.image_processor = tokenizer, image_processor
        self._names: dict[str, str | None] = {}

    @classmethod
    def of(cls, folder: str | Path) -> ModelRunner:
        """Loads a folder's model, in float32, onto the [current][unmergeable.models.device] device.

        Raises:
            InputError: transformers cannot load it.
            UnsupportedError: a model class that this transformers does not have.
        """
        folder = Path(folder)
        try:
            config = json.loads((folder / "config.json").read_bytes())
        except (OSError, ValueError) as error:
            raise InputError(f"transformers cannot read {folder}/config.json: {error}") from None
        model = load_model(folder, config)
        tokenizer, processor = load_tokenizer(folder), load_image_processor(folder)
        return cls(model.to(current()), tokenizer, processor)

    @property
    def device(self) -> torch.device:
        """Where the model runs."""
        device: torch.device = next(self.model.parameters()).device
        return device

    def load_state(self, state: Mapping[str, torch.Tensor], *, copy: bool = False) -> None:
        """Gives the model other weights.

        Args:
            state: tensors by the names of the model's folder.
            copy: whether to copy them, for training; else the model reads the given ones.

        Raises:
            InputError: a tensor that the model lacks, or one that it misses.
        """
        placed = {
            own: tensor.to(self.device, copy=copy) for own, tensor in self.own_names(state).items()
        }
        missing, unexpected = self.model.load_state_dict(placed, strict=False, assign=True)
        self.model.tie_weights()
        absent = set(missing) - set(self._tied())
        if unexpected or absent:
            raise InputError(
                f"these weights miss {sorted(absent)} and have {sorted(unexpected)} too many for "
                f"{type(self.model).__name__}."
            )
        for parameter in self.model.parameters():
            parameter.requires_grad_(copy)

    def own_names(self, state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The tensors by the names that the model itself uses, without unused buffers.

        Folders of one architecture differ in whether names begin with the trunk's prefix.
        """
        names = self._names or self._match(state)
        self._names = names
        return {names[name]: tensor for name, tensor in state.items() if names.get(name)}  # type: ignore[misc]

    def folder_names(self) -> dict[str, str]:
        """The model's own names of tensors, mapped to those of the folder last loaded."""
        return {own: name for name, own in self._names.items() if own}

    def _match(self, state: Mapping[str, torch.Tensor]) -> dict[str, str | None]:
        own = set(self.model.state_dict())
        buffers = {name for name, _ in self.model.named_buffers()}
        prefix = f"{getattr(self.model, 'base_model_prefix', '')}."
        names: dict[str, str | None] = {}
        renamed = {name: name for name in own}
        if not own.issuperset(state):
            renamed = self._renamed(state) | renamed
        for name in state:
            spellings = (name, prefix + name, name.removeprefix(prefix))
            found = next((renamed[s] for s in spellings if s in renamed), None)
            is_buffer = any(s in buffers for s in spellings) or not state[name].is_floating_point()
            if found is None and not is_buffer and not name.endswith((".attn.bias", ".inv_freq")):
                raise InputError(
                    f"{type(self.model).__name__} has no tensor {name!r}: is the config the one of "
                    "these weights?"
                )
            names[name] = found
        return names

    def _renamed(self, state: Mapping[str, torch.Tensor]) -> dict[str, str]:
        """The given names of tensors that the library calls otherwise in memory, to its own.

        transformers keeps the files of older versions: of DINOv2 a file says `attention.key`, and
        the model `k_proj`. The architecture's declaration knows both spellings.
        """
        named = type(self.model).__name__
        config = {**self.model.config.to_dict(), "architectures": [named]}  # type: ignore[operator, union-attr]
        try:
            family, _ = composed(declaration_for(config.get("model_type")), config)
            head = family.classes[named].tensors if named in family.classes else ()
            rows = (*family.tensors, *head)
            # A head that was put upon the model is none of the architecture's tensors.
            shapes = {
                name: tensor.shape
                for name, tensor in state.items()
                if any(row.match(name) is not None for row in rows)
            }
            layout = Layout.of(config, shapes)
        except UnmergeableError:  # the names that the model lacks are reported by our caller
            return {}
        stored = {layout.stored_name(own): own for own in self.model.state_dict()}
        return {name: own for name, own in stored.items() if name is not None}

    def _tied(self) -> list[str]:
        return list(getattr(self.model, "all_tied_weights_keys", {}) or {})
