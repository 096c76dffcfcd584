"""Fields that were added to a saved class later. No forwards.

What is stored under a class's values, e.g. the units behind a paper's tables, must be found when the class has grown. So
each such field is left out of the values at its default.
"""

from collections.abc import Mapping
from typing import Any


def without_defaults(values: Mapping[str, Any], later: Mapping[str, Any]) -> dict[str, Any]:
    """The values without those that equal their default in ``later``."""
    return {name: value for name, value in values.items() if name not in later or value != later[name]}
