"""A sha256 at the end of each exported file. It shows whether the file was damaged, or was not written by cnnzoo.

It is in a place that readers of the format pass over: the comment of a zip file (.pt2), or one more entry of an ONNX file's
metadata, since the parts of a protocol buffer may come one after the other. It guards against accidents: whoever alters a
file on purpose can write the digest anew.
"""

import hashlib
from pathlib import Path

from ..errors import CheckpointError

_KEY = b"cnnzoo_sha256"
_DIGITS = 64
_END_OF_ZIP = 22  # bytes of a zip file's last record, without a comment
# Field 14 of ONNX's ModelProto, metadata_props; in it field 1, the key, and field 2, the value: each with its length.
_ENTRY = bytes([1 << 3 | 2, len(_KEY)]) + _KEY + bytes([2 << 3 | 2, _DIGITS])
_TAILS = {".onnx": bytes([14 << 3 | 2, len(_ENTRY) + _DIGITS]) + _ENTRY, ".pt2": _KEY + b" "}


def sealed(content: bytes, suffix: str) -> bytes:
    """The content of a file with its digest at the end; `suffix` is the file's."""
    tail = _TAILS[suffix]
    if suffix == ".pt2":
        if content[-_END_OF_ZIP:][:4] != b"PK\x05\x06" or content[-2:] != b"\0\0":
            raise ValueError("the zip file has a comment already")
        content = content[:-2] + (len(tail) + _DIGITS).to_bytes(2, "little")
    content += tail
    return content + hashlib.sha256(content).hexdigest().encode()


def check_seal(path: Path) -> None:
    """Whether a file is, byte by byte, what `sealed` made.

    Raises:
        CheckpointError: It is damaged, or was altered, or has no digest, as files of others have none.
    """
    content = path.read_bytes()
    body, digest = content[:-_DIGITS], content[-_DIGITS:]
    if not body.endswith(_TAILS.get(path.suffix, _KEY)):
        raise CheckpointError(
            f"{path} has no digest at its end: it is damaged, or not a file of cnnzoo export. Export it again, or open "
            "somebody else's file with torch.export.load or ONNX Runtime."
        )
    if hashlib.sha256(body).hexdigest().encode() != digest:
        raise CheckpointError(f"{path} is damaged: its sha256 is not the one at its end. Export it again.")
