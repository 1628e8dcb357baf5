"""Training: losses and gradients that aren't finite, runs in one folder, what goes wrong while it goes on."""
