"""Live connections that a server holds in real time, with clients on the same machine.

    .venv/bin/python -m benchmarks.serve_load [--vad N] [--an4 N] [--seconds S]

Each client sends spoken recordings at the pace at which they play, 20 ms at a time, for S seconds,
and begins at another moment of the first second. The delay of an event is the time from sending
the last sample that it needed (its `decided_s`) until it arrives. Prints the delays, the server's
memory after start and at the end, and how many clients got other events than a session of the same
sound gives; ends with 1 if there were any. Stops by itself.
"""

import argparse
import asyncio
import json
import resource
import subprocess
import sys
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from websockets.asyncio.client import connect

import speechkit as sk
from speechkit.data import read_samples
from speechkit.events import to_row

RATE = 16000
PACKET_S = 0.02
CLIPS = Path(sk.__file__).parent / "bundled" / "clips"
MIB = 2**20
Sound = NDArray[np.int16]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vad", type=int, default=5, help="connections to vad")
    parser.add_argument("--an4", type=int, default=0, help="connections to an4")
    parser.add_argument("--seconds", type=float, default=10, help="of sound, for each connection")
    options = parser.parse_args()
    counts = {"vad": options.vad, "an4": options.an4}
    wrong = measure({name: n for name, n in counts.items() if n}, options.seconds)
    sys.exit(1 if wrong else 0)


def measure(counts: dict[str, int], seconds: float) -> int:
    """Runs the clients of each model and prints the figures; how many got other events."""
    sound = spoken(seconds)
    most = sum(counts.values()) + 1
    command = [sys.executable, "-m", "speechkit", "serve", *counts, "--port", "0"]
    command += ["--max-sessions", str(most), "--max-connections", str(most)]
    wrong = 0
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as server:
        assert server.stdout is not None
        url = json.loads(server.stdout.readline())["url"].replace("http", "ws")
        began = memory_bytes(server.pid)
        try:
            found = asyncio.run(everyone(url, counts, sound))
            ended = memory_bytes(server.pid)
        finally:
            server.terminate()
    for name, clients in found.items():
        expected = events(name, sound)
        others = sum(rows != expected for rows, _ in clients)
        delays_ms = 1000 * np.concatenate([delays for _, delays in clients])
        p50, p99 = np.percentile(delays_ms, (50, 99)) if len(delays_ms) else (np.nan, np.nan)
        print(
            f"{name}: {len(clients)} connections, {len(delays_ms)} events, added delay p50 "
            f"{p50:.1f} ms, p99 {p99:.1f} ms; {others} clients with other events"
        )
        wrong += others
    print(f"memory: {began / MIB:.0f} MiB after start, {ended / MIB:.0f} MiB at the end")
    return wrong


def memory_bytes(process: int) -> int:
    """The memory of a process on Linux, without what is swapped out."""
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def spoken(seconds: float) -> Sound:
    """Recordings with pauses, repeated for so many seconds."""
    parts: list[NDArray[np.float32]] = []
    length = 0
    for path in cycle(sorted(CLIPS.glob("an4*"))):
        parts += [read_samples(path), np.zeros(RATE, np.float32)]
        length += len(parts[-2]) + RATE
        if length >= seconds * RATE:
            break
    found: Sound = (np.concatenate(parts)[: round(seconds * RATE)] * 32767).astype(np.int16)
    return found


def events(name: str, sound: Sound) -> list[dict[str, Any]]:
    """What a session of its own gives."""
    session = sk.stream(name)
    return [to_row(event) for event in session.feed(sound) + session.finish()]


Client = tuple[list[dict[str, Any]], list[float]]
"""The events of a client, and their delays in seconds."""


async def everyone(url: str, counts: dict[str, int], sound: Sound) -> dict[str, list[Client]]:
    """Runs all clients at the same time."""
    total, number = sum(counts.values()), 0
    tasks: dict[str, list[asyncio.Task[Client]]] = {}
    for name, count in counts.items():
        tasks[name] = []
        for _ in range(count):
            coroutine = client(f"{url}/v1/listen?model={name}", sound, number / total)
            tasks[name].append(asyncio.create_task(coroutine))
            number += 1
    return {name: await asyncio.gather(*own) for name, own in tasks.items()}


async def client(url: str, sound: Sound, wait_s: float) -> Client:
    """One client, which begins after `wait_s`."""
    packet = round(PACKET_S * RATE)
    clock = asyncio.get_running_loop().time
    async with connect(url, proxy=None, open_timeout=60, compression=None) as socket:
        await socket.recv()
        await asyncio.sleep(wait_s)
        began_s = clock()
        # when the sample at each packet's end was sent
        sent_s: list[float] = []

        async def send() -> None:
            for at in range(0, len(sound), packet):
                due_s = began_s + (at + packet) / RATE
                await asyncio.sleep(max(0.0, due_s - clock()))
                sent_s.append(clock())
                await socket.send(sound[at : at + packet].tobytes())
            await socket.send('{"type": "end"}')

        sending = asyncio.create_task(send())
        rows, delays = [], []
        async for message in socket:
            row = json.loads(message)
            if row["event"] in ("end", "backlog"):
                continue
            rows.append(row)
            last = min(len(sent_s), round(row["decided_s"] / PACKET_S + 0.499)) - 1
            delays.append(clock() - sent_s[last])
        await sending
    return rows, delays


if __name__ == "__main__":
    main()
