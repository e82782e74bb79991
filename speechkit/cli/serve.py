"""`speechkit serve`: an HTTP and WebSocket server for models."""

import os
from pathlib import Path
from typing import Annotated

import typer

from speechkit.cli.options import complete_model
from speechkit.errors import ConfigError, MissingExtraError

TOKEN = "SPEECHKIT_TOKEN"
"""The environment variable of the token."""


def serve(
    models: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[MODEL]...",
            help="Model folders, plans or bundled ones; an4, vad and digits if none.",
            autocompletion=complete_model,
        ),
    ] = None,
    host: Annotated[str, typer.Option(metavar="H", help="The address to listen at.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(metavar="N", help="0 for any free one.")] = 8000,
    token: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help=f"It holds the token of clients; else {TOKEN}."),
    ] = None,
    origin: Annotated[
        list[str] | None,
        typer.Option(metavar="URL", help="Web pages that may call it, as https://my.org."),
    ] = None,
    max_upload_mb: Annotated[int, typer.Option(metavar="N", help="MiB of an upload.")] = 100,
    max_audio: Annotated[float, typer.Option(metavar="S", help="Seconds of an upload.")] = 3600.0,
    max_sessions: Annotated[
        int, typer.Option(metavar="N", help="Live sessions of each model.")
    ] = 256,
    max_connections: Annotated[
        int, typer.Option(metavar="N", help="Connections of an address.")
    ] = 512,
    workers: Annotated[int, typer.Option(metavar="N", help="Uploads computed at a time.")] = 2,
) -> None:
    """Serve models: OpenAI's transcriptions, speech detection, live sound by WebSocket.

    Example: speechkit serve an4 vad --port 8000
    """
    try:
        from speechkit.serve.server import serve as run
        from speechkit.serve.settings import MODELS, Settings
    except ModuleNotFoundError as error:
        raise MissingExtraError(error.name or "starlette", "serve", "speechkit serve") from error

    run(
        Settings(
            models=tuple(models or MODELS),
            host=host,
            port=port,
            token=_token(token),
            origins=tuple(origin or ()),
            max_upload_bytes=max_upload_mb * 2**20,
            max_audio_s=max_audio,
            max_sessions=max_sessions,
            max_connections_per_address=max_connections,
            workers=workers,
        )
    )


def _token(file: Path | None) -> str | None:
    """The token in a file or in the environment; raises ConfigError for an empty one."""
    token = os.environ.get(TOKEN) if file is None else file.read_text("utf-8").strip()
    if token is not None and not token:
        raise ConfigError(f"{file or TOKEN} is empty; write the token into it")
    return token
