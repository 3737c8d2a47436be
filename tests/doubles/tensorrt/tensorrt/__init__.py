"""A double of TensorRT: the surface that srkd uses, with the names and signatures of the real one (a test
holds them against NVIDIA's bindings). Its engines are ONNX files in disguise, run by ONNX Runtime; each call is noted.

SRKD_DOUBLE_TRT   the version it pretends to be, 11.4.0.106 by default; below 11 it has precision flags
SRKD_DOUBLE_FAULT what goes wrong
SRKD_DOUBLE_LOG   file that calls are appended to, as JSON lines
"""

from __future__ import annotations

import ctypes
import enum
import json
import os

__version__ = os.environ.get("SRKD_DOUBLE_TRT", "11.4.0.106")
_WEAK = int(__version__.partition(".")[0]) < 11


def _note(call: str, *arguments: object) -> None:
    log = os.environ.get("SRKD_DOUBLE_LOG")
    if log:
        with open(log, "a") as file:
            file.write(json.dumps([call, *arguments], default=str) + "\n")


def _fault(name: str) -> bool:
    return os.environ.get("SRKD_DOUBLE_FAULT") == name


BuilderFlag = enum.Enum("BuilderFlag", ["FP16", "BF16", "INT8"] if _WEAK else [])


class NetworkDefinitionCreationFlag(enum.IntEnum):
    STRONGLY_TYPED = 0 if not _WEAK else 1


class TensorIOMode(enum.IntEnum):
    NONE = 0
    INPUT = 1
    OUTPUT = 2


class DataType(enum.IntEnum):
    FLOAT = 0
    HALF = 1


class ILogger:
    class Severity(enum.IntEnum):
        INTERNAL_ERROR = 0
        ERROR = 1
        WARNING = 2
        INFO = 3
        VERBOSE = 4

    def __init__(self) -> None:
        self._made = True

    def log(self, severity, msg):
        raise NotImplementedError

    def _error(self, text: str) -> None:
        assert self._made, "ILogger.__init__ was not called"
        self.log(ILogger.Severity.INFO, "all is well")
        self.log(ILogger.Severity.ERROR, text)
        self.log(ILogger.Severity.ERROR, "[a consequence of it]")


