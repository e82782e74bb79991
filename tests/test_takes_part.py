"""No component of any package silently does nothing in a net of the papers: it takes part, or an
error of one line says why it cannot.

Heads, pools, stems and front ends are left out: without them a net has no scores.
"""

import zlib
from collections.abc import Iterator
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import soundfile
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import speechkit as sk
from speechkit import Component, hookimpl
from speechkit.component import Spec
from speechkit.data import Utterance
from speechkit.errors import SpeechkitError
from speechkit.frontend.normalize import fit_statistics
from speechkit.hookspecs import KINDS
from speechkit.models import Net
from speechkit.models.net import PARTS
from speechkit.nn import Chunk, LookAhead, StreamLayer
from speechkit.plugins import Entry, Registry, offered, using
from speechkit.probes import Examples, probe
from speechkit.testing.checks.nets import noise
from speechkit.train import Data, Run, fit
from speechkit.transforms import transform

FAMILIES = {
    "quartznet": partial(sk.QuartzNet, size="5x5"),
    "matchboxnet": partial(sk.MatchboxNet, labels=("a", "b"), size="3x1x64"),
    "marblenet": partial(sk.MarbleNet, labels=("a", "b"), size="3x2x64"),
}
# of all packages that are installed
ENTRIES = list(Registry({}).components())
RATE = 16000
AUDIO = 0.1 * torch.randn(2, 4800, generator=torch.Generator().manual_seed(0))
LENGTHS = torch.tensor([4800, 3000])


def of(*kinds: str) -> Any:
    found = [entry for entry in ENTRIES if entry.kind in kinds]
    name = "{0.kind} {0.qualified_name}".format
    return pytest.mark.parametrize("entry", found, ids=map(name, found))


FAMILY = pytest.mark.parametrize("family", FAMILIES)
EACH = pytest.mark.parametrize(
    "family", [pytest.param("quartznet", marks=pytest.mark.slow), "matchboxnet", "marblenet"]
)


def check_refusal(error: SpeechkitError) -> None:
    """It is one line, and is none of an error within the component."""
    assert "\n" not in str(error)
    assert "SPEECHKIT_TRACEBACK" not in str(error)


def spec_of(entry: Entry, family: str, folder: Path) -> Spec:
    """The component with its example's parameters, and another model where these name one."""
    given, other = dict(entry.component.example), folder / "other"
    named = {"teacher": str(other), "models": [str(other)], "cache": str(folder / "cache")}
    if given.keys() & named.keys():
        sk.save(sk.build(FAMILIES[family](), seed=1), other)
    return Spec(entry.qualified_name, {name: named.get(name, given[name]) for name in given})


class Every(StreamLayer):
    """Every so many frames, in the place of a mixer."""

    def __init__(
        self, channels: int, kernel: int, stride: int, dilation: int, lookahead: LookAhead
    ) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, c: Chunk) -> Chunk:
        return Chunk(c.x[:, :, :: self.stride], c.valid[:, :: self.stride])


class Taken(nn.Module):
    """The channels, from the first again where there are more outputs, in the place of a map."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.taken = torch.arange(c_out) % c_in

    def forward(self, x: Tensor) -> Tensor:
        return x[:, self.taken]


class One(nn.Module):
    """The shortcut, or the body, in the place of a sum."""

    def __init__(self, channels: int, index: int, depth: int, body: bool) -> None:
        super().__init__()
        self.body = body

    def forward(self, shortcut: Tensor, body: Tensor) -> Tensor:
        return body if self.body else shortcut


MADE = {
    "norm": {"nothing": lambda channels: nn.Identity()},
    "channel": {"nothing": Taken},
    "mixer": {"nothing": Every},
    "residual": {"shortcut": partial(One, body=False), "body": partial(One, body=True)},
}
NOTHING = {
    **{kind: tuple(f"tests/{name}" for name in made) for kind, made in MADE.items()},
    "activation": ("core/identity",),
    "block": ("core/skip",),
    "stack": ("core/serial",),
    "normalizer": ("core/none",),
}
"""What does nothing in the place of a component of each kind."""


@pytest.fixture(autouse=True)
def everything() -> Iterator[None]:
    """The process's registry has all packages, and what does nothing."""
    registry, plugin = Registry({}), SimpleNamespace()
    for kind, made in MADE.items():
        listed = [Component(name=n, factory=f, summary="Nothing") for n, f in made.items()]
        setattr(plugin, KINDS[kind], hookimpl(lambda listed=listed: listed))
    registry.add(plugin, "tests")
    with using(registry):
        yield


