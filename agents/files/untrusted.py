"""Readers for files of unknown origin: zip archives, JSON and tensors. Nothing is unpickled, executed or written.

A reader accepts what this toolkit writes and little else, so that no file can ask for more memory than it is long:
archives are not compressed, tensors are dense, and every name is plain. Errors say what is wrong in one clause.
"""

import io
import json
import math
import re
import stat
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, cast

import torch
from torch import Tensor

_MEMBER = re.compile(r"[A-Za-z0-9_.-]+(/[A-Za-z0-9_.-]+)*")
_MOST_MEMBERS = 1000
_MOST_JSON = 16_000_000  # bytes
_MOST_NODES, _MOST_DEPTH = 100_000, 8  # of nested tensors
_LONGEST, _LARGEST = 1000, 10**7  # list and number among the settings of an agent
_LONGEST_EMBEDDING = 10_000  # of one task
_MOST_LAYERS = 100
_MOST_CRITICS = 100  # of a weight agent, which holds the weights of each
_NOT_SIZES = frozenset(  # numbers of which nothing is built
    {
        *("seed", "buffer_size", "num_timesteps", "n_updates"),
        *("learning_starts", "train_freq", "gradient_steps", "max_skipped_updates"),
    }
)
_DTYPES = frozenset(
    {
        *(torch.float16, torch.bfloat16, torch.float32, torch.float64),
        *(torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.bool),
    }
)


class UntrustedError(ValueError):
    """What is wrong with a file, as a clause without a full stop."""


def read_archive(source: Path | BinaryIO | io.BufferedIOBase) -> dict[str, bytes]:
    """The members of a zip archive without compression, each checked against its CRC-32.

    :raises UntrustedError: for anything that is no such archive, and for names that lead elsewhere
    """
    if isinstance(source, Path) and not source.is_file():
        raise UntrustedError("it is no regular file")
    try:
        with zipfile.ZipFile(cast("Path | BinaryIO", source)) as archive:
            members = archive.infolist()
            assert archive.fp is not None
            _refuse_members(members, archive.fp.seek(0, io.SEEK_END))
            return {member.filename: archive.read(member) for member in members}
    except UntrustedError:
        raise
    except Exception as error:  # whatever a broken archive provokes in zipfile
        raise UntrustedError(f"it is no whole zip archive ({_short(error)})") from error


def _refuse_members(members: list[zipfile.ZipInfo], length: int) -> None:
    if len(members) > _MOST_MEMBERS:
        raise UntrustedError(f"it holds {len(members)} members, at most {_MOST_MEMBERS} are read")
    if len({member.filename for member in members}) < len(members):
        raise UntrustedError("it holds two members of one name")
    for member in members:
        name = member.filename
        parts = name.split("/")
        if not _MEMBER.fullmatch(name) or ".." in parts or "." in parts:
            raise UntrustedError(f"it holds a member with the name {name!r:.80}")
        if member.flag_bits & 1 or stat.S_ISLNK(member.external_attr >> 16):
            raise UntrustedError(f"its member '{name:.80}' is encrypted or a link")
        if member.compress_type != zipfile.ZIP_STORED or member.file_size != member.compress_size:
            raise UntrustedError(f"its member '{name:.80}' is compressed, and could grow to any size")
    if sum(member.file_size for member in members) > length:
        raise UntrustedError("its members overlap, and could grow to any size")


def read_json(text: bytes) -> Any:
    """What a JSON text says.

    :raises UntrustedError: for a text that is too long, nested too deeply, or no JSON
    """
    if len(text) > _MOST_JSON:
        raise UntrustedError(f"its JSON has {len(text):,} bytes, at most {_MOST_JSON:,} are read")
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UntrustedError(f"its JSON cannot be read ({_short(error)})") from error


def read_tensors(content: bytes, what: str, finite: bool = True) -> Any:
    """Tensors, numbers and text in nested dictionaries and lists, as `torch.save` writes them; on the host.

    :param what: what they are, for the error
    :param finite: refuse numbers that are not finite
    :raises UntrustedError: for anything else
    """
    # Files of the older formats begin otherwise: they are no archives, and have no checksums.
    read_archive(io.BytesIO(content))
    try:
        # PyTorch's own reader of the few instructions that make tensors: it knows no other, and calls nothing.
        value = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a broken or hostile file provokes
        raise UntrustedError(f"{what} holds no plain tensors ({_short(error)})") from error
    _refuse_nested(value, what, finite, nodes=[0], depth=0)
    return value


