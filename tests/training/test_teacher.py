"""Why: a teacher must pull maps towards its own, on the crops that it is asked about, and change nothing else."""

import contextlib

import pytest
import torch
from torch.utils.data import default_collate

from cfsam_hf import CfSamConfig
from cfsam_hf.model.processing_cfsam import CfSamProcessor
from cfsam_hf.training import build_model, build_processor
from cfsam_hf.training.agreement import training_loss
from cfsam_hf.training.export import inherited_terms
from cfsam_hf.training.mixing import Mixture
from cfsam_hf.training.teacher import Teacher, load_teacher

from ..tiny import SIZE, tiny_test_model
from ..training_cases import (
    resumed_run,
    smoke_recipe,
    start_run,
    weights,
    write_base,
    write_checkpoint,
    write_qupath_tiles,
    write_tiles,
)

TYPES = {1: "flat", 2: "round"}


def no_autocast() -> contextlib.AbstractContextManager:
    return contextlib.nullcontext()


@pytest.fixture
def pixels():
    return torch.randn(3, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))


def other_model(**options):
    """A model whose weights differ from those of [`tiny_test_model`]."""
    model = tiny_test_model(**{"num_types": 0, **options})
    torch.manual_seed(3)
    with torch.no_grad():
        for value in model.parameters():
            value += 0.1 * torch.randn_like(value)
    return model.eval()


def write_teacher(root, **options):
    """Another tiny checkpoint, with a processor, in `root/teacher`."""
    model = other_model(**options)
    model.save_pretrained(root / "teacher")
    build_processor(smoke_recipe(root), model.config).save_pretrained(root / "teacher")
    return root / "teacher"


@pytest.fixture
def root(tmp_path):
    """A folder with tiles, a base and a teacher."""
    write_tiles(tmp_path)
    write_base(tmp_path)
    write_teacher(tmp_path)
    return tmp_path


def test_a_model_differs_from_itself_by_nothing(pixels):
    model = tiny_test_model(num_types=2, id2label=TYPES).eval()
    taught = torch.ones(3, dtype=torch.bool)
    teacher, typed = Teacher(model, [0, 1, 2], no_autocast), torch.zeros(3, SIZE, SIZE, dtype=torch.long)
    assert teacher.loss(model(pixels), pixels, taught, typed).item() == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("name", ["nuclei_logits", "hv_maps", "boundary_logits", "type_logits"])
def test_every_map_that_differs_counts_and_is_pulled_to_the_teachers(pixels, name):
    model = tiny_test_model(num_types=2, id2label=TYPES).eval()
    taught = torch.ones(3, dtype=torch.bool)
    with torch.no_grad():
        outputs = model(pixels)
    changed = (outputs[name] + torch.linspace(0, 1, outputs[name].shape[1])[:, None, None] + 1).requires_grad_()
    outputs[name] = changed
    teacher, typed = Teacher(model, [0, 1, 2], no_autocast), torch.zeros(3, SIZE, SIZE, dtype=torch.long)
    loss = teacher.loss(outputs, pixels, taught, typed)
    assert loss.item() > 0.01
    loss.backward()
    # One step against the gradient is a step towards the teacher.
    outputs[name] = changed.detach() - changed.grad * changed[0].numel() * 1e-2
    assert teacher.loss(outputs, pixels, taught, typed) < loss


def test_types_are_learned_from_a_teacher_with_the_same_ones_and_on_images_with_types(pixels):
    model = tiny_test_model(num_types=2, id2label=TYPES).eval()
    taught = torch.tensor([True, False, True])
    labels = torch.full((3, SIZE, SIZE), -100)
    with torch.no_grad():
        outputs = model(pixels)
    outputs.type_logits = outputs.type_logits.flip(1)

    def loss(order: list[int] | None, labels: torch.Tensor | None) -> float:
        return Teacher(model, order, no_autocast).loss(outputs, pixels, taught, labels).item()

    for order, of_images in ((None, labels * 0), ([0, 1, 2], None), ([0, 1, 2], labels)):
        assert loss(order, of_images) == pytest.approx(0, abs=1e-5)
    labels[2, 3, 3] = 0
    one = loss([0, 1, 2], labels)
    assert one > 0.001
    # The order of the model's types, here reversed with the background among them, selects the teacher's channels.
    assert loss([2, 1, 0], labels) == pytest.approx(0, abs=1e-5)
    # An image that is not taught has no part in it.
    labels[1] = 0
    assert loss([0, 1, 2], labels) == one
    labels[0] = 0
    assert loss([0, 1, 2], labels) > one


