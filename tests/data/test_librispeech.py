"""LibriSpeech's layout: what its transcripts say is what the utterances hold."""

import io
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from speechkit.data import read_manifest
from speechkit.data.librispeech import URL, librispeech
from speechkit.errors import ManifestError

words = st.lists(st.text("ABC'Z", min_size=1, max_size=5), min_size=1, max_size=4)


def write_chapter(folder: Path, texts: dict[str, str], suffix: str = ".flac") -> Path:
    """A chapter with a recording of 0.1 s for each name, and its transcript."""
    folder.mkdir(parents=True, exist_ok=True)
    kind = {"format": "OGG", "subtype": "OPUS"} if suffix == ".opus" else {}
    for name in texts:
        soundfile.write(folder / f"{name}{suffix}", np.zeros(1600), 16000, **kind)
    transcript = folder / "{}-{}.trans.txt".format(*next(iter(texts)).split("-"))
    transcript.write_text("".join(f"{name} {text}\n" for name, text in texts.items()))
    return transcript


@settings(max_examples=20)
@given(chapters=st.dictionaries(st.integers(1, 99), st.lists(words, min_size=1, max_size=3)))
def test_each_line_is_an_utterance(
    tmp_path_factory: pytest.TempPathFactory, chapters: dict[int, list[list[str]]]
) -> None:
    source = tmp_path_factory.mktemp("source")
    expected = {}
    for speaker, lines in {1000: [["AS"]], **chapters}.items():
        texts = {f"{speaker}-7-{i:04}": " ".join(line) for i, line in enumerate(lines)}
        write_chapter(source / "dev-clean" / str(speaker) / "7", texts)
        expected |= texts
    found = librispeech("dev-clean", 12, source, source)
    assert {u.audio.stem: u.text for u in found} == {k: v.lower() for k, v in expected.items()}
    assert [u.speaker for u in found] == [u.audio.parts[-3] for u in found]
    assert {u.duration_s for u in found} == {0.1}
    assert found == librispeech("dev-clean", 12, source, source)


@pytest.mark.parametrize("suffix", [".flac", ".opus", ".wav"])
def test_a_subset_may_lie_in_the_archives_folder(tmp_path: Path, suffix: str) -> None:
    write_chapter(tmp_path / "LibriSpeech" / "dev-clean" / "8" / "9", {"8-9-0": "SO"}, suffix)
    (found,) = librispeech("dev-clean", 12, tmp_path, tmp_path)
    assert (found.text, found.speaker, found.audio.name) == ("so", "8", f"8-9-0{suffix}")


def test_a_missing_recording_is_named_with_its_line(tmp_path: Path) -> None:
    transcript = write_chapter(tmp_path / "dev-clean" / "8" / "9", {"8-9-0": "A", "8-9-1": "B"})
    transcript.with_name("8-9-1.flac").unlink()
    with pytest.raises(ManifestError, match=r"8-9\.trans\.txt:2: no recording 8-9-1\.flac/"):
        librispeech("dev-clean", 12, tmp_path, tmp_path)


def test_a_folder_without_the_subset_or_its_transcripts_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"holds no dev-clean; give the folder"):
        librispeech("dev-clean", 12, tmp_path, tmp_path)
    (tmp_path / "dev-clean").mkdir()
    with pytest.raises(ManifestError, match=r"holds no \*\.trans\.txt"):
        librispeech("dev-clean", 12, tmp_path, tmp_path)


def test_without_a_folder_the_official_archive_is_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_chapter(tmp_path / "LibriSpeech" / "dev-clean" / "8" / "9", {"8-9-0": "SO"})
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz") as tar:
        tar.add(tmp_path / "LibriSpeech", "LibriSpeech")
    asked = []

    def urlopen(url: str) -> io.BytesIO:
        asked.append(url)
        return io.BytesIO(archive.getvalue())

    monkeypatch.setattr("urllib.request.urlopen", urlopen)
    out = tmp_path / "out"
    # the second time it is there
    assert (
        len(librispeech("dev-clean", 12, None, out) + librispeech("dev-clean", 12, None, out)) == 2
    )
    assert asked == [URL.format(resource=12, subset="dev-clean")]
    assert asked == ["https://www.openslr.org/resources/12/dev-clean.tar.gz"]
    assert [path.name for path in out.iterdir()] == ["dev-clean"]


@pytest.mark.skipif("SPEECHKIT_DATA" not in os.environ, reason="SPEECHKIT_DATA names no folder")
def test_real_transcripts_equal_their_manifests() -> None:
    source = Path(os.environ["SPEECHKIT_DATA"]) / "mini_librispeech"
    expected = [u for part in ("train", "dev") for u in read_manifest(source / f"{part}.jsonl")]
    found = librispeech("train-clean-5", 31, source, source)
    assert len(found) == len(expected) == 1519
    by_name = {u.audio.name: u for u in expected}
    for utterance in found:
        other = by_name[utterance.audio.name]
        assert (utterance.text, utterance.speaker) == (other.text, other.speaker)
        assert utterance.duration_s == pytest.approx(other.duration_s, abs=0.01)
