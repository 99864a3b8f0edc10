"""A key is neither shown nor stored, whatever it looks like and whoever echoes it."""

import json
import stat

import pytest

from common import secrets
from common.secrets import keep_secret, redacted
from dataset.synthesis.journal import Answer, Journal


@pytest.fixture(autouse=True)
def forgotten(monkeypatch):
    monkeypatch.setattr(secrets, "_known", set())


@pytest.mark.parametrize(
    "key",
    [
        "0f8e7d6c5b4a39281706",
        "AIzaSyA-very-odd_key",
        "gsk_abcdefghijklmnop",
        "a.b.c.d.e.f",
        "sk-proj-123456789",
    ],
)
def test_a_known_key_is_taken_out(key):
    keep_secret(key)
    assert redacted(f"invalid key {key}, or x{key}y") == "invalid key ***, or x***y"


@pytest.mark.parametrize("key", ["", None, "x", "local", "none"])
def test_a_word_for_a_server_without_keys_garbles_nothing(key):
    keep_secret(key)
    assert redacted("the next local server takes none, x") == "the next local server takes none, x"


def test_the_journal_holds_no_key_and_is_its_owner_s(tmp_path):
    keep_secret("0f8e7d6c5b4a39281706")
    journal = Journal(tmp_path / "journal.jsonl")
    journal.write_answer(Answer("t", 0, "your key 0f8e7d6c5b4a39281706", refusal="sk-abcdefghijk"))
    journal.close()
    text = (tmp_path / "journal.jsonl").read_text()
    assert "0f8e7d" not in text and "sk-abc" not in text and json.loads(text)["text"] == "your key ***"
    assert stat.S_IMODE((tmp_path / "journal.jsonl").stat().st_mode) == 0o600
