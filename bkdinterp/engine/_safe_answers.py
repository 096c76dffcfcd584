"""SafeAnswers: nnsight's request to a server, whose answer is read as tensors and plain values only.

nnsight unpickles answers whole, which lets a server, or whoever can choose whose answer is fetched, run code here. What our block
returns are lists and dicts of tensors, so nothing more is let in.
"""

import io
import pickle
import zipfile
from typing import Any

import torch
from nnsight.intervention.backends.display import StatusDisplay
from nnsight.intervention.backends.remote import RemoteBackend
from nnsight.schema.response import ResponseModel, Status


class _StatusOnly(pickle.Unpickler):
    """Reads texts, numbers, bytes, lists and dicts, and a status."""

    def find_class(self, module_name: str, global_name: str) -> Any:
        if (module_name, global_name) == (Status.__module__, Status.__qualname__):
            return Status
        raise pickle.UnpicklingError(f"A server's answer may not hold {module_name}.{global_name}.")


class SafeAnswers(RemoteBackend):
    """See the module."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.display = StatusDisplay(enabled=False)

    @staticmethod
    def parse(message: str | bytes) -> ResponseModel:
        """One status update; a binary one holds the answer."""
        if not isinstance(message, bytes | bytearray):
            return ResponseModel.model_validate_json(message)
        # torch's own safe reader does not know the pickle protocol of these frames, which hold an id, a status and bytes.
        with zipfile.ZipFile(io.BytesIO(bytes(message))) as archive:
            (name,) = (n for n in archive.namelist() if n.endswith("/data.pkl"))
            values = _StatusOnly(io.BytesIO(archive.read(name))).load()
        return ResponseModel(**values)

    def finalize(self, content: bytes) -> Any:
        """The answer itself."""
        if self.compress:
            import zstandard

            content = zstandard.ZstdDecompressor().decompress(content)
        return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
