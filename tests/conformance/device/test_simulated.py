"""The simulated device refuses what a real one refuses, and nothing else."""

from collections.abc import Callable, Iterator

import numpy
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from loss_conformance.device.simulated import SIMULATED, DeviceMixed, OnDevice, SimulatedDevice


@pytest.fixture
def device() -> Iterator[SimulatedDevice]:
    with SimulatedDevice() as active:
        yield active


@pytest.fixture
def x(device: SimulatedDevice) -> Tensor:
    return device.put(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))


CPU = torch.ones(2)

STAYS: dict[str, Callable[[Tensor], Tensor]] = {
    "arithmetic": lambda x: x * 2 + x,
    "with a scalar tensor of the CPU": lambda x: x + torch.tensor(2.0),
    "zeros": lambda x: x + torch.zeros(2, device=x.device),
    "full": lambda x: x + torch.full((2,), 3.0, device=x.device),
    "ones by name": lambda x: x + torch.ones(2, device=str(x.device)),
    "arange": lambda x: x * torch.arange(2, device=x.device),
    "tensor": lambda x: x + torch.tensor([1.0, 2.0], device=x.device),
    "rand": lambda x: x + torch.rand(2, device=x.device),
    "zeros_like": lambda x: x + torch.zeros_like(x),
    "new_zeros": lambda x: x + x.new_zeros(2),
    "new_tensor": lambda x: x + x.new_tensor([1.0, 2.0]),
    "a CPU tensor moved to it": lambda x: x + CPU.to(x.device),
    "a CPU tensor moved to it by keyword": lambda x: x + CPU.to(device=x.device, dtype=x.dtype),
    "a CPU tensor moved beside a tensor": lambda x: x + CPU.to(x),
    "type_as": lambda x: x + CPU.type_as(x),
    "a copy from the CPU": lambda x: x.clone().copy_(CPU),
    "an index on the CPU": lambda x: x[torch.tensor([1, 0])],
    "a mask on the CPU as an index": lambda x: x[torch.tensor([True, False])],
    "written to at an index": lambda x: x.clone().index_put((torch.arange(2, device=x.device),), x),
    "where": lambda x: torch.where(x > 1, x, 0.0),
    "gather": lambda x: x.gather(1, torch.zeros(2, 1, dtype=torch.int64, device=x.device)),
    "stack": lambda x: torch.stack([x, x]),
    "unbind": lambda x: x.unbind(0)[0],
    "a loss of torch": lambda x: F.cross_entropy(x, torch.zeros(2, dtype=torch.int64, device=x.device)),
    "as_tensor": lambda x: torch.as_tensor(x) + x,
    "a copy": lambda x: torch.asarray(x, copy=True) + x,
    "detach": lambda x: x.detach(),
    "where is_cuda says": lambda x: x + CPU.to("cuda" if x.is_cuda else "cpu"),
    "a factory where is_cuda says": lambda x: x + torch.ones(2, device=torch.device("cuda" if x.is_cuda else "cpu")),
    "cuda()": lambda x: x + CPU.cuda(),
    "a module moved to it": lambda x: nn.Linear(2, 3).to(x.device)(x),
    "buffers moved to it": lambda x: nn.BatchNorm1d(2, affine=False).to(x.device)(x),
    "a Variable, as in old code": lambda x: torch.autograd.Variable(x) * x,
    "a Variable by keyword": lambda x: torch.autograd.Variable(data=x, requires_grad=False) * 2,
}

REFUSED: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "add": (lambda x: x + CPU, "add was given a CPU tensor of shape (2,) beside device tensors"),
    "the other way round": (lambda x: CPU + x, "add was given a CPU tensor of shape (2,) beside device tensors"),
    "zeros": (lambda x: x * torch.zeros(2), "mul was given a CPU tensor of shape (2,) beside device tensors"),
    "arange": (lambda x: x * torch.arange(2), "mul was given a CPU tensor of shape (2,) beside device tensors"),
    "numpy": (
        lambda x: x + torch.from_numpy(numpy.ones(2, dtype=numpy.float32)),
        "add was given a CPU tensor of shape (2,) beside device tensors",
    ),
    "where": (
        lambda x: torch.where(x > 1, x, torch.zeros(2, 2)),
        "where was given a CPU tensor of shape (2, 2) beside device tensors",
    ),
    "stack": (
        lambda x: torch.stack([x, torch.zeros(2, 2)]),
        "stack was given a CPU tensor of shape (2, 2) beside device tensors",
    ),
    "gather": (
        lambda x: x.gather(1, torch.zeros(2, 1, dtype=torch.int64)),
        "gather was given a CPU tensor of shape (2, 1) beside device tensors",
    ),
    "masked_fill": (
        lambda x: x.masked_fill(torch.ones(2, 2, dtype=torch.bool), 0.0),
        "masked_fill was given a CPU tensor of shape (2, 2) beside device tensors",
    ),
    "einsum": (
        lambda x: torch.einsum("ij,j->i", x, CPU),
        "einsum was given a CPU tensor of shape (2,) beside device tensors",
    ),
    "a loss of torch": (
        lambda x: F.cross_entropy(x, torch.zeros(2, dtype=torch.int64)),
        "cross_entropy was given a CPU tensor of shape (2,) beside device tensors",
    ),
    "a keyword": (
        lambda x: F.mse_loss(x, target=torch.zeros(2, 2)),
        "mse_loss was given a CPU tensor of shape (2, 2) beside device tensors",
    ),
    "a module of the CPU": (
        lambda x: nn.Linear(2, 3)(x),
        "linear was given a CPU tensor of shape (3, 2) beside device tensors",
    ),
    "a Variable of the CPU": (
        lambda x: x + torch.autograd.Variable(CPU),
        "add was given a CPU tensor of shape (2,) beside device tensors",
    ),
    "what was moved to the CPU": (
        lambda x: x + x.cpu(),
        "add was given a CPU tensor of shape (2, 2) beside device tensors",
    ),
}

