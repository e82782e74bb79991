"""`speechkit shards`: packs a manifest's utterances into a few large files."""

from pathlib import Path
from typing import Annotated

import typer

from speechkit.cli.options import Json
from speechkit.cli.output import show


def shards(
    manifest: Annotated[Path, typer.Argument(metavar="MANIFEST", help="JSON lines.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="A folder that does not exist yet.")],
    hours_per_shard: Annotated[
        float, typer.Option(metavar="HOURS", help="The sound in each shard, about.")
    ] = 1.0,
    as_json: Json = False,
) -> None:
    """Pack a manifest and its sound into tar shards, which `data.train` may name."""
    from speechkit.data import read_manifest, write_shards

    utterances = read_manifest(manifest)
    paths = write_shards(utterances, out, hours_per_shard)
    hours = sum(u.duration_s for u in utterances) / 3600
    row = {"out": str(out), "shards": len(paths), "utterances": len(utterances), "hours": hours}
    line = f"{out}: {len(utterances)} utterances, {hours:.2f} h, in {len(paths)} shards"
    show(row, line, as_json)