def _refuse_nested(value: Any, where: str, finite: bool, nodes: list[int], depth: int) -> None:
    nodes[0] += 1  # every visit counts: references to one object can multiply without being long
    if nodes[0] > _MOST_NODES or depth > _MOST_DEPTH:
        raise UntrustedError(f"{where:.80} is nested beyond reason")
    if isinstance(value, Mapping):
        for name, entry in value.items():
            if not isinstance(name, (str, int)):
                raise UntrustedError(f"{where:.80} has an entry that is named by no text or number")
            _refuse_nested(entry, f"{where} {name!r:.80}", finite, nodes, depth + 1)
    elif isinstance(value, (list, tuple)):
        for entry in value:
            _refuse_nested(entry, where, finite, nodes, depth + 1)
    elif isinstance(value, Tensor):
        _refuse_tensor(value, where, finite)
    elif isinstance(value, float):
        if finite and not math.isfinite(value):
            raise UntrustedError(f"{where:.80} is {value}")
    elif value is not None and not isinstance(value, (bool, int, str)):
        raise UntrustedError(f"{where:.80} is of the type {type(value).__name__:.40}")


def refuse_not_finite(value: Any, what: str) -> None:
    """Refuse nested tensors and numbers of which one is not finite, and whatever `read_tensors` would not return.

    :param what: what they are, for the error
    :raises UntrustedError: naming the first
    """
    _refuse_nested(value, what, finite=True, nodes=[0], depth=0)


def _refuse_tensor(tensor: Tensor, where: str, finite: bool) -> None:
    if tensor.layout is not torch.strided or tensor.is_quantized or tensor.dtype not in _DTYPES:
        raise UntrustedError(f"{where:.80} is no dense tensor of plain numbers")
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise UntrustedError(f"{where:.80} repeats its numbers, and could grow to any size")
    if finite and tensor.is_floating_point() and not bool(tensor.isfinite().all()):
        raise UntrustedError(f"{where:.80} holds a number that is not finite")


def refuse_absurd(data: Mapping[str, Any]) -> None:
    """Refuse sizes among an agent's data that nobody means.

    :raises ValueError: naming the first
    """
    names = data["task_names"]
    if not names or len(names) > _LONGEST or len(set(map(str, names))) < len(names):
        raise ValueError(f"it must name between 1 and {_LONGEST} different tasks, it names {len(names)}")
    if not all(isinstance(name, str) for name in names):
        raise ValueError("the name of a task is no text")
    for name in ("num_timesteps", "n_updates"):
        if not 0 <= data[name] < 2**62:
            raise ValueError(f"{name} is {data[name]:.3g}")
    # Options that say how much memory or how many layers are made, beside those of which nothing large is built.
    layers = dict.fromkeys(("depth", "encoder_depth"), _MOST_LAYERS)
    largest = {"iteration_window": _LARGEST // len(names), "critics": _MOST_CRITICS, **layers}
    _refuse_large("settings", data["settings"], largest)


def _refuse_large(name: str, value: Any, largest: Mapping[str, int]) -> None:
    most = largest.get(name.rpartition(".")[2], _LARGEST)
    if isinstance(value, Mapping):
        for key, entry in value.items():
            _refuse_large(str(key), entry, largest)
    elif isinstance(value, (list, str)):
        longest = _LONGEST_EMBEDDING if name == "task_embeddings" else _LONGEST
        if len(value) > longest:
            raise ValueError(f"'{name:.80}' has {len(value):,} entries, at most {longest:,} make sense")
        for entry in value if isinstance(value, list) else ():
            _refuse_large(name, entry, largest)
    elif isinstance(value, (int, float)) and name not in _NOT_SIZES and not abs(value) <= most:
        raise ValueError(f"'{name:.80}' is {value:.3g}, at most {most:,} makes sense")


def load_optimizer(optimizer: torch.optim.Optimizer, saved: Mapping[str, Any]) -> None:
    """Restore the moments of an optimizer; its rates stay as they are, for the caller may have changed them.

    :raises ValueError: for moments that are not those of its parameters
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for index, moments in saved["state"].items():
        if not isinstance(index, int) or not 0 <= index < len(parameters):
            raise ValueError(f"it holds moments of parameter {index!r:.40}, and there are {len(parameters)}")
        if moments.keys() != {"step", "exp_avg", "exp_avg_sq"}:
            raise ValueError(f"it holds other moments of parameter {index} than Adam's")
        shape = parameters[index].shape
        for name, moment in moments.items():
            if moment.shape != (torch.Size() if name == "step" else shape):
                raise ValueError(f"'{name}' of parameter {index} has shape {list(moment.shape)}, not {list(shape)}")
    optimizer.load_state_dict({"state": saved["state"], "param_groups": optimizer.state_dict()["param_groups"]})


def _short(error: Exception) -> str:
    reason = " ".join(str(error).split())
    return f"{type(error).__name__}: {reason:.120}" if reason else type(error).__name__
