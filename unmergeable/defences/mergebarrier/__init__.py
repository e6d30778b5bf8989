"""MergeBarrier-style protection: sign flips in attention, unfolded activations."""

from unmergeable.defences.mergebarrier.mergebarrier import MergeBarrier

__all__ = ["MergeBarrier"]
