"""Downloads from a server on this machine: whole, or one line and a part that is continued."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from speechkit.io import download as module
from speechkit.io.download import DownloadError, download

DATA = bytes(range(256)) * 4000
SHA256 = "d9b0bd2d0bd7e9a1b0a4dd9a6ad4e4f8"


@pytest.fixture
def url(served: Any) -> str:
    served.files["/m.nemo"] = DATA
    return f"{served.url}/m.nemo"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "m.nemo"


def names(path: Path) -> list[str]:
    return sorted(file.name for file in path.parent.iterdir())


def test_a_file_is_written_whole(url: str, path: Path) -> None:
    told: list[tuple[int, int]] = []
    download(url, path, len(DATA), told=lambda *both: told.append(both))
    assert path.read_bytes() == DATA
    assert names(path) == ["m.nemo"]
    assert told == sorted(told)
    assert told[-1] == (len(DATA), len(DATA))


def test_a_download_that_is_cut_twice_gets_the_rest_and_the_same_bytes(
    served: Any, url: str, path: Path
) -> None:
    for cut, so_far in ((300_000, 300_000), (123, 300_123)):
        served.how["/m.nemo"] = {"cut": cut}
        with pytest.raises(DownloadError, match=f"ended after {so_far:,} of 1,024,000 bytes"):
            download(url, path)
        assert names(path) == ["m.nemo.part", "m.nemo.part.json"]
    served.how.clear()
    download(url, path)
    assert served.asked == [None, "bytes=300000-", "bytes=300123-"]
    assert path.read_bytes() == DATA
    assert names(path) == ["m.nemo"]


def test_what_the_user_interrupts_goes_on(served: Any, url: str, path: Path) -> None:
    def interrupt(done: int, size: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        download(url, path, told=interrupt)
    held = path.with_name("m.nemo.part").stat().st_size
    assert held > 0
    download(url, path)
    assert served.asked == [None, f"bytes={held}-"]
    assert path.read_bytes() == DATA


def test_a_part_that_is_whole_needs_no_server(served: Any, url: str, path: Path) -> None:
    cut_short(served, url, path, 1000)
    path.with_name("m.nemo.part").write_bytes(DATA)
    download(url, path)
    assert served.asked == [None]
    assert path.read_bytes() == DATA


def cut_short(served: Any, url: str, path: Path, cut: int, **how: Any) -> None:
    served.how["/m.nemo"] = {"cut": cut, **how}
    with pytest.raises(DownloadError):
        download(url, path)
    served.how["/m.nemo"] = how


@pytest.mark.parametrize(
    "how",
    [
        {"ranges": False},
        {"headers": {"ETag": None, "Last-Modified": None}},
        {"headers": {"ETag": 'W/"weak"', "Last-Modified": None}},
        {"headers": {"Content-Range": "bytes 7-1023999/1024000"}},
        {"headers": {"Content-Range": None}},
    ],
)
def test_what_a_server_cannot_continue_begins_anew(
    served: Any, url: str, path: Path, how: dict[str, Any]
) -> None:
    cut_short(served, url, path, 5000, **how)
    download(url, path)
    assert path.read_bytes() == DATA


def test_the_rest_of_a_file_with_a_weak_tag_is_not_requested(
    served: Any, url: str, path: Path
) -> None:
    cut_short(served, url, path, 5000, headers={"ETag": 'W/"weak"', "Last-Modified": None})
    download(url, path)
    assert served.asked == [None, None]


@pytest.mark.parametrize("changed", [DATA[::-1], DATA[:2000]])
def test_a_file_that_has_changed_begins_anew(
    served: Any, url: str, path: Path, changed: bytes
) -> None:
    cut_short(served, url, path, 5000)
    served.files["/m.nemo"] = changed
    download(url, path)
    assert path.read_bytes() == changed


def test_a_range_that_cannot_be_had_begins_anew(served: Any, url: str, path: Path) -> None:
    cut_short(served, url, path, 5000)
    served.how["/m.nemo"] = {"status": 416}
    with pytest.raises(DownloadError, match="answers 416"):
        download(url, path)
    assert served.asked == [None, "bytes=5000-", None]
    assert names(path) == []


def test_a_part_of_another_address_or_without_a_note_is_not_used(
    served: Any, url: str, path: Path
) -> None:
    cut_short(served, url, path, 5000)
    served.files["/other"] = other = DATA[::-1]
    download(f"{served.url}/other", path)
    assert path.read_bytes() == other
    path.with_name("m.nemo.part").write_bytes(b"rubbish")
    path.with_name("m.nemo.part.json").write_text('{"url": 1}')
    download(url, path)
    assert path.read_bytes() == DATA


def test_redirects_are_followed_five_times(served: Any, url: str, path: Path) -> None:
    served.files["/end"] = DATA
    for step in range(6):
        served.how[f"/{step}"] = {"to": "/end" if step == 5 else f"{served.url}/{step + 1}"}
    download(f"{served.url}/1", path)
    assert path.read_bytes() == DATA
    with pytest.raises(DownloadError, match="redirects more than 5 times"):
        download(f"{served.url}/0", path)


@pytest.mark.parametrize(
    ("to", "says"),
    [
        ("/m.nemo", "in a circle"),
        ("http://example.org/m.nemo", "http://example.org/m.nemo is not https"),
        ("ftp://127.0.0.1/m.nemo", "is not https"),
        ("file:///etc/passwd", "not http"),
    ],
)
def test_other_redirects_are_refused(served: Any, url: str, path: Path, to: str, says: str) -> None:
    served.how["/m.nemo"] = {"to": to}
    with pytest.raises(DownloadError, match=says):
        download(url, path)
    assert names(path) == []


def test_a_redirect_keeps_the_range(served: Any, path: Path) -> None:
    served.files["/signed"] = DATA
    served.how["/m.nemo"] = {"to": "/signed"}
    served.how["/signed"] = {"cut": 5000}
    with pytest.raises(DownloadError):
        download(f"{served.url}/m.nemo", path)
    served.how["/signed"] = {}
    download(f"{served.url}/m.nemo", path)
    assert served.asked[-1] == "bytes=5000-"
    assert path.read_bytes() == DATA


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ({"status": 404}, "answers 404 Not Found"),
        ({"status": 503}, "answers 503 Service Unavailable"),
        ({"status": 204}, "answers 204 No Content"),
        ({"length": False}, "does not state the size"),
        ({"headers": {"Content-Encoding": "gzip"}}, "compresses the file .gzip."),
        ({"cut": 0}, "ended after 0 of 1,024,000 bytes"),
    ],
)
def test_a_server_that_fails_is_one_line(
    served: Any, url: str, path: Path, how: dict[str, Any], says: str
) -> None:
    served.how["/m.nemo"] = how
    with pytest.raises(DownloadError, match=says):
        download(url, path)
    assert not path.exists()


def test_a_wrong_size_is_refused_before_the_download(url: str, path: Path) -> None:
    with pytest.raises(DownloadError, match="has 1,024,000 bytes, expected are 7"):
        download(url, path, 7)
    assert names(path) == []


def test_the_size_is_limited(url: str, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_ARCHIVE_BYTES", 1000)
    with pytest.raises(DownloadError, match="at most 1,000 are read"):
        download(url, path)
    assert names(path) == []


def test_a_wrong_hash_leaves_nothing(url: str, path: Path) -> None:
    with pytest.raises(DownloadError, match=f"expected is {SHA256}; it was removed"):
        download(url, path, sha256=SHA256)
    assert names(path) == []


def test_a_known_size_stands_for_a_length_that_is_not_sent(
    served: Any, url: str, path: Path
) -> None:
    served.how["/m.nemo"] = {"length": False}
    download(url, path, len(DATA))
    assert path.read_bytes() == DATA


def test_a_silent_server_is_given_up(
    served: Any, url: str, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_SILENT_S", 0.05)
    served.how["/m.nemo"] = {"cut": 5000, "body": False}
    with pytest.raises(DownloadError, match=r"sends nothing for 0\.05 s"):
        download(url, path)
    assert path.with_name("m.nemo.part").stat().st_size == 5000


def test_what_does_not_answer_is_one_line(path: Path) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        with pytest.raises(DownloadError, match=r"127\.0\.0\.1 does not answer"):
            download(f"http://127.0.0.1:{port}/m.nemo", path)


@pytest.mark.parametrize(
    "url", ["http://example.org/m", "ftp://127.0.0.1/m", "m.nemo", "http://[/"]
)
def test_other_addresses_are_refused(url: str, path: Path) -> None:
    with pytest.raises(DownloadError, match="is not https"):
        download(url, path)


@contextmanager
def files_of_at_most(size_bytes: int) -> Iterator[None]:
    """As on a disk that is full, writing fails beyond a size."""
    # which Windows does not have
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_names_the_file_and_the_part_goes_on(served: Any, url: str, path: Path) -> None:
    with files_of_at_most(100_000), pytest.raises(OSError, match="large") as caught:
        download(url, path)
    assert caught.value.filename == str(path.with_name("m.nemo.part"))
    download(url, path)
    assert served.asked == [None, "bytes=100000-"]
    assert path.read_bytes() == DATA
