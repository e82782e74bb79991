"""Training by labels that depend on the sound only through the transcript."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from speechkit.data import Batch, UtteranceDataset
from speechkit.decode.beam import BeamCTC
from speechkit.errors import ComponentError, TrainingError
from speechkit.models import Model, Output
from speechkit.tasks import Task, task_of
from speechkit.train import Method
from speechkit.train.method import check_decodes

ABSENT = -1e9
"""The log-probability of a hypothesis that there is none of."""
FIT_STEPS, RIDGE = 100, 1e-3
"""Steps of the first fit of the classifier, and the price of its squared weights."""


class LatentNBest(Method, nn.Module):
    """−weight · Σ_k q_k (log p(h_k|x) + log p(y|h_k) − log q_k), over the n best transcripts h_k.

    y is the label of an utterance, and q = softmax_k((log p(h_k|x) + log p(y|h_k)) / tau) has no
    gradient. The sum is a lower bound of log p(y|x); with tau=1 it is log Σ_k p(h_k|x) p(y|h_k),
    and less with any other tau. p(h|x) is that of CTC, summed over all alignments; the h_k are
    those of a beam search at the present weights. p(y|h) = softmax(W c(h) + b), where c(h) `[V]`
    counts the characters of h, is fitted to the texts of the training data before the first step,
    and trained along with the model. Utterances may lack a text.

    Raises TrainingError for a model without CTC and for an utterance without a label. The bound is
    that of Sordoni et al., arXiv:2306.12509, who train prompts; its use on transcripts is ours.
    """

    needs_no_text = True

    def __init__(self, n: int = 8, tau: float = 1.0, weight: float = 1.0) -> None:
        if n < 1 or not tau > 0 or not weight >= 0:
            raise ComponentError(
                f"method latent_nbest: n={n}, tau={tau}, weight={weight}; give 1 or more, a number "
                "above 0, and one from 0 up"
            )
        super().__init__()
        self.n, self.tau, self.weight = n, tau, weight

    def start(self, model: Model, dataset: UtteranceDataset) -> None:
        """Makes the classifier and fits it to the utterances that have a text."""
        check_decodes("latent_nbest", model)
        labels = []
        for utterance in dataset.utterances:
            if utterance.label is None:
                raise TrainingError(
                    f"{utterance.place} has no label; add the key 'label' to its line, or leave "
                    "method latent_nbest out"
                )
            labels.append(utterance.label)
        self.classes = sorted(set(labels))
        self.targets = torch.tensor([self.classes.index(label) for label in labels])
        self.decoder = BeamCTC(model.labels, beam=self.n)
        self.characters = nn.Parameter(torch.zeros(len(self.classes), len(model.labels)))
        self.bias = nn.Parameter(torch.zeros(len(self.classes)))
        self._fit(task_of(model), dataset)

    def extra_loss(self, batch: Batch, output: Output) -> Tensor:
        """The losses `[B]`."""
        targets = self.targets[batch.indices].to(output.scores.device)
        joint = self.joint(output)[torch.arange(len(targets)), :, targets]
        return -self.weight * bound(joint, self.tau)

    def joint(self, output: Output) -> Tensor:
        """log p(h_k|x) + log p(y|h_k) for every label, `[B, n, labels]`; ABSENT where a row has
        fewer transcripts. Its logsumexp over k scores the labels of new recordings."""
        found = [self._transcripts(*row) for row in zip(*output, strict=True)]
        rows = [row for row, ids in enumerate(found) for _ in ids]
        places = [place for ids in found for place, _ in enumerate(ids)]
        ids = [one for row in found for one in row]
        scores, counts = output.scores[rows].float(), self._counts(ids).to(output.scores.device)
        recognised = -F.ctc_loss(
            scores.transpose(0, 1),
            pad_sequence(ids, batch_first=True).to(scores.device),
            output.lengths[rows],
            torch.tensor([len(one) for one in ids], device=scores.device),
            blank=scores.shape[2] - 1,
            reduction="none",
        )
        labelled = self._log_p(counts)
        joint = labelled.new_full((len(found), self.n, len(self.classes)), ABSENT)
        return joint.index_put(
            (torch.tensor(rows), torch.tensor(places)), recognised[:, None] + labelled
        )

    def _transcripts(self, scores: Tensor, length: Tensor) -> list[Tensor]:
        """The label ids of at most n transcripts of one row."""
        state, _ = self.decoder.step(
            self.decoder.init(), scores[: int(length)].float().numpy(force=True)
        )
        return [torch.tensor((*state.stable, *h.tail), dtype=torch.int64) for h in state.beams]

    def _counts(self, ids: list[Tensor]) -> Tensor:
        """How often each label of the model occurs in transcripts, `[N, V]`."""
        labels = self.characters.shape[1]
        return torch.stack([one.bincount(minlength=labels) for one in ids]).float()

    def _log_p(self, counts: Tensor) -> Tensor:
        """log p(y|h) of every label, `[N, labels]`."""
        return F.linear(counts, self.characters, self.bias).log_softmax(1)

    def _fit(self, task: Task, dataset: UtteranceDataset) -> None:
        """Minimises −log p(y|text) and RIDGE · ‖W‖² over the utterances that have a text."""
        pairs = [
            (task.encode(utterance), target)
            for utterance, target in zip(dataset.utterances, self.targets, strict=True)
            if utterance.text is not None
        ]
        if not pairs:
            return
        counts = self._counts([ids for ids, _ in pairs])
        targets = torch.stack([target for _, target in pairs])
        newton = torch.optim.LBFGS(self.parameters(), max_iter=FIT_STEPS)

        def loss() -> Tensor:
            newton.zero_grad()
            price = RIDGE * self.characters.square().sum()
            value = F.nll_loss(self._log_p(counts), targets) + price
            value.backward()
            return value

        newton.step(loss)
        newton.zero_grad()


def bound(joint: Tensor, tau: float) -> Tensor:
    """Σ_k q_k (joint_k − log q_k), q = softmax(joint / tau) without a gradient.

    At most logsumexp(joint), and equal to it for tau=1. Shape: `[B, n]` → `[B]`.
    """
    log_q = (joint.detach() / tau).log_softmax(1)
    return (log_q.exp() * (joint - log_q)).sum(1)
