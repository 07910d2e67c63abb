"""Training: tasks, methods, the record of a run, and the references a fit is set against."""

from stability.training import references
from stability.training.history import History, Interrupted
from stability.training.task import Task
from stability.training.train import train

__all__ = ["History", "Interrupted", "Task", "references", "train"]
