"""Ordinary PyTorch networks: from a list of layers, by a ready name, or from a function of the user's."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import os
import sys
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.modules.lazy import LazyModuleMixin

from sweeper.job import JobError, Layer, ModelSettings

if TYPE_CHECKING:
    from collections.abc import Iterator

Builder = Callable[[], nn.Module]


class ModelError(JobError):
    """A network cannot be built; the message says which and why."""


def make_builder(settings: ModelSettings, input_shape: tuple[int, ...], classes: int) -> Builder:
    """Return a function that builds a fresh network for images of `input_shape` (C, H, W).

    A function of the user's, `package.module:function` or `FILE.py:function`, is given `input_shape` and `classes` if it has
    parameters of these names, and the options.

    Raises:
        ModelError: there is no such function, it fails, or its network does not answer `[batch, classes]`.
    """
    if not settings.name:
        return lambda: build_network(settings.layers, input_shape, classes)
    function = READY[settings.name] if settings.name in READY else _function(settings.name)
    offered = {"input_shape": input_shape, "classes": classes}
    accepted = _parameters(function)
    arguments = {name: value for name, value in offered.items() if accepted is None or name in accepted} | settings.options

    def build() -> nn.Module:
        network: nn.Module = function(**arguments)
        return network

    _try(build, settings.name, input_shape, classes)
    return build


def build_network(layers: Sequence[Layer], input_shape: tuple[int, ...], classes: int) -> nn.Sequential:
    """Return a plain network: conv and dense are followed by ReLU, and a last dense layer gives `classes` logits.

    Its layers are named by kind and number: `conv1`, `dense1`, `dropout1`, …, and `output`.

    Args:
        layers: conv, pool (max, stride = kernel), dense, dropout and batch_norm, in order; batch_norm goes before the ReLU and
            stands for the bias of the layer before it.
        input_shape: `(C, H, W)` of one image.
        classes: how many logits the network returns.

    Raises:
        ModelError: the image is too small for the layers.
    """
    channels, high, wide = input_shape
    features = 0
    modules: OrderedDict[str, nn.Module] = OrderedDict()
    counts = Counter[str]()

    def add(kind: str, module: nn.Module) -> None:
        counts[kind] += 1
        modules[f"{kind}{counts[kind]}"] = module

    for layer, following in zip(layers, (*layers[1:], None), strict=True):
        bias = following is None or following.kind != "batch_norm"  # the norm takes any bias away again, and has its own
        if layer.kind == "conv":
            add("conv", nn.Conv2d(channels, layer.units, layer.kernel, padding=layer.padding, bias=bias))
            add("relu", nn.ReLU())
            channels = layer.units
            high, wide = (size + 2 * layer.padding - layer.kernel + 1 for size in (high, wide))
        elif layer.kind == "pool":
            add("pool", nn.MaxPool2d(layer.kernel))
            high, wide = high // layer.kernel, wide // layer.kernel
        elif layer.kind == "dropout":
            add("dropout", nn.Dropout(0.0))
        elif layer.kind == "batch_norm":
            relu = modules.popitem()
            add("batch_norm", nn.BatchNorm1d(features) if features else nn.BatchNorm2d(channels))
            modules.update([relu])
        else:
            features = _flatten(modules, features, channels, high, wide)
            add("dense", nn.Linear(features, layer.units, bias=bias))
            add("relu", nn.ReLU())
            features = layer.units
    features = _flatten(modules, features, channels, high, wide)
    modules["output"] = nn.Linear(features, classes)
    return nn.Sequential(modules)


def _flatten(modules: OrderedDict[str, nn.Module], features: int, channels: int, high: int, wide: int) -> int:
    """Flatten the feature maps in front of the first dense layer, and return how many features there are."""
    if features:
        return features
    if min(high, wide) < 1:
        raise ModelError("model.layers: the images are too small for these layers")
    modules["flatten"] = nn.Flatten()
    return channels * high * wide


def mlp(input_shape: tuple[int, ...], classes: int, widths: Sequence[int] = (512, 512)) -> nn.Module:
    """Return a network of dense layers with ReLU, dropout at its input and after each of them."""
    dense = chain.from_iterable((Layer("dense", width), Layer("dropout")) for width in widths)
    return build_network([Layer("dropout"), *dense], input_shape, classes)


def resnet18(input_shape: tuple[int, ...], classes: int) -> nn.Module:
    """Return torchvision's ResNet-18 with the usual stem for small images: a 3×3 convolution of stride 1, no max-pooling."""
    from torchvision.models import resnet18 as build

    network: nn.Module = build(num_classes=classes)
    stem = nn.Conv2d(input_shape[0], 64, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(stem.weight, mode="fan_out", nonlinearity="relu")
    network.conv1, network.maxpool = stem, nn.Identity()
    return network


READY: dict[str, Callable[..., nn.Module]] = {"mlp": mlp, "resnet18": resnet18}


def initial_state(build: Builder, seed: int) -> dict[str, Tensor]:
    """Build a network under a seed and return its parameters and buffers by name; the global generator is kept."""
    with seeded(seed):
        network = build()
    return {name: t.detach() for name, t in chain(network.named_parameters(), network.named_buffers())}


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed torch's global generator of the CPU for a while."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def _function(name: str) -> Callable[..., nn.Module]:
    place, _, attribute = name.rpartition(":")
    try:
        module = _file(Path(place)) if place.endswith(".py") else _module(place)
    except Exception as error:  # whatever the user's module raises when it is imported
        raise ModelError(f"model {name}: {place} cannot be imported: {type(error).__name__}: {error}") from error
    function: Callable[..., nn.Module] | None = getattr(module, attribute, None)
    if not callable(function):
        raise ModelError(f"model {name}: {place} has no {attribute}, or it is no function")
    return function


def _module(name: str) -> Any:
    """Import a module, also one that lies where the user works, as `python -m` would."""
    _importable(os.getcwd())
    return importlib.import_module(name)


def _file(path: Path) -> Any:
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    _importable(str(path.parent.absolute()))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules.setdefault(path.stem, module)
    spec.loader.exec_module(module)
    return module


def _importable(folder: str) -> None:
    if folder not in sys.path:
        sys.path.insert(0, folder)


def _parameters(function: Callable[..., nn.Module]) -> set[str] | None:
    """Return the names of the parameters that a function has; None if it takes any."""
    parameters = inspect.signature(function).parameters.values()
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters):
        return None
    return {p.name for p in parameters}


def _try(build: Builder, name: str, input_shape: tuple[int, ...], classes: int) -> None:
    """Run a network once as in training and once as in evaluation."""
    for training in (True, False):
        try:
            with seeded(0), torch.no_grad():
                network = build()
                out = network.float().train(training)(torch.zeros(2, *input_shape)) if isinstance(network, nn.Module) else None
        except Exception as error:  # whatever the user's code raises
            raise ModelError(f"model {name}: {type(error).__name__}: {error}") from error
        if not isinstance(network, nn.Module):
            raise ModelError(f"model {name}: it returns {type(network).__name__} instead of a torch.nn.Module")
        if not isinstance(out, Tensor) or out.shape != (2, classes):
            found = list(out.shape) if isinstance(out, Tensor) else type(out).__name__
            mode = "training" if training else "evaluation"
            raise ModelError(
                f"model {name}: for 2 images of {list(input_shape)} it answers {found} instead of [2, {classes}] logits in {mode}"
            )
    if any(isinstance(m, LazyModuleMixin) and m.has_uninitialized_params() for m in build().modules()):
        raise ModelError(f"model {name}: lazy layers have no weights yet; give them their sizes")
