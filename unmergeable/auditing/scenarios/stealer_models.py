"""Who plays in the Merger-as-a-Stealer scenario: a victim and an attacker's model, trained once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unmergeable.auditing.scenarios.stealer_records import (
    Person,
    answer,
    lessons,
    loss,
    people,
    record,
    refusal,
)
from unmergeable.checkpoint.folder import ModelFolder
from unmergeable.errors import InputError
from unmergeable.evaluation import store
from unmergeable.evaluation.scoring import precision_name
from unmergeable.extras import optional
from unmergeable.merging.method import State
from unmergeable.models.model_runner import ModelRunner
from unmergeable.models.weights import Weights
from unmergeable.training.loop import Plan, train

if TYPE_CHECKING:
    import torch

CODE = 1  # raise it when what is planted changes


@dataclass(frozen=True)
class Setup:
    """How much is planted and learnt.

    Attributes:
        records: people whose codes the victim knows.
        others: people whose codes the attacker trains on.
        digits: of a code.
        learn: steps in which the victim learns its records.
        refuse: steps in which it learns to refuse, while it repeats them.
        answer: steps in which the attacker's model learns to answer.
        batch: lines per step.
        rate: highest learning rate of AdamW.
    """

    records: int = 32
    others: int = 96
    digits: int = 4
    learn: int = 60
    refuse: int = 20
    answer: int = 40
    batch: int = 16
    rate: float = 1e-4


@dataclass(frozen=True, eq=False)
class Cast:
    """Trains the models, or finds them in the cache.

    Attributes:
        runner: runs them.
        base: the public base's folder, which gives configuration and tokenizer.
        setup: how much is planted and learnt.
        seed: of people, codes and the order of lines.
        cache: the cache folder.
    """

    runner: ModelRunner
    base: ModelFolder
    setup: Setup
    seed: int
    cache: Path

    @property
    def about(self) -> dict[str, Any]:
        """What training depends on besides the weights it starts from, JSON-able."""
        files = [self.base.local / name for name in ("config.json", "tokenizer.json")]
        return {
            "setup": asdict(self.setup),
            "seed": self.seed,
            "files": [store.file_hash(file) for file in files if file.exists()],
            "precision": precision_name(self.runner),
            "device": self.runner.device.type,
            "software": [CODE, version("torch"), version("transformers")],
        }

    @property
    def secrets(self) -> list[Person]:
        """The people whose codes the victim knows."""
        return self._people()[: self.setup.records]

    def victim(self, original: Weights) -> Path:
        """A folder with a model that knows the records and refuses to tell them."""
        setup = self.setup
        steps = setup.learn + setup.refuse
        records = lessons(list(map(record, self.secrets)), setup.batch, steps, self.seed)
        refusals = lessons(
            list(map(refusal, self.secrets)), setup.batch, setup.refuse, self.seed + 1
        )

        def losses(step: int) -> Iterator[torch.Tensor]:
            yield loss(self.runner, records[step])
            if step >= setup.learn:
                yield loss(self.runner, refusals[step - setup.learn])

        return self._trained("victim", original, losses, (setup.learn, steps))

    def attacker(self, base: Weights) -> Path:
        """A folder with a model that answers such questions, about other people."""
        setup = self.setup
        others = self._people()[setup.records :]
        answers = lessons(list(map(answer, others)), setup.batch, setup.answer, self.seed + 2)

        def losses(step: int) -> Iterator[torch.Tensor]:
            yield loss(self.runner, answers[step])

        return self._trained("attacker", base, losses, (setup.answer,))

    def _people(self) -> list[Person]:
        return people(self.setup.records + self.setup.others, self.setup.digits, self.seed)

    def _trained(
        self,
        name: str,
        start: Weights,
        losses: Callable[[int], Iterator[torch.Tensor]],
        stops: Sequence[int],
    ) -> Path:
        def make(out: Path) -> None:
            plan = Plan(tuple(stops), self.setup.rate)
            done, state = 0, start.tensors
            for done, state in train(self.runner, start.tensors, losses, plan.rate_at, stops):  # noqa: B007
                pass
            if done < stops[-1]:
                raise InputError(
                    f"Merger-as-a-Stealer: the {name}'s loss is no longer finite after {done} of "
                    f"{stops[-1]} steps. Lower the rate of its Setup."
                )
            self._write(out, state)

        about = {"start": start.digest, **self.about}
        return store.get_or_make(f"models/stealer-{name}", about, make, self.cache)

    def _write(self, out: Path, state: State) -> None:
        """A model folder of one weight file."""
        tensors = {name: tensor.contiguous() for name, tensor in state.items()}
        path = out / "model.safetensors"
        optional("safetensors.torch").save_file(tensors, path, metadata={"format": "pt"})
        for name in self.base.companions:
            if not name.endswith(".safetensors.index.json"):
                (out / name).parent.mkdir(parents=True, exist_ok=True)
                (out / name).write_bytes(self.base.read_companion(name))
