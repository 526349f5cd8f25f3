"""Short runs, and what their log says."""

RUN_FILES = {
    *("config.toml", "environment.json", "data.json", "local.json", "scores.json", "train.log", "metrics.jsonl"),
    *("README.md", "curves.png", "model.safetensors", "checkpoints/last", "checkpoints/best", "manifest.json", ".lock"),
}
