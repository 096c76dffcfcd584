"""The run-time checker of the tests; jaxtyping puts it on every function and dataclass that names a tensor's shape.

It is beartype, except that `Self` passes unchecked: jaxtyping decorates methods one by one, and beartype
knows what `Self` means only when it decorates the class.

The others are left as they are: pyright checks their types, and binding the arguments of every call of the
package, as jaxtyping does, took half of the suite's time.
"""

import inspect
from typing import Any, Self

import jaxtyping
from beartype import BeartypeConf, BeartypeHintOverrides, beartype

check = beartype(conf=BeartypeConf(hint_overrides=BeartypeHintOverrides({Self: object})))

_DTYPES = ("Float", "Int", "Bool", "UInt8", "Num", "Shaped", "Integer", "Complex")
_jaxtyped: Any = jaxtyping.jaxtyped


def has_shapes(thing: Any) -> bool:
    """Whether a function's signature or a class's fields name a tensor's shape, in an annotation or a string of one."""
    owners = inspect.getmro(thing)[:-1] if inspect.isclass(thing) else [thing]
    hints = [str(hint) for owner in owners for hint in inspect.get_annotations(owner).values()]
    return any("jaxtyping" in hint or any(f"{name}[" in hint for name in _DTYPES) for hint in hints)


def _only_with_shapes(*given: Any, **settings: Any) -> Any:
    def decorate(thing: Any) -> Any:
        known = inspect.isclass(thing) or inspect.isfunction(thing)
        return _jaxtyped(**settings)(thing) if not known or has_shapes(thing) else thing

    # Other calls, such as jaxtyped("context"), are the package's own.
    return _jaxtyped(*given, **settings) if given or set(settings) != {"typechecker"} else decorate


jaxtyping.jaxtyped = _only_with_shapes
