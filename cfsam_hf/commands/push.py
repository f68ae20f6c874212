"""`cfsam push`: sends an exported folder to the Hugging Face Hub."""

import argparse
from typing import TYPE_CHECKING

from .messages import one_line
from .options import add_debug_option
from .terminal import EXIT_OK

if TYPE_CHECKING:
    from ..publish import PushPlan


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Declares `cfsam push` and its options."""
    parser = subparsers.add_parser(
        "push",
        help="send an exported folder to the Hugging Face Hub",
        description=(
            "Sends a folder that `cfsam export` wrote to the Hugging Face Hub (or to HF_ENDPOINT) as one commit. A "
            "new repository is private. The token is taken from `hf auth login` or HF_TOKEN."
        ),
    )
    parser.add_argument("folder", metavar="FOLDER", help="folder that `cfsam export` wrote")
    parser.add_argument("repository", metavar="NAMESPACE/NAME", help="repository: a user or organisation, and a name")
    parser.add_argument(
        "--include",
        metavar="FILE",
        action="append",
        default=[],
        help="also send FILE, named relative to FOLDER, such as a picture in the card; may be repeated",
    )
    parser.add_argument("--public", action="store_true", help="make a new repository public")
    parser.add_argument(
        "--update",
        action="store_true",
        help=(
            "add a commit to an existing repository; the commit also removes the repository's top-level .py, .json "
            "and .safetensors files that FOLDER lacks"
        ),
    )
    parser.add_argument("--dry-run", action="store_true", help="list what would be sent, and send nothing")
    parser.add_argument("--message", help="commit message")
    add_debug_option(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Sends the folder, or lists what would be sent; returns the exit status."""
    from ..publish import plan_push, push_folder
    from ..publish.push import human_bytes

    plan = plan_push(args.folder, args.repository, private=not args.public, include=args.include)
    if args.dry_run:
        print(format_plan(plan))
        print("Nothing was sent.")
        return EXIT_OK
    commit = push_folder(plan, update=args.update, **({"message": args.message} if args.message else {}))
    print(f"{len(plan.files)} files, {human_bytes(plan.total)} -> {commit.repo_url} (commit {commit.oid})")
    return EXIT_OK


def format_plan(plan: "PushPlan") -> str:
    """Formats the plan: a line for each file with its size, then the total."""
    from ..publish.push import human_bytes

    rows = [f"{human_bytes(size):>10}  {one_line(name)}" for name, size in plan.files]
    kind = "private" if plan.private else "public"
    total = f"{human_bytes(plan.total):>10}  in {len(plan.files)} files, one commit to {plan.repo_id} ({kind} if new)"
    return "\n".join([*rows, total])
