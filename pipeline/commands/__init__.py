"""The commands of `mailecho`, one file a group. What a command needs is imported when it runs.

`base` has what all share: the data directory, settings, errors in one or two lines.
"""
