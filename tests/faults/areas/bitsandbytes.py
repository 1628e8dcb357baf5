"""Checkpoints in four bits: states that contradict their tensors."""
