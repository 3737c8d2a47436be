"""The authors' own training code, imported from a clone of their repository and run without a change to its files.

A clone is imported in a process of its own, as the names of these packages collide (`model`, `utils`, `data`, `loss`).
What a step needs and this machine or this version of Python does not have is replaced from outside, before the import:
`Clone.changes` says what. Packages that only reading, writing or scoring of images needs may be missing.
"""

from __future__ import annotations

import collections.abc
import hashlib
import importlib
import importlib.machinery
import io
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import numpy.typing as npt
import torch
import yaml
from torch import nn

from compressor.base.randomness import uniforms
from compressor.data.batches import Batch
from compressor.models.checkpoints.convert import find_dialect, state_in_dialect
from compressor.models.networks.base import Network
from compressor.models.networks.edsr import EDSRSpec
from compressor.models.networks.rcan import RCANSpec
from compressor.models.quantisation.quantisers import quantisers_of
from recipes.terms.perceptual import VGG19_BLOCKS


@dataclass(frozen=True)
class Clone:
    """A repository at a commit; `folder` is its name in the folder of clones."""

    folder: str
    address: str
    commit: str
    trainer: str
    """The file with the training step, and below its git id at this commit."""
    trainer_id: str
    changes: tuple[str, ...]
    """What was changed to run it, without a change to its files."""
    code: str = ""
    """The folder from which its scripts are run."""

    def root(self, clones: Path) -> Path:
        """Return the folder of its scripts; refuse another version of the training step."""
        file = clones / self.folder / self.trainer
        if not file.is_file():
            raise SystemExit(f"{file} is missing: clone {self.address} into {clones / self.folder}")
        content = file.read_bytes()
        found = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
        if found != self.trainer_id:
            raise SystemExit(f"{file} is not that of commit {self.commit[:8]} of {self.address}")
        return clones / self.folder / self.code


LOADER = "its data loader, written for torch 1.1, is replaced by ready batches in memory"
IN_MEMORY = "ready batches in memory in place of its data loader"
NO_GPU = "cuda() does nothing"
NO_WRITER = "nothing is written for TensorBoard"

FAKD = Clone(
    "FAKD",
    "Vincent-Hoo/Knowledge-Distillation-for-Super-resolution",
    "589d35f750e63209e1213e89c414ac706fe6b9b1",
    "code/train.py",
    "b9bd274ccbf53d3cf3b288b5ba42934421658874",
    (
        LOADER,
        "its networks are built from its classes, as its script fixes the sizes 32/256 and 16/64 and loads a file",
        "`stty size`, of which it asks the terminal's width, is answered",
    ),
    "code",
)
CSD = Clone(
    "CSD",
    "Booooooooooo/CSD",
    "f479c8fd96e7da24c123642043f0d42f4b827af9",
    "PyTorch version/trainer/slim_contrast_trainer.py",
    "a5d093d22a991424a990082c1ab21396da7475d4",
    (
        LOADER,
        NO_GPU,
        "torchvision's VGG-19 has random weights, the same as srkd's, in place of the download",
        NO_WRITER,
        "its test at the end of an epoch is left out, and utils/niqe.py for it, which needs an old scipy",
    ),
    "PyTorch version",
)
PAMS = Clone(
    "PAMS",
    "colorjam/PAMS",
    "737cc0963f96b36ddad5d7f89bf8590594428813",
    "main.py",
    "7358d08602a159e60655e6ea204f179b7eae95b3",
    (
        LOADER,
        NO_GPU,
        "collections.Iterable, which Python 3.10 removed, is collections.abc.Iterable again",
        "a stride of True in its upsampler, which torch no longer takes, is 1",
        "its table of addresses of teachers has an entry for every size",
        NO_WRITER,
    ),
)
BASICSR = Clone(
    "BasicSR",
    "XPixelGroup/BasicSR",
    "8d56e3a045f9fb3e1d8872f92ee4a4f07f886b0a",
    "basicsr/models/sr_model.py",
    "787f1fd2eab5963579c764c1bfb87199b7dd196f",
    (
        IN_MEMORY,
        "basicsr.version, which its setup writes, is given",
    ),
)
DUKD = Clone(
    "DUKD",
    "yun224/DUKD",
    "6960273e08cf7958b844b750910446bbbddb3746",
    "models/dukd_model.py",
    "a4523213f0d72f09dc5d7b010f93f8e7def0ae61",
    ("its cells and augmentations are those that srkd draws",),
)
HKDSR = Clone(
    "HKDSR",
    "wslgqq277g/HKDSR",
    "b7a15624678849319155021a7ef99aca9af72d25",
    "basicsr/models/sr_l1_model.py",
    "f369542dd4b38d1d51ca1f34610afad278329c52",
    (
        IN_MEMORY,
        "vgg_arch.py and srgan_model.py, which the repository lacks and other parts of it import, are empty",
        NO_GPU,
        "pkg_resources, which its package pytorch_wavelets reads other transforms with, may be missing",
    ),
)

