"""Messages and replies -> what happened and why. See report.py and reply.py."""

from mailecho.pipeline.classify.report import Own, classify_message
from mailecho.pipeline.finding import Unreadable

__all__ = ["Own", "Unreadable", "classify_message"]
