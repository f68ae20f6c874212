"""A self-describing folder to the Hub: planned first, then sent as one commit."""

import os
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from huggingface_hub import CommitInfo, CommitOperationAdd, CommitOperationDelete, HfApi, get_token
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled
from huggingface_hub.utils import HFValidationError, validate_repo_id

from .folder import check_folder

# The Hub's own limit for a file. Sharded weights (`max_shard_size` of save_pretrained) stay below it.
MAX_FILE_BYTES = 50 * 10**9
# What a new repository holds before anything was pushed.
_PRISTINE = {".gitattributes"}
# Of an older push, these go where the folder no longer has them: two sets of weights or of code would not fit.
_REPLACED = (".py", ".safetensors", ".json")
# What every error of the HTTP library derives from; which library that is depends on huggingface_hub's version.
_HTTPError = next(kind for kind in HfHubHTTPError.__mro__ if kind.__name__ == "HTTPError")


@dataclass(frozen=True)
class PushPlan:
    """What a push would send.

    Attributes:
        folder: the folder.
        repo_id: `NAMESPACE/NAME`.
        private: whether a new repository is visible to its owner alone.
        files: name in the repository and bytes of each file, in order.
    """

    folder: Path
    repo_id: str
    private: bool
    files: tuple[tuple[str, int], ...]

    @property
    def total(self) -> int:
        """Bytes of all files."""
        return sum(size for _, size in self.files)


def plan_push(
    folder: str | os.PathLike, repo_id: str, *, private: bool = True, max_file_bytes: int = MAX_FILE_BYTES
) -> PushPlan:
    """Looks at a folder and says what a push would send. Nothing is sent, and no network is needed.

    Args:
        folder: a self-describing folder, as [`export_for_hub`] writes it.
        repo_id: `NAMESPACE/NAME`, a user or organisation and the model's name.
        private (`bool`, defaults to `True`): whether a new repository is visible to its owner alone.
        max_file_bytes: larger files are refused.

    Returns:
        The plan. Hidden files and `__pycache__` are left out.

    Raises:
        OSError: there is no such folder.
        ValueError: the name is impossible, the folder does not describe itself, or a file is too large.
    """
    folder = Path(folder)
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise ValueError(f"{repo_id!r} is no name for a repository: {error}") from error
    if repo_id.count("/") != 1:
        raise ValueError(
            f"{repo_id!r} is no name for a repository: write NAMESPACE/NAME, a user or organisation first"
        )
    check_folder(folder)
    paths = [path.relative_to(folder) for path in sorted(folder.rglob("*")) if path.is_file()]
    shown = [path for path in paths if not any(part.startswith(".") or part == "__pycache__" for part in path.parts)]
    files = tuple((path.as_posix(), (folder / path).stat().st_size) for path in shown)
    for name, size in files:
        if size > max_file_bytes:
            raise ValueError(
                f"{name} has {human_bytes(size)}, more than the {human_bytes(max_file_bytes)} that a file may have: "
                "save the weights in parts (`save_pretrained(max_shard_size=...)`)"
            )
    return PushPlan(folder, repo_id, private, files)


def push_folder(
    plan: PushPlan,
    *,
    update: bool = False,
    token: str | None = None,
    endpoint: str | None = None,
    message: str = "Upload a CF-SAM checkpoint",
) -> CommitInfo:
    """Sends a planned push as one commit; the repository is made if it is not there.

    Args:
        plan: from [`plan_push`].
        update (`bool`, defaults to `False`): whether a repository that is there, with files in it, gets a new commit.
            Its visibility stays as it is.
        token (*optional*): a token with the right to write; default: that of `hf auth login` or `HF_TOKEN`.
        endpoint (*optional*): address of the Hub; default: `HF_ENDPOINT`, or the public one.
        message: of the commit.

    Returns:
        The commit: `oid`, `commit_url`, `repo_url`.

    Raises:
        ValueError: no token; the name is taken; the Hub refuses the card.
        PermissionError: the token is not valid, or has no right to write there.
        OSError: the Hub cannot be reached or refuses the files.
    """
    if token is None and (token := get_token()) is None:
        raise ValueError("no token: log in with `hf auth login`, or set HF_TOKEN to a token with the right to write")
    api = HfApi(endpoint=endpoint, token=token)
    try:
        _make_repository(api, plan, update)
        additions = [CommitOperationAdd(name, plan.folder / name) for name, _ in plan.files]
        deletions = _outdated_files(api, plan) if update else []
        return api.create_commit(plan.repo_id, [*additions, *deletions], commit_message=message)
    except OfflineModeIsEnabled as error:
        raise OSError(f"{error} The push was not begun.") from error
    except (_HTTPError, RuntimeError) as error:
        # Uploads run in threads, whose errors come as RuntimeError with the true one as their cause.
        cause = error.__cause__ if isinstance(error, RuntimeError) and error.__cause__ is not None else error
        raise _explained(cause, plan, api.endpoint) from error


def _make_repository(api: HfApi, plan: PushPlan, update: bool) -> None:
    try:
        api.create_repo(plan.repo_id, private=plan.private)
    except HfHubHTTPError as error:
        status = error.response.status_code
        # A token may have the right to write to a repository without that to make one.
        if status != 409 and not (update and status in (402, 403)):
            raise
        try:
            there = set(api.list_repo_files(plan.repo_id)) - _PRISTINE
        except HfHubHTTPError:
            raise error from None
        # A push that broke off left an empty repository, which is to be filled.
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
    """An error of the Hub or of the way to it, in words that say what to do."""
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
    """A number of bytes for people, in powers of a thousand as the Hub counts.

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