UNUSED_PACKAGES = (
    *("coloredlogs", "cv2", "distutils", "imageio", "lmdb", "matplotlib", "pandas", "pkg_resources"),
    *("requests", "scipy", "skimage", "tensorboardX", "torchstat", "torchvision", "tqdm"),
)
"""Packages that the clones import and no training step of theirs uses; those that are missing are imported empty."""


class Anything:
    """An object that can be called and has every attribute, in place of one of a missing package."""

    def __init__(self, *_: object, **__: object) -> None: ...

    def __call__(self, *_: object, **__: object) -> Anything:
        return self

    def __getattr__(self, name: str) -> Anything:
        if name.startswith("__"):
            raise AttributeError(name)
        return self


class Empty(ModuleType):
    """A package whose every name is a class that does nothing."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.__path__ = []

    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (Anything,), {})


class EmptyPackages:
    """An importer, asked last, of the packages that are missing."""

    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> importlib.machinery.ModuleSpec | None:
        if name.partition(".")[0] not in UNUSED_PACKAGES:
            return None
        return importlib.machinery.ModuleSpec(name, EmptyPackages, is_package=True)  # type: ignore[arg-type]

    @staticmethod
    def create_module(spec: importlib.machinery.ModuleSpec) -> ModuleType:
        return Empty(spec.name)

    @staticmethod
    def exec_module(module: ModuleType) -> None: ...


class Setting(NamedTuple):
    """The networks of a comparison and the methods' modules, with srkd's weights, the shape of its batches, and the
    file of VGG-19.
    """

    student: Network
    teacher: Network | None
    modules: nn.ModuleDict
    batch: int
    lr_patch: int
    vgg: Path

    @property
    def spec(self) -> EDSRSpec:
        return edsr_spec_of(self.student)

    @property
    def scale(self) -> int:
        return self.student.spec.scale

    @property
    def shape(self) -> tuple[str, ...]:
        """The words of EDSR-PyTorch's options for the batches."""
        patch = str(self.scale * self.lr_patch)
        return ("--scale", str(self.scale), "--batch_size", str(self.batch), "--patch_size", patch)


def edsr_spec_of(network: Network | None) -> EDSRSpec:
    assert network is not None and isinstance(network.spec, EDSRSpec)
    return network.spec


class Authors:
    """The authors' training loop: `prepare` makes a batch as their loader would, `train` runs steps on such batches.

    `unit` is the size of their loss in units of srkd's, 255 for images in [0,255]; `updates` are those of a step.
    """

    def __init__(
        self, prepare: Callable[[Batch], Any], train: Callable[[Images], object], *, unit: float, updates: int = 1
    ) -> None:
        self.prepare, self.train, self.unit, self.updates = prepare, train, unit, updates
        self.asked: list[torch.Tensor] = []
        keep_losses(self.asked)

    def run(self, batches: Sequence[Any]) -> None:
        """Train on prepared batches."""
        self.train(Images(batches))
        self.asked.clear()

    def losses(self, batches: Sequence[Any]) -> list[float]:
        """Train on prepared batches, and return the loss of each step in srkd's units."""
        self.train(Images(batches))
        each = [float(loss) / self.unit for loss in self.asked]
        self.asked.clear()
        return [sum(each[first : first + self.updates]) for first in range(0, len(each), self.updates)]


class Images(list[Any]):
    """Batches in the form of a data loader."""

    @property
    def dataset(self) -> Images:
        return self


def keep_losses(kept: list[torch.Tensor]) -> None:
    """Keep every loss whose gradients are asked for by `loss.backward()`, as all of these trainers do."""
    tensors: Any = torch.Tensor
    backward = tensors.backward

    def keeping(loss: torch.Tensor) -> None:
        kept.append(loss.detach())
        backward(loss)

    tensors.backward = keeping


