"""The activations by family; to list them imports no torch."""

from functools import partial

from speechkit import Component

EVERYWHERE = frozenset({"torch", "torch.export", "onnx"})
SURVEY = "arXiv:2109.14545"
ANALOG = {
    "check_gradients": "the gradient ignores the rounding",
    "check_half_precision": "a value rounded to half precision can fall on another level",
}
FOUR_LEVELS = {
    "check_gradients": "the gradient in training is one of four levels, stored in 2 bits"
}

_component = partial(Component, time="frame", exports=EVERYWHERE)


def smooth() -> list[Component]:
    at = "speechkit_activations.smooth:"
    return [
        _component(
            name="smelu",
            factory=f"{at}SmeLU",
            summary="ReLU with a parabola of half-width beta around zero; beta may be learned",
            formula="0 for x <= -beta, (x + beta)^2 / (4 beta) between, x for x >= beta",
            paper="arXiv:2010.09931",
        ),
        _component(
            name="gsmelu",
            factory=f"{at}GSmeLU",
            summary="Two lines of any slopes joined by a parabola on [-alpha, beta]",
            formula="g_minus x + t for x <= -alpha, parabola, g_plus x + t + ... for x >= beta",
            paper="arXiv:2010.09931",
            example={"alpha": 0.5, "beta": 1.5, "g_minus": 0.1, "t": 0.2},
        ),
        _component(
            name="golu",
            factory=f"{at}GoLU",
            summary="Gompertz linear unit",
            formula="alpha * x * exp(-beta * exp(-gamma * x))",
            paper="arXiv:2502.03654",
        ),
        _component(
            name="swish",
            factory=f"{at}Swish",
            summary="Sigmoid-weighted linear unit; beta may be learned",
            paper="arXiv:1710.05941",
            example={"beta": 1.5},
        ),
        _component(
            name="sau",
            factory=f"{at}SAU",
            summary="Leaky ReLU smoothed by a Gaussian, with a learned slope",
            formula="leaky_relu(x; alpha) convolved with N(0, sigma^2)",
            paper="arXiv:2109.13210",
            example={"per_channel": True},
        ),
        _component(
            name="mish",
            factory=f"{at}mish",
            summary="Self-regularised smooth unit",
            paper="arXiv:1908.08681",
        ),
        _component(
            name="gcu",
            factory=f"{at}GCU",
            summary="Growing cosine unit",
            paper="arXiv:2108.12943",
        ),
        _component(
            name="relu_gelu",
            factory=f"{at}ReluGelu",
            summary="Between ReLU (lam=0) and GELU (lam=1)",
            formula="(1 - lam) max(x, a x) + lam x (1 + erf(scale x / sqrt(2))) / 2",
            paper="arXiv:2402.02593",
            example={"lam": 0.5, "scale": 1.5, "a": 0.1},
        ),
        _component(
            name="relu_silu",
            factory=f"{at}ReluSilu",
            summary="Between ReLU (lam=0) and SiLU (lam=1)",
            paper="arXiv:2402.02593",
            example={"lam": 0.5},
        ),
        _component(
            name="velu",
            factory="speechkit_activations.adaptive:VeLU",
            summary="Gated by arctan and arcsin, scaled by the deviation of the layer's input",
            formula="s x sigmoid(alpha (atan(beta1 x) + asin(beta2 x))) (1 + gamma tanh(mu std))",
            paper="arXiv:2504.15051",
            exempt={"check_time_field_in_training": "it measures the deviation of the batch"},
        ),
        _component(
            name="analog",
            factory="speechkit_activations.analog:Analog",
            summary="Another activation between noise, clamps and few levels of analog hardware",
            formula="noise(quantize(f(quantize(noise(x)))))",
            paper="arXiv:2402.02593",
            exports=frozenset({"torch"}),
            parts={"activation": "activation"},
            example={"noisy": "training"},
            exempt=ANALOG,
        ),
        _component(
            name="composed",
            factory="speechkit_activations.compose:Composed",
            summary="Two named functions and a binary operation; `search-activations` finds them",
            formula="formula='u binary v' is binary(u(x), v(x))",
            paper="arXiv:1710.05941",
            example={"formula": "sigmoid mul scale; abs mix tanh"},
        ),
    ]


