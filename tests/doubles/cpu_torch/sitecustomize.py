"""In child processes, torch as it is where it was built without CUDA: they use the double of pycuda."""

import torch

torch.version.cuda = None