def enter(clone: Clone, clones: Path, *words: str) -> None:
    """Let this process import a clone's modules, as if its script ran with these words on a machine without a GPU."""
    sys.path.insert(0, str(clone.root(clones)))
    sys.argv = ["main.py", *words]
    importers: list[Any] = sys.meta_path
    if EmptyPackages not in importers:
        importers.append(EmptyPackages)
    warnings.simplefilter("ignore")
    for kind in (torch.Tensor, nn.Module):
        changed: Any = kind
        changed.cuda = lambda one, *_, **__: one


def tensors_of(network: Network | None, code_base: str) -> dict[str, torch.Tensor]:
    """Return the weights by the names of a code base."""
    assert network is not None
    dialect = find_dialect(network.spec.arch, code_base)
    assert dialect is not None
    return state_in_dialect(network, dialect)[0]


def set_sizes(options: Any, spec: EDSRSpec) -> Any:
    """Set the sizes of an EDSR in the options of EDSR-PyTorch's descendants, and return these."""
    options.n_resblocks, options.n_feats, options.res_scale = spec.depth, spec.width, spec.res_scale
    return options


def in_bytes(*more: object) -> Callable[[Batch], tuple[object, ...]]:
    """Return what makes a batch in [0,255], followed by what else a loader gives."""

    def prepare(batch: Batch) -> tuple[object, ...]:
        assert batch.hr is not None
        return (255 * batch.lr, 255 * batch.hr, *more)

    return prepare


def fakd(setting: Setting, clones: Path) -> Authors:
    """Its function train(epoch), and its command for affinities with its EDSR."""
    words = "--cpu --teacher [EDSR] --model EDSR --alpha 0.5 --feature_loss_used 1 --feature_distilation_type 10*SA"
    enter(FAKD, clones, *setting.shape, *words.split(), "--features", "[1,2,3]", "--decay", "100000")
    sys.modules["data"] = ModuleType("data")
    with mock.patch("os.popen", lambda *_: io.StringIO("24 80")):
        code: Any = importlib.import_module("train")
    for name, network in (("teacher", setting.teacher), ("student", setting.student)):
        made = code.edsr.EDSR(set_sizes(code.args, edsr_spec_of(network)))
        made.load_state_dict(tensors_of(network, "fakd"))
        setattr(code, name, made)
    code.teachers = [code.teacher.requires_grad_(False)]
    code.student_ckp = code.utility.checkpoint(code.args)
    code.criterion, code.optimizer = code.prepare_criterion(), code.prepare_optimizer()

    def train(batches: Images) -> None:
        code.train_loader = batches
        code.train(1)

    return Authors(in_bytes("", 0), train, unit=255)


def vgg19_of(file: Path) -> Callable[..., SimpleNamespace]:
    """Return torchvision's function vgg19, with the first weights of a file."""

    def vgg19(*ignored: object, **pretrained: object) -> SimpleNamespace:
        features, inputs = nn.Sequential(), 3
        for count, channels in VGG19_BLOCKS:
            for _ in range(count):
                features.append(nn.Conv2d(inputs, channels, 3, padding=1)).append(nn.ReLU(inplace=True))
                inputs = channels
            features.append(nn.MaxPool2d(2))
        weights = torch.load(file, weights_only=True)
        features.load_state_dict({k.removeprefix("features."): v for k, v in weights.items()}, strict=False)
        return SimpleNamespace(features=features)

    return vgg19


def csd(setting: Setting, clones: Path) -> Authors:
    """Its SlimContrastiveTrainer, and the command of its README; the student is half of the teacher's width."""
    assert setting.teacher is not None
    whole = edsr_spec_of(setting.teacher)
    words = (
        "--cpu --model EDSR --model_filename student --pre_train weights/ --epochs 1 --contra_lambda 200 --t_lambda 1"
    )
    own_words = ("--neg_num", str(min(10, setting.batch)), "--stu_width_mult", str(setting.spec.width / whole.width))
    enter(CSD, clones, *setting.shape, *words.split(), "--t_l_remove", "400", "--contrast_t_detach", *own_words)
    packages = {name: Empty(name) for name in ("torchvision", "torchvision.models", "torchvision.models.vgg")}
    packages["torchvision"].__dict__["models"] = packages["torchvision.models"]
    for name in ("torchvision.models", "torchvision.models.vgg"):
        packages[name].__dict__["vgg19"] = vgg19_of(setting.vgg)
    sys.modules.update({**packages, "utils.niqe": Empty("utils.niqe")})
    options: Any = importlib.import_module("option").args
    code: Any = importlib.import_module("trainer.slim_contrast_trainer")
    loader = SimpleNamespace()
    trainer = code.SlimContrastiveTrainer(set_sizes(options, whole), loader, torch.device("cpu"))
    trainer.model.module.load_state_dict(tensors_of(setting.teacher, "csd"))
    trainer.test = lambda *_: 0.0

    def train(batches: Images) -> None:
        loader.loader_train = batches
        trainer.train()

    return Authors(in_bytes(""), train, unit=255)


