"""`mailecho verify`: compute again, in one batch process, what should stand, and compare.

It folds all of `classified` that retention has left, and compares events row by row, rollups and
the suppression list; with `--from-raw` it also classifies the raw topics again. It shares the fold
and the classifier with the workers, so it finds what was lost, doubled or left behind, not a wrong
rule. Its report says what it could not see.
"""

from mailecho.pipeline.verify.run import Report, run_verify, verify

__all__ = ["Report", "run_verify", "verify"]
