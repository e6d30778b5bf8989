"""Where each tensor of an adapter belongs in its model, checked before any of them is read.

Most adapt a weight that the model's folder has. Others are of weights that are in the adapter
alone: the head of another task, or the head of a language model that is tied to its embeddings.
For those the rows of the model's declaration say where they live.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from unmergeable.architectures.composition import composed
from unmergeable.architectures.declaration import declaration_for
from unmergeable.architectures.layout import Layout
from unmergeable.architectures.placing import ModelSpaces, check_shape, place
from unmergeable.architectures.rules import Declaration, TensorRule
from unmergeable.checkpoint.adapter_config import CONFIG, rank_of
from unmergeable.checkpoint.adapter_folder import TOKENS, AdapterTensor, parse_name
from unmergeable.checkpoint.folder import ModelFolder
from unmergeable.defences.chain import Chain
from unmergeable.errors import InputError, UnsupportedError, quoted

# What PEFT's task types end the names of model classes with.
_TASKS = {
    "SEQ_CLS": ("ForSequenceClassification",),
    "TOKEN_CLS": ("ForTokenClassification",),
    "QUESTION_ANS": ("ForQuestionAnswering",),
    "CAUSAL_LM": ("ForCausalLM", "LMHeadModel"),
    "SEQ_2_SEQ_LM": ("ForConditionalGeneration",),
}
HIDDEN = "FEATURE_EXTRACTION"
MAX_NAME = 256


@dataclass(frozen=True)
class Place:
    """What one tensor of an adapter is of.

    Attributes:
        weight: the name of the weight that it changes, in the layout.
        part: which part of the change it is, as in `AdapterTensor`.
        transposed: whether the weight is stored (in, out): GPT-2's, and embedding tables.
    """

    weight: str
    part: str
    transposed: bool = False


class AdapterPlaces:
    """The places of all tensors of an adapter.

    Args:
        adapter: its folder.
        model: the model's, open or locked.
        chain: what the lock does; without gauges if there is none.

    Attributes:
        chain: the same, for a layout that has the adapter's own weights besides.

    Raises:
        InputError: a tensor that the model has no place for, or that is of another shape.
        UnsupportedError: an adapter whose users read what the lock moved; a head that the model
            has not what it needs for.
    """

    def __init__(self, adapter: ModelFolder, model: ModelFolder, chain: Chain) -> None:
        self._adapter, self._tensors, self._shapes = adapter, adapter.tensors, model.shapes
        found, self._config = composed(
            declaration_for(model.config.get("model_type")), model.config
        )
        self._declaration: Declaration = found
        self._layout = chain.layout
        self._reader = self._reading_class(chain.layout)
        self.chain, weights = self._extended(chain)
        self._check_outputs()
        embeddings = {
            parse_name(n).module for n in self._tensors if parse_name(n).part.startswith("lora_e")
        }
        self._places = {}
        for name, weight in weights.items():
            module, part = parsed = parse_name(name)
            transposed = module in embeddings or self._is_transposed(weight)
            self._places[name] = Place(weight, part, not parsed.is_whole and transposed)
        self._found = {(place.weight, place.part): name for name, place in self._places.items()}
        self._check_shapes()

    def __getitem__(self, tensor: str) -> Place:
        return self._places[tensor]

    def find(self, weight: str, part: str) -> str | None:
        """The tensor that is a part of a weight's change; None if the adapter has none."""
        return self._found.get((weight, part))

    def dims(self, weight: str) -> tuple[int | None, ...]:
        """The dimensions of a weight; None where any will do."""
        if weight in self._shapes:
            return self._shapes[weight]
        layout = self.chain.layout
        return tuple(axis.size(layout.spaces) for axis in layout.placements[weight].rule.axes)

    @cached_property
    def _rows(self) -> list[TensorRule]:
        """The rows of the trunk, and of the heads of the model's class and of the adapter's."""
        layout, classes = self._layout, self._declaration.classes
        named = [name for name in (layout.model_class, self._reader) if name in classes]
        heads = [row for name in named for row in classes[name].tensors]
        return [*self._declaration.tensors, *heads]

    def _reading_class(self, layout: Layout) -> str:
        """The class that the adapter's users load the model as; empty if nothing says so."""
        config, classes = self._adapter.config, self._declaration.classes
        mapping = config.get("auto_mapping")
        named = mapping.get("base_model_class") if isinstance(mapping, dict) else None
        if named is not None:
            return str(named)
        task = config.get("task_type")
        if task == HIDDEN or (task is None and self._is_of_trunk(layout)):
            # Of models that see, the class without a head hands out embeddings, which stay.
            own = layout.model_class if layout.model_class.endswith("Model") else HIDDEN
            return next((name for name, rule in classes.items() if rule.outputs), own)
        fitting = [name for name in classes if name.endswith(_TASKS.get(str(task), ()) or "?")]
        return layout.model_class if layout.model_class in fitting else next(iter(fitting), "")

    def _is_of_trunk(self, layout: Layout) -> bool:
        """Whether the names are those of a model without a head, which lack the trunk's prefix."""
        prefixes = {rule.prefix for rule in self._declaration.tensors} - {""}
        lack = layout.model_class and not self._declaration.classes[layout.model_class].outputs
        names = [parse_name(name).module for name in self._tensors]
        return bool(
            lack
            and prefixes
            and names
            and not any(name.startswith(tuple(prefixes)) for name in names)
            and any(layout.stored_name(f"{name}.weight") for name in names)
        )

    def _extended(self, chain: Chain) -> tuple[Chain, dict[str, str]]:
        """The chain with the weights that the adapter brings, and each tensor's weight."""
        layout = chain.layout
        spaces, placements = dict(layout.spaces), dict(layout.placements)
        every = ModelSpaces(self._declaration.spaces, self._config, {})
        weights: dict[str, str] = {}
        for tensor in self._tensors:
            if len(tensor) > MAX_NAME:
                raise InputError(
                    f"the adapter has a tensor named {quoted(tensor)}, too long a name."
                )
            spelled = _spelled(parse_name(tensor))
            weights[tensor] = layout.stored_name(spelled) or spelled
            if weights[tensor] in placements:
                continue
            row = next((row for row in self._rows if row.match(spelled) is not None), None)
            of_experts = row is not None and any(every[name].group for name in row.indices())
            required = row in self._declaration.tensors and row is not None and not row.optional
            if row is None or (required and not of_experts):
                raise self._refusal(tensor, spelled)
            for name in (n for axis in (*row.axes, *row.slots()) for n in axis.names()):
                for one in (name, *every[name].per):
                    spaces.setdefault(one, every[one])
            if of_experts:
                raise UnsupportedError(
                    f"{tensor}: the locked model stores the experts of a layer as one stack, and "
                    "the adapter is of single ones. Merge the adapter into the open model and lock "
                    "the result."
                )
            placement = place(spelled, [row], every)
            assert placement is not None  # the row fits it
            self._check_filled(tensor, spelled, row)
            sizes = tuple(axis.size(spaces) or 1 for axis in row.axes)
            check_shape(spelled, sizes, placement, every)
            placements[spelled] = placement
        _check_single(weights)
        extended = replace(layout, spaces=spaces, placements=placements)
        return Chain(extended, chain.gauges), weights

    def _refusal(self, tensor: str, spelled: str) -> InputError | UnsupportedError:
        """What to say of a tensor that no row fits."""
        task, whole = self._adapter.config.get("task_type"), parse_name(tensor).is_whole
        if whole and task not in (None, "CAUSAL_LM", "SEQ_2_SEQ_LM"):
            return UnsupportedError(
                f"{tensor}: the adapter brings a head of its own (task_type {quoted(task)}), and "
                f"no class declared for {self._layout.family} has one of that name. Declared: "
                f"{', '.join(self._declaration.classes)}."
            )
        return InputError(
            f"{tensor}: the model has no tensor {spelled!r}. Is this an adapter of it?"
        )

    def _check_filled(self, tensor: str, spelled: str, row: TensorRule) -> None:
        """A weight that the model's folder lacks is in the adapter, and so is what it reads.

        Raises:
            UnsupportedError: it would be made at random when the model is loaded.
        """
        trunk, classes = self._declaration.tensors, self._declaration.classes
        parsed = [parse_name(name) for name in self._tensors]
        brought = [one.module for one in parsed if one.is_whole]
        own = classes.get(self._layout.model_class)
        tied = own is not None and row in own.tensors  # a head that is absent is its embeddings
        task = quoted(self._adapter.config.get("task_type"))
        if not tied and spelled not in brought:
            raise UnsupportedError(
                f"{tensor} (task_type {task}) adapts {spelled}, which neither the locked model nor "
                "the adapter has. Save it with the adapter (modules_to_save), or lock the model "
                "with its head."
            )
        used = {
            name
            for placement in self._layout.placements.values()
            for axis in placement.rule.axes
            for name in axis.names()
        }
        reads = {name for axis in row.axes for name in axis.names()} - used
        for name in reads if row not in trunk else ():
            writers = [one for one in trunk if any(name in axis.names() for axis in one.axes)]
            if writers and not any(
                one.match(other) is not None for one in writers for other in brought
            ):
                raise UnsupportedError(
                    f"{tensor}: this head (task_type {task}) reads {name!r}, and neither the "
                    f"locked model nor the adapter has {writers[0].templates[-1]!r}, which fills "
                    "it. Save that with the adapter (modules_to_save), or lock the model with its "
                    "head."
                )

    def _check_outputs(self) -> None:
        """Refuses an adapter whose users are handed what the lock moved, or nobody knows what."""
        classes = self._declaration.classes
        if self._reader not in ("", self._layout.model_class, *classes):
            raise UnsupportedError(
                f"{CONFIG}: the adapter is for the model class {quoted(self._reader)} "
                f"(auto_mapping or task_type), which is not declared for {self._layout.family}, "
                f"so that nobody knows what it hands out. Declared: {', '.join(classes)}."
            )
        rule = classes.get(self._reader)
        for name in rule.outputs if rule else ():
            space = self.chain.layout.spaces.get(name)
            if space is None or space.group is None:
                continue
            instances = list(self.chain.layout.instances(space))
            if any(
                not gauge(space, at).is_identity for gauge in self.chain.gauges for at in instances
            ):
                raise UnsupportedError(
                    f"{CONFIG}: the adapter is for hidden states (task_type "
                    f"{quoted(self._adapter.config.get('task_type'))}, class {self._reader}), and "
                    f"the lock moved the space {name!r} that they are in, so that its users would "
                    f'read others. Lock the model as {self._reader} ("architectures" in its '
                    "config.json), which keeps it."
                )

    def _is_transposed(self, weight: str) -> bool:
        """Whether a linear layer's weight is stored (in, out).

        A layer's bias lives where its outputs do, so the rows of both say it.
        """
        rule = self.chain.layout.placements[weight].rule
        biases = {
            name.removesuffix("weight") + "bias"
            for name in rule.templates
            if name.endswith("weight")
        }
        row = next((one for one in self._rows if biases & set(one.templates)), None)
        if row is None or len(rule.axes) != 2:
            return False
        return row.axes[0] == rule.axes[1] and row.axes[0] != rule.axes[0]

    def _check_shapes(self) -> None:
        """Every tensor is of the shape that its weight, and its rank, make it."""
        modules: dict[str, dict[str, str]] = {}
        for name in self._places:
            module, part = parse_name(name)
            modules.setdefault(module, {})[part.removesuffix(".weight")] = name
        for module, parts in modules.items():
            if any(part.startswith("lora_") for part in parts):
                self._check_parts(module, parts)
        for name, place_ in self._places.items():
            found = self._tensors[name].shape
            wanted = self._shape(name, place_, modules)
            if len(found) != len(wanted) or any(
                want not in (None, have) for have, want in zip(found, wanted, strict=True)
            ):
                raise InputError(
                    f"{name} has shape {_plain(found)}; for {place_.weight} of the model, "
                    f"of shape {_plain(self.dims(place_.weight))}, it must be {_plain(wanted)}. "
                    "Is this an adapter of it?"
                )

    def _check_parts(self, module: str, parts: Mapping[str, str]) -> None:
        """What belongs together is there, and of the rank that the config says."""
        config = self._adapter.config
        kind = "lora_embedding_" if "lora_embedding_A" in parts else "lora_"
        wanted = [f"{kind}A", f"{kind}B"]
        wanted += ["lora_magnitude_vector"] * bool(config.get("use_dora"))
        wanted += ["lora_B.bias"] * bool(config.get("lora_bias"))
        if missing := [part for part in wanted if part not in parts]:
            raise InputError(
                f"the adapter has {parts[next(iter(parts))]}, but no {missing[0]} for {module}. "
                "Is the download complete?"
            )
        shape, rank = self._tensors[parts[wanted[0]]].shape, rank_of(config, module)
        if not shape or shape[0] != rank:
            raise InputError(
                f"{parts[wanted[0]]} has shape {_plain(shape)}, but {CONFIG} makes it of rank "
                f"{rank}. Is this the config of these weights?"
            )

    def _shape(
        self, name: str, place_: Place, modules: Mapping[str, Mapping[str, str]]
    ) -> Sequence[int | None]:
        dims = self.dims(place_.weight)
        part = place_.part.removesuffix(".weight")
        if parse_name(name).is_whole:
            return dims
        if part == TOKENS:
            return (None, *dims[1:])
        out, *ins = dims[::-1] if place_.transposed else dims
        rank = rank_of(self._adapter.config, parse_name(name).module)
        return {
            "lora_A": (rank, *ins),
            "lora_B": (out, rank, *(1 for _ in ins[1:])),
            "lora_embedding_A": (rank, *ins),
            "lora_embedding_B": (out, rank),
        }.get(part, (out,))


def _spelled(tensor: AdapterTensor) -> str:
    """The name of the weight that a tensor changes, or is."""
    return tensor.module if tensor.is_whole else f"{tensor.module}.weight"


def _check_single(weights: Mapping[str, str]) -> None:
    """No part of a weight's change stands there under two names."""
    seen: dict[tuple[str, str], str] = {}
    for tensor, weight in weights.items():
        part = parse_name(tensor).part.removesuffix(".weight")
        if other := seen.setdefault((weight, part), ""):
            raise InputError(f"{tensor} and {other} are two spellings of one tensor.")
        seen[weight, part] = tensor


def _plain(shape: Sequence[int | str | None]) -> str:
    """Dimensions as a sentence can hold them."""
    return quoted(tuple("any" if n is None else n for n in shape)).replace("'", "")
