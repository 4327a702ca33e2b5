"""The error of a request that is refused: a status code for the client, a message for its user."""

from __future__ import annotations

from cora.errors import CoraError


class RefusedError(CoraError):
    """The service refuses a request.

    Args:
        status: HTTP status code.
        message: one line: expected, got, what to do.
        retry_after_s: seconds after which the client may try again; None where that would not help.
    """

    def __init__(self, status: int, message: str, *, retry_after_s: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after_s = retry_after_s

    @property
    def headers(self) -> dict[str, str]:
        """Headers of the response that the error asks for."""
        headers = {} if self.retry_after_s is None else {"Retry-After": str(self.retry_after_s)}
        # After 408 nobody waits for the rest of the request. After 413 the rest of the body is read and dropped, since
        # otherwise a client that is still sending would not see the answer.
        return headers | ({"Connection": "close"} if self.status == 408 else {})
