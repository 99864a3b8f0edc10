"""Files of the Hugging Face hub, fetched one by one: resumed, checked, errors in one line."""

import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from huggingface_hub.constants import ENDPOINT
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.file_download import http_get
from huggingface_hub.utils import build_hf_headers

from common.errors import InputError
from common.network import hub_mistake


@contextmanager
def one_line(what: str, folder: Path) -> Iterator[None]:
    """Turn the hub's errors about `what` into an `InputError` of one line."""
    try:
        yield
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else "no answer"
        raise InputError(
            f"{what} cannot be had from the hub (status {status}); a private or gated one needs HF_TOKEN"
        ) from error
    except InputError:
        raise
    except (
        Exception
    ) as error:  # no network: the hub's library raises its own errors and those of its HTTP client
        if mistake := hub_mistake(error):
            raise InputError(f"the hub cannot be reached for {what}: {mistake}") from error
        if not is_network_error(error):
            raise
        raise InputError(
            f"the hub cannot be reached for {what} ({type(error).__name__}); with a network the same command goes on, "
            f"or put the files into {folder} by hand"
        ) from error


def is_network_error(error: BaseException | None) -> bool:
    """Whether an error, or one that led to it, is about the connection."""
    while error is not None:
        if isinstance(error, (ConnectionError, TimeoutError)) or type(error).__name__ in NETWORK_ERRORS:
            return True
        error = error.__cause__ or error.__context__
    return False


NETWORK_ERRORS = (
    "ConnectError", "ConnectTimeout", "ReadTimeout", "ReadError", "RemoteProtocolError", "ProxyError", "OfflineModeIsEnabled", "LocalEntryNotFoundError",
)  # fmt: skip


@dataclass(frozen=True)
class Remote:
    """A file on the hub, and where it goes."""

    name: str
    folder: Path
    size: int
    etag: str
    location: str  # after redirects; a mirror or a storage server of its own

    @property
    def path(self) -> Path:
        """The file when it is complete."""
        return self.folder / self.name

    @property
    def partial(self) -> Path:
        """What has come so far; named after the content, so that another revision does not go on from it."""
        return self.folder / f".{self.name}.{hashlib.sha256(self.etag.encode()).hexdigest()[:12]}.partial"

    def is_here(self) -> bool:
        """Whether the file is complete: its size, and its content where the hub gives a SHA-256 (its large files)."""
        if not self.path.is_file() or self.path.stat().st_size != self.size:
            return False
        return not re.fullmatch("[0-9a-f]{64}", self.etag) or sha256(self.path) == self.etag

    def missing(self) -> int:
        """Bytes still to be fetched."""
        return (
            0
            if self.is_here()
            else self.size - (self.partial.stat().st_size if self.partial.is_file() else 0)
        )

    def fetch(self) -> None:
        """Fetch what is missing, with the hub's own retries, and put the file in place once its content is right."""
        self.folder.mkdir(parents=True, exist_ok=True)
        own = (
            urlsplit(self.location).netloc == urlsplit(ENDPOINT).netloc
        )  # a token is for the hub, not for its storage
        with open(self.partial, "ab") as out:
            headers = build_hf_headers() if own else {}
            http_get(
                self.location,
                out,
                resume_size=out.tell(),
                headers=headers,
                expected_size=self.size,
                displayed_filename=self.name,
            )
        if re.fullmatch("[0-9a-f]{64}", self.etag) and sha256(self.partial) != self.etag:
            self.partial.unlink()
            raise InputError(
                f"{self.name}: what came is not what the hub announced; the same command fetches it again"
            )
        self.partial.replace(self.path)


def sha256(path: Path) -> str:
    """A file's SHA-256 in hexadecimal."""
    with open(path, "rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
