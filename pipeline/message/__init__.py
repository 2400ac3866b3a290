"""Bytes of a mail -> its headers, parts and text.

`scan` cuts a message at its boundaries without building a tree; what it cannot read goes to
flanker (`fallback`). Nothing here knows what a bounce is.
"""
