"""`speechkit demo`: runs a bundled model on real recordings, whole and as a stream."""

from importlib import resources
from pathlib import Path

from rich.table import Table

from speechkit.cli.models import load_model
from speechkit.cli.options import Json
from speechkit.cli.output import say, show
from speechkit.errors import ManifestError

MODEL = "digits"
CLIPS = Path(str(resources.files("speechkit"))) / "bundled" / "clips" / "clips.jsonl"
CHUNK_S = 0.08


def demo(as_json: Json = False) -> None:
    """Classify the bundled clips, stream them in chunks of 80 ms, and compare the scores."""
    import torch

    from speechkit.data import read_audio, read_manifest
    from speechkit.infer import stream_scores
    from speechkit.predictions import label_of

    if not CLIPS.is_file():
        raise ManifestError(f"no bundled clips at {CLIPS}; type: pip install -U speechkit-core")
    model = load_model(MODEL)
    table = Table("clip", "label", "whole", "streamed", "difference", box=None)
    right, worst, clips = 0, 0.0, read_manifest(CLIPS)
    for clip in clips:
        audio = read_audio(clip.audio, target_rate=model.sample_rate)
        with torch.inference_mode():
            offline = model(audio[None]).scores[0]
        streamed = torch.cat(list(stream_scores(model, audio, CHUNK_S)))[-1]
        whole, stream = label_of(model, offline), label_of(model, streamed)
        difference = (offline - streamed).abs().max().item()
        right, worst = right + (whole.label == clip.label), max(worst, difference)
        row = {
            "audio_filepath": str(clip.audio),
            "label": clip.label,
            "whole_label": whole.label,
            "whole_score": whole.score,
            "streamed_label": stream.label,
            "streamed_score": stream.score,
            "difference": difference,
        }
        table.add_row(
            clip.audio.name,
            clip.label,
            f"{whole.label} {whole.score:.1%}",
            f"{stream.label} {stream.score:.1%}",
            f"{difference:.1e}",
        )
        if as_json:
            show(row, "", as_json)
    if not as_json:
        say(table)
        say(
            f"{right} of {len(clips)} labelled rightly; the stream's scores, in chunks of "
            f"{CHUNK_S * 1000:.0f} ms, differ by at most {worst:.1e}"
        )
