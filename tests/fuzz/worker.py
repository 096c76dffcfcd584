"""A process that has everything imported and runs each mutant in a child of its own, under guard.

``python worker.py SANDBOX`` reads one recipe a line from stdin and answers with one line of JSON. The child makes the
mutant, then lets the package read it, with limits of time and memory and with an audit hook that notes every attempt
to write elsewhere, to read a neighbour, to run something, to unpickle, to connect or to ask. What the hook cannot see
(native code) is seen by comparing the folders around the mutant before and after.
"""

import json
import os
import resource
import shutil
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any

CPU_S = int(
    os.environ.get("BKDINTERP_FUZZ_CPU", "10")
)  # of a mutant whose sound original takes a tenth of a second
WALL_S = 90  # for what sleeps; generous, because other processes may have the cores
PEAK = 1 << 30  # bytes above what the child began with
ADDRESS_SPACE = 3 << 30  # so that a mutant cannot hurt the machine, above what the child began with
SANDBOX = Path(sys.argv[1]) if len(sys.argv) > 1 else Path()
HOME, CWD, TMP, MUTANTS, ORIGINALS = (SANDBOX / n for n in ("home", "cwd", "tmp", "mutants", "originals"))
CANARY = SANDBOX / "canary"


def prepare() -> dict[str, Path]:
    """Folders, environment, imports, originals; every kind is loaded once, so that lazy imports are behind us."""
    for folder in (HOME, CWD, TMP, MUTANTS, ORIGINALS):
        folder.mkdir(parents=True)
    os.chdir(CWD)
    os.environ |= {
        "HOME": str(HOME), "HF_HOME": str(HOME / "hf"), "TMPDIR": str(TMP), "XDG_CACHE_HOME": str(HOME / "cache"), "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg", "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    }  # fmt: skip
    import logging
    import warnings

    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    import torch

    torch.set_num_threads(1)
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    from fuzz import gguf_file, mutate, originals

    made = originals.make_all(ORIGINALS)
    made["skeleton"] = made["model"]
    mutate.ORIGINAL = SANDBOX / "document.json"
    mutate.ORIGINAL.write_text(json.dumps(gguf_file.of_llama(originals.llama())))
    (SANDBOX / "secret").write_text("nobody's business\n")
    torch.save(originals.llama().state_dict(), SANDBOX / "sound.bin")
    # What an index or a link may try to lead to, from the mutant's folder.
    shutil.copytree(made["model"], SANDBOX / "neighbour")
    shutil.copytree(made["model"], MUTANTS / "neighbour")
    from fuzz import jobs

    jobs.BASE = made["model"]
    for kind in jobs.JOBS:
        for which in range(8):
            jobs.run(kind, made[kind] if kind != "sweep" else _copy(made[kind]), which)
    return made


def _copy(folder: Path) -> Path:
    return Path(shutil.copytree(folder, TMP / folder.name, dirs_exist_ok=True))


def serve() -> None:
    """Answer recipes until stdin ends."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    # Nothing that a library prints may get between the answers, and nobody is there to be asked.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    lines = os.fdopen(os.dup(0), "r")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    made = prepare()
    shutil.rmtree(TMP)
    TMP.mkdir()
    answers.write(json.dumps({"ready": True}) + "\n")
    before = state()
    for number, line in enumerate(lines):
        kind, which, steps = json.loads(line)
        told = one(kind, which, steps, made[kind], MUTANTS / f"m{number}" / "given")
        shutil.rmtree(MUTANTS / f"m{number}", ignore_errors=True)
        after = state()
        if after != before:
            changed = sorted(set(after.items()) ^ set(before.items()))
            told["faults"].append(f"wrote outside: {str(changed[0][0]).replace(str(SANDBOX), '')}")
            for path, _ in changed:
                if path not in before:
                    shutil.rmtree(path, ignore_errors=True) if os.path.isdir(path) else Path(path).unlink(
                        missing_ok=True
                    )
            before = state()
        answers.write(json.dumps(told) + "\n")


def state() -> dict[str, Any]:
    """Everything in the sandbox but the mutant: path -> size and time of its last change."""
    found = {}
    for top in (HOME, CWD, TMP, MUTANTS / "neighbour", SANDBOX / "neighbour", CANARY):
        for path in [top, *top.rglob("*")] if top.exists() else []:
            status = path.lstat()
            found[str(path)] = (status.st_size, status.st_mtime_ns if not path.is_dir() else 0)
    return found


def one(kind: str, which: int, steps: list[Any], original: Path, folder: Path) -> dict[str, Any]:
    """Run one mutant in a child; what came of it."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        try:
            told = guarded(kind, which, steps, original, folder)
        except BaseException as error:
            told = {"end": "harness", "faults": [f"harness: {error!r} {traceback.format_exc()[-600:]}"]}
        with os.fdopen(writer, "w") as out:
            out.write(json.dumps(told))
            out.flush()
            os._exit(0)
    os.close(writer)
    import select

    text, end = b"", time.monotonic() + WALL_S
    while select.select([reader], [], [], max(0.0, end - time.monotonic()))[0]:
        piece = os.read(reader, 1 << 16)
        if not piece:
            break
        text += piece
    else:
        os.kill(child, signal.SIGKILL)
    os.close(reader)
    _, status, used = os.wait4(child, 0)
    try:
        told = json.loads(text)
    except ValueError:
        code = os.waitstatus_to_exitcode(status)
        hung = -code in (signal.SIGXCPU, signal.SIGKILL)
        told = {
            "end": "hang" if hung else "crash",
            "faults": [f"hang: {CPU_S} s" if hung else f"crash: signal {-code}"],
        }
    told["cpu"] = used.ru_utime + used.ru_stime
    return told


def guarded(kind: str, which: int, steps: list[Any], original: Path, folder: Path) -> dict[str, Any]:
    """In the child: make the mutant, close the doors, let the package read it."""
    from fuzz import audit, jobs, mutate

    from bkdinterp.errors import BkdinterpError

    folder.parent.mkdir()
    mutate.copy_of(original, folder)
    if kind == "rows":
        for name in set(jobs.ROWS) - {jobs.ROWS[which % len(jobs.ROWS)]}:
            (folder / name).unlink()
    faults = audit.start(folder, SANDBOX)  # the mutant's making, too, must stay in its folder
    must_refuse = mutate.apply(steps, folder if kind != "result" else jobs.chosen(folder, which), CANARY)
    began, size = _memory("VmHWM"), _memory("VmSize")
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_S, CPU_S + 1))
    resource.setrlimit(resource.RLIMIT_AS, (size + ADDRESS_SPACE, size + ADDRESS_SPACE))
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 30, 1 << 30))
    if faults:
        raise PermissionError(f"the recipe leads out of its folder: {faults}")
    told: dict[str, Any] = {"end": "success", "faults": faults}
    try:
        jobs.run(kind, folder, which)
        if must_refuse:
            faults.append("accepted: what may only be refused")
    except BkdinterpError as error:
        told["end"] = type(error).__name__
        if why := _short_of_memory(error):
            faults.append(f"memory: {why}")
    except BaseException as error:
        told["end"] = "foreign"
        faults.append(f"memory: {_place(error)}" if _short_of_memory(error) else f"foreign: {_place(error)}")
        told["text"] = str(error)[:200]
    audit.stop()
    peak = _memory("VmHWM") - began
    if peak > PEAK:
        faults.append(f"memory: {peak >> 20} MiB at peak")
    told["peak"] = peak
    told["faults"] = sorted(set(faults))
    return told


def _memory(name: str) -> int:
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith(name + ":"))
    return int(line.split()[1]) << 10


def _short_of_memory(error: BaseException | None) -> str | None:
    """The error in the chain that says that memory ran out, though the file is a few kilobytes."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if (
            isinstance(error, MemoryError)
            or "not enough memory" in str(error)
            or "can't allocate" in str(error)
        ):
            return _place(error)
        error = error.__cause__ or error.__context__
    return None


def _place(error: BaseException) -> str:
    """Type, the innermost line of the package, and the innermost line of all."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [f for f in frames if "/bkdinterp/" in f.filename]
    shown = [f"{f.filename.rpartition('/bkdinterp/')[2]}:{f.lineno}" for f in ours[-1:]]
    last = frames[-1]
    inner = "/".join(Path(last.filename).parts[-2:])
    return f"{type(error).__name__} at {' '.join(shown) or 'the job'} from {inner}:{last.lineno}"


if __name__ == "__main__":
    serve()
