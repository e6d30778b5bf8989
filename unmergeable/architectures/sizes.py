"""Sizes of spaces, written in the data files as arithmetic on the keys of a model's config."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from unmergeable.errors import InputError, quoted

_OPERATORS: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
    ast.Div: operator.truediv,
}


def evaluate(expression: str, config: Mapping[str, Any], most: int | None = None) -> int:
    """Computes a size.

    Args:
        expression: names of config keys (dotted for nested ones, with a place in brackets for
            lists: "depths[0]"), whole numbers, + - * / //, `or` for the value to take where a key
            is absent or null: "head_dim or hidden_size // num_attention_heads", and `len(key)` for
            the length of a list, 1 for what is none.
        config: the model's config.json.
        most: a size that no space of these weights can have, or more.

    Raises:
        InputError: a key that is absent, or a result that is not a positive whole number, or more
            than there can be. A difference alone may be 0: what is left of a head whose positions
            all turn, say.
        ValueError: an expression outside this language.
    """
    body = ast.parse(expression, mode="eval").body
    value = _value(body, expression, config)
    if value is None:
        raise InputError(f"config.json says nothing of {expression!r}, which sizes a space.")
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    least = 0 if isinstance(body, ast.BinOp) and isinstance(body.op, ast.Sub) else 1
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise InputError(
            f"config.json makes {expression!r} {quoted(value)}: not a positive number."
        )
    if most is not None and value > most:
        raise InputError(
            f"config.json makes {expression!r} {quoted(value)}, more than the weights have room "
            f"for: twice their number and twice the longest axis are at most {most}. Is this the "
            "config of these weights?"
        )
    return value


def count(expression: str, config: Mapping[str, Any], most: int | None = None) -> int | None:
    """Computes a number that may be 0, and is None where a key is absent.

    Args:
        expression: as in `evaluate`.
        config: the model's config.json.
        most: as in `evaluate`.

    Raises:
        InputError: a result that is not a whole number, or is less than 0 or more than there can
            be.
    """
    value = _value(ast.parse(expression, mode="eval").body, expression, config)
    if value is None:
        return None
    if type(value) is not int or value < 0 or (most is not None and value > most):
        raise InputError(f"config.json makes {expression!r} {quoted(value)}: no number of them.")
    return value


class Numbered(Mapping[str, Any]):
    """A config that one position of an index space goes with, under the name of the space."""

    def __init__(self, config: Mapping[str, Any], index: str, at: int) -> None:
        self._config, self._index, self._at = config, index, at

    def __getitem__(self, key: str) -> Any:
        """The position, or what the config says."""
        return self._at if key == self._index else self._config[key]

    def __iter__(self) -> Iterator[str]:
        return iter({self._index: self._at, **self._config})

    def __len__(self) -> int:
        return len({self._index, *self._config})


def holds(condition: str, config: Mapping[str, Any]) -> bool:
    """Whether a model's config meets a condition.

    Args:
        condition: a size's arithmetic, quoted words, True, False and None, compared by == != < >
            or searched by `in`, or taken alone, which asks whether the key is set to anything but
            null, false and 0; joined by `and`, `or`, `not`. A key that is absent is None.
        config: the model's config.json.

    Raises:
        ValueError: a condition outside this language.
    """
    return _holds(ast.parse(condition, mode="eval").body, condition, config)


_COMPARISONS: dict[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.Gt: operator.gt,
    ast.In: lambda one, two: one in two,
}


def _holds(node: ast.expr, condition: str, config: Mapping[str, Any]) -> bool:
    match node:
        case ast.BoolOp(op=op, values=parts):
            found = (_holds(part, condition, config) for part in parts)
            return any(found) if isinstance(op, ast.Or) else all(found)
        case ast.UnaryOp(op=ast.Not(), operand=inner):
            return not _holds(inner, condition, config)
        case ast.Compare(left=left, ops=[op], comparators=[right]) if type(op) in _COMPARISONS:
            one, two = (_value(side, condition, config) for side in (left, right))
            if (one is None or two is None) and not isinstance(op, ast.Eq | ast.NotEq):
                return False
            try:
                return bool(_COMPARISONS[type(op)](one, two))
            except TypeError:
                raise InputError(
                    f"config.json gives {condition!r} the values {quoted(one)} and {quoted(two)}, "
                    "which do not compare."
                ) from None
    return bool(_value(node, condition, config))


def _value(node: ast.expr, expression: str, config: Mapping[str, Any]) -> Any:
    match node:
        case ast.Name(id=name):
            return config.get(name)
        case ast.Attribute(value=inner, attr=name):
            outer = _value(inner, expression, config)
            return outer.get(name) if isinstance(outer, Mapping) else None
        case ast.Subscript(value=inner, slice=ast.Constant(value=int()) | ast.Name() as where):
            outer, place = (_value(part, expression, config) for part in (inner, where))
            if isinstance(outer, list) and type(place) is int and 0 <= place < len(outer):
                return outer[place]
            return None
        case ast.Constant(value=int() | str() | None as constant):
            return constant
        case ast.BoolOp(op=ast.Or(), values=choices):
            for choice in choices:
                if (value := _value(choice, expression, config)) is not None:
                    return value
            return None
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
            sides = [_value(side, expression, config) for side in (left, right)]
            if any(side is None for side in sides):
                return None
            try:
                if all(type(side) in (int, float) for side in sides):
                    return _OPERATORS[type(op)](*sides)
            except ArithmeticError:
                pass
            values = " and ".join(map(quoted, sides))
            raise InputError(f"config.json gives {expression!r} the values {values}: no size.")
        case ast.Call(func=ast.Name(id="len"), args=[inner], keywords=[]):
            listed = _value(inner, expression, config)
            return None if listed is None else len(listed) if isinstance(listed, list) else 1
    raise ValueError(f"{expression!r}: {ast.unparse(node)!r} is not allowed in a size")
