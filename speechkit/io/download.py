"""Downloads a file over HTTP, and continues one that was interrupted.

The bytes so far are in `NAME.part`. `NAME.part.json` has the address, the size and the server's
validator (a strong ETag, or the date of the last change). The server compares the validator before
it sends the rest.
"""

import hashlib
import http.client
import ipaddress
import json
import re
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

from speechkit.io.files import atomic_file
from speechkit.io.untrusted import UntrustedError, read_json
from speechkit.limits import MAX_ARCHIVE_BYTES, MAX_REDIRECTS, MAX_SILENT_S

CHUNK_BYTES = 2**18

Told = Callable[[int, int], None]
"""A function that is called with the number of bytes so far and the size of the file."""


class DownloadError(Exception):
    """A download that failed; a one-line message without the file's name."""


@dataclass(frozen=True)
class Begun:
    """The file that a partial download belongs to."""

    url: str
    size_bytes: int
    validator: str


def download(
    url: str,
    path: Path,
    size_bytes: int | None = None,
    sha256: str | None = None,
    told: Told = lambda done_bytes, size_bytes: None,
) -> None:
    """Writes the file at `url` to `path`; after an interruption the next call requests the rest.

    Raises DownloadError if the server refuses or stops, and if the size or the SHA-256 is not the
    given one; a file with another SHA-256 is removed. Raises OSError if the disk is full.
    """
    part, note = path.with_name(f"{path.name}.part"), path.with_name(f"{path.name}.part.json")
    begun = _begun(part, note, url)
    if begun is None or part.stat().st_size < begun.size_bytes:
        begun = _receive(url, part, note, begun, size_bytes, told)
    held = part.stat().st_size
    if held < begun.size_bytes:
        raise DownloadError(
            f"the connection ended after {held:,} of {begun.size_bytes:,} bytes; the next call "
            "requests the rest"
        )
    with part.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if sha256 not in (None, found):
        _discard(part, note)
        raise DownloadError(f"its SHA-256 is {found}, expected is {sha256}; it was removed")
    part.replace(path)
    note.unlink()


def _begun(part: Path, note: Path, url: str) -> Begun | None:
    """The partial download of `url`; None if there is none."""
    if not part.is_file():
        return None
    try:
        begun = Begun(**read_json(note))
        fits = begun.url == url and part.stat().st_size <= begun.size_bytes
    except (OSError, UntrustedError, TypeError, ValueError):
        return None
    return begun if fits else None


def _discard(part: Path, note: Path) -> None:
    part.unlink(missing_ok=True)
    note.unlink(missing_ok=True)


def _receive(
    url: str, part: Path, note: Path, begun: Begun | None, size_bytes: int | None, told: Told
) -> Begun:
    """Appends what the server sends to the part, or starts a new part; returns the part's file."""
    held = part.stat().st_size if begun and begun.validator else 0
    response = _request(url, begun, held)
    if response is None:
        _discard(part, note)
        return _receive(url, part, note, None, size_bytes, told)
    with response:
        if begun is None or not held or response.status != http.client.PARTIAL_CONTENT:
            held, begun = 0, _whole(url, response, size_bytes)
            _discard(part, note)
            with atomic_file(note) as file:
                file.write_text(json.dumps(asdict(begun)), encoding="utf-8")
        try:
            with part.open("ab") as file:
                while data := _next(response, begun.size_bytes - held):
                    file.write(data)
                    file.flush()
                    held += len(data)
                    told(held, begun.size_bytes)
        except OSError as error:
            error.filename = str(part)
            raise
    return begun


def _request(url: str, begun: Begun | None, held: int) -> Any:
    """The response with the bytes from `held` on, or with all; None if the file has changed."""
    headers = {"User-Agent": "speechkit", "Accept-Encoding": "identity"}
    if begun and held:
        headers |= {"Range": f"bytes={held}-", "If-Range": begun.validator}
    opener, host = _opener(url), urlsplit(url).hostname
    try:
        response = opener.open(urllib.request.Request(url, headers=headers), timeout=MAX_SILENT_S)
    except urllib.error.HTTPError as error:
        error.close()
        if held and error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
            return None
        raise DownloadError(_refusal(error)) from error
    except urllib.error.URLError as error:
        raise DownloadError(f"{host} does not answer: {error.reason}") from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise DownloadError(f"{host} does not answer: {error!r}") from error
    encoding, sent = (response.headers.get(f"Content-{x}") for x in ("Encoding", "Range"))
    if encoding not in (None, "identity"):
        response.close()
        raise DownloadError(f"the server compresses the file ({encoding}), which was not requested")
    partial = response.status == http.client.PARTIAL_CONTENT
    if partial and begun and sent != f"bytes {held}-{begun.size_bytes - 1}/{begun.size_bytes}":
        response.close()
        return None
    return response


def _whole(url: str, response: Any, size_bytes: int | None) -> Begun:
    """The file of a whole response; raises DownloadError if its size is wrong or unknown."""
    if response.status != http.client.OK:
        raise DownloadError(f"the server answers {response.status} {response.reason}")
    length = response.headers.get("Content-Length", "")
    declared = int(length) if re.fullmatch(r"\d{1,15}", length, re.ASCII) else size_bytes
    if declared is None:
        raise DownloadError("the server does not state the size of the file")
    if size_bytes not in (None, declared):
        raise DownloadError(
            f"the server's file has {declared:,} bytes, expected are {size_bytes:,}"
        )
    if declared > MAX_ARCHIVE_BYTES:
        raise DownloadError(f"it has {declared:,} bytes; at most {MAX_ARCHIVE_BYTES:,} are read")
    tag = response.headers.get("ETag", "")
    # a file with the same weak tag may have other bytes
    strong = tag if tag.startswith('"') else response.headers.get("Last-Modified", "")
    return Begun(url, declared, strong)


def _next(response: Any, most: int) -> bytes:
    """The next bytes, as they arrive; none at the end."""
    try:
        data: bytes = response.read1(min(most, CHUNK_BYTES))
    except TimeoutError as error:
        raise DownloadError(f"the server sends nothing for {MAX_SILENT_S:g} s") from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise DownloadError(f"the connection broke: {error!r}") from error
    return data


def _refusal(error: urllib.error.HTTPError) -> str:
    if 300 <= error.code < 400:
        return (
            f"the server redirects more than {MAX_REDIRECTS} times, in a circle, or to an address "
            "that is not http"
        )
    return f"the server answers {error.code} {error.reason}"


def _opener(url: str) -> urllib.request.OpenerDirector:
    """Follows redirects to https only; if `url` is on this machine, also to others on it."""
    local = _is_local(url)
    _check_address(url, local)
    # a proxy cannot reach this machine
    proxies = [urllib.request.ProxyHandler({})] if local else []
    return urllib.request.build_opener(_Redirects(local), *proxies)


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows at most `MAX_REDIRECTS` redirects and checks each address."""

    max_redirections = max_repeats = MAX_REDIRECTS

    def __init__(self, local: bool) -> None:
        self.local = local

    def redirect_request(
        self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> Any:
        """The next request."""
        try:
            _check_address(urljoin(req.full_url, newurl), self.local)
        except DownloadError:
            fp.close()
            raise
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _check_address(url: str, local: bool) -> None:
    """Raises DownloadError unless an address is https or, with `local`, on this machine."""
    if not url.lower().startswith("https://") and not (local and _is_local(url)):
        raise DownloadError(f"{url} is not https; give an https address")


def _is_local(url: str) -> bool:
    """Whether an address is http on this machine."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        local = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
    return local and parts.scheme == "http"
