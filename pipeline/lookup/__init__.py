"""The lookup: a local map of `feedback.suppressions`, its follower, and the questions it answers."""
