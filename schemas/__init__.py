"""The contracts: what stands on the topics, in ClickHouse and in the lookup.

Nothing here imports the rest of the project. `taxonomy` names the causes, `event` is the row of
`feedback.events` and of ClickHouse, `topics` is the registry of topics, `headers` names what
travels beside a record and checks its schema version.
"""
