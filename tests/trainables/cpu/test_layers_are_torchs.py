"""Whatever torch's layers do, ours do: what torch refuses they refuse, what torch computes they
compute, over shapes, types, layouts, flags, hooks and transforms, drawn at random.

One difference is allowed. torch's ReLU keeps its result for its gradient, and refuses a backward
pass if that was overwritten. Computed together with its neighbours, ours does not need it, and
gives the gradient that torch gives without the overwriting.
"""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from foldrace.trainables.cpu import layers

Use = Callable[[nn.Module, Tensor], list[Tensor]]
Outcome = list[Tensor] | None
"""The tensors that a use gives; None if it raises."""


@dataclass
class Case:
    """A layer's name and arguments, and the input that it gets."""

    name: str
    arguments: dict[str, Any]
    shape: tuple[int, ...]
    dtype: torch.dtype
    layer_dtype: torch.dtype
    layout: str
    training: bool
    use: str
    seed: int

    def module(self, room: Any) -> nn.Module:
        """The layer of this name in ``room``: torch.nn, or our layers."""
        torch.manual_seed(self.seed)
        if self.name == "Sequential":
            made = [getattr(room, name)(**given) for name, given in self.arguments["layers"]]
            module: nn.Module = room.Sequential(*made)
        else:
            module = getattr(room, self.name)(**self.arguments)
        with torch.no_grad():
            for value in module.parameters():
                value.uniform_(-1, 1)
        return module.to(self.layer_dtype).train(self.training)

    def images(self) -> Tensor:
        """The input, in its layout."""
        drawn = torch.Generator().manual_seed(self.seed)
        images = torch.randn(self.shape, generator=drawn, dtype=torch.float64).to(self.dtype)
        if self.layout == "last" and images.dim() == 4:
            return images.to(memory_format=torch.channels_last)
        if self.layout == "strided" and images.dim():
            wide = torch.zeros(*self.shape[:-1], 2 * self.shape[-1], dtype=self.dtype)
            wide[..., ::2] = images
            return wide[..., ::2]
        return images


class Room:
    """torch's layers, or ours, and torch's activations."""

    ReLU, LeakyReLU = nn.ReLU, nn.LeakyReLU

    def __init__(self, room: Any) -> None:
        self._room = room

    def __getattr__(self, name: str) -> Any:
        return getattr(self._room, name)


def gradients(module: nn.Module, images: Tensor, output: Tensor) -> list[Tensor]:
    """What a backward pass of an uneven function of the output leaves."""
    output.sin().sum().backward()
    left = [images.grad, *(value.grad for value in module.parameters())]
    return [output.detach(), *module.buffers(), *(each for each in left if each is not None)]


def plain(module: nn.Module, images: Tensor) -> list[Tensor]:
    images.requires_grad_()
    return gradients(module, images, module(images))


def frozen_input(module: nn.Module, images: Tensor) -> list[Tensor]:
    return gradients(module, images, module(images))


def in_place(module: nn.Module, images: Tensor) -> list[Tensor]:
    images.requires_grad_()
    return gradients(module, images, nn.functional.relu_(module(images)))


def added_to(module: nn.Module, images: Tensor) -> list[Tensor]:
    images.requires_grad_()
    output = module(images)
    output += 1
    return gradients(module, images, output)


def not_in_place(module: nn.Module, images: Tensor) -> list[Tensor]:
    images.requires_grad_()
    return gradients(module, images, nn.functional.relu(module(images)))


def added(module: nn.Module, images: Tensor) -> list[Tensor]:
    images.requires_grad_()
    return gradients(module, images, module(images) + 1)


def twice(module: nn.Module, images: Tensor) -> list[Tensor]:
    images.requires_grad_()
    first = torch.autograd.grad(module(images).sin().sum(), images, create_graph=True)[0]
    first.square().sum().backward()
    return [first.detach(), *(p.grad for p in module.parameters() if p.grad is not None)]


def jvp(module: nn.Module, images: Tensor) -> list[Tensor]:
    return list(torch.func.jvp(module, (images,), (torch.ones_like(images),)))


def batched(module: nn.Module, images: Tensor) -> list[Tensor]:
    return [torch.func.vmap(module)(torch.stack([images, images + 1])).detach()]


def functional(module: nn.Module, images: Tensor) -> list[Tensor]:
    weights = {name: 2 * value.detach() for name, value in module.named_parameters()}
    return [torch.func.functional_call(module, weights, (images,)).detach()]


def meta(module: nn.Module, images: Tensor) -> list[Tensor]:
    return [torch.zeros(module.to("meta")(images.to("meta")).shape)]


