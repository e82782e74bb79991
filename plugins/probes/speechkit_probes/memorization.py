"""How many random labels a net of this size can learn."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from speechkit.errors import ComponentError
from speechkit.models import Model, build
from speechkit.probes import Examples
from speechkit.rules.spotting import Spotting
from speechkit_probes.numbers import whole_numbers


def memorization(
    counts: str | int = "4 8 16 32", steps: int = 150, classes: int = 2, rate: float = 0.01
) -> Callable[[Model, Examples], dict[str, Tensor]]:
    """The probe: a fresh net of the model's config, trained on random labels of the recordings.

    For each number N of `counts` that the recordings allow, a new net with `classes` labels is
    trained with AdamW for at most `steps` steps on N random recordings with random labels, all at
    once, with the statistics of their batch in norms. It shows how much a net can store, not what
    it learnt.

        count     the N that were tried
        right     the share of the N labels that the net gives in the end, in training
        largest   the largest N of which all labels were learnt, 0 for none
        per_weight   that N divided by the number of weights

    Vardi, Yehudai and Shamir, arXiv:2110.03187, show that about √N weights can be enough if they
    have many bits. ComponentError for other than classifiers of clips, and fewer
    recordings than the smallest of `counts`.
    """
    numbers = whole_numbers(counts)
    if not numbers or min(numbers) < 2 or steps < 1 or classes < 2 or not rate > 0:
        raise ComponentError(
            f"probe memorization: counts={counts!r}, steps={steps}, classes={classes}, rate={rate};"
            " give counts and classes from 2, such as counts='4 8', at least 1 step and a rate "
            "above 0"
        )

    def look(model: Model, examples: Examples) -> dict[str, Tensor]:
        if not model.per_clip:
            raise ComponentError(
                "probe memorization: the model gives scores of frames; give a classifier of clips"
            )
        clips = examples.clips(max(numbers))
        tried = [number for number in numbers if number <= len(clips)]
        if not tried:
            raise ComponentError(
                f"probe memorization: {len(clips)} recordings; give at least {min(numbers)}"
            )
        names = tuple(str(label) for label in range(classes))
        # rules may name labels, and no rule is asked
        rules: dict[str, Any] = (
            {"spotting": Spotting()} if hasattr(model.config, "spotting") else {}
        )
        config = replace(model.config, labels=names, head="clip", **rules)
        shares = []
        for number in tried:
            net = build(config, examples.seed).to(clips[0].device)
            net.frontend.load_state_dict(model.frontend.state_dict())
            chance = torch.Generator().manual_seed(examples.seed + number)
            labels = torch.randint(classes, (number,), generator=chance).to(clips[0].device)
            shares.append(_learnt(net, clips[:number], labels, steps, rate))
        known = [number for number, share in zip(tried, shares, strict=True) if share == 1]
        largest = max(known, default=0)
        weights = sum(p.numel() for p in build(config).parameters())
        return {
            "count": torch.tensor(tried),
            "right": torch.tensor(shares),
            "largest": torch.tensor(largest),
            "per_weight": torch.tensor(largest / weights),
        }

    return look


def _learnt(net: Model, clips: list[Tensor], labels: Tensor, steps: int, rate: float) -> float:
    """The share of labels that the net gives after training, in training."""
    lengths = torch.tensor([len(clip) for clip in clips], device=labels.device)
    with torch.no_grad():
        audio = torch.nn.utils.rnn.pad_sequence(clips, batch_first=True)
        features = net.eval().features(audio, lengths)
    net.train()
    optimizer = torch.optim.AdamW(net.parameters(), lr=rate, weight_decay=0.0)
    right = 0.0
    with torch.enable_grad():
        for step in range(steps + 1):
            scores = net.score(features).scores
            right = float((scores.argmax(1) == labels).float().mean())
            if right == 1 or step == steps:
                break
            optimizer.zero_grad()
            F.cross_entropy(scores, labels).backward()
            optimizer.step()
    return right
