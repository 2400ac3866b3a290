"""What is provably ours: signed tokens, where they stand in mail and in reports, and the trust that follows."""

from mailecho.pipeline.trust.own import Own
from mailecho.pipeline.trust.token import BadToken, Keyring, Token, TokenKeyError, make_token, verify_token

__all__ = ["BadToken", "Keyring", "Own", "Token", "TokenKeyError", "make_token", "verify_token"]
