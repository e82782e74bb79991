"""What works on whole nets: training methods, exporters and probes."""

import inspect
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from types import SimpleNamespace

import soundfile
import torch
from torch import Tensor

from speechkit.checkpoint import read_tensors
from speechkit.component import Spec
from speechkit.data import Batch, Utterance, write_manifest
from speechkit.export import example_of, export
from speechkit.hookspecs import hookimpl
from speechkit.models import Block, Model, QuartzNet, build
from speechkit.plugins import Entry, registry
from speechkit.testing.checks.pure import generators, same
from speechkit.testing.specimen import SAMPLE_RATE
from speechkit.train import Data, Run, fit

LABELS = (" ", "a", "b")
BLOCKS = (
    Block(channels=8, kernel=5, stride=2),
    Block(channels=8, kernel=5, repeat=2, residual=True),
    Block(channels=8, kernel=1, separable=False),
)
FRONTEND = "log_mel:n_mels=16,normalize=running"
UTTERANCES, STEPS = 4, 2


def check_method_resumes(entry: Entry) -> None:
    """A run of two steps on noise ends in the same bits where it is stopped between them."""
    with tempfile.TemporaryDirectory() as folder, torch.random.fork_rng(devices=[]):
        run = _run(entry, Path(folder))
        at_once, halted = Path(folder) / "at_once", Path(folder) / "halted"
        with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            fit(run, at_once, device="cpu")
            with _stopped_before_saving(STEPS):
                fit(run, halted, device="cpu")
            fit(run, halted, resume=True, device="cpu")
        expected, found = _tensors(at_once), _tensors(halted)
        assert expected.keys() == found.keys(), "a run that was stopped saves other tensors"
        for name, value in expected.items():
            assert torch.equal(value, found[name]), (
                f"{name} differs where a run was stopped after a step and went on; keep state in "
                "parameters and buffers of an nn.Module, and draw numbers from the seed and step"
            )


def check_export_is_written(entry: Entry) -> None:
    """It takes what `speechkit export` gives, names its suffix, writes a file and leaves the model
    as it was; a difference that it returns is a small one."""
    factory = entry.factory()
    taken = inspect.signature(factory).parameters
    for given in ("streaming", "features"):
        takes = given in taken or any(p.kind is p.VAR_KEYWORD for p in taken.values())
        assert takes, f"it takes {list(taken)}; `speechkit export` gives {given} too"
    suffix = getattr(factory, "suffix", "")
    assert suffix.startswith("."), f"suffix is {suffix!r}; give one such as '.onnx'"
    model = _model(entry)
    with tempfile.TemporaryDirectory() as folder, _left_alone(model):
        path = Path(folder) / f"model{suffix}"
        # a front end in the file takes an exporter most of its time
        params = {"streaming": False, "features": False, **entry.component.example}
        done = export(model, path, Spec(entry.qualified_name, params))
        assert done.bytes, "the file is empty"
        close = done.difference is None or 0 <= done.difference < 0.01
        assert close, f"the file's scores are off by {done.difference:.1e} of the largest"


def check_probe_only_looks(entry: Entry) -> None:
    """Tensors by name, the same twice and whatever padding holds, of a model left as it was."""
    probe, model = entry.factory()(**entry.component.example), _model(entry)
    audio, lengths = example_of(model)
    padding = torch.arange(audio.shape[1]) >= lengths[:, None]
    found = []
    with _left_alone(model):
        for sound in (audio, audio, audio.masked_fill(padding, 0.5)):
            names = [str(row) for row in range(len(sound))]
            batch = Batch(sound, lengths, (), None, list(range(len(sound))), names)
            found.append(probe(model, batch))
    first, again, padded = found
    for name, value in first.items():
        assert isinstance(value, Tensor), f"{name} is a {type(value).__name__}, not a tensor"
        assert not value.requires_grad, f"{name} has a gradient"
    assert same(first, again), "the same batch gives something else the second time"
    assert same(first, padded), "what padding holds changes what it gives"


def _net(entry: Entry) -> QuartzNet:
    """A tiny net that has what the component needs."""
    return QuartzNet(
        **{"labels": LABELS, "blocks": BLOCKS, "frontend": FRONTEND, **entry.component.needs}
    )


def _model(entry: Entry) -> Model:
    with torch.random.fork_rng(devices=[]):
        return build(_net(entry)).eval()


def _run(entry: Entry, folder: Path) -> Run:
    """Two steps with the method on noise, which is said to be both letters and phones."""
    chance = torch.Generator().manual_seed(0)
    utterances = []
    for index in range(UTTERANCES):
        path = folder / f"{index}.wav"
        noise = 0.1 * torch.randn(SAMPLE_RATE // 2, generator=chance)
        soundfile.write(path, noise.numpy(), SAMPLE_RATE)
        utterances.append(Utterance(audio=path, duration_s=0.5, text="ab", phones="a b"))
    manifest = folder / "noise.jsonl"
    write_manifest(manifest, utterances)
    return Run(
        model=_net(entry),
        data=Data(train=manifest, dev=manifest, batch_size=UTTERANCES // 2),
        steps=STEPS,
        method=(Spec(entry.qualified_name, dict(entry.component.example)),),
        ema=0.5,
        eval_every=STEPS,
        save_every=1,
    )


class _StopError(Exception):
    pass


@contextmanager
def _stopped_before_saving(at: int) -> Iterator[None]:
    """Ends a run in the hook behind a step, which comes before that step is saved."""

    @hookimpl
    def speechkit_run_step(run: Run, step: int, loss: float) -> None:
        if step == at:
            raise _StopError

    manager = registry().manager
    stopper = SimpleNamespace(speechkit_run_step=speechkit_run_step)
    manager.register(stopper)
    try:
        yield
    except _StopError:
        pass
    finally:
        manager.unregister(stopper)


def _tensors(folder: Path) -> dict[str, Tensor]:
    """All that a run saved."""
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
