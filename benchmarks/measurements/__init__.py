"""The kinds of measurement, a file each: what is declared (`CASES`) above how it is done (`measure`)."""
