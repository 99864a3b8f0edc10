"""What the service answers where it cannot do what it is asked: a status and OpenAI's shape of an error."""

from common.errors import InputError


class Refused(Exception):
    """A request that is answered with an error.

    Attributes:
        status: of HTTP.
        param: the field that is wrong, as OpenAI names it: ``messages[0].content``.
        code: a word for programs, or None.
        retry_after: seconds after which it may be tried again, or None.
    """

    def __init__(
        self,
        message: str,
        status: int = 400,
        param: str | None = None,
        code: str | None = None,
        retry_after: int | None = None,
    ):
        super().__init__(message)
        self.status, self.param, self.code, self.retry_after = status, param, code, retry_after

    def __reduce__(self):
        return Refused, (str(self), self.status, self.param, self.code, self.retry_after)

    @property
    def body(self) -> dict:
        """What goes over the wire."""
        kinds = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}
        kind = kinds.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        return {
            "error": {"message": str(self), "type": kind, "param": self.param, "code": self.code},
        }

    @property
    def headers(self) -> dict[str, str]:
        """HTTP headers that belong to it."""
        found = {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}
        return found | ({"WWW-Authenticate": "Bearer"} if self.status == 401 else {})


def as_refused(error: Exception) -> Refused:
    """What a request is answered with where this error ends it; of those that are not the asker's only that there was one."""
    if isinstance(error, Refused):
        return error
    if isinstance(error, InputError):
        return Refused(str(error))
    return Refused("the request could not be answered; the server's log says why", 500, code="internal")
