"""A small ensemble with one of everything, whose attacks train shortly, also in workers."""

from dataclasses import fields, replace

from unmergeable.attacks import distil, fine_tune, sweep, training_data
from unmergeable.auditing import ensemble


def learn(thief, start, lessons, plan):
    return training_data.learn(thief, start, lessons, replace(plan, stops=plan.stops[:2]))


def shorten(patch=setattr):
    """What trains does so at one rate, to two stops."""
    patch(sweep, "GRID", sweep.GRID[:1])  # a sweep has tests of its own
    for attack in (distil, fine_tune):
        patch(attack, "learn", learn)


class Short(ensemble.Preset):
    """A preset that shortens training in whatever process unpickles it."""

    def __reduce__(self):
        return unpickled, tuple(getattr(self, each.name) for each in fields(self))


def unpickled(*values):
    shorten()
    return Short(*values)


SMALL = Short(
    "small",
    methods=("task_arithmetic", "emr", "karcher"),
    attacks=("reset", "fine_tune"),
    aligns=("aga",),
    line=3,
    settings=2,
)
