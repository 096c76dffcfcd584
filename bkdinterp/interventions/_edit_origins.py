"""Origin of an intervention: the model whose means, activations, vector or principal directions it carries.

The origin is found in any field with a ``fingerprint`` (``Means``, ``Activations``, any saved result), and in a field
called ``fitted_on``. So it is also found in interventions that users define. No forwards.
"""

from dataclasses import dataclass, fields, is_dataclass
from typing import Any

from bkdinterp.interventions._edit import Edit
from bkdinterp.interventions._intervention import Intervention


def origins(intervention: Any) -> tuple[str, ...]:
    """The distinct models (``Fingerprint.model``) that an intervention's numbers come from; ``()`` if it has no origin."""
    return tuple(dict.fromkeys(_found(intervention)))


def on_any_model(intervention: Intervention) -> Intervention:
    """The same edits, allowed on every model; for using another model's numbers on purpose, e.g. a vector on the twin."""
    return intervention if isinstance(intervention, AnyModel) else AnyModel(intervention)


@dataclass(frozen=True, eq=False, repr=False)
class AnyModel(Intervention):
    """An intervention whose origin does not matter; made by `on_any_model`."""

    edit: Intervention

    def lower(self) -> tuple[Edit, ...]:
        """Its edits."""
        return self.edit.lower()

    def __str__(self) -> str:
        return str(self.edit)

    def __repr__(self) -> str:
        return f"AnyModel({self.edit})"


def _found(value: Any) -> list[str]:
    if isinstance(value, AnyModel):
        return []
    if isinstance(value, tuple | list):
        return [name for item in value if isinstance(item, Intervention) for name in _found(item)]
    if not isinstance(value, Intervention):
        model = getattr(getattr(value, "fingerprint", None), "model", None)
        return [model] if isinstance(model, str) else []
    own = getattr(value, "fitted_on", None)
    held = (
        [getattr(value, f.name) for f in fields(value)]
        if is_dataclass(value)
        else list(getattr(value, "__dict__", {}).values())
    )
    return ([own] if isinstance(own, str) else []) + [name for item in held for name in _found(item)]
