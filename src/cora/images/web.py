"""Images from the web, for callers who ask for that: a service must never fetch what its clients name."""

import re
import time
from http.client import HTTPException, HTTPMessage, HTTPResponse
from typing import IO
from urllib.error import HTTPError, URLError
from urllib.parse import quote, urlsplit, urlunsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from cora.errors import ImageError

MAX_DOWNLOAD_BYTES = 50_000_000
"""Largest file that is fetched unless the caller says otherwise."""

#: Seconds without an answer after which fetching is given up, and for the whole file.
_WAIT_SECONDS, _WHOLE_SECONDS = 10.0, 60.0
_CHUNK = 1 << 16
_SCHEMES = ("http", "https")
_SCHEME = re.compile(r"([a-z][a-z0-9+.-]*)://", re.IGNORECASE)


def scheme_of(text: str) -> str:
    """The scheme of a URL in lower case: "https" of "https://example.org/a.jpg"; "" of a path."""
    found = _SCHEME.match(text)
    return "" if found is None else found[1].lower()


def is_url(source: object) -> bool:
    """Whether a source is text that begins with http:// or https://."""
    return isinstance(source, str) and scheme_of(source) in _SCHEMES


def shown(url: str) -> str:
    """A URL for messages: without user, password and query, which may be secret."""
    return re.sub(r"//[^/?#]*@", "//", re.split(r"[?#]", url)[0])


def download(url: str, *, max_bytes: int = MAX_DOWNLOAD_BYTES, wait_seconds: float = _WAIT_SECONDS) -> bytes:
    """The file at an http or https URL.

    Args:
        url: its address; redirections lead to http and https only.
        max_bytes: larger files are refused, at the latest when so many bytes have come.
        wait_seconds: how long to wait for an answer, or for more of it.

    Raises:
        ImageError: no such URL, no answer in time, an error of the server, a file that is too large or a web page.
    """
    if not is_url(url):
        raise ImageError(f"expected an address with http:// or https://, got {shown(url)}")
    _check_no_secrets(url)
    end = time.monotonic() + _WHOLE_SECONDS
    try:
        request = Request(_in_ascii(url), headers={"User-Agent": "cora-ovd"})
        with build_opener(_WebOnly).open(request, timeout=wait_seconds) as answer:
            _check_headers(url, answer.headers, max_bytes)
            return _read(answer, url, max_bytes, end)
    except HTTPError as error:
        raise _refused(url, f"{error.code} {error.reason}", "check the address") from None
    except (OSError, HTTPException, ValueError) as error:
        reason = error.reason if isinstance(error, URLError) else error
        if isinstance(reason, TimeoutError):
            raise _refused(url, f"no answer within {wait_seconds:g} s", "try again later") from None
        got = str(reason) or type(reason).__name__
        raise _refused(url, got, "check the address and the connection") from None


def _check_no_secrets(url: str) -> None:
    if "@" in re.split(r"[/?#]", url.partition("//")[2])[0]:
        raise _refused(url, "one with a user or password", "get the file and give its path")


def _in_ascii(url: str) -> str:
    """What people copy from a browser's bar, with its spaces and letters of any language, as servers take it."""
    parts = urlsplit(url)
    host = parts.netloc if parts.netloc.isascii() else parts.netloc.encode("idna").decode("ascii")
    path, query = (quote(part, safe="!$%&'()*+,/:;=?@~") for part in (parts.path, parts.query))
    return urlunsplit((parts.scheme, host, path, query, ""))


class _WebOnly(HTTPRedirectHandler):
    """Follows redirections to the web only: urllib's own follows those to FTP, too."""

    def redirect_request(
        self, req: Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> Request | None:
        if not is_url(newurl):
            raise URLError(f"a redirection to {scheme_of(newurl) or 'another place'}")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _check_headers(url: str, headers: HTTPMessage, max_bytes: int) -> None:
    if headers.get_content_type() in ("text/html", "application/xhtml+xml"):
        raise _refused(url, "a web page", "use the address of the image itself")
    length = headers.get("Content-Length", "")
    if length.isdecimal() and int(length) > max_bytes:
        raise _too_large(url, max_bytes)


def _read(answer: HTTPResponse, url: str, max_bytes: int, end: float) -> bytes:
    content = bytearray()
    # What has come so far, not a full chunk: a server that sends a byte now and then would never fill one.
    while part := answer.read1(_CHUNK):
        content += part
        if len(content) > max_bytes:
            raise _too_large(url, max_bytes)
        if time.monotonic() > end:
            raise _refused(url, f"only {len(content)} bytes in {_WHOLE_SECONDS:g} s", "try again later")
    return bytes(content)


def _too_large(url: str, max_bytes: int) -> ImageError:
    return _refused(url, f"more than {max_bytes / 1e6:g} MB", "get it and shrink it")


def _refused(url: str, got: str, advice: str) -> ImageError:
    return ImageError(f"expected an image at {shown(url)}, got {' '.join(got.split())}; {advice}")
