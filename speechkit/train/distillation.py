"""Distillation: a student is trained at every frame towards a teacher's output."""

import hashlib
import json
import logging
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from speechkit.checkpoint import load, write_tensors
from speechkit.data import Batch, UtteranceDataset
from speechkit.errors import TrainingError
from speechkit.io.files import atomic_file
from speechkit.models import Model, Output, prepare
from speechkit.train.method import Method, check_decodes

log = logging.getLogger(__name__)

EDGE_FRAMES = 2
"""The largest difference in frames between two front ends for one utterance."""


@dataclass
class Distillation(Method):
    """weight · Σ_t KL(teacher_t ‖ student_t) for each utterance.

    The teacher is a CTC model folder with the student's labels and frame rate. It gets each
    utterance without augmentation. The student's augmentations may add noise or masks, but not
    change the duration. The teacher's log-probabilities are stored in float16 in the file `cache`:
    3 kB per second of audio at 28 labels and 20 ms. Source: Hinton et al., arXiv:1503.02531.
    """

    teacher: str
    cache: str
    weight: float = 1.0
    scores: list[Tensor] = field(default_factory=list, init=False, repr=False)
    needs_no_text = True

    def start(self, model: Model, dataset: UtteranceDataset) -> None:
        """Checks that the teacher fits the student, and reads the cache if it exists."""
        check_decodes("distill", model)
        teacher = load(self.teacher)
        if teacher.labels != model.labels or teacher.frame_s != model.frame_s:
            raise TrainingError(
                f"teacher {self.teacher} has {len(teacher.labels)} labels every "
                f"{teacher.frame_s:g} s, the student {len(model.labels)} every {model.frame_s:g} s;"
                " give both the same"
            )
        if Path(self.cache).is_file():
            self.scores = _read(Path(self.cache), _fingerprint(self.teacher, dataset))

    def prepare(self, model: Model, dataset: UtteranceDataset) -> None:
        """Computes the teacher's output for the data set and writes the cache."""
        if Path(self.cache).is_file():
            return
        log.info("the teacher reads %d utterances once", len(dataset))
        self.scores = _teacher_scores(load(self.teacher), dataset)
        tensors = {str(index): x for index, x in enumerate(self.scores)}
        with atomic_file(Path(self.cache)) as part:
            write_tensors(part, tensors, {"about": _fingerprint(self.teacher, dataset)})

    def extra_loss(self, batch: Batch, output: Output) -> Tensor:
        """The losses `[B]`."""
        rows = [self.scores[index] for index in batch.indices]
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
def _teacher_scores(teacher: Model, dataset: UtteranceDataset) -> list[Tensor]:
    """The teacher's log-probabilities of each utterance, `[T, V + 1]` float16."""
    quick = prepare(teacher)
    scores = []
    for index in range(len(dataset)):
        output: Output = quick(dataset.audio(index)[None])
        scores.append(output.scores[0, : output.lengths[0]].clamp(min=-1e4).half())
    return scores


def _fingerprint(teacher: str, dataset: UtteranceDataset) -> str:
    """A hash of everything that the cache depends on."""
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
