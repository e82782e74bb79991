"""The front ends of the three networks, and their normalizers."""

from speechkit.component import Component
from speechkit.hookspecs import hookimpl


@hookimpl
def speechkit_frontends() -> list[Component]:
    return [
        Component(
            name="log_mel",
            factory="speechkit.frontend.mel:LogMel",
            summary="log energies on the Slaney mel scale of pre-emphasised speech, normalised",
            formula="ln(mel(|stft(x[n] - 0.97 x[n-1])|^2) + 2^-24)",
            time="lookahead",
            parts={"normalize": "normalizer"},
            # the default, per_feature, reads the whole utterance
            example={"normalize": "running"},
        ),
        Component(
            name="mfcc",
            factory="speechkit.frontend.mel:MFCC",
            summary="cepstra: cosine transform of log energies on the HTK mel scale",
            formula="dct(ln(mel(|stft(x)|^2) + 1e-6))",
            time="lookahead",
        ),
    ]


@hookimpl
def speechkit_normalizers() -> list[Component]:
    return [
        Component(
            name="per_feature",
            factory="speechkit.frontend.normalize:PerFeature",
            summary="Mean and deviation of the utterance's valid frames; does not stream",
            formula="(x - mean_t x) / (std_t x + 1e-5)",
            time="utterance",
            exempt={"check_gradients": "a deviation of 0 has no gradient"},
        ),
        Component(
            name="fixed",
            factory="speechkit.frontend.normalize:Fixed",
            summary="Mean and deviation of the training data, stored with the weights",
            formula="(x - mean) / std",
        ),
        Component(
            name="running",
            factory="speechkit.frontend.normalize:Running",
            summary="Mean and deviation of the valid frames so far, which are forgotten with time",
            formula="(x_t - m_t) / sqrt(v_t + 1e-5)",
            time="causal",
        ),
        Component(
            name="pcen",
            factory="speechkit.frontend.normalize:PCEN",
            summary="Per-channel energy normalisation: each band against its own past",
            formula="(e^x_t / (eps + m_t)^gain + bias)^power - bias^power",
            paper="arXiv:1607.05666",
            time="causal",
            exempt=dict.fromkeys(
                ("check_shape_and_dtype", "check_gradients"), "e^1000 is infinite"
            ),
        ),
        Component(
            name="pcen_and_level",
            factory="speechkit.frontend.normalize:PCENAndLevel",
            summary="Per-channel energy normalisation beside the energies themselves",
            formula="[pcen(x), (x - offset) / scale]",
            paper="arXiv:1607.05666",
            time="causal",
            exempt={
                **dict.fromkeys(("check_shape_and_dtype", "check_gradients"), "e^1000 is infinite"),
                "check_channels_are_free": "it has two features for each one",
            },
        ),
        Component(
            name="none",
            factory="speechkit.frontend.normalize:Unnormalized",
            summary="The features as they are",
            formula="x",
        ),
    ]
