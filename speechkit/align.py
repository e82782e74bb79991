"""When each label of a known text was said: the best CTC path through it."""

import torch
from torch import Tensor

from speechkit.errors import SpeechkitError


def align(log_probs: Tensor, ids: Tensor) -> list[tuple[int, int]]:
    """The first and the last frame of each label on the best path that spells `ids`.

    Viterbi over blank, id, blank, id, …, blank: a label may stay, follow its neighbour, or skip
    the blank between two different labels. Shape: log_probs `[T, V + 1]` with the blank last, ids
    `[S]`. Raises SpeechkitError where the text does not fit into the frames.
    Source: Graves et al., ICML 2006.
    """
    if not len(ids):
        return []
    frames, blank = len(log_probs), log_probs.shape[1] - 1
    states = torch.full((2 * len(ids) + 1,), blank)
    states[1::2] = ids
    may_skip = torch.zeros(len(states), dtype=torch.bool)
    may_skip[3::2] = ids[1:] != ids[:-1]
    emitted = log_probs[:, states].double()
    score = torch.full((len(states),), -torch.inf, dtype=torch.float64)
    score[:2] = emitted[0, :2]
    came_from = torch.zeros(frames, len(states), dtype=torch.int64)
    for frame in range(1, frames):
        one = torch.cat([score.new_full((1,), -torch.inf), score[:-1]])
        two = torch.cat([score.new_full((2,), -torch.inf), score[:-2]])
        two = two.masked_fill(~may_skip, -torch.inf)
        best, came_from[frame] = torch.stack([score, one, two]).max(0)
        score = best + emitted[frame]
    state = len(states) - 1 - int(score[-1] < score[-2])
    if score[state] == -torch.inf:
        raise SpeechkitError(f"{len(ids)} labels do not fit into {frames} frames; check the text")
    spans: list[tuple[int, int]] = [(0, 0)] * len(ids)
    for frame in range(frames - 1, -1, -1):
        if state % 2:
            last = spans[state // 2][1] or frame
            spans[state // 2] = (frame, last)
        state -= int(came_from[frame, state])
    return spans
