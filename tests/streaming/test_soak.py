"""Hours of sound through one session, in the memory of a minute. `make soak` runs it."""

import time
from pathlib import Path

import pytest

import speechkit as sk

from .test_bundled import recording

HOURS = 6
WARM_UP_S = 600
DRIFT_MB = 2


def resident_mb() -> float:
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


@pytest.mark.soak
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's /proc")
def test_memory_stays_flat_for_hours(capsys: pytest.CaptureFixture[str]) -> None:
    model = sk.load("vad")
    x = recording(model)
    stream = sk.stream(model)
    heard_s, events, before_mb = 0.0, 0, 0.0
    began_s = time.monotonic()
    while heard_s < HOURS * 3600:
        events += len(stream.feed(x))
        heard_s += len(x) / model.sample_rate
        if not before_mb and heard_s >= WARM_UP_S:
            before_mb = resident_mb()
    events += len(stream.finish())
    drift_mb = resident_mb() - before_mb
    took_s = time.monotonic() - began_s
    with capsys.disabled():
        print(
            f"\n{heard_s / 3600:.2f} h in {took_s / 60:.1f} min, {heard_s / took_s:.1f} times real "
            f"time, {events} events, memory {before_mb:.1f} MB {drift_mb:+.2f} MB"
        )
    assert events > 0
    assert drift_mb < DRIFT_MB
