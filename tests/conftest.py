"""Fixtures shared by all packages' tests."""

from __future__ import annotations

import gc
import os
import shutil
import signal
import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager, nullcontext
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pytest
from filelock import FileLock
from hypothesis import settings

from randomness import drawing_for, fresh_rng

if TYPE_CHECKING:
    from doubles.cuda_double import CudaDouble
    from doubles.onnxruntime_cuda_double import OnnxRuntimeCudaDouble
    from doubles.tensorrt_double import TensorRTDouble
    from instantrt.device.cuda import CudaDevice
    from instantrt_bench.gpu_check.torch_target import ModuleOf, TorchTarget

MadeOnce = Callable[[str, Callable[[Path], object]], Path]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--shared", metavar="DIR", help="take exported bundles and the like from here, or make them here")


def pytest_configure(config: pytest.Config) -> None:
    """Ctrl-C works although a shell that runs this in the background lets it, and all its children, ignore SIGINT.

    Where several processes share the machine (``pytest -n``) torch gets one thread in each: threads that wait for one
    another while another process has their core make an export take five times as long.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if hasattr(config, "workerinput"):
        os.environ.setdefault("OMP_NUM_THREADS", "1")


# Without this profile (`make fuzz`) pyproject.toml's, hypothesis's own `ci`, draws the same examples in every run.
settings.register_profile("fuzz", deadline=None, database=None, print_blob=True)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Every test has random inputs of its own; a failed one says how to have them again if a seed was given."""
    seed = item.config.getoption("--hypothesis-seed")
    if seed is not None:
        again = f"pytest --hypothesis-profile=fuzz --hypothesis-seed={seed} '{item.nodeid}'"
        item.add_report_section("setup", "random inputs", f"Draw the same again: {again}")
    with drawing_for(item.nodeid, seed):
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(
    fixturedef: pytest.FixtureDef[object], request: pytest.FixtureRequest
) -> Generator[None, object, object]:
    """A fixture of several tests draws the same, whichever of them comes first in this process."""
    if fixturedef.scope == "function":
        return (yield)
    with drawing_for(f"{fixturedef.baseid}::{fixturedef.argname}", request.config.getoption("--hypothesis-seed")):
        return (yield)


@pytest.fixture
def rng() -> np.random.Generator:
    """Random inputs of one test."""
    return fresh_rng()


@pytest.fixture(scope="session", autouse=True)
def no_waiting_for_the_disk() -> Iterator[None]:
    """Files need not survive a power cut here."""
    fsync = os.fsync
    os.fsync = lambda _file: None
    yield
    os.fsync = fsync


