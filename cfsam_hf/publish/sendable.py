"""Which files of a folder a push sends: what an export writes, files that the user names, and nothing else.

A folder collects files that nobody meant to publish: keys and tokens, notebooks, links into other folders. A push
therefore sends only known files, refuses every other visible file by name, follows no link out of the folder, and
searches what it sends for keys and tokens.
"""

import os
import re
from collections.abc import Container, Iterable, Iterator, Sequence
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath

from .folder import CARD, CONFIG, PROCESSOR, REQUIREMENTS, WEIGHTS, code_names

EXPORTED = (CONFIG, PROCESSOR, CARD, REQUIREMENTS, WEIGHTS, f"{WEIGHTS}.index.json", "model-*-of-*.safetensors")
"""Names, as patterns, of the files that an export writes beside its code."""
LEGAL = ("LICENSE*", "LICENCE*", "NOTICE*", "CITATION.cff")
"""Files that belong beside a model and hold nothing private."""

# Names under which keys, passwords and tokens are kept; such a file is never sent, even if the user names it.
PRIVATE = (
    *(
        "*.pem",
        "*.key",
        "*.p12",
        "*.pfx",
        "*.jks",
        "*.kdbx",
        "*.ppk",
        "id_rsa*",
        "id_dsa*",
        "id_ecdsa*",
        "id_ed25519*",
    ),
    *("*credential*", "*secret*", "*password*", "token", "*.token", "*_token*", "*.env", "*.netrc", "*.pgpass"),
)
_SECRETS = {
    "a private key": re.compile(rb"-----BEGIN [A-Z ]*PRIVATE KEY"),
    "a token of the Hugging Face Hub": re.compile(rb"\bhf_[A-Za-z0-9]{30,}"),
    "a token of GitHub": re.compile(rb"\b(gh[pousr]_[A-Za-z0-9]{36}|github_pat_\w{22,})"),
    "an AWS access key": re.compile(rb"\bAKIA[0-9A-Z]{16}\b"),
}
# Weights hold only numbers, and searching gigabytes takes minutes.
_UNSEARCHED = ".safetensors"


def sendable_files(folder: Path, include: Sequence[str] = ()) -> list[PurePosixPath]:
    """Lists the files of a folder that a push sends.

    Hidden files and `__pycache__` are left out.

    Args:
        folder: a self-describing folder.
        include: names, relative to the folder, of further files to send, such as pictures that the card shows.

    Returns:
        Paths relative to the folder, sorted.

    Raises:
        ValueError: a link leads out of the folder or to a hidden file; a file is not one that an export writes; a file
            holds a key or a token. The message names every such file.
        OSError: a file of `include` is missing, or a file cannot be read.
    """
    named = {PurePosixPath(name) for name in include}
    if missing := sorted(str(path) for path in named if not (folder / path).is_file()):
        raise FileNotFoundError(f"{folder}: no such file: {', '.join(missing)}")
    known = {*code_names(folder)}
    files, problems = [], []
    for path in sorted({*_visible(folder), *named}):
        if problem := _link_problem(folder, path) or _name_problem(path, known, named):
            problems.append(f"{path} {problem}")
        else:
            files.append(path)
    problems += _found_secrets(folder, files)
    if problems:
        raise ValueError(f"{folder} holds files that must not be sent: {'; '.join(problems)}")
    return files


def is_exported(name: str, code: Container[str]) -> bool:
    """Whether an export writes a file of this name.

    Args:
        name: of a file at the top of the folder.
        code: names of the folder's code, of [`cfsam_hf.publish.folder.code_names`].
    """
    return name in code or any(fnmatch(name, pattern) for pattern in EXPORTED)


def _visible(folder: Path) -> Iterator[PurePosixPath]:
    """Files, and links to folders, whose path has no hidden part."""
    for directory, folders, files in os.walk(folder):
        here = PurePosixPath(Path(directory).relative_to(folder).as_posix())
        linked = [name for name in folders if Path(directory, name).is_symlink()]
        folders[:] = [name for name in folders if name not in linked and not _is_hidden([name])]
        yield from (here / name for name in [*files, *linked] if not _is_hidden([name]))


def _is_hidden(parts: Iterable[str]) -> bool:
    return any(part.startswith(".") or part == "__pycache__" for part in parts)


def _link_problem(folder: Path, path: PurePosixPath) -> str | None:
    root, target = folder.resolve(), (folder / path).resolve()
    if target == root / path:
        return None
    if not target.is_relative_to(root):
        return f"is a link to {target}, outside of the folder; put a copy of the file in its place"
    if _is_hidden(target.relative_to(root).parts):
        return f"is a link to the hidden {target.relative_to(root)}; remove it"
    if not target.is_file():
        return "is a link to a folder, or to nothing; remove it"
    return None


def _name_problem(path: PurePosixPath, code: set[str], named: set[PurePosixPath]) -> str | None:
    if _is_hidden(path.parts):
        return "is hidden, and hidden files are not sent"
    if any(fnmatch(path.name.lower(), pattern) for pattern in PRIVATE):
        return "has the name of a file of keys, passwords or tokens; move it out of the folder"
    usual = is_exported(path.name, code) or any(fnmatch(path.name, pattern) for pattern in LEGAL)
    if (usual and path.parent == PurePosixPath()) or path in named:
        return None
    return f"is not part of an export; move it out of the folder, or name it (--include {path}, include=[...])"


def _found_secrets(folder: Path, files: Iterable[PurePosixPath]) -> list[str]:
    found = []
    for path in files:
        if path.suffix == _UNSEARCHED:
            continue
        content = (folder / path).read_bytes()
        found += [
            f"{path} holds {what}; remove it, and revoke it" for what, how in _SECRETS.items() if how.search(content)
        ]
    return found
