"""The core's tasks, losses, optimisers, schedules, initial weights and decoders."""

from speechkit.component import Component
from speechkit.hookspecs import hookimpl


@hookimpl
def speechkit_tasks() -> list[Component]:
    return [
        Component(
            name="ctc",
            factory="speechkit.tasks.ctc:Recognition",
            summary="Text from speech, by characters; verb transcribe",
            formula="decode(scores)",
            paper="Graves et al., ICML 2006",
        ),
        Component(
            name="clip",
            factory="speechkit.tasks.clip:Classification",
            summary="One label for a clip, or keywords in a stream; verb classify",
            formula="argmax(scores)",
        ),
        Component(
            name="frame",
            factory="speechkit.tasks.frame:Detection",
            summary="Speech or not in each frame; verb detect",
            formula="softmax(scores_t)[1]",
        ),
    ]


@hookimpl
def speechkit_losses() -> list[Component]:
    return [
        Component(
            name="ctc",
            factory="speechkit.train.losses:CTC",
            summary="Connectionist temporal classification, blank last, per utterance",
            formula="-log P(targets | scores), 0 where no alignment exists",
            paper="Graves et al., ICML 2006",
        ),
        Component(
            name="cross_entropy",
            factory="speechkit.train.losses:CrossEntropy",
            summary="Cross entropy of one class per utterance, with label smoothing",
            formula="-sum(((1 - smoothing) * one_hot(target) + smoothing / n) * log_softmax(x))",
            paper="arXiv:1512.00567",
            example={"smoothing": 0.1},
        ),
        Component(
            name="frame_cross_entropy",
            factory="speechkit.train.losses:FrameCrossEntropy",
            summary="Cross entropy of one class per frame, averaged over valid frames",
            formula="mean_t(-log_softmax(x_t)[target_t])",
        ),
        Component(
            name="none",
            factory="speechkit.train.losses:Nothing",
            summary="0, for models that methods alone train",
            formula="0",
        ),
    ]


@hookimpl
def speechkit_methods() -> list[Component]:
    return [
        Component(
            name="consistency",
            factory="speechkit.train.consistency:Consistency",
            summary="Two augmented views of each utterance, each trained towards the other",
            formula="weight * sum_t KL(other_t || own_t)",
            paper="arXiv:2410.05101",
        ),
        Component(
            name="distill",
            factory="speechkit.train.distillation:Distillation",
            summary="The student is trained at every frame towards a teacher's output",
            formula="weight * sum_t KL(teacher_t || student_t)",
            paper="arXiv:1503.02531",
            example={"teacher": "runs/teacher/best", "cache": "runs/teacher.safetensors"},
            exempt=dict.fromkeys(
                ("check_method_resumes", "check_method_in_two_processes"),
                "its example names the folder of a teacher",
            ),
        ),
        Component(
            name="flat_start",
            factory="speechkit.train.flat_start:FlatStart",
            summary="Beside CTC: each label has an equal share of the utterance's speech",
            formula="weight * sum_t -log p_t(l_t)",
            paper="Young et al., The HTK Book, section 8.3",
        ),
        Component(
            name="phones",
            factory="speechkit.train.phone_ctc:PhoneCTC",
            summary="Beside the text: CTC of the utterance's phones, from a layer within",
            formula="weight * -log P(phones | softmax(linear(block)))",
            paper="arXiv:1807.06234",
            example={"after": 1},
        ),
    ]


