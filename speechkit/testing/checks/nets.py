"""Checks of components for whole nets: training methods, exporters, probes and transforms."""

import inspect
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any
from unittest import SkipTest

import soundfile
import torch
import torch.nn.functional as F
from torch import Tensor

from speechkit.checkpoint import load, read_tensors, save
from speechkit.component import Spec
from speechkit.data import Batch, Utterance, write_manifest
from speechkit.errors import SpeechkitError
from speechkit.export import example_of
from speechkit.models import Block, Model, QuartzNet, build
from speechkit.plugins import CORE, Entry, registry
from speechkit.probes import Examples, probe
from speechkit.testing.checks.pure import generators, same
from speechkit.testing.runs import fit_in_parts, fit_in_two
from speechkit.testing.specimen import SAMPLE_RATE
from speechkit.testing.stream import assert_close, check_stream
from speechkit.train import Data, Run, fit
from speechkit.transforms import transform

LABELS = (" ", "a", "b")
BLOCKS = (
    Block(channels=8, kernel=5, stride=2),
    Block(channels=8, kernel=5, repeat=2, residual=True),
    Block(channels=8, kernel=1, separable=False),
)
FRONTEND = "log_mel:n_mels=16,normalize=running"
UTTERANCES, STEPS = 4, 2


def check_method_resumes(entry: Entry) -> None:
    """A run of two steps on noise has bitwise equal results if it is stopped between them."""
    with tempfile.TemporaryDirectory() as folder, torch.random.fork_rng(devices=[]):
        run = _run(entry, Path(folder))
        at_once, halted = Path(folder) / "at_once", Path(folder) / "halted"
        with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            fit(run, at_once, device="cpu")
            fit_in_parts(run, halted, at=STEPS)
        expected, found = _tensors(at_once), _tensors(halted)
        assert expected.keys() == found.keys(), "a run that was stopped saves other tensors"
        for name, value in expected.items():
            assert torch.equal(value, found[name]), (
                f"{name} differs where a run was stopped after a step and went on; keep state in "
                "parameters and buffers of an nn.Module, and draw numbers from the seed and step"
            )


