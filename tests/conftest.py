"""What the tests share: one thread, only the core's components, tiny nets and tiny corpora."""

import os
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

# before torch is imported, and for the processes that tests start
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("SPEECHKIT_PLUGINS", "")

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import settings

from speechkit.component import Component
from speechkit.data import Utterance, write_manifest
from speechkit.hookspecs import hookimpl
from speechkit.models import Block, MarbleNet, MatchboxNet, Model, Net, QuartzNet, build
from speechkit.native import libraries
from speechkit.nn import Serial, StreamLayer
from speechkit.plans.plan import Plan
from speechkit.plugins import Registry, using
from speechkit.tasks.plans import plan_of

torch.set_num_threads(1)
settings.register_profile("repeatable", derandomize=True, deadline=None)
# of `make drawn`
settings.register_profile("seeded", derandomize=False, deadline=None)
settings.load_profile("repeatable")

RATE = 16000
BLOCKS = (
    Block(channels=8, kernel=5, stride=2),
    Block(channels=8, kernel=5, repeat=2, residual=True),
    Block(channels=8, kernel=1, separable=False),
)
FRONTEND = "log_mel:n_mels=16,normalize=running"


@pytest.fixture(scope="session", autouse=True)
def built_kernels() -> None:
    """The C++ is there before a test looks at what is printed, or at the time it takes."""
    for source in sorted(Path(libraries.__file__).parents[1].rglob("*.cpp")):
        libraries.load(source)


@pytest.fixture
def poisoned_memory() -> Iterator[None]:
    """Memory from torch is full of NaN, so that what is read before it is written shows."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    assert torch.utils.deterministic.fill_uninitialized_memory
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


@pytest.fixture
def nets() -> dict[str, Net]:
    """A tiny net that streams for each task."""
    return {
        "ctc": QuartzNet(labels=tuple(" hilo"), blocks=BLOCKS, frontend=FRONTEND),
        "clip": MatchboxNet(labels=("low", "high"), blocks=BLOCKS, frontend=FRONTEND),
        "frame": MarbleNet(frame_level=True, blocks=BLOCKS, frontend=FRONTEND),
    }


@pytest.fixture(params=["ctc", "clip", "frame"])
def net(request: pytest.FixtureRequest, nets: dict[str, Net]) -> Net:
    """Each of `nets` in turn."""
    return nets[request.param]


@pytest.fixture
def model(net: Net) -> Model:
    """A model of each of `nets`."""
    return build(net).eval()


@pytest.fixture
def plan(model: Model) -> Plan:
    """The plan of `model`."""
    return plan_of(model)


@pytest.fixture
def corpus(tmp_path: Path) -> Callable[..., Path]:
    """`corpus(count)` writes tones with labels, texts and segments, and gives their manifest."""

    def write(count: int = 8, name: str = "train", equal: bool = False) -> Path:
        chance = np.random.default_rng(0)
        utterances = []
        for i in range(count):
            seconds = 0.4 if equal else 0.4 + 0.02 * i
            at_s = np.arange(int(seconds * RATE)) / RATE
            sound = 0.3 * np.sin(2 * np.pi * (300 if i % 2 else 2000) * at_s)
            sound[at_s < 0.1] = 0
            path = tmp_path / f"{name}{i}.wav"
            soundfile.write(path, sound + chance.normal(0, 0.01, len(sound)), RATE)
            utterances.append(
                Utterance(
                    audio=path,
                    duration_s=len(sound) / RATE,
                    text="lo" if i % 2 else "hi",
                    label="low" if i % 2 else "high",
                    segments=((0.1, 0.4),),
                )
            )
        write_manifest(tmp_path / f"{name}.jsonl", utterances)
        return tmp_path / f"{name}.jsonl"

    return write


class Served(ThreadingHTTPServer):
    """Files on this machine's own address, by path, and what goes wrong with each.

    `how[path]` may hold `status`, `to` (a redirect), `cut` (the bytes that are sent of a response),
    `ranges`, `length`, `body` (False leaves each out), `headers`. `asked` are the ranges asked for.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.files: dict[str, bytes] = {}
        self.how: dict[str, dict[str, Any]] = {}
        self.asked: list[str | None] = []
        self.ended = threading.Event()
        self.url = f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Prints nothing where a client hangs up."""


class _Answer(BaseHTTPRequestHandler):
    server: Served

    def do_GET(self) -> None:
        how, data = self.server.how.get(self.path, {}), self.server.files.get(self.path)
        given = self.headers["Range"]
        self.server.asked.append(given)
        headers = {"ETag": f'"{hash(data)}"', "Last-Modified": "today", **how.get("headers", {})}
        status = how.get("status", 200 if data is not None else 404)
        if "to" in how:
            status, headers["Location"] = how.get("status", 302), how["to"]
        start = 0
        if given and how.get("ranges", True) and self.headers["If-Range"] == headers["ETag"]:
            status, start = how.get("status", 206), int(given[6:-1])
            headers.setdefault("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        body = (data or b"")[start:]
        if how.get("length", True):
            headers["Content-Length"] = str(len(body))
        self.send_response(status)
        for name, value in headers.items():
            if value is not None:
                self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body[: how.get("cut")])
        if not how.get("body", True):
            self.wfile.flush()
            self.server.ended.wait()

    def log_message(self, *args: Any) -> None:
        """Prints nothing."""


@pytest.fixture
def served() -> Iterator[Served]:
    """A server of files on this machine."""
    with Served() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.ended.set()
        server.shutdown()
        thread.join()


@pytest.fixture
def other_stack() -> Iterator[str]:
    """The name of a stack that has its blocks in two parts."""

    def two(blocks: list[StreamLayer]) -> StreamLayer:
        half = len(blocks) // 2
        return Serial(first=Serial(*blocks[:half]), second=Serial(*blocks[half:]))

    listed = [Component(name="two", factory=two, summary="Two halves")]
    registry = Registry({"SPEECHKIT_PLUGINS": ""})
    registry.add(SimpleNamespace(speechkit_stacks=hookimpl(lambda: listed)), "ours")
    with using(registry):
        yield "two"
