"""Learning-rate schedules: the factor of the base rate at each step of a run."""

from speechkit.errors import ComponentError
from speechkit.train.schedules import Schedule, cosine


def jagged(
    steps: int,
    every: int = 1000,
    restart: int = 100,
    warm: int = 0,
    warmup: int = 0,
    floor: float = 0.1,
) -> Schedule:
    """A cosine that restarts at 0 after `warm` steps and after each `every` further ones.

    After a restart at step k the factor is (step − k) / restart · cosine(k + restart) for `restart`
    steps, and then that of `cosine` with `warmup` and `floor`. There is no restart at step 0. All
    but `floor` are numbers of steps. Give `every` and `warm` as in the method `relora`.
    Source: Lialin et al., arXiv:2307.05695.
    """
    first = warm or every
    if warm < 0 or not 0 <= restart <= every or not 0 <= warmup < first:
        raise ComponentError(
            f"schedule jagged: every={every}, restart={restart}, warm={warm}, warmup={warmup}; "
            f"give restart up to every, and warmup below the first restart, {first}"
        )
    envelope = cosine(steps, warmup, floor)

    def factor(step: int) -> float:
        since = (step - first) % every
        if step < first or since >= restart:
            return envelope(step)
        return since / restart * envelope(step - since + restart)

    return factor
