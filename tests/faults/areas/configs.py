"""Configs: files and settings that can't be meant."""
