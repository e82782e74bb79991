"""A file that fails to be written leaves the old one, and nothing beside it."""

from pathlib import Path

import pytest

from speechkit.files import whole_file


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "new" / "lm.arpa.gz"
    with whole_file(path) as part:
        assert part.suffix == ".gz"
        part.write_text("one")
        assert not path.exists()
    assert path.read_text() == "one"
    with pytest.raises(UnicodeEncodeError), whole_file(path) as part:
        part.write_text("half \ud800", encoding="utf-8")
    assert path.read_text() == "one"
    assert list(path.parent.iterdir()) == [path]
