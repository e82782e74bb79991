"""Loading plugins, and finding and building what they offer."""

import inspect
import logging
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from speechkit import hookspecs
from speechkit.component import Component, Moved, Spec
from speechkit.errors import ComponentError, PluginError
from speechkit.hookspecs import KINDS, hookimpl
from speechkit.models import QuartzNet, build
from speechkit.nn import LookAhead, StreamLayer
from speechkit.plugins import CORE, Entry, Origin, Registry, using

NONE = {"SPEECHKIT_PLUGINS": ""}
# fmt: off
KINDS_OF_THE_ARCHITECTURE = {
    "activation", "norm", "channel", "mixer", "residual", "block", "stack", "stem",
    "head", "init", "pool", "frontend", "normalizer", "augmentation", "loss", "optimizer",
    "schedule", "method", "task", "net", "decoder", "exporter", "probe", "transform",
}
# fmt: on

Install = Callable[..., None]


class Swish(nn.Module):
    def __init__(self, channels: int, beta: float = 1.0, learn: bool = False) -> None:
        super().__init__()
        self.channels, self.beta, self.learn = channels, beta, learn


def activations(*names: str, factory: Any = Swish) -> SimpleNamespace:
    """A plugin that offers activations of these names."""
    listed = [Component(name=name, factory=factory, summary="one of ours") for name in names]
    return SimpleNamespace(speechkit_activations=hookimpl(lambda: listed))


def odd(
    channels: int,
    flag: bool = False,
    count: "int | None" = None,
    share: float = 0.5,
    word: "str" = "",
    free: Any = None,
    any: "list[int] | str" = "",
    part: str = "relu",
    auto: int = None,  # type: ignore[assignment]  # noqa: RUF013
) -> nn.Module:
    return nn.Identity()


MODULE = """
from speechkit import Component, hookimpl

@hookimpl
def speechkit_activations():
    return [Component(name="{name}", factory="torch.nn:Identity", summary="itself")]
"""


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """`install(name)` puts a distribution with that entry point on the path, as pip would."""
    monkeypatch.syspath_prepend(tmp_path)

    def write(name: str, code: str = "", version: str = "1.2", distribution: str = "") -> None:
        distribution = distribution or f"speechkit_{name}"
        module = f"{distribution}_of_this_test"
        # set, so that monkeypatch takes the module out of sys.modules again
        monkeypatch.setitem(sys.modules, module, None)
        del sys.modules[module]
        (tmp_path / f"{module}.py").write_text(code or MODULE.format(name=f"{name}_act"))
        info = tmp_path / f"{distribution}-{version}.dist-info"
        info.mkdir()
        header = f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n"
        (info / "METADATA").write_text(header)
        (info / "entry_points.txt").write_text(f"[speechkit]\n{name} = {module}\n")

    return write


def entry_points(*names: str) -> dict[str, str]:
    return {"SPEECHKIT_PLUGINS": ",".join(names)}


def test_every_kind_has_a_hook_that_says_what_its_factory_takes() -> None:
    assert set(KINDS) == KINDS_OF_THE_ARCHITECTURE
    for hook in KINDS.values():
        assert "factory(" in (inspect.getdoc(getattr(hookspecs, hook)) or "")


def test_there_are_five_behavioural_hooks_with_their_arguments() -> None:
    hooks = {name: f for name, f in vars(hookspecs).items() if name.startswith("speechkit_")}
    behavioural = {
        name: list(inspect.signature(hook).parameters)
        for name, hook in hooks.items()
        if name not in KINDS.values()
    }
    assert behavioural == {
        "speechkit_commands": ["cli"],
        "speechkit_run_start": ["run"],
        "speechkit_run_step": ["run", "step", "loss"],
        "speechkit_run_eval": ["run", "metrics"],
        "speechkit_run_end": ["run"],
    }
    assert all(inspect.getdoc(hook) for hook in hooks.values())


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("activation", {"relu", "silu", "gelu", "hardtanh", "identity"}),
        ("norm", {"batch", "none"}),
        ("channel", {"linear"}),
        ("mixer", {"depthwise"}),
        ("residual", {"add"}),
        ("block", {"plain"}),
        ("stack", {"serial"}),
        ("stem", {"plain"}),
        ("head", {"ctc", "clip", "frame"}),
        ("net", {"quartznet", "matchboxnet", "marblenet"}),
        ("task", {"ctc", "clip", "frame"}),
        ("frontend", {"log_mel", "mfcc"}),
        ("normalizer", {"per_feature", "fixed", "running", "pcen", "none"}),
    ],
)
def test_built_ins_come_through_the_hooks(kind: str, names: set[str]) -> None:
    registry = Registry(NONE)
    assert {e.component.name for e in registry.components(kind)} >= names
    implementations = getattr(registry.hook, KINDS[kind]).get_hookimpls()
    assert implementations[0].plugin_name.startswith("core:speechkit.builtin.")


