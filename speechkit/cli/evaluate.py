"""`speechkit evaluate` and `calibrate`: metrics on a manifest, and calibrated word scores."""

from pathlib import Path
from typing import Annotated, Any

import typer

from speechkit.cli.models import decoder_spec, load_model
from speechkit.cli.options import DecoderOption, Device, HotwordsOption, Json, Lm, ModelName
from speechkit.cli.output import complain, in_words, pairs, show
from speechkit.cli.transcript_files import refuse_input, refuse_other_kind
from speechkit.io.files import atomic_file

Manifest = Annotated[Path, typer.Option(metavar="M", help="JSON lines: what to judge it on.")]


def evaluate(
    model: ModelName,
    manifest: Manifest,
    decoder: DecoderOption = "greedy",
    lm: Lm = None,
    hotwords: HotwordsOption = None,
    streaming: Annotated[
        bool, typer.Option("--streaming", help="Feed each recording as a session is fed.")
    ] = False,
    report: Annotated[
        Path | None, typer.Option(metavar="HTML", help="Write a page with tables and plots.")
    ] = None,
    device: Device = "cpu",
    as_json: Json = False,
) -> None:
    """Judge a model on a manifest: WER and CER, accuracy or AUC, as fractions."""
    from speechkit.data import read_manifest
    from speechkit.io.folders import find
    from speechkit.report import judge, page

    if report is not None:
        refuse_input(report, manifest, lm, hotwords, *find(model).iterdir())
        refuse_input(report, *(utterance.audio for utterance in read_manifest(manifest)))
        refuse_other_kind(report, ".html", ".htm")
    judged = judge(
        load_model(model, device), manifest, decoder_spec(decoder, lm, hotwords), streaming
    )
    if report is not None:
        title = f"{model} on {manifest}"
        with atomic_file(report) as part:
            part.write_text(
                page(title, judged.figures, judged.sections()), encoding="utf-8", newline="\n"
            )
    show(judged.figures, in_words(judged.figures), as_json)


def calibrate(
    model: ModelName,
    manifest: Manifest,
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Where the new model goes.")],
    as_json: Json = False,
) -> None:
    """Fit words' scores to how often they are right, and save the model with the fit."""
    from dataclasses import replace

    from speechkit.card import read_card, read_transforms
    from speechkit.checkpoint import load, save
    from speechkit.data import utterances_of
    from speechkit.errors import ConfigError
    from speechkit.io.folders import find
    from speechkit.report.recognition import recognition
    from speechkit.tasks import metrics, require
    from speechkit.text import confidence

    folder = find(model)
    card, net = read_card(folder), load(folder)
    require(net, "transcribe")
    if not hasattr(net.config, "confidence"):
        raise ConfigError(f"the config of a {net.config.kind} has no confidence to fit")
    setting: dict[str, Any] = {"confidence": (1.0, 0.0)}
    net.config = replace(net.config, **setting)
    scores, right = recognition(net, utterances_of(manifest)).scored_words()
    setting["confidence"] = fitted = confidence.fit(scores, right)
    net.config = replace(net.config, **setting)
    after = [confidence.calibrated(p, fitted) for p in scores]
    row = {
        "words": len(scores),
        "confidence": fitted,
        "calibration_error_before": metrics.calibration_error(metrics.reliability(scores, right)),
        "calibration_error": metrics.calibration_error(metrics.reliability(after, right)),
    }
    # the weights are the same, and so are the texts
    save(net, out, card, read_transforms(folder))
    if (all_are := confidence.one_sided(right)) is not None:
        complain(
            "warning",
            f"all {len(right)} words of {manifest} are {all_are}, so the slope of the scores stays "
            "as it is; fit them to recordings with both right and wrong words",
        )
    show(row, pairs(row), as_json)
