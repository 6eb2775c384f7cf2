"""A text as the bytes that a graph reads: the one way, for training, evaluation and requests.

Python's strings may hold what no Unicode text has: halves of a surrogate pair, from JSON's
``"\\ud800"`` or from bytes that were smuggled through a file name. Whoever turns them into bytes by
rules of their own makes another example of the same text.
"""

from __future__ import annotations


def text_bytes(text: str) -> bytes:
    r"""UTF-8; the two halves of a pair are one character, and half a pair alone is U+FFFD.

    >>> text_bytes("a\ud83d\ude00").decode(), text_bytes("a\ud800b").decode()
    ('a😀', 'a�b')
    """
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError:
        halves = text.encode("utf-16-le", "surrogatepass")
        return halves.decode("utf-16-le", "replace").encode("utf-8")
