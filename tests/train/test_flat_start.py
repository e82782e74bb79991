"""The flat start: labels dealt evenly over what is loud, and the loss that asks for them."""

from pathlib import Path
from typing import Any

import torch
from hypothesis import given
from hypothesis import strategies as st

from speechkit.data import collate
from speechkit.data.batch import Item
from speechkit.models import Output, build
from speechkit.train import Data, Run, fit
from speechkit.train.flat_start import FlatStart, deal, speech_frames

FRAME = 320


def tone(frames: int, before: int, after: int) -> torch.Tensor:
    """Quiet noise, loud in the middle."""
    generator = torch.Generator().manual_seed(0)
    audio = 0.001 * torch.randn(frames * FRAME, generator=generator)
    audio[before * FRAME : (frames - after) * FRAME] *= 300
    return audio


def test_speech_is_from_the_first_loud_frame_to_the_last() -> None:
    assert speech_frames(tone(20, 5, 3), 20, FRAME) == (5, 17)
    pause = tone(20, 5, 3)
    pause[8 * FRAME : 11 * FRAME] = 0
    assert speech_frames(pause, 20, FRAME) == (5, 17)


def test_sound_without_levels_is_speech_from_end_to_end() -> None:
    assert speech_frames(torch.zeros(10 * FRAME), 10, FRAME) == (0, 10)
    assert speech_frames(torch.ones(9 * FRAME + 7), 10, FRAME) == (0, 9)


@given(labels=st.lists(st.integers(0, 27), min_size=1, max_size=12), frames=st.integers(1, 60))
def test_each_label_has_its_share_in_order(labels: list[int], frames: int) -> None:
    dealt = deal(torch.arange(len(labels)), frames)
    assert dealt.tolist() == sorted(dealt.tolist())
    shares = torch.bincount(dealt, minlength=len(labels))
    assert shares.max() - shares.min() <= 1


def test_the_loss_is_that_of_the_labels_on_loud_frames_and_of_blank_elsewhere(
    nets: dict[str, Any],
) -> None:
    model = build(nets["ctc"])
    method = FlatStart(weight=2.0)
    method.start(model, [])  # type: ignore[arg-type]
    frame = method.frame_samples
    assert frame == round(model.frame_s * model.sample_rate)
    audio = torch.full((10 * frame,), 1e-4)
    audio[4 * frame : 8 * frame] = 0.5
    blank = len(model.labels)
    items = [
        Item(audio, torch.tensor([3, 5]), 0, "a"),
        Item(audio[: 6 * frame], torch.tensor([], dtype=torch.int64), 1, "b"),
    ]
    scores = torch.randn(2, 10, blank + 1).log_softmax(2)
    losses = method.extra_loss(collate(items), Output(scores, torch.tensor([10, 6])))
    wanted = [blank] * 4 + [3, 3, 5, 5] + [blank] * 2
    torch.testing.assert_close(losses[0], -2 * scores[0, range(10), wanted].sum())
    torch.testing.assert_close(losses[1], -2 * scores[1, :6, blank].sum())


def test_a_run_takes_it_beside_ctc(nets: dict[str, Any], corpus: Any, tmp_path: Path) -> None:
    data = Data(train=corpus(4, "train"), dev=corpus(2, "dev"), batch_size=2)
    run = Run(
        model=nets["ctc"], data=data, steps=2, eval_every=2, save_every=2, method=("flat_start",)
    )
    assert set(fit(run, tmp_path / "run", device="cpu")) == {"n", "wer", "cer"}
