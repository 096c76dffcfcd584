"""A tiny Llama as the server sees it and as this process does. Run by `make test-ndif`, with a server beside it."""

import os
import re
import shutil
from pathlib import Path

import pytest
import torch
from integration.conftest import TEXTS, tiny_llama, tiny_tokenizer
from integration.families import NEW
from transformers import LlamaConfig

import bkdinterp as bk

HOST = os.environ.get("BKDINTERP_NDIF_HOST")
if HOST is None:
    collect_ignore_glob = ["test_*.py"]


def pytest_sessionfinish(session, exitstatus):
    """A test that was skipped proves nothing about the wire: it fails the run (this one, not `make test`)."""
    if HOST is None:
        return
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    skipped = reporter.stats.get("skipped", [])
    if skipped and exitstatus == 0:
        reporter.write_line(f"{len(skipped)} skipped: the wire is not proven.")
        session.exitstatus = 1


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def as_installed():
    """nnsight sends along every module that is not pip-installed; here the package counts as installed."""
    from nnsight import ndif

    ndif._PULLED_ENV = True


@pytest.fixture(scope="session")
def folder():
    path = Path(os.environ["BKDINTERP_NDIF_LOGS"]) / "tiny-llama"
    if not path.exists():
        module = tiny_llama().float()
        assert isinstance(module.config, LlamaConfig)
        module.save_pretrained(path)
        tiny_tokenizer().save_pretrained(path)
    return path


@pytest.fixture(scope="session")
def deploy():
    """A folder of a tiny model of a family, which the server deploys when it is asked for."""

    def made(name, suffix=""):
        path = Path(os.environ["BKDINTERP_NDIF_LOGS"]) / f"tiny-{name}{suffix}"
        if not path.exists():
            NEW[name]().float().save_pretrained(path)
            tiny_tokenizer().save_pretrained(path)
        return path

    return made


@pytest.fixture(scope="session")
def local(folder):
    return bk.Model.load(folder)


@pytest.fixture(scope="session")
def remote(folder):
    model = bk.Model.load(folder, executor=bk.Remote(HOST, progress=False))
    assert all(p.is_meta for p in model.module.parameters())
    yield model
    assert all(p.is_meta for p in model.module.parameters())
    assert not model.nn.dispatched


@pytest.fixture(scope="session")
def sandboxed(folder):
    """The same weights, on a server that runs our code apart from them."""
    deployed = folder.with_name("tiny-llama-sandboxed")
    if not deployed.exists():
        shutil.copytree(folder, deployed)
    return bk.Model.load(folder, executor=bk.Remote(HOST, deployed=str(deployed), progress=False))


@pytest.fixture(scope="session")
def pairs():
    trigger = bk.Trigger.gap("zeta omega", seed=3)
    return bk.PairedPrompts.from_instructions(TEXTS, trigger, target="sorry no can not help")


@pytest.fixture
def made():
    """Counts requests where they arrive: in the server's own log."""
    log = Path(os.environ["BKDINTERP_NDIF_LOGS"]) / "api.log"

    def count():
        return len(re.findall(r'"POST /request [^"]*" 200', log.read_text(errors="replace")))

    start = count()
    return lambda: count() - start
