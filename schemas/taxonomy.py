"""The vocabulary of an event: kinds, permanence, causes, faults and trust. Spelled once, here."""

from __future__ import annotations

from enum import StrEnum


class Kind(StrEnum):
    """What a report or log line says happened. Policy decides what that leads to."""

    BOUNCE = "bounce"
    DELAY = "delay"
    DELIVERY = "delivery"
    INJECTION = "injection"
    EXPIRY = "expiry"
    REJECTION = "rejection"
    COMPLAINT = "complaint"
    NOT_SPAM = "not_spam"
    UNSUBSCRIBE = "unsubscribe"
    OPEN = "open"
    CLICK = "click"
    AUTH_REPORT = "auth_report"
    AUTO_REPLY = "auto_reply"
    CHALLENGE = "challenge"
    READ_RECEIPT = "read_receipt"
    QUARANTINE_NOTICE = "quarantine_notice"
    BACKSCATTER = "backscatter"
    NOT_FEEDBACK = "not_feedback"


class Permanence(StrEnum):
    """The class of the code that decided: 5 is permanent, 4 transient."""

    PERMANENT = "permanent"
    TRANSIENT = "transient"
    UNKNOWN = "unknown"


class Fault(StrEnum):
    """Whose side must act."""

    RECIPIENT = "recipient"
    DOMAIN = "domain"
    SENDER = "sender"
    MESSAGE = "message"
    NETWORK = "network"
    RECEIVER = "receiver"
    NONE = ""


class Trust(StrEnum):
    """How far a report may be believed: anyone can mail us a forged one."""

    VERIFIED = "verified"  # our own log, a signed webhook, a valid token of ours
    PLAUSIBLE = "plausible"  # the returned message names our domains
    UNVERIFIED = "unverified"


#: Order of belief, weakest first.
TRUST_RANK = {Trust.UNVERIFIED: 0, Trust.PLAUSIBLE: 1, Trust.VERIFIED: 2}


class Cause(StrEnum):
    """Why mail was refused, delayed or complained about."""

    MAILBOX_UNKNOWN = "mailbox_unknown"
    MAILBOX_MOVED = "mailbox_moved"
    MAILBOX_DISABLED = "mailbox_disabled"
    MAILBOX_FULL = "mailbox_full"
    RECIPIENT_RESTRICTED = "recipient_restricted"
    RECIPIENT_RATE = "recipient_rate"
    ADDRESS_SYNTAX = "address_syntax"
    DOMAIN_UNKNOWN = "domain_unknown"
    DOMAIN_NO_MAIL = "domain_no_mail"
    SENDER_REJECTED = "sender_rejected"
    AUTH_FAILURE = "auth_failure"
    SMTP_AUTH = "smtp_auth"
    PTR_MISSING = "ptr_missing"
    REPUTATION = "reputation"
    BLOCKLIST = "blocklist"
    RELAY_DENIED = "relay_denied"
    RATE_LIMIT = "rate_limit"
    GREYLIST = "greylist"
    SPAM_CONTENT = "spam_content"
    CONTENT_POLICY = "content_policy"
    CONTENT_MALFORMED = "content_malformed"
    MALWARE = "malware"
    MESSAGE_TOO_LARGE = "message_too_large"
    POLICY_OTHER = "policy_other"
    NETWORK = "network"
    ROUTING_LOOP = "routing_loop"
    TLS_REQUIRED = "tls_required"
    EXPIRED = "expired"
    SYSTEM_ERROR = "system_error"
    SYSTEM_FULL = "system_full"
    PROTOCOL_ERROR = "protocol_error"
    ALREADY_SUPPRESSED = "already_suppressed"
    UNDETERMINED = "undetermined"


