"""The run-time type checker of the tests; jaxtyping puts it on every function of the package.

It is beartype, except that `Self` passes unchecked: jaxtyping decorates methods one by one, and beartype
knows what `Self` means only when it decorates the class.
"""

from typing import Self

from beartype import BeartypeConf, BeartypeHintOverrides, beartype

check = beartype(conf=BeartypeConf(hint_overrides=BeartypeHintOverrides({Self: object})))
