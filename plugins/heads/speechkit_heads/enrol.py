"""New labels for a trained clip classifier, from a few recordings of each."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from speechkit.errors import ManifestError
from speechkit.models import Model, build
from speechkit.probes import Examples
from speechkit.transforms import Transform, required
from speechkit_heads.embeddings import Embeddings, labelled

SPEEDS = 0.9, 1.1
NOISE_DB = -15.0
"""Changes of a clip that are further examples of its word; the noise is relative to the clip."""
QUIET_DB = range(-100, -19, 10)
"""Levels of a second of white noise that is no word, in dB below full scale."""
STEP_S = 0.2
"""The time between those windows of other recordings that are used."""
PIECE_S = 0.3, 0.7
AROUND_S = 0.3
"""The shortest and longest piece of another recording that stands for a single word, and the
silence before and after it."""
RIDGE = 1e-4
"""The weight of the squared change of a new row; chosen on dev words (RESULTS.md)."""
MOST_STEPS = 500


def enrol() -> Transform:
    """A transform that adds a label for each new `label` of the recordings.

    The new rows w_k, b_k of the last layer minimise
    mean_i −log p(y_i | h_i) + mean_j −log(1 − p_new(h_j)) + RIDGE Σ_k ‖w_k − u_k‖²,
    which has one minimum; all other weights stay. The h_i are embeddings of the new labels' clips,
    also slower, faster and with noise. The h_j have no new label: the clips backwards, noise, and
    the recordings whose label the model has, whole and in pieces with silence around each.
    u_k = Σ_j p_j w_j is the mean row of the labels that the model gives to the clips of k.

    Raises ConfigError for a model with another head than `clip`, and ManifestError without
    recordings of new labels, or without others.
    """

    def apply(model: Model, examples: Examples | None) -> tuple[Model, dict[str, Any]]:
        embed = Embeddings(model, "enrol")
        found = gathered(embed, required(examples, "enrol"))
        new = sorted(set(found.clips))
        added = rows(embed, found, new)
        made = build(replace(model.config, labels=(*model.labels, *new)))
        weights = model.state_dict()
        for name, value in zip(("head.linear.weight", "head.linear.bias"), added, strict=True):
            weights[name] = torch.cat([weights[name], value.to(weights[name])])
        made.load_state_dict(weights)
        made.to(embed.weight.device)
        return made, {"clips": dict(Counter(found.clips)), "others": len(found.others)}

    return apply


@dataclass(frozen=True)
class Found:
    """Embeddings `[C]` of words, with their labels, and of other sound; the label of each clip."""

    words: list[Tensor] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    others: list[Tensor] = field(default_factory=list)
    clips: list[str] = field(default_factory=list)


def gathered(embed: Embeddings, examples: Examples) -> Found:
    """The embeddings of the recordings and of what is made of them."""
    found = Found()
    known, rate = embed.model.labels, embed.model.sample_rate
    for label, audio in labelled(examples):
        if label in known:
            step = max(1, round(STEP_S / embed.model.frame_s))
            found.others.extend(embed.windows(audio)[step - 1 :: step])
            found.others.extend(map(embed.clip, pieces(audio, rate)))
            continue
        for changed in (audio, *(at_speed(audio, x) for x in SPEEDS), noisy(audio)):
            found.words.append(embed.clip(changed))
            found.labels.append(label)
        found.clips.append(label)
        found.others.append(embed.clip(audio.flip(0)))
    if not found.clips:
        raise ManifestError(
            f"enrol: the model has all labels of the recordings: {', '.join(known)}; "
            "give clips of a new one"
        )
    if len(found.others) == len(found.clips):
        raise ManifestError(
            "enrol: all recordings have new labels; add a minute of other speech, with a label of "
            f"the model such as {known[-1]!r}"
        )
    device = embed.weight.device
    for level_db in QUIET_DB:
        noise = 10 ** (level_db / 20) * torch.randn(rate)
        found.others.append(embed.clip(noise.to(device)))
    return found


def rows(embed: Embeddings, found: Found, new: list[str]) -> tuple[Tensor, Tensor]:
    """The weights `[n, C]` and biases `[n]` of the labels `new`."""
    words, others = torch.stack(found.words), torch.stack(found.others)
    targets = torch.tensor([new.index(label) for label in found.labels])
    known_words, known_others = (embed.logits(x).double().cpu() for x in (words, others))
    words, others = words.double().cpu(), others.double().cpu()
    # what the model takes each new label's clips for
    taken = torch.stack([known_words[targets == k].softmax(1).mean(0) for k in range(len(new))])
    start = taken @ embed.weight.double().cpu()
    weight = start.clone().requires_grad_()
    bias = torch.zeros(len(new), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [weight, bias], max_iter=MOST_STEPS, tolerance_grad=1e-9, line_search_fn="strong_wolfe"
    )

    def loss() -> Tensor:
        scores = torch.cat([known_words, F.linear(words, weight, bias)], dim=1)
        wrong = F.cross_entropy(scores, targets + known_words.shape[1])
        # −log(1 − p_new) = log(1 + e^new / e^known)
        taken_for_new = F.linear(others, weight, bias).logsumexp(1) - known_others.logsumexp(1)
        return wrong + F.softplus(taken_for_new).mean() + RIDGE * (weight - start).square().sum()

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = loss()
        value.backward()
        return value

    with torch.enable_grad():
        optimizer.step(closure)
    return weight.detach(), bias.detach()


def pieces(audio: Tensor, sample_rate: int) -> Iterator[Tensor]:
    """Pieces of PIECE_S one after another, with silence around each."""
    around = round(AROUND_S * sample_rate)
    shortest, longest = (round(x * sample_rate) for x in PIECE_S)
    while len(audio) >= shortest:
        samples = int(torch.randint(shortest, longest, ()))
        yield F.pad(audio[:samples], (around, around))
        audio = audio[samples:]


def at_speed(audio: Tensor, speed: float) -> Tensor:
    """The sound `speed` times as fast and as high."""
    samples = max(1, round(len(audio) / speed))
    return F.interpolate(audio[None, None], size=samples, mode="linear", align_corners=True)[0, 0]


def noisy(audio: Tensor) -> Tensor:
    """The sound with white noise of NOISE_DB relative to it."""
    level = audio.square().mean().sqrt() * 10 ** (NOISE_DB / 20)
    return audio + level * torch.randn(len(audio)).to(audio.device)
