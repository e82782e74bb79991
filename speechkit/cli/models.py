"""Loads a model for inference commands, and prints its purpose."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from speechkit.cli.output import complain
from speechkit.component import Spec
from speechkit.errors import ConfigError

if TYPE_CHECKING:
    from speechkit.models import Model
    from speechkit.plans.plan import Plan

SMALL = 1_000_000
"""Models with fewer parameters use one thread, since a second one makes them slower."""
LONGEST_S = 10.0
"""The largest plausible time in seconds; larger values are probably milliseconds."""
FLAGS = {
    "postprocess": "--onset, --offset, --min-speech, --min-silence, --pad and --max-speech are for "
    "models that detect speech",
    "endpointing": "--endpoint-silence and --endpoint-longest are for models that transcribe",
}
"""The options that are fields of each rule."""


def load_net(name: str, device: str = "cpu", option: str | None = None) -> "Plan | Model":
    """The plan of a command's model, which needs no torch.

    Its Model instead, in torch, if it has no plan, for another device than the CPU or another
    implementation, and for an `option` that a plan does not have.
    """
    from speechkit.implementation import PLANS, asked
    from speechkit.plans.source import refuse_plan, usable_plan, why_torch, with_torch

    if option or device != "cpu":
        what = option or f"--device {device}"
    elif (impl := asked()) not in PLANS:
        what = f"implementation {impl!r:.40}"
    elif (plan := usable_plan(name)) is not None:
        return plan
    else:
        what = why_torch(name)
    refuse_plan(name, what)
    with_torch("torch", what)
    return load_model(name, device)


def load_model(name: str, device: str = "cpu") -> "Model":
    """The model of a command on its device; on the CPU prepared, with one thread if it is small."""
    from speechkit.plans.source import with_torch

    prepare = with_torch("speechkit.models.prepare").prepare
    model: Model = load_on(name, device)
    if next(model.parameters()).device.type != "cpu":
        return model
    small = sum(parameter.numel() for parameter in model.parameters()) < SMALL
    prepared: Model = prepare(model, threads=1 if small else None)
    return prepared


def load_on(name: str, device: str) -> "Model":
    """The model of a command on its device, not prepared."""
    from speechkit.plans.source import with_torch

    place = _device(device)
    model: Model = with_torch("speechkit.checkpoint").load(name).to(place)
    return model


def _device(name: str) -> Any:
    """The torch device of `--device`; raises ConfigError if it is not available."""
    from speechkit.plans.source import with_torch

    torch = with_torch("torch")
    if name.isdecimal():
        raise ConfigError(
            f"--device {name}: it is where the model computes, such as cpu or cuda; an input "
            f"device is --microphone {name}"
        )
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    # torch has an error for each kind of device that is not there
    except Exception as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"--device {name}: {reason}; give cpu, cuda, cuda:1 or mps") from error
    return device


def with_rules(net: "Plan | Model", **rules: dict[str, float | None]) -> "Plan | Model":
    """The plan or model with changed rules: `postprocess={"onset": 0.4}`, `endpointing={...}`."""
    from speechkit.plans.source import about_of

    given = {
        rule: {name: value for name, value in fields.items() if value is not None}
        for rule, fields in rules.items()
    }
    asked = {rule: fields for rule, fields in given.items() if fields}
    if not asked:
        return net
    about = about_of(net)
    for rule in asked:
        if rule not in about.rules:
            raise ConfigError(f"{FLAGS[rule]}, and this is a {about.kind}; leave them out")
    return net.with_(**asked)


def postprocess(
    onset: float | None,
    offset: float | None,
    min_speech: float | None,
    min_silence: float | None,
    pad: float | None,
    max_speech: float | None,
) -> dict[str, float | None]:
    """The fields of `PostProcessing`, of times in seconds."""
    flags = {"--min-speech": min_speech, "--min-silence": min_silence, "--pad": pad}
    for flag, seconds in flags.items():
        if seconds is not None and not 0 <= seconds <= LONGEST_S:
            raise ConfigError(f"{flag} {seconds:g}: give seconds from 0 to {LONGEST_S:g}")
    times_ms = [None if seconds is None else 1000 * seconds for seconds in flags.values()]
    return {
        "onset": onset,
        "offset": offset,
        "min_speech_ms": times_ms[0],
        "min_silence_ms": times_ms[1],
        "pad_onset_ms": times_ms[2],
        "pad_offset_ms": times_ms[2],
        "max_speech_s": max_speech,
    }


def decoder_spec(decoder: str, lm: Path | None, hotwords: Path | None) -> Spec:
    """The decoder of `--decoder` with the files of `--lm` and `--hotwords`, which need a beam."""
    spec = Spec.parse(decoder)
    files = {"lm": lm, "hotwords": hotwords}
    given = {name: str(path) for name, path in files.items() if path is not None}
    if given and spec.name == "greedy":
        spec = Spec("beam")
    return Spec(spec.name, {**spec.params, **given})


def tell_purpose(name: str) -> None:
    """Prints the purpose of the model on stderr in one line, if it has a card."""
    from speechkit.plans.source import card_of

    if card := card_of(name):
        complain("note", f"{name} {card.purpose}")


def tell_english() -> None:
    """Prints on stderr how to transcribe any English words."""
    from speechkit.published import ENGLISH, published

    pulled = published()[ENGLISH].is_pulled
    first = "" if pulled else f"type: speechkit pull {ENGLISH}, then "
    complain("note", f"for any English words {first}add --model {ENGLISH}")