def all_core() -> list[Entry]:
    return Registry(NONE).components()


@pytest.mark.parametrize("entry", all_core(), ids=lambda e: f"{e.kind}-{e.component.name}")
def test_a_built_in_loads_and_takes_its_example(entry: Entry) -> None:
    assert isinstance(entry.component.factory, str)
    parameters = inspect.signature(entry.factory()).parameters
    assert set(entry.component.example) <= set(parameters)
    assert entry.component.summary
    assert entry.component.formula


def test_listing_components_imports_no_torch() -> None:
    code = (
        "import sys; from speechkit.plugins import registry; "
        "assert registry().components(); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_components_say_which_plugin_and_version_they_come_from() -> None:
    registry = Registry(NONE)
    registry.add(activations("snake"), "acme", "0.3")
    entry = registry.find("activation", "snake")
    assert (entry.plugin, entry.version, entry.qualified_name) == ("acme", "0.3", "acme/snake")
    assert entry.kind == "activation"
    assert registry.plugins()["acme"] == "0.3"
    needed = [("activation", Spec("acme/snake")), ("norm", Spec("batch"))]
    assert registry.used_by(needed) == {"acme": Origin("0.3")}


def test_components_that_are_parameters_of_others_count_as_used() -> None:
    registry = Registry(NONE)
    registry.add(
        SimpleNamespace(
            speechkit_pools=hookimpl(
                lambda: [
                    Component(name="peak", factory="speechkit.nn:AveragePool", summary="ours"),
                    Component(
                        name="of",
                        factory="x:y",
                        summary="ours",
                        parts={"pool": "pool", "n": "norm"},
                    ),
                ]
            )
        ),
        "acme",
        "0.3",
    )
    registry.add(activations("snake"), "other")
    for head in ("clip:pool=acme/peak", "clip:pool={peak:nemo_compat=true}"):
        assert registry.used_by([("head", Spec.parse(head))]) == {"acme": Origin("0.3")}
    deep = Spec.parse("of:pool={of:pool={of:n=batch}}")
    names = [(e.kind, e.component.name) for e in registry.named([("pool", deep)])]
    assert names == [("pool", "of")] * 3 + [("norm", "batch")]
    with pytest.raises(ComponentError, match="no pool named 'third/peak'"):
        list(registry.named([("head", Spec.parse("clip:pool=third/peak"))]))


def test_a_component_that_is_no_declared_part_is_refused() -> None:
    registry = Registry(NONE)
    registry.add(activations("swish"), "acme")
    message = "activation swish:beta={relu}: beta is given a component; acme/swish takes one for no"
    with pytest.raises(ComponentError, match=f"^{re.escape(message)} parameter$"):
        registry.build("activation", "swish:beta={relu}", 8)


def test_a_parameter_meant_for_a_part_says_how_to_write_that() -> None:
    message = "it takes ['pool']; or is it one of pool's? Write pool={name:key=value,b=value}"
    with pytest.raises(ComponentError, match=f"{re.escape(message)}$"):
        Registry(NONE).build("head", "clip:pool=acme/peak:a=1,b=2", 8, 2)


def test_two_plugins_with_one_name_ask_for_the_qualified_name() -> None:
    registry = Registry(NONE)
    registry.add(activations("snake"), "acme")
    registry.add(activations("snake"), "other")
    message = "activation 'snake' comes from 2 plugins; write one of acme/snake, other/snake"
    with pytest.raises(ComponentError, match=f"^{message}$"):
        registry.find("activation", "snake")
    assert registry.find("activation", "other/snake").plugin == "other"


def moved(name: str, to: str) -> SimpleNamespace:
    """A plugin whose activation of this name is elsewhere now."""
    return SimpleNamespace(speechkit_activations=hookimpl(lambda: [Moved(name=name, to=to)]))


def test_a_component_that_moved_is_found_under_its_former_names() -> None:
    registry = Registry(NONE)
    registry.add(moved("snake", "acme/serpent"), "old")
    for name in ("snake", "old/snake"):
        with pytest.raises(ComponentError, match="Plugin 'acme' is not installed; "):
            registry.find("activation", name)
    registry.add(activations("serpent"), "acme")
    for name in ("snake", "old/snake"):
        assert registry.find("activation", name).qualified_name == "acme/serpent"
        assert registry.build("activation", f"{name}:beta=2", 4).beta == 2
        assert registry.used_by([("activation", Spec(name))]).keys() == {"acme"}
    assert [e for e in registry.components("activation") if e.plugin == "old"] == []


def test_a_config_of_before_a_move_means_the_component_that_moved() -> None:
    registry = Registry(NONE)
    registry.add(moved("snake", "acme/snake"), "old")
    registry.add(activations("snake"), "acme")
    registry.add(activations("snake"), "other")
    for plugin, name in {"old": "acme/snake", "acme": "acme/snake", "other": "other/snake"}.items():
        assert str(registry.qualified("activation", "snake", [plugin])) == name


def test_a_plugin_never_shadows_the_core() -> None:
    registry = Registry(NONE)
    registry.add(activations("relu"), "acme")
    assert registry.find("activation", "relu").plugin == CORE
    assert registry.find("activation", "core/relu").plugin == CORE
    assert registry.find("activation", "acme/relu").plugin == "acme"
    assert isinstance(registry.build("activation", "relu", 4), nn.ReLU)
    assert isinstance(registry.build("activation", "acme/relu", 4), Swish)


def test_one_name_twice_in_a_plugin_is_an_error_at_load() -> None:
    registry = Registry(NONE)
    with pytest.raises(PluginError, match=r"^plugin 'acme' offers activation 'snake' twice$"):
        registry.add(activations("snake", "snake"), "acme")
    assert "acme" not in registry.plugins()
    assert not [e for e in registry.components() if e.plugin == "acme"]


def test_a_misspelt_hook_is_an_error_and_leaves_nothing_behind() -> None:
    registry = Registry(NONE)
    plugin = SimpleNamespace(speechkit_activatoins=activations("snake").speechkit_activations)
    with pytest.raises(PluginError, match="speechkit_activatoins"):
        registry.add(plugin, "acme")
    registry.add(activations("snake"), "acme")
    assert registry.find("activation", "snake").plugin == "acme"


@pytest.mark.parametrize("name", [CORE, "acme"])
def test_a_plugin_name_is_given_once(name: str) -> None:
    registry = Registry(NONE)
    registry.add(activations("snake"), "acme")
    with pytest.raises(PluginError, match=f"a plugin named '{name}' is loaded already"):
        registry.add(activations("other"), name)
    assert registry.find("activation", "snake").plugin == "acme"


def test_an_unknown_name_suggests_the_closest() -> None:
    known = "gelu, hardtanh, identity, relu, silu"
    message = f"no activation named 'rleu'. Did you mean 'relu'? Known: {known}"
    with pytest.raises(ComponentError, match=f"^{re.escape(message)}$"):
        Registry(NONE).find("activation", "rleu")


def test_a_component_of_another_kind_says_of_which() -> None:
    message = "no mixer named 'relu'; relu is an activation: use activation=relu. "
    message += "Known: depthwise, gru"
    with pytest.raises(ComponentError, match=f"^{re.escape(message)}$"):
        Registry(NONE).find("mixer", "relu")
    # there is no transform=grow to type
    with pytest.raises(ComponentError, match=r"grow is a transform\. Known:"):
        Registry(NONE).find("mixer", "grow")


def test_an_unknown_plugin_is_named_with_what_to_type() -> None:
    with pytest.raises(ComponentError, match=r"type: pip install speechkit-norms$"):
        Registry(NONE).find("activation", "norms/snake")
    with pytest.raises(ComponentError) as caught:
        Registry(NONE).find("activation", "acme/snake")
    assert "Plugin 'acme' is not installed; it is not one of speechkit's own" in str(caught.value)
    assert "If it is a file, add --plugin acme.py with its path" in str(caught.value)
    with pytest.raises(ComponentError) as caught:
        Registry(NONE).find("activation", "evil --index-url http://x/snake")
    assert "is not installed" not in str(caught.value)


@pytest.mark.parametrize("name", ["", "My-Lab", "lab 2", "x --index-url http://evil"])
def test_a_plugin_has_a_plain_name(name: str, tmp_path: Path) -> None:
    with pytest.raises(PluginError, match="is no plugin name; rename it"):
        Registry(NONE).add(activations("snake"), name)


def test_a_plugin_from_a_file_is_known_as_one(tmp_path: Path) -> None:
    registry = Registry(NONE)
    path = tmp_path / "lab_of_mine.py"
    path.write_text(
        "import speechkit as sk\n@sk.hookimpl\ndef speechkit_activations():\n"
        "    return [sk.Component(name='snake', factory='speechkit.nn:Bias', summary='ours')]\n"
    )
    registry.load_file(path)
    needed = [("activation", Spec("lab_of_mine/snake"))]
    assert registry.used_by(needed) == {"lab_of_mine": Origin(file="lab_of_mine.py")}


def test_an_unknown_kind_suggests_the_closest() -> None:
    with pytest.raises(ComponentError, match=r"no kind 'activations'\. Did you mean 'activation'"):
        Registry(NONE).components("activations")


def test_a_wrong_parameter_is_named_with_the_right_ones() -> None:
    registry = Registry(NONE)
    registry.add(activations("swish"), "acme")
    message = (
        "activation swish:betta=2: got an unexpected keyword argument 'betta'; "
        "it takes ['beta', 'learn']"
    )
    with pytest.raises(ComponentError, match=f"^{re.escape(message)}$"):
        registry.build("activation", "swish:betta=2", 8)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("flag=off", 'flag takes true or false, not "off"'),
        ("flag=2", "flag takes true or false, not 2"),
        ("count=1.5", "count takes a whole number or null, not 1.5"),
        ("count=true", "count takes a whole number or null, not true"),
        ("share=nan", 'share takes a number, not "nan"'),
        ("share=null", "share takes a number, not null"),
        ("word=3", "word takes text, not 3"),
    ],
)
def test_a_parameter_of_a_wrong_type_is_refused(given: str, expected: str) -> None:
    registry = Registry(NONE)
    registry.add(activations("odd", factory=odd), "acme")
    with pytest.raises(ComponentError, match=f": {re.escape(expected)}$"):
        registry.build("activation", f"odd:{given}", 8)


