"""The warm-up's search for a micro-batch that fits; a GPU's errors are raised where there is none."""
import pytest
import torch

import train_gpt
from speedrun.bench import measure
from speedrun.cli import Refusal, command
from speedrun.training.world import World

pytestmark = pytest.mark.process

TINY = ["--device", "cpu", "--track", "laptop", "--allow-custom", "--track.val_tokens", "256",
        "--track.context", "64", "--track.tokens_per_step", "1024", "--track.model.num_layers", "1",
        "--track.model.model_dim", "32"]
FULL = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
CUBLAS = RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")
TRITON = RuntimeError("Triton Error [CUDA]: out of memory")


def warmed(error: RuntimeError, most: int) -> int:
    """The micro-batch that the warm-up finds where a pass of more than `most` sequences raises `error`."""
    def forward(self, inputs, targets, work=train_gpt.GPT.forward):
        if len(inputs) > most:
            raise error
        return work(self, inputs, targets)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train_gpt.GPT, "forward", forward)
        plan = train_gpt.parse(TINY)
        return measure.build(plan, World(0, 1, torch.device("cpu")), synthetic=True)[0].micro


@pytest.mark.parametrize("error", [FULL, CUBLAS, TRITON])
def test_the_micro_batch_is_halved_until_it_fits(error):
    assert [warmed(error, most) for most in (99, 7, 1)] == [16, 4, 1]
    with pytest.raises(Refusal, match="one sequence a pass does not fit"):
        warmed(error, 0)


def test_another_error_of_the_warm_up_is_shown_as_it_is():
    with pytest.raises(RuntimeError, match="illegal memory access"):
        warmed(RuntimeError("CUDA error: an illegal memory access was encountered"), 1)


def test_a_gpu_that_is_full_later_is_one_line(capsys):
    @command
    def main(argv):
        raise FULL
    assert main([]) == 1
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "memory is full (CUDA out of memory." in err
