"""A model taken block by block: what goes into each block, and what comes out of it.

A fit of a block needs its inputs again and again. So the residual stream is kept per batch, as
it enters the block in hand, and moved on when that block is done: the whole costs a forward pass
or two, and not one per block.

Memory: the residual stream of all batches, tokens times width, for each stream that is followed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import takewhile
from typing import TYPE_CHECKING, Any

from unmergeable.architectures.layout import Layout
from unmergeable.attacks.parts import layers
from unmergeable.errors import InputError
from unmergeable.evaluation.scoring import precision
from unmergeable.merging.method import Corpus, State
from unmergeable.models.model_runner import ModelRunner

if TYPE_CHECKING:
    import torch

Stream = list["torch.Tensor"]
See = Callable[["torch.Tensor", "torch.Tensor"], None]


class _Enough(Exception):  # noqa: N818
    """Ends a forward pass; it is no error."""


@dataclass(frozen=True, eq=False)
class _Call:
    """How a block was called, but for the residual stream."""

    rest: tuple[Any, ...]
    named: dict[str, Any]
    key: str  # where the stream stands, if it was named

    def run(self, block: torch.nn.Module, stream: torch.Tensor) -> torch.Tensor:
        """Runs a block on another stream, in the same circumstances."""
        if self.key:
            out = block(*self.rest, **{**self.named, self.key: stream})
        else:
            out = block(stream, *self.rest, **self.named)
        result: torch.Tensor = out[0] if isinstance(out, tuple) else out
        return result


class Blocks:
    """The blocks of the model in a runner, with the circumstances of some batches.

    What a block is called with besides the residual stream, such as masks and rotary angles, does
    not depend on the weights, so it is recorded once. That holds of an encoder's blocks, not of a
    decoder's behind it, which are left out.

    Args:
        runner: of the model.
        layout: where each tensor lives.
        state: weights of the model, by the names of its folder.
        corpus: the batches.

    Raises:
        InputError: an architecture whose layers are several stacks.
    """

    def __init__(self, runner: ModelRunner, layout: Layout, state: State, corpus: Corpus) -> None:
        self._runner, self._corpus = runner, corpus
        runner.load_state(state)
        own = {name: key for key, name in runner.folder_names().items()}
        stack = layers(layout, "layer")
        if not stack:
            raise InputError(
                f"{layout.family} cannot be walked through block by block: its layers are "
                "not one stack."
            )
        self.names = [[name for name in layer if name in own] for layer in stack]
        self._own = own
        self.modules = [
            runner.model.get_submodule(_parent([own[name] for name in names]))
            for names in self.names
        ]
        self._calls: list[list[_Call]] = []

    def __len__(self) -> int:
        return len(self.modules)

    def enter(self, state: State) -> Stream:
        """Pours weights in, and returns the residual stream as it enters the first block."""
        self._runner.load_state(state)
        streams = []
        for batch in self._corpus.batches:
            calls: list[_Call] = []
            found: list[torch.Tensor] = []

            def record(
                module: Any,
                args: tuple[Any, ...],
                kwargs: dict[str, Any],
                calls: list[_Call] = calls,
                found: list[torch.Tensor] = found,
            ) -> None:
                stream, call = _split(args, kwargs)
                calls.append(call)
                found.append(stream.detach())
                if self._calls_known or len(calls) == len(self):
                    raise _Enough

            hooks = [m.register_forward_pre_hook(record, with_kwargs=True) for m in self.modules]
            self._run(batch, hooks)
            if not self._calls_known:
                self._calls.append(calls)
            streams.append(found[0].float())
        return streams

    @property
    def _calls_known(self) -> bool:
        return len(self._calls) == len(self._corpus.batches)

    def _run(self, batch: Any, hooks: Sequence[Any]) -> None:
        import torch

        try:
            with torch.no_grad(), precision(self._runner):
                self._corpus.task.logits(self._runner.model, batch)
        except _Enough:
            pass
        finally:
            for hook in hooks:
                hook.remove()

    def run(self, layer: int, stream: torch.Tensor, batch: int) -> torch.Tensor:
        """One block's output for a batch, by the weights that the runner holds."""
        return self._calls[batch][layer].run(self.modules[layer], stream)

    def onward(self, layer: int, streams: Stream) -> Stream:
        """The residual stream behind a block."""
        return [self._silent(layer, stream, batch) for batch, stream in enumerate(streams)]

    def heard(self, name: str, layer: int, streams: Stream) -> Iterator[torch.Tensor]:
        """What the module of a tensor takes in, batch by batch; the block stops there."""
        for batch, stream in enumerate(streams):
            taken: list[torch.Tensor] = []

            def see(x: torch.Tensor, y: torch.Tensor, taken: list[torch.Tensor] = taken) -> None:
                taken.append(x)

            with self._watched(name, see, stop=True):
                self._silent(layer, stream, batch)
            yield taken[0]

    def said(
        self, names: Sequence[str], layer: int, streams: Stream
    ) -> tuple[dict[str, Stream], Stream]:
        """What the modules of some tensors give out, in the order of computation, and the block."""
        found: dict[str, Stream] = {}
        with ExitStack() as stack:
            for name in names:

                def see(x: torch.Tensor, y: torch.Tensor, name: str = name) -> None:
                    found.setdefault(name, []).append(y.float())

                stack.enter_context(self._watched(name, see))
            return found, self.onward(layer, streams)

    def real(self, batch: int, width: int) -> torch.Tensor | None:
        """Which positions of a batch are no padding: shape (rows, width); None for all."""
        mask = self._corpus.batches[batch].inputs.get("attention_mask")
        return None if mask is None or mask.shape[-1] != width else mask.bool()

    def _silent(self, layer: int, stream: torch.Tensor, batch: int) -> torch.Tensor:
        import torch

        with torch.no_grad(), precision(self._runner):
            return self.run(layer, stream, batch).float()

    @contextmanager
    def _watched(self, name: str, see: See, stop: bool = False) -> Iterator[None]:
        """Shows every input and output of a tensor's module; can end the pass there."""

        def hook(own: Any, args: tuple[Any, ...], out: Any) -> None:
            see(args[0].detach(), out.detach())
            if stop:
                raise _Enough

        module = self._runner.model.get_submodule(_parent([self._own[name]]))
        handle = module.register_forward_hook(hook)
        try:
            yield
        except _Enough:
            pass
        finally:
            handle.remove()


def _split(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[torch.Tensor, _Call]:
    """The residual stream, and the rest of a call; without a cache, which would grow."""
    named = {key: _uncached(value) for key, value in kwargs.items()}
    if args:
        return args[0], _Call(tuple(map(_uncached, args[1:])), named, "")
    key = next(key for key, value in kwargs.items() if hasattr(value, "is_floating_point"))
    return kwargs[key], _Call((), named, key)


def _uncached(value: Any) -> Any:
    return None if hasattr(value, "get_seq_length") else value


def _parent(paths: Sequence[str]) -> str:
    """The module that holds all of some tensors."""
    shared = list(zip(*(path.split(".")[:-1] for path in paths), strict=False))
    return ".".join(steps[0] for steps in takewhile(lambda steps: len(set(steps)) == 1, shared))
