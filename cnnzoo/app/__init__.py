"""A web page around `predict`, on this machine or as a Hugging Face Space (needs the extra `app`)."""

from ._page import page
from ._server import HOST, MAX_BYTES, PORT, check_address, launch, serving
from ._space import write_space

__all__ = ["HOST", "MAX_BYTES", "PORT", "check_address", "launch", "page", "serving", "write_space"]