def check_method_in_two_processes(entry: Entry) -> None:
    """A run of two steps in two processes has bitwise equal results if it is done in two runs.

    Then both processes go on with the weights of the first. Results differ where a method changes
    weights otherwise in each process.
    """
    with tempfile.TemporaryDirectory() as folder:
        run = replace(_run(entry, Path(folder)), devices=2, schedule="constant")
        half = replace(run, steps=run.steps // 2)
        parts = (run, "at_once", False), (half, "halted", False), (run, "halted", True)
        ended = fit_in_two(Path(folder), *parts, plugins=_plugins_of(entry))
        assert ended.returncode == 0, f"two processes: {_reason(ended.stderr)}"
        expected, found = _tensors(Path(folder) / "at_once"), _tensors(Path(folder) / "halted")
        for name, value in expected.items():
            assert torch.equal(value, found[name]), (
                f"{name} differs between the two processes of a run; draw numbers from "
                "self.generator(step), and gather what is computed from a process's own batch"
            )


def _plugins_of(entry: Entry) -> str:
    """SPEECHKIT_PLUGINS for a process that needs the entry's plugin alone."""
    if entry.plugin == CORE:
        return ""
    origin = registry().used_by([(entry.kind, Spec(entry.qualified_name))])[entry.plugin]
    if not origin.distribution and not origin.file:
        raise SkipTest(f"plugin {entry.plugin} is neither installed nor a file")
    files = (str(path) for path in registry().files if path.stem == entry.plugin)
    return next(files, entry.plugin)


def _reason(stderr: str) -> str:
    """The line of an error that a process printed."""
    lines = [line for line in stderr.splitlines() if "Error" in line]
    return lines[0] if lines else stderr[-200:]


def check_export_is_written(entry: Entry) -> None:
    """It takes what `speechkit export` gives, names its suffix, writes a file and leaves model and
    example as they were; a difference that it returns is a small one."""
    factory = entry.factory()
    taken = inspect.signature(factory).parameters
    for given in ("streaming", "features"):
        takes = given in taken or any(p.kind is p.VAR_KEYWORD for p in taken.values())
        assert takes, f"it takes {list(taken)}; `speechkit export` gives {given} too"
    suffix = getattr(factory, "suffix", "")
    assert suffix.startswith("."), f"suffix is {suffix!r}; give one such as '.onnx'"
    with suppress(SpeechkitError):
        # it may be refused, but with an error of one line
        factory(**{**entry.component.example, "streaming": True, "features": True})
    model = _model(entry)
    example = example_of(model)
    before = [given.clone() for given in example]
    # exporting the front end takes most of the time
    write = factory(**{"streaming": False, "features": False, **entry.component.example})
    with tempfile.TemporaryDirectory() as folder, _left_alone(model):
        path = Path(folder) / f"model{suffix}"
        difference = write(model, example, path)
        assert path.is_file(), "it writes no file at the path that it is given"
        assert path.stat().st_size, "the file is empty"
    assert same(before, list(example)), "it changes the sounds that it is given"
    if difference is not None:
        assert 0 <= float(difference) < 0.01, f"the file's scores are off by {difference}"


def check_probe_finds_the_same(entry: Entry) -> None:
    """A probe returns equal tensors the second time, and with any padding of the rows."""
    model = _model(entry)
    with tempfile.TemporaryDirectory() as folder:
        manifest = noise(Path(folder))
        kinds = (Examples, Examples, _PaddedExamples)
        first, again, padded = (
            probe(model, [_spec(entry)], kind(model, manifest))[str(_spec(entry))] for kind in kinds
        )
    assert same(first, again), "a second look finds something else"
    assert first.keys() == padded.keys(), "padding changes the names of what it finds"
    for name, value in first.items():
        dtype = torch.promote_types(value.dtype, torch.float64)
        assert_close(f"{name} with more padding", value.to(dtype), padded[name].to(dtype), 1e-4)


def check_transform_makes_a_model(entry: Entry) -> None:
    """The given model does not change; the new one saves, loads and streams; the report is JSON."""
    model = _model(entry)
    with tempfile.TemporaryDirectory() as folder:
        with _left_alone(model):
            made, _ = transform(model, [_spec(entry)], Examples(model, noise(Path(folder))))
        save(made, Path(folder) / "made")
        loaded = load(Path(folder) / "made")
    sound = 0.1 * torch.randn(1, SAMPLE_RATE // 2, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert_close("the scores once loaded", made(sound).scores, loaded(sound).scores, rtol=0)
    check_stream(loaded.stream_layer(), sound[:, None], chunks=(7,), rtol=1e-4)


class _PaddedExamples(Examples):
    """The same examples, padded with half a second of loud noise after each row."""

    @property
    def batches(self) -> Iterator[Batch]:
        for batch in super().batches:
            audio = F.pad(batch.audio, (0, SAMPLE_RATE // 2))
            padding = torch.arange(audio.shape[1]) >= batch.lengths[:, None]
            yield batch._replace(audio=audio.masked_fill(padding, 0.5))


def _spec(entry: Entry) -> Spec:
    return Spec(entry.qualified_name, dict(entry.component.example))


def tiny_net(**fields: Any) -> QuartzNet:
    """A tiny net that streams, with other fields."""
    return QuartzNet(**{"labels": LABELS, "blocks": BLOCKS, "frontend": FRONTEND, **fields})


def _model(entry: Entry) -> Model:
    with torch.random.fork_rng(devices=[]):
        return build(tiny_net(**entry.component.needs)).eval()


def _run(entry: Entry, folder: Path) -> Run:
    """Two steps with the method on noise."""
    manifest = noise(folder)
    return Run(
        model=tiny_net(**entry.component.needs),
        data=Data(train=manifest, dev=manifest, batch_size=UTTERANCES // 2),
        steps=STEPS,
        method=(_spec(entry),),
        ema=0.5,
        eval_every=STEPS,
        save_every=1,
    )


def noise(folder: Path) -> Path:
    """The manifest of noise of different lengths, with a target for every task."""
    chance = torch.Generator().manual_seed(0)
    utterances = []
    for index in range(UTTERANCES):
        path = folder / f"{index}.wav"
        sound = 0.1 * torch.randn(SAMPLE_RATE // 2 - 1000 * index, generator=chance)
        soundfile.write(path, sound.numpy(), SAMPLE_RATE)
        utterances.append(
            Utterance(
                audio=path,
                duration_s=len(sound) / SAMPLE_RATE,
                text="ab" if index % 2 else "a b",
                phones="a b",
                label="ab"[index % 2],
                segments=((0.1, 0.3),),
                speaker=f"s{index % 2}",
            )
        )
    manifest = folder / "noise.jsonl"
    write_manifest(manifest, utterances)
    return manifest


def _tensors(folder: Path) -> dict[str, Tensor]:
    """All tensors that a run saved."""
    return {
        f"{path.relative_to(folder)}: {name}": value
        for path in sorted(folder.rglob("*.safetensors"))
        for name, value in read_tensors(path).items()
    }


@contextmanager
def _left_alone(model: Model) -> Iterator[None]:
    """Raises AssertionError where the model or a generator is not as it was before."""
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    training, before = [module.training for module in model.modules()], generators()
    hooks = [len(module._forward_hooks) for module in model.modules()]
    yield
    assert same(weights, dict(model.state_dict())), "it changes the model's weights"
    modes = [module.training for module in model.modules()]
    assert modes == training, "it leaves the model in training or evaluation, as it was not"
    assert hooks == [len(module._forward_hooks) for module in model.modules()], "it leaves hooks"
    for name, state in generators().items():
        assert same(state, before[name]), f"it draws from {name}'s global generator"