def net_with(family: str, kind: str, name: str) -> Net:
    """The family's net with a component in its second row or, where a row has none of that kind, in
    the net."""
    if kind == "normalizer":
        return FAMILIES[family](frontend=f"log_mel:normalize={name}")
    parts = [part for part, of_kind in PARTS.items() if of_kind == kind]
    if not parts:
        return FAMILIES[family](**{kind: name})
    rows = list(FAMILIES[family]().blocks)
    rows[1] = replace(rows[1], **{parts[0]: name})
    return replace(FAMILIES[family](), size="custom", blocks=tuple(rows))


def results(config: Net) -> dict[str, Tensor]:
    """The scores and gradients of a net, in training and in evaluation. Weights of one name are the
    same in all nets, and none has its first value, which may be that of a part left out."""
    model = sk.build(config, seed=0)
    for name, weight in model.named_parameters():
        chance = torch.Generator().manual_seed(zlib.crc32(name.encode()))
        weight.data.add_(0.1 * torch.randn(weight.shape, generator=chance))
    fit_statistics(model.frontend, AUDIO)
    found = {}
    for mode in ("training", "evaluation"):
        model.train(mode == "training").zero_grad()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            scores = model(AUDIO, LENGTHS).scores
        scores.square().mean().backward()
        found[f"{mode}: scores"] = scores.detach()
        found |= {
            f"{mode}: {name}": weight.grad
            for name, weight in model.named_parameters()
            if weight.grad is not None
        }
    return found


@cache
def results_without(family: str, kind: str, nothing: str) -> dict[str, Tensor]:
    return results(net_with(family, kind, nothing))


@EACH
@of(*NOTHING)
def test_a_part_of_a_net_takes_part_or_is_refused(entry: Entry, family: str) -> None:
    try:
        found = results(net_with(family, entry.kind, entry.qualified_name))
    except SpeechkitError as error:
        check_refusal(error)
        return
    for nothing in NOTHING[entry.kind]:
        without = results_without(family, entry.kind, nothing)
        same = all(torch.equal(found[name], without[name]) for name in found.keys() & without)
        assert same == (entry.qualified_name == nothing), nothing


@of("augmentation")
def test_an_augmentation_changes_an_utterance(entry: Entry, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "noise.wav", AUDIO[0], RATE)
    known = {"sample_rate": RATE, "max_duration_s": 10.0, "source": str(tmp_path)}
    given = {**entry.component.example, **offered(entry.factory(), **known)}
    change = entry.make(**given)

    def changed(seed: int) -> bool:
        chance = torch.Generator().manual_seed(seed)
        if change.domain == "utterances":
            utterances = [Utterance(audio=Path("noise.wav"), duration_s=1.0, text="a")] * 9
            return bool(change(0, utterances, chance) != [0])
        x = AUDIO[:1] if change.domain == "audio" else AUDIO[0].view(64, -1)
        y, length = change(x, x.shape[1], chance)
        return length != x.shape[1] or not torch.equal(y[:, :length], x)

    assert any(map(changed, range(20)))


def weights_of(run: Run, out: Path) -> dict[str, Tensor]:
    fit(run, out, device="cpu")
    return load_file(out / "last" / "model.safetensors")


@pytest.mark.slow
@FAMILY
@of("method")
def test_a_method_changes_what_is_learned_or_is_refused(
    entry: Entry, family: str, tmp_path: Path
) -> None:
    data = Data(train=noise(tmp_path), dev=noise(tmp_path), batch_size=2)
    plain = Run(model=FAMILIES[family](), data=data, steps=2, eval_every=2, save_every=2)
    with_method = replace(
        plain, method=(Spec(entry.qualified_name, dict(entry.component.example)),)
    )
    try:
        found = weights_of(with_method, tmp_path / "with")
    except SpeechkitError as error:
        check_refusal(error)
        return
    without = weights_of(plain, tmp_path / "without")
    assert any(not torch.equal(found[name], value) for name, value in without.items())


@EACH
@of("transform")
def test_a_transform_changes_a_model_or_is_refused(
    entry: Entry, family: str, tmp_path: Path
) -> None:
    model = sk.build(FAMILIES[family](), seed=0).eval()
    spec = spec_of(entry, family, tmp_path)
    try:
        made, _ = transform(model, [spec], Examples(model, noise(tmp_path)))
    except SpeechkitError as error:
        check_refusal(error)
        return
    before, after = model.state_dict(), made.state_dict()
    same = before.keys() == after.keys() and all(
        torch.equal(value, after[name]) for name, value in before.items()
    )
    assert not same or made.config != model.config


@EACH
@of("probe")
def test_a_probe_finds_something_or_is_refused(entry: Entry, family: str, tmp_path: Path) -> None:
    model = sk.build(FAMILIES[family](), seed=0).eval()
    spec = spec_of(entry, family, tmp_path)
    try:
        (found,) = probe(model, [spec], Examples(model, noise(tmp_path))).values()
    except SpeechkitError as error:
        check_refusal(error)
        return
    assert found
    assert all(value.isfinite().all() for value in found.values())
