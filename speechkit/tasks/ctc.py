"""Speech recognition: text by connectionist temporal classification (CTC)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from speechkit import text
from speechkit.data import Batch, Channel, RawFormat, Source, Utterance
from speechkit.decode import Decoder
from speechkit.errors import ManifestError
from speechkit.events import Listener
from speechkit.infer import transcribe
from speechkit.models import Model, Output
from speechkit.models.net import Name
from speechkit.report.recognition import Recognized, recognition
from speechkit.streaming.listeners import listener_for
from speechkit.tasks.base import Task
from speechkit.tasks.metrics import cer, wer
from speechkit.text.transcript import Transcript


class Recognition(Task):
    """Text from speech.

    Scores are log-probabilities `[B, T, V + 1]` of the labels, which are characters, and blank. An
    utterance needs a `text`. Metrics: word and character error rate, `wer` and `cer`.
    """

    verb = "transcribe"
    loss = "ctc"
    decodes = True
    placeholder = torch.empty(0, dtype=torch.int64)

    def encode(self, utterance: Utterance) -> Tensor:
        """The ids of the labels that spell the text, `[U]`."""
        if utterance.text is None:
            raise ManifestError(f"{utterance.place} has no text; add the key 'text' to its line")
        try:
            normalized = text.normalize(utterance.text, self.normalization, self.labels)
        except ManifestError as error:
            raise ManifestError(f"{utterance.place}: {error}") from error
        return torch.from_numpy(text.encode(normalized, self.labels))

    def lacks_target(self, utterance: Utterance) -> bool:
        """True without a text, whatever else it has."""
        return utterance.text is None

    def predictions(self, output: Output) -> list[str]:
        """The text of the best label of each frame."""
        best = text.greedy_ctc(output.scores.float().numpy(force=True), output.lengths.tolist())
        return [text.decode(ids, self.labels).strip() for ids in best]

    def references(self, batch: Batch, output: Output) -> list[str]:
        """The texts, normalised."""
        targets, lengths = self.targets(batch, output)
        rows = zip(targets, lengths.tolist(), strict=True)
        return [text.decode(row[:n].tolist(), self.labels) for row, n in rows]

    def metrics(self, references: Sequence[str], predictions: Sequence[str]) -> dict[str, float]:
        return {"wer": wer(references, predictions), "cer": cer(references, predictions)}

    def predict(
        self,
        model: Model,
        audio: Source,
        sample_rate: int | None = None,
        *,
        channel: Channel = "mix",
        raw: RawFormat | None = None,
    ) -> Transcript:
        """As `sk.transcribe` with its defaults."""
        return transcribe(model, audio, sample_rate, channel=channel, raw=raw)

    def listener(self, frame_s: float, decoder: Decoder | Name | None = None) -> Listener:
        """Partial and final texts, by the config's `endpointing`."""
        return listener_for(self, frame_s, decoder)

    def report(
        self,
        model: Model,
        utterances: Sequence[Utterance],
        decoder: Name = "greedy",
        streaming: bool = False,
    ) -> Recognized:
        """Error rates with counts, speakers, confidence, speed and, where `streaming`, latency."""
        return recognition(model, utterances, decoder, streaming)