def test_only_taught_images_count_and_the_loss_is_the_mean_over_all(pixels):
    teacher = Teacher(tiny_test_model(num_types=0).eval(), None, no_autocast)
    outputs = other_model()(pixels)
    singles = [teacher.loss(outputs, pixels, torch.arange(3) == i).item() for i in range(3)]
    assert all(value > 0 for value in singles)
    assert teacher.loss(outputs, pixels, torch.arange(3) > 0).item() == pytest.approx(sum(singles[1:]), rel=1e-4)
    nothing = teacher.loss(outputs, pixels, torch.zeros(3, dtype=torch.bool))
    assert nothing.item() == 0
    nothing.backward()


def test_the_teacher_itself_does_not_learn(pixels):
    teacher = Teacher(tiny_test_model(num_types=0).train(), None, no_autocast)
    assert not teacher.model.training
    outputs = other_model()(pixels)
    teacher.loss(outputs, pixels, torch.ones(3, dtype=torch.bool)).backward()
    assert all(p.grad is None for p in teacher.model.parameters())


def test_a_mixed_window_is_taught_only_if_both_its_crops_are():
    inside = torch.zeros(4, 6, 6, dtype=torch.bool)
    inside[[0, 1, 2], 1:4, 2:5] = True
    mixture = Mixture(torch.tensor([1, 2, 3, 0]), inside)
    taught = torch.tensor([True, True, False, True])
    assert mixture.mixed("taught", taught).tolist() == [True, False, False, True]


@pytest.mark.parametrize("options", [{}, {"agreement_weight": 2.0}, {"mixing_probability": 1.0}])
def test_a_run_learns_from_its_teacher_and_resumes_to_the_same_weights(root, options):
    def recipe(**changes):
        return smoke_recipe(root, teacher=str(root / "teacher"), **options, **changes)

    whole = start_run(recipe(output_dir=str(root / "whole"), teacher_weight=3.0))
    whole.train()
    assert '"teacher"' in (root / "whole" / "log.jsonl").read_text(encoding="utf-8")
    alone = start_run(smoke_recipe(root, output_dir=str(root / "alone"), **options))
    alone.train()
    assert any(not torch.equal(value, weights(alone)[name]) for name, value in weights(whole).items())

    short = recipe(teacher_weight=3.0)
    resumed = resumed_run(short)
    resumed.train()
    for name, value in weights(whole).items():
        assert torch.equal(value, weights(resumed)[name]), name


def test_crops_that_are_not_taught_learn_from_their_labels_alone(root):
    item = f"reader=instance_pairs,path={root / 'pairs'},split={root / 'split.json'}"
    data = [item, f"{item},taught=false,name=other"]
    run = start_run(smoke_recipe(root, teacher=str(root / "teacher"), data=data, steps=20))
    assert {bool(run.crops[i]["taught"]) for i in range(20)} == {True, False}
    # Without a teacher nothing asks for it.
    assert "taught" not in start_run(smoke_recipe(root, output_dir=str(root / "plain"), data=data)).crops[0]

    batch = default_collate([run.crops[i] for i in range(4)])
    plain = {name: values for name, values in batch.items() if name != "taught"}

    def loss(teacher: Teacher | None, taught: bool, weight: float = 1.0) -> float:
        options = smoke_recipe(root, teacher_weight=weight).optimization
        with torch.no_grad():
            flags = {"taught": torch.full((4,), taught)} if teacher is not None else {}
            return training_loss(run.plain.eval(), {**plain, **flags}, SIZE, options, teacher)[0].item()

    alone = loss(None, False)
    assert loss(run.teacher, False) == alone
    assert loss(run.teacher, True) > alone
    assert loss(run.teacher, True, 3.0) - alone == pytest.approx(3 * (loss(run.teacher, True) - alone), rel=1e-3)


