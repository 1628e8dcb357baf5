"""Events for tests of everything that reads them."""

from quatrain.runlog import StepDone


def step(number: int, loss: float = 1.0) -> StepDone:
    return StepDone(
        step=number,
        loss=loss,
        learning_rate=1e-4,
        grad_norm=0.5,
        tokens=512,
        supervised_tokens=200,
        seconds=0.5,
        memory=2**30,
        peak_memory=2**31,
        epoch=0.1 * number,
    )
