"""Remote: runs the same chunks as Local on an NDIF server, with one request per level and batch of prompts.

Costs the plan's forwards, on the server. A whole head attribution takes two or three requests per batch of prompts: the
values to patch in, and all heads with the unedited prompts. Keys and values, residual streams and the loop of a
generation stay on the server while a request runs; scores, reads and generated tokens come back. Only
``engine/program.py`` and the scores' source are sent; the server does not need this package.
"""

import json
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nnsight
from nnsight import CONFIG, ndif

from bkdinterp.engine import program
from bkdinterp.engine._address import Secret, environment_key, redacted, split_key, warn_in_clear
from bkdinterp.engine._assemble import Store
from bkdinterp.engine._chunk import Chunk
from bkdinterp.engine._chunk_loop import Traceable
from bkdinterp.engine._executor import KeepingExecutor
from bkdinterp.engine._pending_jobs import Ended, Waiting, collected, later_backend, may_have_arrived
from bkdinterp.engine._plan import Plan
from bkdinterp.engine._resume import SentJob, Sweep
from bkdinterp.engine._retry import again
from bkdinterp.engine._run import RunResult
from bkdinterp.engine._server_versions import differences
from bkdinterp.engine._watched_backend import WatchedBackend
from bkdinterp.engine._wire import Job, Output, check_functions, received, requests
from bkdinterp.errors import JobsPending, RemoteError, SweepInterrupted
from bkdinterp.metrics import scores as score_functions
from bkdinterp.model import Architecture
from bkdinterp.model._attention import WHOLE_CACHE
from bkdinterp.progress import track
from bkdinterp.values import as_flag, as_integer, as_number

# Seconds between two questions after a job that another executor has sent without waiting.
POLL = 5.0
_SENT = frozenset({program.__name__, score_functions.__name__})


