"""The package's parts from the top down: imports run in this direction only."""

LAYERS = (
    "cli",
    "api",
    "commands",
    "training",
    "teachers",
    "deployment",
    "reports",
    "evaluation",
    "checkpoints",
    "terms",
    "networks",
    "data",
    "losses",
    "runtime",
    "types",
    "config",
    "storage",
    "errors",
    "wording",
)
"""From the top down: a part imports itself and what stands below it."""
