"""MergeBarrier-style protection: sign flips in attention, unfolded activations."""
