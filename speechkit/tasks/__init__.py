"""Tasks: the purposes of models. `Task` is the base class, and each other module has one task.

Tasks come through the hook `speechkit_tasks`; the component of a model's head names its task.
"""

import speechkit.torch_required

from speechkit.events import Listener
from speechkit.tasks.base import (
    IGNORED,
    Report,
    Summary,
    Targets,
    Task,
    error_of,
    listener_of,
    metrics_of,
    outputs,
    require,
    task_of,
)

__all__ = [
    "IGNORED",
    "Listener",
    "Report",
    "Summary",
    "Targets",
    "Task",
    "error_of",
    "listener_of",
    "metrics_of",
    "outputs",
    "require",
    "task_of",
]
