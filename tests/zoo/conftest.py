"""What the libraries of models need before they are imported."""

import torch


def _define_missing_operators():
    """Define what torchvision registers meta functions for, where its compiled part does not load beside this torch."""
    try:
        torch.ops.torchvision.nms  # noqa: B018
    except AttributeError:
        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _KEPT.append(library)


_KEPT = []  # a library that is collected takes its operators with it
_define_missing_operators()