def test_a_parameter_of_another_annotation_is_not_checked() -> None:
    registry = Registry(NONE)
    listed = [Component(name="odd", factory=odd, summary="An odd one.", parts={"part": "norm"})]
    registry.add(SimpleNamespace(speechkit_activations=hookimpl(lambda: listed)), "acme")
    for given in ("flag=true", "count=null", "count=3", "share=2", "word=a", "free=1.5", "any=x"):
        registry.build("activation", f"odd:{given}", 8)
    # a component with parameters where its name is text, and a default of another type
    for given in ("part=batch", "part={batch:eps=0.1}", "auto=null", "auto=3"):
        registry.build("activation", f"odd:{given}", 8)
    for name, value in (("share", np.float32(0.5)), ("count", np.int64(1)), ("flag", np.True_)):
        registry.build("activation", Spec("odd", {name: value}), 8)


def test_a_parameter_the_core_gives_cannot_be_given_again() -> None:
    registry = Registry(NONE)
    registry.add(activations("swish"), "acme")
    with pytest.raises(ComponentError, match="unexpected keyword argument 'channels'"):
        registry.build("activation", "swish:channels=2", 8)


def test_what_a_factory_refuses_is_reported_with_the_component() -> None:
    def picky(channels: int, beta: float = 1.0) -> nn.Module:
        raise ValueError("beta is not positive")

    registry = Registry(NONE)
    registry.add(activations("picky", factory=picky), "acme")
    with pytest.raises(ComponentError, match=r"^activation picky:beta=-1: beta is not positive$"):
        registry.build("activation", "picky:beta=-1", 8)


