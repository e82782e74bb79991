"""An exported file says what the model says, about itself too, or it is not written."""

import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import speechkit as sk
from speechkit.cli.main import run
from speechkit.component import Spec
from speechkit.data import Utterance, read_audio, read_manifest, write_manifest
from speechkit.errors import (
    CheckpointError,
    ComponentError,
    ConfigError,
    MissingExtraError,
    StreamError,
)
from speechkit.export import EXAMPLE_S, Exported, example_of, export, native
from speechkit.export import onnx as onnx_form
from speechkit.export.check import check
from speechkit.export.graph import Graph, graph_of
from speechkit.infer import stream_scores
from speechkit.io.folders import PLAN
from speechkit.models import Net
from speechkit.models.profile import profile
from speechkit.nn import Chunk, FrameWise, Serial, StreamLayer
from speechkit.plans.plan import Plan, load_plan
from speechkit.plans.program import LoweringError
from speechkit.plans.scorer import PlanScorer
from speechkit.plans.source import as_plan
from speechkit.plugins import Registry, using
from speechkit.scoring import ModelScorer
from speechkit.tasks.plans import about_of, plan_of
from speechkit.testing import assert_close

PLAIN = "log_mel:n_mels=16,normalize=none"
BUNDLED = Path(sk.__file__).parent / "bundled"


def spec(name: str, **params: bool) -> Spec:
    return Spec(name, params)


def onnx_metadata(path: Path) -> dict[str, Any]:
    import onnx

    properties = {p.key: p.value for p in onnx.load(path).metadata_props}
    found: dict[str, Any] = json.loads(properties["speechkit"])
    return found


@pytest.fixture(scope="module")
def clips() -> list[Utterance]:
    return read_manifest(BUNDLED / "clips" / "clips.jsonl")


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory, clips: list[Utterance]) -> Exported:
    """The bundled model as an ONNX file, tried on the bundled recordings."""
    return export(sk.load("digits"), tmp_path_factory.mktemp("digits") / "digits.onnx", audio=clips)


def test_onnx_takes_batches_of_any_size_and_length(digits: Exported) -> None:
    assert digits.difference is not None
    assert digits.difference < 1e-5
    model, run = sk.load("digits"), onnx_form.runner(digits.path)
    for lengths in ([4000], [80, 2000, 12345, 9999]):
        audio = torch.randn(len(lengths), max(lengths)) * 0.1
        with torch.no_grad():
            scores, ends = model(audio, torch.tensor(lengths))
        got = run([audio, torch.tensor(lengths)])
        assert_close("scores", scores, got[0], 1e-5)
        assert torch.equal(ends, got[1])


def test_onnx_says_what_a_reader_must_know(digits: Exported) -> None:
    model, row = sk.load("digits"), onnx_metadata(digits.path)
    assert isinstance(model.config, sk.MatchboxNet)
    assert row["format"] == 1
    assert (row["task"], row["input"], row["streaming"]) == ("clip", "audio", False)
    assert row["labels"] == list(model.labels)
    assert (row["sample_rate"], row["frame_s"]) == (8000, model.frame_s)
    assert row["spotting"]["threshold"] == model.config.spotting.threshold


def test_onnx_is_one_file_that_names_no_place(digits: Exported) -> None:
    assert [path.name for path in digits.path.parent.iterdir()] == ["digits.onnx"]
    assert digits.bytes == digits.path.stat().st_size < 800_000
    assert str(Path(sk.__file__).parent).encode() not in digits.path.read_bytes()


def test_int8_is_smaller_and_predicts_the_same(
    digits: Exported, clips: list[Utterance], tmp_path: Path
) -> None:
    done = export(sk.load("digits"), tmp_path / "int8.onnx", spec("onnx", int8=True), clips)
    assert done.bytes < 0.65 * digits.bytes
    assert done.difference is not None
    assert 1e-4 < done.difference < 0.05
    audio, lengths = example_of(sk.load("digits"), clips)
    best = [onnx_form.runner(p)([audio, lengths])[0].argmax(1) for p in (done.path, digits.path)]
    assert torch.equal(*best)
    assert onnx_metadata(done.path)["labels"] == onnx_metadata(digits.path)["labels"]


