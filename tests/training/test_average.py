"""The moving average of weights: against one made by hand, exact through a resume, and shipped as the settings say."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from helpers.commands import assert_same_run
from helpers.tiny import CPU, copied, optim, plain, scenes, tiny, train
from helpers.trainings import STEPS, Listener, a_job, configuration, terminate
from segdistill.checkpoints.model_file import read_info
from segdistill.checkpoints.training_state import load_state, save_state
from segdistill.config.schema import LabelEmbedding, RunConfig
from segdistill.errors import ModelError, Stopped
from segdistill.runtime.reporter import NullReporter
from segdistill.storage.run_folder import open_run
from segdistill.training.engine import Report
from segdistill.training.jobs import Runtime
from segdistill.training.scoring import score
from segdistill.training.trainer import Trained
from segdistill.training.trainer import train as train_in_folder
from segdistill.training.validator import Best, Validator
from segdistill.types import Stage

EMA = {"terms": {}, "optim.ema": 0.9}
PLACE = Runtime(torch.device("cpu"), CPU, 0, NullReporter())


def run(config: RunConfig, path: Path, reporter: NullReporter | None = None) -> Trained:
    """Train in a folder; continue where there is something to continue."""
    resume = path.exists()
    if resume:
        (path / "config.toml").touch()
    runtime = Runtime(torch.device("cpu"), CPU, 0, reporter or NullReporter())
    with open_run(path, resume=resume, overwrite=False) as folder:
        return train_in_folder(a_job(config), folder, runtime, resume=resume, command="segdistill again")


def weights(path: Path) -> dict[str, Tensor]:
    return load_file(path)


# The average


def test_average_is_that_of_a_loop_by_hand() -> None:
    student, seen = tiny(0), list[dict[str, Tensor]]()
    averages = [copied(student)]

    def note(report: Report) -> None:
        assert report.training.average is not None
        seen.append({name: tensor.clone() for name, tensor in report.training.average.state()["weights"].items()})
        share = min(0.5, len(seen) / (9 + len(seen)))  # (1 + n) / (10 + n) after n = 0, 1, ... steps
        live, before = copied(student), averages[-1]
        averages.append({name: share * before[name] + (1 - share) * live[name] for name in live})

    train(Stage("student", student, plain(student), optim(14, ema=0.5)), scenes(14), note)
    assert len(seen) == 14
    for found, expected in zip(seen, averages[1:], strict=True):
        assert not any("num_batches_tracked" in name for name in found)  # a count has no average
        for name, tensor in found.items():
            torch.testing.assert_close(tensor, expected[name])


def test_average_changes_no_step() -> None:
    students = [tiny(0), tiny(0)]
    for student, ema in zip(students, (0.0, 0.99), strict=True):
        train(Stage("student", student, plain(student), optim(4, ema=ema)), scenes(4))
    assert all(torch.equal(copied(students[0])[name], tensor) for name, tensor in copied(students[1]).items())


def test_average_in_place_gives_the_weights_back_bit_for_bit() -> None:
    student, reports = tiny(0), list[Report]()
    train(Stage("student", student, plain(student), optim(3, ema=0.9)), scenes(3), reports.append)
    training, before = reports[-1].training, copied(student)
    assert training.average is not None
    average = {name: tensor.clone() for name, tensor in training.average.state()["weights"].items()}
    with training.averaged():
        inside = copied(student)
    assert all(torch.equal(inside[name], tensor) for name, tensor in average.items())
    assert any(not torch.equal(inside[name], before[name]) for name in average)
    assert all(torch.equal(before[name], tensor) for name, tensor in copied(student).items())


def test_a_skipped_step_is_not_averaged() -> None:
    student, counts = tiny(0), list[int]()
    batches = list(scenes(3))
    batches[1] = batches[1]._replace(image=batches[1].image * float("nan"))

    def note(report: Report) -> None:
        assert report.training.average is not None
        counts.append(report.training.average.updates)

    train(Stage("student", student, plain(student), optim(3, ema=0.9)), iter(batches), note)
    assert counts == [1, 1, 2]


# Resume


def test_stopped_run_with_an_average_goes_on_exactly(tmp_path: Path) -> None:
    config = configuration(**EMA)
    path, reference = tmp_path / "run", tmp_path / "uninterrupted"
    run(config, reference)
    for step in (1, 4, STEPS - 1):
        with pytest.raises(Stopped):
            run(config, path, Listener(at=step, action=terminate))
    run(config, path)
    assert_same_run(reference, path)
    averages = [load_state(folder / "checkpoints/last")["training"]["average"] for folder in (reference, path)]
    assert averages[0]["updates"] == averages[1]["updates"] == STEPS
    assert all(torch.equal(averages[0]["weights"][name], tensor) for name, tensor in averages[1]["weights"].items())
    assert torch.equal(weights(path / "checkpoints/final")["classifier.bias"], a_raw_bias(reference))


def a_raw_bias(folder: Path) -> Tensor:
    state = load_state(folder / "checkpoints/last")["training"]
    bias: Tensor = state["weights"]["model.classifier.bias"]
    return bias


@pytest.mark.parametrize("forged", [None, {"updates": -1, "weights": {}}, {"updates": 2, "weights": {}}, {}])
def test_state_without_the_average_of_this_network_is_refused(forged: Any, tmp_path: Path) -> None:
    config = configuration(**EMA)
    with pytest.raises(Stopped):
        run(config, tmp_path / "run", Listener(at=4, action=terminate))
    state = load_state(tmp_path / "run/checkpoints/last")
    state["training"]["average"] = forged
    save_state(tmp_path / "run/checkpoints/last", state)
    with pytest.raises(ModelError, match="not of this training"):
        run(config, tmp_path / "run")


# What is shipped


def miou_of(config: RunConfig, path: Path) -> float:
    """Return the score of a file's weights, in a network of their own."""
    job = a_job(config)
    job.network.load_state_dict(weights(path))
    return score(job.network, job.info, job.data, runtime=PLACE, precision=PLACE.exact()).miou


