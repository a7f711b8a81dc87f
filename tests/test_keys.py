"""Tests of the server's key: where it comes from, and which keys are refused."""

from __future__ import annotations

import pytest

import imsim
from imsim.core.exceptions import UsageError
from imsim.keys import DEFAULT_KEY, SHORTEST, check_exposed_key, check_key, choose_key


def test_key_comes_from_the_argument_the_file_the_variable_or_the_default(monkeypatch, tmp_path):
    (tmp_path / "key").write_text("of the file\n")
    monkeypatch.delenv("IMSIM_KEY", raising=False)
    assert choose_key() == DEFAULT_KEY
    monkeypatch.setenv("IMSIM_KEY", "of the variable")
    assert choose_key() == "of the variable"
    assert choose_key(file=tmp_path / "key") == "of the file"
    assert choose_key("of the argument") == "of the argument"


def test_argument_and_file_together_are_refused(tmp_path):
    with pytest.raises(UsageError, match="give one of them"):
        choose_key("one", tmp_path / "key")


@pytest.mark.parametrize("key", ["", " ", "\n"])
def test_empty_key_is_refused_wherever_it_comes_from(monkeypatch, tmp_path, key):
    (tmp_path / "key").write_text(key)
    monkeypatch.setenv("IMSIM_KEY", key)
    sources = {"IMSIM_KEY": (), "key": (key,), f"key file {tmp_path}/key": (None, tmp_path / "key")}
    for source, arguments in sources.items():
        with pytest.raises(UsageError, match=f"^{source}: must not be empty, .*token_urlsafe"):
            choose_key(*arguments)


@pytest.mark.parametrize("key", [" a", "a ", "a\nb", "a\tb", "a\0b", "a\r\nX-Header: b"])
def test_key_that_a_header_cannot_carry_is_refused(key):
    with pytest.raises(UsageError, match="must be one line without spaces at its ends"):
        check_key(key)


def test_key_is_a_text():
    with pytest.raises(UsageError, match=r"key: expected a text \(got bytes\)"):
        check_key(b"secret")
    assert check_key("schl\u00fcssel \u5bc6\u94a5") == "schl\u00fcssel \u5bc6\u94a5"


def test_key_file_that_cannot_be_read_is_one_line(tmp_path):
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    for file, reason in (("gone", "cannot read .*/gone: No such file"), (".", "Is a directory"), ("binary", "UTF-8")):
        with pytest.raises(UsageError, match=f"^key file.*{reason}"):
            choose_key(file=tmp_path / file)


def test_key_file_may_begin_with_a_byte_order_mark(tmp_path):
    (tmp_path / "key").write_text("secret\r\n", encoding="utf-8-sig")
    assert choose_key(file=tmp_path / "key") == "secret"


def test_exposed_server_needs_a_long_key_of_its_own():
    check_exposed_key("k" * SHORTEST, "0.0.0.0")
    with pytest.raises(UsageError, match="host: other computers can reach ::, and the default key 'imsim' is public; "):
        check_exposed_key(DEFAULT_KEY, "::")
    with pytest.raises(UsageError, match=r"must have at least 16 characters there \(got 15\); put a secret"):
        check_exposed_key("k" * 15, "0.0.0.0")


def test_api_refuses_empty_values_before_it_starts_anything():
    for arguments in ({"host": ""}, {"db": ""}, {"key": ""}, {"key_file": ""}):
        with pytest.raises(UsageError, match=r"must not be empty|Is a directory"):
            imsim.serve("office", **arguments)
    with pytest.raises(UsageError, match="key: must not be empty"):
        imsim.loadtest("office", "ws://127.0.0.1:1", key="")
    for function, arguments in (
        (imsim.simulate, ()),
        (imsim.sweep, ({"topology.routers": [1]},)),
        (imsim.capacity, ("lost <= 0",)),
    ):
        with pytest.raises(UsageError, match="out: must not be empty"):
            function("office", *arguments, out="")
