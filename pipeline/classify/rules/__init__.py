"""The rules, as data: TOML files beside this one."""