def test_build_hands_over_arguments_and_parameters() -> None:
    registry = Registry(NONE)
    registry.add(activations("swish"), "acme")
    built = registry.build("activation", "swish:beta=2,learn=true", 8)
    assert (built.channels, built.beta, built.learn) == (8, 2, True)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("activation", "torch.nn.Module"),
        ("residual", "torch.nn.Module"),
        ("mixer", "speechkit.nn.StreamLayer"),
        ("block", "speechkit.nn.StreamLayer"),
        ("stack", "speechkit.nn.StreamLayer"),
        ("stem", "speechkit.nn.StreamLayer"),
        ("head", "speechkit.nn.StreamLayer"),
        ("pool", "speechkit.nn.StreamLayer"),
        ("frontend", "speechkit.nn.StreamLayer"),
        ("normalizer", "speechkit.nn.StreamLayer"),
    ],
)
def test_a_factory_that_returns_no_layer_of_its_kind_is_named(kind: str, expected: str) -> None:
    returned = len if expected == "torch.nn.Module" else nn.Conv1d(4, 4, 3)
    one = Component(name="bare", factory=lambda *args: returned, summary="-")
    registry = Registry(NONE)
    registry.add(SimpleNamespace(**{KINDS[kind]: hookimpl(lambda: [one])}), "acme")
    with pytest.raises(ComponentError) as caught:
        registry.build(kind, "bare")
    assert f"{kind} acme/bare: its factory returned an object of type" in str(caught.value)
    assert f"{type(returned).__name__}, expected a {expected};" in str(caught.value)


