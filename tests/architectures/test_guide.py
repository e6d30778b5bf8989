"""The guide names what the data files declare."""

from pathlib import Path

from unmergeable.architectures.declaration import GUIDE, supported
from unmergeable.gauge.groups import GROUPS


def test_every_model_class_and_every_group_is_in_the_guide():
    guide = (Path(__file__).parents[2] / GUIDE).read_text("utf-8")
    for declaration in supported().values():
        for name in (declaration.model_type, *declaration.classes):
            assert name in guide, name
    for group in GROUPS:
        assert f"`{group}`" in guide, group