@pytest.mark.parametrize(
    ("ship", "ema", "shipped"),
    [("auto", 0.0, "last"), ("auto", 0.9, "ema"), ("last", 0.9, "last"), ("best", 0.0, "best"), ("best", 0.9, "best")],
)
def test_run_ships_the_weights_that_it_says(ship: str, ema: float, shipped: str, tmp_path: Path) -> None:
    config = configuration(terms={}, **{"optim.ema": ema, "validate.ship": ship})
    trained = run(config, tmp_path / "run")
    info = read_info(tmp_path / "run/model.safetensors")
    assert info.weights == shipped
    assert (
        info.metrics["miou"]
        == trained.scores.miou
        == pytest.approx(miou_of(config, tmp_path / "run/model.safetensors"))
    )
    assert (tmp_path / "run/checkpoints/final").exists() == (shipped != "last")
    assert (tmp_path / "run/checkpoints/average").exists() == (ema > 0 and shipped != "ema")
    if shipped == "best":
        assert trained.scores.miou == pytest.approx(info.metrics["best_miou"])
        best = weights(tmp_path / "run/checkpoints/best")
        assert all(
            torch.equal(best[name], tensor) for name, tensor in weights(tmp_path / "run/model.safetensors").items()
        )


def test_files_beside_the_model_say_which_weights_they_are(tmp_path: Path) -> None:
    run(configuration(**EMA, **{"validate.ship": "best"}), tmp_path / "run")
    names = {"last": "final", "ema": "average", "best": "best"}
    for kind, name in names.items():
        assert read_info(tmp_path / "run/checkpoints" / name).weights == kind
    raw = load_state(tmp_path / "run/checkpoints/last")["training"]["weights"]
    final = weights(tmp_path / "run/checkpoints/final")
    assert all(torch.equal(raw[f"model.{name}"], tensor) for name, tensor in final.items())


def test_shipping_an_average_without_one_is_refused() -> None:
    with pytest.raises(Exception, match=r"optim\.ema"):
        configuration(**{"validate.ship": "ema"})


# Patience


def constant(config: RunConfig) -> RunConfig:
    """Return settings under which nothing is learned, so that no validation is better than the first."""
    return config.changed(**{"optim.lr": 1e-30, "optim.weight_decay": 0.0})


def test_training_ends_when_patience_is_over(tmp_path: Path) -> None:
    # validations after 3, 6, 9 and 11 steps; the statistics of batch norm may still change the score
    config = constant(configuration(terms={}, **{"validate.patience": 1, "validate.every": 1, "optim.steps": 40}))
    listener = Listener()
    run(config, tmp_path / "run", listener)
    state = load_state(tmp_path / "run/checkpoints/last")
    step = state["training"]["step"]
    assert step < 40
    assert step == state["best_step"] + 1
    assert read_info(tmp_path / "run/model.safetensors").steps == step
    assert any(f"step {step}: no better mIoU in 1 validation" in text for text in listener.heard)


def test_ended_training_that_was_killed_ends_at_the_same_step(tmp_path: Path) -> None:
    config = constant(configuration(terms={}, **{"validate.patience": 2, "validate.every": 2, "optim.steps": 40}))
    path, reference = tmp_path / "run", tmp_path / "uninterrupted"
    run(config, reference)
    with pytest.raises(Stopped):
        run(config, path, Listener(at=3, action=terminate))
    run(config, path)
    for folder in (path, reference):
        (folder / "model.safetensors").rename(folder / "before")
    run(config, path)  # killed before the model was written
    assert weights(path / "model.safetensors").keys() == weights(reference / "before").keys()
    assert (path / "model.safetensors").read_bytes() == (reference / "before").read_bytes()


def test_label_assisted_teacher_is_trained_to_its_last_step(tmp_path: Path) -> None:
    job = a_job(configuration(terms={}, **{"validate.patience": 2}))
    reads_labels = replace(job, info=job.info.model_copy(update={"label_embedding": LabelEmbedding()}))
    with open_run(tmp_path / "run", resume=False, overwrite=False) as folder:
        for each, ends in ((job, True), (reads_labels, False)):
            validator = Validator(each, folder, PLACE)
            validator.best = Best(0.5, step=3, since=2)
            assert validator.is_exhausted == ends


def test_patience_counts_from_the_best_validation(tmp_path: Path) -> None:
    config = configuration(terms={}, **{"validate.patience": 3, "validate.every": 1, "optim.steps": 30})
    run(config, tmp_path / "run")
    state = load_state(tmp_path / "run/checkpoints/last")
    ended_early = state["training"]["step"] < 30
    assert state["validations_since_best"] == state["training"]["step"] - state["best_step"]
    assert state["validations_since_best"] == 3 if ended_early else state["validations_since_best"] < 3 + 1