def gated() -> list[Component]:
    at = "speechkit_activations.gated:"
    component = partial(_component, paper="arXiv:2002.05202", in_factor=2)
    return [
        component(
            name="glu",
            factory=f"{at}GLU",
            summary="Gated linear unit; kind selects one of five gates",
        ),
        component(
            name="bilinear",
            factory=f"{at}bilinear",
            summary="Bilinear unit: a gate without a function",
        ),
        component(
            name="reglu",
            factory=f"{at}reglu",
            summary="Linear unit gated by ReLU",
        ),
        component(
            name="geglu",
            factory=f"{at}geglu",
            summary="Linear unit gated by GELU",
        ),
        component(
            name="swiglu",
            factory=f"{at}swiglu",
            summary="Linear unit gated by SiLU",
        ),
    ]


def rectifiers() -> list[Component]:
    at = "speechkit_activations."
    return [
        _component(
            name="prelu",
            factory=f"{at}learned:PReLU",
            summary="ReLU with a learned slope below zero, for each channel or for the layer",
            formula="max(x, 0) + a * min(x, 0)",
            paper="arXiv:1502.01852",
        ),
        _component(
            name="tmaf",
            factory=f"{at}learned:Tmaf",
            summary="A step function of x, with learned levels, times x",
            formula="(t_0 + sum_j (t_j - t_{j-1}) [x > s_j]) * x",
            paper="arXiv:2109.09948",
            example={"knots": 3},
        ),
        _component(
            name="tmaf_tri",
            factory=f"{at}learned:TmafTri",
            summary="tmaf, with both neighbouring channels",
            formula="alpha_i(x_i) x_i + beta_i(x_{i-1}) x_{i-1} + gamma_i(x_{i+1}) x_{i+1}",
            paper="arXiv:2109.09948",
        ),
        _component(
            name="relu_or_poly",
            factory=f"{at}adaptive:ReluOrPoly",
            summary="ReLU or a polynomial for each channel, by a learned choice",
            formula="max(x, 0) where the channel's switch is on, else c0 + c1 x + c2 x^2",
            paper="arXiv:2308.10134",
            exempt={"check_gradients": "polynomials have no gradient in channels with ReLU"},
        ),
        _component(
            name="shifted_relu",
            factory=f"{at}sparse:ShiftedReLU",
            summary="ReLU shifted to b: the larger b, the more zeros",
            paper="arXiv:2310.04564",
            example={"b": 0.5},
        ),
        _component(
            name="fatrelu",
            factory=f"{at}sparse:FATReLU",
            summary="Zero below a positive threshold, the identity above",
            paper="arXiv:2402.13516",
        ),
        _component(
            name="helu",
            factory=f"{at}backward:HeLU",
            summary="ReLU whose gradient in training starts slightly below zero",
            formula="max(x, 0), backward [x > -alpha]",
            paper="arXiv:2411.10573",
            exempt={"check_gradients": "the gradient in training starts slightly below zero"},
        ),
        _component(
            name="regelu2",
            factory=f"{at}backward:ReGELU2",
            summary="GELU that stores 2 bits of each value for its gradient",
            formula="x * (1 + erf(x / sqrt(2))) / 2, backward one of 4 levels",
            paper="arXiv:2406.16282",
            exempt=FOUR_LEVELS,
        ),
        _component(
            name="resilu2",
            factory=f"{at}backward:ReSiLU2",
            summary="SiLU that stores 2 bits of each value for its gradient",
            formula="x * sigmoid(x), backward one of 4 levels",
            paper="arXiv:2406.16282",
            exempt=FOUR_LEVELS,
        ),
        _component(
            name="stochastic",
            factory=f"{at}stochastic:Stochastic",
            summary="SiLU or ReLU below zero, drawn at random in training, which may end with ReLU",
            formula="x for x >= 0, else SiLU(x) with probability p, else 0",
            paper="arXiv:2509.22358",
            example={"steps": 1000},
        ),
        _component(
            name="half_linear",
            factory=f"{at}averages:HalfLinear",
            summary="ReLU without its even part, to compare linear_dc with",
            paper="arXiv:2407.16556",
        ),
        _component(
            name="linear_dc",
            factory=f"{at}averages:LinearDC",
            summary="Half of x, and half of the mean of |x| over the utterance",
            formula="x / 2 + mean_t(|x|) / 2",
            paper="arXiv:2407.16556",
            time="utterance",
        ),
        _component(
            name="linear_dc_running",
            factory=f"{at}averages:RunningLinearDC",
            summary="Half of x, and half of the mean of |x| up to this frame",
            formula="x / 2 + mean_{s<=t}(|x|) / 2",
            paper="arXiv:2407.16556",
            time="causal",
        ),
    ]


