"""Model folders: what is saved comes back, and what is damaged is named."""

import json
import multiprocessing
import os
import resource
import stat
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import speechkit as sk
from speechkit import card, checkpoint, infer
from speechkit.checkpoint import ModelSource, load, save
from speechkit.component import Component
from speechkit.data import Utterance, audio_duration_s
from speechkit.errors import CheckpointError, PluginError, SpeechkitError
from speechkit.hookspecs import hookimpl
from speechkit.io import folders
from speechkit.io.folders import CONFIG, WEIGHTS, find
from speechkit.models import Block, MarbleNet, MatchboxNet, Model, Net, QuartzNet, build
from speechkit.plugins import Registry, using


@pytest.fixture
def model(nets: dict[str, Net]) -> Model:
    return build(nets["ctc"]).eval()


@pytest.fixture
def folder(model: Model, tmp_path: Path) -> Path:
    save(model, tmp_path / "model")
    return tmp_path / "model"


@torch.no_grad()
def scores(model: Model) -> Tensor:
    audio = torch.randn(2, 8000, generator=torch.Generator().manual_seed(0)) * 0.1
    return model.eval()(audio, torch.tensor([8000, 5000])).scores


def edit_config(folder: Path, edit: Callable[[dict[str, Any]], Any]) -> None:
    stored = json.loads((folder / CONFIG).read_text())
    edit(stored)
    (folder / CONFIG).write_text(json.dumps(stored))


def edit_weights(folder: Path, edit: Callable[[dict[str, Tensor]], Any]) -> None:
    tensors = load_file(folder / WEIGHTS)
    edit(tensors)
    save_file(tensors, folder / WEIGHTS)


@pytest.mark.parametrize("seed", [0, 1])
def test_a_model_comes_back_with_the_same_bits(net: Net, tmp_path: Path, seed: int) -> None:
    model = build(net, seed)
    model.train()(torch.rand(2, 8000, generator=torch.Generator().manual_seed(1)) * 0.1)
    save(model, tmp_path / "model")
    again = load(tmp_path / "model")
    assert not again.training
    assert again.config == net
    assert (again.labels, again.sample_rate) == (model.labels, model.sample_rate)
    assert torch.equal(scores(again), scores(model))


def test_a_seed_decides_every_weight(net: Net) -> None:
    torch.manual_seed(1)
    one = build(net, seed=3).state_dict()
    torch.manual_seed(2)
    drawn = torch.rand(1, generator=torch.Generator().manual_seed(2))
    other = build(net, seed=3).state_dict()
    assert all(torch.equal(value, other[name]) for name, value in one.items())
    assert torch.equal(torch.rand(1), drawn)


def test_two_seeds_give_two_models(nets: dict[str, Net], tmp_path: Path) -> None:
    for seed in (0, 1):
        save(build(nets["ctc"], seed), tmp_path / str(seed))
    one, other = (scores(load(tmp_path / str(seed))) for seed in (0, 1))
    assert not torch.equal(one, other)


def test_saving_again_replaces_the_model(nets: dict[str, Net], folder: Path) -> None:
    other = build(nets["ctc"], seed=1)
    save(other, folder)
    assert torch.equal(scores(load(folder)), scores(other))
    assert [path.name for path in folder.parent.iterdir()] == ["model"]


def test_the_folder_is_as_open_as_any(folder: Path) -> None:
    (folder.parent / "usual").mkdir()
    usual, ours = (stat.S_IMODE(os.stat(folder.parent / n).st_mode) for n in ("usual", "model"))
    assert ours == usual


def test_weights_start_with_one_of_four_prefixes(net: Net) -> None:
    prefixes = {name.partition(".")[0] for name in build(net).state_dict()}
    assert {"stem", "encoder", "head"} <= prefixes <= {"frontend", "stem", "encoder", "head"}


def test_weights_keep_their_names_whatever_the_lookahead() -> None:
    blocks = (
        Block(channels=4, kernel=5, stride=2),
        Block(channels=4, kernel=7, repeat=2, residual=True),
        Block(channels=4, kernel=5, stride=2),
    )
    same, *others = (
        QuartzNet(labels=("a",), blocks=blocks, lookahead=lookahead)
        for lookahead in ("same", 0, 1, (2, 0, 1), (0, 3, "same"))
    )
    names = list(build(same).state_dict())
    for other in others:
        assert list(build(other).state_dict()) == names


