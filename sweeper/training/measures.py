"""What else than accuracy tells of a classifier, and how each image adds to it: F1, calibration, log loss, class accuracies."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
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
    bins, distance = _calibration(logits, labels)
    of_bins = distance.new_zeros(ECE_BINS).index_add(0, bins, distance)
    return float(of_bins.abs().sum()) / len(labels)


def class_accuracy(logits: Tensor, labels: Tensor) -> list[float]:
    """Return for each class the share of its images that are right; 0 for one without images."""
    classes = logits.shape[1]
    right = torch.bincount(labels[logits.argmax(dim=1) == labels], minlength=classes)
    shares: list[float] = (right / torch.bincount(labels, minlength=classes).clamp_min(1)).tolist()
    return shares


def balanced_accuracy(logits: Tensor, labels: Tensor) -> float:
    """Return the mean over classes of their accuracies, as scikit-learn's `balanced_accuracy_score`: of classes with images."""
    return float(_of_present_classes(logits, labels).mean())


def worst_class_accuracy(logits: Tensor, labels: Tensor) -> float:
    """Return the accuracy of the class that has the lowest, of those with images."""
    return float(_of_present_classes(logits, labels).min())


def log_loss(logits: Tensor, labels: Tensor) -> float:
    """Return the mean negative logarithm of the softmax probability of the label, as scikit-learn's `log_loss`.

    Whatever a network was trained with, so that losses compare by it.
    """
    return float(F.cross_entropy(logits, labels))


def image_scores(name: str, logits: Tensor, labels: Tensor) -> Tensor:
    """Return how each image adds to a measure, `[N]`: the mean is the measure, and the spread tells how far images make it vary.

    Where a measure is no mean over images, these are its value plus each image's influence on it (the infinitesimal jackknife:
    Jaeckel 1972; Efron 1982, "The jackknife, the bootstrap and other resampling plans", chapter 6): drawing images with
    replacement, the mean of theirs is to first order the measure of those drawn.

    Args:
        name: `accuracy`, or one of `MEASURES` that is a number.
        logits: `[N, C]`.
        labels: `[N]`.
    """
    predicted = logits.argmax(dim=1)
    right = (predicted == labels).double()
    match name:
        case "accuracy":
            return right
        case "log_loss":
            return F.cross_entropy(logits, labels, reduction="none").double()
        case "ece":
            bins, distance = _calibration(logits, labels)
            distance = distance.double()
            of_bins = distance.new_zeros(ECE_BINS).index_add(0, bins, distance)
            return of_bins.sign()[bins] * distance
        case "macro_f1":
            classes = logits.shape[1]
            hits = torch.bincount(labels[predicted == labels], minlength=classes).double()
            both = (torch.bincount(labels, minlength=classes) + torch.bincount(predicted, minlength=classes)).double().clamp_min(1)
            f1 = 2 * hits / both
            influence = 2 * right / both[labels] - f1[labels] / both[labels] - f1[predicted] / both[predicted]
            return f1.mean() + influence * len(labels) / classes
        case "balanced_accuracy" | "worst_class_accuracy":
            counts = torch.bincount(labels, minlength=logits.shape[1]).double()
            rates = torch.bincount(labels, weights=right, minlength=logits.shape[1]) / counts  # NaN of a class without images
            influence = (right - rates[labels]) * len(labels) / counts[labels]
            if name == "balanced_accuracy":
                return rates.nanmean() + influence / (counts > 0).sum()
            worst = int(torch.where(counts > 0, rates, torch.inf).argmin())
            return rates[worst] + influence * (labels == worst)
        case _:
            raise LookupError(f"no scores of single images for {name!r}")


def _of_present_classes(logits: Tensor, labels: Tensor) -> Tensor:
    counts = torch.bincount(labels, minlength=logits.shape[1])
    right = torch.bincount(labels[logits.argmax(dim=1) == labels], minlength=logits.shape[1])
    return (right.double() / counts)[counts > 0]


def _calibration(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the bin of each image by how sure the softmax is, and its being right less that, `[N]` each."""
    confidence, predicted = logits.softmax(dim=1).max(dim=1)
    bins = (confidence * ECE_BINS).ceil().long().clamp(1, ECE_BINS) - 1
    return bins, (predicted == labels).to(confidence.dtype) - confidence


MEASURES: dict[str, Callable[[Tensor, Tensor], float | list[float]]] = {
    "macro_f1": macro_f1,
    "ece": ece,
    "class_accuracy": class_accuracy,
    "balanced_accuracy": balanced_accuracy,
    "worst_class_accuracy": worst_class_accuracy,
    "log_loss": log_loss,
}
"""`(logits [N, C], labels [N]) → value`, by name."""