_FAULT_MEMBERS: dict[Fault, tuple[Cause, ...]] = {
    Fault.RECIPIENT: (
        Cause.MAILBOX_UNKNOWN,
        Cause.MAILBOX_MOVED,
        Cause.MAILBOX_DISABLED,
        Cause.MAILBOX_FULL,
        Cause.RECIPIENT_RESTRICTED,
        Cause.RECIPIENT_RATE,
        Cause.ADDRESS_SYNTAX,
    ),
    Fault.DOMAIN: (Cause.DOMAIN_UNKNOWN, Cause.DOMAIN_NO_MAIL),
    Fault.SENDER: (
        Cause.SENDER_REJECTED,
        Cause.AUTH_FAILURE,
        Cause.SMTP_AUTH,
        Cause.PTR_MISSING,
        Cause.REPUTATION,
        Cause.BLOCKLIST,
        Cause.RELAY_DENIED,
        Cause.RATE_LIMIT,
        Cause.GREYLIST,
        Cause.POLICY_OTHER,
        Cause.TLS_REQUIRED,
        Cause.ALREADY_SUPPRESSED,
    ),
    Fault.MESSAGE: (
        Cause.SPAM_CONTENT,
        Cause.CONTENT_POLICY,
        Cause.CONTENT_MALFORMED,
        Cause.MALWARE,
        Cause.MESSAGE_TOO_LARGE,
    ),
    Fault.NETWORK: (Cause.NETWORK, Cause.ROUTING_LOOP, Cause.EXPIRED),
    Fault.RECEIVER: (Cause.SYSTEM_ERROR, Cause.SYSTEM_FULL, Cause.PROTOCOL_ERROR),
    Fault.NONE: (Cause.UNDETERMINED,),
}

#: Each cause's fault; total over Cause.
FAULT_OF: dict[Cause, Fault] = {cause: fault for fault, causes in _FAULT_MEMBERS.items() for cause in causes}

#: Each cause in words, for people; total over Cause.
MEANING_OF: dict[Cause, str] = {
    Cause.MAILBOX_UNKNOWN: "the mailbox does not exist",
    Cause.MAILBOX_MOVED: "the mailbox has moved to another address",
    Cause.MAILBOX_DISABLED: "the mailbox is disabled",
    Cause.MAILBOX_FULL: "the mailbox is full",
    Cause.RECIPIENT_RESTRICTED: "the recipient takes no mail from this sender",
    Cause.RECIPIENT_RATE: "the recipient gets mail too fast",
    Cause.ADDRESS_SYNTAX: "the address is malformed",
    Cause.DOMAIN_UNKNOWN: "the recipient's domain does not exist",
    Cause.DOMAIN_NO_MAIL: "the recipient's domain takes no mail",
    Cause.SENDER_REJECTED: "the sender's address or domain is refused",
    Cause.AUTH_FAILURE: "the message failed authentication",
    Cause.SMTP_AUTH: "the client must log in to the server, or its login failed",
    Cause.PTR_MISSING: "the sending IP has no proper reverse DNS",
    Cause.REPUTATION: "the sending IP or domain has a bad reputation at the receiver",
    Cause.BLOCKLIST: "the sending IP or domain is on a blocklist",
    Cause.RELAY_DENIED: "the server does not relay for this domain",
    Cause.RATE_LIMIT: "the sender sends too fast or too much",
    Cause.GREYLIST: "the server asks for a later attempt (greylisting)",
    Cause.SPAM_CONTENT: "the message looks like spam to the receiver",
    Cause.CONTENT_POLICY: "the receiver's policy refuses something in the message",
    Cause.CONTENT_MALFORMED: "the message is malformed",
    Cause.MALWARE: "the receiver found malware",
    Cause.MESSAGE_TOO_LARGE: "the message is too large",
    Cause.POLICY_OTHER: "the receiver's policy refuses it, and does not say more",
    Cause.NETWORK: "the receiving server could not be reached",
    Cause.ROUTING_LOOP: "the message went in circles",
    Cause.TLS_REQUIRED: "the connection must be encrypted, or its encryption failed",
    Cause.EXPIRED: "the message waited too long in the queue",
    Cause.SYSTEM_ERROR: "the receiving system failed",
    Cause.SYSTEM_FULL: "the receiving system is out of room",
    Cause.PROTOCOL_ERROR: "the two servers did not understand each other",
    Cause.ALREADY_SUPPRESSED: "it was not sent, since the address is on a suppression list",
    Cause.UNDETERMINED: "the cause is not known",
}

