"""Dedupe, recipient state and suppression policy, as a deterministic fold over `classified`."""