def pams(setting: Setting, clones: Path, *, calibrates: bool = False) -> Authors:
    """Its Trainer, and its command for 8 bits; its first epoch calibrates."""
    assert setting.teacher is not None
    enter(PAMS, clones, *setting.shape, "--cpu", "--model", "EDSR", "--k_bits", "8")
    collections.Iterable = collections.abc.Iterable  # type: ignore[attr-defined]
    sys.modules["data"] = ModuleType("data")
    code: Any = importlib.import_module("main")
    importlib.import_module("model.edsr_org").__dict__["url"] = AnyAddress()
    options = set_sizes(code.args, setting.spec)
    teacher, student = code.EDSR(options, is_teacher=True), code.PAMS_EDSR(options, bias=True)
    teacher.load_state_dict(tensors_of(setting.teacher, "edsr-pytorch"))
    tensors = {pams_name(name): tensor for name, tensor in tensors_of(setting.student, "edsr-pytorch").items()}
    for name, quantiser in quantisers_of(setting.student).items():
        block, place = name.removeprefix("blocks.").split(".")
        part = {"shortcut": "quant_act1", "hidden": "quant_act2", "branch": "quant_act3"}[place]
        tensors[f"body.{block}.{part}.alpha"] = quantiser.alpha.detach().reshape(1)
    left = student.load_state_dict(tensors, strict=False)
    assert not left.unexpected_keys, left
    assert all(name.endswith((".max_val", ".body.2.alpha")) for name in left.missing_keys), left
    for layer in student.modules():
        if isinstance(layer, nn.Conv2d):
            layer.stride = (int(layer.stride[0]), int(layer.stride[1]))
    loader = SimpleNamespace(loader_train=Images(), loader_test=[])
    trainer = code.Trainer(options, loader, teacher, student, code.checkpoint)

    def train(batches: Images) -> None:
        trainer.loader_train, trainer.epoch = batches, 0 if calibrates else 1
        trainer.train()

    return Authors(in_bytes("", 0), train, unit=255)


class AnyAddress(dict[str, str]):
    def __missing__(self, key: str) -> str:
        return ""


def pams_name(name: str) -> str:
    """Return the name of a tensor of EDSR-PyTorch in PAMS's student, where a quantiser precedes the second layer."""
    return name.replace(".body.2.", ".body.3.") if name.startswith("body.") else name


def basicsr_options(file: Path, setting: Setting, sizes: Callable[[Network | None], dict[str, Any]]) -> dict[str, Any]:
    """Return an option file of BasicSR, with the sizes of these networks and without a GPU."""
    options: dict[str, Any] = yaml.safe_load(file.read_text(encoding="utf-8"))
    for name, network in (("network_g", setting.student), ("network_t", setting.teacher)):
        if name in options:
            options[name] |= sizes(network)
    options["path"] = {"pretrain_network_g": None}
    return {**options, "num_gpu": 0, "dist": False, "rank": 0, "is_train": True, "scale": setting.scale}


def edsr_sizes(network: Network | None) -> dict[str, Any]:
    spec = edsr_spec_of(network)
    return {"num_feat": spec.width, "num_block": spec.depth, "res_scale": spec.res_scale, "upscale": spec.scale}


def basicsr_loop(
    options: dict[str, Any],
    setting: Setting,
    *,
    code_base: str = "basicsr",
    updates: int = 1,
    begin: Callable[[Any], object] = id,
) -> Authors:
    """The step of basicsr.train: the rate, the batch, the update. `begin` sets what else the model starts from."""
    model: Any = importlib.import_module("basicsr.models").__dict__["build_model"](options)
    tensors = tensors_of(setting.student, code_base)
    getattr(model.net_g, "load_model", model.net_g.load_state_dict)(tensors)
    assert all(torch.equal(value, tensors[name]) for name, value in model.net_g.state_dict().items())
    model.model_ema(0)
    begin(model)
    done = 0

    def train(batches: Images) -> None:
        nonlocal done
        for batch in batches:
            done += 1
            model.update_learning_rate(done, warmup_iter=-1)
            model.feed_data(batch)
            model.optimize_parameters(done)

    return Authors(lambda batch: {"lq": batch.lr, "gt": batch.hr}, train, unit=1, updates=updates)