def fake(module: nn.Module, images: Tensor) -> list[Tensor]:
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        shape = module(mode.from_tensor(images)).shape
    return [torch.zeros(shape)]


def traced(module: nn.Module, images: Tensor) -> list[Tensor]:
    made = torch.jit.trace(module.eval(), images, check_trace=False)
    return [made(images + 1).detach()]


def inference(module: nn.Module, images: Tensor) -> list[Tensor]:
    with torch.inference_mode():
        return [module(images).clone()]


def no_gradient(module: nn.Module, images: Tensor) -> list[Tensor]:
    with torch.no_grad():
        return [module(images), *module.buffers()]


def autocast(module: nn.Module, images: Tensor) -> list[Tensor]:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return [module(images).detach()]


def hooked(module: nn.Module, images: Tensor) -> list[Tensor]:
    """Hooks of every kind, on the module and on each in it, that note and change what they see."""
    noted: list[Tensor] = []
    for part in module.modules():
        part.register_forward_pre_hook(lambda _, given: (given[0] * 1.5,))
        part.register_forward_hook(lambda _, given, found: found * 0.5)
        part.register_full_backward_pre_hook(lambda _, found: noted.append(found[0].detach()))
        part.register_full_backward_hook(lambda _, by, found: noted.append(found[0].detach()))
    return plain(module, images) + [each.clone() for each in noted]


def hooked_everywhere(module: nn.Module, images: Tensor) -> list[Tensor]:
    hook = nn.modules.module.register_module_forward_hook(lambda _, given, found: found + 1)
    try:
        return plain(module, images)
    finally:
        hook.remove()


USES: Sequence[Use] = (
    *(plain, plain, plain, frozen_input, in_place, added_to, twice, jvp, batched, functional),
    *(meta, fake, traced, inference, no_gradient, autocast, hooked, hooked_everywhere),
)
BY_NAME = {use.__name__: use for use in USES}


def _channels(draw: random.Random) -> int:
    return draw.choice([1, 1, 2, 3, 4, 8, 16])


def _convolution(draw: random.Random, transposed: bool, channels: int) -> dict[str, Any]:
    plainly = draw.random() < 0.6
    arguments: dict[str, Any] = {
        "in_channels": channels,
        "out_channels": _channels(draw),
        "kernel_size": 3 if plainly else draw.choice([1, 2, 3, 5, (3, 2)]),
        "stride": 2 if plainly else draw.choice([1, 2, 3, (2, 1)]),
        "padding": draw.choice([0, 1, (0, 1), 1]) if plainly else draw.choice([0, 1, 2, (2, 0)]),
        "bias": draw.random() < 0.7,
    }
    if transposed:
        arguments["output_padding"] = draw.choice([0, 1, (0, 1), (1, 0), 1, 2])
    if not plainly and draw.random() < 0.3:
        arguments["dilation"] = draw.choice([2, (1, 2)])
    if not plainly and draw.random() < 0.2:
        arguments["groups"] = draw.choice([1, 2])
    if not transposed and draw.random() < 0.1:
        arguments["padding_mode"] = draw.choice(["reflect", "circular", "replicate"])
    return arguments


def _norm(draw: random.Random, channels: int) -> dict[str, Any]:
    arguments: dict[str, Any] = {"num_features": channels}
    if draw.random() < 0.3:
        arguments["affine"] = False
    elif draw.random() < 0.2:
        arguments["bias"] = False
    if draw.random() < 0.3:
        arguments["track_running_stats"] = False
    if draw.random() < 0.4:
        arguments["momentum"] = draw.choice([None, 0.0, 0.3, 1.0, 1])
    if draw.random() < 0.2:
        arguments["eps"] = draw.choice([0.0, 1e-3, 1])
    return arguments


def _sequence(draw: random.Random, channels: int) -> dict[str, Any]:
    made: list[tuple[str, dict[str, Any]]] = []
    for _ in range(draw.randint(1, 2)):
        transposed = draw.random() < 0.4
        convolution = _convolution(draw, transposed, channels)
        made.append(("ConvTranspose2d" if transposed else "Conv2d", convolution))
        channels = convolution["out_channels"]
        if draw.random() < 0.7:
            made.append(("BatchNorm2d", _norm(draw, channels)))
        if draw.random() < 0.8:
            name = draw.choice(["ReLU", "ReLU", "LeakyReLU"])
            made.append((name, {"inplace": draw.random() < 0.4}))
        if draw.random() < 0.3:
            made.append(("Dropout", {"p": draw.choice([0.0, 0.0, 1.0])}))
    return {"layers": made}


