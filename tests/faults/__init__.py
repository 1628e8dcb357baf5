"""Bad inputs and bad surroundings, one case each, with what a user gets to see. `areas/` holds the cases."""
