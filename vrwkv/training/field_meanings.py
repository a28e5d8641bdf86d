"""What the fields of a configuration mean: the texts under them in the source."""

import ast
import dataclasses
import inspect
import textwrap


def field_meanings(config_class: type) -> dict[str, str]:
    """Name -> the string that stands under a dataclass's field, as one line; inherited fields included.

    Fields without such a string are left out, as are all where there is no source to read.
    """
    meanings: dict[str, str] = {}
    for owner in reversed(config_class.__mro__):
        if dataclasses.is_dataclass(owner):
            meanings |= _own_meanings(owner)
    return meanings


def _own_meanings(owner: type) -> dict[str, str]:
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(owner)))
    except (OSError, TypeError, SyntaxError):
        return {}
    definition = tree.body[0]
    assert isinstance(definition, ast.ClassDef)
    meanings = {}
    for statement, following in zip(definition.body, definition.body[1:], strict=False):
        if (
            isinstance(statement, ast.AnnAssign)
            and isinstance(statement.target, ast.Name)
            and isinstance(following, ast.Expr)
            and isinstance(following.value, ast.Constant)
            and isinstance(following.value.value, str)
        ):
            meanings[statement.target.id] = " ".join(following.value.value.split())
    return meanings
