"""Dump files themselves: what a file is, before drgn sees it."""