def drawn_case(seed: int) -> Case:
    """The configuration with this seed."""
    draw = random.Random(seed)
    name = draw.choice(["Conv2d", "ConvTranspose2d", "BatchNorm2d", "Dropout", "Sequential"])
    channels = _channels(draw)
    arguments = {
        "Conv2d": lambda: _convolution(draw, False, channels),
        "ConvTranspose2d": lambda: _convolution(draw, True, channels),
        "BatchNorm2d": lambda: _norm(draw, channels),
        "Dropout": lambda: {"p": draw.choice([0.0, 1.0]), "inplace": draw.random() < 0.3},
        "Sequential": lambda: _sequence(draw, channels),
    }[name]()
    batch, high, wide = draw.choice([0, 1, 1, 2, 3, 5]), draw.randint(1, 9), draw.randint(1, 9)
    given = channels if draw.random() < 0.88 else _channels(draw)
    shape: tuple[int, ...] = (batch, given, high, wide)
    if draw.random() < 0.1:
        shape = draw.choice([(given, high, wide), (batch, given), (batch, given, high), (given,)])
    floats = [torch.float32] * 6 + [torch.float64] * 2 + [torch.bfloat16]
    layer_dtype = draw.choice(floats)
    dtype = layer_dtype if draw.random() < 0.9 else draw.choice([*floats, torch.int64])
    layout = draw.choice(["plain", "plain", "last", "strided"])
    use = draw.choice(USES).__name__
    if torch.bfloat16 in (dtype, layer_dtype):
        use = "inference"  # torch's own gradients differ from call to call
    return Case(
        *(name, arguments, shape, dtype, layer_dtype, layout, draw.random() < 0.75, use, seed)
    )


WITHOUT_OVERWRITING = {"in_place": not_in_place, "added_to": added}


def outcome(case: Case, room: Any, use: Use | None = None) -> Outcome:
    """What the layer of a room does with the case."""
    try:
        return (use or BY_NAME[case.use])(case.module(room), case.images())
    except Exception:
        return None


def _tolerance(case: Case) -> float:
    """What rounding may change, relative to the largest value of a tensor and to each value."""
    types = {case.dtype, case.layer_dtype}
    if torch.bfloat16 in types or case.use == "autocast":
        return 3e-2
    if types == {torch.float64}:
        return 1e-9
    # A batch norm over few values, and its second gradient, enlarge the rounding of what they get.
    return {"twice": 1e-3}.get(case.use, 1e-4 if case.name == "Sequential" else 1e-5)


def differences(case: Case) -> str:
    """How ours differs from torch's; empty if it does not."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs, ours = outcome(case, Room(nn)), outcome(case, Room(layers))
        if theirs is None and ours is not None and case.use in WITHOUT_OVERWRITING:
            theirs = outcome(case, Room(nn), WITHOUT_OVERWRITING[case.use])
    if theirs is None or ours is None:
        return "" if ours is theirs else f"torch {'raises' if theirs is None else 'runs'}"
    if [each.shape for each in theirs] != [each.shape for each in ours]:
        return f"shapes {[[*each.shape] for each in theirs]}, {[[*each.shape] for each in ours]}"
    if [each.dtype for each in theirs] != [each.dtype for each in ours]:
        return "types"
    tolerance = _tolerance(case)
    for at, (one, other) in enumerate(zip(theirs, ours, strict=True)):
        if not one.numel():
            continue
        one, other = one.detach(), other.detach()
        scale = max(1.0, float(one.abs().max()))
        close = {"rtol": tolerance, "atol": tolerance * scale, "equal_nan": True}
        if not torch.allclose(one, other, **close):
            return f"values of tensor {at}: {float((one - other).abs().max()):g} of {scale:g}"
    return ""


def check(seeds: range) -> None:
    """Tries the configurations with these seeds."""
    wrong = {seed: found for seed in seeds if (found := differences(drawn_case(seed)))}
    shown = [f"{seed}: {found}: {drawn_case(seed)}" for seed, found in list(wrong.items())[:10]]
    assert not wrong, f"{len(wrong)} of {len(seeds)} differ:\n" + "\n".join(shown)


def test_our_layers_do_what_torchs_do() -> None:
    check(range(400))


@pytest.mark.long
@pytest.mark.parametrize("part", range(6))
def test_our_layers_do_what_torchs_do_in_six_thousand_configurations(part: int) -> None:
    check(range(1000 * (part + 1), 1000 * (part + 2)))