class Remote(KeepingExecutor):
    """Runs a plan on an NDIF server, without gradients; nothing runs here.

    Args:
        host: address of the server, ``"https://..."``; None takes nnsight's setting (``NDIF_HOST``, or the public
            service). A key in ``https://user:KEY@host`` is used and never shown.
        api_key: your key; None takes nnsight's setting (``NDIF_API_KEY``, or the key you logged in with). It is never
            in a repr, message or pickle; a copy in another process takes the key from its environment. A warning is
            given if the key would be sent unencrypted, over http to another machine.
        deployed: hub id (or folder on the server's machine) of the deployed checkpoint, if it is not the model's own
            id, e.g. a checkpoint with your adapter merged into it.
        folder: folder in which the answers to finished requests are kept, to resume from; any number of plans can share it.
            Answers are identified by server and checkpoint id, so delete the folder if the weights of the checkpoint change.
        progress: show a progress bar for more than a few requests.
        timeout: seconds to wait for the server's first response.
        retries: how often a request is sent again after a fault that passes: a connection that is lost, a server that is busy
            (its queue is full, it starts), a worker that died. The pauses grow: 1, 2, 4 ... seconds. A wrong key, a missing
            model and an error of the sent code are not tried again.
        wait: wait for the answers. With False, which needs a folder, `run` sends what can be sent, keeps the ids of the server's
            jobs there, and raises `JobsPending`; a later call, also in another process, collects what is finished, sends what
            depended on it, and returns once all is there. A server keeps an answer for as long as it likes.

    Raises:
        RemoteError: the address is not valid, the timeout or the number of retries is not a number, or ``wait=False`` without a
            folder.
        ArtefactError: the folder is not a path.
    """

    # Tells `Model.load` whether the weights are needed here.
    remote = True

    def __init__(
        self,
        host: str | None = None,
        api_key: str | None = None,
        *,
        deployed: str | None = None,
        folder: str | Path | None = None,
        progress: bool = True,
        timeout: float = 10.0,
        retries: int = 3,
        wait: bool = True,
    ) -> None:
        given = None
        if host is not None:
            host, given = split_key(host)
        self.host = host
        self._secret = Secret(api_key or given)
        self.deployed = deployed
        super().__init__(folder)
        self.progress = progress
        self.timeout = as_number(timeout, "timeout", low=0, error=RemoteError)
        self.retries = as_integer(retries, "retries", low=0, error=RemoteError)
        self.wait = as_flag(wait, "wait", error=RemoteError)
        if not self.wait and self.folder is None:
            raise RemoteError("wait=False needs folder=, where the ids of the server's jobs are kept.")
        if host is not None:
            warn_in_clear(host, self.api_key or environment_key())

    @property
    def api_key(self) -> str | None:
        """The given key; None if nnsight's setting is used."""
        return self._secret.reveal()

    def requests(self, plan: Plan) -> int:
        """Number of requests that a plan takes if the folder has nothing of it; does not contact the server."""
        return len(requests(plan))

    def run(self, plan: Plan, model: Traceable) -> tuple[RunResult, ...]:
        """Run the plan; returns one result per run. Costs ``plan.cost`` on the server, in ``requests(plan)`` requests.

        Raises:
            RemoteError: before any work, if the server does not have the adapter or does not answer, or a function cannot be
                sent; later with the server's message, e.g. for a wrong key or a model that is not deployed.
            SweepInterrupted: Ctrl-C; it carries the results finished so far.
            JobsPending: with ``wait=False``, some answers are not there yet.
            ArtefactError: the folder has other content.
        """
        self._check_adapter(model)
        for module in _SENT:
            nnsight.register(module)
        ndif.pull_env()
        check_functions(plan)
        host, given = split_key(self.host or CONFIG.API.HOST)
        secret = self.api_key or given
        if self.host is None:
            warn_in_clear(host, self.api_key or environment_key())
        key = self._model_key(model)
        kept = None if self.folder is None else Sweep(self.folder, plan, f"{host} {key}")
        architecture: Architecture = model.architecture  # type: ignore[attr-defined]
        store = Store(plan, model.dtype)
        groups = requests(plan)
        todo = track(
            groups,
            f"remote requests ({plan.cost.forwards} forwards)",
            show=self.progress and len(groups) > 2,
            weights=[sum(plan.chunks.outline(i).cost for i in group) for group in groups],
        )
        done, reached = 0, False
        waiting = Waiting()
        try:
            for group in todo:
                chunks = [plan.chunks[i] for i in group]
                level = max(plan.nodes[node].level for chunk in chunks for node in chunk.nodes)
                known = [] if kept is None else [kept.load(i, c) for i, c in zip(group, chunks, strict=True)]
                finished = [answer for answer in known if answer is not None]
                if len(finished) < len(group):
                    if not reached:
                        self._reach(host)
                        reached = True
                    if waiting.holds_back(level):
                        waiting.unsent += 1
                        continue

                    def jobs(chunks: list[Chunk] = chunks) -> list[Job]:
                        return [Job.of(store.resolve(c), plan.scores, architecture) for c in chunks]

                    answers: list[Output] | None
                    if kept is None or (self.wait and kept.job(group[0]) is None):
                        answers = self._ask(model, jobs(), host, key, secret)
                    else:
                        answers = self._later(model, kept, group[0], jobs, host, key, secret)
                        while self.wait and answers is None:
                            # It was sent by one that does not wait.
                            time.sleep(POLL)
                            answers = self._later(model, kept, group[0], jobs, host, key, secret)
                    if answers is None:
                        waiting.add(level)
                        continue
                    if len(answers) != len(group):
                        raise RemoteError(
                            f"The answer has {len(answers)} parts, and the request {len(group)}: it belongs to another."
                        )
                    finished = [received(answer, model.dtype) for answer in answers]
                    for i, (out, tokens) in zip(group, finished, strict=True):
                        if kept is not None:
                            kept.save(i, out, tokens)
                for chunk, (out, tokens) in zip(chunks, finished, strict=True):
                    store.add(chunk, out, tokens)
                done += len(group)
        except KeyboardInterrupt:
            raise SweepInterrupted(store.partial_results(), done=done, total=len(plan.chunks)) from None
        if waiting.sent:
            raise JobsPending(
                f"{waiting.sent} of {len(groups)} requests are at the server, {waiting.unsent} wait for their answers, {done} of "
                f"{len(plan.chunks)} chunks are done. The jobs' ids are in {self.folder}; run the same again to collect them."
            )
        return store.results()

    def _later(
        self,
        model: Traceable,
        kept: Sweep,
        first: int,
        jobs: Callable[[], list[Job]],
        host: str,
        key: str,
        secret: str | None,
    ) -> list[Output] | None:
        """The answer to a request that was sent before; None if it is not there yet, or has been sent only now."""
        env = getattr(model.nn, "_remoteable_get_env", dict)()
        known = kept.job(first)
        if known is not None:
            backend = later_backend(key, host, secret, env, known.id)
            try:
                answer = again(lambda: collected(backend, known.sent), self.retries)
            except Exception as error:
                raise self._told(error, host, key, secret) from _harmless(error, secret)
            if not isinstance(answer, Ended):
                return answer
            # Only that one: another process may have sent another in the meantime.
            if kept.job(first) == known:
                kept.keep_job(first, None)
            if not answer.again:
                raise self._told(RuntimeError(answer.reason), host, key, secret)
        made = jobs()
        backend = later_backend(key, host, secret, env, None)

        def send() -> None:
            try:
                _session(model.nn, backend, [job.chunk for job in made], [job.score for job in made])
            except Exception as error:
                if not may_have_arrived(error):
                    raise
                said = (
                    "The request was sent, but its receipt was lost: there may be a job that nobody collects."
                )
                raise Unsure(said) from None

        try:
            again(send, self.retries)
        except Exception as error:
            raise self._told(error, host, key, secret) from _harmless(error, secret)
        kept.keep_job(first, SentJob(str(backend.job_id), time.time()))
        return None

    def _ask(
        self, model: Traceable, jobs: list[Job], host: str, key: str, secret: str | None
    ) -> list[Output]:
        """One request, sent again after faults that pass."""
        env = getattr(model.nn, "_remoteable_get_env", dict)()

        def ask() -> list[Output]:
            # Our own backend holds address and key, so that nnsight's global settings are not changed.
            backend = WatchedBackend(key, host=host, api_key=secret, env=env)
            return _session(model.nn, backend, [job.chunk for job in jobs], [job.score for job in jobs])

        try:
            return again(ask, self.retries)
        except Exception as error:  # many kinds of error from sockets, HTTP, JSON and the server
            raise self._told(error, host, key, secret) from _harmless(error, secret)

    def _told(self, error: Exception, host: str, key: str, secret: str | None) -> RemoteError:
        """A failure in words, with the versions in which both sides differ, and without keys."""
        apart = differences(host, self.timeout)
        said = _explain(error, host, key) + "".join(f" ({note})" for note in getattr(error, "__notes__", ()))
        # The addresses of answers are signed.
        said = re.sub(r"\?[^\s'\"]*(?:X-Amz|[Ss]ignature)[^\s'\"]*", "?...", said)
        return RemoteError(
            redacted(said + (f" Versions differ: {apart}." if apart else ""), secret, environment_key())
        )

    def _reach(self, host: str) -> None:
        try:
            with urllib.request.urlopen(f"{host}/ping", timeout=self.timeout):
                return
        except urllib.error.HTTPError as error:
            if error.code < 500:  # a server answers; the request itself will show what is wrong
                return
            reason: Any = error
        except (OSError, ValueError) as error:
            reason = getattr(error, "reason", error)
        raise RemoteError(
            f"No NDIF server answers at {host} ({reason}). Check Remote(host=...) or NDIF_HOST, and the network."
        )

    def _check_adapter(self, model: Traceable) -> None:
        adapter = getattr(model, "adapter", None)
        if adapter is not None and self.deployed is None:
            raise RemoteError(
                f"The model has the adapter {adapter!r}, which is not on the server: it would run the plain base. Have "
                "the merged checkpoint deployed and give its name: Remote(..., deployed='org/merged-checkpoint')."
            )

    def _model_key(self, model: Traceable) -> str:
        """The server's name for the checkpoint."""
        nn_model = model.nn
        name = self.deployed or getattr(nn_model, "repo_id", None)
        if not name:
            raise RemoteError(
                "This model has no id that a server could know; load it by its id, or give Remote(..., deployed=...)."
            )
        if self.deployed is None and not Path(name).exists():
            try:
                return nn_model.to_model_key()
            except Exception as error:
                raise RemoteError(f"Cannot look up the model id {name!r}: {error}") from error
        # As nnsight writes it, for a name that need not exist on a hub.
        kind = type(nn_model)
        identity = {"repo_id": str(name), "revision": nn_model.revision if self.deployed is None else None}
        if nn_model.kwargs.get("trust_remote_code"):
            identity["trust_remote_code"] = True
        identity["task"] = nn_model.task
        return f"{kind.__module__}.{kind.__qualname__}:{json.dumps(identity)}"

    def __repr__(self) -> str:
        about = [repr(self.host)] if self.host else []
        about += [f"deployed={self.deployed!r}"] if self.deployed else []
        about += [f"folder={str(self.folder)!r}"] if self.folder else []
        return f"Remote({', '.join(about)})"


