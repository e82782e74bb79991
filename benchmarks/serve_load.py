"""Live connections with a server on this machine: added delay, memory, and whether all events came.

    python benchmarks/serve_load.py --vad 5 --an4 1 --seconds 10 --piece-ms 20

Each client sends a recording in pieces at real time. The added delay of an event is the time from
when the sound that decided it was due to be sent until the event came. The exit code is 1 if the
events of a client differ from those of the file.
"""

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from websockets.asyncio.client import connect

from speechkit.card import bundled_folders

RATE = 16000
CLIPS = next(iter(bundled_folders())).parents[1] / "clips"
END = json.dumps({"type": "end"})
Rows = list[dict[str, Any]]


def recording(path: Path, seconds: float) -> None:
    """Writes spoken digits with pauses, again and again."""
    parts: list[Any] = []
    for clip in sorted(CLIPS.glob("*.flac")):
        x, rate = soundfile.read(clip)
        # from 8 to 16 kHz, roughly; the words do not matter
        parts += [np.repeat(x, RATE // rate), np.zeros(RATE // 2)]
    whole = np.concatenate(parts)
    soundfile.write(path, np.resize(whole, round(seconds * RATE)), RATE, "PCM_16")


def expected(model: str, file: Path) -> Rows:
    """The events that `listen` prints of a file."""
    command = [sys.executable, "-m", "speechkit", "listen", "--model", model, "--file", str(file)]
    out = subprocess.run([*command, "--json"], capture_output=True, check=True, text=True).stdout
    return [json.loads(line) for line in out.splitlines()]


async def client(
    url: str, model: str, data: bytes, piece_s: float, wait_s: float
) -> tuple[Rows, list[float]]:
    """The events of one connection, and the added delay of each in seconds."""
    await asyncio.sleep(wait_s)
    rows: Rows = []
    delays_s: list[float] = []
    async with connect(f"{url}/v1/listen?model={model}", open_timeout=60) as socket:
        rows.append(json.loads(await socket.recv()))
        began_s = time.monotonic()

        async def read() -> None:
            async for message in socket:
                row = json.loads(message)
                if "decided_s" in row:
                    # the piece with the last deciding sample is sent at its end
                    pieces = np.ceil(round(row["decided_s"] / piece_s, 6))
                    delays_s.append(time.monotonic() - began_s - float(pieces) * piece_s)
                rows.append(row)

        reading = asyncio.create_task(read())
        size = 2 * round(piece_s * RATE)
        for number, start in enumerate(range(0, len(data), size), start=1):
            await asyncio.sleep(max(0.0, began_s + number * piece_s - time.monotonic()))
            await socket.send(data[start : start + size])
        await socket.send(END)
        await reading
    return rows, delays_s


async def load(
    url: str, models: Sequence[str], data: bytes, piece_s: float
) -> list[tuple[Rows, list[float]]]:
    """The answers to one client for each of `models`, which start within a second."""
    waits_s = np.linspace(0, 1, len(models))
    clients = (
        client(url, model, data, piece_s, wait_s)
        for model, wait_s in zip(models, waits_s, strict=True)
    )
    return await asyncio.gather(*clients)


def resident_mib(process: int) -> float:
    """The resident memory of a process on Linux, in MiB."""
    status = Path(f"/proc/{process}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vad", type=int, default=5, help="connections with vad")
    parser.add_argument("--an4", type=int, default=0, help="connections with an4")
    parser.add_argument("--seconds", type=float, default=10, help="of sound for each")
    parser.add_argument("--piece-ms", type=float, default=20, help="of sound in one message")
    given = parser.parse_args()
    piece_s = given.piece_ms / 1000
    models = ["vad"] * given.vad + ["an4"] * given.an4
    limits = [f"--set=per_address={len(models) + 1}", f"--set=sessions={len(models)}"]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "speech.wav"
        recording(file, given.seconds)
        data = soundfile.read(file, dtype="int16")[0].tobytes()
        wanted = {model: expected(model, file) for model in set(models)}
        command = [sys.executable, "-m", "speechkit", "serve", *sorted(wanted), "--port", "0"]
        with (Path(folder) / "log").open("w") as log:
            server = subprocess.Popen(
                [*command, *limits], stdout=subprocess.PIPE, stderr=log, text=True
            )
        assert server.stdout is not None
        try:
            url = "ws" + json.loads(server.stdout.readline())["url"][4:]
            # pools and engines are made by the first connection of a model
            asyncio.run(load(url, sorted(wanted), data[: 2 * RATE], piece_s))
            before = resident_mib(server.pid)
            found = asyncio.run(load(url, models, data, piece_s))
            after = resident_mib(server.pid)
        finally:
            server.terminate()
            code = server.wait()
    wrong = 0
    for model in sorted(wanted):
        answers = [answer for own, answer in zip(models, found, strict=True) if own == model]
        delays_ms = 1000 * np.array([delay_s for _, delays_s in answers for delay_s in delays_s])
        wrong += sum(rows != wanted[model] for rows, _ in answers)
        p50, p99 = np.percentile(delays_ms, [50, 99])
        print(f"{model}: {len(answers)} connections, added delay p50 {p50:.1f} p99 {p99:.1f} ms")
    print(f"memory {before:.0f} to {after:.0f} MiB, wrong {wrong}, exit {code}")
    return int(wrong > 0 or code != 0)


if __name__ == "__main__":
    sys.exit(main())