def survey() -> list[Component]:
    at = "speechkit_activations.survey:"
    component = partial(_component, paper=SURVEY)
    return [
        component(
            name="sigmoid",
            factory=f"{at}sigmoid",
            summary="Logistic function",
            formula="1 / (1 + exp(-x))",
        ),
        component(
            name="tanh",
            factory=f"{at}tanh",
            summary="Hyperbolic tangent",
        ),
        component(
            name="elliott",
            factory=f"{at}Elliott",
            summary="Logistic-like function without an exponential",
            formula="x / (2 (1 + |x|)) + 1/2",
        ),
        component(
            name="lrelu",
            factory=f"{at}lrelu",
            summary="Leaky ReLU",
            formula="max(x, 0) + slope * min(x, 0)",
        ),
        component(
            name="elu",
            factory=f"{at}elu",
            summary="Exponential linear unit",
            formula="x for x > 0, else alpha (exp(x) - 1)",
            paper="arXiv:1511.07289",
        ),
        component(
            name="selu",
            factory=f"{at}selu",
            summary="ELU whose outputs keep mean 0 and variance 1",
            formula="1.0507 (x for x > 0, else 1.6733 (exp(x) - 1))",
            paper="arXiv:1706.02515",
        ),
        component(
            name="celu",
            factory=f"{at}celu",
            summary="ELU with a continuous slope for every alpha",
            formula="x for x > 0, else alpha (exp(x / alpha) - 1)",
            paper="arXiv:1704.07483",
        ),
        component(
            name="softplus",
            factory=f"{at}softplus",
            summary="Smooth ReLU",
            formula="log(1 + exp(beta x)) / beta",
        ),
        component(
            name="lisht",
            factory=f"{at}LiSHT",
            summary="Linearly scaled hyperbolic tangent",
        ),
        component(
            name="srs",
            factory=f"{at}SRS",
            summary="Soft-root-sign, with both numbers learned for each channel",
            paper="arXiv:2003.00547",
        ),
        component(
            name="pau",
            factory=f"{at}PAU",
            summary="Padé unit: a learned rational function of degrees 5 and 4",
            formula="sum_j a_j x^j / (1 + |sum_k b_k x^k|)",
            paper="arXiv:1907.06732",
        ),
        component(
            name="pdelu",
            factory=f"{at}PDELU",
            summary="ELU with a bent exponential and a learned alpha for each channel",
            formula="x for x > 0, else alpha (max(1 + (1 - t) x, 0)^(1 / (1 - t)) - 1)",
        ),
        component(
            name="abrelu",
            factory="speechkit_activations.averages:ABReLU",
            summary="ReLU of x minus the utterance's mean",
            formula="max(x - beta * mean_{c,t}(x), 0)",
            time="utterance",
        ),
        component(
            name="abrelu_running",
            factory="speechkit_activations.averages:RunningABReLU",
            summary="ReLU of x minus the mean up to this frame",
            formula="max(x - beta * mean_{c,s<=t}(x), 0)",
            time="causal",
        ),
    ]
