"""A server's key: used where it must be, and shown, pickled or sent in clear nowhere without a word."""

import copy
import pickle
import warnings

import pytest

import bkdinterp as bk
from bkdinterp.engine._address import redacted, split_key
from bkdinterp.errors import ArtefactError, RemoteError

KEY = "k3y-0f-mine"


@pytest.fixture(autouse=True)
def no_key_of_the_machine(monkeypatch):
    monkeypatch.delenv("NDIF_API_KEY", raising=False)


def makers():
    return [bk.Remote("https://ndif.example", KEY), bk.Remote(f"https://user:{KEY}@ndif.example:8443/")]


@pytest.mark.parametrize("remote", makers())
def test_no_repr_pickle_or_state_holds_the_key(remote):
    assert remote.api_key == KEY
    for shown in (repr(remote), str(remote), repr(vars(remote)), str(remote.host)):
        assert KEY not in shown and "user" not in shown
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        data = pickle.dumps(remote, protocol)
        assert KEY.encode() not in data
        again = pickle.loads(data)
        assert again.api_key is None and again.host == remote.host


def test_copies_in_this_process_keep_it(tmp_path):
    remote = bk.Remote("https://ndif.example", KEY, deployed="org/x")
    for other in (copy.copy(remote), copy.deepcopy(remote), remote.in_folder(tmp_path)):
        assert (other.api_key, other.host, other.deployed) == (KEY, remote.host, "org/x")
    assert remote.folder is None and remote.in_folder(tmp_path).folder == tmp_path


def test_the_key_in_an_address_is_taken_out_of_it():
    assert split_key(f"https://user:{KEY}@ndif.example:8443/x/") == ("https://ndif.example:8443/x", KEY)
    assert split_key(f"https://{KEY}@ndif.example") == ("https://ndif.example", KEY)
    assert split_key("http://127.0.0.1:8001") == ("http://127.0.0.1:8001", None)
    assert redacted(f"401 for {KEY}", None, KEY) == "401 for ***"


def test_http_to_another_machine_warns():
    with pytest.warns(UserWarning, match=r"http://ndif\.example unencrypted") as found:
        bk.Remote("http://ndif.example", KEY)
    assert KEY not in str(found[0].message)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        bk.Remote("http://ndif.example")  # no key, nothing to betray
        for here in ("http://localhost:8001", "http://127.0.0.1:8001", "http://[::1]:8001"):
            bk.Remote(here, KEY)
        bk.Remote("https://ndif.example", KEY)


def test_a_key_of_the_environment_warns_too(monkeypatch):
    monkeypatch.setenv("NDIF_API_KEY", KEY)
    with pytest.warns(UserWarning, match="unencrypted"):
        bk.Remote("http://ndif.example")


@pytest.mark.parametrize(
    "host", ["ndif.example", "ftp://x", "http://", f"https://u:{KEY}@x:port", f"u:{KEY}@x"]
)
def test_no_address_of_a_server(host):
    with pytest.raises(RemoteError, match="address") as error:
        bk.Remote(host)
    assert KEY not in str(error.value)


def test_other_settings():
    with pytest.raises(ArtefactError, match="folder"):
        bk.Remote("https://x", folder="")
    with pytest.raises(ArtefactError, match="folder"):
        bk.Local(folder="a\0b")
    with pytest.raises(RemoteError, match="timeout"):
        bk.Remote("https://x", timeout=float("nan"))