def test_a_missing_tensor_is_named(folder: Path) -> None:
    edit_weights(folder, lambda tensors: tensors.pop("head.linear.weight"))
    with pytest.raises(CheckpointError, match=r"lacks 'head\.linear\.weight'"):
        load(folder)


def test_an_unknown_tensor_is_named(folder: Path) -> None:
    edit_weights(folder, lambda tensors: tensors.update(extra=torch.zeros(1)))
    with pytest.raises(CheckpointError, match="holds 'extra', unknown to its config"):
        load(folder)


def test_a_tensor_of_another_shape_is_named(folder: Path) -> None:
    edit_weights(folder, lambda tensors: tensors.update({"head.linear.bias": torch.zeros(3)}))
    message = r"'head.linear.bias' has shape \[3\], the config asks for \[6\]"
    with pytest.raises(CheckpointError, match=message):
        load(folder)


class Louder(nn.Module):
    """y = gain · x; its weights were once called `scale`."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(channels))
        self.register_load_state_dict_pre_hook(self.older)

    @staticmethod
    def older(layer: nn.Module, weights: dict[str, Tensor], prefix: str, *others: object) -> None:
        if f"{prefix}scale" in weights:
            weights[f"{prefix}gain"] = weights.pop(f"{prefix}scale")

    def forward(self, x: Tensor) -> Tensor:
        return self.gain[:, None] * x


def test_a_layer_may_read_weights_of_an_older_version(tmp_path: Path) -> None:
    @hookimpl
    def speechkit_activations() -> list[Component]:
        return [Component(name="louder", factory=Louder, summary="A gain")]

    registry = Registry()
    plugin = SimpleNamespace(__name__="acme", speechkit_activations=speechkit_activations)
    registry.add(plugin, "acme", "0.1.0")
    with using(registry):
        model = build(QuartzNet(size="5x5", activation="louder"))
        save(model, tmp_path / "model")
        named = {name: x * 2 for name, x in model.named_parameters() if name.endswith("gain")}
        older = {f"{name.removesuffix('gain')}scale": x.detach() for name, x in named.items()}

        def rename(tensors: dict[str, Tensor]) -> None:
            for name in named:
                del tensors[name]
            tensors |= older

        edit_weights(tmp_path / "model", rename)
        again = dict(load(tmp_path / "model").named_parameters())
    assert named
    assert all(torch.equal(again[name], x) for name, x in named.items())


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "{}", '{"format": 1}', "\xff"])
def test_a_damaged_description_is_named(folder: Path, text: str) -> None:
    (folder / CONFIG).write_text(text, encoding="latin-1")
    with pytest.raises(CheckpointError, match="is not a model description") as caught:
        load(folder)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("content", [None, b"", b"\x00" * 20])
def test_damaged_weights_are_named(folder: Path, content: bytes | None) -> None:
    (folder / WEIGHTS).unlink()
    if content is not None:
        (folder / WEIGHTS).write_bytes(content)
    with pytest.raises(CheckpointError, match=r"model\.safetensors cannot be read") as caught:
        load(folder)
    assert len(str(caught.value).splitlines()) == 1


def test_a_truncated_file_of_weights_is_named(folder: Path) -> None:
    whole = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match=r"model\.safetensors cannot be read"):
        load(folder)


def test_another_format_says_to_upgrade(folder: Path) -> None:
    edit_config(folder, lambda stored: stored.update(format=99))
    with pytest.raises(CheckpointError, match=r"format 99; this version reads 1: pip install -U"):
        load(folder)


def test_a_config_that_does_not_fit_is_named_with_file_and_path(folder: Path) -> None:
    edit_config(folder, lambda stored: stored["config"].update(kernl=3))
    with pytest.raises(SpeechkitError, match=r"config\.json: quartznet\.kernl - Unexpected"):
        load(folder)


def test_a_component_that_is_gone_is_named_with_the_folder(folder: Path) -> None:
    edit_config(folder, lambda stored: stored["config"].update(activation="swsh"))
    with pytest.raises(CheckpointError, match="model: no activation named 'swsh'"):
        load(folder)


def test_a_missing_folder_suggests_the_bundled_names(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundled = folder.parent / "bundled" / "models"
    bundled.mkdir(parents=True)
    folder.rename(bundled / "digits")
    monkeypatch.setattr(card, "__file__", str(bundled.parent.parent / "card.py"))
    assert find("digits") == bundled / "digits"
    message = "no model folder 'digts'. Did you mean 'digits'? Known: digits"
    with pytest.raises(CheckpointError) as caught:
        load("digts")
    assert str(caught.value) == message


def test_a_misspelt_published_name_suggests_it() -> None:
    expected = (
        r"Did you mean 'stt_en_quartznet15x5'\? Known: an4, commands, digits, vad, vad_causal$"
    )
    with pytest.raises(CheckpointError, match=expected):
        find("stt_en_quartznet15x4")


def test_a_name_that_no_file_can_have_is_no_model() -> None:
    with pytest.raises(CheckpointError, match=r"no model folder 'aaa"):
        find("a" * 5000)


def test_a_folder_that_holds_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"has no config.json"):
        load(tmp_path)


def test_plugins_are_stored_with_their_versions_and_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    snake = Component(name="snake", factory="speechkit.nn:Bias", summary="one of ours")
    ours = Registry({"SPEECHKIT_PLUGINS": ""})
    ours.add(
        SimpleNamespace(speechkit_activations=hookimpl(lambda: [snake])),
        "acme",
        "0.3",
        distribution="acme-layers",
    )
    for module in ("speechkit.models", "speechkit.checkpoint"):
        monkeypatch.setattr(f"{module}.registry", lambda: ours)
    blocks = (Block(channels=4, kernel=3), Block(channels=4, kernel=3))
    config = MatchboxNet(labels=("a", "b"), blocks=blocks, activation="acme/snake")
    save(build(config), tmp_path / "model")
    assert json.loads((tmp_path / "model" / CONFIG).read_text())["plugins"] == {
        "acme": {"version": "0.3", "distribution": "acme-layers"}
    }
    assert load(tmp_path / "model").config == config
    assert not caplog.records
    edit_config(tmp_path / "model", lambda stored: stored["plugins"]["acme"].update(version="0.20"))
    load(tmp_path / "model")
    assert "was made with acme 0.20; 0.3 is installed, which is older" in caplog.text
    edit_config(tmp_path / "model", lambda stored: stored["plugins"]["acme"].update(version="0.3"))
    monkeypatch.undo()
    with pytest.raises(PluginError) as caught:
        load(tmp_path / "model")
    assert str(caught.value) == (
        f"{tmp_path / 'model'} was made with plugin 'acme' 0.3 of acme-layers, which is not "
        "installed; it is not one of speechkit's own; get it from whoever wrote it"
    )


@pytest.mark.parametrize("pool", ["acme/peak", "{acme/peak:nemo_compat=true}"])
def test_a_plugin_that_only_a_parameter_names_is_stored_and_asked_for(
    tmp_path: Path, pool: str
) -> None:
    peak = Component(name="peak", factory="speechkit.builtin.factories:average", summary="ours")
    ours = Registry({"SPEECHKIT_PLUGINS": ""})
    ours.add(SimpleNamespace(speechkit_pools=hookimpl(lambda: [peak])), "acme", "0.3")
    blocks = (Block(channels=4, kernel=3), Block(channels=4, kernel=3))
    with using(ours):
        config = MatchboxNet(labels=("a", "b"), blocks=blocks, head=f"clip:pool={pool}")
        save(build(config), tmp_path / "model")
        assert load(tmp_path / "model").config == config
    stored = json.loads((tmp_path / "model" / CONFIG).read_text())
    assert stored["plugins"] == {"acme": {"version": "0.3"}}
    with pytest.raises(PluginError, match=r"was made with plugin 'acme' 0\.3, which is not inst"):
        load(tmp_path / "model")
    # as models were stored before nested components counted
    edit_config(tmp_path / "model", lambda stored: stored.update(plugins={}))
    with pytest.raises(CheckpointError, match=r"no pool named 'acme/peak'\..* 'acme' is not"):
        load(tmp_path / "model")


@pytest.mark.parametrize(
    ("made_with", "says"),
    [
        ("900.1.0", "was made with speechkit-core 900.1.0; "),
        ("0.0.1", ""),
        (metadata.version("speechkit-core"), ""),
        ("dev", ""),
    ],
)
def test_a_model_of_a_newer_speechkit_is_warned_of(
    folder: Path, caplog: pytest.LogCaptureFixture, made_with: str, says: str
) -> None:
    edit_config(folder, lambda stored: stored.update(speechkit=made_with))
    load(folder)
    assert [record.getMessage().count(says) for record in caplog.records] == [1] * bool(says)
    assert ("type: pip install -U speechkit-core" in caplog.text) == bool(says)


@pytest.mark.parametrize(
    ("plugins", "says"),
    [
        ({"acme": "0.3"}, "plugin 'acme' 0.3, which is not installed; it is not one of"),
        (
            {"norms": {}},
            "plugin 'norms', which is not installed; type: pip install speechkit-norms",
        ),
        (
            {"lab": {"file": "lab.py"}},
            "'lab', a Python file that is not loaded; add --plugin lab.py with its path, "
            "or set SPEECHKIT_PLUGINS to that",
        ),
    ],
)
def test_a_missing_plugin_is_asked_for_by_where_it_is_from(
    folder: Path, plugins: Any, says: str
) -> None:
    edit_config(folder, lambda stored: stored.update(plugins=plugins))
    with pytest.raises(PluginError) as caught:
        load(folder)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    "plugins",
    [
        {"x --index-url http://evil/ evil": "1"},
        {"x": "1 --index-url http://evil/ evil"},
        {"x": {"distribution": "evil; type: evil"}},
        {"x": {"file": 3}},
        {"x": 3},
        {"x": None},
        {"": ""},
        ["x"],
        3,
    ],
)
def test_advice_in_the_names_of_plugins_is_not_printed(folder: Path, plugins: Any) -> None:
    edit_config(folder, lambda stored: stored.update(plugins=plugins))
    with pytest.raises(CheckpointError, match="is not a model description") as caught:
        load(folder)
    assert "evil" not in str(caught.value)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", ["stem.body.0.mixer.weight", "head.linear.bias"])
def test_weights_that_are_not_finite_are_named(folder: Path, name: str, value: float) -> None:
    def spoil(tensors: dict[str, Tensor]) -> None:
        tensors[name].view(-1)[-1] = value

    edit_weights(folder, spoil)
    with pytest.raises(CheckpointError, match=f"{name!r} holds NaN or infinity") as caught:
        load(folder)
    assert "speechkit info --allow-nonfinite" in str(caught.value)
    state = load(folder, allow_nonfinite=True).state_dict()
    assert not state[name].isfinite().all()


def test_a_failed_save_leaves_what_was_there(
    model: Model, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = scores(load(folder))

    def fail(path: Path, data: Any) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(checkpoint, "write_json", fail)
    for path in (folder, folder.parent / "fresh"):
        with pytest.raises(OSError, match="no space left"):
            save(model, path)
    assert [path.name for path in folder.parent.iterdir()] == ["model"]
    assert torch.equal(scores(load(folder)), before)


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_is_no_model_is_never_overwritten(model: Model, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "precious"
    note = path
    if kind == "folder":
        path.mkdir()
        note = path / "note.txt"
    note.write_text("keep me")
    with pytest.raises(CheckpointError, match="exists and is not a model folder"):
        save(model, path)
    assert note.read_text() == "keep me"


@pytest.mark.parametrize("config", ['{"name": "my app"}', '{"format": 1}', "[1]", "{", ""])
def test_a_folder_with_another_config_is_never_overwritten(
    model: Model, tmp_path: Path, config: str
) -> None:
    (tmp_path / "src").mkdir()
    texts = {tmp_path / "src" / "t.txt": "x", tmp_path / CONFIG: config}
    for path, text in texts.items():
        path.write_text(text)
    with pytest.raises(CheckpointError, match="exists and is not a model folder"):
        save(model, tmp_path)
    assert {path: path.read_text() for path in tmp_path.rglob("*") if path.is_file()} == texts


def test_what_others_put_into_a_model_folder_stays(nets: dict[str, Net], folder: Path) -> None:
    others = [folder / name for name in (".git/HEAD", "data.csv", "README.md", "card.json")]
    for path in others:
        path.parent.mkdir(exist_ok=True)
        path.write_text("mine")
    other = build(nets["ctc"], seed=1)
    save(other, folder)
    assert [path.read_text() for path in others] == ["mine"] * 4
    assert torch.equal(scores(load(folder)), scores(other))
    save(other, folder, card.ModelCard(purpose="reads letters"))
    assert card.read_card(folder) == card.ModelCard(purpose="reads letters")
    assert [path.read_text() for path in others[:3]] == ["mine"] * 3


def test_a_full_disk_is_an_error_of_the_system_and_the_old_model_stays(
    nets: dict[str, Net], folder: Path
) -> None:
    before = {path: path.read_bytes() for path in folder.iterdir()}

    def save_with_little_space() -> None:
        # a limit on the size of files, which fails as a full disk does
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
        for path in (folder, folder.parent / "new"):
            with pytest.raises(OSError, match="File too large") as caught:
                save(build(nets["ctc"], seed=1), path)
            assert caught.value.filename == str(path)

    process = multiprocessing.get_context("fork").Process(target=save_with_little_space)
    process.start()
    process.join()
    assert process.exitcode == 0
    assert {path: path.read_bytes() for path in folder.iterdir()} == before
    assert list(folder.parent.iterdir()) == [folder]


def test_weights_are_as_open_as_the_config(folder: Path) -> None:
    weights, config = (os.stat(folder / name).st_mode for name in (WEIGHTS, CONFIG))
    assert stat.S_IMODE(weights) == stat.S_IMODE(config)


def test_weights_that_cannot_be_opened_say_why(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    (folder / WEIGHTS).mkdir()
    with pytest.raises(CheckpointError, match=r"cannot be read: Is a directory"):
        load(folder)


def test_an_empty_folder_may_become_a_model(model: Model, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    save(model, tmp_path / "model")
    assert torch.equal(scores(load(tmp_path / "model")), scores(model))


def verbs() -> dict[str, Callable[[ModelSource], Any]]:
    """Each verb that asks for a model, given one, under the task that it is for."""
    sound = np.random.default_rng(0).uniform(-0.1, 0.1, 16000).astype(np.float32)
    clip = next((Path(sk.__file__).parent / "bundled" / "clips").glob("0_*.flac"))
    utterances = [Utterance(audio=clip, duration_s=audio_duration_s(clip), text="hi", label="low")]
    return {
        "ctc transcribe": lambda model: sk.transcribe(model, sound, 16000),
        "ctc align_text": lambda model: infer.align_text(model, sound, "hi", 16000),
        "clip classify": lambda model: sk.classify(model, sound, 16000),
        "frame detect": lambda model: sk.detect(model, sound, 16000),
        "frame speech_probabilities": lambda model: infer.speech_probabilities(model, sound, 16000)[
            0
        ].tolist(),
        "frame stream_scores": lambda model: [
            part.tolist() for part in infer.stream_scores(model, torch.from_numpy(sound))
        ],
        "ctc evaluate": lambda model: sk.evaluate(model, utterances),
        "frame stream": lambda model: sk.stream(model).feed(sound),
        "ctc window": lambda model: sk.stream(model, window_s=0.4).feed(sound),
        "clip StreamBatch": lambda model: sk.StreamBatch(model, 1).feed(sound[None]),
        "frame SessionPool": lambda model: sk.SessionPool(model, 1).block_samples,
    }


@pytest.mark.parametrize("verb", verbs())
def test_every_verb_takes_a_model_its_folder_or_a_name(
    verb: str, nets: dict[str, Net], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind, _ = verb.split()
    model = build(nets[kind]).eval()
    save(model, tmp_path / "mine")
    ask = verbs()[verb]
    expected = ask(model)
    assert ask(tmp_path / "mine") == expected
    assert ask(str(tmp_path / "mine")) == expected
    monkeypatch.setattr(folders, "bundled_folders", lambda: [tmp_path / "mine"])
    assert ask("mine") == expected
    with pytest.raises(CheckpointError, match=r"no model folder 'mein'\. Did you mean 'mine'"):
        ask("mein")
    with pytest.raises(CheckpointError, match="int is no model; give a Model, its folder, or"):
        ask(5)


def test_a_header_of_megabytes_and_a_complex_nan_are_refused(tmp_path: Path) -> None:
    path = tmp_path / WEIGHTS
    path.write_bytes((2**24).to_bytes(8, "little") + b" " * 2**24)
    with pytest.raises(CheckpointError, match="a header of 16,777,216 bytes"):
        checkpoint.read_tensors(path)
    save_file({"x": torch.full((2,), float("nan"), dtype=torch.complex64)}, path)
    with pytest.raises(CheckpointError, match="holds NaN"):
        checkpoint.read_tensors(path)


@pytest.mark.parametrize("given", [None, 3, [], object()])
def test_what_is_no_path_is_no_model(given: Any) -> None:
    with pytest.raises(CheckpointError, match="is no model; give a Model, its folder, or"):
        load(given)


def test_what_a_run_goes_on_from_is_not_replaced(tmp_path: Path) -> None:
    model = build(MarbleNet(blocks=(Block(channels=4, kernel=3),)))
    save(model, tmp_path / "last")
    (tmp_path / "last" / "training").mkdir()
    (tmp_path / "last" / "training" / "loop.json").write_text("{}")
    with pytest.raises(CheckpointError, match="last is what a run goes on from; choose another"):
        save(model, tmp_path / "last")
    assert (tmp_path / "last" / "training" / "loop.json").read_text() == "{}"
