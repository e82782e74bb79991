"""A corpus is fetched once, whole or not at all."""

import tarfile
from pathlib import Path

import pytest

from speechkit.data.corpus import download
from speechkit.errors import AudioError


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """An archive of 100 kB that does not pack, in `away/`; what is fetched goes elsewhere."""
    (tmp_path / "away").mkdir()
    (tmp_path / "a.wav").write_bytes(bytes(range(256)) * 400)
    with tarfile.open(tmp_path / "away" / "words.tar.gz", "w:gz") as tar:
        for name in ("a", "b"):
            tar.add(tmp_path / "a.wav", f"words/{name}.wav")
    return tmp_path / "away" / "words.tar.gz"


def test_what_is_there_is_not_fetched_again(archive: Path, tmp_path: Path) -> None:
    folder = download(archive.as_uri(), tmp_path / "data")
    assert [p.name for p in sorted((folder / "words").iterdir())] == ["a.wav", "b.wav"]
    assert list((tmp_path / "data").iterdir()) == [folder]
    archive.unlink()
    assert download(archive.as_uri(), tmp_path / "data") == folder


def test_a_download_cut_short_is_one_line_and_leaves_nothing(archive: Path, tmp_path: Path) -> None:
    archive.write_bytes(archive.read_bytes()[: archive.stat().st_size // 2])
    (tmp_path / "data" / ".words.part").mkdir(parents=True)
    with pytest.raises(AudioError, match="cannot get file:"):
        download(archive.as_uri(), tmp_path / "data")
    assert [p.name for p in (tmp_path / "data").iterdir()] == [".words.part"]