def enter_basicsr(clone: Clone, clones: Path) -> None:
    enter(clone, clones)
    version = ModuleType("basicsr.version")
    version.__dict__.update(__version__="", __gitsha__="")
    sys.modules["basicsr.version"] = version
    importlib.import_module("basicsr")


def scratch(setting: Setting, clones: Path) -> Authors:
    """Its SRModel and its option file of the small EDSR at x4: L1, Adam, an average of the weights."""
    enter_basicsr(BASICSR, clones)
    file = clones / BASICSR.folder / "options" / "train" / "EDSR" / "train_EDSR_Mx4.yml"
    return basicsr_loop(basicsr_options(file, setting, edsr_sizes), setting)


class OwnDraws:
    """The functions of numpy that DUKD's model uses, with srkd's draws of cells and of augmentations."""

    array = staticmethod(np.array)

    def __init__(self, batch: int, seed: int) -> None:
        self.batch, self.seed, self.step = batch, seed, -1
        self.coins: Iterator[npt.NDArray[Any]] = iter(())

    @property
    def random(self) -> OwnDraws:
        return self

    def permutation(self, cells: int) -> npt.NDArray[Any]:
        """Begin the next step, and return the order of its cells."""
        self.step += 1
        self.coins = iter(uniforms("dukd-zoom-in", self.seed, self.step, range(self.batch), 4).T)
        order: npt.NDArray[Any] = uniforms("dukd-cells", self.seed, self.step, [0], cells)[0].argsort(kind="stable")
        return order

    def choice(self, values: Sequence[int], size: int, p: Sequence[float]) -> npt.NDArray[Any]:
        """Return whether each sample has the next operation."""
        assert (list(values), size) == ([0, 1], self.batch)
        return (next(self.coins) < p[1]).astype(float)


def dukd(setting: Setting, clones: Path, *, seed: int) -> Authors:
    """Its model DUKD, and its option file of EDSR at x4; a step has two updates."""
    enter_basicsr(BASICSR, clones)
    enter(DUKD, clones)
    importlib.import_module("models")
    importlib.import_module("models.dukd_model").__dict__["np"] = OwnDraws(setting.batch, seed)
    file = clones / DUKD.folder / "options" / "EDSR" / "dukd_edsr_x4c256b32_c64b32.yml"
    options = basicsr_options(file, setting, edsr_sizes)
    torch.save({"params": tensors_of(setting.teacher, "basicsr")}, "teacher.pth")
    options["path"]["pretrain_network_t"] = "teacher.pth"
    return basicsr_loop(options, setting, updates=2)


def hkdsr(setting: Setting, clones: Path) -> Authors:
    """Its SR_l1Model and its option file of RCAN at x2: the second stage, in which the student learns."""
    missing = ("basicsr.archs.vgg_arch", "basicsr.models.srgan_model")
    sys.modules.update({name: Empty(name) for name in missing})
    enter_basicsr(HKDSR, clones)
    torch.save({"params_ema": tensors_of(setting.teacher, "rcan")}, "teacher.pth")
    file = clones / HKDSR.folder / "options" / "train" / "RCAN" / "rcan_shareupkd_x2.yml"
    options = basicsr_options(file, setting, rcan_sizes)
    options["network_t"]["path"] = "teacher.pth"

    def begin(model: Any) -> None:
        gates: Any = setting.modules["hkdsr"]
        for theirs, ours in zip(model.cri_adapt, gates["gates"], strict=True):
            theirs.adaptconv[0].load_state_dict(ours.squeeze.state_dict())
            theirs.adaptconv[2].load_state_dict(ours.choose.state_dict())

    return basicsr_loop(options, setting, code_base="rcan", begin=begin)


def rcan_sizes(network: Network | None) -> dict[str, Any]:
    assert network is not None and isinstance(network.spec, RCANSpec)
    spec = network.spec
    sizes = {"n_resgroups": spec.groups, "n_resblocks": spec.depth, "n_feats": spec.width}
    return {**sizes, "reduction": spec.width // spec.hidden, "scale": spec.scale}
