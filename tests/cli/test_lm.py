"""Text becomes an ARPA file, and what is no text is one line."""

import gzip
import json
from pathlib import Path

import pytest

from speechkit.decode.kneser_ney import estimate
from speechkit.decode.ngram import read_arpa

from .conftest import Cli


def test_files_of_text_become_a_model(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("Call Jon, now!\n\nCall Ann.\n")
    (tmp_path / "b.txt.gz").write_bytes(gzip.compress(b"call jon\n"))
    row = {"audio_filepath": "absent.wav", "duration": 1.0, "text": "Ann called"}
    (tmp_path / "c.jsonl").write_text(json.dumps(row) + "\n")
    out = tmp_path / "new" / "lm.arpa.gz"
    texts = [tmp_path / name for name in ("a.txt", "b.txt.gz", "c.jsonl")]
    ended = cli("lm", *texts, "--order", 2, "--out", out, "--json")
    assert ended.code == 0
    expected = estimate(["call jon now", "call ann", "call jon", "ann called"], order=2)
    found = read_arpa(out)
    assert found.log_probs == pytest.approx(expected.log_probs, abs=1e-6)
    grams = [8, len(expected.log_probs) - 8]
    assert json.loads(ended.out) == {
        "out": str(out),
        "order": 2,
        "sentences": 4,
        "ngrams": grams,
    }


def test_manifests_of_nemo_are_called_json(cli: Cli, tmp_path: Path) -> None:
    row = {"audio_filepath": "absent.wav", "duration": 1.0, "text": "Call Ann"}
    (tmp_path / "c.json").write_text(json.dumps(row) + "\n")
    assert cli("lm", tmp_path / "c.json", "--out", tmp_path / "lm.arpa").code == 0
    assert read_arpa(tmp_path / "lm.arpa").words == {"call", "ann"}


def test_it_reads_well_and_leaves_text_as_it_is_if_asked(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("Route 66\n")
    ended = cli("lm", tmp_path / "a.txt", "--out", tmp_path / "lm.arpa", "--normalization", "none")
    assert "5 1-grams, 3 2-grams, 2 3-grams from 1 sentences" in ended.out
    assert read_arpa(tmp_path / "lm.arpa").words == {"Route", "66"}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"one\nroute 66\n", "a.txt:2: text 'route 66' has '6'"),
        (b"one\n\xff\xfe", "a.txt:2: not UTF-8"),
        (b"\n", "no words"),
    ],
)
def test_what_is_no_text_is_one_line_and_leaves_no_file(
    cli: Cli, tmp_path: Path, content: bytes, says: str
) -> None:
    (tmp_path / "a.txt").write_bytes(content)
    ended = cli("lm", tmp_path / "a.txt", "--out", tmp_path / "lm.arpa")
    assert ended.code == 1
    assert says in ended.err
    assert ended.err.count("\n") == 1
    assert not (tmp_path / "lm.arpa").exists()