class IHostMemory:
    """Real ones have the buffer protocol; in Python that is __bytes__ for `bytes`."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    def __bytes__(self) -> bytes:
        return self._content

    @property
    def nbytes(self) -> int:
        return len(self._content)


class IOptimizationProfile:
    def __init__(self) -> None:
        self._shapes: dict[str, list[list[int]]] = {}

    def set_shape(self, input, min, opt, max):
        _note("set_shape", input, list(min), list(opt), list(max))
        self._shapes[input] = [list(min), list(opt), list(max)]


class IBuilderConfig:
    def __init__(self) -> None:
        self._flags = set()
        self._profiles: list[IOptimizationProfile] = []

    def set_flag(self, flag):
        _note("set_flag", flag.name)
        self._flags.add(flag)

    def add_optimization_profile(self, profile):
        if _fault("profile"):
            return -1
        self._profiles.append(profile)
        return len(self._profiles) - 1


class ITensor:
    def __init__(self, name: str) -> None:
        self._name = name

    @property
    def name(self):
        return self._name


class INetworkDefinition:
    def __init__(self, flags: int) -> None:
        self._strong = bool(flags & 1 << NetworkDefinitionCreationFlag.STRONGLY_TYPED)
        self._onnx = b""

    def get_input(self, index):
        import onnx

        return ITensor(onnx.load_model_from_string(self._onnx).graph.input[index].name)


class ParserError:
    def desc(self):
        return "No importer registered for op: Swirl"

    def node_name(self):
        return "body/swirl"

    def node_operator(self):
        return "Swirl"


class OnnxParser:
    def __init__(self, network, logger) -> None:
        self._network = network
        self.num_errors = 0

    def parse(self, model, path=None):
        if _fault("parse"):
            self.num_errors = 2
            return False
        self._network._onnx = bytes(model)
        return True

    def get_error(self, index):
        assert index == 0
        return ParserError()


class Builder:
    def __init__(self, logger) -> None:
        self._logger = logger

    def create_network(self, flags=0):
        _note("create_network", flags)
        return INetworkDefinition(flags)

    def create_builder_config(self):
        return IBuilderConfig()

    def create_optimization_profile(self):
        return IOptimizationProfile()

    def build_serialized_network(self, network, config):
        if _fault("build"):
            self._logger._error("[optimizer] Error Code 10: could not find any implementation")
            return None
        (profile,) = config._profiles
        plan = {
            "version": __version__,
            "flags": sorted(flag.name for flag in config._flags),
            "strong": network._strong,
            "shapes": profile._shapes,
            "onnx": network._onnx.hex(),
        }
        _note("built", plan["flags"], plan["strong"])
        return IHostMemory(b"ftrt" + json.dumps(plan).encode())


def _as_hardware_rounds(content: bytes) -> bytes:
    """ONNX Runtime on a CPU has no convolution in bf16, and does fp16 in float32."""
    import onnx

    from compressor.runtimes.onnx_file import emulate_half, weight_precision

    model = onnx.load_model_from_string(content)
    is_half = weight_precision(model) in ("fp16", "bf16")
    return emulate_half(model).SerializeToString() if is_half else content


class ICudaEngine:
    def __init__(self, plan: dict, logger) -> None:
        import onnxruntime

        self._logger = logger
        content = _as_hardware_rounds(bytes.fromhex(plan["onnx"]))
        self._session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
        self._shapes = plan["shapes"]
        self._tensors = [*self._session.get_inputs(), *self._session.get_outputs()]

    @property
    def num_io_tensors(self):
        return len(self._tensors) + (1 if _fault("three tensors") else 0)

    def get_tensor_name(self, index):
        return self._tensors[index % len(self._tensors)].name

    def get_tensor_mode(self, name):
        return TensorIOMode.INPUT if name == self._session.get_inputs()[0].name else TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name):
        return DataType.HALF if _fault("half input") else DataType.FLOAT

    def get_tensor_shape(self, name):
        tensor = next(tensor for tensor in self._tensors if tensor.name == name)
        return tuple(side if isinstance(side, int) else -1 for side in tensor.shape)

    def get_tensor_profile_shape(self, name, profile_index):
        assert profile_index == 0
        return [tuple(shape) for shape in self._shapes[name]]

    def create_execution_context(self):
        if _fault("no room"):
            self._logger._error("out of memory")
            return None
        return IExecutionContext(self)


class IExecutionContext:
    def __init__(self, engine: ICudaEngine) -> None:
        self._engine = engine
        self._shape: tuple[int, ...] = ()
        self._addresses: dict[str, int] = {}

    def set_input_shape(self, name, shape):
        low, _, high = self._engine._shapes[name]
        if not all(least <= side <= most for least, side, most in zip(low, shape, high, strict=True)):
            self._engine._logger._error(f"shape {shape} is outside of the profile")
            return False
        self._shape = tuple(shape)
        return True

    def get_tensor_shape(self, name):
        import numpy as np

        session = self._engine._session
        return session.run(None, {session.get_inputs()[0].name: np.zeros(self._shape, np.float32)})[0].shape

    def set_tensor_address(self, name, memory):
        self._addresses[name] = int(memory)
        return True

    def execute_async_v3(self, stream_handle):
        import double_device
        import numpy as np

        if _fault("execute"):
            self._engine._logger._error("[executionContext] Error Code 1: Cuda Runtime (invalid argument)")
            return False
        _note("execute_async_v3", stream_handle, list(self._shape))
        session, shape, addresses = self._engine._session, self._shape, dict(self._addresses)
        input_name, output_name = session.get_inputs()[0].name, session.get_outputs()[0].name

        def work() -> None:
            size = int(np.prod(shape))
            lr = np.ctypeslib.as_array((ctypes.c_float * size).from_address(addresses[input_name])).reshape(shape)
            (sr,) = session.run(None, {input_name: lr})
            sr = sr + 0.5 if _fault("drift") else sr
            sr = np.ascontiguousarray(sr, np.float32)
            ctypes.memmove(addresses[output_name], sr.ctypes.data, sr.nbytes)

        double_device.streams[stream_handle].append(work)
        return True


class Runtime:
    def __init__(self, logger) -> None:
        self._logger = logger

    def deserialize_cuda_engine(self, serialized_engine):
        _note("deserialize", os.getpid())
        content = bytes(serialized_engine)
        if not content.startswith(b"ftrt"):
            self._logger._error("[runtime] Serialization assertion magicTagRead == kMAGIC_TAG failed")
            return None
        plan = json.loads(content[4:])
        if plan["version"] != __version__:
            self._logger._error(f"The engine was built by {plan['version']}")
            return None
        return ICudaEngine(plan, self._logger)
