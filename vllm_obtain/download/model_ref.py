"""Parses model references: a name, a repository, a package, a URL or a path."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath
from typing import Final, Literal
from urllib.parse import unquote, urlsplit

from msgspec import Struct

from vllm_obtain.errors import InvalidRequest

Place = Literal["name", "huggingface", "modelscope", "pypi", "web", "path"]

PREFIXES: Final[dict[str, Place]] = {
    "hf": "huggingface",
    "huggingface": "huggingface",
    "modelscope": "modelscope",
    "ms": "modelscope",
    "pypi": "pypi",
}
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
_PACKAGE = re.compile(r"[A-Za-z0-9][\w.-]*(==[\w.!+-]+)?", re.ASCII)
_NAME = re.compile(r"[A-Za-z0-9][\w.-]*", re.ASCII)
_SPLIT = re.compile(r"-\d{5}-of-\d{5}$")
_LOOPBACK: Final = ("127.0.0.1", "localhost", "::1")
_MAX_LENGTH: Final = 2000


class ModelRef(Struct, frozen=True):
    """Where to download a model from.

    Args:
        place: the kind of source.
        where: the repository, package, URL, path or name.
        file: a file name or pattern (`*` matches anything); empty selects the files of the model.
        revision: a branch, tag or commit; empty for the latest.
        projector: the file name or pattern of a GGUF vision projector in the same repository.
    """

    place: Place
    where: str
    file: str = ""
    revision: str = ""
    projector: str = ""

    def __str__(self) -> str:
        if self.place in ("name", "web", "path"):
            return self.where
        short = "hf" if self.place == "huggingface" else self.place
        file = f":{self.file}" if self.file else ""
        return f"{short}:{self.where}{f'@{self.revision}' if self.revision else ''}{file}"

    @property
    def stem(self) -> str:
        """The default name of a model from this source."""
        if self.place == "name":
            return self.where
        if self.file and "*" not in self.file:
            return _SPLIT.sub("", PurePosixPath(self.file).stem)
        if self.place == "pypi":
            return self.where.partition("==")[0]
        path = unquote(urlsplit(self.where).path) if self.place == "web" else self.where
        last = PurePosixPath(path).name
        return _SPLIT.sub("", last[:-5]) if last.lower().endswith(".gguf") else last


def parse(text: str, allow_paths: bool = True) -> ModelRef:
    """Parse a model reference.

    Args:
        text: such as `qwen3-8b`, `hf:owner/repo`, `hf:owner/repo@rev:file.gguf`,
            `modelscope:owner/repo`, `pypi:package==1.0`, `https://…`, `./folder`.
        allow_paths: whether local paths are allowed.

    Raises:
        InvalidRequest: the text is not a model reference.
    """
    text = text.strip()
    if not text or len(text) > _MAX_LENGTH or not text.isprintable():
        raise _invalid("The model reference is empty or unprintable. Name the model to download.")
    if re.match(r"https?://", text):
        return _url(text)
    prefix, colon, rest = text.partition(":")
    if colon and (place := PREFIXES.get(prefix.lower())):
        return _package(rest) if place == "pypi" else _repository(place, rest)
    if text.startswith(("/", "./", "../", "~")) or text in (".", ".."):
        if not allow_paths:
            raise _invalid("Local paths are not accepted over HTTP. Run `vllm-obtain pull` there.")
        return ModelRef("path", str(Path(text).expanduser().absolute()))
    if _REPOSITORY.fullmatch(text):
        raise _invalid(f"'{text}' does not name a hub. Use hf:{text} or modelscope:{text}.")
    if not _NAME.fullmatch(text):
        raise _invalid(f"Cannot parse '{text}' as a model name, repository, package, URL or path.")
    return ModelRef("name", text)


def _repository(place: Place, text: str) -> ModelRef:
    text, _, file = text.partition(":")
    repository, _, revision = text.partition("@")
    if not _REPOSITORY.fullmatch(repository):
        raise _invalid(f"'{repository}' is not a repository. Use owner/name.")
    if ".." in PurePosixPath(file).parts or file.startswith("/"):
        raise _invalid(f"'{file}' is not a file in a repository. Use a relative path without '..'.")
    return ModelRef(place, repository, file, revision)


def _package(text: str) -> ModelRef:
    text, _, file = text.partition(":")
    if not _PACKAGE.fullmatch(text):
        raise _invalid(f"'{text}' is not a package. Use name or name==version.")
    return ModelRef("pypi", text, file)


def _url(text: str) -> ModelRef:
    try:
        parts = urlsplit(text)
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise _invalid(f"'{text}' is not a valid URL. Check its host and port.") from None
    if parts.username or parts.password:
        raise _invalid("The URL contains credentials, which would be stored. Remove them.")
    if parts.scheme == "http" and host not in _LOOPBACK:
        raise _invalid("http:// does not protect the file from changes. Use https://.")
    if not host or not unquote(parts.path).lower().endswith(".gguf"):
        raise _invalid("Only URLs of .gguf files can be downloaded. Use hf: for other formats.")
    return ModelRef("web", text)


def _invalid(message: str) -> InvalidRequest:
    return InvalidRequest(message, param="model")
