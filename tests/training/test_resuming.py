"""Why: a run must resume only its own work: no other recipe, changed pixels or labels, or damaged weights."""

import json
import os
import shutil

import cv2
import pytest

from cfsam_hf.training.checkpoints import checkpoint_steps
from cfsam_hf.training.tile_digests import changed_tile

from ..training_cases import smoke_recipe, start_run

pytestmark = pytest.mark.usefixtures("fresh_accelerate")


def said_in_another_process(recipe) -> str:
    """How a run of the recipe is refused in a child process; empty if it is not."""
    read, write = os.pipe()
    child = os.fork()
    if not child:
        try:
            start_run(recipe)
        except (OSError, ValueError) as error:
            os.write(write, str(error).encode())
        finally:
            os._exit(0)
    os.close(write)
    os.waitpid(child, 0)
    with os.fdopen(read) as said:
        return said.read()


def trained(root, **changes):
    run = start_run(smoke_recipe(root, steps=2, save_every=1, **changes))
    run.train()
    return run


def repaint(path, change) -> None:
    """Changes one pixel of a picture."""
    picture = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    picture[40, 40] = change(picture[40, 40])
    cv2.imwrite(str(path), picture)


@pytest.mark.parametrize(
    ("file", "change", "said"),
    [
        ("tile1_instances.png", lambda value: value + 20, "the annotation of the training tile painted/tile1"),
        ("tile0.png", lambda value: value ^ 1, "the image of the training tile painted/tile0"),
        ("tile2_instances.png", lambda value: value + 20, "the annotation of the validation tile painted/tile2"),
    ],
)
def test_one_changed_pixel_of_a_file_stops_the_resumed_run_and_names_the_tile(training_root, file, change, said):
    trained(training_root)
    repaint(training_root / "pairs" / file, change)
    with pytest.raises(ValueError, match=rf"at step 2.*{said} is different.*another output_dir"):
        trained(training_root)


def test_files_that_are_copied_or_compressed_anew_are_the_same(training_root):
    trained(training_root)
    moved = training_root / "elsewhere"
    shutil.copytree(training_root / "pairs", moved)
    for path in moved.glob("*.png"):
        cv2.imwrite(str(path), cv2.imread(str(path), cv2.IMREAD_UNCHANGED), [cv2.IMWRITE_PNG_COMPRESSION, 0])
    shutil.rmtree(training_root / "pairs")
    moved.rename(training_root / "pairs")
    assert start_run(smoke_recipe(training_root, steps=2, save_every=1)).step == 2


def test_a_pixel_size_that_changed_is_noticed(training_root):
    trained(training_root)
    with open(training_root / "pairs" / "index.csv", "w") as file:
        file.write("id,mpp\ntile0,0.5\ntile1,0.5\ntile2,0.5\n")
    with pytest.raises(ValueError, match="the image of the training tile painted/tile0 is different"):
        trained(training_root)


def test_the_first_difference_of_two_lists_of_tiles_is_named():
    one, two = ["a", "1", "1"], ["b", "2", "2"]
    assert changed_tile({"training": [one, two]}, {"training": [one, two]}) is None
    assert changed_tile({"training": [one]}, {"training": [one, two]}) == "the training tile b is new"
    assert changed_tile({"training": [one, two]}, {"training": [two]}) == "the training tile a is missing"
    assert "another order" in changed_tile({"training": [one, two]}, {"training": [two, one]})
    assert "another order" in changed_tile({"training": [one]}, {"training": [one, one]})
    assert (
        changed_tile({"training": [one]}, {"training": [one], "validation": [two]}) == "the validation tile b is new"
    )


def test_a_run_resumes_from_the_checkpoint_before_a_damaged_one_and_writes_that_again(training_root, caplog):
    run = trained(training_root, keep_checkpoints=2)
    file = run.folder / "checkpoint-2" / "ema.safetensors"
    content = file.read_bytes()
    file.write_bytes(content[:-9] + bytes([content[-9] ^ 1]) + content[-8:])
    again = start_run(smoke_recipe(training_root, steps=2, save_every=1, keep_checkpoints=2))
    assert again.step == 1
    assert f"{file} is damaged" in caplog.text
    again.train()
    assert checkpoint_steps(run.folder) == [1, 2]
    assert file.read_bytes() == content
    assert json.loads((run.folder / "checkpoint-2" / "state.json").read_text())["step"] == 2


def test_a_run_in_a_folder_where_another_process_trains_is_refused_and_leaves_it_alone(training_root):
    run = start_run(smoke_recipe(training_root, steps=2, save_every=1))
    before = (run.folder / "recipe.yaml").read_bytes()
    other = smoke_recipe(training_root, steps=2, seed=1)
    said = said_in_another_process(other)
    assert f"another training run is writing to this folder (process {os.getpid()}" in said
    assert (run.folder / "recipe.yaml").read_bytes() == before
    run.train()
    # A run that has ended lets the next one in, which its recipe then keeps out.
    run.finish()
    assert "seed 0 -> 1" in said_in_another_process(other)
    assert checkpoint_steps(run.folder) == [1, 2]
