"""Short runs, and what their log says."""

RUN_FILES = {
    *("config.toml", "environment.json", "data.json", "scores.json", "train.log", "metrics.jsonl", "manifest.json"),
    *("README.md", "curves.png", "model.safetensors", "checkpoints/last", "checkpoints/best", ".lock"),
}
