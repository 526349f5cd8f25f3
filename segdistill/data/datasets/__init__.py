"""Data sets by name: each file or folder here without a leading underscore is one."""