class Unsure(Exception):
    """Whether a request has arrived is not known."""


def _harmless(error: Exception, secret: str | None) -> Exception | None:
    """The error as a cause; None if it holds a key, as request headers do."""
    return error if redacted(repr(error), secret, environment_key()) == repr(error) else None


def _session(nn: Any, backend: Any, chunks: list[Any], scores: list[Any]) -> list[Output]:
    """The executors' loop, run by the server. Everything that the block refers to is sent with it."""
    prepare, execute, advance = program.prepare, program.execute, program.advance
    whole_cache = WHOLE_CACHE
    with nn.session(backend=backend):
        outs = nnsight.save([])
        state = {"whole_cache": whole_cache}
        for first, score in zip(chunks, scores):
            chunk, out = first, {}
            leans = "pack" in first or "common" in first
            if not leans:
                state = {"whole_cache": whole_cache}
            while chunk is not None:
                inputs = prepare(chunk, state)
                with nn.trace(**inputs) as tracer:
                    out = execute(nn, chunk, score, state)
                    if chunk["score"] is None and not chunk["want"]:
                        tracer.stop()
                chunk = advance(chunk, out, state)
            outs.append({key: out[key] for key in ("scores", "reads", "tokens") if key in out})
    # Without waiting the block has only been sent.
    return outs if backend.blocking else []


def _explain(error: Exception, host: str, key: str) -> str:
    """The cause of a failure, for a reader who does not know nnsight."""
    text = str(error).strip()
    status = getattr(error, "status_code", None)
    # In a traceback the error has its own line, without indentation.
    lines = [line for line in text.splitlines() if line.strip()]
    named = [line for line in lines if re.match(r"[\w.]+(Error|Exception)\b", line)]
    last = (named or lines[:1] or [type(error).__name__])[-1]
    lower = text.lower()
    if status in (401, 403) or "api key" in lower or "api-key" in lower or "401 " in lower or "403 " in lower:
        return f"The server at {host} refuses the key ({last}). Give Remote(api_key=...) or set NDIF_API_KEY."
    return f"The server at {host} did not do the work for {key.partition(':')[2]}: {last}"
