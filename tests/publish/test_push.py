"""Why: a checkpoint must reach the Hub whole, in one commit, and come back the same; errors must say what to do."""

import json
import re
import shutil
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
from huggingface_hub import HfApi, ModelCard, snapshot_download
from transformers import pipeline

from cfsam_hf.commands.terminal import main
from cfsam_hf.publish import export_for_hub, plan_push, push_folder

from ..hub_server import OTHER_USER, TOKEN, USER, Hub, running_hub
from ..publish_cases import run_clean, tissue_image
from ..tiny import tiny_test_model

NAME = f"{USER}/nuclei"
CARD = "---\nlicense: mit\nlibrary_name: transformers\npipeline_tag: image-segmentation\n---\n\n# Tiny\n"


@pytest.fixture
def hub(monkeypatch, tmp_path) -> Hub:
    """A running stand-in for the Hub that the client may reach; the user is logged in."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    # The stand-in speaks Git LFS; with the Xet package the client would not ask for that.
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with running_hub() as hub:
        yield hub


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    """A small self-describing folder. Not to be changed."""
    folder = tmp_path_factory.mktemp("small")
    (folder / "card.md").write_text(CARD)
    return export_for_hub(tiny_test_model(), folder / "model", card=folder / "card.md")


@pytest.fixture
def folder(small, tmp_path) -> Path:
    """A copy of `small` to be changed."""
    return Path(shutil.copytree(small, tmp_path / "model"))


def push(hub: Hub, folder: Path, name: str = NAME, **options):
    return push_folder(plan_push(folder, name), endpoint=hub.address, **options)


def local_files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_pushed_listed_pulled_loaded_and_run(hub, exported_checkpoint, tmp_path):
    exported, image = exported_checkpoint, tissue_image()
    commit = push(hub, exported)
    repository = hub.repositories[NAME]
    assert repository.private
    assert [message for _, message, _ in repository.commits] == ["initial commit", "Upload a CF-SAM checkpoint"]
    assert repository.files.keys() - {".gitattributes"} == {path.name for path in exported.iterdir()}
    assert repository.lfs == {"model.safetensors"}
    assert str(commit.repo_url) == f"{hub.address}/{NAME}"
    assert commit.oid == repository.commits[-1][0]

    api = HfApi(endpoint=hub.address, token=TOKEN)
    assert set(api.list_repo_files(NAME)) == set(repository.files)
    pulled = Path(snapshot_download(NAME, endpoint=hub.address, token=TOKEN, cache_dir=tmp_path / "cache"))
    for name, content in local_files(exported).items():
        assert (pulled / name).read_bytes() == content, name
    here = pipeline("nuclei-segmentation", model=str(exported))(image, mpp=0.25)
    back = pipeline("nuclei-segmentation", model=str(pulled))(image, mpp=0.25)
    assert np.array_equal(back.instance_map, here.instance_map)

    # By its name, in a process that does not have this package.
    environment = {
        "HF_ENDPOINT": hub.address,
        "HF_TOKEN": TOKEN,
        "HF_HOME": str(tmp_path / "home"),
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1",
    }
    found = run_clean(NAME, image, tmp_path, **environment)
    assert here.instance_map.max() > 10
    assert np.array_equal(found["instance_map"], here.instance_map)
    assert f"GET /{NAME}/resolve/{commit.oid}/pipeline_cfsam.py" in hub.requests


def test_a_public_repository_when_asked(hub, small):
    push_folder(plan_push(small, NAME, private=False), endpoint=hub.address)
    assert not hub.repositories[NAME].private


def test_a_dry_run_lists_everything_and_sends_nothing(hub, small, capsys, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    (small / ".cache").mkdir(exist_ok=True)
    (small / ".cache" / "lock").write_text("")
    assert main(["push", str(small), NAME, "--dry-run"]) == 0
    out = capsys.readouterr().out
    shutil.rmtree(small / ".cache")
    listed = re.findall(r"^ +([\d.]+ k?M?B)  (\S+)$", out, re.MULTILINE)
    assert [name for _, name in listed] == sorted(path.name for path in small.iterdir())
    assert f"{(small / 'README.md').stat().st_size} B" in dict(map(reversed, listed))["README.md"]
    assert f"one commit to {NAME} (private if new)" in out
    assert "Nothing was sent." in out
    assert hub.requests == []


def test_an_update_is_a_second_commit_without_what_is_outdated(hub, small, folder):
    push(hub, small)
    (folder / "README.md").write_text(CARD + "\nMore.\n")
    (folder / "extra_cfsam.py").write_text("")
    # Code that other code imports belongs to the folder.
    spans = (folder / "spans.py").read_text()
    (folder / "spans.py").write_text(f"from .extra_cfsam import x\n{spans}")
    push(hub, folder, update=True, message="Say more")
    (folder / "extra_cfsam.py").unlink()
    (folder / "spans.py").write_text(spans)
    hub.repositories[NAME].files["picture.png"] = b"by hand"
    push(hub, folder, update=True)
    repository = hub.repositories[NAME]
    assert [message for _, message, _ in repository.commits][2] == "Say more"
    assert len(repository.commits) == 4
    assert "extra_cfsam.py" in repository.commits[2][2]
    assert repository.files.keys() - {".gitattributes", "picture.png"} == {path.name for path in folder.iterdir()}
    assert repository.files["picture.png"] == b"by hand"
    assert ModelCard(repository.files["README.md"].decode()).data.license == "mit"


def test_a_push_that_broke_off_can_be_repeated(hub, small):
    hub.max_bytes = 10
    with pytest.raises(OSError, match="too large"):
        push(hub, small)
    assert len(hub.repositories[NAME].commits) == 1
    hub.max_bytes = 10**12
    push(hub, small)
    assert len(hub.repositories[NAME].commits) == 2


def test_a_name_that_is_taken_is_not_written_to(hub, small):
    push(hub, small)
    with pytest.raises(ValueError, match=r"taken.*--update"):
        push(hub, small)
    assert len(hub.repositories[NAME].commits) == 2


def test_no_right_to_the_namespace(hub, small):
    with pytest.raises(PermissionError, match=f"no right to write to {OTHER_USER}/nuclei"):
        push(hub, small, f"{OTHER_USER}/nuclei")


def test_a_token_that_may_write_but_not_create_is_enough_for_an_update(hub, small, folder):
    push(hub, small)
    hub.may_create = False
    (folder / "README.md").write_text(CARD + "\nMore.\n")
    push(hub, folder, update=True)
    assert len(hub.repositories[NAME].commits) == 3
    with pytest.raises(PermissionError, match="no right"):
        push(hub, folder, f"{USER}/other")


def test_no_token_and_a_wrong_one(hub, small, monkeypatch):
    with pytest.raises(PermissionError, match="not valid"):
        push(hub, small, token="hf_wrong")
    monkeypatch.delenv("HF_TOKEN")
    before = len(hub.requests)
    with pytest.raises(ValueError, match="hf auth login"):
        push(hub, small)
    assert len(hub.requests) == before


def test_the_hub_cannot_be_reached(hub, small, monkeypatch):
    with pytest.raises(OSError, match="cannot be reached"):
        push_folder(plan_push(small, NAME), endpoint="http://127.0.0.1:9")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(OSError, match="HF_HUB_OFFLINE"):
        push(hub, small)


def test_a_card_that_the_hub_refuses(hub, folder):
    plan = plan_push(folder, NAME)
    # Gone bad in the meantime: the Hub looks for itself.
    (folder / "README.md").write_text(CARD.replace("license: mit\n", ""))
    with pytest.raises(ValueError, match='"license" is required'):
        push_folder(plan, endpoint=hub.address)


def test_a_folder_that_has_changed_since_the_plan_is_not_sent(hub, folder, tmp_path):
    plan = plan_push(folder, NAME)
    (tmp_path / "secret.txt").write_text("S3CRET")
    (folder / "handler.py").unlink()
    (folder / "handler.py").symlink_to(tmp_path / "secret.txt")
    with pytest.raises(ValueError, match=r"handler\.py is a link to .*secret\.txt"):
        push_folder(plan, endpoint=hub.address)
    (folder / "handler.py").unlink()
    with pytest.raises(ValueError, match="have changed since the push was planned"):
        push_folder(plan, endpoint=hub.address)
    assert hub.requests == []


@pytest.mark.parametrize("name", ["nuclei", "a/b/c", "user/na me", "user/", ""])
def test_impossible_names_are_refused(small, name):
    with pytest.raises(ValueError, match="not a valid repository name"):
        plan_push(small, name)


def test_a_file_that_is_too_large_is_named(small):
    with pytest.raises(ValueError, match=r"model\.safetensors has .* kB, more than the 100\.0 kB"):
        plan_push(small, NAME, max_file_bytes=100_000)


def rewrite(path: Path, **changes) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "README.md").unlink(), r"README\.md, the card, is missing"),
        (lambda f: (f / "README.md").write_text("# No metadata"), "does not state license, library_name"),
        (lambda f: (f / "README.md").write_text("---\nlicense: [\n---\n"), "metadata cannot be read"),
        (lambda f: (f / "handler.py").unlink(), r"handler\.py is missing"),
        (lambda f: (f / "requirements.txt").unlink(), r"requirements\.txt is missing"),
        (lambda f: (f / "spans.py").unlink(), r"spans\.py is missing"),
        (lambda f: (f / "pipeline_cfsam.py").unlink(), r"pipeline_cfsam\.py is missing"),
        (lambda f: (f / "model.safetensors").unlink(), r"model\.safetensors is missing"),
        (lambda f: (f / "config.json").unlink(), r"config\.json is missing"),
        (lambda f: (f / "config.json").write_text("{"), r"config\.json is not JSON"),
        (lambda f: rewrite(f / "config.json", model_type="sam"), "type 'sam'"),
        (lambda f: rewrite(f / "config.json", auto_map={}), "does not name the code of AutoConfig"),
        (lambda f: rewrite(f / "config.json", custom_pipelines={}), "code of the pipeline"),
        (lambda f: rewrite(f / "processor_config.json", auto_map={}), "code of AutoProcessor"),
        (lambda f: rewrite(f / "processor_config.json", image_processor={}), "code of AutoImageProcessor"),
        (lambda f: (f / "pytorch_model.bin").write_bytes(b""), r"pytorch_model\.bin can run code"),
        (
            lambda f: (f / "model.safetensors.index.json").write_text('{"weight_map": {"a": "part-2.safetensors"}}'),
            r"part-2\.safetensors is missing",
        ),
    ],
)
def test_a_folder_that_does_not_describe_itself_is_refused(folder, damage, message):
    damage(folder)
    with pytest.raises(ValueError, match=message) as caught:
        plan_push(folder, NAME)
    assert "cfsam export" in str(caught.value)


def test_the_command(hub, small, capsys, monkeypatch, tmp_path):
    # As HF_ENDPOINT does in a new process.
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", hub.address)
    monkeypatch.setattr("cfsam_hf.publish.push.HfApi", lambda endpoint, token: HfApi(hub.address, token))
    assert main(["push", str(small), NAME, "--message", "First"]) == 0
    assert f"-> {hub.address}/{NAME}" in capsys.readouterr().out
    assert hub.repositories[NAME].commits[-1][1] == "First"
    assert hub.repositories[NAME].private
    assert main(["push", str(small), NAME]) == 1
    assert "is taken" in capsys.readouterr().err
    assert main(["push", str(small), NAME, "--update"]) == 0
    assert main(["push", str(small), NAME, "--include", "picture.png"]) == 1
    assert "no such file: picture.png" in capsys.readouterr().err
    assert main(["push", str(tmp_path / "none"), NAME]) == 1
    assert "no such folder" in capsys.readouterr().err


def test_the_example_exports_and_pushes(hub, small, load_example, capsys, monkeypatch):
    example = load_example("tools/push_to_hub")
    monkeypatch.setattr(
        example, "push_folder", lambda plan, **options: push_folder(plan, endpoint=hub.address, **options)
    )
    monkeypatch.setattr("sys.argv", ["push_to_hub.py", "--checkpoint", str(small), "--repository", NAME])
    example.main()
    assert hub.repositories[NAME].files.keys() - {".gitattributes"} == {path.name for path in small.iterdir()}
    assert hub.address in capsys.readouterr().out


def test_an_adapter_is_named_as_one_with_the_ways_out(tmp_path):
    tiny_test_model().save_adapter(tmp_path / "adapter", base_name="somebody/base")
    with pytest.raises(
        ValueError, match=r"is an adapter.*from_adapter.*export_for_hub.*upload_folder.*allow_patterns"
    ) as caught:
        plan_push(tmp_path / "adapter", NAME)
    assert "is missing" not in str(caught.value)


def test_help_says_that_an_update_removes_files(capsys):
    with pytest.raises(SystemExit):
        main(["push", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert "removes the repository's top-level .py, .json and .safetensors files that FOLDER lacks" in text
