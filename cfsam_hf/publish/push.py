"""Pushes a self-describing folder to the Hub: a plan first, then one commit."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from huggingface_hub import CommitInfo, CommitOperationAdd, CommitOperationDelete, HfApi, get_token
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled
from huggingface_hub.utils import HFValidationError, validate_repo_id

from .folder import check_folder
from .sendable import sendable_files

# The Hub's own limit for a file. Sharded weights (`max_shard_size` of save_pretrained) stay below it.
MAX_FILE_BYTES = 50 * 10**9
# Files of a new repository before the first push.
_PRISTINE = {".gitattributes"}
# An update deletes files of these kinds that the folder lacks: two sets of weights or of code would clash.
_REPLACED = (".py", ".safetensors", ".json")
# Base class of the HTTP library's errors; which library that is depends on huggingface_hub's version.
_HTTPError: type[Exception] = next(kind for kind in HfHubHTTPError.__mro__ if kind.__name__ == "HTTPError")


@dataclass(frozen=True)
class PushPlan:
    """What a push would send.

    Attributes:
        folder: the folder.
        repo_id: `NAMESPACE/NAME`.
        private: whether a new repository is visible to its owner alone.
        files: name in the repository and bytes of each file, in order.
        include: the files that the user named, see [`plan_push`].
    """

    folder: Path
    repo_id: str
    private: bool
    files: tuple[tuple[str, int], ...]
    include: tuple[str, ...] = ()

    @property
    def total(self) -> int:
        """Bytes of all files."""
        return sum(size for _, size in self.files)


def plan_push(
    folder: str | os.PathLike,
    repo_id: str,
    *,
    private: bool = True,
    include: Sequence[str] = (),
    max_file_bytes: int = MAX_FILE_BYTES,
) -> PushPlan:
    """Checks a folder and lists what a push would send. It sends nothing and needs no network.

    Args:
        folder: a self-describing folder, as [`export_for_hub`] writes it.
        repo_id: `NAMESPACE/NAME`, a user or organisation and the model's name.
        private (`bool`, defaults to `True`): whether a new repository is visible to its owner alone.
        include: names, relative to the folder, of files to send that an export does not write, such as the pictures of
            a card.
        max_file_bytes: larger files are refused.

    Returns:
        The plan. Hidden files and `__pycache__` are left out.

    Raises:
        OSError: there is no such folder, or a file of `include` is missing.
        ValueError: the name is not valid; the folder does not describe itself, or holds a file that must not be sent
            (see [`cfsam_hf.publish.sendable.sendable_files`]); a file is too large.
    """
    folder = Path(folder)
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise ValueError(f"{repo_id!r} is not a valid repository name: {error}") from error
    if repo_id.count("/") != 1:
        raise ValueError(
            f"{repo_id!r} is not a valid repository name: write NAMESPACE/NAME, a user or organisation first"
        )
    check_folder(folder)
    files = _sized_files(folder, include)
    for name, size in files:
        if size > max_file_bytes:
            raise ValueError(
                f"{name} has {human_bytes(size)}, more than the {human_bytes(max_file_bytes)} that a file may have: "
                "save the weights in parts (`save_pretrained(max_shard_size=...)`)"
            )
    return PushPlan(folder, repo_id, private, files, tuple(include))


def _sized_files(folder: Path, include: Sequence[str]) -> tuple[tuple[str, int], ...]:
    return tuple((str(path), (folder / path).stat().st_size) for path in sendable_files(folder, include))


def push_folder(
    plan: PushPlan,
    *,
    update: bool = False,
    token: str | None = None,
    endpoint: str | None = None,
    message: str = "Upload a CF-SAM checkpoint",
) -> CommitInfo:
    """Sends a planned push as one commit, to a new repository if there is none.

    Args:
        plan: from [`plan_push`].
        update (`bool`, defaults to `False`): whether to add a commit to a repository that already has files. Its
            visibility does not change.
        token (*optional*): a token with the right to write; default: that of `hf auth login` or `HF_TOKEN`.
        endpoint (*optional*): address of the Hub; default: `HF_ENDPOINT`, or the public one.
        message: of the commit.

    Returns:
        The commit: `oid`, `commit_url`, `repo_url`.

    Raises:
        ValueError: there is no token; the name is taken; the Hub refuses the card; files have been added to the folder
            or removed from it since the plan was made, or must not be sent any more.
        PermissionError: the token is not valid, or has no right to write there.
        OSError: the Hub cannot be reached or refuses the files.
    """
    if token is None and (token := get_token()) is None:
        raise ValueError("no token: log in with `hf auth login`, or set HF_TOKEN to a token with the right to write")
    if [name for name, _ in _sized_files(plan.folder, plan.include)] != [name for name, _ in plan.files]:
        raise ValueError(f"the files of {plan.folder} have changed since the push was planned; plan it again")
    api = HfApi(endpoint=endpoint, token=token)
    try:
        _make_repository(api, plan, update)
        additions = [CommitOperationAdd(name, plan.folder / name) for name, _ in plan.files]
        deletions = _outdated_files(api, plan) if update else []
        return api.create_commit(plan.repo_id, [*additions, *deletions], commit_message=message)
    except OfflineModeIsEnabled as error:
        raise OSError(f"{error} Nothing was sent.") from error
    except (_HTTPError, RuntimeError) as error:
        # Uploads run in threads; their errors arrive as RuntimeError with the original error as the cause.
        cause = error.__cause__ if isinstance(error, RuntimeError) and error.__cause__ is not None else error
        raise _explained(cause, plan, api.endpoint) from error


def _make_repository(api: HfApi, plan: PushPlan, update: bool) -> None:
    try:
        api.create_repo(plan.repo_id, private=plan.private)
    except HfHubHTTPError as error:
        status = error.response.status_code
        # A token may have the right to write to a repository but not to create one.
        if status != 409 and not (update and status in (402, 403)):
            raise
        try:
            there = set(api.list_repo_files(plan.repo_id)) - _PRISTINE
        except HfHubHTTPError:
            raise error from None
        # An interrupted push leaves an empty repository, which this push may fill.
        if there and not update:
            raise ValueError(
                f"the name {plan.repo_id} is taken: there is a repository with {len(there)} files. Choose another "
                "name, or pass --update (update=True) to add a commit to it"
            ) from error


def _outdated_files(api: HfApi, plan: PushPlan) -> list[CommitOperationDelete]:
    sent = {name for name, _ in plan.files}
    there = api.list_repo_files(plan.repo_id)
    return [
        CommitOperationDelete(name)
        for name in there
        if name not in sent and "/" not in name and PurePosixPath(name).suffix in _REPLACED
    ]


def _explained(error: BaseException, plan: PushPlan, endpoint: str) -> OSError:
    """An error of the Hub or of the connection as a sentence that says what to do."""
    response = getattr(error, "response", None)
    if response is None:
        return OSError(f"the Hub at {endpoint} cannot be reached ({type(error).__name__}: {error}); try again later")
    said = _server_message(error)
    status = response.status_code
    if status == 401:
        return PermissionError(
            f"the token is not valid for {endpoint} ({said}); log in again with `hf auth login`, or check HF_TOKEN"
        )
    if status in (402, 403):
        return PermissionError(
            f"no right to write to {plan.repo_id} ({said}): check the namespace, and that the token may write there"
        )
    if status == 404:
        return OSError(f"{plan.repo_id} was not found at {endpoint} ({said}): check the namespace")
    if status == 413:
        return OSError(f"a file is too large for {endpoint} ({said}); save the weights in parts (max_shard_size)")
    return OSError(f"{endpoint} answered {status} ({said})")


def _server_message(error: BaseException) -> str:
    text = getattr(error, "server_message", None) or str(error)
    return " ".join(text.split())


def human_bytes(size: int) -> str:
    """A readable number of bytes, in powers of a thousand as on the Hub.

    >>> human_bytes(512), human_bytes(12_345_678)
    ('512 B', '12.3 MB')
    """
    if size < 1000:
        return f"{size} B"
    value = float(size)
    for unit in ("kB", "MB", "GB"):
        value /= 1000
        if value < 1000 or unit == "GB":
            break
    return f"{value:.1f} {unit}"
