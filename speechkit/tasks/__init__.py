"""Tasks: what a model is for. `Task` is the base class, and each module beside it holds one task.

Tasks come through the hook `speechkit_tasks`; the component of a model's head names the task that
its scores serve.
"""

from speechkit.tasks.base import (
    IGNORED,
    Listener,
    Report,
    Summary,
    Targets,
    Task,
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
    "outputs",
    "require",
    "task_of",
]