@pytest.fixture(scope="module")
def streamed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One block of the bundled model's stream as an ONNX file."""
    path = tmp_path_factory.mktemp("digits") / "stream.onnx"
    export(sk.load("digits"), path, spec("onnx", streaming=True))
    return path


def test_an_onnx_stream_gives_the_sessions_scores(streamed: Path, clips: list[Utterance]) -> None:
    model, run, row = sk.load("digits"), onnx_form.runner(streamed), onnx_metadata(streamed)
    session = sk.stream(model)
    assert row["latency_s"] == pytest.approx(session.latency_s)
    states = [
        torch.zeros(state["shape"], dtype=torch.bool if state["bool"] else torch.float32)
        for state in row["states"]
    ]
    audio, lengths = example_of(model, clips[:1])
    length, block = int(lengths[0]), row["block"]
    count = -(-(length + row["flush"]) // block)
    padded = torch.nn.functional.pad(audio[0, :length], (0, count * block - length))
    frames = 0
    for at in range(0, count * block, block):
        x, real = padded[None, at : at + block], torch.arange(at, at + block) < length
        scores, valid, *states = run([x, real[None], *states])
        frames += int(valid.sum())
        if at + block <= length:
            session.feed(x[0])
            # no frame of the sound is out before the look-ahead has come in
            assert (session.scores is None) == (not frames)
            if session.scores is not None:
                assert_close("scores", torch.as_tensor(session.scores), scores[0, -1], 1e-4)
    # once as many invalid samples are in as `flush` says, every frame is out
    assert frames == sum(len(part) for part in stream_scores(model, audio[0, :length]))


@pytest.mark.parametrize("task", ["ctc", "clip", "frame"])
def test_a_plan_gives_the_scores_of_recordings_and_streams(
    nets: dict[str, Net], tmp_path: Path, task: str
) -> None:
    model = sk.build(replace(nets[task], frontend=PLAIN)).eval()
    done = export(model, tmp_path / "model.safetensors", "native")
    assert done.difference is not None
    assert done.difference < 1e-5
    plan = load_plan(done.path)
    assert plan.about == about_of(model)
    assert (plan.clip_program is None) == (task != "clip")
    assert plan.facts is not None
    assert plan.facts.profile == profile(model)
    assert plan.facts.files == {}


def test_the_plan_of_a_folder_names_its_files(nets: dict[str, Net], tmp_path: Path) -> None:
    sk.save(sk.build(replace(nets["frame"], frontend=PLAIN)), tmp_path / "mine")
    export(tmp_path / "mine", tmp_path / "mine" / PLAN, "native")
    plan = as_plan(tmp_path / "mine")
    assert plan is not None
    assert plan.facts is not None
    assert set(plan.facts.files) == {"config.json", "model.safetensors"}
    # the same bytes every time
    export(tmp_path / "mine", tmp_path / "again.safetensors", "native")
    written = (tmp_path / "mine" / PLAN).read_bytes()
    assert (tmp_path / "again.safetensors").read_bytes() == written


def test_a_plan_that_differs_from_the_model_is_not_written(
    nets: dict[str, Net], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = sk.build(replace(nets["frame"], frontend=PLAIN)).eval()
    monkeypatch.setattr(native, "plan_of", lambda *given: wrong(plan_of(*given)))
    with pytest.raises(CheckpointError, match=r"off by .* more than 1e-04; nothing was written"):
        export(model, tmp_path / "model.safetensors", "native")
    assert not list(tmp_path.iterdir())


def test_a_plan_in_int8_is_smaller_and_scores_almost_the_same(
    clips: list[Utterance], tmp_path: Path
) -> None:
    model = sk.load("digits")
    plain = export(model, tmp_path / "float.safetensors", "native")
    done = export(model, tmp_path / "int8.safetensors", spec("native", int8=True), clips)
    assert done.bytes < 0.65 * plain.bytes
    assert done.difference is not None
    assert 1e-4 < done.difference < 0.05


@pytest.mark.parametrize("name", ["digits", "vad"])
def test_a_plan_in_int8_scores_as_the_prepared_model(
    name: str, clips: list[Utterance], tmp_path: Path
) -> None:
    model = sk.load(name)
    plan_of(model, "int8").save(tmp_path / PLAN)
    plan, ready = load_plan(tmp_path / PLAN), sk.prepare(model, dtype="int8")
    for clip in clips[:3]:
        x = read_audio(clip.audio, target_rate=model.sample_rate).numpy()
        scorers = PlanScorer(plan), ModelScorer(ready)
        if plan.about.per_clip:
            found, expected = (scorer.clips(x[None]) for scorer in scorers)
        else:
            found, expected = (np.concatenate([*scorer.parts([x])]) for scorer in scorers)
        np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())


def test_a_stream_in_int8_gives_the_same_bits_however_it_comes() -> None:
    scorer = PlanScorer(plan_of(sk.load("digits"), "int8"))
    x = np.random.default_rng(0).uniform(-0.2, 0.2, 20001).astype(np.float32)
    whole = np.concatenate([*scorer.parts([x])])
    cuts = [0, 1, 640, 10000, 10000, 19999]
    np.testing.assert_array_equal(np.concatenate([*scorer.parts(np.split(x, cuts))]), whole)


def wrong(plan: Plan) -> Plan:
    return replace(plan, weights=plan.weights * np.float32(1.01))


def test_what_has_no_plan_says_why(nets: dict[str, Net], tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    model = sk.build(replace(nets["frame"], frontend=PLAIN))
    model.head = Serial(FrameWise(Loudest()), model.head)
    with pytest.raises(
        CheckpointError,
        match=r"has no plan: no native Loudest; it runs in torch, or use --format onnx$",
    ):
        export(model, path, "native")
    line = "this model has no plan: no native Loudest; it runs in torch"
    with pytest.raises(LoweringError, match=f"^{line}$"):
        plan_of(model)
    with pytest.raises(StreamError, match="reads the whole utterance"):
        export(sk.build(replace(nets["ctc"], frontend="log_mel")), path, "native")
    for given in ({"streaming": True}, {"features": False}):
        with pytest.raises(ConfigError, match="leave out --streaming and --no-features"):
            export(model, path, spec("native", **given))


def test_torch_export_needs_no_speechkit(nets: dict[str, Net], tmp_path: Path) -> None:
    model = sk.build(nets["frame"]).eval()
    path = tmp_path / "speech.pt2"
    done = export(model, path, spec("torch_export", streaming=True))
    assert done.difference is not None
    assert done.difference <= 1e-5
    extra = {"speechkit.json": ""}
    program = torch.export.load(path, extra_files=extra)
    row = json.loads(extra["speechkit.json"])
    assert row["postprocess"]["onset"] == 0.5
    assert len(program.graph_signature.user_inputs) == 2 + len(row["states"])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["onnx", "torch_export"])
@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("features", [False, True])
def test_every_form_of_every_net(
    net: Net, tmp_path: Path, name: str, streaming: bool, features: bool
) -> None:
    if name == "torch_export" and features and not streaming:
        pytest.skip("running normalisation has no such form")
    chosen = spec(name, streaming=streaming, features=features)
    done = export(sk.build(net), tmp_path / "model", chosen)
    assert done.difference is not None
    assert done.difference <= 1e-5


@pytest.mark.slow
@pytest.mark.parametrize(
    "frontend",
    ["log_mel:normalize=per_feature", "log_mel:normalize=pcen", "log_mel:compat=nemo1", "mfcc"],
)
def test_every_front_end(nets: dict[str, Net], tmp_path: Path, frontend: str) -> None:
    done = export(sk.build(replace(nets["ctc"], frontend=frontend)), tmp_path / "model.onnx")
    assert done.difference is not None
    assert done.difference <= 1e-5


@pytest.fixture(scope="module")
def graph() -> Graph:
    model = sk.load("digits")
    return graph_of(model, example_of(model), streaming=False, features=True)


def test_it_is_tried_on_sounds_of_several_lengths(graph: Graph) -> None:
    shapes = [x.shape for ((x, _),) in graph.trials]
    assert shapes == [
        (3, 8000 * max(EXAMPLE_S)),
        (1, 8000 * EXAMPLE_S[0]),
        (3, 4000 * max(EXAMPLE_S)),
    ]


def test_what_agrees_passes(graph: Graph) -> None:
    assert check(graph, lambda inputs: graph.model(*inputs), 0) == 0


def too_loud(scores: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    return scores * 1.01, lengths


def not_a_number(scores: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    return scores * torch.nan, lengths


def too_long(scores: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    return scores, lengths + 1


def broken(scores: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    raise RuntimeError("no kernel\nat all")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (too_loud, "off by 1.0e-02 of the largest, more than 1e-04"),
        (not_a_number, "off by inf"),
        (too_long, "off by inf"),
        (broken, "does not run: no kernel$"),
    ],
)
def test_an_output_that_differs_is_refused(graph: Graph, change: Any, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        check(graph, lambda inputs: change(*graph.model(*inputs)), 1e-4)


def test_a_refused_file_is_not_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(graph: Graph, path: Path) -> None:
        path.write_bytes(b"written, but wrong")

    monkeypatch.setattr(onnx_form, "write", write)
    monkeypatch.setattr(onnx_form, "runner", lambda path: lambda inputs: [*map(torch.neg, inputs)])
    with pytest.raises(CheckpointError, match="nothing was written"):
        export(sk.load("digits"), tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_exported_says_why(nets: dict[str, Net], tmp_path: Path) -> None:
    symmetric = sk.build(replace(nets["ctc"], frontend="log_mel"))
    with pytest.raises(StreamError, match="or export without --streaming"):
        export(symmetric, tmp_path / "model.onnx", spec("onnx", streaming=True))
    with pytest.raises(CheckpointError, match="add --streaming, or use --format onnx"):
        export(sk.build(nets["ctc"]), tmp_path / "model.pt2", "torch_export")
    with pytest.raises(CheckpointError, match="is a folder; give the name of a file"):
        export(symmetric, tmp_path)
    with pytest.raises(ConfigError, match="add --audio MANIFEST"):
        export(symmetric, tmp_path / "model.onnx", spec("onnx", int8=True))
    assert not list(tmp_path.iterdir())


class Loudest(torch.nn.Module):
    """What no exporter can follow: a branch on the numbers."""

    def forward(self, x: Tensor) -> Tensor:
        return x if float(x.max()) > 1 else 2 * x


def test_a_layer_without_a_form_is_one_line(
    nets: dict[str, Net], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    model = sk.build(nets["frame"])
    model.head = Serial(FrameWise(Loudest()), model.head)
    with pytest.raises(CheckpointError, match=r"^this model has no torch.export form: .+$"):
        export(model, tmp_path / "model.pt2", spec("torch_export", streaming=True))
    assert capfd.readouterr() == ("", "")
    assert not list(tmp_path.iterdir())


class LoudMixer(StreamLayer):
    """A mixer with the same branch."""

    def __init__(self, channels: int, *row: Any) -> None:
        super().__init__()
        self.stride = row[1]

    def forward(self, c: Chunk) -> Chunk:
        y = Loudest()(c.x)
        return Chunk(y[:, :, :: self.stride], c.valid[:, :: self.stride])


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("declares", [False, True])
def test_a_layer_that_does_not_declare_the_form_is_named(
    nets: dict[str, Net],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    streaming: bool,
    declares: bool,
) -> None:
    exports = frozenset({"torch", "torch.export"} if declares else {"torch"})
    one = sk.Component(name="loud", factory=LoudMixer, summary="-", exports=exports)
    ours = Registry({"SPEECHKIT_PLUGINS": ""})
    ours.add(SimpleNamespace(speechkit_mixers=sk.hookimpl(lambda: [one])), "acme")
    said = "'torch.export' is not in the exports of mixer acme/loud"
    asked = spec("torch_export", streaming=streaming)
    with using(ours):
        model = sk.build(replace(nets["frame"], frontend="log_mel:normalize=none", mixer="loud"))
        with pytest.raises(CheckpointError) as caught:
            export(model, tmp_path / "model.pt2", asked)
    assert str(caught.value).startswith("this model has no torch.export form: ")
    assert (said in str(caught.value)) != declares
    assert ("; try --streaming" in str(caught.value)) == (not declares and not streaming)
    warned = [r.getMessage() for r in caplog.records if r.name == "speechkit.export"]
    assert [said in line for line in warned] == [True] * (not declares)


def test_a_plan_needs_no_declared_form(
    nets: dict[str, Net], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    one = sk.Component(name="plain", factory=lambda *a, **k: torch.nn.ReLU(), summary="-")
    ours = Registry({"SPEECHKIT_PLUGINS": ""})
    ours.add(SimpleNamespace(speechkit_activations=sk.hookimpl(lambda: [one])), "acme")
    with using(ours):
        model = sk.build(replace(nets["frame"], activation="acme/plain"))
        export(model, tmp_path / "model.safetensors", "native")
    assert not [r for r in caplog.records if r.name == "speechkit.export"]


def test_a_missing_package_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'speechkit-core\[export\]'"):
        export(sk.load("digits"), tmp_path / "model.onnx")


def test_the_model_is_left_as_it_was(nets: dict[str, Net]) -> None:
    model = sk.build(nets["ctc"]).train()
    before = {name: type(module) for name, module in model.named_modules()}
    c = Chunk.of(torch.randn(1, 16, 130))
    graph = graph_of(model, example_of(model), streaming=False, features=True)
    assert {name: type(module) for name, module in model.named_modules()} == before
    assert model.training
    assert all(p.requires_grad for p in model.parameters())
    # a loop over blocks stands in for the running statistics
    original, looped = (net.model.frontend[4] for net in (graph.model, graph.module))
    assert type(looped) is not type(original)
    with torch.no_grad():
        assert_close("features", original(c).x, looped(c).x, 1e-5)


class Noted:
    """An exporter that writes down how it was called."""

    suffix = ".note"

    def __init__(self, streaming: bool, features: bool, level: int = 0, int8: bool = False) -> None:
        self.row = {"streaming": streaming, "features": features, "level": level, "int8": int8}

    def __call__(self, model: sk.Model, example: Any, path: Path) -> Any:
        audio, lengths = example
        assert audio.ndim == 2
        assert len(audio) == len(lengths) >= 2
        assert not model.training
        path.write_text(json.dumps(self.row))
        return None if self.row["level"] else np.float32(0.25)


@pytest.fixture
def noted() -> Iterator[None]:
    """A registry with that exporter."""
    component = sk.Component(name="noted", factory=Noted, summary="How it was called")
    ours = Registry({"SPEECHKIT_PLUGINS": ""})
    ours.add(SimpleNamespace(speechkit_exporters=sk.hookimpl(lambda: [component])), "acme")
    with using(ours):
        yield


@pytest.mark.parametrize(
    ("arguments", "called", "file"),
    [
        ([], {}, "digits.note"),
        (["--streaming"], {"streaming": True}, "digits-stream.note"),
        (["--no-features"], {"features": False}, "digits.note"),
        (["--format", "acme/noted:level=3"], {"level": 3}, "digits.note"),
        (["--int8", "--audio", "clips.jsonl"], {"int8": True}, "digits-int8.note"),
    ],
)
@pytest.mark.usefixtures("noted")
def test_an_exporter_of_a_plugin_is_called_as_its_contract_says(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    called: dict[str, Any],
    file: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    write_manifest(tmp_path / "clips.jsonl", read_manifest(BUNDLED / "clips" / "clips.jsonl")[:2])
    assert run(["export", "digits", "--format", "noted", *arguments, "--json"]) == 0
    row = json.loads(capsys.readouterr().out)
    assert row["file"] == file
    assert row["difference"] == (None if "level" in called else 0.25)
    plain = {"streaming": False, "features": True, "level": 0, "int8": False}
    assert json.loads((tmp_path / file).read_text()) == {**plain, **called}


@pytest.mark.usefixtures("noted")
def test_an_exporter_is_given_both_forms_from_python_too(tmp_path: Path) -> None:
    done = export(sk.load("digits"), tmp_path / "it", "noted:level=1")
    assert json.loads(done.path.read_text())["features"] is True
    assert done.difference is None
    with pytest.raises(ComponentError, match="unexpected keyword argument 'levle'"):
        export(sk.load("digits"), tmp_path / "it", "noted:levle=1")
