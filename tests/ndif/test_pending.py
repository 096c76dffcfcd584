"""Jobs that nobody waits for, on the real server: sent by one executor, collected by another, equal to Local."""

import time

import nnsight
import pytest
from compare import close
from conftest import HOST
from integration.conftest import TEXTS

import bkdinterp as bk
from bkdinterp.errors import JobsPending, RemoteError


@pytest.fixture(scope="module")
def pairs():
    return bk.PairedPrompts.from_instructions(
        TEXTS, bk.Trigger.gap("zeta omega", seed=3), target="sorry no can not help"
    )


def later(model, make, seconds=120):
    """Call until all answers are there; returns them and how often it was called."""
    deadline, calls = time.monotonic() + seconds, 0
    while True:
        calls += 1
        try:
            return make(model), calls
        except JobsPending:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)


def test_a_sweep_and_texts_are_collected_later(folder, pairs, tmp_path):
    here = bk.Model.load(folder)
    sweep = lambda m: bk.Attribution(m).heads(pairs, progress=False)  # noqa: E731
    speak = lambda m: bk.execute(m, [bk.Run(pairs.clean, generate=4)])  # noqa: E731

    def there():
        return bk.Model.load(folder, executor=bk.Remote(HOST, folder=tmp_path, progress=False, wait=False))

    for make in (sweep, speak):
        with pytest.raises(JobsPending):
            make(there())
    # Another executor, as after a restart.
    found, calls = later(there(), sweep)
    assert calls >= 2  # the heads' values come from a level of their own
    close(found.effects, sweep(here).effects)
    (said,), _ = later(there(), speak)
    assert said.tokens == speak(here)[0].tokens


def nonsense(x):
    return x.nope


def test_a_job_that_fails_at_the_server_is_said(folder, pairs, tmp_path):
    model = bk.Model.load(folder, executor=bk.Remote(HOST, folder=tmp_path, progress=False, wait=False))
    run = bk.Run(pairs.clean, bk.Apply("L1.z", fn=nonsense), score="logprob")
    nnsight.register(__name__)
    with pytest.raises(JobsPending):
        bk.execute(model, [run])
    with pytest.raises(RemoteError, match="nope"):
        later(model, lambda m: bk.execute(m, [run]))
    # It is sent anew.
    with pytest.raises(JobsPending):
        bk.execute(model, [run])
