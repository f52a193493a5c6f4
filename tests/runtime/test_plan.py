"""A plan that is missing, stale, foreign or altered is never opened, and the error names the ingredient."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import fields, replace
from pathlib import Path

import pytest

pytest.importorskip("cuda.core", reason="needs cuda-core")

from doubles.gpus import H100, H200, MIG_SLICE, gpu
from doubles.small import DIMS
from instantrt.bundle import Bundle, FileRecord, Manifest, PictureSizes, write_manifest
from instantrt.device.properties import GpuProperties
from instantrt.errors import BundleError
from instantrt.plan import (
    PlanError,
    PlanIdentity,
    PlanRecord,
    TunedFor,
    VerifiedFile,
    onnx_digests,
    open_plan,
    plan_path,
    record_path,
    write_record,
)

TARGET = "tensorrt-rtx"
SCHEDULER = {
    "_class_name": "EulerDiscreteScheduler",
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
    "timestep_spacing": "leading",
}
PROFILES = (
    {"B": (1, 1, 4), "G": (1, 1, 1), "H": (128, 128, 128), "W": (64, 128, 192)},
    {"B": (1, 1, 4), "G": (2, 2, 2), "H": (128, 128, 128), "W": (64, 128, 192)},
)
SIZES = {"B": 2, "G": 2, "H": 128, "W": 192}


def make_bundle(folder: Path, weights: bytes = b"weights" * 100) -> Path:
    (folder / "onnx").mkdir(parents=True, exist_ok=True)
    (folder / "onnx/unet.onnx").write_bytes(b"graph" * 100)
    (folder / "onnx/unet.onnx.data").write_bytes(weights)
    manifest = Manifest(
        dims=DIMS,
        precision="fp16",
        sizes=PictureSizes((128, 128), (64, 64), (256, 192)),
        slots=(1, 4),
        guidance_batch=(1, 2),
        scheduler=SCHEDULER,
        force_zeros_for_empty_prompt=True,
        networks={"unet": "onnx/unet.onnx"},
        made_by={},
    )
    write_manifest(folder, manifest)
    return folder


CAPTURABLE = {"flags": "REQUIRE_USER_ALLOCATION"}


def identity_of(bundle: Path, **changes) -> PlanIdentity:
    opened = Bundle.open(bundle)
    identity = PlanIdentity(
        network="unet",
        target=TARGET,
        target_version="1.7.1.116",
        onnx=onnx_digests(opened, "unet"),
        precision="fp16",
        profiles=PROFILES,
        compute=("8.0", "8.6", "8.9", "12.0+"),
        tuned_for=None,
        options={"optimization_level": 5} | CAPTURABLE,
    )
    return replace(identity, **changes)


def make_plan(bundle: Path, **changes) -> Path:
    """A plan whose record is properly sealed, with these ingredients changed."""
    path = plan_path(bundle, TARGET, "unet")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"machine code" * 1000)
    identity = identity_of(bundle, **changes)
    record = PlanRecord(identity, FileRecord.of(path), 10, (100, 200), 300, 1.5)
    write_record(bundle, record)
    written, beside = record_path(bundle, identity.target, identity.network), record_path(bundle, TARGET, "unet")
    if written != beside:  # another plan's record, laid beside this one
        shutil.copy(written, beside)
    return path


def load_as_the_runtime_does(bundle: Path) -> None:
    plan = open_plan(Bundle.open(bundle), TARGET, "unet")
    plan.check_host("1.7.1.116", gpu("8.9"))
    plan.profile(SIZES)
    plan.open_verified().close()


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return make_bundle(tmp_path / "bundle")


def test_a_record_survives_the_round_trip(bundle: Path) -> None:
    make_plan(bundle)
    plan = open_plan(Bundle.open(bundle), TARGET, "unet")
    assert plan.record.identity == identity_of(bundle)
    assert PlanRecord.from_json(json.loads(json.dumps(plan.record.to_json()))) == plan.record
    with plan.open_verified() as file:
        assert file.read() == b"machine code" * 1000
    plan.check_host("1.7.1.116", gpu("8.9"))
    assert plan.profile(SIZES) == 1


CHANGES = {
    "network": {"network": "vae_decoder"},
    "target": {"target": "tensorrt"},
    "target_version": {"target_version": "1.6.0.1"},
    "onnx": {"onnx": {"onnx/unet.onnx": "0" * 64}},
    "precision": {"precision": "fp32"},
    "profiles": {"profiles": ({"B": (1, 1, 1), "G": (2, 2, 2), "H": (128, 128, 128), "W": (128, 128, 128)},)},
    "compute": {"compute": ("8.6",)},
    "tuned_for": {"tuned_for": TunedFor("another GPU of 8.9", 58)},
    "options": {"options": {"flags": "STRIP_PLAN"}},
}


def test_every_ingredient_is_tried() -> None:
    assert set(CHANGES) == {field.name for field in fields(PlanIdentity)}


@pytest.mark.parametrize("ingredient", CHANGES)
def test_each_changed_ingredient_makes_the_plan_stale_and_is_named(bundle: Path, ingredient: str) -> None:
    (bundle / "plans/tensorrt").mkdir(parents=True)
    make_plan(bundle, **CHANGES[ingredient])
    with pytest.raises(PlanError) as error:
        load_as_the_runtime_does(bundle)
    assert error.value.ingredient == ingredient
    message = str(error.value)
    assert f"is stale: wrong {ingredient}" in message
    assert "expected" in message
    assert f"`instantrt build {bundle} --target {TARGET} --only unet`" in message
    (changed,) = CHANGES[ingredient].values()
    assert str(changed) in message or ingredient in ("profiles", "compute")


@pytest.mark.parametrize(
    ("target", "options", "fits"),
    [
        (TARGET, {"flags": "REQUIRE_USER_ALLOCATION STRIP_PLAN", "strip_weights": True}, True),
        (TARGET, {"flags": "WEIGHT_STREAMING", "weight_streaming": True}, True),  # allocates, so it cannot be captured
        (TARGET, {"flags": ""}, False),
        (TARGET, {}, False),  # as this package built them before it kept the flags
        ("tensorrt", {}, True),
    ],
)
def test_plans_that_cannot_be_captured_are_stale(bundle: Path, target: str, options: dict, fits: bool) -> None:
    (bundle / "plans" / target).mkdir(parents=True, exist_ok=True)
    plan = make_plan(bundle, target=target, options=options)
    plan.replace(plan_path(bundle, target, "unet"))
    if fits:
        assert open_plan(Bundle.open(bundle), target, "unet").record.identity.options == options
        return
    with pytest.raises(PlanError, match="expected: the builder flag REQUIRE_USER_ALLOCATION") as error:
        open_plan(Bundle.open(bundle), target, "unet")
    assert error.value.ingredient == "options"


def test_a_plan_of_another_bundle_is_foreign(bundle: Path, tmp_path: Path) -> None:
    other = make_bundle(tmp_path / "other", b"other weights" * 50)
    make_plan(other)
    shutil.copytree(other / "plans", bundle / "plans")
    with pytest.raises(PlanError, match="is stale: wrong onnx"):
        open_plan(Bundle.open(bundle), TARGET, "unet")


def test_exported_again_the_bundle_refuses_its_old_plans(bundle: Path) -> None:
    make_plan(bundle)
    make_bundle(bundle, b"new weights")
    with pytest.raises(PlanError, match="is stale: wrong onnx"):
        open_plan(Bundle.open(bundle), TARGET, "unet")


@pytest.mark.parametrize("position", [0, 5000, -1])
def test_a_flipped_byte_gives_the_digest_error(bundle: Path, position: int) -> None:
    path = make_plan(bundle)
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)
    plan = open_plan(Bundle.open(bundle), TARGET, "unet")
    with pytest.raises(PlanError, match="was altered after it was built") as error:
        plan.open_verified()
    assert error.value.ingredient == "file"
    assert plan.record.file.sha256 in str(error.value)


def test_a_file_is_verified_once_and_again_when_it_was_touched(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make_plan(bundle)
    digests = []
    of_file = hashlib.file_digest
    monkeypatch.setattr(hashlib, "file_digest", lambda *args: digests.append(args) or of_file(*args))
    held = VerifiedFile(open_plan(Bundle.open(bundle), TARGET, "unet"))
    digests.clear()
    content = held.verified().read()
    assert held.verified().read() == b""
    assert len(digests) == 1
    new = path.with_suffix(".other")
    new.write_bytes(b"another build's plan")
    new.replace(path)
    assert held.verified().read() == content, "the file that was verified is still the same"
    assert len(digests) == 2
    held.close()
    with pytest.raises(PlanError, match="altered"):
        held.verified()


def test_a_file_altered_in_place_is_refused_when_it_is_read_again(bundle: Path) -> None:
    path = make_plan(bundle)
    held = VerifiedFile(open_plan(Bundle.open(bundle), TARGET, "unet"))
    held.verified()
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    with pytest.raises(PlanError, match="was altered after it was built"):
        held.verified()
    held.close()


def test_a_truncated_plan_gives_the_digest_error(bundle: Path) -> None:
    path = make_plan(bundle)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(PlanError, match="11999 bytes"):
        open_plan(Bundle.open(bundle), TARGET, "unet").open_verified()


@pytest.mark.parametrize(
    ("ingredient", "value"),
    [("compute", ["7.5"]), ("options", {}), ("target_version", "9.9"), ("profiles", [{"B": [1, 1, 64]}])],
)
def test_an_identity_edited_by_hand_is_refused(bundle: Path, ingredient: str, value: object) -> None:
    make_plan(bundle)
    path = record_path(bundle, TARGET, "unet")
    data = json.loads(path.read_text())
    data["identity"][ingredient] = value
    path.write_text(json.dumps(data))
    with pytest.raises(PlanError, match="was edited after the plan was built"):
        open_plan(Bundle.open(bundle), TARGET, "unet")


def test_a_new_plan_beside_an_old_identity_is_refused(bundle: Path) -> None:
    path = make_plan(bundle)
    path.write_bytes(b"a newer plan whose build was killed before its identity was written")
    with pytest.raises(PlanError, match="altered"):
        open_plan(Bundle.open(bundle), TARGET, "unet").open_verified()


@pytest.mark.parametrize("missing", ["plan", "json"])
def test_half_a_plan_is_none(bundle: Path, missing: str) -> None:
    make_plan(bundle).with_suffix(f".{missing}").unlink()
    with pytest.raises(PlanError, match=r"no .*unet\." + missing):
        open_plan(Bundle.open(bundle), TARGET, "unet")


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"format": 2}', '{"format": 2, "identity": {}}'])
def test_an_unreadable_identity_says_why(bundle: Path, text: str) -> None:
    make_plan(bundle)
    record_path(bundle, TARGET, "unet").write_text(text)
    with pytest.raises(PlanError, match="cannot be read") as error:
        open_plan(Bundle.open(bundle), TARGET, "unet")
    assert "instantrt build" in str(error.value)


def test_a_network_that_the_bundle_lacks_names_the_export(bundle: Path) -> None:
    with pytest.raises(BundleError, match="--only vae_decoder"):
        open_plan(Bundle.open(bundle), TARGET, "vae_decoder")


@pytest.mark.parametrize(
    ("capability", "runs"),
    [("7.5", False), ("8.0", True), ("8.6", True), ("8.7", False), ("9.0", False), ("12.0", True), ("12.1", True)],
)
def test_only_listed_gpus_run_a_plan(bundle: Path, capability: str, runs: bool) -> None:
    make_plan(bundle)
    plan = open_plan(Bundle.open(bundle), TARGET, "unet")
    if runs:
        plan.check_host("1.7.1.116", gpu(capability))
        return
    with pytest.raises(PlanError, match=f"{capability}, this GPU's"):
        plan.check_host("1.7.1.116", gpu(capability))


TUNED = {"compute": ("9.0",), "tuned_for": TunedFor.of(H100)}


@pytest.mark.parametrize(
    ("built", "host", "wrong"),
    [
        (TUNED, H100, None),
        (TUNED, H200, "tuned_for"),
        (TUNED, MIG_SLICE, "tuned_for"),
        (TUNED, gpu("10.0", H100.name, H100.multiprocessors), "compute"),
        ({"compute": ("9.0",)}, H200, None),  # same_compute_capability
        ({"compute": ("9.0",)}, MIG_SLICE, None),
        ({"compute": ("9.0",)}, gpu("8.0"), "compute"),
        ({"compute": ("8.0+",)}, H100, None),  # ampere_plus
        ({"compute": ("8.0+",)}, gpu("8.6"), None),
        ({"compute": ("8.0+",)}, gpu("7.5"), "compute"),
    ],
)
def test_a_plan_runs_on_the_model_of_gpu_it_was_built_on_unless_it_is_compatible(
    bundle: Path, built: dict, host: GpuProperties, wrong: str | None
) -> None:
    make_plan(bundle, **built)
    plan = open_plan(Bundle.open(bundle), TARGET, "unet")
    if wrong is None:
        plan.check_host("1.7.1.116", host)
        return
    with pytest.raises(PlanError) as error:
        plan.check_host("1.7.1.116", host)
    assert error.value.ingredient == wrong
    if wrong == "tuned_for":
        assert error.value.found == (
            f"NVIDIA H100 80GB HBM3 with 132 multiprocessors; expected: {host.name} with {host.multiprocessors} "
            "multiprocessors, this GPU"
        )
        assert "--hardware-compatibility same_compute_capability" in str(error.value.hint)


@pytest.mark.parametrize("number", [1, 99])
def test_a_plan_of_another_version_is_said_to_be_one_and_how_to_build_it_again(bundle: Path, number: int) -> None:
    """Format 1 had no GPU, and TF32 was on."""
    make_plan(bundle)
    path = record_path(bundle, TARGET, "unet")
    data = json.loads(path.read_text())
    del data["identity"]["tuned_for"], data["seal"]
    path.write_text(json.dumps(data | {"format": number}))
    with pytest.raises(PlanError, match="was built by another version of InstantRT") as error:
        open_plan(Bundle.open(bundle), TARGET, "unet")
    assert f"identity of format {number}; this version reads format 2" in str(error.value.found)
    assert error.value.hint == f"build it with `instantrt build {bundle} --target {TARGET} --only unet`"


@pytest.mark.parametrize(
    ("built", "installed", "runs"),
    [
        ("10.3.0.1", "10.9.0.2", True),
        ("10.3.0.1", "10.3.0.1", True),
        ("10.9.0.2", "10.3.0.1", False),
        ("10.3.0.1", "11.3.0.1", False),
    ],
)
def test_version_compatible_plans_run_on_later_minor_versions(
    bundle: Path, built: str, installed: str, runs: bool
) -> None:
    make_plan(bundle, target_version=built, options={"version_compatible": True} | CAPTURABLE)
    plan = open_plan(Bundle.open(bundle), TARGET, "unet")
    if runs:
        plan.check_host(installed, gpu("8.0"))
        return
    with pytest.raises(PlanError, match=f"{installed}, the installed one"):
        plan.check_host(installed, gpu("8.0"))


def test_the_first_profile_that_holds_the_sizes_is_taken(bundle: Path) -> None:
    make_plan(bundle)
    plan = open_plan(Bundle.open(bundle), TARGET, "unet")
    assert plan.profile(SIZES | {"G": 1}) == 0
    for outside in ({"B": 5}, {"W": 256}, {"H": 64}):
        with pytest.raises(PlanError, match="B 1-4"):
            plan.profile(SIZES | outside)
