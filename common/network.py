"""What a network error says of the machine it comes from: proxies, certificates, addresses; in one line."""

import os
import socket
import ssl
from collections.abc import Iterator
from urllib.parse import urlsplit

from common.errors import InputError

CERTIFICATES = ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
PROXIES = ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy")
LIBRARIES = ("httpx", "httpx2", "httpcore", "httpcore2", "requests", "urllib3", "aiohttp", "openai")


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and those that led to it."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def environment_mistake(error: BaseException) -> str | None:
    """One line where an error comes from the environment's proxies or certificates, with what to try; None where it does not.

    Values of proxy variables may hold passwords, so that only the variables' names are said.
    """
    proxies = [name for name in PROXIES if os.environ.get(name)]
    for one in chain(error):
        text, of_network = " ".join(str(one).split()), type(one).__module__.split(".")[0] in LIBRARIES
        if isinstance(one, ssl.SSLCertVerificationError) or "CERTIFICATE_VERIFY_FAILED" in text:
            return "the server's certificate cannot be verified; where a proxy or a server of your own signs it, name the signer's: SSL_CERT_FILE=<file.pem>"
        if "WRONG_VERSION_NUMBER" in text or "wrong version number" in text:
            return "the server does not speak https at this address; try http://"
        unreadable = (
            isinstance(one, ssl.SSLError)
            or (isinstance(one, FileNotFoundError) and one.filename is None)
            or "CA certificate" in text
        )
        if unreadable and (wrong := unreadable_certificates()):
            return f"no certificates can be read from {', '.join(f'{name}={os.environ[name]}' for name in wrong)}; correct it or unset it"
        if "proxy" in text.lower() and (
            of_network
            or (isinstance(one, (ImportError, ValueError)) and ("scheme" in text or "SOCKS" in text))
        ):
            what = "needs a package for SOCKS (pip install socksio)" if "SOCKS" in text else "cannot be used"
            return f"the proxy that {', '.join(proxies) or 'the environment'} names {what}; correct or unset it, or add the host to NO_PROXY"
    return None


def unreadable_certificates() -> list[str]:
    """The variables that name certificates which are not there, or are none."""
    found = []
    for name in CERTIFICATES:
        path = os.environ.get(name)
        if path and not os.path.isdir(path):
            try:
                ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cafile=path)
            except OSError:  # ssl.SSLError is one
                found.append(name)
    return found


def hub_mistake(error: BaseException) -> str | None:
    """As `environment_mistake`, and of the Hugging Face hub's own address, ``HF_ENDPOINT``: one that is none, or has something else."""
    if (mistake := environment_mistake(error)) is not None:
        return mistake
    address = os.environ.get("HF_ENDPOINT")
    if not address:
        return None
    try:
        checked_address(address, "HF_ENDPOINT")
    except InputError as wrong:
        return str(wrong).replace("/v1", "")
    if any(type(one).__name__ == "JSONDecodeError" for one in chain(error)):
        return f"what answers at HF_ENDPOINT {address} is no hub (a sign-in page?)"
    return None


def reason_of(error: BaseException) -> str:
    """Why a request got nowhere, in a few words: what the environment has wrong, or what the system said."""
    if (mistake := environment_mistake(error)) is not None:
        return mistake
    causes = list(chain(error))
    text = " ".join(str(causes[-1]).split()) or type(causes[-1]).__name__
    for cause in causes:
        if isinstance(cause, ConnectionRefusedError) or "refused" in str(cause):
            text = "connection refused; is the server running, and is the port right?"
        elif isinstance(cause, socket.gaierror):
            text = f"its name is not known here ({cause.strerror})"
    proxies = [name for name in PROXIES if os.environ.get(name)]
    return text + (f"; requests go through the proxy that {proxies[0]} names" if proxies else "")


def checked_address(address: str, option: str) -> str:
    """A server's address, where it can be one.

    Args:
        option: where it was given, for the message.

    Raises:
        InputError: no scheme or host, a scheme other than http and https, a port that is none, blanks; with what to try.
    """
    said = f"{option} {address!r}"
    try:
        parts = urlsplit(address)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise InputError(
            f"{said} is no address ({error}); expected such as http://localhost:8000/v1"
        ) from None
    if "://" not in address:
        local = any(
            address.startswith(start) for start in ("localhost", "127.", "0.0.0.0", "192.168.", "10.")
        )
        end = "" if address.rstrip("/").endswith("/v1") else "/v1"
        raise InputError(
            f"{said} has no scheme; try {'http' if local else 'https'}://{address.strip().rstrip('/')}{end}"
        )
    if parts.scheme.lower() not in ("http", "https"):
        raise InputError(f"{said} begins with {parts.scheme}://; expected http:// or https://")
    if not host or any(letter.isspace() for letter in address) or port == 0:
        raise InputError(f"{said} is no address; expected such as http://localhost:8000/v1")
    return address
