"""
Label values: what anybody sent, as text that no page chokes on.
"""

from __future__ import annotations

__all__ = ["clean_label", "error_name"]

_LONGEST = 128  # bytes of UTF-8
_REPLACED = "\N{REPLACEMENT CHARACTER}"


def clean_label(value: object) -> str:
    r"""
    Turn *value* into a label value: printable text of at most 128 bytes of UTF-8.

    Whatever does not print (control characters, lone surrogates, line
    separators, marks of direction, spaces other than the usual one) becomes
    U+FFFD; what is longer is cut between two characters.  Text is not
    normalized: what looks alike may stay different.  It never raises: of an
    object with a broken ``__str__`` only U+FFFD is left.  A clean value comes
    back as it is, and cleaning twice changes nothing.

        >>> clean_label("acme")
        'acme'
        >>> clean_label("a\nb\ud800c")
        'a�b�c'
        >>> len(clean_label("x" * 1000))
        128
    """
    if type(value) is str and len(value) <= _LONGEST:
        if value.isascii() and value.isprintable():
            return value
        return _scrub(value)
    return _scrub(_text_of(value))


def error_name(error: BaseException) -> str:
    """
    The class of an exception, as OpenTelemetry's ``error.type`` has it.

    With its module, unless that is ``builtins``; never its text.

        >>> error_name(ValueError("a secret"))
        'ValueError'
    """
    kind = type(error)
    module = kind.__module__
    return kind.__qualname__ if module == "builtins" else f"{module}.{kind.__qualname__}"


def _text_of(value: object) -> str:
    try:
        # A join makes a plain str, also out of a subclass.
        return "".join(str(value)[:_LONGEST])
    except Exception:  # noqa: BLE001 -- whatever a stranger's __str__ raises
        return _REPLACED


def _scrub(text: str) -> str:
    printable = "".join(one if one.isprintable() else _REPLACED for one in text)
    return printable.encode()[:_LONGEST].decode(errors="ignore")
