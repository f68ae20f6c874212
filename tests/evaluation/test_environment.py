"""Why: a result must name the source that produced it, never the commit of a surrounding project."""

import shutil
import subprocess

import pytest

from cfsam_hf.evaluation import environment as module
from cfsam_hf.model.result import __version__


def git(folder, *arguments: str) -> str:
    identity = ("-c", "user.name=a", "-c", "user.email=a@b")
    return subprocess.run(
        ["git", *identity, *arguments], cwd=folder, check=True, capture_output=True, text=True
    ).stdout


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A made-up package in a checkout of its own, in the place of this one."""
    folder = tmp_path / "checkout" / module.PACKAGE.name
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("")
    git(folder.parent, "init", "-q")
    git(folder.parent, "add", ".")
    git(folder.parent, "commit", "-q", "-m", "first")
    monkeypatch.setattr(module, "PACKAGE", folder)
    return folder


def test_the_commit_and_whether_files_differ_from_it(package):
    commit = git(package, "rev-parse", "HEAD").strip()
    assert module.source_commit() == (commit, False)
    (package / "__init__.py").write_text("x = 1\n")
    assert module.source_commit() == (commit, True)


def test_a_package_inside_another_checkout_has_no_commit(package):
    git(package.parent, "rm", "-q", "--cached", "-r", ".")
    git(package.parent, "commit", "-q", "-m", "second")
    assert module.source_commit() == (None, None)


def test_a_package_without_a_checkout_has_no_commit(package):
    shutil.rmtree(package.parent / ".git")
    assert module.source_commit() == (None, None)


def test_this_package_is_tracked_in_its_own_checkout():
    if not (module.PACKAGE.parent / ".git").exists():
        pytest.skip("the package does not run from a checkout")
    assert len(module.source_commit()[0]) == 40


def test_the_record_names_software_and_hardware():
    record = module.environment("cpu", processes=2)
    assert (record["cfsam_hf"], record["device"], record["processes"]) == (__version__, "cpu", 2)
    assert "threads" in record["hardware"]
