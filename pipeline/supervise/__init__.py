"""What `mailecho up` is made of: child processes kept alive, in order, on one machine.

`guard` ends a child whose parent died, `child` restarts one process, `claim` keeps a data directory
to one `up` and finds the running ones, `machine` notices an unclean stop of the machine, `plan`
says what runs, `up` starts and stops all of it, `panel` shows it.
"""