@pytest.fixture(scope="session")
def made_once(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> MadeOnce:
    """Folders that are written once for all worker processes of this run: ``made_once(name, make)``. Read only."""
    base = tmp_path_factory.getbasetemp()
    shared = Path(pytestconfig.getoption("--shared") or (base if worker_id == "master" else base.parent) / "shared")
    shared = shared.absolute()
    shared.mkdir(parents=True, exist_ok=True)

    def path(name: str, make: Callable[[Path], object]) -> Path:
        folder = shared / name
        with FileLock(f"{folder}.lock"):
            if not folder.exists():
                unfinished = folder.with_name(f"{name}-unfinished")
                shutil.rmtree(unfinished, ignore_errors=True)
                make(unfinished)
                unfinished.rename(folder)
        return folder

    return path


@pytest.fixture(scope="session")
def nano_checkpoint(made_once: MadeOnce) -> Path:
    """A nano checkpoint with seed 0, made once. Read only: tests that alter one copy it first."""
    from instantrt_nano.maker import make_nano  # torch is imported only by the tests that need it

    return made_once("checkpoint", make_nano)


@pytest.fixture(scope="session")
def nano_bundle(nano_checkpoint: Path, made_once: MadeOnce) -> Path:
    """The fp32 bundle of the nano checkpoint for pictures of 64x64 to 256x256, exported once. Read only."""
    from instantrt.cli import main

    def export(bundle: Path) -> None:
        sizes = ["--min-size", "64x64", "--max-size", "256x256"]
        assert main(["export", str(nano_checkpoint), "--out", str(bundle), *sizes]) == 0

    return made_once("bundle", export)


@pytest.fixture(scope="session")
def compiled(made_once: MadeOnce) -> Path:
    """Where OpenVINO keeps the networks that it compiles, for all worker processes of this run."""
    return made_once("compiled", Path.mkdir)


@pytest.fixture(scope="session")
def trained_bundle(made_once: MadeOnce) -> Path:
    """The fp32 bundle of the trained nano checkpoint, exported once. Read only."""
    from instantrt_nano.bundle import cached_bundle

    # Tests have commands look for it here as in a user's cache folder, where other packages leave things, too.
    (bundle,) = made_once("trained", cached_bundle).glob("nano-*/")
    return bundle


@pytest.fixture(scope="session")
def astronaut() -> npt.NDArray[np.uint8]:
    """scikit-image's portrait of an astronaut (NASA, public domain), u8 [512, 512, 3]."""
    from skimage.data import astronaut

    photo: npt.NDArray[np.uint8] = astronaut()
    return photo


@pytest.fixture(scope="session")
def cuda_double_library(made_once: MadeOnce) -> Path:
    """The folder with the stand-in for NVIDIA's driver, built once."""
    from doubles.cuda_double import build

    return made_once("cuda", build) / "cuda-double"


@pytest.fixture(scope="session")
def short_collections() -> Iterator[None]:
    """Many tests collect garbage to count what is left: what was there before them need not be looked at every time."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture
def cuda_double(short_collections: None) -> Iterator[CudaDouble]:
    """The stand-in driver below this process, with an empty log; skipped where it is not loaded."""
    from doubles.cuda_double import CudaDouble

    double = CudaDouble.loaded()
    if double is None:
        pytest.skip("needs the stand-in for NVIDIA's driver: see test_on_the_cuda_double.py")
    double.reset()
    yield double
    gc.collect()
    double.reset()


@contextmanager
def _nothing_left(cuda: CudaDouble) -> Iterator[None]:
    """Afterwards no rule may have been broken, and nothing may be left on the device."""
    before = cuda.live()
    yield
    assert cuda.broken_rules() == []
    gc.collect()
    assert cuda.live() == before


@pytest.fixture
def cuda_device() -> Iterator[CudaDevice]:
    """A GPU, or the stand-in, which then checks that no rule was broken and nothing is left; skipped without either."""
    from doubles.cuda_double import CudaDouble
    from instantrt.device.cuda import CudaDevice
    from instantrt.errors import DeviceError

    double = CudaDouble.loaded()
    with nullcontext() if double is None else _nothing_left(double):
        try:
            device = CudaDevice()
        except DeviceError as error:
            pytest.skip(f"needs an NVIDIA GPU: {error}")
        with device:
            yield device
    if double:
        double.reset()


@pytest.fixture(scope="session")
def nano_plans(request: pytest.FixtureRequest, made_once: MadeOnce) -> Path:
    """The nano bundle with real TensorRT-RTX plans for 64x64 pictures, 1 to 4 slots, built once. Read only.

    It has the graphs for onnxruntime-cuda too, which take every size.
    """
    from instantrt.cli import main

    pytest.importorskip("onnxruntime_ep_nv_tensorrt_rtx", reason="needs the rtx extra")
    source: Path = request.getfixturevalue("nano_bundle")

    def plan(bundle: Path) -> None:
        shutil.copytree(source, bundle)
        assert main(["build", str(bundle), "--target", "tensorrt-rtx", "--slots", "1:1:4", "--sizes", "64x64"]) == 0
        assert main(["build", str(bundle), "--target", "onnxruntime-cuda"]) == 0

    return made_once("planned", plan)


def skip_where_refused(target: str) -> None:
    """Skip the test with the target's own words where it does not run on this GPU."""
    from instantrt.device.properties import visible_gpus
    from instantrt.engine.flavours import FLAVOURS

    if refusal := FLAVOURS[target].refusal(visible_gpus()[0]):
        pytest.skip(str(refusal))


@pytest.fixture
def planned_bundle(request: pytest.FixtureRequest) -> Path:
    """:func:`nano_plans` where plans can be executed; skipped elsewhere, before anything is built.

    Plans are built in a process that does not run on the stand-in driver; one that does is told where they are.
    """
    from doubles.cuda_double import PLANNED_BUNDLE, CudaDouble

    if CudaDouble.loaded() is None:
        request.getfixturevalue("cuda_device")  # skips without a GPU
        skip_where_refused("tensorrt-rtx")
        bundle: Path = request.getfixturevalue("nano_plans")
        return bundle
    if PLANNED_BUNDLE not in os.environ:
        pytest.skip("needs plans: see test_on_the_cuda_double.py")
    skip_where_refused("tensorrt-rtx")
    return Path(os.environ[PLANNED_BUNDLE])


@pytest.fixture
def tensorrt_double(
    cuda_double: CudaDouble, planned_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[TensorRTDouble]:
    """Doubles of TensorRT-RTX's execution calls in the place of the real ones, which know the planned bundle's plans.

    Afterwards no rule may have been broken and nothing may be left on the device.
    """
    pytest.importorskip("onnxruntime_ep_nv_tensorrt_rtx", reason="needs the rtx extra")
    import tensorrt_rtx_bindings

    from doubles.tensorrt_double import TensorRTDouble
    from instantrt.bundle import Bundle

    with _nothing_left(cuda_double):
        double = TensorRTDouble(tensorrt_rtx_bindings, cuda_double)
        double.know(Bundle.open(planned_bundle), "tensorrt-rtx")
        monkeypatch.setitem(sys.modules, "tensorrt_rtx_bindings", double.module)
        yield double
        assert double.violations == []


@pytest.fixture
def onnxruntime_cuda_double(
    cuda_double: CudaDouble, monkeypatch: pytest.MonkeyPatch
) -> Iterator[OnnxRuntimeCudaDouble]:
    """A double of onnxruntime-gpu in the place of onnxruntime. Afterwards nothing may be left on the device."""
    from doubles.onnxruntime_cuda_double import OnnxRuntimeCudaDouble

    with _nothing_left(cuda_double):
        double = OnnxRuntimeCudaDouble(cuda_double)
        monkeypatch.setitem(sys.modules, "onnxruntime", double.module)
        yield double
        assert double.violations == []


@pytest.fixture
def executing_graphs(request: pytest.FixtureRequest) -> None:
    """ONNX Runtime's CUDA provider works here: on a GPU, or as a double on the stand-in driver. Skipped otherwise."""
    from doubles.cuda_double import CudaDouble
    from instantrt.engine.onnxruntime_cuda import import_onnxruntime_gpu
    from instantrt.errors import InstantRTError

    if CudaDouble.loaded() is not None:
        request.getfixturevalue("onnxruntime_cuda_double")
        return
    request.getfixturevalue("cuda_device")
    try:
        import_onnxruntime_gpu()
    except InstantRTError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def nano_modules(nano_checkpoint: Path) -> ModuleOf:
    """The torch module of each network of the nano checkpoint, fp32 on the CPU, made once. Read only."""
    import torch

    from instantrt_bench.gpu_check.torch_target import checkpoint_modules
    from instantrt_export.checkpoint import Checkpoint

    return cache(checkpoint_modules(Checkpoint.open(str(nano_checkpoint)), torch.float32, torch.device("cpu")))


@pytest.fixture
def executing_modules(request: pytest.FixtureRequest) -> Iterator[TorchTarget]:
    """Torch modules as a target: on a GPU, or on the CPU in host functions on the stand-in driver's stream."""
    import torch

    from doubles.cuda_double import CudaDouble
    from instantrt.bundle import Bundle
    from instantrt.device.cuda import CudaDevice
    from instantrt_bench.gpu_check.torch_target import CpuPlace, CudaPlace, Place, TorchTarget, checkpoint_modules
    from instantrt_export.checkpoint import Checkpoint

    place: Place
    module_of: ModuleOf
    double = CudaDouble.loaded()
    if double is None:
        request.getfixturevalue("cuda_device")  # skips without a GPU
        if not torch.cuda.is_available():
            pytest.skip("needs a torch with CUDA")
        place = CudaPlace()
        checkpoint = Checkpoint.open(str(request.getfixturevalue("nano_checkpoint")))
        module_of = checkpoint_modules(checkpoint, torch.float32, place.torch_device)
    else:
        device, view = CudaDevice(), double.view
        place = CpuPlace(device, lambda b: view(b.address, b.shape, b.dtype), device.synchronize)
        module_of = request.getfixturevalue("nano_modules")
    bundle = Bundle.open(request.getfixturevalue("planned_bundle"))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # small networks: more threads only wait for one another
    with closing(TorchTarget(place, bundle.contracts, module_of, bundle.onnx)) as target:
        yield target
    torch.set_num_threads(threads)
    if double is not None:
        assert double.broken_rules() == []


@pytest.fixture
def executing(request: pytest.FixtureRequest) -> None:
    """Plans can be executed here: on a GPU, or by the doubles on the stand-in driver. Skipped otherwise."""
    from doubles.cuda_double import CudaDouble

    request.getfixturevalue("planned_bundle")
    if CudaDouble.loaded() is not None:
        request.getfixturevalue("tensorrt_double")
