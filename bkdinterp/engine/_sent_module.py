"""A module as names, a config and tensors, to be built again in another process.

The module itself cannot always be sent: nnsight wraps its forwards in what cannot be pickled.
"""

import importlib
from typing import Any

import torch


def parts_of(module: Any) -> dict[str, Any]:
    """What `rebuilt` needs; tensors are on the CPU, since a worker need not see this process's GPU."""
    kinds = {
        what: (type(x).__module__, type(x).__qualname__)
        for what, x in (("model", module), ("config", module.config))
    }
    named = [*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False)]
    return {
        "kinds": kinds,
        "config": module.config.to_dict(),
        "attention": getattr(module.config, "_attn_implementation", None),
        "learning": {name for name, x in named if x.requires_grad},
        "tensors": {name: x.detach().to("cpu", copy=True) for name, x in named},
    }


def rebuilt(given: dict[str, Any]) -> Any:
    """The module again, with the very tensors, those that are not saved with weights included."""
    model, config = (
        getattr(importlib.import_module(place), name)
        for place, name in (given["kinds"][k] for k in ("model", "config"))
    )
    settings = config.from_dict(given["config"])
    settings._attn_implementation = given["attention"]
    module = model(settings).eval()
    for name, x in given["tensors"].items():
        path, _, own = name.rpartition(".")
        part = module.get_submodule(path)
        if own in part._parameters:
            # Attention takes another kernel, and rounds in another way, where weights ask for no gradients.
            part._parameters[own] = torch.nn.Parameter(x, requires_grad=name in given["learning"])
        else:
            part._buffers[own] = x
    return module
