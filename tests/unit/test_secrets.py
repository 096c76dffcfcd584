"""A server's key stays out of reprs, pickles, errors and unencrypted connections that nobody was warned of."""

import copy
import pickle
import warnings

import pytest

from bkdinterp.engine import Remote
from bkdinterp.engine import _remote as remote_module
from bkdinterp.engine._secrets import redacted, warn_of_clear_text, without_key
from bkdinterp.errors import RemoteError

KEY = "k3y-of-mine"


def test_neither_repr_nor_pickle_holds_the_key():
    remote = Remote(f"https://user:{KEY}@host.example/x", KEY, deployed="org/model")
    assert KEY not in repr(remote) and "host.example" in repr(remote)
    for level in range(pickle.HIGHEST_PROTOCOL + 1):
        assert KEY.encode() not in pickle.dumps(remote, level)
    again = pickle.loads(pickle.dumps(remote))
    assert again.api_key is None and again.deployed == "org/model"
    assert KEY not in repr(copy.deepcopy(remote)) and copy.deepcopy(remote).api_key == KEY
    # In memory it works on.
    assert remote.keeping("x").api_key == KEY and remote.keeping("x").host == remote.host


@pytest.mark.parametrize("host", [f"ftp://user:{KEY}@host", f"//{KEY}@host"])
def test_an_address_is_refused_without_its_key(host):
    with pytest.raises(RemoteError) as caught:
        Remote(host)
    assert KEY not in str(caught.value)


def test_errors_do_not_repeat_it():
    with pytest.raises(RemoteError) as caught:
        Remote(f"http://user:{KEY}@127.0.0.1:9", KEY, timeout=0.5)._reach(f"http://user:{KEY}@127.0.0.1:9")
    assert KEY not in str(caught.value)
    said = remote_module._explain(RuntimeError(f"bad {KEY}"), redacted(f"http://a:{KEY}@h"), "k")
    assert KEY not in without_key(said, KEY)


@pytest.mark.parametrize(
    ("host", "warned"),
    [
        ("http://somewhere.example", True),
        ("http://10.0.0.1:5001", True),
        ("https://somewhere.example", False),
        ("http://localhost:5001", False),
        ("http://127.0.0.1:5001", False),
        ("http://[::1]:5001", False),
    ],
)
def test_a_key_in_clear_text_is_warned_of(host, warned):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warn_of_clear_text(host, True)
    assert bool(caught) is warned
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_clear_text(host, False)
