"""The command line: a thin layer on the public API."""

from bkdinterp.cli import (
    _demo_and_doctor,
    _method_commands,
    _poison_command,
    _suspect_commands,
)
from bkdinterp.cli._app import app as app
from bkdinterp.cli._app import main as main

_ = (_suspect_commands, _method_commands, _poison_command, _demo_and_doctor)
