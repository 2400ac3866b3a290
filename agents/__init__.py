"""The Faust apps and their agents: thin, with no rules of the domain inside.

Two apps, two consumer groups, own processes: `classify_app` scales out freely, `ledger_app` keeps
stores. `transport` is how records reach an agent, `outputs` how results leave.
"""
