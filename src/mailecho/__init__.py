"""Mailecho: the event-streaming pipeline that hears every echo of mail."""
