"""The table of the models that others publish and that `speechkit pull` downloads."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

from speechkit.config import from_dict
from speechkit.io.cache import cache_folder
from speechkit.io.untrusted import read_json

TABLE = Path(__file__).with_name("published.json")
ENGLISH = "stt_en_quartznet15x5"
"""The model for any English words."""


@dataclass(frozen=True, kw_only=True)
class Published:
    """A row of published.json.

    `purpose` continues a sentence that begins with the name. `page` is the address of its
    description, `licence` the name and the address of its licence. `size_bytes` and `sha256` are
    those of the archive, None if they are not published.
    """

    name: str
    purpose: str
    url: str
    page: str
    licence: str
    size_bytes: int | None = None
    sha256: str | None = None

    @property
    def folder(self) -> Path:
        """The model's folder, once it is pulled."""
        return cache_folder() / "models" / self.name

    @property
    def is_pulled(self) -> bool:
        """Whether the model is on this machine."""
        return self.folder.is_dir()


@cache
def published() -> dict[str, Published]:
    """The rows of the table by name."""
    rows: list[Published] = from_dict(list[Published], read_json(TABLE), str(TABLE))
    return {row.name: row for row in rows}
