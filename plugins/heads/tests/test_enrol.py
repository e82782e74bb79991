"""New words are recognised, the rest of the model stays, and other sound is not taken for one."""

from pathlib import Path

import numpy as np
import pytest
import torch
from speechkit_heads import enrol as module
from speechkit_heads.embeddings import Embeddings
from speechkit_heads.enrol import at_speed, gathered, noisy, pieces, rows

import speechkit as sk
from speechkit.card import ModelCard, read_card
from speechkit.cli import main
from speechkit.data import Utterance, read_manifest, read_samples, write_manifest
from speechkit.errors import ConfigError, ManifestError
from speechkit.models import Model
from speechkit.probes import Examples
from speechkit.transforms import transform


def only(manifest: Path, *labels: str) -> list[Utterance]:
    return [u for u in read_manifest(manifest) if u.label in labels]


def test_its_own_clips_get_the_new_label_once_saved_and_loaded(
    model: Model, words: Path, tmp_path: Path
) -> None:
    made, applied = transform(model, ["enrol"], Examples(model, words))
    assert made.labels == ("a", "b", "background", "high", "low")
    assert str(made.config.head) == "clip"
    assert applied[0].report["clips"] == {"high": 3, "low": 3}
    sk.save(made, tmp_path / "made")
    # by torch, and by the engine without it
    for given in (sk.load(tmp_path / "made"), tmp_path / "made"):
        for utterance in only(words, "high", "low"):
            assert sk.classify(given, utterance.audio).label == utterance.label


def test_all_weights_but_the_new_rows_stay(model: Model, words: Path) -> None:
    made, _ = transform(model, ["enrol"], Examples(model, words))
    before = model.state_dict()
    for name, value in made.state_dict().items():
        assert torch.equal(value[: len(before[name])] if value.ndim else value, before[name])
    assert made.state_dict()["head.linear.weight"].shape == (5, 128)


def test_what_has_another_label_is_not_taken_for_a_new_one(model: Model, words: Path) -> None:
    made, _ = transform(model, ["enrol"], Examples(model, words))
    for utterance in only(words, "a"):
        assert sk.classify(made, utterance.audio).label not in ("high", "low")


