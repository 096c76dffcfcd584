"""What a mutant's reading tries to do to the world, seen through Python's audit events; only noted, and stopped where it hurts."""

import os
import sys
from pathlib import Path
from typing import Any

WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
RUNS = {"os.system", "os.exec", "os.posix_spawn", "os.spawn", "pty.spawn", "subprocess.Popen", "os.startfile"}
CHANGES = {
    "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink", "os.truncate", "os.chmod", "os.chown", "os.utime",
    "shutil.copyfile", "shutil.copytree", "shutil.move", "shutil.rmtree", "tempfile.mkstemp", "tempfile.mkdtemp",
}  # fmt: skip
TWO = {"os.rename", "os.link", "shutil.move"}
CONNECTS = {
    "socket.connect",
    "socket.bind",
    "socket.getaddrinfo",
    "urllib.Request",
    "http.client.connect",
    "ftplib.connect",
}
PRIVATE = (
    "secret",
    "neighbour",
    "mutants/neighbour",
)  # of the sandbox; nothing leads there but a mutant's words
ALLOWED = ("/dev/null", "/dev/urandom", "/proc/self")

_faults: list[str] = []
_on = False
_folder = _sandbox = ""


def start(folder: Path, sandbox: Path) -> list[str]:
    """From now on, note what happens; the list that it is noted in."""
    global _on, _folder, _sandbox
    _folder, _sandbox, _on = str(folder.resolve()), str(sandbox.resolve()), True
    sys.addaudithook(_hook)
    return _faults


def stop() -> None:
    """What follows is the harness's own."""
    global _on
    _on = False


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    global _on
    if not _on:
        return
    if event == "open":
        _opened(*arguments)
    elif event in CHANGES:
        # Of a link it matters where it is made; what it leads to is seen when it is followed.
        paths = arguments[1:2] if event == "os.symlink" else arguments[: 1 + (event in TWO)]
        for path in paths:
            if not isinstance(path, str | bytes | os.PathLike):
                continue
            entry = _entry(path, _opened_folder(event, arguments))
            if not _inside(entry, _folder, entry=True) and not _staging(entry):
                _note(f"wrote outside: {event} {_named(path)}", stop_it=True)
    elif event in RUNS:
        if (
            event == "subprocess.Popen"
            and arguments[0] in (sys.executable, None)
            and arguments[1][0] == sys.executable
        ):
            return  # the package's own way to put a limit on work
        _note(f"ran: {event} {str(arguments[:2])[:80]}", stop_it=True)
    elif event in CONNECTS:
        _note(f"network: {event}", stop_it=True)
    elif event == "pickle.find_class":
        _note(f"unpickled: {arguments[0]}.{arguments[1]}", stop_it=True)
    elif event == "builtins.input":
        _note("asked on the terminal", stop_it=True)
    elif event == "exec":
        file = getattr(arguments[0], "co_filename", "")
        if not file.startswith("<") and _inside(file, _sandbox):
            _note(f"ran: code of {_named(file)}", stop_it=True)
    elif event == "import" and arguments[1] and _inside(arguments[1], _sandbox):
        _note(f"ran: import of {arguments[0]}", stop_it=True)


def _opened(path: Any, mode: Any, flags: Any) -> None:
    if not isinstance(path, str | bytes | os.PathLike):
        return
    writes = bool(set(mode or "") & set("wax+")) or bool((flags or 0) & WRITES)
    if writes and not _inside(path, _folder) and not _staging(os.path.realpath(os.fsdecode(path))):
        _note(f"wrote outside: {_named(path)}", stop_it=True)
    elif (
        not writes and _private(path) and not os.path.islink(path)
    ):  # a link in the folder is its owner's own
        _note(f"read outside: {_named(path)}")


def _staging(path: str) -> bool:
    """The package's own folder of checked copies; the worker looks that nothing of it is left."""
    return path.startswith(f"{_sandbox}/tmp/bkdinterp-")


def _private(path: Any) -> bool:
    return os.path.realpath(os.fsdecode(path)).startswith(tuple(f"{_sandbox}/{name}" for name in PRIVATE))


def _inside(path: Any, folder: str, entry: bool = False) -> bool:
    text = os.fsdecode(path)
    if not text or text.startswith(ALLOWED):
        return folder != _sandbox
    real = text if entry else os.path.realpath(text)
    return real == folder or real.startswith(folder + os.sep)


def _entry(path: Any, folder: str) -> str:
    """The name in its folder, not what a link of that name leads to."""
    above, name = os.path.split(os.path.join(folder, os.fsdecode(path)))
    return os.path.join(os.path.realpath(above), name)


def _opened_folder(event: str, arguments: tuple[Any, ...]) -> str:
    """What a relative path starts from: an opened folder, as `shutil.rmtree` gives, or the current one."""
    place = {"os.remove": 1, "os.rmdir": 1, "os.mkdir": 2}.get(event)
    number = arguments[place] if place is not None and len(arguments) > place else -1
    if isinstance(number, int) and number >= 0:
        return os.readlink(f"/proc/self/fd/{number}")
    return os.getcwd()


def _named(path: Any) -> str:
    return os.fsdecode(path).replace(_folder, "FOLDER").replace(_sandbox, "SANDBOX")[:80]


def _note(text: str, *, stop_it: bool = False) -> None:
    global _on
    _on = False  # what it takes to note it is no event
    _faults.append(text)
    _on = True
    if stop_it:
        raise PermissionError(f"the guard stopped this: {text}")
