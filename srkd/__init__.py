"""srkd makes image super-resolution networks smaller: a good, slow teacher trains a small student.

Every function takes a model as a file, a run folder, a name of srkd.students() or an open network. Each has its own
help: help(srkd.compress).

    data           tell and show what a run would see of a folder of images
                   >>> srkd.data("photos", degrade="jpeg=30..90").images
    compress       train a student from a teacher and write a run folder
                   >>> srkd.compress("edsr.pt", data="photos", width=0.5, steps=2000, out="runs/small")
    plan           find the largest student that meets a frame rate, a size or a cost here
                   srkd.plan("edsr.pt", target_fps=30, lr_size="320x180").chosen
    resume         continue a run that was stopped
                   srkd.resume("runs/small")
    plot           draw the curves of a run
                   >>> srkd.plot("runs/small")
    export         write a network as ONNX and other formats, each compared with the network
                   >>> srkd.export("runs/small", formats="onnx")
    profile        time networks against their teacher
                   >>> srkd.profile("runs/small", lr_size="64x64", seconds=0.5)
    report         write a run as one HTML file that anybody can open
                   >>> srkd.report("runs/small", out="small.html")
    compare        compare the methods of runs, each over its seeds
                   >>> srkd.compare("runs/small").methods[0].name
    evaluate       score networks by PSNR and SSIM, beside bicubic
                   >>> srkd.evaluate(["runs/small", "edsr.pt"], data="photos")
    upscale        enlarge files, or PIL images, arrays and tensors
                   >>> srkd.upscale("runs/small", "photos/0.png", out="large.png")
    inspect        tell what a file holds, and what srkd assumed
                   >>> srkd.inspect("edsr.pt")
    networks       list the networks and their named sizes, with their cost
                   >>> srkd.networks("plain").networks[0].params
    students       list the students that come with srkd, whose names are models, timed here
                   >>> srkd.students(seconds=0.1).students[0].ms
    blend          a network of a strength between two of one start
                   >>> srkd.blend("runs/small", "runs/small/checkpoints/best.safetensors", 0.6)
    convert        write a network in the names of another code base
                   >>> srkd.convert("runs/small", to="basicsr", out="small.pth")
    load           open a network: a torch module of RGB in [0,1], NCHW, in and out
                   >>> teacher = srkd.load("edsr.pt")
    save           write a network as safetensors
                   >>> srkd.save(teacher, "teacher.safetensors")
    build_student  cut a smaller network out of a larger one
                   >>> student = srkd.build_student(teacher, width=0.5)
    cost           count parameters and multiply-accumulates
                   >>> srkd.cost(student, "320x180")

The same verbs are commands of the shell: `srkd --help`. Importing srkd does not import torch. `srkd.training` has the
parts for a training loop of one's own: help(srkd.training).
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from srkd.version import __version__

import_module("compressor")  # sets how long OpenMP's threads spin, which torch reads when it is loaded
if TYPE_CHECKING:
    from compressor.base.errors import SrkdError
    from compressor.models.networks.base import ImageModel, Network
    from compressor.teachers.teacher import Teacher
    from compressor.training.method import Method as PlainMethod
    from recipes.catalogue import Contribution, MethodEntry
    from srkd.api.blend import blend
    from srkd.api.compare import compare
    from srkd.api.compress import compress, resume
    from srkd.api.convert import convert
    from srkd.api.data import data
    from srkd.api.evaluate import evaluate
    from srkd.api.export import export
    from srkd.api.inspection import inspect
    from srkd.api.network_list import networks
    from srkd.api.networks import build_student, cost, load, save
    from srkd.api.plan import plan
    from srkd.api.plot import plot
    from srkd.api.profile import profile
    from srkd.api.report import report
    from srkd.api.students import students
    from srkd.api.upscale import upscale

__all__ = [
    "Contribution",
    "ImageModel",
    "MethodEntry",
    "Network",
    "PlainMethod",
    "SrkdError",
    "Teacher",
    "__version__",
    "blend",
    "build_student",
    "compare",
    "compress",
    "convert",
    "cost",
    "data",
    "evaluate",
    "export",
    "inspect",
    "load",
    "networks",
    "plan",
    "plot",
    "profile",
    "report",
    "resume",
    "save",
    "students",
    "upscale",
]

_MODULES = {
    **{name: f"srkd.api.{name}" for name in __all__},
    **dict.fromkeys(("build_student", "cost", "load", "save"), "srkd.api.networks"),
    "inspect": "srkd.api.inspection",
    "networks": "srkd.api.network_list",
    "resume": "srkd.api.compress",
    "SrkdError": "compressor.base.errors",
    "ImageModel": "compressor.models.networks.base",
    "Network": "compressor.models.networks.base",
    "Teacher": "compressor.teachers.teacher",
    "Contribution": "recipes.catalogue",
    "MethodEntry": "recipes.catalogue",
    "PlainMethod": "compressor.training.method",
}


def __getattr__(name: str) -> object:
    if name == "training":
        return import_module("srkd.training")
    if name not in __all__:
        raise AttributeError(f"module 'srkd' has no attribute {name!r}")
    value = getattr(import_module(_MODULES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
