"""A teacher: whatever gives good images. One of our networks gives features too, any other model its outputs alone."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from compressor.base.errors import MissingExtra, SrkdError, UsageError
from compressor.base.files import file_sha256
from compressor.models.checkpoints.load import Loaded, UnknownNetwork, load_checkpoint, read_states, weights_file
from compressor.models.checkpoints.save import tensor_bytes
from compressor.models.networks.base import Descriptor, Network, Spec, Tap
from compressor.models.networks.dialect import Assumption
from compressor.models.networks.windows import padded_index
from compressor.models.students import network_sha256
from compressor.teachers.foreign import Foreign
from compressor.teachers.programs import archive_kind

RANGES = (1.0, 255.0)


@dataclass(frozen=True)
class Origin:
    """The file a teacher came from, and what was assumed of it."""

    path: Path
    sha256: str
    bytes: int
    dialect: str
    wrapping: str
    assumed: tuple[Assumption, ...] = ()
    notes: tuple[str, ...] = ()
    header: Mapping[str, str] | None = None
    options: Mapping[str, object] = field(default_factory=dict)
    """What the user said of the file."""


class Teacher(Network):
    """Frozen, in eval mode, float RGB in [0,1], NCHW, in and out, of any size.

    `network` is one of our networks, whose spec, taps and parts these are; None for a foreign model, which has outputs
    only and says so where more is asked of it.
    """

    network: Network | None
    foreign: Foreign | None

    def __init__(self, model: Network | Foreign, origin: Origin | None = None, *, img_range: float = 1.0) -> None:
        super().__init__()
        self.network = model if isinstance(model, Network) else None
        self.foreign = None if isinstance(model, Network) else model
        self.origin, self.img_range = origin, img_range
        self._place = torch.device("cpu")
        self.recipes_for_outputs: Sequence[str] = ()
        """Named when features are asked of a foreign model; told by whoever knows the recipes."""
        if self.network is not None:
            self.network.eval().requires_grad_(False)
        elif self.foreign is not None:
            _refuse_strange_weights(self.foreign)

    @property
    def place(self) -> torch.device:
        """Where it runs."""
        return self._place

    @property
    def kind(self) -> str:
        """ "srkd" for our own networks, else what the foreign model is."""
        return "srkd" if self.foreign is None else self.foreign.facts.kind

    @property
    def called(self) -> str:
        """The kind with its article."""
        return "an srkd" if self.foreign is None else self.foreign.facts.called

    @property
    def architecture(self) -> str:
        if self.foreign is not None:
            return self.foreign.facts.architecture
        assert self.network is not None
        return self.network.spec.arch

    @property
    def descriptor(self) -> Descriptor:
        if self.foreign is not None:
            # Sizes that the model does not take are padded here, so that callers may give any.
            return replace(self.foreign.facts.descriptor, size_multiple=1, min_size=1)
        assert self.network is not None
        return self.network.descriptor

    @property
    def params(self) -> int | None:
        if self.foreign is not None:
            return self.foreign.facts.params
        assert self.network is not None
        return sum(parameter.numel() for parameter in self.network.parameters())

    @property
    def spec(self) -> Spec:  # type: ignore[override]
        return self.own("a spec").spec

    @property
    def taps(self) -> dict[str, Tap]:
        return self.own("features").taps

    def own(self, wanted: str) -> Network:
        """Our network, or one line that says why `wanted` cannot be had."""
        if self.network is not None:
            return self.network
        recipes = self.recipes_for_outputs
        way = f"recipes that take it: {', '.join(recipes)}" if recipes else "use a recipe that needs outputs only"
        raise SrkdError(f"{self.called} teacher gives outputs only, and {wanted} was asked of it: {way}")

    def stem(self, lr: torch.Tensor) -> torch.Tensor:
        return self.own("a part of the network").stem(lr)

    def body(self, feature: torch.Tensor) -> torch.Tensor:
        return self.own("a part of the network").body(feature)

    def finish(self, feature: torch.Tensor, shallow: torch.Tensor, lr: torch.Tensor) -> torch.Tensor:
        return self.own("a part of the network").finish(feature, shallow, lr)

    def forward(self, lr: torch.Tensor) -> torch.Tensor:
        """Outputs without gradients, unclipped, on the device of `lr`."""
        with torch.no_grad():
            if self.network is not None:
                sr: torch.Tensor = self.network(lr.to(self._place)).to(lr.device)
                return sr
            assert self.foreign is not None
            return _foreign_outputs(self.foreign, lr.to(self._place, torch.float32), self.img_range).to(lr.device)

    def placed(self, device: torch.device) -> Teacher:
        """The same teacher on a device; a foreign one that cannot go there stays, and images travel."""
        if self.network is not None:
            self.network.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            self._place = device
        elif self.foreign is not None:
            self._place = self.foreign.move(device)
        return self

    def fingerprint(self) -> str:
        """Equal before and after training means that nothing of the teacher was trained."""
        if self.network is not None:
            return network_sha256(self.network)
        assert self.foreign is not None
        digest = hashlib.sha256()
        for name, tensor in sorted(self.foreign.tensors(), key=lambda pair: pair[0]):
            digest.update(name.encode() + tensor_bytes(tensor))
        return digest.hexdigest()


def _foreign_outputs(foreign: Foreign, lr: torch.Tensor, img_range: float) -> torch.Tensor:
    """Pad to the sizes that the model takes, run it in its own range, crop."""
    facts = foreign.facts
    model = facts.descriptor
    height, width = lr.shape[-2:]
    if lr.dim() != 4 or lr.shape[1] != model.channels:
        raise UsageError(f"{facts.called} teacher takes (N, {model.channels}, H, W), got {tuple(lr.shape)}")
    if facts.fixed_size is not None and facts.fixed_size != (width, height):
        raise SrkdError(
            f"this {facts.kind} teacher takes images of {facts.fixed_size[0]}x{facts.fixed_size[1]} only, "
            f"not {width}x{height}: export it with dynamic height and width"
        )
    fed = _padded(lr, model) * img_range
    most = facts.largest_batch or len(fed)
    parts = [fed[begin : begin + most] for begin in range(0, len(fed), most)]
    outputs = [_run_exactly(foreign, part, facts.largest_batch or len(part)) for part in parts]
    sr = torch.cat(outputs).float() / img_range
    return sr[..., : height * model.scale, : width * model.scale]


def _padded(lr: torch.Tensor, model: Descriptor) -> torch.Tensor:
    """Reflected at the right and lower edge, as spandrel and the networks' own test scripts do, to a size it takes."""
    for axis in (-2, -1):
        size = lr.shape[axis]
        wanted = -(-max(size, model.min_size) // model.size_multiple) * model.size_multiple
        if wanted != size:
            lr = lr.index_select(axis, padded_index(size, wanted, lr.device, repeat_edge=False))
    return lr


def _run_exactly(foreign: Foreign, images: torch.Tensor, batch: int) -> torch.Tensor:
    """A fixed batch is filled up by repeating its last image."""
    missing = batch - len(images)
    full = images if missing == 0 else torch.cat([images, images[-1:].expand(missing, -1, -1, -1)])
    outputs = foreign.run(full)
    scale = foreign.facts.descriptor.scale
    wanted = (len(full), images.shape[1], images.shape[2] * scale, images.shape[3] * scale)
    if tuple(outputs.shape) != wanted:
        raise SrkdError(f"{foreign.facts.called} teacher gave shape {tuple(outputs.shape)} where {wanted} was due")
    return outputs[: len(images)]


def _refuse_strange_weights(foreign: Foreign) -> None:
    for name, tensor in foreign.tensors():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise SrkdError(f"tensor {name[:100]} of this {foreign.facts.kind} model holds NaN or infinity")


def load_teacher(
    path: str | Path, *, scale: int | None = None, arch_options: Mapping[str, object] | None = None
) -> Teacher:
    """Any model file: a checkpoint or run folder of ours or a known lineage, TorchScript, ONNX, torch.export, or a
    state dict that spandrel knows.

    For foreign files `arch_options` has `img_range` (1 unless told otherwise) and `weights`.
    """
    path, options = weights_file(Path(path)), dict(arch_options or {})
    kind = archive_kind(path)
    if path.suffix.lower() == ".onnx":
        kind = "onnx"
    if kind is None:
        try:
            return of_loaded(load_checkpoint(path, scale=scale, arch_options=options), options)
        except UnknownNetwork as error:
            return _by_spandrel(path, scale, options, error)
    foreign = _open(kind, path)
    return _foreign_teacher(foreign, path, scale, options, wrapping=kind)


def of_loaded(loaded: Loaded, options: Mapping[str, object]) -> Teacher:
    """A teacher of a checkpoint that was opened."""
    return Teacher(
        loaded.network,
        Origin(
            loaded.path,
            loaded.sha256,
            loaded.bytes,
            loaded.dialect,
            loaded.wrapping,
            loaded.assumed,
            loaded.notes,
            loaded.header,
            options,
        ),
    )


def _open(kind: str, path: Path) -> Foreign:
    if kind == "onnx":
        from compressor.teachers.onnx_teacher import open_onnx

        return open_onnx(path)
    if kind == "torchscript":
        from compressor.teachers.programs import open_torchscript

        return open_torchscript(path)
    if kind == "export":
        from compressor.teachers.programs import open_exported_program

        return open_exported_program(path)
    raise SrkdError(f"{path}: a torch.export program of an older torch: save it again with torch 2.8 or later")


def _by_spandrel(path: Path, scale: int | None, options: dict[str, object], unknown: UnknownNetwork) -> Teacher:
    """Tensors of no dialect of ours; if spandrel does not know them either, the first error stands."""
    from compressor.teachers.spandrel_teacher import NotKnown, open_spandrel, spandrel_is_here

    if not spandrel_is_here():
        raise MissingExtra(f"{unknown}. spandrel, which knows more networks,", "spandrel") from unknown
    weights = options.get("weights")
    for wrapping, state in read_states(path, None if weights is None else str(weights)):
        try:
            foreign = open_spandrel(state, f"spandrel's {path.name}")
        except NotKnown:
            continue
        return _foreign_teacher(foreign, path, scale, options, wrapping=wrapping)
    raise UnknownNetwork(f"{unknown}; spandrel does not know it either") from unknown


def _foreign_teacher(
    foreign: Foreign, path: Path, scale: int | None, options: dict[str, object], *, wrapping: str
) -> Teacher:
    facts = foreign.facts
    strangers = sorted(set(options) - {"img_range", "weights"})
    if strangers:
        raise UsageError(f"{path}: {facts.called} model has no option {strangers[0]!r}; there is img_range")
    if scale not in (None, facts.descriptor.scale):
        raise UsageError(f"{path}: the file is for scale {facts.descriptor.scale}, not {scale}")
    assumed: tuple[Assumption, ...] = ()
    if "img_range" not in options:
        assumed = (Assumption("img_range", 1.0, "not in the file; images of [0,1] are what most models take"),)
    origin = Origin(path, file_sha256(path), path.stat().st_size, facts.kind, wrapping, assumed, options=options)
    return Teacher(foreign, origin, img_range=_range(options.get("img_range", 1.0), path))


def _range(value: object, path: Path) -> float:
    try:
        found = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        found = 0.0
    if found not in RANGES:
        raise UsageError(f"{path}: img_range={value!r} is neither 1 nor 255")
    return found
