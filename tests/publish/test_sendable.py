"""Why: a push publishes what it sends, so keys, tokens and files from elsewhere must never be included."""

import shutil
from pathlib import Path, PurePosixPath

import pytest

from cfsam_hf.publish import export_for_hub, plan_push
from cfsam_hf.publish.sendable import sendable_files

from ..tiny import tiny_test_model

CARD = "---\nlicense: mit\nlibrary_name: transformers\npipeline_tag: image-segmentation\n---\n\n# Tiny\n"
TOKEN = "hf_" + "a1B2" * 9


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> Path:
    """An exported folder. Not to be changed."""
    folder = tmp_path_factory.mktemp("sendable")
    (folder / "card.md").write_text(CARD)
    return export_for_hub(tiny_test_model(), folder / "model", card=folder / "card.md")


@pytest.fixture
def folder(exported, tmp_path) -> Path:
    """A copy of `exported` to be changed, in a folder of its own."""
    return Path(shutil.copytree(exported, tmp_path / "model"))


def names(folder: Path, *include: str) -> set[str]:
    return {str(path) for path in sendable_files(folder, include)}


def test_everything_that_an_export_writes_is_sent(exported):
    assert names(exported) == {path.name for path in exported.iterdir()}


def test_legal_texts_and_parts_of_weights_are_sent(folder):
    for name in ("LICENSE", "LICENSE.txt", "NOTICE", "model-00001-of-00002.safetensors"):
        (folder / name).write_text("text")
        assert name in names(folder)


def test_hidden_files_and_caches_are_left_out(folder):
    before = names(folder)
    for name in (".env", ".cache/lock", "__pycache__/spans.pyc", ".git/config"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(f"HF_TOKEN={TOKEN}")
    assert names(folder) == before


@pytest.mark.parametrize("target", ["secret.txt", "elsewhere", "nothing"])
def test_a_link_out_of_the_folder_is_refused(folder, tmp_path, target):
    (tmp_path / "secret.txt").write_text("S3CRET")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "more.txt").write_text("S3CRET")
    for link in (tmp_path / target, Path("..") / target):
        (folder / "notes.txt").symlink_to(link)
        with pytest.raises(ValueError, match=rf"notes\.txt is a link to .*{target}, outside of the folder"):
            sendable_files(folder, ["notes.txt"] if target == "secret.txt" else [])
        (folder / "notes.txt").unlink()


def test_a_file_of_an_export_that_is_a_link_is_refused(folder, tmp_path):
    shutil.move(folder / "README.md", tmp_path / "card.md")
    (folder / "README.md").symlink_to(tmp_path / "card.md")
    with pytest.raises(ValueError, match=r"README\.md is a link to .*card\.md, outside"):
        plan_push(folder, "me/model")


def test_a_file_below_a_linked_folder_is_refused_even_if_it_is_named(folder, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "picture.png").write_bytes(b"png")
    (folder / "pictures").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match=r"pictures/picture\.png is a link to .*elsewhere/picture\.png, outside"):
        sendable_files(folder, ["pictures/picture.png"])


def test_links_to_hidden_files_and_to_folders_are_refused(folder):
    (folder / ".env").write_text("x")
    (folder / "sub").mkdir()
    (folder / "settings.txt").symlink_to(".env")
    (folder / "more").symlink_to("sub")
    with pytest.raises(ValueError, match=r"more is a link to a folder.*settings\.txt is a link to the hidden \.env"):
        sendable_files(folder)


def test_the_folder_itself_may_be_a_link(folder, tmp_path):
    (tmp_path / "link").symlink_to(folder)
    assert names(tmp_path / "link") == names(folder)


@pytest.mark.parametrize("name", ["notebook.ipynb", "picture.png", "data/tile.tif", "helper.py", "training.json"])
def test_a_file_that_no_export_writes_is_sent_only_if_it_is_named(folder, name):
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text("{}")
    with pytest.raises(ValueError, match=rf"{name} is not part of an export.*--include {name}"):
        sendable_files(folder)
    assert name in names(folder, name)
    assert name in dict(plan_push(folder, "me/model", include=[name]).files)


@pytest.mark.parametrize(
    "name",
    ["id_rsa", "id_ed25519.pub", "server.pem", "tls.KEY", "credentials.json", "my_secrets.yaml", "token", "prod.env"],
)
def test_a_file_with_the_name_of_a_key_is_refused_even_if_it_is_named(folder, name):
    (folder / name).write_text("x")
    for include in ([], [name]):
        with pytest.raises(ValueError, match=f"{name} has the name of a file of keys"):
            sendable_files(folder, include)


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (TOKEN, "a token of the Hugging Face Hub"),
        ("-----BEGIN OPENSSH PRIVATE KEY-----\n", "a private key"),
        ("ghp_" + "0" * 36, "a token of GitHub"),
        ("AKIA" + "Z" * 16, "an AWS access key"),
    ],
)
def test_a_key_in_what_is_sent_is_found(folder, content, kind):
    with (folder / "README.md").open("a") as card:
        card.write(f"\nRun it with `{content}`.\n")
    with pytest.raises(ValueError, match=rf"README\.md holds {kind}"):
        plan_push(folder, "me/model")


def test_every_file_is_named_at_once(folder):
    for name in ("id_rsa", "a.txt", "b.txt"):
        (folder / name).write_text("x")
    with pytest.raises(ValueError, match=r"a\.txt is not .*b\.txt is not .*id_rsa has the name"):
        sendable_files(folder)


def test_a_named_file_must_be_there_and_visible(folder):
    with pytest.raises(FileNotFoundError, match=r"no such file: picture\.png"):
        sendable_files(folder, ["picture.png"])
    (folder / ".env").write_text("x")
    with pytest.raises(ValueError, match=r"\.env is hidden"):
        sendable_files(folder, [".env"])
    assert PurePosixPath(".env") not in sendable_files(folder)
