"""The pickle machine: what torch.save writes comes out, and nothing of the rest runs or lasts."""

import codecs
import io
import pickle
import time
import zipfile
from collections import OrderedDict

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from amm.checkpoints import pickles
from amm.checkpoints.archive import TorchArchive
from amm.checkpoints.pickles import Called, Name, RefusedPickle, Stored, read_pickle
from amm.errors import InputError


class Call:
    """Pickled as a call."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def saved(state):
    """The pickle that torch.save makes of it."""
    file = io.BytesIO()
    torch.save(state, file)
    with zipfile.ZipFile(file) as archive:
        return archive.read("archive/data.pkl")


plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**200), 2**200) | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@settings(max_examples=40)
@given(plain)
def test_plain_values_come_out_as_pickle_has_them(value):
    content = pickle.dumps(value, protocol=2)
    assert repr(read_pickle(content, ())) == repr(pickle.loads(content))


def test_a_tensor_comes_out_as_the_call_that_makes_it():
    state = read_pickle(
        saved(OrderedDict(w=torch.ones(2, 3))),
        {"torch._utils._rebuild_tensor_v2", "torch.FloatStorage", "collections.OrderedDict"},
    )
    (called,) = state.values()
    storage = Stored(("storage", Name("torch.FloatStorage"), "0", "cpu", 6))
    assert (called.name, called.state) == ("torch._utils._rebuild_tensor_v2", None)
    assert called.arguments == (storage, 0, (2, 3), (3, 1), False, {})


@pytest.mark.parametrize(
    "value",
    [
        Call(bytearray, 12 * 10**9),
        Call(codecs.encode, "一" * 10**5, "punycode"),
        Call(torch.Tensor, 40, 16),
        {(1, 2): 3},
        {2**61 - 1: 3},
        {1.5: 3},
        {b"x"},
        1j,
        print,
    ],
)
def test_what_no_state_dict_needs_is_refused(value):
    with pytest.raises(RefusedPickle):
        read_pickle(pickle.dumps(value, protocol=2), {"collections.OrderedDict"})


TWINS = b"".join(b"q" + bytes([i]) + b"h" + bytes([i]) + b"\x86" for i in range(60))


@pytest.mark.parametrize(
    "content",
    [
        b"\x80\x02})" + TWINS + b"K\x01s.",  # a key whose hash takes 2⁶⁰ steps
        b"\x80\x02(K\x01K\x02\x91.",  # FROZENSET
        b"\x80\x04\x95\x00\x00\x00\x00\x00\x00\x00\x00N.",  # FRAME, of another protocol
        b"\x80\x02]}b.",  # the state of a list
        b"\x80\x02K\x01K\x02\x85R.",  # a call of a number
        b"\x80\x02}]K\x01e.",  # items without a mark
    ],
)
def test_other_instructions_are_refused_at_once(content):
    start = time.monotonic()
    with pytest.raises((RefusedPickle, IndexError)):
        read_pickle(content, ())
    assert time.monotonic() - start < 1


def test_a_key_that_is_there_twice_is_an_error():
    with pytest.raises(ValueError, match="'a' is there twice"):
        read_pickle(b"\x80\x02}(X\x01\x00\x00\x00aK\x01X\x01\x00\x00\x00aK\x02u.", ())


def test_instructions_are_counted(monkeypatch):
    monkeypatch.setattr(pickles, "INSTRUCTIONS_LIMIT", 100)
    with pytest.raises(RefusedPickle, match="more than 100 instructions"):
        read_pickle(b"\x80\x02" + 200 * b"N" + b".", ())


def test_a_state_is_kept_beside_the_object_and_sets_none_of_its_attributes():
    content = b"\x80\x02ctorch\nSize\n)\x81}X\x09\x00\x00\x00argumentsK\x01sb."
    called = read_pickle(content, {"torch.Size"})
    assert type(called) is Called
    assert (called.arguments, called.state) == ((), {"arguments": 1})


STATE = {"w": torch.ones(2, 3), "p": torch.nn.Parameter(torch.ones(4).bfloat16())}
PICKLED = saved(STATE)


@given(st.lists(st.tuples(st.integers(0, len(PICKLED) - 1), st.integers(0, 255)), max_size=4))
def test_a_changed_pickle_is_an_input_error_or_a_state_dict(tmp_path_factory, changes):
    content = bytearray(PICKLED)
    for at, byte in changes:
        content[at] = byte
    file = tmp_path_factory.getbasetemp() / "changed.pt"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a/data.pkl", bytes(content))
        archive.writestr("a/data/0", bytes(24))
        archive.writestr("a/data/1", bytes(8))
    try:
        opened = TorchArchive(file)
        tensors = [opened.tensor(key, value) for key, value in opened.state.items()]
    except InputError as error:
        assert str(file) in str(error)
    else:
        assert all(type(t) is torch.Tensor and t.nbytes <= 24 for t in tensors)
