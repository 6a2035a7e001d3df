"""``package.module:attribute`` texts become objects, and factories get what their signature names."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from arena_ray.errors import EntryPointError, nearest


def resolve(entry_point: str) -> Any:
    """Import what an entry point names.

    Args:
        entry_point: ``package.module:attribute``; the attribute may be dotted.

    Raises:
        EntryPointError: If the module cannot be found or has no such attribute. What the module itself raises while it
            is imported goes through unchanged.
    """
    module_name, _, path = entry_point.partition(":")
    try:
        target: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not (module_name == error.name or module_name.startswith(f"{error.name}.")):
            raise
        raise EntryPointError(
            f"entry point {entry_point!r}: there is no module {error.name!r} where the worker runs; install it, or run "
            "arena-ray from the folder that holds it (that folder and the job file's are searched)"
        ) from error
    for name in path.split("."):
        if not hasattr(target, name):
            public = [word for word in dir(target) if not word.startswith("_")]
            raise EntryPointError(f"entry point {entry_point!r}: no attribute {name!r}; {nearest(name, public)}")
        target = getattr(target, name)
    return target


def named_parameters(factory: Callable[..., Any]) -> tuple[frozenset[str], bool]:
    """Return the names that a callable takes as keywords, and whether it takes any other (``**kwargs``) too."""
    try:
        parameters = inspect.signature(factory).parameters.values()
    except (TypeError, ValueError):
        return frozenset(), False
    by_keyword = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    names = frozenset(parameter.name for parameter in parameters if parameter.kind in by_keyword)
    return names, any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters)


def call_factory(entry_point: str, kwargs: Mapping[str, Any], offered: Mapping[str, Any]) -> Any:
    """Call a factory with the user's `kwargs` and those of the offered arguments that its signature names.

    Args:
        entry_point: The factory.
        kwargs: Passed as they are; they win over offered arguments.
        offered: Passed only where the signature names them.

    Raises:
        EntryPointError: If it cannot be imported, is not callable, or does not take `kwargs`.
    """
    factory = resolve(entry_point)
    if not callable(factory):
        raise EntryPointError(f"entry point {entry_point!r} is {factory!r}, which cannot be called; name a factory")
    names, takes_any = named_parameters(factory)
    unknown = sorted(set(kwargs) - names)
    if names and unknown and not takes_any:
        raise EntryPointError(
            f"entry point {entry_point!r} takes no argument {unknown[0]!r}; {nearest(unknown[0], names)}"
        )
    extra = {name: value for name, value in offered.items() if name in names and name not in kwargs}
    return factory(**kwargs, **extra)
