"""Requests that are refused: a status for the program at the other end, a sentence for its user."""

from __future__ import annotations

from cora.errors import CoraError


class RefusedError(CoraError):
    """The service does not answer a request.

    Args:
        status: HTTP status code.
        message: one line: expected, got, what to do.
        retry_after_s: seconds after which trying again makes sense, if it does.
    """

    def __init__(self, status: int, message: str, *, retry_after_s: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after_s = retry_after_s

    @property
    def headers(self) -> dict[str, str]:
        """Headers of the response."""
        headers = {} if self.retry_after_s is None else {"Retry-After": str(self.retry_after_s)}
        # The rest of a request that came too slowly need not be waited for. Bodies that are too large are read to their
        # end and dropped instead, since a client that is still sending would not see the answer.
        return headers | ({"Connection": "close"} if self.status == 408 else {})
