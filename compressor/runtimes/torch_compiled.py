"""PyTorch through its compiler: the first image of a kind of shape takes long, the others are quicker."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch._dynamo.exc

from compressor.errors import SrkdError
from compressor.runtimes.torch_eager import TorchRuntime


class TorchCompiledRuntime(TorchRuntime):
    """`TorchRuntime` with the network compiled. The first size is compiled for itself, the next ones for any size."""

    name = "torch-compiled"

    def _prepared(self) -> Callable[[torch.Tensor], torch.Tensor]:
        compiled: Callable[[torch.Tensor], torch.Tensor] = torch.compile(self.network)
        return compiled

    def run(self, lr: torch.Tensor) -> torch.Tensor:
        try:
            return super().run(lr)
        except torch._dynamo.exc.TorchDynamoException as error:
            cause = error.__cause__ or getattr(error, "inner_exception", None) or error
            reason = (str(cause).strip() or type(cause).__name__).splitlines()[0]
            raise SrkdError(
                f"{self.label}: torch.compile failed on {tuple(lr.shape)}: {reason[:300]}; use --runtime torch"
            ) from error
