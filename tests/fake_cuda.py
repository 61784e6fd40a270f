"""Tensors that say they are on a GPU, on a machine without one.

They are CPU tensors with a label, so all values are real, and a backward pass runs. A
CPU tensor and a labelled one in the same call raise the error that CUDA raises. PyTorch
has fake tensors of its own (FakeTensorMode), but without values, and in its CPU build
they know neither assignment by index nor gradients; their rules and the ones here are
compared in tests/engine/test_fake_cuda.py.
"""

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

CUDA, CPU = torch.device("cuda", 0), torch.device("cpu")
MOVES = ("to", "cuda", "cpu")
# What nn.Module.to asks before it moves anything.
QUESTIONS = ("_parse_to", "_has_compatible_shallow_copy_type")
# An index may lie on the CPU; what is written by an index that is a tensor may not.
INDEXES = ("__getitem__", "__setitem__", "index_put", "index_put_")


def is_cuda(x) -> bool:
    """Say whether a tensor has the label."""
    return getattr(x, "_on_fake_cuda", False)


def label(x, cuda: bool):
    """Return x, labelled if it is a tensor."""
    if isinstance(x, torch.Tensor):
        x._on_fake_cuda = cuda
    return x


def is_device(x) -> bool:
    """Say whether an argument names the CPU or a GPU."""
    if isinstance(x, torch.device):
        return x.type in ("cuda", "cpu")
    return isinstance(x, str) and x.partition(":")[0] in ("cuda", "cpu")


class FakeCuda(TorchFunctionMode):
    """While it is on, tensors made on "cuda", or moved there, have the label."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs, name = dict(kwargs or {}), getattr(func, "__name__", "")
        if func == torch.Tensor.device.__get__:
            return CUDA if is_cuda(args[0]) else func(*args)  # CPU, or meta
        if func == torch.Tensor.is_cuda.__get__:
            return is_cuda(args[0])
        if name in QUESTIONS:
            return func(*args, **kwargs)
        if name in ("numpy", "__array__") and is_cuda(args[0]):
            raise TypeError("can't convert cuda:0 device type tensor to numpy")
        tensors = [
            x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)
        ]
        cuda = any(map(is_cuda, tensors))
        asked = [x for x in (*args, *kwargs.values()) if is_device(x)]
        args = tree_map(lambda x: CPU if is_device(x) else x, args)
        kwargs = tree_map(lambda x: CPU if is_device(x) else x, kwargs)
        if name in MOVES:
            to = is_cuda(tensors[-1]) if len(tensors) > 1 else is_cuda(args[0])
            to = torch.device(asked[0]).type == "cuda" if asked else to
            to = {"to": to, "cuda": True, "cpu": False}[name]
            out = func(*args, **kwargs) if name == "to" else args[0]
            moved = to != is_cuda(args[0]) and out is args[0]
            return label(out.clone() if moved else out, to)
        if func == torch.Tensor.data.__set__:
            func(*args)
            label(args[0], is_cuda(args[1]))
            return None
        if name == "copy_" or name in INDEXES:
            cuda = is_cuda(args[0])
            index = [x for x in tree_leaves(args[1]) if isinstance(x, torch.Tensor)]
            if name in INDEXES:
                check([args[0], *filter(is_cuda, index)])
            if index and name in INDEXES[1:] and isinstance(args[2], torch.Tensor):
                check([args[0], args[2]])
        else:
            check(tensors)
        if asked:
            cuda = torch.device(asked[0]).type == "cuda"
        return tree_map(lambda x: label(x, cuda), func(*args, **kwargs))


def check(tensors: list) -> None:
    """Raise as CUDA does where tensors of two devices meet; a CPU number may."""
    kinds = {is_cuda(x) for x in tensors if is_cuda(x) or x.dim()}
    if len(kinds) > 1:
        raise RuntimeError(
            "Expected all tensors to be on the same device, but found at least two "
            "devices, cuda:0 and cpu!"
        )
