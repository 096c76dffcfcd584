"""doctor(): checks that a model behaves as every method assumes; returns a table in which failed checks name the fault.

The module is callable, so that ``bk.doctor(model)`` works whether ``bk.doctor`` is the function or the module.
"""

import sys
from types import ModuleType
from typing import Any

from bkdinterp.doctor._doctor import doctor as doctor
from bkdinterp.doctor._report import Check as Check
from bkdinterp.doctor._report import DoctorReport as DoctorReport
from bkdinterp.doctor._report import PromptEnds as PromptEnds


class _Callable(ModuleType):
    __wrapped__ = staticmethod(doctor)

    def __call__(self, *args: Any, **kwargs: Any) -> DoctorReport:
        return doctor(*args, **kwargs)


sys.modules[__name__].__class__ = _Callable
