"""NDIF actors for a machine without a GPU, plugged in through NDIF's own environment settings; NDIF stays as it is."""

import functools
import gc
import inspect

import ray
import torch
from ndif.services.ray.deployments.controller.controller import _ControllerActor
from ndif.services.ray.sandbox.model import SandboxModelDeployment
from nnsight.modeling.huggingface import HuggingFaceModel
from nnsight.modeling.mixins.remotable import Remotable


@ray.remote(num_cpus=1, max_restarts=1)
class Actor(SandboxModelDeployment):
    """NDIF's own actor, less the two places where it insists on CUDA: loading, and tidying up after a request.

    Runs a request's code in its own process; or, for a checkpoint with "sandboxed" in its name, in a separate process
    without weights, as the public service does for most users.
    """

    CACHEABLE = False

    def load_from_disk(self):
        torch.set_num_threads(1)
        settings = dict(self.kwargs, dispatch=True, device="cpu", dtype=self.dtype_name)
        model = HuggingFaceModel.from_model_key(self.model_key, **settings)
        model._module.requires_grad_(False)
        return model

    def open_pool(self, pool_size=None, peers=1):
        # No processes in waiting where none is ever asked for.
        SandboxModelDeployment.open_pool(self, 2 * ("sandboxed" in self.model_key), peers)

    def execute(self, request):
        request.trusted = "sandboxed" not in self.model_key
        return SandboxModelDeployment.execute(self, request)

    def cleanup(self):
        self.discard_sandbox()
        self.model.interleaver.cancel()
        self.kill_reason = self.execution_ident = None
        self.kill_switch.clear()
        gc.collect()


def drop_unknown(method):
    """nnsight 0.8.1 took an argument away that NDIF 0.1.2 still passes when it sizes a checkpoint."""
    function = method.__func__
    known = inspect.signature(function).parameters

    @functools.wraps(function)
    def call(cls, *args, **kwargs):
        return function(cls, *args, **{k: v for k, v in kwargs.items() if k in known})

    return classmethod(call)


@ray.remote(num_cpus=1, num_gpus=0, max_restarts=-1, resources={"head": 1})
class Controller(_ControllerActor):
    """Places models on a cluster whose one GPU is an invention."""

    def __init__(self, *args, **kwargs):
        # Here and not at import: Ray ships this class by value, and its process never imports this file.
        for name in ("describe_checkpoint", "max_tp_size"):
            setattr(Remotable, name, drop_unknown(getattr(Remotable, name)))
        _ControllerActor.__init__(self, *args, **kwargs)
