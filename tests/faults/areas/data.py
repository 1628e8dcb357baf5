"""Rows: files that are damaged or in no known form, and rows that nothing can be learned from."""
