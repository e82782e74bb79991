"""The front ends of the three networks."""

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