def test_a_mixer_that_sets_a_reserved_attribute_is_named() -> None:
    class Rated(StreamLayer):
        def __init__(
            self,
            channels: int,
            kernel: int,
            stride: int,
            dilation: int,
            lookahead: LookAhead,
            buffer: bool = False,
        ) -> None:
            super().__init__()
            if buffer:
                self.register_buffer("rate", torch.ones(channels))
            self.rate = 0.5  # type: ignore[assignment]

    one = Component(name="rated", factory=Rated, summary="-")
    registry = Registry(NONE)
    registry.add(SimpleNamespace(speechkit_mixers=hookimpl(lambda: [one])), "acme")
    config = QuartzNet(size="5x5", mixer="depthwise")
    with using(registry):
        for spec, said in (("rated", "Rated.rate is 0.5"), ("rated:buffer=true", "'rate' already")):
            with pytest.raises(ComponentError, match=rf"^mixer {spec}: .*{said}"):
                build(replace(config, mixer=spec))


@pytest.mark.parametrize("factory", ["no_such_module:Swish", "speechkit.nn:NoSuchLayer"])
def test_a_factory_that_cannot_be_imported_is_named(factory: str) -> None:
    registry = Registry(NONE)
    registry.add(activations("swish", factory=factory), "acme")
    message = f"activation acme/swish cannot be loaded from '{factory}'"
    with pytest.raises(PluginError, match=f"^{message}: .*no_such_module|NoSuchLayer"):
        registry.build("activation", "swish", 8)


def test_entry_points_are_loaded_with_their_distribution_s_version(install: Install) -> None:
    install("acme", version="1.2")
    entry = Registry(entry_points("acme")).find("activation", "acme_act")
    assert (entry.plugin, entry.version) == ("acme", "1.2")


