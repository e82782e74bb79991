"""A model that decides by other rules keeps its weights."""

import pytest
import torch

import speechkit as sk
from speechkit.errors import ConfigError
from speechkit.models import Net
from speechkit.rules.vad import PostProcessing


def test_another_rule_keeps_the_weights() -> None:
    model = sk.load("vad")
    strict = model.with_(postprocess={"onset": 0.9, "max_speech_s": 20.0})
    assert (strict.config.postprocess.onset, strict.config.postprocess.max_speech_s) == (0.9, 20.0)
    assert strict.config.postprocess.offset == model.config.postprocess.offset
    assert model.config.postprocess.onset == 0.7
    for one, other in zip(model.parameters(), strict.parameters(), strict=True):
        assert one is other
    x = torch.zeros(16000)
    assert sk.detect(strict, x, 16000) == []
    whole = PostProcessing(onset=0, offset=0)
    assert len(sk.detect(model.with_(postprocess=whole), x, 16000)) == 1
    assert len(sk.stream(model.with_(postprocess=whole)).feed(x)) == 1


def test_an_onset_that_is_lowered_lowers_the_offset() -> None:
    stored = sk.load("vad").config.postprocess
    post = sk.load("vad").with_(postprocess={"onset": 0.35}).config.postprocess
    assert (post.onset, post.offset) == (0.35, pytest.approx(0.35 * stored.offset / stored.onset))
    same = sk.load("vad").with_(postprocess={"onset": 0.5, "offset": 0.5}).config.postprocess
    assert same.offset == 0.5


def test_what_a_family_does_not_have_is_refused(nets: dict[str, Net]) -> None:
    model = sk.build(nets["ctc"])
    with pytest.raises(ConfigError, match="a quartznet has no postprocess; give endpointing"):
        model.with_(postprocess={"onset": 0.5})
    with pytest.raises(ConfigError, match="endpointing: longest"):
        model.with_(endpointing={"longest": 3})
