"""The moving average of a model's weights: timm's, with a decay that fits the length of the run."""

import sys

from timm.utils import ModelEmaV3
from torch import nn

# Share of the starting weights in the average at the end from which a fixed decay counts as too slow for the run.
_LARGEST_SHARE = 0.05


def create_average(
    model: nn.Module, decay: float, warmup: bool | None, total_steps: int, announce: bool = True
) -> ModelEmaV3:
    """The average of a run of `total_steps` steps; evaluated and saved in place of the weights themselves.

    Args:
        model: the bare model.
        decay: of the average.
        warmup: whether the decay rises from 0 to `decay` over the steps (timm's `use_warmup`). None: only where the
            average would otherwise hold much of the starting weights at the end.
        total_steps: length of the run.
        announce: say on standard error what was done about a run that is short for its decay.
    """
    share = decay**total_steps if total_steps > 0 else 0.0
    is_short = share > _LARGEST_SHARE
    rises = is_short if warmup is None else warmup
    # Over parameters, because timm would average tied tensors once for each of their names; buffers are copied.
    average = ModelEmaV3(model, decay, use_warmup=rises, exclude_buffers=True)
    if is_short and announce and warmup is None:
        print(
            f"note: {total_steps} steps are few for train.ema_decay {decay:g}, so the decay of the averaged weights "
            f"rises from 0 to {average.get_decay(total_steps):.3f}; train.ema_warmup=false keeps it fixed",
            file=sys.stderr,
        )
    elif is_short and announce and not rises:
        print(
            f"warning: after all {total_steps} steps, {share:.0%} of the averaged weights are still the starting ones: "
            f"lower train.ema_decay to {0.01 ** (1 / total_steps):.3f} or less, let it rise (train.ema_warmup=true), "
            "or set it to null",
            file=sys.stderr,
        )
    return average