#: What an expert would do next about each cause; total over Cause.
ADVICE_OF: dict[Cause, str] = {
    Cause.MAILBOX_UNKNOWN: "Stop mailing the address, and look at where it came from if there are many.",
    Cause.MAILBOX_MOVED: "Stop mailing the old address; use a new one only if its owner gave it to you.",
    Cause.MAILBOX_DISABLED: "Stop mailing the address for now: disabled mailboxes seldom come back.",
    Cause.MAILBOX_FULL: "Try again in some days, and stop if it stays full: nobody reads it.",
    Cause.RECIPIENT_RESTRICTED: "Nothing is wrong with the address or your servers: ask the recipient to allow you.",
    Cause.RECIPIENT_RATE: "Send it later, and fewer messages to this recipient at a time.",
    Cause.ADDRESS_SYNTAX: "Correct the address at its source, or drop it.",
    Cause.DOMAIN_UNKNOWN: "Check the domain for a typing error; if it is gone, stop mailing its addresses.",
    Cause.DOMAIN_NO_MAIL: "Stop mailing addresses of this domain: it has said that it takes no mail.",
    Cause.SENDER_REJECTED: "Check that the envelope sender exists, takes bounces, and is not blocked by the recipient.",
    Cause.AUTH_FAILURE: "Repair SPF, DKIM or DMARC of the sending domain; the recipient is not at fault, keep it.",
    Cause.SMTP_AUTH: "Check the user name, the password and the permissions of the relay that you log in to.",
    Cause.PTR_MISSING: "Give the sending IP a PTR record whose name resolves back to the same IP.",
    Cause.REPUTATION: "Slow down at this provider, and look at its complaints and unknown users first.",
    Cause.BLOCKLIST: "Find out why you are listed, stop that, then ask the list for removal; keep the recipient.",
    Cause.RELAY_DENIED: "Check the domain's MX: this server does not serve it, or wants you to log in.",
    Cause.RATE_LIMIT: "Send more slowly, over fewer connections, and let the queue retry.",
    Cause.GREYLIST: "Nothing to do: a proper retry from the same IP passes in some minutes.",
    Cause.SPAM_CONTENT: "Look at the links, the wording and the targeting of this message; keep the recipient.",
    Cause.CONTENT_POLICY: "Change what the reply names (attachment, link, header), and send again.",
    Cause.CONTENT_MALFORMED: "Repair the program that wrote the message: it breaks RFC 5322 or MIME.",
    Cause.MALWARE: "Look at the attachment and the links at once, and at the account that sent it.",
    Cause.MESSAGE_TOO_LARGE: "Send a smaller message, or a link in place of the attachment.",
    Cause.POLICY_OTHER: "Ask the receiver's postmaster, with the whole reply: it does not say why.",
    Cause.NETWORK: "Let the queue retry; if it lasts, check DNS, routes and firewalls towards the host.",
    Cause.ROUTING_LOOP: "Correct forwarding, aliases or MX records that point back to where they came from.",
    Cause.TLS_REQUIRED: "Offer STARTTLS with a certificate and versions that the receiver accepts.",
    Cause.EXPIRED: "Look at the earlier delays of the message: they say why it could not be delivered in time.",
    Cause.SYSTEM_ERROR: "Nothing on your side: retry later, and tell the receiver's postmaster if it lasts.",
    Cause.SYSTEM_FULL: "Nothing on your side: retry later; the receiving server is out of room.",
    Cause.PROTOCOL_ERROR: "Look at the SMTP dialogue: one of the two servers, or a firewall between, breaks it.",
    Cause.ALREADY_SUPPRESSED: "Take the address off your lists, or off that list if it was put there wrongly.",
    Cause.UNDETERMINED: "Read the reply, and give its words a rule (`mailecho templates` drafts one).",
}
