"""Ratings out of pairwise verdicts: Elo over random orders, and the Davidson model by maximum likelihood."""
