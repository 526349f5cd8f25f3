"""What `import segdistill` offers, one idea per file; `segdistill/__init__.py` imports each when it is asked for."""
