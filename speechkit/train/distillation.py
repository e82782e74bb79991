"""Distillation: a student learns at every frame what a teacher says of the same recording."""

import hashlib
import json
import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from speechkit.checkpoint import load, write_tensors
from speechkit.data import Batch, UtteranceDataset
from speechkit.errors import TrainingError
from speechkit.files import whole_file
from speechkit.models import Model, Output, prepare

log = logging.getLogger(__name__)

EDGE_FRAMES = 2
"""How far the two front ends' numbers of frames may lie apart."""


@dataclass
class Distillation:
    """weight · Σ_t KL(teacher_t ‖ student_t) for each utterance.

    The teacher, a CTC model folder with the student's labels and frame rate, hears each utterance
    as it was recorded; the student may hear it with noise or masks, but not faster or slower. What
    the teacher says is kept in float16 in the file `cache`, 3 kB per second of sound at 28 labels
    and 20 ms. Source: Hinton et al., arXiv:1503.02531.
    """

    teacher: str
    cache: str
    weight: float = 1.0
    needs_no_text: ClassVar[bool] = True
    said: list[Tensor] = field(default_factory=list, init=False, repr=False)

    def start(self, model: Model, dataset: UtteranceDataset) -> None:
        """Reads what the teacher says of the data set, or has it said."""
        teacher = load(self.teacher)
        if teacher.labels != model.labels or teacher.frame_s != model.frame_s:
            raise TrainingError(
                f"teacher {self.teacher} has {len(teacher.labels)} labels every "
                f"{teacher.frame_s:g} s, the student {len(model.labels)} every {model.frame_s:g} s;"
                " give both the same"
            )
        about = _fingerprint(self.teacher, dataset)
        path = Path(self.cache)
        if not path.is_file():
            log.info("the teacher hears %d utterances once", len(dataset))
            said = {str(index): x for index, x in enumerate(_hear(teacher, dataset))}
            with whole_file(path) as part:
                write_tensors(part, said, {"about": about})
        self.said = _read(path, about)

    def extra_loss(self, batch: Batch, output: Output) -> Tensor:
        """The losses `[B]`."""
        rows = [self.said[index] for index in batch.indices]
        for row, length, name in zip(rows, output.lengths.tolist(), batch.names, strict=True):
            if abs(len(row) - length) > EDGE_FRAMES:
                raise TrainingError(
                    f"{name}: the teacher has {len(row)} frames, the student {length}; leave out "
                    "augmentations that change the duration"
                )
        device = output.scores.device
        teacher = pad_sequence(rows, batch_first=True).to(device, output.scores.dtype)
        frames = min(teacher.shape[1], output.scores.shape[1])
        teacher, student = teacher[:, :frames], output.scores[:, :frames]
        known = torch.tensor([len(row) for row in rows], device=device)
        valid = torch.arange(frames, device=device) < torch.minimum(known, output.lengths)[:, None]
        divergence = (teacher.exp() * (teacher - student)).sum(2)
        return self.weight * divergence.masked_fill(~valid, 0.0).sum(1)


@torch.inference_mode()
def _hear(teacher: Model, dataset: UtteranceDataset) -> list[Tensor]:
    """The teacher's log-probabilities of each utterance, `[T, V + 1]` float16."""
    quick = prepare(teacher)
    said = []
    for index in range(len(dataset)):
        output: Output = quick(dataset.audio(index)[None])
        said.append(output.scores[0, : output.lengths[0]].clamp(min=-1e4).half())
    return said


def _fingerprint(teacher: str, dataset: UtteranceDataset) -> str:
    """What the cache depends on, in few letters."""
    rows = [[str(u.audio), u.offset_s, u.duration_s] for u in dataset.utterances]
    return hashlib.sha256(json.dumps([str(Path(teacher).resolve()), rows]).encode()).hexdigest()


def _read(path: Path, about: str) -> list[Tensor]:
    try:
        with safe_open(path, "pt") as file:
            if (file.metadata() or {}).get("about") != about:
                raise TrainingError(
                    f"cache={path} is of other utterances or another teacher; delete it or name "
                    "another"
                )
            return [file.get_tensor(str(index)) for index in range(len(file.keys()))]
    except SafetensorError as error:
        raise TrainingError(f"cache={path} cannot be read: {error}; delete it") from error
