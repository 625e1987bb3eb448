"""What else than accuracy tells of a classifier: macro-F1, calibration, the accuracy of each class."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

ECE_BINS = 15


def macro_f1(logits: Tensor, labels: Tensor) -> float:
    """Return the mean over classes of F1, `2·TP / (2·TP + FP + FN)`, 0 for a class that is neither there nor predicted.

    As scikit-learn's `f1_score(average="macro")`, over all classes that there are logits for.
    """
    predicted, classes = logits.argmax(dim=1), logits.shape[1]
    right = torch.bincount(labels[predicted == labels], minlength=classes).double()
    both = torch.bincount(labels, minlength=classes) + torch.bincount(predicted, minlength=classes)
    return float((2 * right / both.clamp_min(1)).mean())


def ece(logits: Tensor, labels: Tensor) -> float:
    """Return the expected calibration error over 15 bins of equal width (Guo et al. 2017, "On calibration", equation 3).

    It is the mean distance between how sure the softmax is of its answer and how often it is right.
    """
    confidence, predicted = logits.softmax(dim=1).max(dim=1)
    bins = (confidence * ECE_BINS).ceil().long().clamp(1, ECE_BINS) - 1
    distance = (predicted == labels).to(confidence.dtype) - confidence
    of_bins = torch.zeros(ECE_BINS, dtype=confidence.dtype, device=logits.device).index_add(0, bins, distance)
    return float(of_bins.abs().sum()) / len(labels)


def class_accuracy(logits: Tensor, labels: Tensor) -> list[float]:
    """Return for each class the share of its images that are right; 0 for one without images."""
    classes = logits.shape[1]
    right = torch.bincount(labels[logits.argmax(dim=1) == labels], minlength=classes)
    shares: list[float] = (right / torch.bincount(labels, minlength=classes).clamp_min(1)).tolist()
    return shares


MEASURES: dict[str, Callable[[Tensor, Tensor], float | list[float]]] = {
    "macro_f1": macro_f1,
    "ece": ece,
    "class_accuracy": class_accuracy,
}
"""`(logits [N, C], labels [N]) → value`, by name."""