MOVES: dict[str, Callable[[Tensor], Tensor]] = {
    "cpu()": lambda x: x.cpu(),
    'to("cpu")': lambda x: x.to("cpu"),
    "to(device)": lambda x: x.to(torch.device("cpu")),
    "to(device=)": lambda x: x.to(device="cpu", dtype=torch.float64),
    "detach().cpu()": lambda x: x.detach().cpu(),
}


@pytest.mark.parametrize("operation", STAYS.values(), ids=STAYS)
def test_stays_on_the_device(operation: Callable[[Tensor], Tensor], x: Tensor) -> None:
    result = operation(x)
    assert isinstance(result, OnDevice)
    assert result.device == SIMULATED


@pytest.mark.parametrize(("operation", "said"), REFUSED.values(), ids=REFUSED)
def test_refused(operation: Callable[[Tensor], Tensor], said: str, x: Tensor) -> None:
    with pytest.raises(DeviceMixed) as refused:
        operation(x)
    assert str(refused.value) == said


@pytest.mark.parametrize("move", MOVES.values(), ids=MOVES)
def test_moves_to_the_cpu(move: Callable[[Tensor], Tensor], x: Tensor) -> None:
    moved = move(x)
    assert not isinstance(moved, OnDevice)
    assert moved.device.type == "cpu"
    assert torch.equal(moved.to(torch.float32) + torch.zeros(2), torch.tensor([[1.0, 2.0], [3.0, 4.0]]))


@pytest.mark.parametrize("read", [lambda x: x.numpy(), numpy.asarray, lambda x: x.detach().numpy()])
def test_numpy_reads_the_cpu_alone(read: Callable[[Tensor], object], x: Tensor) -> None:
    with pytest.raises(DeviceMixed, match=r"^numpy was given a device tensor; call \.cpu\(\) first$"):
        read(x)
    assert read(x.cpu()) is not None


def test_lengths_of_ctc_may_stay_on_the_cpu(x: Tensor) -> None:
    lengths = torch.full((1,), 2)
    scores = x.reshape(-1, 1, 2).log_softmax(-1)
    loss = torch.nn.functional.ctc_loss(scores, torch.ones(1, 1, dtype=torch.long), lengths, torch.ones_like(lengths))
    assert isinstance(loss, Tensor)


def test_it_says_where_it_is(x: Tensor) -> None:
    assert x.device == SIMULATED
    assert x.device.type != "cpu"
    assert not x.is_cpu
    assert (x.sum()).device == SIMULATED
    assert float(x.sum()) == 10.0


def test_factories_without_a_device_stay_on_the_cpu(device: SimulatedDevice) -> None:
    assert not isinstance(torch.zeros(2), OnDevice)
    assert torch.zeros(2).device.type == "cpu"


def test_numbers_are_those_of_the_cpu(x: Tensor) -> None:
    assert x.log_softmax(-1).tolist() == torch.tensor([[1.0, 2.0], [3.0, 4.0]]).log_softmax(-1).tolist()


def test_backward_reaches_the_tensor_that_was_put(device: SimulatedDevice) -> None:
    leaf = torch.tensor([1.0, 2.0], requires_grad=True)
    (device.put(leaf) ** 2).sum().backward()
    assert leaf.grad is not None
    assert leaf.grad.tolist() == [2.0, 4.0]
    assert not isinstance(leaf.grad, OnDevice)


def test_a_backward_of_ones_own_works(device: SimulatedDevice) -> None:
    class Square(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x**2

        @staticmethod
        def backward(ctx, upstream):
            (x,) = ctx.saved_tensors
            return 2 * x * upstream

    leaf = torch.tensor([1.0, 2.0], requires_grad=True)
    Square.apply(device.put(leaf)).sum().backward()
    assert leaf.grad is not None
    assert leaf.grad.tolist() == [2.0, 4.0]


def test_a_module_works_with_its_parameters_put_there(device: SimulatedDevice, x: Tensor) -> None:
    linear = nn.Linear(2, 1)
    vars(linear)["_parameters"].update({name: device.put(p) for name, p in linear.named_parameters()})
    assert linear(x).device == SIMULATED
    with pytest.raises(DeviceMixed):
        nn.Linear(2, 1)(x)


def test_the_device_is_gone_afterwards() -> None:
    with SimulatedDevice():
        pass
    with pytest.raises((RuntimeError, ImportError)):
        torch.zeros(2, device=SIMULATED)


def test_variables_are_those_of_torch_afterwards() -> None:
    with SimulatedDevice():
        pass
    assert type(torch.autograd.Variable(CPU)) is Tensor
    assert not torch.__future__.get_overwrite_module_params_on_conversion()
    assert "__call__" not in vars(type(torch.autograd.Variable))
