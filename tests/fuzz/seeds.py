"""Sound inputs to begin with, made anew for each run; `seeds/` keeps those that once fell."""

import gzip
import io
import json
import runpy
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import safetensors.numpy
import soundfile
import yaml

import speechkit as sk
from speechkit.data import Utterance, read_audio, write_manifest
from speechkit.data.shards import write_shards
from speechkit.io.folders import CONFIG, WEIGHTS
from speechkit.streaming.session import Stream
from speechkit.tasks.plans import plan_of

NEMO = runpy.run_path(str(Path(__file__).parents[1] / "importers" / "conftest.py"))
"""What makes archives in the tests of their reader."""
KEPT = Path(__file__).with_name("seeds")
CLIP = Path(sk.__file__).parent / "bundled" / "clips" / "clips.jsonl"
BLOCKS = (
    sk.Block(channels=8, kernel=5, stride=2),
    sk.Block(channels=8, kernel=5, repeat=2, residual=True),
    sk.Block(channels=8, kernel=1, separable=False),
)
FRONTEND = "log_mel:n_mels=16,normalize=running"
NETS = {
    "letters": sk.QuartzNet(blocks=BLOCKS, frontend=FRONTEND),
    "words": sk.MatchboxNet(labels=("low", "high"), blocks=BLOCKS, frontend=FRONTEND),
    "speech": sk.MarbleNet(frame_level=True, blocks=BLOCKS, frontend=FRONTEND),
}
ARPA = """\\data\\
ngram 1=4
ngram 2=3

\\1-grams:
-0.9\t<s>\t-0.3
-0.7\tone\t-0.2
-0.7\ttwo\t-0.1
-1.2\t</s>

\\2-grams:
-0.2\t<s> one
-0.3\tone two
-0.4\ttwo </s>

\\end\\
"""


def kept(target: str) -> list[bytes]:
    """The inputs of a target that once fell."""
    return [path.read_bytes() for path in sorted((KEPT / target).glob("*"))]


def sound() -> np.ndarray:
    """A bundled clip, at 8 kHz."""
    first = json.loads(CLIP.read_text(encoding="utf-8").splitlines()[0])
    return read_audio(CLIP.parent / first["audio_filepath"], target_rate=8000).numpy()


@cache
def audio() -> list[bytes]:
    """The clip in what libsndfile writes, mono and stereo."""
    forms = [("WAV", "PCM_16"), ("WAV", "FLOAT"), ("WAV", "ULAW"), ("FLAC", "PCM_16")]
    forms += [("OGG", "VORBIS"), ("MP3", "MPEG_LAYER_III"), ("AIFF", "PCM_16"), ("W64", "PCM_16")]
    forms += [("WAVEX", "PCM_24"), ("CAF", "PCM_16"), ("AU", "PCM_16"), ("OGG", "OPUS")]
    made = []
    for form, subtype in forms:
        for channels in (1, 2):
            file = io.BytesIO()
            x = np.stack([sound()] * channels, axis=1)
            soundfile.write(file, x, 8000, format=form, subtype=subtype)
            made.append(file.getvalue())
    return made


@cache
def models(folder: Path) -> Path:
    """A folder with the tiny models of `NETS`, and a recording `clip.wav`."""
    for name, net in NETS.items():
        sk.save(sk.build(net), folder / name)
    soundfile.write(folder / "clip.wav", sound(), 8000)
    return folder


def configs(folder: Path) -> list[bytes]:
    """The descriptions of model folders."""
    bundled = sorted((CLIP.parents[1] / "models").iterdir())
    of = [*(models(folder) / name for name in NETS), *bundled]
    return [(one / CONFIG).read_bytes() for one in of]


def weights(folder: Path) -> list[bytes]:
    """The weights of the tiny net for text."""
    return [(models(folder) / "letters" / WEIGHTS).read_bytes()]


def plans(folder: Path) -> list[bytes]:
    """The plans of the tiny nets, with features that are not normalised, in float32 and int8."""
    made = []
    for name, net in NETS.items():
        path = folder / f"{name}.safetensors"
        plain = replace(net, frontend="log_mel:n_mels=16,normalize=none")
        for precision in ("float32", "int8"):
            plan_of(sk.build(plain).eval(), precision).save(path)
            made.append(path.read_bytes())
    return made


def archives(folder: Path) -> list[bytes]:
    """NeMo's archive of a tiny net, plain and gzip."""
    return [
        packed(folder / "tiny.nemo", NEMO["tiny"](), mode).read_bytes() for mode in ("w", "w:gz")
    ]


def packed(path: Path, config: object, mode: str = "w") -> Path:
    """An archive of tiny weights and a config, a dict or text."""
    weights = NEMO["golden_weights"](NEMO["tiny"]())
    made: Path = NEMO["pack"](path, config, weights, mode)
    return made


def config_of_archive() -> list[bytes]:
    """The config in that archive."""
    return [yaml.safe_dump(NEMO["tiny"](), sort_keys=False).encode()]


def arpa() -> list[bytes]:
    """A language model, plain and gzip."""
    return [ARPA.encode(), gzip.compress(ARPA.encode(), mtime=0)]


def utterances(folder: Path) -> list[Utterance]:
    """What a manifest lists: the recording with a text, a label and segments."""
    return [
        Utterance(
            audio=models(folder) / "clip.wav",
            duration_s=0.29,
            text="two",
            label="low",
            segments=((0.05, 0.2),),
            speaker=speaker,
        )
        for speaker in "abc"
    ]


def manifests(folder: Path) -> list[bytes]:
    """Three lines; their path is absolute, so that they may lie anywhere."""
    clip = str(models(folder) / "clip.wav")
    write_manifest(folder / "m.jsonl", utterances(folder))
    lines = (folder / "m.jsonl").read_bytes()
    return [lines.replace(b'"clip.wav"', json.dumps(clip).encode())]


def shards(folder: Path) -> list[bytes]:
    """A shard with these utterances."""
    (path,) = write_shards(utterances(folder), folder / "shards", 1.0)
    return [path.read_bytes()]


def states(folder: Path) -> list[bytes]:
    """The states of sessions in the middle of the recording, for each net."""
    made = []
    for session in sessions(folder):
        session.feed(sound())
        made.append(safetensors.numpy.save(session.state))
    return made


def sessions(folder: Path) -> list[Stream]:
    """A new session of each net; the one that reads text has the one that finds speech in front."""
    nets = {name: sk.load(models(folder) / name) for name in NETS}
    gates = {"letters": {"vad": nets["speech"]}}
    return [sk.stream(net, **gates.get(name, {})) for name, net in nets.items()]