@hookimpl
def speechkit_optimizers() -> list[Component]:
    return [
        Component(
            name="novograd",
            factory="speechkit.train.optim:novograd",
            summary="Momentum on gradients normalised tensor by tensor",
            formula="m = beta1 * m + g / (sqrt(v) + eps) + weight_decay * w; w -= lr * m",
            paper="arXiv:1905.11286",
            example={"lr": 0.01, "beta1": 0.95, "beta2": 0.5, "weight_decay": 1e-3},
        ),
        Component(
            name="sgd",
            factory="torch.optim:SGD",
            summary="Stochastic gradient descent with momentum",
            formula="m = momentum * m + g + weight_decay * w; w -= lr * m",
            paper="Sutskever et al., ICML 2013",
            example={"lr": 0.01, "momentum": 0.9, "weight_decay": 1e-3},
        ),
        Component(
            name="adamw",
            factory="speechkit.train.optim:adamw",
            summary="Adam with decoupled weight decay",
            formula="w -= lr * (m / (sqrt(v) + eps) + weight_decay * w), m and v bias-corrected",
            paper="arXiv:1711.05101",
            example={"lr": 1e-3, "beta1": 0.9, "beta2": 0.98, "weight_decay": 1e-2},
        ),
    ]


@hookimpl
def speechkit_schedules() -> list[Component]:
    return [
        Component(
            name="constant",
            factory="speechkit.train.schedules:constant",
            summary="Warm-up, then the base rate",
            formula="1",
            example={"warmup": 10},
        ),
        Component(
            name="cosine",
            factory="speechkit.train.schedules:cosine",
            summary="Warm-up, then half a cosine down to the floor",
            formula="floor + (1 - floor) * (1 + cos(pi * p)) / 2",
            paper="arXiv:1608.03983",
            example={"warmup": 0.05, "floor": 0.01},
        ),
        Component(
            name="polynomial_hold",
            factory="speechkit.train.schedules:polynomial_hold",
            summary="Warm-up, hold, then a polynomial down to the floor",
            formula="floor + (1 - floor) * (1 - p) ^ power",
            paper="arXiv:2004.08531",
            example={"warmup_ratio": 0.05, "hold_ratio": 0.45, "power": 2.0, "floor": 0.02},
        ),
        Component(
            name="exponential",
            factory="speechkit.train.schedules:exponential",
            summary="Warm-up, hold, then halving every half-life down to the floor",
            formula="max(floor, 0.5 ^ ((step - start) / halflife))",
            example={"warmup": 10, "hold": 0.5, "halflife": 0.1, "floor": 0.001},
        ),
    ]


@hookimpl
def speechkit_inits() -> list[Component]:
    return [
        Component(
            name="xavier_uniform",
            factory="speechkit.models.inits:xavier_uniform",
            summary="Weights uniform, scaled by fan-in and fan-out",
            formula="w ~ U(-b, b), b = gain * sqrt(6 / (fan_in + fan_out))",
            paper="Glorot & Bengio, AISTATS 2010",
            example={"gain": 1.0},
        ),
        Component(
            name="kaiming_uniform",
            factory="speechkit.models.inits:kaiming_uniform",
            summary="Weights uniform, scaled by fan-in for ReLU",
            formula="w ~ U(-b, b), b = sqrt(6 / fan_in)",
            paper="arXiv:1502.01852",
        ),
    ]


@hookimpl
def speechkit_decoders() -> list[Component]:
    return [
        Component(
            name="greedy",
            factory="speechkit.decode.greedy:GreedyCTC",
            summary="The best label of each CTC frame, repeats collapsed, blanks dropped",
            formula="drop_blank(collapse(argmax(log_probs)))",
            paper="Graves et al., ICML 2006",
        ),
        Component(
            name="beam",
            factory="speechkit.decode.beam:BeamCTC",
            summary="CTC prefix beam search with a language model, hotwords and a length bonus",
            formula="argmax ln P(text | frames) + alpha ln P(words) + length_bonus n + boosts",
            paper="arXiv:1408.2873",
            example={"beam": 8, "length_bonus": 0.5},
        ),
        Component(
            name="pyctcdecode",
            factory="speechkit.decode.pyctcdecode:PyCTCDecode",
            summary="The beam search of the package pyctcdecode, of whole utterances; an extra",
            formula="argmax ln P(text | frames) + alpha ln P(words) + length_bonus n + boosts",
        ),
    ]
