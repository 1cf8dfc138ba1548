"""How far rounding alone may move a difference of nearly equal numbers."""

import torch


def rounding_of(*subtracted, steps=16):
    """Return what rounding in float32 may do to a difference: it follows what is subtracted, however little is left.

    Args:
        subtracted: Numbers, arrays or tensors as large as what is subtracted; what is not finite does not count.
        steps: Roundings that may add up on the way to the difference.
    """
    largest = max(float(torch.as_tensor(one).detach().double().nan_to_num(0, 0, 0).abs().max()) for one in subtracted)
    return steps * torch.finfo(torch.float32).eps * largest
