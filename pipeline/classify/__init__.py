"""Messages and replies -> what happened and why. See report.py and reply.py."""

from mailecho.pipeline.classify.report import classify_message
from mailecho.pipeline.finding import Unreadable
from mailecho.pipeline.trust.own import Own

__all__ = ["Own", "Unreadable", "classify_message"]
