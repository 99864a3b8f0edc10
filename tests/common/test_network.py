"""common/network.py: what the environment has wrong is one line in every command that talks to a network."""

import os
import ssl
import subprocess
import sys
from pathlib import Path

import pytest

from common.entry import message_for
from common.network import environment_mistake, hub_mistake, reason_of

ROOT = Path(__file__).resolve().parents[2]
COMMANDS = {
    "data": ["-m", "scripts.download_data"],
    "base": ["train_cvae.py", "--encoder", "somebody/encoder", "--limit", "2"],
    "share": ["-m", "scripts.share", "RUN", "--to", "somebody/run"],
}
MISTAKES = {
    "certificates": ({"SSL_CERT_FILE": "/nowhere.pem"}, "SSL_CERT_FILE=/nowhere.pem"),
    "proxy": ({"ALL_PROXY": "ftp://user:secret@x"}, "the proxy that ALL_PROXY names cannot be used"),
}


@pytest.mark.parametrize(
    ("command", "mistake"), [("data", "certificates"), ("base", "proxy"), ("share", "proxy")]
)
def test_a_command_of_the_hub_says_it_in_one_line(command, mistake, tiny_run, tmp_path):
    variables, says = MISTAKES[mistake]
    unset = {
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "http_proxy",
        "https_proxy",
        "all_proxy",
        "NO_PROXY",
        "no_proxy",
        "HF_HUB_OFFLINE",
    }
    environment = (
        {name: value for name, value in os.environ.items() if name not in unset}
        | {"HF_ENDPOINT": "http://example.invalid", "HF_HOME": str(tmp_path)}
        | variables
    )
    words = [str(tiny_run) if word == "RUN" else word for word in COMMANDS[command]]
    done = subprocess.run(
        [sys.executable, *words, *(["--outs", str(tmp_path)] if command == "base" else [])],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 2 and "Traceback" not in done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("error: ") and says in last and "secret" not in done.stderr


def test_a_certificate_and_an_address_are_told_apart():
    wrong = ConnectionError("x")
    wrong.__cause__ = ssl.SSLCertVerificationError("certificate verify failed: self-signed certificate")
    assert "SSL_CERT_FILE=<file.pem>" in environment_mistake(wrong) and "SSL_CERT_FILE" in reason_of(wrong)
    assert "try http://" in environment_mistake(
        ssl.SSLError(1, "[SSL: WRONG_VERSION_NUMBER] wrong version number")
    )


def test_other_errors_keep_their_traceback(monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", "/nowhere.pem")
    for error in (
        ValueError("a proxy for something"),
        KeyError("proxy"),
        ImportError("no module"),
    ):
        assert message_for(error) is None


def test_sound_certificates_are_not_blamed(monkeypatch, tmp_path):
    """A file that the hub's cache lacks is a FileNotFoundError too."""
    import certifi

    monkeypatch.setenv("SSL_CERT_FILE", certifi.where())
    for name in ("SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "HF_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    assert environment_mistake(FileNotFoundError(2, "no such file")) is None
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "nowhere.pem"))
    assert f"read from REQUESTS_CA_BUNDLE={tmp_path}/nowhere.pem; correct it" in environment_mistake(
        FileNotFoundError(2, "no such file")
    )


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("localhost:8080", "HF_ENDPOINT 'localhost:8080' has no scheme; try http://localhost:8080$"),
        ("http://x y", "is no address"),
        ("http://hub.example.org", "is no hub"),
    ],
)
def test_the_hub_s_address(monkeypatch, address, says):
    import json
    import re

    monkeypatch.setenv("HF_ENDPOINT", address)
    with pytest.raises(ValueError) as error:
        json.loads("<html>")
    assert re.search(says, hub_mistake(error.value))
    monkeypatch.delenv("HF_ENDPOINT")
    assert hub_mistake(error.value) is None