def test_the_rows_are_where_the_loss_is_the_lowest(model: Model, words: Path) -> None:
    embed = Embeddings(model, "enrol")
    found, new = gathered(embed, Examples(model, words)), ["high", "low"]
    weight, bias = rows(embed, found, new)
    w, o = torch.stack(found.words).double(), torch.stack(found.others).double()
    known_w, known_o = embed.logits(w.float()).double(), embed.logits(o.float()).double()
    right = torch.tensor([new.index(label) for label in found.labels])
    taken = torch.stack([known_w[right == k].softmax(1).mean(0) for k in range(2)])
    start = taken @ embed.weight.double()

    def loss(weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        own = torch.cat([known_w, w @ weight.T + bias], 1).softmax(1)
        other = torch.cat([known_o, o @ weight.T + bias], 1).softmax(1)
        hit = own[torch.arange(len(own)), 3 + right].log().mean()
        rejected = other[:, :3].sum(1).log().mean()
        return module.RIDGE * (weight - start).square().sum() - hit - rejected

    weight.requires_grad_(), bias.requires_grad_()
    gradients = torch.autograd.grad(loss(weight, bias), [weight, bias])
    assert max(g.abs().max().item() for g in gradients) < 1e-5


def test_the_clips_backwards_and_noise_are_no_word(model: Model, words: Path) -> None:
    found = gathered(Embeddings(model, "enrol"), Examples(model, words))
    # six clips, each also slower, faster and with noise
    assert len(found.words) == 24
    # 3 s of other sound: 15 windows, and at least 4 pieces of at most 0.7 s
    audio = torch.from_numpy(read_samples(only(words, "low")[0].audio, target_rate=8000))
    backwards = Embeddings(model, "enrol").clip(audio.flip(0))
    distances = [(other - backwards).norm().item() for other in found.others]
    assert min(distances) < 1e-4 * backwards.norm()
    assert 15 - 1 + 4 <= len(found.others) - 6 - len(module.QUIET_DB) <= 15 + 10


def test_an_embedding_has_the_scores_of_classify(model: Model, words: Path) -> None:
    embed = Embeddings(model, "enrol")
    path = only(words, "high")[0].audio
    audio = torch.from_numpy(read_samples(path, target_rate=8000))
    logits = embed.logits(embed.clip(audio)[None])[0]
    expected = sk.classify(model, path)
    assert model.labels[int(logits.argmax())] == expected.label
    assert logits.softmax(0).max().item() == pytest.approx(expected.score, abs=1e-4)


def test_a_piece_has_silence_around_it() -> None:
    found = list(pieces(torch.ones(8000), 8000))
    assert found
    for piece in found:
        assert not piece[:2400].any()
        assert not piece[-2400:].any()
        assert 2400 <= piece.sum() <= 5600


def test_a_faster_sound_is_shorter_and_higher() -> None:
    t = torch.arange(8000) / 8000
    y = at_speed(torch.sin(2 * torch.pi * 500 * t), 1.1)
    assert len(y) == round(8000 / 1.1)
    assert np.abs(np.fft.rfft(y.numpy())).argmax() * 8000 / len(y) == pytest.approx(550, abs=2)


def test_the_noise_has_its_level() -> None:
    x = 0.1 * torch.ones(80000)
    assert (noisy(x) - x).square().mean().sqrt() == pytest.approx(0.1 * 10 ** (-15 / 20), rel=0.02)


def test_recordings_of_the_models_own_labels_alone_are_an_error(model: Model, words: Path) -> None:
    write_manifest(words, only(words, "a"))
    with pytest.raises(ManifestError, match="give clips of a new one"):
        transform(model, ["enrol"], Examples(model, words))


def test_clips_without_other_sound_are_an_error(model: Model, words: Path) -> None:
    write_manifest(words, only(words, "high", "low"))
    with pytest.raises(ManifestError, match="add a minute of other speech"):
        transform(model, ["enrol"], Examples(model, words))


@pytest.mark.parametrize("name", ["enrol", "icl_adapt"])
@pytest.mark.parametrize("head", ["frame", "matryoshka", "icl_adapt"])
def test_a_model_with_another_head_is_an_error(words: Path, name: str, head: str) -> None:
    net = sk.MatchboxNet(size="1x1x16", labels=("a",), sample_rate=8000, head=head)
    model = sk.build(net).eval()
    with pytest.raises(ConfigError, match=f"{name} takes a model with head clip, not {head}"):
        transform(model, [name], Examples(model, words))


def test_a_recording_shorter_than_a_word_is_an_error(model: Model, words: Path) -> None:
    rows = words.read_text(encoding="utf-8").replace('"duration": 1.0', '"duration": 0.05', 1)
    words.write_text(rows, encoding="utf-8")
    with pytest.raises(ManifestError, match=r"0\.05 s; give at least 0\.1 s"):
        transform(model, ["enrol"], Examples(model, words))


@pytest.mark.parametrize("name", ["enrol", "icl_adapt"])
@pytest.mark.parametrize("label", ["", " "])
def test_an_empty_label_is_an_error(model: Model, words: Path, name: str, label: str) -> None:
    rows = words.read_text(encoding="utf-8").replace('"high"', f'"{label}"')
    words.write_text(rows, encoding="utf-8")
    with pytest.raises(ManifestError, match=r"words\.jsonl:1: .*no label; name the word"):
        transform(model, [name], Examples(model, words))


def test_the_card_of_an_enrolled_model_says_that_it_has_other_labels(
    model: Model, words: Path, tmp_path: Path
) -> None:
    sk.save(model, tmp_path / "old", ModelCard(purpose="tells a from b"))
    given = [str(tmp_path / "old"), str(tmp_path / "new"), "--manifest", str(words)]
    assert main.run(["transform", *given, "--with", "enrol"]) == 0
    card = read_card(tmp_path / "new")
    assert card is not None
    assert card.purpose.startswith("has other labels than the model")
    assert card.purpose.endswith("which tells a from b")