def test_only_wanted_entry_points_are_loaded(install: Install) -> None:
    install("acme")
    install("other")
    assert set(Registry(NONE).plugins()) == {CORE}
    assert set(Registry(entry_points("other")).plugins()) == {CORE, "other"}
    assert set(Registry(entry_points("other", " acme")).plugins()) == {CORE, "acme", "other"}


def test_disabled_entry_points_are_not_loaded(install: Install) -> None:
    install("acme")
    install("other")
    wanted = entry_points("acme", "other")
    registry = Registry({**wanted, "SPEECHKIT_DISABLE_PLUGINS": "acme"})
    assert set(registry.plugins()) == {CORE, "other"}
    assert not registry.failures


def test_without_variables_every_entry_point_is_loaded(install: Install) -> None:
    install("acme")
    assert {CORE, "acme"} <= set(Registry({}).plugins())


def test_the_core_cannot_be_disabled() -> None:
    with pytest.raises(PluginError, match="'core' cannot be disabled"):
        Registry({**NONE, "SPEECHKIT_DISABLE_PLUGINS": "core"})


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("import no_such_module", "No module named 'no_such_module'"),
        (
            "from speechkit import hookimpl\n@hookimpl\ndef speechkit_nroms(): ...",
            "speechkit_nroms",
        ),
        (
            "from speechkit import hookimpl\n@hookimpl\ndef speechkit_norms(): 1 / 0",
            "division by zero",
        ),
        ("import sys; sys.exit()", "it calls sys.exit(None)"),
        ("raise KeyError", "KeyError()"),
    ],
)
def test_a_failing_plugin_is_recorded_and_matters_only_if_needed(
    install: Install, caplog: pytest.LogCaptureFixture, code: str, reason: str
) -> None:
    install("broken", code)
    install("sound")
    with caplog.at_level(logging.WARNING):
        registry = Registry(entry_points("broken", "sound"))
    assert "plugin broken did not load" in caplog.text
    assert reason in registry.failures["broken"]
    assert set(registry.plugins()) == {CORE, "sound"}
    assert registry.find("activation", "relu").plugin == CORE
    for name in ("rms", "broken/rms"):
        with pytest.raises(ComponentError) as caught:
            registry.find("norm", name)
        assert f"Plugin 'broken' did not load: {registry.failures['broken']}" in str(caught.value)
        assert "pip install speechkit-broken" not in str(caught.value)


def test_a_file_is_a_plugin_under_its_own_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "modules", sys.modules.copy())
    (tmp_path / "beside_a_recipe.py").write_text(MODULE.format(name="itself"))
    registry = Registry(NONE)
    registry.load_file(tmp_path / "beside_a_recipe.py")
    assert registry.find("activation", "itself").qualified_name == "beside_a_recipe/itself"
    assert isinstance(registry.build("activation", "itself", 8), nn.Identity)


def test_a_plugin_file_that_fails_says_why_and_can_be_loaded_once_repaired(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "modules", sys.modules.copy())
    file = tmp_path / "to_repair.py"
    file.write_text("1 / 0")
    registry = Registry(NONE)
    with pytest.raises(PluginError, match=r"to_repair\.py does not import: division by zero"):
        registry.load_file(file)
    file.write_text(MODULE.format(name="itself") + "# longer than before\n")
    registry.load_file(file)
    assert registry.find("activation", "itself").plugin == "to_repair"


def test_a_plugin_file_does_not_take_the_place_of_a_module(tmp_path: Path) -> None:
    (tmp_path / "json.py").write_text("")
    before = sys.modules["json"]
    with pytest.raises(PluginError, match="a module 'json' is loaded already; rename"):
        Registry(NONE).load_file(tmp_path / "json.py")
    assert sys.modules["json"] is before


@pytest.mark.parametrize("name", ["missing.py", "notes.txt"])
def test_what_is_no_plugin_file_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(PluginError, match=r"no plugin file|is not a Python file"):
        Registry(NONE).load_file(tmp_path / name)


def test_a_plugin_asked_for_by_a_wrong_name_is_noted() -> None:
    registry = Registry({"SPEECHKIT_PLUGINS": "nosuch"})
    assert registry.failures == {
        "nosuch": "not installed; it is not one of speechkit's own; get it from whoever wrote it"
    }


