"""What can be asked for, as text: a name, a repository, a package, an address, a path."""

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
_HOME: Final = ("127.0.0.1", "localhost", "::1")
_LONGEST: Final = 2000


class Source(Struct, frozen=True):
    """Something to fetch.

    Args:
        place: who has it.
        where: the repository, the package, the address, the path or the name.
        file: one file of it, with `*` for anything; empty for what makes a model.
        revision: a branch, a tag or a commit; empty for the newest.
        projector: the file of the same repository that lets a GGUF model see.
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
        """The name that a model from here gets when nobody gives it one."""
        if self.place == "name":
            return self.where
        if self.file and "*" not in self.file:
            return _SPLIT.sub("", PurePosixPath(self.file).stem)
        if self.place == "pypi":
            return self.where.partition("==")[0]
        path = unquote(urlsplit(self.where).path) if self.place == "web" else self.where
        last = PurePosixPath(path).name
        return _SPLIT.sub("", last[:-5]) if last.lower().endswith(".gguf") else last


def parse(text: str, here: bool = True) -> Source:
    """Read what somebody asked for.

    Args:
        text: such as `qwen3-8b`, `hf:owner/repo`, `hf:owner/repo@rev:file.gguf`,
            `modelscope:owner/repo`, `pypi:package==1.0`, `https://…`, `./folder`.
        here: whether it was typed on this machine, so that paths mean something.

    Raises:
        InvalidRequest: it is none of these.
    """
    text = text.strip()
    if not text or len(text) > _LONGEST or not text.isprintable():
        raise _wrong("Name the model to pull.")
    if re.match(r"https?://", text):
        return _address(text)
    prefix, colon, rest = text.partition(":")
    if colon and (place := PREFIXES.get(prefix.lower())):
        return _package(rest) if place == "pypi" else _repository(place, rest)
    if text.startswith(("/", "./", "../", "~")) or text in (".", ".."):
        if not here:
            raise _wrong("Files of the machine that the service runs on can't be named over HTTP.")
        return Source("path", str(Path(text).expanduser().absolute()))
    if _REPOSITORY.fullmatch(text):
        raise _wrong(f"'{text}' may be on several hubs: write hf:{text} or modelscope:{text}.")
    if not _NAME.fullmatch(text):
        raise _wrong(f"'{text}' is no name, repository, package, address or path.")
    return Source("name", text)


def _repository(place: Place, text: str) -> Source:
    text, _, file = text.partition(":")
    repository, _, revision = text.partition("@")
    if not _REPOSITORY.fullmatch(repository):
        raise _wrong(f"'{repository}' is no repository: write owner/name.")
    if ".." in PurePosixPath(file).parts or file.startswith("/"):
        raise _wrong(f"'{file}' is no file of a repository.")
    return Source(place, repository, file, revision)


def _package(text: str) -> Source:
    text, _, file = text.partition(":")
    if not _PACKAGE.fullmatch(text):
        raise _wrong(f"'{text}' is no package: write name or name==version.")
    return Source("pypi", text, file)


def _address(text: str) -> Source:
    try:
        parts = urlsplit(text)
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise _wrong(f"'{text}' is no address.") from None
    if parts.username or parts.password:
        raise _wrong("An address with a password in it would be written down: leave it out.")
    if parts.scheme == "http" and host not in _HOME:
        raise _wrong("Over http:// anybody on the way can change the file: use https://.")
    if not host or not unquote(parts.path).lower().endswith(".gguf"):
        raise _wrong("An address has to end with .gguf: other models are more than one file.")
    return Source("web", text)


def _wrong(message: str) -> InvalidRequest:
    return InvalidRequest(message, param="model")
