"""Downloads a file over HTTP, and continues one that was interrupted.

The bytes so far are in `NAME.part`. `NAME.part.json` says what they are of: the address, the size
and the server's validator (a strong ETag, or the date of the last change), which a server compares
before it sends the rest.
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
"""Is called with the bytes so far, and the size."""


class DownloadError(Exception):
    """A download that failed; a one-line message without the file's name."""


@dataclass(frozen=True)
class Begun:
    """What the bytes of a partial download are of."""

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

    Raises DownloadError where the server refuses or stops, and for another size or SHA-256 than the
    given ones; what was received of another file is removed. OSError where the disk is full.
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
        raise DownloadError(f"its SHA-256 is {found}, published is {sha256}; it was removed")
    part.replace(path)
    note.unlink()


def _begun(part: Path, note: Path, url: str) -> Begun | None:
    """What is held of `url`; None if there is nothing, or nothing that is known to be of it."""
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
    """Appends to the part what the server sends, or begins it anew; returns what it is of."""
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
    """The response with the bytes from `held` on, or all; None where the file is another now."""
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
        raise DownloadError(f"the server sends it as {encoding}, not as it is")
    partial = response.status == http.client.PARTIAL_CONTENT
    if partial and begun and sent != f"bytes {held}-{begun.size_bytes - 1}/{begun.size_bytes}":
        response.close()
        return None
    return response


def _whole(url: str, response: Any, size_bytes: int | None) -> Begun:
    """What a response with the whole file is of; raises DownloadError for its size."""
    if response.status != http.client.OK:
        raise DownloadError(f"the server answers {response.status} {response.reason}")
    length = response.headers.get("Content-Length", "")
    declared = int(length) if re.fullmatch(r"\d{1,15}", length, re.ASCII) else size_bytes
    if declared is None:
        raise DownloadError("the server does not say how long it is")
    if size_bytes not in (None, declared):
        raise DownloadError(f"the server has {declared:,} bytes, published are {size_bytes:,}")
    if declared > MAX_ARCHIVE_BYTES:
        raise DownloadError(f"it has {declared:,} bytes; at most {MAX_ARCHIVE_BYTES:,} are read")
    tag = response.headers.get("ETag", "")
    # a weak tag may stand for other bytes
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
        return f"the server redirects more than {MAX_REDIRECTS} times, in a circle or not to http"
    return f"the server answers {error.code} {error.reason}"


def _opener(url: str) -> urllib.request.OpenerDirector:
    """Follows redirects to https alone; an address on this machine may lead to others on it."""
    local = _is_local(url)
    _check_address(url, local)
    # a proxy cannot reach this machine
    proxies = [urllib.request.ProxyHandler({})] if local else []
    return urllib.request.build_opener(_Redirects(local), *proxies)


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows at most `MAX_REDIRECTS`, each of which is checked."""

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
    """Raises DownloadError unless an address is https, or on this machine where that is `local`."""
    if not url.lower().startswith("https://") and not (local and _is_local(url)):
        raise DownloadError(f"{url} is not https, which protects it on its way")


def _is_local(url: str) -> bool:
    """True for http to this machine itself."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        local = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
    return local and parts.scheme == "http"
