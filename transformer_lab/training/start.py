"""With which weights a training begins."""

from torch import nn

_ENDS = ("out_proj", "down_proj")


def quiet_start_(model: nn.Module) -> nn.Module:
    """Sets the projections that end a sublayer to 0, in place: at first each block passes on what it gets.

    So the head is the first to learn, from the embeddings alone, and each block begins to add when it
    has something to say. Its other matrices get no gradient until then, one step later.

    Args:
        model: Whose sublayers end in linear layers named out_proj (attention) or down_proj (feed-forward).

    Returns: The model.
    Raises: ValueError if it has no such layer.
    Source: Zhang et al. 2019 (Fixup), section 3, for the last layer of each residual branch.

    >>> block = nn.ModuleDict({"up_proj": nn.Linear(2, 4), "down_proj": nn.Linear(4, 2, bias=False)})
    >>> quiet_start_(block)["down_proj"].weight.abs().sum().item()
    0.0
    """
    ends = [module for name, module in model.named_modules() if name.split(".")[-1] in _ENDS]
    if not ends:
        raise ValueError(
            f"the model must have layers named {' or '.join(_ENDS)}, which end its sublayers; it has none."
        )
    for module in ends:
        for parameter in module.parameters():
            nn.init.zeros_(parameter)
    return model
