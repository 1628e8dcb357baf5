"""What the recipes in `examples/recipes/` need and how long they take on known cards, by `quatrain plan`."""