def test_types_come_from_a_teacher_that_has_them(tmp_path, caplog):
    write_qupath_tiles(tmp_path)
    write_base(tmp_path)
    write_teacher(tmp_path, num_types=2, id2label=TYPES)
    data = [f"reader=qupath,path={tmp_path / 'qupath'},split={tmp_path / 'split.json'}"]
    run = start_run(smoke_recipe(tmp_path, teacher=str(tmp_path / "teacher"), data=data))
    assert run.teacher.type_order == [0, 1, 2]
    write_teacher(tmp_path, num_types=2, id2label={1: "round", 2: "flat"})
    run = start_run(smoke_recipe(tmp_path, teacher=str(tmp_path / "teacher"), data=data))
    assert run.teacher.type_order == [0, 2, 1]
    write_teacher(tmp_path, num_types=2, id2label={1: "flat", 2: "long"})
    with caplog.at_level("INFO"):
        assert (
            start_run(smoke_recipe(tmp_path, teacher=str(tmp_path / "teacher"), data=data)).teacher.type_order is None
        )
    assert "has other ones" in caplog.text


def test_another_teacher_does_not_resume_a_run(root):
    recipe = smoke_recipe(root, teacher=str(root / "teacher"))
    write_checkpoint(recipe)
    tiny_test_model(num_types=0).save_pretrained(root / "teacher")
    with pytest.raises(ValueError, match=r"whose teacher .* has other weights now"):
        start_run(recipe)


def test_the_model_names_its_teacher_and_takes_its_terms_over(root):
    write_teacher(root, checkpoint_info={"license": "research only", "license_note": "Ask."})
    run = start_run(smoke_recipe(root, teacher=str(root / "teacher"), teacher_weight=2.0, steps=1))
    run.train()
    info = CfSamConfig.from_pretrained(run.finish()).checkpoint_info
    assert (info["license"], info["license_note"]) == ("research only", "Ask.")
    assert (info["training"]["teacher"], info["training"]["teacher_weight"]) == (str(root / "teacher"), 2.0)
    assert "teacher" in (run.folder / "report.html").read_text(encoding="utf-8")


def test_terms_of_base_and_teacher_are_joined():
    base, teacher = {"license": "CC BY 4.0", "license_note": "Name us."}, {"license": "research only"}
    assert inherited_terms(base, teacher) == {"license": "CC BY 4.0; and research only", "license_note": "Name us."}
    assert inherited_terms(base, base) == base == inherited_terms(base, None)
    assert inherited_terms({}, None) == {}


def refusal(root, **changes) -> str:
    with pytest.raises((ValueError, OSError)) as caught:
        start_run(smoke_recipe(root, teacher=str(root / "teacher"), **changes))
    return str(caught.value)


def test_a_teacher_that_cannot_teach_is_refused(root):
    path = root / "teacher"
    assert "every data item" in refusal(root, data=[f"reader=instance_pairs,path={root / 'pairs'},taught=false"])
    processor = CfSamProcessor.from_pretrained(path)
    processor.image_processor.image_mean = [0.5, 0.5, 0.5]
    processor.save_pretrained(path)
    assert "normalises colours" in refusal(root)
    write_teacher(root, mpp=0.5)
    assert "reads 0.5 um per pixel, and the model 0.25" in refusal(root)
    write_teacher(root)
    recipe = smoke_recipe(root, teacher="tiny")
    model = build_model(recipe, [])
    processor = build_processor(recipe, model.config).image_processor
    with pytest.raises(ValueError, match="teacher is tiny, which is not a CF-SAM checkpoint"):
        load_teacher(recipe, model.config, processor, no_autocast)
    for_crops = smoke_recipe(root, teacher=str(path), crop_size=SIZE + 8)
    with pytest.raises(ValueError, match=f"crop_size is {SIZE + 8}, but teacher"):
        load_teacher(for_crops, model.config, processor, no_autocast)
    with pytest.raises(OSError, match="nowhere"):
        load_teacher(smoke_recipe(root, teacher=str(root / "nowhere")), model.config, processor, no_autocast)


def test_recipes_with_a_teacher_for_types_alone_or_without_weight_are_refused(root):
    with pytest.raises(ValueError, match="train_types_alone trains none"):
        smoke_recipe(root, teacher="cfsam-tiny", train_types_alone=True)
    with pytest.raises(ValueError, match="teacher_weight must be positive"):
        smoke_recipe(root, teacher_weight=0)