def test_two_distributions_with_one_key_are_named_and_neither_loads(install: Install) -> None:
    install("acme", distribution="acme_layers")
    install("acme", MODULE.format(name="snake"), "0.3", "snakes")
    install("other", MODULE.format(name="snake"))
    install("third", MODULE.format(name="boa"))
    registry = Registry(entry_points("acme", "other", "third"))
    reason = (
        "acme_layers 1.2 and snakes 0.3 have the same entry point 'acme'; "
        "uninstall all but one of them"
    )
    assert registry.failures == {"acme": reason}
    assert set(registry.plugins()) == {CORE, "other", "third"}
    message = (
        f"activation 'snake' is one of plugin 'acme' too, which did not load: {reason}; "
        "for the one of 'other' write other/snake"
    )
    with pytest.raises(ComponentError, match=f"^{re.escape(message)}$"):
        registry.find("activation", "snake")
    assert registry.find("activation", "other/snake").plugin == "other"
    assert registry.find("activation", "boa").plugin == "third"
    with pytest.raises(ComponentError, match=r"no activation named 'acme_act'.*acme_layers 1\.2"):
        registry.find("activation", "acme_act")
    disabled = {**entry_points("acme", "other"), "SPEECHKIT_DISABLE_PLUGINS": "acme"}
    assert Registry(disabled).find("activation", "snake").plugin == "other"


@pytest.mark.parametrize(
    ("value", "plugins"),
    [
        ("{file}", {"acme", "lab_of_files"}),
        (",{file}", {"lab_of_files"}),
        ("other, {file}", {"lab_of_files"}),
        ("acme,{file}", {"acme", "lab_of_files"}),
        ("{file},{file}", {"acme", "lab_of_files"}),
    ],
)
def test_the_variable_names_files_beside_entry_points(
    install: Install,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    value: str,
    plugins: set[str],
) -> None:
    monkeypatch.setattr(sys, "modules", sys.modules.copy())
    install("acme")
    file = tmp_path / "lab_of_files.py"
    file.write_text(MODULE.format(name="itself"))
    registry = Registry({"SPEECHKIT_PLUGINS": value.format(file=file)})
    assert registry.plugins().keys() & {"acme", "lab_of_files"} == plugins
    assert registry.files == [file]
    # another registry of the process takes the module that is there
    assert Registry({"SPEECHKIT_PLUGINS": f",{file}"}).find("activation", "itself")


def test_a_file_that_the_variable_names_in_vain_is_noted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_lab.py").write_text("import sys; sys.exit(3)")
    monkeypatch.chdir(tmp_path)
    registry = Registry({"SPEECHKIT_PLUGINS": ",broken_lab.py,no_lab.py"})
    assert registry.plugins().keys() == {CORE}
    assert "broken_lab.py does not import: it calls sys.exit(3)" in registry.failures["broken_lab"]
    assert "no plugin file" in registry.failures["no_lab"]
    assert "broken_lab" not in sys.modules


def unmarked() -> list[Component]:
    """A function without `hookimpl`."""
    return []


@pytest.mark.parametrize(
    ("hooks", "message"),
    [
        (
            {"speechkit_norms": hookimpl(lambda: Component(name="a", factory=Swish, summary="a"))},
            r"plugin 'acme': speechkit_norms returns Component\(.*; return a list of sk\.Component",
        ),
        (
            {"speachkit_activations": activations("snake").speechkit_activations},
            "plugin 'acme': speachkit_activations is no hook; did you mean speechkit_activations",
        ),
        (
            {"speachkit_activations": unmarked},
            "plugin 'acme': speachkit_activations is no hook; did you mean speechkit_activations",
        ),
    ],
)
def test_a_hook_that_is_none_or_returns_no_list_is_named(
    hooks: dict[str, Any], message: str
) -> None:
    with pytest.raises(PluginError, match=f"^{message}"):
        Registry(NONE).add(SimpleNamespace(**hooks), "acme")
