"""`cfsam push`: an exported folder to the Hugging Face Hub."""

import argparse

from ..publish import PushPlan, plan_push, push_folder
from ..publish.push import human_bytes
from .terminal import EXIT_OK


def run_push(args: argparse.Namespace) -> int:
    """Does what the parsed arguments of `cfsam push` say; returns the exit status."""
    plan = plan_push(args.folder, args.repository, private=not args.public)
    if args.dry_run:
        print(format_plan(plan))
        print("Nothing was sent.")
        return EXIT_OK
    commit = push_folder(plan, update=args.update, **({"message": args.message} if args.message else {}))
    print(f"{len(plan.files)} files, {human_bytes(plan.total)} -> {commit.repo_url} (commit {commit.oid})")
    return EXIT_OK


def format_plan(plan: PushPlan) -> str:
    """The plan as lines: a file each with its size, then what they make."""
    rows = [f"{human_bytes(size):>10}  {name}" for name, size in plan.files]
    kind = "private" if plan.private else "public"
    total = f"{human_bytes(plan.total):>10}  in {len(plan.files)} files, one commit to {plan.repo_id} ({kind} if new)"
    return "\n".join([*rows, total])
