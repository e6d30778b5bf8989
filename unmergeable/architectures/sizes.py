"""Sizes of spaces, written in the data files as arithmetic on the keys of a model's config."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping
from typing import Any

from unmergeable.errors import InputError

_OPERATORS: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
    ast.Div: operator.truediv,
}


def evaluate(expression: str, config: Mapping[str, Any]) -> int:
    """Computes a size.

    Args:
        expression: names of config keys (dotted for nested ones, with a place in brackets for
            lists: "depths[0]"), whole numbers, + - * / //, and `or` for the value to take where a
            key is absent or null: "head_dim or hidden_size // num_attention_heads".
        config: the model's config.json.

    Raises:
        InputError: a key that is absent, or a result that is not a positive whole number.
        ValueError: an expression outside this language.
    """
    value = _value(ast.parse(expression, mode="eval").body, expression, config)
    if value is None:
        raise InputError(f"config.json says nothing of {expression!r}, which sizes a space.")
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise InputError(f"config.json makes {expression!r} {value!r}: not a positive number.")
    return value


def _value(node: ast.expr, expression: str, config: Mapping[str, Any]) -> Any:
    match node:
        case ast.Name(id=name):
            return config.get(name)
        case ast.Attribute(value=inner, attr=name):
            outer = _value(inner, expression, config)
            return outer.get(name) if isinstance(outer, Mapping) else None
        case ast.Subscript(value=inner, slice=ast.Constant(value=int() as place)):
            outer = _value(inner, expression, config)
            whole = isinstance(outer, list) and place < len(outer)
            return outer[place] if whole else None
        case ast.Constant(value=int() as number):
            return number
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
                return _OPERATORS[type(op)](*sides)
            except (TypeError, ArithmeticError):
                raise InputError(
                    f"config.json gives {expression!r} the values {sides!r}: no size."
                ) from None
    raise ValueError(f"{expression!r}: {ast.unparse(node)!r} is not allowed in a size")
