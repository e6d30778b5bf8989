"""What an attack trains on: inputs with a teacher's answers, or with labels.

Teachers answer each batch once. Their answers are kept as log-probabilities; where there are more
classes than `KEPT`, as in next-token prediction, the likeliest are kept one by one and the others
as one: what is lost is how the teacher orders what it thinks unlikely.

Memory, in copies of the model: those that `training.loop` names, and nothing else of that size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING

from unmergeable.attacks.attack import Thief
from unmergeable.attacks.price import Meter
from unmergeable.attacks.task_vector import finite
from unmergeable.attacks.texts import stream
from unmergeable.evaluation.scoring import precision
from unmergeable.evaluation.task import Batch, Task
from unmergeable.merging.method import Corpus, State
from unmergeable.training.loop import Plan, train

if TYPE_CHECKING:
    import torch

KEPT = 256


@dataclass(frozen=True, eq=False)
class Lesson:
    """One part of what is learnt.

    Attributes:
        corpus: the inputs.
        size: items per step.
        teacher: whose answers to learn; None to learn the corpus' labels.
        weight: of its loss.
    """

    corpus: Corpus
    size: int
    teacher: State | None = None
    weight: float = 1.0


@dataclass(frozen=True, eq=False)
class Learnt:
    """A snapshot.

    Attributes:
        steps: how many were taken.
        state: the weights.
        seen: per lesson, how many of its items were used.
        flops: the teachers' and the student's.
    """

    steps: int
    state: State
    seen: tuple[int, ...]
    flops: float


def learn(thief: Thief, start: State, lessons: Sequence[Lesson], plan: Plan) -> Iterator[Learnt]:
    """Trains all weights of a model on several lessons at once.

    Args:
        thief: who does it, with what seed.
        start: the student's weights at first.
        lessons: each step takes some items of each; those without batches are left out.
        plan: how long and how fast.
    """
    lessons = [lesson for lesson in lessons if lesson.corpus.batches]
    states = [start, *(lesson.teacher for lesson in lessons if lesson.teacher is not None)]
    if not lessons or not all(map(finite, states)):
        return
    meter = Meter.of(thief)
    days = [
        list(islice(stream(lesson.corpus.batches, lesson.size, thief.seed), plan.stops[-1]))
        for lesson in lessons
    ]
    answers: list[dict[Batch, Answers]] = [{} for _ in lessons]
    seen: list[set[int]] = [set() for _ in lessons]

    def losses(step: int) -> Iterator[torch.Tensor]:
        for lesson, day, known in zip(lessons, days, answers, strict=True):
            total = sum(len(batch.items) for batch in day[step])
            for batch in day[step]:
                share = lesson.weight * len(batch.items) / total
                given = lesson.corpus.task.logits(thief.runner.model, batch)
                if lesson.teacher is None:
                    yield share * lesson.corpus.task.losses(given, batch).mean()
                else:
                    yield share * known[batch].divergence(given)
            meter.training(day[step])

    loop = train(thief.runner, start, losses, plan.rate_at, plan.stops, optimiser=plan.optimiser)
    done = 0
    for stop in plan.stops:
        for lesson, day, known, used in zip(lessons, days, answers, seen, strict=True):
            batches = [batch for step in day[done:stop] for batch in step]
            used.update(item for batch in batches for item in batch.items)
            if lesson.teacher is not None:
                new = [batch for batch in dict.fromkeys(batches) if batch not in known]
                known.update(ask(thief, lesson.teacher, lesson.corpus.task, new))
                meter.forward(new)
        if not all(known[b].finite for known in answers for b in known):
            return
        snapshot = next(loop, None)
        if snapshot is None or not finite(snapshot[1]):
            return
        done = stop
        yield Learnt(stop, snapshot[1], tuple(map(len, seen)), meter.flops)


@dataclass(frozen=True, eq=False)
class Answers:
    """A teacher's answers to one batch.

    Attributes:
        logs: log-probabilities, shape (answers, classes) or (answers, `KEPT` + 1).
        which: the classes of all but the last column, where not all are kept.
    """

    logs: torch.Tensor
    which: torch.Tensor | None

    @classmethod
    def of(cls, logits: torch.Tensor) -> Answers:
        """Keeps the answers that logits stand for."""
        logs = logits.log_softmax(1)
        if logs.shape[1] <= 2 * KEPT:
            return cls(logs, None)
        top, which = logs.topk(KEPT, 1)
        return cls(_with_rest(top), which)

    @property
    def finite(self) -> bool:
        """Whether they can be learnt from."""
        import torch

        return not bool(torch.isnan(self.logs).any())

    def divergence(self, logits: torch.Tensor) -> torch.Tensor:
        """Mean KL divergence of other answers from these."""
        import torch

        logs = logits.log_softmax(1)
        if self.which is not None:
            logs = _with_rest(logs.gather(1, self.which))
        return torch.nn.functional.kl_div(logs, self.logs, reduction="batchmean", log_target=True)


def learn_briefly(
    thief: Thief, start: State, lessons: Sequence[Lesson], plan: Plan
) -> State | None:
    """What a plan leads to at its first stop; None where it leads nowhere. See `learn`."""
    learnt = next(learn(thief, start, lessons, replace(plan, stops=plan.stops[:1])), None)
    return None if learnt is None else learnt.state


def _with_rest(logs: torch.Tensor) -> torch.Tensor:
    """Adds a column: the logarithm of the probability that is left."""
    import torch

    rest = (1 - logs.exp().sum(1, keepdim=True)).clamp(min=1e-6).log()
    return torch.cat([logs, rest], 1)


def ask(thief: Thief, teacher: State, task: Task, batches: Sequence[Batch]) -> dict[Batch, Answers]:
    """A model's answers to some batches; the runner holds its weights afterwards."""
    import torch

    if not batches:
        return {}
    thief.runner.load_state(teacher)
    with torch.no_grad(), precision(thief.runner):
        return {batch: Answers.of(task.logits(thief.runner.model, batch)) for batch in batches}
