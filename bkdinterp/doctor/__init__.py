"""doctor(): does this model keep the contract that every method relies on? A table of checks that name the fault."""

from bkdinterp.doctor._doctor import doctor as doctor
from bkdinterp.doctor._report import Check as Check
from bkdinterp.doctor._report import DoctorReport as DoctorReport
from bkdinterp.doctor._report import PromptEnds as PromptEnds
